"""Other programs: the only module that starts them, and that ends them with all their children."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wanwrap.errors import StepError

SHORT = 300  # seconds: importing torch from a cold disk can take a minute
ENDINGS = {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}
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
    with supervised(say) as children:
        children.append(child := Child(argv, cwd, env, listen))
        while not child.over(0.2) and not unwanted():
            check_interrupted()
    return child.status()


class Child:
    """A command that lives no longer than this process does; what it prints goes to `listen`, in a thread of its own."""

    def __init__(self, argv: Sequence[str], cwd: Path, env: Mapping[str, str], listen: Listener) -> None:
        """Raises StepError: it can't be started."""
        self._process, self._failed, self._ended = _start(argv, cwd, env), list[BaseException](), False
        self._reader = threading.Thread(
            target=_copy, args=(self._process.stdout, listen, self._failed, [self._process.stdin]), daemon=True
        )
        self._reader.start()

    def over(self, seconds: float = 0) -> bool:
        """Whether it has ended, or what listens to it has failed; waits so long for that."""
        return _wait(self._process, seconds) or bool(self._failed)

    def interrupt(self) -> None:
        """Hand Ctrl-C on."""
        _each(_living(self._process), "interrupt")

    def gone(self, seconds: float) -> bool:
        """Whether all of it ends in that time."""
        return _gone(self._process, seconds)

    def end(self) -> None:
        """End what is left of it: terminate, then kill. Nothing is left holding the GPU."""
        for how in ("terminate", "kill") if not self._ended else ():
            _each(_living(self._process), how)
            if self.gone(5):
                break
        self._reader.join(5)  # what has left the group may hold the pipe
        self._process.wait()
        self._ended = True  # its number may be another's from now on

    def stop(self) -> None:
        """End it, in good order where it can be told to (on Windows only a console can)."""
        if os.name == "posix":
            self.interrupt()
            self.gone(PATIENCE)
        self.end()

    def status(self) -> int:
        """How it ended. Raises what its listener has raised."""
        if self._failed:
            raise self._failed[0]
        return self._process.returncode


@contextmanager
def supervised(say: Callable[[str], object]) -> Iterator[list[Child]]:
    """The children that are put into the list end with the block, in good order where there is time for it.

    Raises:
        KeyboardInterrupt: Ctrl-C, SIGTERM or a closed terminal; all have been told, and have ended.
    """
    children = list[Child]()
    with interruptible():
        try:
            yield children
        except KeyboardInterrupt:
            _stop(children, say)
            raise
        finally:
            with _signals(signal.SIG_IGN, signal.SIGINT, *ENDINGS):  # nothing must stop the stopping
                for child in children:
                    child.end()


def _start(argv: Sequence[str], cwd: Path, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """A child that prints to one pipe and reads nothing; its keeper ends it when this process is gone."""
    if shutil.which(argv[0]) is None:
        raise StepError(f"{argv[0]} can't be started: it is not there, or no program; give another --python.")
    keeper = [sys.executable, "-I", "-S", str(Path(__file__).with_name("watchdog.py"))]
    return subprocess.Popen(
        [*keeper, *argv],
        cwd=cwd,
        env={**os.environ, **env},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # a group of its own, by which all of it is found, whichever dies first
    )


def _copy(source: Any, listen: Listener, failed: list[BaseException], held: Sequence[Any]) -> None:
    """Hand on what is printed. A listener that fails is remembered, and the pipe still emptied; `held` stays open."""
    with source:
        while chunk := source.read1(65536):
            try:
                if not failed:
                    listen(chunk)
            except Exception as error:
                failed.append(error)
    for each in held:
        each.close()


def _wait(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether the process ended in that time."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _stop(children: Sequence[Child], say: Callable[[str], object]) -> None:
    """Hand Ctrl-C on and let upstream end. A second Ctrl-C, or no end in time, ends it at once."""
    if all(child.over() for child in children):
        return
    say("stopping: waiting for the command to end (Ctrl-C again ends it at once)")
    deadline = time.monotonic() + PATIENCE
    try:
        with _signals(signal.SIG_IGN, *ENDINGS):  # a shell that ends and the system may both send one
            for child in children:
                child.interrupt()
            for child in children:
                child.gone(deadline - time.monotonic())
    except KeyboardInterrupt:
        pass


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


_asked = threading.Event()


def _interrupt(*_: object) -> None:
    """SIGTERM and a closed terminal stop a run as Ctrl-C does."""
    _asked.set()
    raise KeyboardInterrupt


def check_interrupted() -> None:
    """Raises KeyboardInterrupt: it came where Python throws exceptions away, as in a __del__."""
    if _asked.is_set():
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
    _asked.clear()
    with _signals(_interrupt, signal.SIGINT, *ENDINGS):
        yield
