"""One expert's curves: a single TensorBoard event file, however many attempts its training takes.

Upstream writes an event file an attempt, each of which counts its steps from 0. Here they become one, at the steps
of the whole training.
"""

from __future__ import annotations

import math
import os
import time
from contextlib import suppress
from pathlib import Path

from wanwrap.run.events import Event, beginning, framed, read, records
from wanwrap.system.files import whole

NAME = "events.out.tfevents.wanwrap-"  # and four figures
LOSS = "loss/current"
BY_EPOCH = "loss/epoch"  # upstream's only curve over epochs; all others go over optimizer steps
SETTINGS = "_hparams_/"
ENOUGH = 1_000_000  # bytes that wait, and are written then


class Curves:
    """Follows one attempt.

    `seen` counts the records of the loss that this attempt has written (0: there are no curves: upstream has no
    tensorboard, or its own tracker), `broken` how many of them in a row, up to the newest, are NaN or infinite.
    """

    def __init__(self, folder: Path, step: int, epoch: int) -> None:
        """Begin an attempt that goes on from this optimizer step and epoch; (0, 0) begins anew.

        What earlier attempts have written beyond is left out of a new file, whose name is the next one: a TensorBoard
        that is looking on would go on in the middle of an old name, and reads a new one from the beginning. The old
        one is emptied when the new one is whole, and stays until the next attempt: without it TensorBoard's slower
        reader (--load_fast=false, and Windows) would look for it forever.

        Raises:
            OSError: the folder can't be written to.
            OutputError: another process is writing there.
        """
        self.seen = self.broken = 0
        self._folder, self._step, self._epoch = folder, step, epoch
        self._places = dict[Path, int]()  # how far each of upstream's files has been taken over
        self._waiting = bytearray()
        earlier = sorted(folder.glob(NAME + "[0-9]" * 4))
        self._out = folder / f"{NAME}{int(earlier[-1].name[-4:]) + 1 if earlier else 1:04d}"
        self._end = self._carry_over(earlier[-1]) if earlier and step else 0  # of what is whole in the file
        if earlier:
            os.truncate(earlier.pop(), 0)
        for each in earlier:
            with suppress(PermissionError):  # Windows: something has it open
                each.unlink()

    def _carry_over(self, earlier: Path) -> int:
        """Begin with what earlier attempts have written up to here; the size in bytes."""
        new = self._folder / "curves"  # no name that TensorBoard would read
        with earlier.open("rb") as source, whole(new) as file:
            for data in records(source):
                if self._kept(data):
                    file.write(framed(data))
        size = new.stat().st_size
        new.replace(self._out)
        return size

    def _kept(self, data: bytes) -> bool:
        """Whether a record of our own file lies within what the attempt goes on from."""
        try:
            event = read(data)
        except ValueError:
            return False  # not ours
        return event.step <= (self._epoch if BY_EPOCH in event.values else self._step)

    def follow(self, logs: Path) -> None:
        """Take over what has come since the last call in upstream's event files below `logs`.

        It costs next to nothing where nothing has. A record that is half there is waited for; a disk that is full
        or a folder that is away is no reason to end a training, so it is tried again with the next call.
        """
        with suppress(OSError):
            for path in sorted(path for path in logs.rglob("*tfevents*") if path.is_file()):
                with suppress(OSError):
                    self._take(path)
            self._write()

    def _take(self, path: Path) -> None:
        with path.open("rb") as file:
            file.seek(self._places.get(path, 0))
            for data in records(file):
                with suppress(ValueError):  # sound by its checksum, but nothing that TensorBoard could read
                    self._add(read(data))
                self._places[path] = file.tell()
                if len(self._waiting) > ENOUGH:
                    self._write()

    def _add(self, event: Event) -> None:
        """Put one record at its place in the whole training."""
        if event.opens or (self._step and any(tag.startswith(SETTINGS) for tag in event.values)):
            return  # each file begins with it; the first attempt has told its settings
        if LOSS in event.values:
            loss = event.values[LOSS]
            self.seen += 1
            self.broken = 0 if loss is None or math.isfinite(loss) else self.broken + 1
        past = self._epoch if BY_EPOCH in event.values else self._step
        self._waiting += framed(event.at(event.step + past) if past else event.data)

    def _write(self) -> None:
        """Append what waits. Where that fails half way, the next call begins at the same place again."""
        if not self._waiting:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        self._out.touch()
        with self._out.open("r+b") as file:
            if file.seek(0, os.SEEK_END) < self._end:  # somebody has removed it
                self._end = 0
            new = (b"" if self._end else beginning(time.time())) + self._waiting
            file.seek(self._end)
            file.write(new)
            file.truncate()
        self._end += len(new)
        self._waiting.clear()
