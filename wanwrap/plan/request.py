"""What the user asked for, looked up on this machine: preset, data set, weights, upstream -> a plan."""

from __future__ import annotations

import glob
import importlib.util
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from wanwrap.data import config
from wanwrap.data.dataset import Dataset
from wanwrap.data.folder import find, scan
from wanwrap.data.probed import Bar, no_bar
from wanwrap.errors import OptionError, PackageError
from wanwrap.paths import PACKAGE, absolute, folder
from wanwrap.plan import preflight
from wanwrap.plan.plan import Choices, Places, Plan, experts, needed
from wanwrap.plan.planner import make_plan
from wanwrap.preset import Preset
from wanwrap.registry import load
from wanwrap.upstream import pin as upstreams
from wanwrap.upstream.options import TRAIN, Value, check, parse
from wanwrap.upstream.pin import Upstream
from wanwrap.weights.locate import Located, locate
from wanwrap.weights.workspace import Workspace
from wanwrap.weights.workspace import load as load_workspace

# wanwrap's options, as the guides spell them, and upstream's names for them.
ALIASES = {
    "lr": "learning_rate",
    "scheduler": "lr_scheduler",
    "power": "lr_scheduler_power",
    "min_lr": "lr_scheduler_min_lr_ratio",
    "optimizer": "optimizer_type",
    "dim": "network_dim",
    "alpha": "network_alpha",
    "epochs": "max_train_epochs",
    "save_every": "save_every_n_epochs",
    "seed": "seed",
    "flow_shift": "discrete_flow_shift",
    "blocks_to_swap": "blocks_to_swap",
}
SAMPLE = "sample"
FILES = {"network_weights", "sample_prompts", "log_tracker_config"}
OWN = {"dry_run", "shell", "json", "dataset", "base_dir", "noise_level", "skip_lightning", "python", "musubi_dir"}
OWN |= {"to_comfyui", "comfyui_dir"}


@dataclass(frozen=True, kw_only=True)
class Order:
    """One run as it was asked for; `files` are the weights that the user gave, by the catalogue's names."""

    preset: Preset
    places: Places
    choices: Choices
    dataset: str | None = None
    dataset_config: Path | None = None
    files: Mapping[str, Path] = field(default_factory=dict)
    any_upstream: bool = False
    skip_bad: bool = False
    workspace: Workspace = field(default_factory=Workspace)

    def data(self, *, whole: bool = False, bar: Bar = no_bar) -> Dataset:
        """The data set, sound. Raises DatasetError."""
        return self.look(whole=whole, bar=bar).sound(skip_bad=self.skip_bad)

    def look(self, *, whole: bool = False, bar: Bar = no_bar) -> Dataset:
        """The data set as it is; `whole` decodes every file. Raises DatasetError."""
        if self.dataset_config is not None:
            return config.load(absolute(self.dataset_config), whole=whole, bar=bar)
        datasets = self.places.base / "datasets"
        shipped = self.dataset == SAMPLE and not (datasets / SAMPLE).is_dir() and not Path(SAMPLE).is_dir()
        where = folder("templates") / SAMPLE if shipped else find(self.dataset, datasets)
        return scan(where, self.preset, whole=whole, bar=bar)

    def weights(self) -> dict[str, Located]:
        """The files that the run reads, there or not. Raises WeightsError."""
        models, found = self.places.base / "models", self.workspace.weights
        names = needed(self.preset, self.choices)
        return {name: locate(name, models, self.files.get(name), found.get(name)) for name in names}

    def plan(self, *, whole: bool = False, bar: Bar = no_bar) -> Plan:
        """The plan. Raises the errors of all that it is made of."""
        data = self.data(whole=whole, bar=bar)
        plan = make_plan(self.preset, data, self.weights(), self.places, self.choices)
        if not any(step.recipe and step.recipe.options.get("network_weights") for step in plan.trainings):
            return plan
        from wanwrap.plan import warm_start  # a dry run waits for no more than it needs

        return replace(plan, notes=(*plan.notes, *warm_start.remarks(plan)))

    def missing(self, plan: Plan) -> list[str]:
        """What a dry run says: what would have to be there before this plan can run."""
        elsewhere = self.places.upstream.folder or self.places.python != sys.executable
        found = elsewhere or importlib.util.find_spec("musubi_tuner")
        upstream = [] if found else ["musubi-tuner is not there."]
        lacking = [*upstream, *preflight.complaints(plan)]
        get = [preflight.how_to_get(plan)] if lacking else []
        return [*lacking, *get, *preflight.lacking_disk(plan)]

    def ask(self, plan: Plan, *, gpu: bool) -> tuple[Upstream, dict[str, Any]]:
        """The upstream and the machine that will train. Raises what they lack."""
        places = self.places
        answer = preflight.ask(places.python, places.upstream, preflight.question(plan))
        gpus = self.choices.gpus if gpu else 0
        upstream = preflight.check_answer(answer, places, any_upstream=self.any_upstream, gpus=gpus)
        return upstream, answer


def order(
    *,
    preset: str,
    upstream_options: tuple[str, ...] = (),
    base_dir: Path = Path("local_training"),
    musubi_dir: Path | None = None,
    python: str | None = None,
    **asked: Any,
) -> Order:
    """The order behind one command line; `asked` are its other options, by the command line's names.

    Raises:
        PresetError, OptionError, UpstreamError: what is asked for does not exist or can't be.
    """
    chosen, base = load(preset), workspace_folder(base_dir)
    choices, found = _choices(chosen, asked, upstream_options), load_workspace(base)
    places = Places(
        base=base,
        upstream=upstreams.find(musubi_dir, base, found.musubi_dir),
        python=training_python(python or found.python),
        wanwrap=(sys.executable, str(PACKAGE / "__main__.py")),
    )
    return Order(
        preset=chosen,
        places=places,
        choices=choices,
        dataset=asked.get("dataset"),
        dataset_config=asked.get("dataset_config"),
        files=files_given(chosen, choices, asked),
        any_upstream=bool(asked.get("any_upstream")),
        skip_bad=bool(asked.get("skip_bad")),
        workspace=found,
    )


def workspace_folder(given: Path) -> Path:
    """The workspace, by its whole path. Raises OptionError: upstream would not find its caches in it."""
    base = absolute(given)
    if glob.has_magic(str(base)):
        raise OptionError(
            f"--base_dir {base}: upstream can't find its caches below a folder with *, ? or [ in its name."
        )
    return base


def _choices(preset: Preset, asked: Mapping[str, Any], words: tuple[str, ...]) -> Choices:
    if asked.get("dataset") is not None and asked.get("dataset_config") is not None:
        raise OptionError("--dataset and --dataset_config name two data sets; give one.")
    level = asked.get("noise_level")
    if level and preset.experts[0].noise_level is None:
        raise OptionError(f"{preset.name} trains one model without noise levels; leave out --noise_level.")
    choices = Choices(
        noise_level=None if level == "both" else level,
        output_name=asked.get("output_name"),
        given=_given(asked, words),
        skip_lightning=bool(asked.get("skip_lightning")),
        precision=asked.get("precision"),
        gpus=asked.get("gpus") or 1,
    )
    if choices.skip_lightning and preset.lightning is None:
        raise OptionError(f"{preset.name} merges no Lightning; leave out --skip_lightning.")
    if "network_weights" in choices.given and len(experts(preset, choices)) > 1:
        raise OptionError("--resume_from is one expert's file; say which with --noise_level high or low.")
    return choices


def training_python(given: str | None) -> str:
    """The training Python by its whole path: the child runs in another folder. Raises PackageError: there is none."""
    if given is None:
        return sys.executable
    found = shutil.which(given)
    if found is None and not {os.sep, os.altsep} & {*given}:
        raise PackageError(f"there is no {given} in PATH; give the whole path of the Python that trains with --python.")
    return str(absolute(found or given))


def _given(arguments: Mapping[str, Any], words: tuple[str, ...]) -> dict[str, Value]:
    """All that overrides the preset, by upstream's names; what stands after `--` wins."""
    given: dict[str, Value] = {
        theirs: arguments[ours] for ours, theirs in ALIASES.items() if arguments.get(ours) is not None
    }
    extra = list(words)
    pairs = list(arguments.get("network_args") or ())
    while pairs and extra and "=" in extra[0] and not extra[0].startswith("--"):
        pairs.append(extra.pop(0))  # the guides write several after one --network_args
    if pairs:
        given["network_args"] = tuple(pairs)
    if arguments.get("attention"):
        given[arguments["attention"]] = True
    if arguments.get("resume_from"):
        given["network_weights"] = str(arguments["resume_from"])
    check(given, TRAIN)
    given |= parse(extra, own=OWN | arguments.keys())
    for name in FILES & given.keys():
        given[name] = str(_file(name, Path(str(given[name]))))
    return given


def _file(name: str, path: Path) -> Path:
    """A file that an option names, by its whole path: upstream runs in another folder."""
    path = absolute(path)
    if not path.is_file():
        raise OptionError(f"--{'resume_from' if name == 'network_weights' else name}: there is no file {path}.")
    return path


def files_given(preset: Preset, choices: Choices, arguments: Mapping[str, Any]) -> dict[str, Path]:
    """The weights that were given, by the catalogue's names."""
    dits = [expert.dit for expert in experts(preset, choices)]
    files = {name: arguments[name] for name in ("vae", "t5", "clip") if arguments.get(name)}
    if files.get("clip") and not preset.needs_clip:
        raise OptionError(f"{preset.name} uses no CLIP; leave out --clip.")
    if arguments.get("dit"):
        if len(dits) > 1:
            raise OptionError("--dit names the DiT of a one-expert run; this one trains two: --dit_high and --dit_low.")
        files[dits[0]] = arguments["dit"]
    for expert in preset.experts:
        if path := arguments.get(f"dit_{expert.noise_level}"):
            files[expert.dit] = path
        if path := arguments.get(f"lightning_{expert.noise_level}"):
            if choices.skip_lightning or preset.lightning is None:
                raise OptionError(f"this run merges no Lightning; leave out --lightning_{expert.noise_level}.")
            files[preset.lightning.lora(expert)] = path
    given = [absolute(files[dit]) for dit in dits if dit in files]
    if len(set(given)) < len(given):
        raise OptionError("--dit_high and --dit_low are one file; each expert has its own.")
    if len(preset.experts) == 1 and (arguments.get("dit_high") or arguments.get("dit_low")):
        raise OptionError(f"{preset.name} trains one model; give its DiT with --dit.")
    return files


def sample_plan(preset: str) -> Plan:
    """What a preset does with wanwrap's own sample data set."""
    return order(preset=preset, dataset=SAMPLE).plan()
