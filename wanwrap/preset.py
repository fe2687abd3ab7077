"""A preset: what is trained and how, declared in one Python module and nothing but declared.

The folder `presets/` is the registry. Options stand under upstream's own names (`options.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from wanwrap.errors import PresetError, closest
from wanwrap.upstream.options import ATTENTION, CACHE_LATENTS, CACHE_TEXT, REFUSED, TRAIN, Options, check
from wanwrap.weights.catalogue import CATALOGUE
from wanwrap.weights.models import SHAPES

NoiseLevel = Literal["high", "low"]
Size = tuple[int, int]

REQUIRED = ("optimizer_type", "learning_rate", "network_dim", "network_alpha", "timestep_sampling")


@dataclass(frozen=True, kw_only=True)
class Lightning:
    """A step-distillation LoRA that is merged into each expert's DiT before training.

    `release` is the middle of its names in `weights/catalogue.py`: lightning-RELEASE-high and -low.
    """

    release: str
    strength: float = 1.0

    def lora(self, expert: Expert) -> str:
        """The catalogue's name of one expert's file."""
        return f"lightning-{self.release}-{expert.noise_level}"


@dataclass(frozen=True, kw_only=True)
class Expert:
    """One DiT and the LoRA that is trained on it.

    Wan 2.2 has two, told apart by `noise_level`; `dit` is a name of `weights/catalogue.py`.
    """

    dit: str
    noise_level: NoiseLevel | None = None
    train: Options = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """How pictures are trained: `resolution` is [width, height] in pixels, of which the area counts."""

    resolution: Size
    batch_size: int = 1
    num_repeats: int = 1


@dataclass(frozen=True, kw_only=True)
class Clips:
    """How clips are trained: `target_frames` are 4N+1 frames at 16 fps."""

    resolution: Size
    target_frames: tuple[int, ...]
    frame_extraction: Literal["head", "chunk", "uniform"] = "head"
    frame_sample: int | None = None  # how many windows `uniform` takes of a clip
    batch_size: int = 1
    num_repeats: int = 1


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Everything that is decided before the data set and the machine are known.

    Raises:
        PresetError: an option that upstream does not have, a size that it can't train.
    """

    summary: str
    task: str
    experts: tuple[Expert, ...]
    train: Options
    lightning: Lightning | None = None
    pictures: Pictures | None = None
    clips: tuple[Clips, ...] = ()
    bucket_no_upscale: bool = False
    cache_latents: Options = field(default_factory=dict)
    cache_text: Options = field(default_factory=dict)
    sample_prompts: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    name: str = ""
    doc: str = ""

    def __post_init__(self) -> None:
        levels = [expert.noise_level for expert in self.experts]
        if levels != [None] and (not levels or set(levels) - {"high", "low"} or len(set(levels)) < len(levels)):
            raise PresetError(f"experts must be one without noise_level, or a high and a low one; not {levels}.")
        for expert in self.experts:
            _known(expert.dit)
            check({**self.train, **expert.train}, TRAIN)
            check_complete({**self.train, **expert.train})
        _check_lightning(self.lightning, self.task)
        if self.task not in SHAPES:
            raise PresetError(f"wanwrap trains {', '.join(SHAPES)}; not {self.task!r}.{closest(self.task, SHAPES)}")
        for options, script in ((self.cache_latents, CACHE_LATENTS), (self.cache_text, CACHE_TEXT)):
            check(options, script)
            check_refused(options)
        for entry in (self.pictures, *self.clips):
            if entry is not None:
                check_size(entry.resolution)
                check_counts(vars(entry))
        for clips in self.clips:
            check_frames(clips.target_frames)
            if clips.frame_extraction not in ("head", "chunk", "uniform"):
                raise PresetError(f"frame_extraction {clips.frame_extraction!r} is none of head, chunk, uniform.")
        if not all(isinstance(value, str) for value in self.env.values()):
            raise PresetError("env must give every variable as text.")

    @property
    def inference(self) -> str:
        """The docstring's paragraph on what to use at inference."""
        _, _, text = self.doc.partition("At inference:")
        return " ".join(text.partition("\n\n")[0].split())

    @property
    def image_to_video(self) -> bool:
        """Whether the first frame is a condition, so that latents are cached with `--i2v`."""
        return self.task.startswith("i2v")

    @property
    def needs_clip(self) -> bool:
        """Whether the CLIP vision tower conditions too: Wan 2.1 only."""
        return self.image_to_video and self.task != "i2v-A14B"

    @property
    def tokenizers(self) -> list[str]:
        """Those that upstream asks for while it caches, by the catalogue's names."""
        return ["t5", "clip"] if self.needs_clip else ["t5"]

    @property
    def blocks(self) -> int:
        """How many transformer blocks the DiT has."""
        return 30 if "1.3B" in self.task else 40


def check_complete(train: Options) -> None:
    """Raises PresetError: something is left to upstream's defaults that would train something else, or nothing."""
    missing = [name for name in REQUIRED if train.get(name) is None]
    if not (train.get("max_train_epochs") or train.get("max_train_steps")):
        missing.append("max_train_epochs")
    if len([name for name in ATTENTION if train.get(name)]) != 1:
        missing.append("one of " + ", ".join(sorted(ATTENTION)))
    if missing:
        raise PresetError(f"train lacks {', '.join(missing)}: upstream's own defaults would train something else.")
    check_refused(train)


def check_refused(options: Options) -> None:
    """Raises PresetError: an option that is wanwrap's to set, or that upstream would do harm with."""
    if refused := [name for name in options if name in REFUSED]:
        raise PresetError(f"a preset can't set {refused[0]}: {REFUSED[refused[0]]}.")


def check_counts(entry: Mapping[str, Any]) -> None:
    """Raises PresetError: a count of a data set entry that is no whole number, or less than 1."""
    for name in ("batch_size", "num_repeats", "frame_sample"):
        if entry.get(name) is not None and (type(entry[name]) is not int or entry[name] < 1):
            raise PresetError(f"{name} must be a whole number, 1 at least; not {entry[name]!r}.")


def _known(name: str) -> None:
    if name not in CATALOGUE:
        raise PresetError(f"there are no weights named {name}.{closest(name, CATALOGUE)}")


def _check_lightning(lightning: Lightning | None, task: str) -> None:
    """Raises PresetError: no release, or one for another model: those of T2V and I2V have the same shapes."""
    if lightning is None:
        return
    kind = f"lightning-{task.removesuffix('-A14B')}-"
    releases = [
        name.removeprefix("lightning-").removesuffix("-high")
        for name in CATALOGUE
        if name.startswith(kind) and name.endswith("-high")
    ]
    if not isinstance(lightning, Lightning) or lightning.release not in releases:
        found = getattr(lightning, "release", lightning)
        known = f"its releases are {', '.join(releases)}" if releases else "there is none"
        raise PresetError(f"Lightning {found!r} is not for {task}: {known}; write lightning=Lightning(release=...).")


def check_size(size: Size) -> None:
    """Raises PresetError: upstream would take such a [W, H] and break in the VAE or the patching."""
    if len(size) != 2 or any(type(side) is not int or side % 16 or side < 32 for side in size):
        raise PresetError(
            f"{'x'.join(map(str, size))} can't be trained: both sides must be multiples of 16, 32 at least."
        )


def check_frames(frames: tuple[int, ...]) -> None:
    """Raises PresetError: upstream would round these down silently, or train first frames only."""
    if not all(type(count) is int for count in frames):
        raise PresetError(f"target_frames {list(frames)} must be whole numbers.")
    wrong = [count for count in frames if count < 1 or count % 4 != 1]
    if wrong or not frames:
        near = f"; the nearest below {wrong[0]} is {max(1, (wrong[0] - 1) // 4 * 4 + 1)}" if wrong else ""
        raise PresetError(f"target_frames {list(frames)} must be of the form 4N+1 (1, 5, 9 ... 81){near}.")
