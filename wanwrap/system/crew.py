"""Short programs side by side: ffmpeg's, for `prepare`."""

from __future__ import annotations

import errno
import os
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO


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
        with tempfile.TemporaryFile() as told:  # a pipe would have to be emptied while it is fed
            process = self._begin(argv, cwd, subprocess.DEVNULL if feed is None else subprocess.PIPE, told)
            try:
                if feed is not None and process.stdin:
                    _fill(process.stdin, feed)
                process.wait()
            finally:
                process.kill()
                process.wait()
                self._living.discard(process)
            if self._ended:
                raise KeyboardInterrupt
            told.seek(0)
            return process.returncode, told.read().decode("utf-8", "replace")

    def _begin(self, argv: Sequence[str], cwd: Path, source: int, told: IO[bytes]) -> subprocess.Popen[bytes]:
        # Ctrl-C must not reach it: it would end in good order, with half a file
        group = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
        own, out = os.name == "posix", subprocess.DEVNULL
        with self._lock:
            if self._ended:
                raise KeyboardInterrupt
            process = subprocess.Popen(
                argv, cwd=cwd, stdin=source, stdout=out, stderr=told, start_new_session=own, creationflags=group
            )
            self._living.add(process)
            return process

    def end(self) -> None:
        """Kill all that run; none is started any more."""
        with self._lock:
            self._ended = True
            for process in tuple(self._living):
                process.kill()


def _fill(stdin: IO[bytes], feed: Iterable[bytes]) -> None:
    """Hand it its input; one that ends before has its reason, which its exit status tells."""
    try:
        with stdin as pipe:
            for chunk in feed:
                pipe.write(chunk)
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EINVAL):  # the latter is Windows' broken pipe
            raise
