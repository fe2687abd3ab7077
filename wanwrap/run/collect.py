"""What an attempt has made, under its true name: LoRAs and samples numbered by the run's epochs, whole and synced."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from wanwrap.errors import OutputError
from wanwrap.plan.plan import epoch_of
from wanwrap.system import header
from wanwrap.system.files import whole

SAMPLE = re.compile(r"_(e)?(\d{6})(?=_\d\d_\d{14})")  # e000005 is an epoch, 000123 a step


@dataclass(frozen=True, kw_only=True)
class Collector:
    """Takes over what upstream puts into `source`, where it counts from 0: `step` and `epoch` were done before.

    `metadata` is what the LoRAs' own should say instead, since upstream knows of this attempt alone.
    """

    source: Path
    into: Path
    label: str
    step: int = 0
    epoch: int = 0
    save_every: int | None = None
    keep_last: int | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    def take(self, most: int | None = None) -> Iterator[Path]:
        """Each LoRA that is kept, where it stands now.

        While upstream may be writing, `most` is the epoch of a state that is whole, before which LoRAs are, too.
        """
        for path in sorted(self.source.glob("*.safetensors")):
            number = epoch_of(path.name, self.label)
            if number and (most is None or number + self.epoch <= most):
                yield from self._epoch(path, number + self.epoch)
            elif number == 0 and most is None:
                yield self._move(path, path.name)

    def _epoch(self, path: Path, epoch: int) -> Iterator[Path]:
        """One of those on the way; which goes where it is not wanted, as does the one that is now one too many."""
        if not self.save_every or epoch % self.save_every:
            path.unlink()
            return
        yield self._move(path, f"{self.label}-{epoch:06d}.safetensors")
        if self.keep_last and (old := epoch - self.keep_last * self.save_every) > 0:
            (self.into / f"{self.label}-{old:06d}.safetensors").unlink(missing_ok=True)

    def _move(self, path: Path, name: str) -> Path:
        """The same tensors with the run's own counting in the metadata. Raises WeightsError: not all of it is there."""
        header.read(path)  # it is whole
        out = self.into / name
        with path.open("rb") as file, whole(out) as new:
            rows = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            if told := rows.get("__metadata__"):
                counted = {"ss_steps": self.step, "ss_epoch": self.epoch}
                told |= {key: str(int(told[key]) + more) for key, more in counted.items() if key in told}
                told |= {key: value for key, value in self.metadata.items() if key in told}
            text = json.dumps(rows, separators=(",", ":"), ensure_ascii=False).encode()
            text += b" " * (-len(text) % 8)
            new.write(len(text).to_bytes(8, "little") + text)
            shutil.copyfileobj(file, new, 1 << 20)
        path.unlink()
        return out

    def samples(self, before: float = float("inf")) -> None:
        """Pictures and clips that upstream had made by then (mtime), numbered in the same way."""
        for path in sorted((self.source / "sample").glob("*")):
            with suppress(PermissionError):  # Windows: upstream, or who looks at it, has it open
                if path.stat().st_mtime <= before:
                    (self.into / "sample").mkdir(exist_ok=True)
                    path.replace(self.into / "sample" / SAMPLE.sub(self._numbered, path.name, count=1))

    def _numbered(self, found: re.Match[str]) -> str:
        return f"_{found[1] or ''}{int(found[2]) + (self.epoch if found[1] else self.step):06d}"


def by_hand(source: Path, into: Path, label: str, save_every: int | None, keep_last: int | None) -> list[Path]:
    """What the printed script ends a training with: the LoRAs. Raises OutputError: the training has not ended there."""
    from wanwrap.run.curves import Curves

    if not (source / f"{label}.safetensors").is_file():
        raise OutputError(f"{source} holds no {label}.safetensors; give the folder that upstream has trained to.")
    mine = Collector(source=source, into=into, label=label, save_every=save_every, keep_last=keep_last)
    made = [*mine.take()]
    mine.samples()
    Curves(into / "logs" / source.name.rpartition("-")[0], 0, 0).follow(source / "logs")
    shutil.rmtree(source)  # curves that have been taken over, and states
    return [path for path in made if path.is_file()]  # the last ones alone may be kept
