"""Other programs: the only module that starts them, and that ends them with all their children."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wanwrap.errors import StepError
from wanwrap.system import console, guard

SHORT = 300  # seconds: importing torch from a cold disk can take a minute
STOP_SIGNALS = {getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)}
PATIENCE = 20  # seconds for a command to end after Ctrl-C
Listener = Callable[[bytes], object]


@dataclass(frozen=True)
class Command:
    """A command line, the folder that it runs in, and what is added to its environment."""

    argv: Sequence[str]
    cwd: Path
    env: Mapping[str, str] = field(default_factory=dict)


def cores() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def capture(argv: Sequence[str], env: Mapping[str, str], seconds: float = SHORT) -> str:
    """The standard output of a short command. Raises OSError: it fails, or hangs."""
    try:
        done = subprocess.run(
            argv, capture_output=True, stdin=subprocess.DEVNULL, env={**os.environ, **env}, timeout=seconds
        )
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"it did not answer within {seconds} seconds") from error
    if done.returncode:
        raise OSError((done.stderr.decode("utf-8", "replace").splitlines() or ["it printed nothing"])[-1])
    return done.stdout.decode("utf-8", "replace")


def lines(argv: Sequence[str], text: str) -> Iterator[str]:
    """What a command prints, line by line, with `text` as its standard input. It ends when nobody listens any more."""
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8", start_new_session=True
    ) as process:
        assert process.stdin and process.stdout
        try:
            with suppress(BrokenPipeError), process.stdin as source:
                source.write(text)
            yield from process.stdout
        finally:
            process.kill()


def run(command: Command, listen: Listener, meanwhile: Callable[[], object] = bool) -> int:
    """Run a command to its end: its exit status. What it prints goes to `listen` as it comes.

    `meanwhile` is called each second, and may raise, which ends the command.

    Raises:
        StepError: it can't be started.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the command has ended.
    """
    with interruptible(), Child(command, listen) as child:
        while not child.over(1):
            meanwhile()
            check_interrupted()
    return child.status()


class Child:
    """A command that lives no longer than its block, nor than this process.

    What it prints goes to `listen`, in a thread of its own. Where the block ends with an exception, the command gets
    Ctrl-C and `patience` seconds to end in good order; a second Ctrl-C ends it at once.
    """

    def __init__(self, command: Command, listen: Listener, patience: float = PATIENCE) -> None:
        """Raises StepError: it can't be started."""
        self._process, self._patience, self._failed = _start(command), patience, list[Exception]()
        self._interrupted = False
        self._reader = threading.Thread(target=self._read, args=(listen,), daemon=True)
        self._reader.start()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind and not self.over():
                if kind is KeyboardInterrupt:
                    console.say("stopping: waiting for the command to end (Ctrl-C again ends it at once)")
                with signals(signal.SIG_IGN, *STOP_SIGNALS):  # a shell that ends and the system may both send one
                    if not self._interrupted:
                        self.interrupt()
                    if os.name == "posix" or kind is KeyboardInterrupt:  # else it has heard of nothing
                        self._wait(self._patience)
        except KeyboardInterrupt:
            pass
        finally:
            with signals(signal.SIG_IGN, signal.SIGINT, *STOP_SIGNALS):  # nothing must stop the stopping
                for number in (signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)):  # nothing holds the GPU
                    self._send(number)
                    self._wait(5)
                self._reader.join(5)  # what has left the group may hold the pipe
                self._process.wait()
                guard.WATCHDOG.leave(self._process.pid)

    def interrupt(self) -> None:
        """Hand Ctrl-C on, without waiting."""
        self._interrupted = True
        if os.name == "posix":  # Windows' console has told all of them
            self._send(signal.SIGINT)

    def over(self, seconds: float = 0) -> bool:
        """Whether it has ended, or what listens to it has failed; waits so long for that."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        guard.WATCHDOG.look()
        return self._process.returncode is not None or bool(self._failed)

    def status(self) -> int:
        """How it ended. Raises what its listener has raised."""
        if self._failed:
            raise self._failed[0]
        return self._process.returncode

    def _read(self, listen: Listener) -> None:
        """Hand on what is printed. A listener that fails is remembered, and the pipe still emptied."""
        assert self._process.stdout
        with self._process.stdout as source:
            while chunk := source.read1(65536):  # type: ignore[attr-defined]
                try:
                    if not self._failed:
                        listen(chunk)
                except Exception as error:
                    self._failed.append(error)

    def _send(self, number: int) -> None:
        """Send a signal to what is left of it."""
        import psutil

        for process in _living(self._process):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def _wait(self, seconds: float) -> None:
        """Until nothing is left of it, so long at most."""
        deadline = time.monotonic() + seconds
        while _living(self._process) and time.monotonic() < deadline:
            time.sleep(0.05)


def _start(command: Command) -> subprocess.Popen[bytes]:
    if shutil.which(command.argv[0]) is None:
        raise StepError(f"{command.argv[0]} can't be started: it is not there, or no program; give another --python.")
    return guard.start(command.argv, command.cwd, command.env)


def _living(process: subprocess.Popen[bytes]) -> list[Any]:
    """All processes of a child's group, its launcher dead or not; on Windows those below it."""
    import psutil

    living = []
    if sys.platform == "win32":
        with suppress(psutil.Error):
            living = [*(top := psutil.Process(process.pid)).children(recursive=True), top]
        return living if process.poll() is None else []
    for each in psutil.process_iter(["status"]):
        with suppress(OSError):
            if os.getpgid(each.pid) == process.pid and each.info["status"] != psutil.STATUS_ZOMBIE:
                living.append(each)
    return living


_asked = threading.Event()


def _interrupt(*_: object) -> None:
    """SIGTERM and a closed terminal stop a run as Ctrl-C does."""
    _asked.set()
    raise KeyboardInterrupt


def check_interrupted() -> None:
    """Raises KeyboardInterrupt: a signal has come whose exception Python has swallowed, as it does in a `__del__`."""
    if _asked.is_set():
        raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM and a closed terminal are a Ctrl-C meanwhile; under nohup a closed terminal is nothing."""
    if signal.getsignal(signal.SIGINT) is not _interrupt:  # it may stand within another
        _asked.clear()
    endings = [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    with signals(_interrupt, signal.SIGINT, *endings):
        yield


@contextmanager
def signals(handler: Any, *numbers: int) -> Iterator[None]:
    """Handle some signals in another way for a while."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
