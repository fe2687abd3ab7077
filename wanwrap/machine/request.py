"""What `setup` and `doctor` are asked for: presets, and all that they need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wanwrap.errors import OptionError, PresetError
from wanwrap.paths import absolute
from wanwrap.plan.expert_options import BASE
from wanwrap.plan.request import WEIGHTS, Request, workspace_folder
from wanwrap.plan.request import read as read_run
from wanwrap.preset import Preset, load, shipped
from wanwrap.upstream.rules import late_imports
from wanwrap.weights import workspace
from wanwrap.weights.catalogue import CATALOGUE

SHARED = {"vae", "t5", "clip"}  # weights that several presets read


@dataclass(frozen=True, kw_only=True)
class SetupRequest:
    """What is to be made ready: a run of each preset, all in one workspace, with one Python and one upstream."""

    runs: tuple[Request, ...]
    words: tuple[str, ...] = ()  # the presets as the user names them
    comfyui: tuple[Path, ...] = ()
    packages: tuple[str, ...] = ()  # more of them for the training Python, as pip is told

    @property
    def first(self) -> Request:
        """One of the runs, for what is the same in all: workspace, Python, upstream, weights that the user names."""
        return self.runs[0]

    @property
    def models(self) -> Path:
        """Where downloads go."""
        return self.first.base_dir / "models"

    @property
    def needs(self) -> dict[str, list[str]]:
        """The presets that need it, by the catalogue's names."""
        found = dict[str, list[str]]()
        for run in self.runs:
            for name in run.needed:
                found.setdefault(name, []).append(run.preset.name)
        return found

    @property
    def tokenizers(self) -> list[str]:
        """Of T5, and of CLIP for Wan 2.1 I2V."""
        return list(dict.fromkeys(name for run in self.runs for name in run.preset.tokenizers))

    @property
    def merged(self) -> dict[str, int]:
        """Bytes that the presets write when they run: the DiTs into which they merge Lightning."""
        merging = [run for run in self.runs if run.lightning]
        return {run.preset.name: sum(CATALOGUE[expert.dit].bytes for expert in run.experts) for run in merging}

    @property
    def modules(self) -> set[str]:
        """What the training Python must be able to import."""
        options = [{**BASE, **run.preset.train, **expert.train} for run in self.runs for expert in run.experts]
        return {"musubi_tuner", "torch", "accelerate"}.union(*map(late_imports, options))


def _fitting(chosen: Preset, options: Mapping[str, Any], presets: Sequence[Preset]) -> dict[str, Any]:
    """The options without those that are others' of the presets: Wan 2.1's have no noise levels, some no CLIP."""
    fitting = {**options}
    if len(chosen.experts) == 1 and any(len(preset.experts) > 1 for preset in presets):
        fitting["noise_level"] = None
    if not chosen.needs_clip and any(preset.needs_clip for preset in presets):
        fitting["clip"] = None
    return fitting


def read(
    names: Sequence[str],
    *,
    base_dir: Path,
    comfyui_dir: Sequence[Path] = (),
    default: Sequence[str] = (),
    package: Sequence[str] = (),
    **options: Any,
) -> SetupRequest:
    """What the command line asks for; without `names` what was set up before, else `default`. ComfyUIs of earlier
    setups are searched too.

    Raises:
        PresetError, OptionError, UpstreamError, PackageError, WeightsError: what is asked for does not exist or can't be.
    """
    base = workspace_folder(base_dir)
    before = workspace.load(base)
    words = tuple(dict.fromkeys(names or before.presets or default))
    given = [name for name in WEIGHTS if options.get(name) and name not in SHARED]
    if given and len(words) > 1:
        raise OptionError(f"--{given[0]} is one preset's file; set up one preset at a time.")
    try:
        presets = [load(word) for word in words]
        fitting = [_fitting(preset, options, presets) for preset in presets]
        runs = tuple(
            read_run(preset=preset, base_dir=base, **own) for preset, own in zip(presets, fitting, strict=True)
        )
    except PresetError as error:
        where = f" (It stands in {base / workspace.NAME}, under presets.)" if not names and before.presets else ""
        raise PresetError(f"{error}{where}") from error
    return SetupRequest(
        runs=runs,
        words=tuple(word if word in shipped() else str(absolute(word)) for word in words),
        comfyui=tuple(dict.fromkeys([*map(absolute, comfyui_dir), *before.comfyui])),
        packages=tuple(package),
    )
