"""What `setup` and `doctor` are asked for: presets, and all that they need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wanwrap import order, preflight, recipe, workspace
from wanwrap import upstream as upstreams
from wanwrap.data import absolute
from wanwrap.plan import Choices, Places, needed
from wanwrap.preset import Preset
from wanwrap.registry import load, shipped
from wanwrap.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is to be made ready, and where; `level` is one expert alone, `given` the weights that the user names."""

    presets: tuple[Preset, ...]
    words: tuple[str, ...] = ()  # the presets as the user names them
    places: Places
    comfyui: tuple[Path, ...] = ()
    level: Any = None
    given: Mapping[str, Path] = field(default_factory=dict)
    before: Workspace = field(default_factory=Workspace)

    @property
    def models(self) -> Path:
        """Where downloads go."""
        return self.places.base / "models"

    @property
    def needs(self) -> dict[str, list[str]]:
        """The presets that need it, by the catalogue's names."""
        found = dict[str, list[str]]()
        for preset in self.presets:
            level = self.level if preset.experts[0].noise_level else None
            for name in needed(preset, Choices(noise_level=level)):
                found.setdefault(name, []).append(preset.name)
        return found

    @property
    def tokenizers(self) -> list[str]:
        """Of T5, and of CLIP for Wan 2.1 I2V."""
        return ["t5", *(["clip"] if any(preset.needs_clip for preset in self.presets) else [])]

    @property
    def modules(self) -> set[str]:
        """What the training Python must be able to import."""
        wanted = {"musubi_tuner", "torch", "accelerate"}
        for preset in self.presets:
            for expert in preset.experts:
                wanted |= {*preflight.modules({**recipe.BASE, **preset.train, **expert.train})}
        return wanted


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
    """What the command line asks for; without `names` what was set up before, else `default`.

    Raises:
        PresetError, OptionError, UpstreamError: what is asked for does not exist or can't be.
    """
    base = order.workspace_folder(base_dir)
    before = workspace.load(base)
    words = tuple(names or before.presets or default)
    presets = tuple(map(load, words))
    level = None if noise_level == "both" else noise_level
    found = upstreams.find(musubi_dir or before.musubi_dir, base)
    return Wish(
        presets=presets,
        words=tuple(word if word in shipped() else str(absolute(word)) for word in words),
        places=Places(base=base, upstream=found, python=order.training_python(python or before.python)),
        comfyui=tuple(dict.fromkeys([*map(absolute, comfyui_dir), *before.comfyui])),
        level=level,
        given={name: absolute(path) for preset in presets for name, path in _named(preset, level, given).items()},
        before=before,
    )


def _named(preset: Preset, level: Any, given: Mapping[str, Any]) -> dict[str, Path]:
    """The weights that the user names, by the catalogue's names. CLIP is for those presets that take it."""
    fitting = {name: path for name, path in given.items() if name != "clip" or preset.needs_clip}
    return order.files_given(preset, Choices(noise_level=level if preset.experts[0].noise_level else None), fitting)
