"""Other programs: the only module that starts them, and that ends them with all their children."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wanwrap.errors import StepError

SHORT = 300  # seconds: importing torch from a cold disk can take a minute
PATIENCE = 3, 20  # seconds for the terminal's own Ctrl-C to work, then for one that wanwrap sends

Listener = Callable[[bytes], object]


def capture(argv: Sequence[str], env: Mapping[str, str]) -> str:
    """The standard output of a short command; OSError where it fails, TimeoutExpired where it hangs."""
    done = subprocess.run(argv, capture_output=True, stdin=subprocess.DEVNULL, env={**os.environ, **env}, timeout=SHORT)
    if done.returncode:
        raise OSError((done.stderr.decode("utf-8", "replace").splitlines() or ["it printed nothing"])[-1])
    return done.stdout.decode("utf-8", "replace")


def stream(
    argv: Sequence[str],
    cwd: Path,
    env: Mapping[str, str],
    listen: Listener,
    unwanted: Callable[[], bool],
    say: Callable[[str], object],
) -> int:
    """Run a command to its end; what it prints goes to `listen` as it comes. `unwanted` ends it early.

    Raises:
        StepError: it can't be started.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the command has ended.
    """
    process = _start(argv, cwd, env)
    failed: list[BaseException] = []
    reader = threading.Thread(target=_copy, args=(process.stdout, listen, failed))
    reader.start()
    try:
        with _signals(_interrupt, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
            while not _wait(process, 0.2):
                if failed or unwanted():
                    end_tree(process)
    except KeyboardInterrupt:
        _stop(process, say)
        raise
    finally:
        reader.join()
    if failed:
        raise failed[0]
    return process.returncode


def _start(argv: Sequence[str], cwd: Path, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """A child that prints to one pipe and reads nothing."""
    try:
        return subprocess.Popen(
            argv,
            cwd=cwd,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    except OSError as error:
        raise StepError(f"{argv[0]} can't be started: {error.strerror}; give another --python.") from error


def _copy(source: Any, listen: Listener, failed: list[BaseException]) -> None:
    """Hand on what is printed. A listener that fails (a full disk) is remembered, and the pipe still emptied."""
    with source:
        while chunk := source.read1(65536):
            try:
                if not failed:
                    listen(chunk)
            except Exception as error:
                failed.append(error)


def _wait(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether the process ended in that time."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _stop(process: subprocess.Popen[bytes], say: Callable[[str], object]) -> None:
    """The terminal's Ctrl-C reached the child too: let it end. A second Ctrl-C ends it at once."""
    say("stopping: waiting for upstream to end (Ctrl-C again ends it at once)")
    try:
        if not _wait(process, PATIENCE[0]):
            _each(_tree(process), "interrupt")  # the signal was sent to wanwrap alone
            _wait(process, PATIENCE[1])
    except KeyboardInterrupt:
        pass
    end_tree(process)


def end_tree(process: subprocess.Popen[bytes]) -> None:
    """End a process with all its children: terminate, then kill. Nothing is left holding the GPU."""
    import psutil

    tree = _tree(process)
    with _signals(signal.SIG_IGN, signal.SIGINT):  # a third Ctrl-C must not stop the stopping
        for how in ("terminate", "kill"):
            _each(tree, how)
            _, tree = psutil.wait_procs(tree, timeout=5)
        process.wait()


def _tree(process: subprocess.Popen[bytes]) -> list[Any]:
    import psutil

    try:
        top = psutil.Process(process.pid)
        return [*top.children(recursive=True), top]
    except psutil.NoSuchProcess:
        return []


def _each(tree: Sequence[Any], how: str) -> None:
    import psutil

    for one in tree:
        try:
            if how == "interrupt" and os.name == "posix":
                one.send_signal(signal.SIGINT)
            else:
                one.kill() if how == "kill" else one.terminate()
        except psutil.NoSuchProcess:
            continue


def _interrupt(*_: object) -> None:
    """SIGTERM and a closed terminal stop a run as Ctrl-C does."""
    raise KeyboardInterrupt


@contextmanager
def _signals(handler: Any, *numbers: int) -> Iterator[None]:
    """Handle some signals in another way for a while."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
