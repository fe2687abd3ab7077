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

PATIENCE = 3, 20  # seconds for the terminal's own Ctrl-C to work, then for one that wanwrap sends

Listener = Callable[[bytes], object]


def capture(argv: Sequence[str], env: Mapping[str, str]) -> str:
    """The standard output of a short command; OSError where it can't be started."""
    done = subprocess.run(
        argv,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **env},
    )
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
    try:
        process = subprocess.Popen(
            argv,
            cwd=cwd,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    except OSError as error:
        raise StepError(f"{argv[0]} can't be started: {error.strerror}; give another --python.") from error
    reader = threading.Thread(target=_copy, args=(process.stdout, listen))
    reader.start()
    try:
        with _sigterm_as_interrupt():
            while not _wait(process, 0.2):
                if unwanted():
                    end_tree(process)
    except KeyboardInterrupt:
        _stop(process, say)
        raise
    finally:
        reader.join()
    return process.returncode


def _copy(source: Any, listen: Listener) -> None:
    while chunk := source.read1(65536):
        listen(chunk)


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


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
