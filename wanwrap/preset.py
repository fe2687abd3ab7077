"""A preset: what is trained and how, declared in one Python module and nothing but declared.

The folder `presets/` is the registry. Options stand under upstream's own names (`upstream/options.py`).
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from wanwrap.errors import OptionError, PresetError, closest
from wanwrap.paths import absolute, folder
from wanwrap.upstream import dit
from wanwrap.upstream.options import ATTENTION, CACHE_LATENTS, CACHE_TEXT, REFUSED, TRAIN, Options, check
from wanwrap.upstream.rules import ALL, Window, window
from wanwrap.weights.catalogue import CATALOGUE
from wanwrap.weights.models import MODELS, SHAPES

NoiseLevel = Literal["high", "low"]
Size = tuple[int, int]

REQUIRED = ("optimizer_type", "learning_rate", "network_dim", "network_alpha", "timestep_sampling")
EXTRACTIONS = ("head", "chunk", "uniform")


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
        if self.task not in SHAPES:
            raise PresetError(f"wanwrap trains {', '.join(SHAPES)}; not {self.task!r}.{closest(self.task, SHAPES)}")
        _check_experts(self.task, self.experts)
        for expert in self.experts:
            _check_train({**self.train, **expert.train})
        _check_lightning(self.lightning, self.task)
        for options, script in ((self.cache_latents, CACHE_LATENTS), (self.cache_text, CACHE_TEXT)):
            check(options, script)
            _check_refused(options)
        for entry in (self.pictures, *self.clips):
            if entry is not None:
                check_size(entry.resolution)
                _check_counts(vars(entry))
        for clips in self.clips:
            check_frames(clips.target_frames)
            if clips.frame_extraction not in EXTRACTIONS:
                raise PresetError(f"frame_extraction {clips.frame_extraction!r} is none of {', '.join(EXTRACTIONS)}.")
        if not all(isinstance(value, str) for value in self.env.values()):
            raise PresetError("env must give every variable as text.")

    @property
    def inference(self) -> str:
        """The docstring's paragraph on what to use at inference."""
        _, _, text = self.doc.partition("At inference:")
        return " ".join(text.partition("\n\n")[0].split())

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


def _check_experts(task: str, experts: tuple[Expert, ...]) -> None:
    levels, dits = [expert.noise_level for expert in experts], [expert.dit for expert in experts]
    if levels != [None] and sorted(map(str, levels)) not in (["high"], ["low"], ["high", "low"]):
        raise PresetError(f"experts must be one without noise_level, or a high and a low one; not {levels}.")
    fit = {name for model in MODELS.values() if task in model.tasks for name in model.names}
    for name in dits:
        if name not in CATALOGUE:
            raise PresetError(f"there are no weights named {name}.{closest(name, CATALOGUE)}")
        if name.removesuffix("-fp8") not in fit or name.startswith("wan2.2") != task.endswith("A14B"):
            raise PresetError(f"{name} is no DiT for {task}.")
    if len({*dits}) < len(dits):
        raise PresetError(f"both experts train {dits[0]}; each has a DiT of its own.")
    for level, name in zip(levels, dits, strict=True):
        if level and name.endswith(("-high", "-low")) and not name.endswith(f"-{level}"):
            raise PresetError(f"the {level}-noise expert trains {name}, which is the other one's DiT.")


def _check_train(train: Options) -> None:
    """Raises PresetError: something is left to upstream's defaults that would train something else, or nothing."""
    check(train, TRAIN)
    missing = [name for name in REQUIRED if train.get(name) is None]
    if not (train.get("max_train_epochs") or train.get("max_train_steps")):
        missing.append("max_train_epochs")
    if len([name for name in ATTENTION if train.get(name)]) != 1:
        missing.append("one of " + ", ".join(sorted(ATTENTION)))
    if missing:
        raise PresetError(f"train lacks {', '.join(missing)}: upstream's own defaults would train something else.")
    _check_refused(train)


def _check_refused(options: Options) -> None:
    """Raises PresetError: an option that is wanwrap's to set, or that upstream would do harm with."""
    if refused := [name for name in options if name in REFUSED]:
        raise PresetError(f"a preset can't set {refused[0]}: {REFUSED[refused[0]]}.")


def _check_counts(entry: Mapping[str, Any]) -> None:
    """Raises PresetError: a count of a data set entry that is no whole number, or less than 1."""
    for name in ("batch_size", "num_repeats", "frame_sample"):
        if entry.get(name) is not None and (type(entry[name]) is not int or entry[name] < 1):
            raise PresetError(f"{name} must be a whole number, 1 at least; not {entry[name]!r}.")


def _check_lightning(lightning: Lightning | None, task: str) -> None:
    """Raises PresetError: no release, or one for another model: those of T2V and I2V have the same shapes."""
    if lightning is None:
        return
    kind = re.compile(rf"lightning-({re.escape(task.removesuffix('-A14B'))}-.+)-high")
    releases = [found[1] for name in CATALOGUE if (found := kind.fullmatch(name))]
    if not isinstance(lightning, Lightning) or lightning.release not in releases:
        release = getattr(lightning, "release", lightning)
        known = f"its releases are {', '.join(releases)}" if releases else "there is none"
        raise PresetError(f"Lightning {release!r} is not for {task}: {known}; write lightning=Lightning(release=...).")


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
        own = f" Did you mean ./{name}.py?" if Path(f"{name}.py").is_file() else closest(name, presets)
        raise PresetError(
            f"there is no preset {name!r}.{own} `wanwrap presets` lists them; a file of your own must end in .py."
        )
    return presets[name]


def load(name: str) -> Preset:
    """The preset of that name, or the one in the user's own file.

    Raises:
        PresetError: there is none, or its file does not hold together.
    """
    path = path_of(name)
    if not path.is_file():
        raise PresetError(f"there is no preset file {path}.")
    if not re.fullmatch(r"\w[\w.-]*", path.stem):
        raise PresetError(f"{path.name}: a preset is named after its file; use letters, digits and _.")
    spec = importlib.util.spec_from_file_location(f"wanwrap_preset_{path.stem}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # it is the user's own code
        raise PresetError(f"{path.name}: {_reason(error)}") from error
    preset = getattr(module, "preset", None)
    if not isinstance(preset, Preset):
        raise PresetError(f"{path.name} must define `preset = Preset(...)`; `wanwrap show NAME --source` is a pattern.")
    object.__setattr__(preset, "name", name_of(path))
    object.__setattr__(preset, "doc", (module.__doc__ or "").strip())
    return preset


def _reason(error: BaseException) -> str:
    """The error with the field that was probably meant."""
    field_name = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: {error.msg}."
    if isinstance(error, (PresetError, OptionError)):
        return str(error)
    if not field_name:
        return f"{type(error).__name__}: {error}."
    known = {name for kind in (Preset, Expert, Pictures, Clips, Lightning) for name in kind.__dataclass_fields__}
    return f"there is no field {field_name[1]!r}.{closest(field_name[1], known)}"
