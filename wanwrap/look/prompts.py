"""What is to be seen on a run's samples: prompts that were asked for, else some of its data set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from wanwrap.data import clips
from wanwrap.errors import OptionError
from wanwrap.look.sample_request import SampleRequest
from wanwrap.look.samples import FOLDER
from wanwrap.paths import absolute
from wanwrap.plan.request import slug
from wanwrap.run.record import Record
from wanwrap.system.files import atomic_file
from wanwrap.system.safetensors import digest, stat
from wanwrap.upstream import sample_prompts

ELSEWHERE = "on a beach at sunset"  # where few data sets are
PLAIN = "a street market in the rain, people with umbrellas"  # without the trigger: does the LoRA spill over?


@dataclass(frozen=True)
class Prompt:
    """What is to be seen; of I2V with its first frame. `changes` are options of its own, as a line has them."""

    text: str
    image: Path | None = None
    changes: Mapping[str, str] = field(default_factory=dict)


def prompts(request: SampleRequest, record: Record) -> list[Prompt]:
    """Raises OptionError: one without words, a file that upstream would misread, a first frame that can't be read."""
    asked = [*map(Prompt, request.prompt), *(_read(request.prompts) if request.prompts else ())]
    if any(not each.text.strip() for each in asked):
        raise OptionError("--prompt is empty; give words, or leave it out.")
    if any(each.text != each.text.encode("utf-8", "ignore").decode() for each in asked):
        raise OptionError("--prompt must be text in UTF-8, as upstream reads it.")
    trigger = record.trigger if request.trigger is None else request.trigger
    found = defaults(record, trigger, request.run.folder / FOLDER / "inputs", request.image)
    if asked:
        first = next((each.image for each in found if each.image), None)
        found = [replace(each, image=request.image or each.image or first) for each in asked]
    return [*{(each.text, each.image, *each.changes.items()): each for each in found}.values()]


def defaults(record: Record, trigger: str, folder: Path, image: Path | None = None) -> list[Prompt]:
    """Four: two captions of the data set, the trigger in another place, and something without it.

    For I2V with the `image`, else the first frames of what is trained, of which those of clips are put into `folder`.
    """
    rows = record.examples[:2]
    if record.inference["task"].startswith("i2v"):  # another scene would be at odds with the picture
        found = [Prompt(row["caption"], image or _first_frame(row, folder)) for row in rows]
        bare = [replace(each, text=_without(trigger, each.text)) for each in found[:1] if trigger]
        return [*found, *bare]
    elsewhere = [f"{trigger}, {ELSEWHERE}"] if trigger else []
    return [Prompt(text, image) for text in (*(row["caption"] for row in rows), *elsewhere, PLAIN)]


def _without(trigger: str, caption: str) -> str:
    return caption.removeprefix(trigger).lstrip(" ,") or caption


def _first_frame(row: Mapping[str, str], folder: Path) -> Path | None:
    """The picture, or a clip's first frame as a file of its own; None where it can't be read any more."""
    path = Path(row["path"])
    if not path.is_file():
        return None
    return path if row["kind"] == "image" else _of_clip(path, folder / f"{slug(path.stem)}-{digest(*stat(path))}.png")


def _of_clip(path: Path, out: Path) -> Path:
    """Raises OptionError: nothing of it can be read."""
    if not out.is_file():
        try:
            frame = clips.middle(path, 1)
        except Exception as error:  # whatever a decoder raises
            raise OptionError(
                f"{path} has no first frame that can be read ({error}); give one with --image."
            ) from error
        out.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(out) as file:
            frame.save(file, "PNG")
    return out


def _read(path: Path) -> Iterator[Prompt]:
    """Those of a file, as a training takes them too."""
    for where, line in sample_prompts.load(path, "--prompts").items():
        try:
            text, own = sample_prompts.parsed(line)
        except ValueError as error:
            raise OptionError(f"{where}: {error}.") from error
        image = own.pop("i", None)
        yield Prompt(text, absolute(image if image[0] == "~" else path.parent / image) if image else None, own)
