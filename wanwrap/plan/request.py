"""What the user asked for, looked up on this machine: preset, data set, weights, upstream."""

from __future__ import annotations

import glob
import os
import re
import shutil
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from wanwrap.errors import OptionError, PackageError, WeightsError
from wanwrap.paths import PACKAGE, absolute
from wanwrap.preset import Expert, Lightning, NoiseLevel, Preset, load
from wanwrap.system.shell import Shell
from wanwrap.upstream import pin, sample_prompts
from wanwrap.upstream.options import ALIASES, ATTENTION, TRAIN, Options, Value, check, parse
from wanwrap.upstream.pin import Upstream
from wanwrap.upstream.rules import SAMPLING
from wanwrap.upstream.sampling import Inference
from wanwrap.weights import workspace
from wanwrap.weights.models import option
from wanwrap.weights.workspace import Workspace

Precision = Literal["fp16", "bf16"]

WEIGHTS = ("dit", "dit_high", "dit_low", "lightning_high", "lightning_low", "vae", "t5", "clip")
PASSED = (
    "dataset",
    "dataset_config",
    "skip_bad",
    "skip_lightning",
    "sample",
    "precision",
    "any_upstream",
    "gpus",
    "vram",
    "fit",
    "shell",
    "sample_with_one_expert",
)
# upstream's options that name a file, as wanwrap's users know them
FILES = {"network_weights": "resume_from", **{name: name for name in ("sample_prompts", "log_tracker_config")}}


@dataclass(frozen=True, kw_only=True)
class Request:
    """One run as it was asked for, by the options' names; `given` is what overrides the preset, by upstream's names."""

    preset: Preset
    base_dir: Path
    dataset: str | None = None
    dataset_config: Path | None = None
    skip_bad: bool = False
    noise_level: NoiseLevel | None = None  # None: every expert of the preset
    output_name: str | None = None
    given: Options = field(default_factory=dict)
    skip_lightning: bool = False
    sample: bool = False  # whether samples are made when all is trained
    precision: Precision | None = None  # None: the DiT's own
    sample_with_one_expert: bool = False
    samples: tuple[str, ...] = ()  # prompts of those while training, each line complete
    gpus: int = 1  # that train one expert together, each with a whole copy of the DiT
    vram: float | None = None  # GB of the card, where it isn't this machine's
    fit: Literal["auto", "off"] = "off"
    shell: Shell | None = None  # of the script that is printed, and so of the machine that it is for
    files: Mapping[str, Path] = field(default_factory=dict)  # weights that the user names, by the catalogue's names
    python: str = sys.executable
    upstream: Upstream = field(default_factory=Upstream)
    any_upstream: bool = False
    workspace: Workspace = field(default_factory=Workspace)
    gone: Mapping[str, str] = field(default_factory=dict)  # see gone()
    wanwrap: tuple[str, ...] = ("python", "-m", "wanwrap")  # the words that start this wanwrap

    @property
    def experts(self) -> tuple[Expert, ...]:
        """Those to train."""
        return tuple(e for e in self.preset.experts if self.noise_level in (None, e.noise_level))

    @property
    def lightning(self) -> Lightning | None:
        """What is merged into each DiT."""
        return None if self.skip_lightning else self.preset.lightning

    @property
    def inference(self) -> Inference:
        """How its LoRAs are used."""
        return self.lightning.inference if self.lightning else self.preset.base_inference

    @property
    def called(self) -> str:
        """The preset's name; without the merge nothing is called lightning."""
        name = self.preset.name
        if not self.skip_lightning:
            return name
        return name.replace("lightning", "vanilla") if "lightning" in name else f"{name}-without-lightning"

    @property
    def needed(self) -> list[str]:
        """The catalogue's names of all weights that are read."""
        loras = [self.lightning.lora(expert) for expert in self.experts] if self.lightning else []
        return [*(e.dit for e in self.experts), *loras, "vae", "t5", *(["clip"] if self.preset.needs_clip else [])]


def read(
    *, preset: str | Preset, base_dir: Path = Path("local_training"), own: Collection[str] = (), **options: Any
) -> Request:
    """The request behind one command line; `options` are its other options, by their names; `own` are all it has.

    Raises:
        PresetError, OptionError, UpstreamError, PackageError, WeightsError: what is asked for does not exist or can't be.
    """
    chosen = load(preset) if isinstance(preset, str) else preset
    base = workspace_folder(base_dir)
    known = workspace.load(base)
    options = {name: value for name, value in options.items() if value is not None}
    if options.get("dataset", "").lower().endswith(".toml") and "dataset_config" not in options:
        options["dataset_config"] = Path(options.pop("dataset"))
    _check_together(chosen, options)
    level = options.get("noise_level")
    request = Request(
        preset=chosen,
        base_dir=base,
        noise_level=None if level == "both" else level,
        output_name=check_name(options["output_name"]) if "output_name" in options else None,
        given=_given(options, own),
        python=training_python(options.get("python"), known.python),
        upstream=pin.find(options.get("musubi_dir"), base, known.musubi_dir),
        workspace=known,
        gone=gone(known, base, options.get("python"), options.get("musubi_dir")),
        wanwrap=(sys.executable, str(PACKAGE / "__main__.py")),
        **{name: options[name] for name in PASSED if name in options},
    )
    if "network_weights" in request.given and len(request.experts) > 1:
        raise OptionError("--resume_from is one expert's file; say which with --noise_level high or low.")
    return replace(request, files=weights_given(request, options), samples=samples(request))


def samples(request: Request) -> tuple[str, ...]:
    """The prompts of samples while training, completed: those of the file that was given, else the preset's own.

    Raises:
        OptionError: upstream would draw something else, or nothing that shows what the LoRAs do together.
    """
    preset, file = request.preset, request.given.get("sample_prompts")
    own = {f"sample prompt {number} of {preset.name}": line for number, line in enumerate(preset.sample_prompts, 1)}
    prompts = sample_prompts.load(Path(str(file))) if file else own
    asked = prompts or SAMPLING & request.given.keys()
    if asked and preset.timestep_boundary and not request.sample_with_one_expert:
        raise OptionError(
            "samples while training show nothing of Wan 2.2: upstream lets the expert that it trains do all steps, the other "
            "one's too. `wanwrap sample RUN`, and `run --sample`, use both. With --sample_with_one_expert, before the `--`, "
            "it is done all the same."
        )
    folder = Path(str(file)).parent if file else Path()
    return sample_prompts.completed(prompts, request.inference, folder, pictures=preset.mode != "t2v")


def _check_together(preset: Preset, options: Mapping[str, Any]) -> None:
    """Raises OptionError: two options, or an option and the preset, contradict each other."""
    if "dataset" in options and "dataset_config" in options:
        raise OptionError("--dataset and --dataset_config name two data sets; give one.")
    if sys.platform == "win32" and options.get("gpus", 1) > 1:
        # fluxgym #302, musubi-tuner #100; USE_LIBUV=0 is not heeded there: pytorch #148283, and #196855, open in 2026-09
        raise OptionError(
            "--gpus: PyTorch for Windows can't train one model on several GPUs: its launcher wants libuv, which that build "
            "lacks. Leave it out; --parallel trains both experts of Wan 2.2 at once, on a GPU each, and WSL2 takes --gpus."
        )
    level, levels = options.get("noise_level"), [expert.noise_level for expert in preset.experts]
    if options.get("sample") and level not in (None, "both"):
        raise OptionError(
            "--sample needs the LoRAs of both experts: leave it out (--no_sample), and `wanwrap sample RUN` makes them."
        )
    if level and levels == [None]:
        raise OptionError(f"{preset.name} trains one model without noise levels; leave out --noise_level.")
    if level not in (None, "both", *levels):
        raise OptionError(f"{preset.name} has no {level}-noise expert; leave out --noise_level.")
    if options.get("skip_lightning") and preset.lightning is None:
        raise OptionError(f"{preset.name} merges no Lightning; leave out --skip_lightning.")
    if options.get("sample_with_one_expert") and not preset.timestep_boundary:
        raise OptionError(f"{preset.name} trains one model, which samples itself; leave out --sample_with_one_expert.")


def gone(known: Workspace, base: Path, python: Path | str | None, musubi_dir: Path | None) -> dict[str, str]:
    """What `wanwrap.toml` names and is not there, a sentence each; without what options name, for which nobody asks."""
    found, where = dict[str, str](), base / workspace.NAME
    if known.python and not python and not shutil.which(training_python(None, known.python)):
        found["python"] = f"{where} has python = {known.python}, and no such program is there"
    if known.musubi_dir and not musubi_dir and not pin.is_checkout(known.musubi_dir):
        found["musubi_dir"] = f"{where} has musubi_dir = {known.musubi_dir}, and no musubi-tuner is there"
    return {name: f"{why}; correct that line, or run setup again." for name, why in found.items()}


def workspace_folder(given: Path) -> Path:
    """The workspace, by its whole path. Raises OptionError: upstream would not find its caches in it."""
    base = absolute(given)
    if re.search("[\ud800-\udfff]", str(base)):
        raise OptionError(f"--base_dir {base}: a name in it is no text in UTF-8, which a TOML can't hold; rename that.")
    if glob.has_magic(str(base)):
        raise OptionError(
            f"--base_dir {base}: upstream can't find its caches below a folder with *, ? or [ in its name."
        )
    return base


def training_python(given: str | None, recorded: str | None = None) -> str:
    """The training Python by its whole path: the child runs in another folder. Raises PackageError: there is none.

    One that is `recorded` may be gone.
    """
    if not given:
        return str(absolute(shutil.which(recorded) or recorded)) if recorded else sys.executable
    found = shutil.which(given)
    if found is None and not {os.sep, os.altsep} & {*given}:
        raise PackageError(f"there is no {given} in PATH; give the whole path of the Python that trains with --python.")
    return str(absolute(found or given))


def check_name(name: str) -> str:
    """Raises OptionError: a name that can't be a file's on every system, or would read as an option."""
    odd = re.search(r'[/\\:*?"<>|\x00-\x1f\ud800-\udfff]|[. ]$', name)
    odd = odd or re.fullmatch(r"(?i)(con|prn|aux|nul|(com|lpt)\d)(\..*)?", name)  # Windows' own devices
    if not name.strip() or name[0] in "-. " or odd or len(name.encode("utf-8", "replace")) > 200:
        raise OptionError(
            f"--output_name {name!r} can't name files everywhere; begin with a letter or digit, leave out / and the like "
            "and a dot or space at the end, and what Windows calls devices (con, nul, com1)."
        )
    return name


def slug(name: str) -> str:
    """A name without what shells, file systems and upstream's own globs take for something else."""
    return re.sub(r"[^\w.-]+", "_", name).strip("-_.") or "data"


def _given(options: Mapping[str, Any], own: Collection[str]) -> dict[str, Value]:
    """All that overrides the preset, by upstream's names; what stands after `--` wins."""
    given: dict[str, Value] = {theirs: options[ours] for ours, theirs in ALIASES.items() if ours in options}
    if options.get("network_args"):
        given["network_args"] = tuple(options["network_args"])
    if "attention" in options:
        given[options["attention"]] = True
    check(given, TRAIN)
    given |= parse(options.get("upstream_options", ()), own=own)
    if "resume_from" in options:
        given["network_weights"] = str(options["resume_from"])
    if len(attentions := sorted(ATTENTION & given.keys())) > 1:
        raise OptionError(f"--{' and --'.join(attentions)} are two ways of attention; upstream takes one, give one.")
    for name in FILES.keys() & given.keys():  # by the whole path: upstream runs in another folder
        if not (path := absolute(str(given[name]))).is_file():
            raise OptionError(f"--{FILES[name]}: there is no file {path}.")
        given[name] = str(path)
    return given


def weights_given(request: Request, options: Mapping[str, Any]) -> dict[str, Path]:
    """The weights that options name, by the catalogue's names.

    Raises:
        OptionError: one that this run doesn't read, or one file for two.
        WeightsError: there is no such file.
    """
    given = {name: absolute(options[name]) for name in WEIGHTS if options.get(name)}
    if not given:
        return {}
    takes = {option(name).removeprefix("--"): name for name in replace(request, noise_level=None).needed}
    if len(request.experts) == 1:
        takes["dit"] = request.experts[0].dit
    for name, path in given.items():
        if name not in takes:
            raise OptionError(f"this run takes no --{name}; it takes --{', --'.join(takes)}.")
        if not path.is_file():
            raise WeightsError(f"--{name}: there is no file {path}.")
    found = {takes[name]: path for name, path in given.items()}
    if len(given) > min(len(found), len({*given.values()})):  # as --dit is --dit_low in a run of that expert
        raise OptionError(f"of --{', --'.join(given)} two are one file or name the same weights; give each its own.")
    return found
