"""What is to be sampled of a run: each prompt with each pair of LoRAs at each strength, and without.

A cell is upstream's own command line. What makes the same picture has the same file name, so that what is there is known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from wanwrap.errors import OptionError
from wanwrap.look.checkpoints import NONE, Checkpoint
from wanwrap.look.prompts import Prompt
from wanwrap.look.sample_models import Models
from wanwrap.look.samples import FOLDER, Sample
from wanwrap.plan.request import slug
from wanwrap.system.safetensors import digest, header_sha256, sha256
from wanwrap.upstream import sampling
from wanwrap.upstream.options import Options, spell
from wanwrap.upstream.sampling import Inference, Loras, Size


@dataclass(frozen=True)
class Cell:
    """One sample that is to be made, by upstream's `options` but for its LoRAs; `marks` are what its picture comes of, but for
    these.
    """

    sample: Sample
    options: Options
    beside: Loras
    marks: Sequence[object]
    loras: Mapping[str, Path] = field(default_factory=dict)

    def argv(self, more: Options) -> list[str]:
        """The arguments of upstream's command for it alone; `more` are those that don't change what it makes."""
        own = {expert: [(path, self.sample.strength)] for expert, path in self.loras.items()}
        files = {expert: [*self.beside.get(expert, ()), *own.get(expert, ())] for expert in {**self.beside, **own}}
        return [*spell({**self.options, **sampling.loras(files), **more})]


def cells(
    models: Models, use: Inference, seed: int, prompts: Sequence[Prompt], columns: Sequence[tuple[Checkpoint, float]]
) -> Iterator[Cell]:
    """All of the grid: what is made without LoRAs first, then column after column.

    Raises:
        OptionError: a size or a number of frames that upstream can't make, a picture that is missing or not used.
    """
    rows = [_row(models, use, seed, prompt) for prompt in prompts]
    for column in [(NONE, 0.0), *columns]:
        yield from (_cell(row, *column) for row in rows)


def _row(models: Models, use: Inference, seed: int, prompt: Prompt) -> Cell:
    """A prompt with the settings that are its own, before LoRAs and a file's name."""
    own = prompt.changes
    use = _changed(use, own)
    seed = int(own.get("d", seed))
    sampling.check(use)
    _check_image(models.task, prompt)
    width, height = sampling.shape(use, _size(prompt.image) if prompt.image else None)
    sample = Sample(
        file="",
        prompt=prompt.text,
        epoch=None,
        strength=0.0,
        width=width,
        height=height,
        frames=use.video_length,
        infer_steps=use.infer_steps,
        seed=seed,
        guidance_scale=use.guidance_scale,
        flow_shift=use.flow_shift,
        negative_prompt=own.get("n", ""),
        lightning=models.lightning,
        image=str(prompt.image or ""),
    )
    options = {
        **sampling.models(models.task, models.dits, models.boundary),
        **models.encoders,
        "prompt": prompt.text,
        "negative_prompt": own.get("n"),
        "image_path": str(prompt.image) if prompt.image else None,
        **sampling.settings(models.task, use, seed),
    }
    return Cell(sample, options, models.beside, _marks(models, prompt, options))


def _changed(use: Inference, own: Mapping[str, str]) -> Inference:
    width, height = use.size
    return replace(
        use,
        size=(int(own.get("w", width)), int(own.get("h", height))),
        video_length=int(own.get("f", use.video_length)),
        infer_steps=int(own.get("s", use.infer_steps)),
        flow_shift=float(own.get("fs", use.flow_shift)),
        guidance_scale=float(own.get("l", use.guidance_scale)),
    )


def _check_image(task: str, prompt: Prompt) -> None:
    if task.startswith("i2v") and not (prompt.image and prompt.image.is_file()):
        where = f"{prompt.image} is not there" if prompt.image else "it has none"
        raise OptionError(f"{prompt.text!r} needs its first frame, and {where}; give one with --image.")
    if prompt.image and not task.startswith("i2v"):
        raise OptionError(f"{task} takes no pictures; leave out --image.")


def _marks(models: Models, prompt: Prompt, options: Options) -> list[object]:
    """All values but paths: weights count by their names, a picture by its content."""
    paths = {*models.dits.values(), *map(Path, models.encoders.values()), prompt.image}
    values = [value for value in options.values() if not isinstance(value, str) or Path(value) not in paths]
    values += [sha256(prompt.image)] if prompt.image else []
    return [values, [path.name for path in models.dits.values()], models.lightning]


def _cell(row: Cell, checkpoint: Checkpoint, strength: float) -> Cell:
    """A row's in the column of these LoRAs."""
    marks = {expert: header_sha256(path) for expert, path in checkpoint.loras.items()}
    mark = digest(*row.marks, strength, sorted(marks.items()))
    column = "without" if checkpoint.epoch is None else f"epoch-{checkpoint.epoch}_{strength:g}"
    kind = "mp4" if row.sample.clip else "png"
    sample = replace(
        row.sample,
        file=f"{FOLDER}/{column}_{slug(row.sample.prompt)[:24]}_{mark}.{kind}",
        epoch=checkpoint.epoch,
        strength=strength,
        loras={expert: path.name for expert, path in checkpoint.loras.items()},
        marks=marks,
    )
    return replace(row, sample=sample, loras=checkpoint.loras)


def _size(path: Path) -> Size:
    """Raises OptionError: it is no picture."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            width, height = picture.size
            return width, height
    except OSError as error:
        raise OptionError(f"--image {path} can't be read ({error}).") from error
