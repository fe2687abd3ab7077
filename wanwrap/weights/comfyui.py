"""Where a ComfyUI keeps its models, however it was installed, and where else weights may lie. Nothing is written there."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from wanwrap.errors import WeightsError
from wanwrap.system import console
from wanwrap.weights.identify import SUFFIXES

# Folders of models, in small letters without _: ComfyUI's, older names of theirs, Stability Matrix', SwarmUI's, Forge's.
LORAS = frozenset({"loras", "lora"})
KINDS = {*LORAS, "diffusionmodels", "unet", "textencoders", "textencoder", "clip", "vae", "clipvision"}
YAMLS = ("extra_model_paths.yaml", "extra_model_paths.yml", "extra_models_config.yaml")  # the last one: Desktop's


def folders(given: Path, kinds: Collection[str] = KINDS, *, quiet: bool = False) -> list[Path]:
    """The folders in which an installation's models of these `kinds` lie, those of its own first.

    Those that its yaml names and that are gone are told, unless `quiet`.

    Raises:
        WeightsError: no such folder, no ComfyUI, or something in it that can't be read.
    """
    if not given.is_dir():
        raise WeightsError(f"there is no folder {given}, which was given as --comfyui_dir; look at its path.")
    try:
        there = homes(given)
        found = [folder for home in there for folder in _kinds(home, kinds)]
        found += [folder for home in there for name in YAMLS for folder in _named(home / name, kinds, quiet)]
    except OSError as error:
        raise WeightsError(f"{error.filename} can't be read: {error.strerror}; give its owner's ComfyUI.") from error
    if not found:
        raise WeightsError(
            f"{given} is no ComfyUI: there is no models folder with diffusion_models, unet, text_encoders, clip, vae, "
            f"clip_vision or loras in it or in its ComfyUI folder, and no {YAMLS[0]}; give the folder that holds models."
        )
    once = dict[str, Path]()
    for path in found:
        once.setdefault(os.path.realpath(path), path)
    return [*once.values()]


def homes(given: Path) -> list[Path]:
    """The folders beside whose `models` ComfyUI or a launcher may stand: users give any level."""
    bases = [given, given / "ComfyUI", given / "Data"]
    bases += sorted([*given.glob("Packages/*/"), *given.glob("Data/Packages/*/")])
    if given.parent.name == "Packages":  # Stability Matrix shares one store among its packages
        bases.append(given.parent.parent)
    return [base for base in bases if base.is_dir()]


def _kinds(home: Path, kinds: Collection[str]) -> Iterator[Path]:
    """The folders of models of a home, which may be the models folder itself."""
    for parent in (home, home / "models", home / "Models"):
        if parent.is_dir():
            yield from (child for child in sorted(parent.iterdir()) if _kind(child.name) in kinds and child.is_dir())


def _kind(name: str) -> str:
    return name.lower().replace("_", "")


def _named(path: Path, kinds: Collection[str], quiet: bool) -> Iterator[Path]:
    """The folders that a yaml, if there is one, names for these kinds. Raises WeightsError: it can't be read."""
    content = _yaml(path) if path.is_file() else None
    sections = content.values() if isinstance(content, dict) else ()
    for section in (section for section in sections if isinstance(section, dict)):
        base = _path(str(section.get("base_path") or ""), path.parent)
        for folder in (
            _path(line, base) for key in section if _kind(str(key)) in kinds for line in _lines(section[key])
        ):
            if folder.is_dir():
                yield folder
            elif not quiet:
                console.say(f"{path} names {folder}, which is not there")


def _yaml(path: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, ValueError) as error:
        where, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or error
        line = f" in line {where.line + 1}" if where else ""
        raise WeightsError(
            f"{path} is no YAML{line} ({problem}), so that ComfyUI can't read it either; mend it."
        ) from error


def _lines(value: Any) -> Iterator[str]:
    """The paths of a value: one, or one a line; a comment within a block has become part of its line."""
    for text in value if isinstance(value, list) else [value]:
        for line in str(text or "").splitlines():
            if bare := re.sub(r"(^|\s)#.*", "", line).strip():
                yield bare


def _path(text: str, base: Path) -> Path:
    """A path as ComfyUI understands it."""
    bare = os.path.expandvars(text.strip().strip("'\""))
    return Path(os.path.abspath(base / os.path.expanduser(bare)))  # noqa: PTH100, PTH111  Path's raises for unknown users


def hub_cache() -> list[Path]:
    """The snapshots in the Hugging Face cache: links, under the files' own names."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return sorted(Path(HF_HUB_CACHE).glob("models--*/snapshots/*/"))


def files(folder: Path) -> Iterator[Path]:
    """All that could be weights in a folder and below; links are followed, each folder is seen once."""
    if not folder.is_dir():
        return
    seen = set[str]()

    def unread(error: OSError) -> None:
        console.say(f"{error.filename} can't be read: {error.strerror}")

    for where, below, here in os.walk(folder, followlinks=True, onerror=unread):
        if (real := os.path.realpath(where)) in seen:
            below.clear()
            continue
        seen.add(real)
        below[:] = sorted(name for name in below if not name.startswith("."))
        yield from (path for name in sorted(here) if (path := Path(where, name)).suffix.lower() in SUFFIXES)
