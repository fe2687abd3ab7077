"""What `setup` and `doctor` are asked for: presets, and all that they need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from wanwrap.errors import OptionError, PresetError
from wanwrap.paths import absolute
from wanwrap.plan import request
from wanwrap.plan.expert_options import BASE
from wanwrap.plan.request import Request
from wanwrap.preset import Preset, load, shipped
from wanwrap.upstream import pin
from wanwrap.upstream.pin import Upstream
from wanwrap.upstream.rules import late_imports
from wanwrap.weights import workspace
from wanwrap.weights.catalogue import CATALOGUE
from wanwrap.weights.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is to be made ready, and where; `level` is one expert alone, `given` the weights that the user names."""

    presets: tuple[Preset, ...]
    words: tuple[str, ...] = ()  # the presets as the user names them
    base_dir: Path
    python: str
    upstream: Upstream
    comfyui: tuple[Path, ...] = ()
    level: Any = None
    given: Mapping[str, Path] = field(default_factory=dict)
    before: Workspace = field(default_factory=Workspace)

    @property
    def models(self) -> Path:
        """Where downloads go."""
        return self.base_dir / "models"

    @property
    def needs(self) -> dict[str, list[str]]:
        """The presets that need it, by the catalogue's names."""
        found = dict[str, list[str]]()
        for preset in self.presets:
            for name in self.request(preset).needed:
                found.setdefault(name, []).append(preset.name)
        return found

    @property
    def tokenizers(self) -> list[str]:
        """Of T5, and of CLIP for Wan 2.1 I2V."""
        return list(dict.fromkeys(name for preset in self.presets for name in preset.tokenizers))

    @property
    def merged(self) -> dict[str, int]:
        """Bytes that the presets write when they run: the DiTs into which they merge Lightning."""
        merging = [self.request(preset) for preset in self.presets if preset.lightning]
        return {each.preset.name: sum(CATALOGUE[expert.dit].bytes for expert in each.experts) for each in merging}

    @property
    def modules(self) -> set[str]:
        """What the training Python must be able to import."""
        experts = [(preset, expert) for preset in self.presets for expert in preset.experts]
        late = (late_imports({**BASE, **preset.train, **expert.train}) for preset, expert in experts)
        return {"musubi_tuner", "torch", "accelerate"}.union(*late)

    def request(self, preset: Preset) -> Request:
        """One preset's run, of the expert that is asked for where it has several."""
        level = self.level if preset.experts[0].noise_level else None
        return Request(preset=preset, base_dir=self.base_dir, noise_level=level)


def wish(
    names: Sequence[str],
    *,
    base_dir: Path,
    comfyui_dir: Sequence[Path] = (),
    noise_level: str | None = None,
    python: str | None = None,
    musubi_dir: Path | None = None,
    default: Sequence[str] = (),
    **given: Any,
) -> Wish:
    """What the command line asks for; without `names` what was set up before, else `default`. ComfyUIs of earlier
    setups are searched too, where they are still there.

    Raises:
        PresetError, OptionError, UpstreamError, PackageError: what is asked for does not exist or can't be.
    """
    base = request.workspace_folder(base_dir)
    before = workspace.load(base)
    words = tuple(names or before.presets or default)
    try:
        presets = tuple(map(load, words))
    except PresetError as error:
        where = f" (It stands in {base / workspace.NAME}, under presets.)" if not names and before.presets else ""
        raise PresetError(f"{error}{where}") from error
    found = Wish(
        presets=presets,
        words=tuple(word if word in shipped() else str(absolute(word)) for word in words),
        base_dir=base,
        python=request.training_python(python or before.python),
        upstream=pin.find(musubi_dir, base, before.musubi_dir),
        comfyui=tuple(dict.fromkeys(map(absolute, comfyui_dir))),
        level=None if noise_level == "both" else noise_level,
        before=before,
    )
    return replace(found, given=_given(found, {name: path for name, path in given.items() if path}))


def _given(found: Wish, named: Mapping[str, Path]) -> dict[str, Path]:
    """The weights that the user names, by the catalogue's names.

    Raises:
        OptionError: one is for no preset, or nobody knows for which.
    """
    dits = sorted(named.keys() - {"vae", "t5", "clip"})
    if dits and len(found.presets) > 1:
        raise OptionError(f"--{dits[0]} is one preset's file; set up one preset at a time.")
    first = next((preset for preset in found.presets if preset.needs_clip), found.presets[0])
    return request.weights_given(found.request(first), named)
