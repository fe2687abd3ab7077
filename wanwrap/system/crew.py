"""Short programs side by side: ffmpeg's, for `prepare`."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


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
