"""Other programs: the only module that starts them, and that ends them with all their children."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wanwrap.errors import StepError

SHORT = 300  # seconds: importing torch from a cold disk can take a minute
PATIENCE = 20  # seconds for upstream to end after Ctrl-C

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
    process, failed = _start(argv, cwd, env), list[BaseException]()
    reader = threading.Thread(target=_copy, args=(process.stdout, listen, failed))
    reader.start()
    try:
        with _signals(_interrupt, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
            while not _wait(process, 0.2) and not failed and not unwanted():
                continue
    except KeyboardInterrupt:
        _stop(process, say)
        raise
    finally:
        _end(process)
        reader.join()
        process.wait()
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
            start_new_session=True,  # a group of its own, by which all of it is found, whichever dies first
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
    """Hand Ctrl-C on and let upstream end. A second Ctrl-C, or no end in time, ends it at once."""
    say("stopping: waiting for the command to end (Ctrl-C again ends it at once)")
    try:
        _each(_living(process), "interrupt")
        _gone(process, PATIENCE)
    except KeyboardInterrupt:
        pass


def _end(process: subprocess.Popen[bytes]) -> None:
    """End what is left: terminate, then kill. Nothing is left holding the GPU."""
    with _signals(signal.SIG_IGN, signal.SIGINT):  # a third Ctrl-C must not stop the stopping
        for how in ("terminate", "kill"):
            _each(_living(process), how)
            if _gone(process, 5):
                break


def _living(process: subprocess.Popen[bytes]) -> list[Any]:
    """All processes of a child's group, its launcher dead or not; on Windows those below it."""
    import psutil

    if os.name != "posix":
        return (
            [] if process.poll() is not None else [*(top := psutil.Process(process.pid)).children(recursive=True), top]
        )
    return [
        each
        for each in psutil.process_iter(["status"])
        if _group(each.pid) == process.pid and each.info["status"] != psutil.STATUS_ZOMBIE
    ]


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except OSError:
        return None


def _gone(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether all of it ends in that time."""
    deadline = time.monotonic() + seconds
    while _living(process):
        if time.monotonic() > deadline:
            return False
        _wait(process, 0.1)
        time.sleep(0.05)
    return True


def _each(tree: Sequence[Any], how: str) -> None:
    import psutil

    for one in tree:
        try:
            if how != "interrupt":
                one.kill() if how == "kill" else one.terminate()
            elif os.name == "posix":  # on Windows the console has told all of them
                one.send_signal(signal.SIGINT)
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


class Crew:
    """Short programs that several threads run side by side, and that all end together."""

    def __init__(self) -> None:
        self._living, self._lock, self._ended = set[subprocess.Popen[bytes]](), threading.Lock(), False

    def run(self, argv: Sequence[str], cwd: Path, feed: Iterable[bytes] | None = None) -> tuple[int, str]:
        """Run one to its end, `feed` as its standard input: exit status, and what it wrote to stderr.

        Raises:
            OSError: it can't be started.
            KeyboardInterrupt: the crew has been told to end.
        """
        import tempfile  # here, for a dry run needs none

        with tempfile.TemporaryFile() as told:  # a pipe would have to be emptied while it is fed
            process = self._begin(argv, cwd, subprocess.DEVNULL if feed is None else subprocess.PIPE, told)
            try:
                if feed is not None:
                    _fill(process, feed)
                process.wait()
            finally:
                process.kill()
                process.wait()
                self._living.discard(process)
            if self._ended:
                raise KeyboardInterrupt
            told.seek(0)
            return process.returncode, told.read().decode("utf-8", "replace")

    def _begin(self, argv: Sequence[str], cwd: Path, source: int, told: Any) -> subprocess.Popen[bytes]:
        # Ctrl-C must not reach it: it would end in good order, with half a file
        group = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
        with self._lock:
            if self._ended:
                raise KeyboardInterrupt
            process = subprocess.Popen(
                argv,
                cwd=cwd,
                stdin=source,
                stdout=subprocess.DEVNULL,
                stderr=told,
                start_new_session=os.name == "posix",
                creationflags=group,
            )
            self._living.add(process)
            return process

    def end(self) -> None:
        """Kill all that run; none is started any more."""
        with self._lock:
            self._ended = True
            for process in tuple(self._living):
                process.kill()


def _fill(process: subprocess.Popen[bytes], feed: Iterable[bytes]) -> None:
    """Hand it its input; one that ends before has its reason, which its exit status tells."""
    assert process.stdin
    try:
        with process.stdin as pipe:
            for chunk in feed:
                pipe.write(chunk)
    except (BrokenPipeError, OSError) as error:
        if not isinstance(error, BrokenPipeError) and error.errno != errno.EINVAL:  # Windows' broken pipe
            raise


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM and a closed terminal are a Ctrl-C meanwhile."""
    with _signals(_interrupt, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        yield
