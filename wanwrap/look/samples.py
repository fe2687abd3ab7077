"""The samples of a run: which pictures and clips were made of which LoRAs, as `samples/samples.json` in its folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path, PureWindowsPath

from wanwrap.errors import OutputError
from wanwrap.system.files import write_atomic
from wanwrap.system.safetensors import header_sha256

FOLDER = "samples"
FILE = f"{FOLDER}/samples.json"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A picture or a clip of 16 frames a second, made with one pair of LoRAs at one strength; or without, for comparison.

    `file` stands below the run's folder, with slashes. `epoch` is that of the LoRAs, None without; `loras` are their files
    by expert. `lightning` is the release that was merged in or loaded beside them, "" where there was none. A prompt's line may
    have a guidance, flow shift and negative prompt of its own, "" where that is upstream's.
    """

    file: str
    prompt: str
    epoch: int | None
    strength: float
    width: int
    height: int
    frames: int
    infer_steps: int
    seed: int
    guidance_scale: float = 0.0
    flow_shift: float = 0.0
    negative_prompt: str = ""
    loras: dict[str, str] = field(default_factory=dict)
    marks: dict[str, str] = field(default_factory=dict)  # the sha256 of their headers, by expert
    lightning: str = ""
    image: str = ""  # I2V's first frame, below the run's folder where wanwrap has made it
    argv: list[str] = field(default_factory=list)  # upstream's command that makes the same

    def __post_init__(self) -> None:
        """Raises TypeError: it is none, as a list that others have written may have it."""
        texts = [self.file, self.prompt, self.negative_prompt, self.lightning, self.image]
        texts += [*self.loras, *self.loras.values()]
        whole = (self.width, self.height, self.frames, self.infer_steps, self.seed, self.epoch or 0)
        place = PureWindowsPath(self.file)
        if not all(isinstance(text, str) for text in texts) or not all(isinstance(number, int) for number in whole):
            raise TypeError(f"{self.file} is described by what is no text or no number")
        numbers = self.strength + self.guidance_scale + self.flow_shift
        if place.anchor or ".." in place.parts or not isinstance(numbers, float | int):
            raise TypeError(f"{self.file} is elsewhere, or its strength no number")

    @property
    def clip(self) -> bool:
        """Whether it moves."""
        return self.frames > 1


def read(folder: Path) -> list[Sample]:
    """The samples of the run in that folder whose files are there, and whose LoRAs have not been made anew since.

    Raises:
        OutputError: the list is damaged.
    """
    place = folder / FILE
    if not place.is_file():
        return []
    known = {each.name for each in fields(Sample)}
    try:
        rows = json.loads(place.read_text(encoding="utf-8"))["samples"]
        found = [Sample(**{name: value for name, value in row.items() if name in known}) for row in rows]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise OutputError(f"{place} is damaged ({error}); delete it, and `wanwrap sample` begins a new one.") from error
    there = {path.name: header_sha256(path) for path in folder.glob("*.safetensors")}
    return [sample for sample in found if (folder / sample.file).is_file() and _of(sample, there)]


def _of(sample: Sample, there: Mapping[str, str]) -> bool:
    """Whether its LoRAs are those that are there; those that are gone are not asked about."""
    return all(there.get(name, mark) == mark for each, name in sample.loras.items() if (mark := sample.marks.get(each)))


def write(folder: Path, samples: Iterable[Sample]) -> None:
    """Put the list on disk. Raises OSError."""
    rows = {"samples": [asdict(sample) for sample in samples]}
    write_atomic(folder / FILE, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
