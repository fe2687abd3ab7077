"""What an attempt has made, under its true name: LoRAs and samples numbered by the run's epochs, whole and synced."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from wanwrap.errors import OutputError
from wanwrap.weights import header
from wanwrap.whole import whole

NUMBER = re.compile(r"-(?P<epoch>\d{6})\.safetensors$|-step(?P<step>\d{8})\.safetensors$")
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
    per_epoch: int = 1
    save_every: int | None = None
    keep_last: int | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    def take(self, most: int | None = None) -> Iterator[Path]:
        """Each LoRA that is kept, where it stands now.

        While upstream may be writing, `most` is the epoch of a state that is whole, before which LoRAs are, too.
        """
        for path in sorted(self.source.glob("*.safetensors")):
            found = NUMBER.search(path.name)
            if (path.name[: found.start()] if found else path.stem) != self.label or not self._due(found, most):
                continue
            epoch = int(found["epoch"]) + self.epoch if found and found["epoch"] else None
            if epoch is None or (self.save_every and epoch % self.save_every == 0):
                yield self._move(path, self._named(found, epoch))
                self._forget(epoch)
            path.unlink()

    def _due(self, found: re.Match[str] | None, most: int | None) -> bool:
        if most is None or found is None:
            return most is None
        if found["epoch"]:
            return int(found["epoch"]) + self.epoch <= most
        return int(found["step"]) + self.step <= most * self.per_epoch

    def _named(self, found: re.Match[str] | None, epoch: int | None) -> str:
        if not found:
            return f"{self.label}.safetensors"
        number = f"{epoch:06d}" if epoch is not None else f"step{int(found['step']) + self.step:08d}"
        return f"{self.label}-{number}.safetensors"

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
        return out

    def _forget(self, epoch: int | None) -> None:
        """The LoRA that is one too many."""
        if epoch and self.keep_last and self.save_every and (old := epoch - self.keep_last * self.save_every) > 0:
            (self.into / f"{self.label}-{old:06d}.safetensors").unlink(missing_ok=True)

    def samples(self) -> None:
        """Pictures and clips that upstream has made on the way, numbered in the same way."""
        for path in sorted((self.source / "sample").glob("*")):
            name = SAMPLE.sub(lambda found: f"_{found[1] or ''}{self._number(found):06d}", path.name, count=1)
            (self.into / "sample").mkdir(exist_ok=True)
            path.replace(self.into / "sample" / name)

    def _number(self, found: re.Match[str]) -> int:
        return int(found[2]) + (self.epoch if found[1] else self.step)


def by_hand(source: Path, into: Path, save_every: int | None, keep_last: int | None) -> list[Path]:
    """What the printed script ends a training with. Raises OutputError: there is nothing, or more than one's."""
    from wanwrap.curves import Curves

    labels = {NUMBER.sub("", path.name).removesuffix(".safetensors") for path in source.glob("*.safetensors")}
    if len(labels) != 1:
        raise OutputError(
            f"{source} holds {len(labels)} trainings' LoRAs; give the folder that upstream has trained to."
        )
    mine = Collector(source=source, into=into, label=labels.pop(), save_every=save_every, keep_last=keep_last)
    made = [*mine.take()]
    mine.samples()
    Curves(into / "logs" / source.name.rpartition("-")[0], 0, 0).follow(source / "logs")
    return [path for path in made if path.is_file()]  # the last ones alone may be kept
