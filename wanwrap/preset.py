"""A preset: what is trained and how, declared in one Python module and nothing but declared.

The folder `presets/` is the registry. Options stand under upstream's own names (`upstream/options.py`).
"""

from __future__ import annotations

import re
import runpy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from wanwrap.errors import OptionError, PresetError, WanwrapError, closest
from wanwrap.paths import absolute, folder
from wanwrap.system.files import UTF_16, decode
from wanwrap.system.shell import quote
from wanwrap.upstream import dit, sampling
from wanwrap.upstream.options import ATTENTION, CACHE_LATENTS, CACHE_TEXT, TRAIN, Options, check
from wanwrap.upstream.rules import ALL, Window, window
from wanwrap.upstream.sampling import BOUNDARY, LIGHTNING, WAN, Inference
from wanwrap.weights.catalogue import CATALOGUE
from wanwrap.weights.models import MODELS, SHAPES

NoiseLevel = Literal["high", "low"]
Size = tuple[int, int]

DEFAULT = "t2v-vanilla"  # where no preset is named
REQUIRED = ("optimizer_type", "learning_rate", "network_dim", "network_alpha", "timestep_sampling")
EXTRACTIONS = ("head", "chunk", "uniform")


@dataclass(frozen=True, kw_only=True)
class Lightning:
    """A step-distillation LoRA that is merged into each expert's DiT before training.

    `release` is the middle of its names in `weights/catalogue.py`: lightning-RELEASE-high and -low. `inference` is how
    LoRAs that were trained with it are used.
    """

    release: str
    strength: float = 1.0
    inference: Inference = LIGHTNING

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

    @property
    def key(self) -> Literal["high", "low", "dit"]:
        """What its folder is called: high or low, dit where there is but one."""
        return self.noise_level or "dit"


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """How pictures are trained: `resolution` is [width, height] in pixels, of which the area counts."""

    resolution: Size
    batch_size: int = 1
    num_repeats: int = 1

    def __post_init__(self) -> None:
        check_size(self.resolution)
        if self.batch_size < 1 or self.num_repeats < 1:
            raise PresetError("batch_size and num_repeats must be 1 at least.")


@dataclass(frozen=True, kw_only=True)
class Clips(Pictures):
    """How clips are trained: `target_frames` are 4N+1 frames at 16 fps."""

    target_frames: tuple[int, ...]
    frame_extraction: Literal["head", "chunk", "uniform"] = "head"
    frame_sample: int | None = None  # how many windows `uniform` takes of a clip

    def __post_init__(self) -> None:
        super().__post_init__()
        check_frames(self.target_frames)
        if self.frame_extraction not in EXTRACTIONS:
            raise PresetError(f"frame_extraction {self.frame_extraction!r} is none of {', '.join(EXTRACTIONS)}.")
        if self.frame_sample is not None and self.frame_sample < 1:
            raise PresetError("frame_sample must be 1 at least.")


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Everything that is decided before the data set and the machine are known.

    `inference` is how its LoRAs are used on the base model, where that isn't as Wan's makers say (upstream/sampling.py).

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
    inference: Inference | None = None
    name: str = ""
    word: str = ""  # that means it on a command line
    doc: str = ""

    def __post_init__(self) -> None:
        if self.task not in SHAPES:
            raise PresetError(f"wanwrap trains {', '.join(SHAPES)}; not {self.task!r}.{closest(self.task, SHAPES)}")
        levels = [expert.noise_level for expert in self.experts]
        if levels not in ([None], ["high"], ["low"], ["high", "low"], ["low", "high"]):
            raise PresetError(f"experts must be one without noise_level, or a high and a low one; not {levels}.")
        if levels == [None] and self.task.endswith("A14B"):
            raise PresetError("an expert of Wan 2.2 needs a noise_level: it tells which of both models has its LoRA.")
        for expert in self.experts:
            self._check_dit(expert.dit, expert.noise_level or "")
            _check_train({**self.train, **expert.train})
        if self.lightning:
            self._check_lightning(self.lightning.release)
        for use in (self.inference, self.lightning.inference if self.lightning else None):
            if use:
                _check_inference(use)
        check(self.cache_latents, CACHE_LATENTS)
        check(self.cache_text, CACHE_TEXT)

    def _check_dit(self, name: str, level: str) -> None:
        """Raises PresetError: no such file, or that of another model or expert, which may have the same shapes."""
        fit = {name for model in MODELS.values() if self.task in model.tasks for name in model.names}
        if name not in CATALOGUE:
            raise PresetError(f"there are no weights named {name}.{closest(name, CATALOGUE)}")
        if name.removesuffix("-fp8") not in fit or name.startswith("wan2.2") != self.task.endswith("A14B"):
            raise PresetError(f"{name} is no DiT for {self.task}.")
        if not name.endswith(level):
            raise PresetError(f"the {level}-noise expert trains {name}, which is not its DiT.")

    def _check_lightning(self, release: str) -> None:
        """Raises PresetError: no release, or one for another model: those of T2V and I2V have the same shapes."""
        known = releases(self.task)
        if release not in known:
            there = ", ".join(known) or "none"
            raise PresetError(f"Lightning {release!r} is not for {self.task}: its releases are {there}.")

    @property
    def base_inference(self) -> Inference:
        """How its LoRAs are used on the base model."""
        return self.inference or WAN[self.task]

    @property
    def mode(self) -> Literal["t2v", "i2v", "i2v-clip"]:
        """How latents are cached: with the first frame as a condition, and in Wan 2.1 with CLIP's view of it."""
        if not self.task.startswith("i2v"):
            return "t2v"
        return "i2v" if self.task == "i2v-A14B" else "i2v-clip"

    @property
    def needs_clip(self) -> bool:
        """Whether the CLIP vision tower conditions too."""
        return self.mode == "i2v-clip"

    @property
    def tokenizers(self) -> list[str]:
        """Those that upstream asks for while it caches, by the catalogue's names."""
        return ["t5", "clip"] if self.needs_clip else ["t5"]

    @property
    def blocks(self) -> int:
        """How many transformer blocks the DiT has."""
        return dit.blocks(self.task)

    def window(self, expert: Expert) -> Window:
        """The timesteps that are an expert's own."""
        return window({**self.train, **expert.train})

    @property
    def boundary(self) -> int | None:
        """The timestep at which one expert ends and the other begins; None for a single model."""
        edges = {edge for expert in self.experts for edge in self.window(expert)} - {*ALL}
        return edges.pop() if len(edges) == 1 and self.experts[0].noise_level else None

    @property
    def timestep_boundary(self) -> float | None:
        """The share of the noise from which on the high-noise expert denoises; None for a single model."""
        return self.boundary / 1000 if self.boundary else BOUNDARY.get(self.task)


def releases(task: str) -> list[str]:
    """Lightning's for a task; none for most."""
    names = [name.removeprefix("lightning-").removesuffix("-high") for name in CATALOGUE if name.endswith("-high")]
    return [name for name in names if name.startswith(task.removesuffix("A14B"))]


def _check_train(train: Options) -> None:
    """Raises PresetError: something is left to upstream's defaults that would train something else, or nothing."""
    check(train, TRAIN)
    missing = [name for name in REQUIRED if train.get(name) is None]
    if not (train.get("max_train_epochs") or train.get("max_train_steps")):
        missing.append("max_train_epochs")
    if sum(bool(train.get(name)) for name in ATTENTION) != 1:
        missing.append("one of " + ", ".join(sorted(ATTENTION)))
    if missing:
        raise PresetError(f"train lacks {', '.join(missing)}: upstream's own defaults would train something else.")


def _check_inference(use: Inference) -> None:
    """Raises PresetError: upstream could not sample so."""
    try:
        sampling.check(use)
    except OptionError as error:
        raise PresetError(f"inference: {error}") from error


def check_size(size: Size) -> None:
    """Raises PresetError: upstream would take such a [W, H] and break in the VAE or the patching."""
    if len(size) != 2 or any(type(side) is not int or side % 16 or side < 32 for side in size):
        raise PresetError(
            f"{'x'.join(map(str, size))} can't be trained: both sides must be multiples of 16, 32 at least."
        )


def check_frames(frames: Sequence[int]) -> None:
    """Raises PresetError: upstream would round these down silently, or train first frames only."""
    if not frames or any(type(count) is not int or count < 1 or count % 4 != 1 for count in frames):
        raise PresetError(f"target_frames {[*frames]} must be whole numbers of the form 4N+1 (1, 5, 9 ... 81).")


def name_of(path: Path) -> str:
    """The preset's name: `wan21_t2v_1_3b.py` is wan21-t2v-1.3b."""
    return re.sub(r"(?<=\d)_(?=\d)", ".", path.stem).replace("_", "-")


def shipped() -> dict[str, Path]:
    """The presets that come with wanwrap, by name."""
    return {name_of(path): path for path in sorted(folder("presets").glob("[!_]*.py"))}


def path_of(name: str) -> Path:
    """The file of a preset: the shipped one of that name, or the user's own (`./mine.py`).

    Raises:
        PresetError: there is none.
    """
    if name.endswith(".py"):
        return absolute(name)
    presets = shipped()
    if name not in presets:
        raise PresetError(
            f"there is no preset {name!r}.{closest(name, presets)} `wanwrap presets` lists them; a file of your own is "
            "given with its ending, as ./mine.py."
        )
    return presets[name]


def source(path: Path) -> str:
    """A preset file's text. Raises OSError, UnicodeError."""
    return decode(path.read_bytes())


def _run(path: Path) -> dict[str, Any]:
    """What a preset file defines."""
    if path.read_bytes()[:2] not in UTF_16:  # which Python itself doesn't read
        return runpy.run_path(str(path))
    module: dict[str, Any] = {"__name__": path.stem, "__file__": str(path), "__doc__": None}
    exec(compile(source(path), str(path), "exec", dont_inherit=True), module)
    return module


def load(name: str) -> Preset:
    """The preset of that name, or the one in the user's own file.

    Raises:
        PresetError: there is none, or its file does not hold together.
    """
    path = path_of(name)
    if not path.is_file():
        raise PresetError(f"there is no preset file {path}.")
    try:
        module = _run(path)
    except (Exception, SystemExit) as error:  # it is the user's own code
        why = error if isinstance(error, WanwrapError) else f"{type(error).__name__}: {error}."
        raise PresetError(f"{path.name}: {why}") from error
    preset = module.get("preset")
    if not isinstance(preset, Preset):
        raise PresetError(f"{path.name} must define `preset = Preset(...)`; `wanwrap show NAME --source` is a pattern.")
    return replace(preset, name=name_of(path), word=quote(name), doc=(module["__doc__"] or "").strip())
