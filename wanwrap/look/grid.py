"""What is to be sampled of a run: each prompt with each pair of LoRAs at each strength, and without.

A cell is upstream's own command line. What makes the same picture has the same file name, so that what is there is known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from wanwrap.data import clips
from wanwrap.errors import OptionError
from wanwrap.look.checkpoints import NONE, Checkpoint
from wanwrap.look.samples import FOLDER, Sample
from wanwrap.paths import absolute
from wanwrap.plan.request import slug
from wanwrap.run.record import Record
from wanwrap.system.files import atomic_file
from wanwrap.system.safetensors import digest, header_sha256, sha256, stat
from wanwrap.upstream import sample_prompts, sampling
from wanwrap.upstream.options import Options, spell
from wanwrap.upstream.sampling import Inference, Loras

STEPS = 20  # at most, unless more are asked for: enough to tell checkpoints apart, in half the time
ELSEWHERE = "on a beach at sunset"  # where few data sets are
PLAIN = "a street market in the rain, people with umbrellas"  # without the trigger: does the LoRA spill over?


@dataclass(frozen=True)
class Prompt:
    """What is to be seen; of I2V with its first frame. `changes` are options of its own, as a line has them."""

    text: str
    image: Path | None = None
    changes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Models:
    """The files that are sampled with: DiTs by expert, VAE and text encoders by upstream's options; Lightning's LoRAs by
    expert, where they are loaded beside the run's, and the release that is loaded or was merged in.
    """

    task: str
    boundary: float | None
    dits: Mapping[str, Path]
    encoders: Mapping[str, str]
    beside: Loras = field(default_factory=dict)
    lightning: str = ""


@dataclass(frozen=True)
class Cell:
    """One sample that is to be made, by upstream's `options` but for its LoRAs."""

    sample: Sample
    options: Options
    beside: Loras
    loras: Mapping[str, Path]

    def argv(self, more: Options) -> list[str]:
        """The arguments of upstream's command for it alone; `more` are those that don't change what it makes."""
        files = {
            expert: [
                *self.beside.get(expert, ()),
                *([(self.loras[expert], self.sample.strength)] if expert in self.loras else []),
            ]
            for expert in {**self.beside, **self.loras}
        }
        return [*spell({**self.options, **sampling.loras(files), **more})]


def prompts(record: Record, trigger: str, folder: Path) -> list[Prompt]:
    """Four: two captions of the data set, the trigger in another place, and something without it.

    For I2V with the first frames of what is trained, of which those of clips are put into `folder`.
    """
    rows = record.examples[:2]
    image_to_video = record.inference["task"].startswith("i2v")
    found = [Prompt(row["caption"], _first_frame(row, folder) if image_to_video else None) for row in rows]
    if image_to_video:  # another scene would be at odds with the picture
        bare = [replace(each, text=_without(trigger, each.text)) for each in found[:1] if trigger]
        return [*found, *bare]
    return [*found, *([Prompt(f"{trigger}, {ELSEWHERE}")] if trigger else []), Prompt(PLAIN)]


def _without(trigger: str, caption: str) -> str:
    return caption.removeprefix(trigger).lstrip(" ,") or caption


def _first_frame(row: Mapping[str, str], folder: Path) -> Path | None:
    """The picture, or a clip's first frame as a file of its own; None where it can't be read any more."""
    path = Path(row["path"])
    if row["kind"] == "image" or not path.is_file():
        return path if path.is_file() else None
    place = folder / f"{slug(path.stem)}-{digest(*stat(path))}.png"
    if not place.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with atomic_file(place) as file, clips.middle(path, 1) as frame:
                frame.save(file, "PNG")
        except OSError:
            raise
        except Exception as error:  # whatever a decoder raises, the file is what is wrong
            raise OptionError(
                f"{path} has no first frame that can be read ({error}); give one with --image."
            ) from error
    return place


def read_prompts(path: Path) -> Iterator[Prompt]:
    """Those of a file, as a training takes them too. Raises OptionError: upstream would misread it, or pass over a part."""
    for where, line in sample_prompts.load(path, "--prompts").items():
        try:
            text, own = sample_prompts.parsed(line)
        except ValueError as error:
            raise OptionError(f"{where}: {error}.") from error
        image = own.pop("i", None)
        yield Prompt(text, absolute(image if image[0] == "~" else path.parent / image) if image else None, own)


def cells(
    models: Models, use: Inference, seed: int, asked: Sequence[Prompt], columns: Sequence[tuple[Checkpoint, float]]
) -> Iterator[Cell]:
    """All of the grid: what is made without LoRAs first, then column after column.

    Raises:
        OptionError: a size or a number of frames that upstream can't make, a picture that is missing or not used.
    """
    rows = [_row(models, use, seed, prompt) for prompt in asked]
    for checkpoint, strength in [(NONE, 0.0), *columns]:
        marks = {expert: header_sha256(path) for expert, path in checkpoint.loras.items()}
        for prompt, its_use, options in rows:
            yield _cell(models, prompt, its_use, options, checkpoint, strength, marks)


def _row(models: Models, use: Inference, seed: int, prompt: Prompt) -> tuple[Prompt, Inference, Options]:
    """A prompt with the settings that are its own."""
    own = prompt.changes
    width, height = use.size
    use = replace(
        use,
        size=(int(own.get("w", width)), int(own.get("h", height))),
        video_length=int(own.get("f", use.video_length)),
        infer_steps=int(own.get("s", use.infer_steps)),
        flow_shift=float(own.get("fs", use.flow_shift)),
        guidance_scale=float(own.get("l", use.guidance_scale)),
    )
    sampling.check(use)
    _check_image(models.task, prompt)
    options = {
        **sampling.models(models.task, models.dits, models.boundary),
        **models.encoders,
        "prompt": prompt.text,
        "negative_prompt": own.get("n"),
        "image_path": str(prompt.image) if prompt.image else None,
        **sampling.settings(models.task, use, int(own.get("d", seed))),
    }
    return prompt, use, options


def _check_image(task: str, prompt: Prompt) -> None:
    if task.startswith("i2v") and not (prompt.image and prompt.image.is_file()):
        where = f"{prompt.image} is not there" if prompt.image else "it has none"
        raise OptionError(f"{prompt.text!r} needs its first frame, and {where}; give one with --image.")
    if prompt.image and not task.startswith("i2v"):
        raise OptionError(f"{task} takes no pictures; leave out --image.")


def _cell(
    models: Models,
    prompt: Prompt,
    use: Inference,
    options: Options,
    checkpoint: Checkpoint,
    strength: float,
    marks: Mapping[str, str],
) -> Cell:
    paths = {*models.dits.values(), *map(Path, models.encoders.values()), prompt.image}
    same = [value for value in options.values() if not isinstance(value, str) or Path(value) not in paths]
    same += [sha256(prompt.image)] if prompt.image else []
    mark = digest(same, [path.name for path in models.dits.values()], models.lightning, strength, sorted(marks.items()))
    column = f"epoch-{checkpoint.epoch}_{strength:g}" if checkpoint.epoch is not None else "without"
    kind = "mp4" if use.video_length > 1 else "png"
    width, height = sampling.shape(use, _size(prompt.image) if prompt.image else None)
    sample = Sample(
        file=f"{FOLDER}/{column}_{slug(prompt.text)[:24]}_{mark}.{kind}",
        prompt=prompt.text,
        epoch=checkpoint.epoch,
        strength=strength,
        width=width,
        height=height,
        frames=use.video_length,
        infer_steps=use.infer_steps,
        seed=int(str(options["seed"])),
        guidance_scale=use.guidance_scale,
        flow_shift=use.flow_shift,
        negative_prompt=str(options["negative_prompt"] or ""),
        loras={expert: path.name for expert, path in checkpoint.loras.items()},
        marks=dict(marks),
        lightning=models.lightning,
        image=str(prompt.image or ""),
    )
    return Cell(sample, options, models.beside, checkpoint.loras)


def _size(path: Path) -> tuple[int, int]:
    """Raises OptionError: it is no picture."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            width, height = picture.size
            return width, height
    except OSError as error:
        raise OptionError(f"--image {path} can't be read ({error}).") from error
