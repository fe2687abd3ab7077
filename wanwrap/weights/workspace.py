"""`wanwrap.toml` in the workspace: what `setup` found, so that `run` finds it. A user may edit it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wanwrap.errors import OptionError, closest, of_toml
from wanwrap.paths import absolute
from wanwrap.system.files import write_atomic
from wanwrap.weights.catalogue import CATALOGUE
from wanwrap.weights.weight_file import WeightFile

NAME = "wanwrap.toml"
TEXT: dict[str, Any] = {"encoding": "utf-8-sig", "errors": "surrogateescape"}
HEAD = "What `wanwrap setup` found on this machine; `wanwrap run` reads it. Run setup again when something has moved."
WORDS = {str: "a text", int: "a number", list: "a list of texts"}
# what may stand in it, in [upstream], and in the table of one weight
TOP = {"presets": list, "comfyui_dir": list, "upstream": object, "weights": object, "launch": object}
UPSTREAM = dict.fromkeys(("python", "musubi_dir", "commit"), str)
WEIGHT = {"path": str, "bytes": int, "mtime_ns": int, "sha256": str}


@dataclass(frozen=True)
class Workspace:
    """What stands in the file; `weights` by the catalogue's names, without a `stamp` those written by hand; of `launch` the
    options that each engine was last given, by their names.
    """

    presets: tuple[str, ...] = ()
    comfyui: tuple[Path, ...] = ()
    python: str | None = None
    musubi_dir: Path | None = None
    commit: str | None = None
    weights: Mapping[str, WeightFile] = field(default_factory=dict)
    launch: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def load(base: Path) -> Workspace:
    """What setup has written there; nothing where it has not run.

    Raises:
        OptionError: it can't be read, or something in it is unknown.
    """
    path = base / NAME
    if not path.exists():
        return Workspace()
    if not path.is_file():
        raise OptionError(f"{path} is no file; move it away and run setup again.")
    import tomlkit

    try:
        return _workspace(tomlkit.parse(path.read_text(**TEXT)).unwrap(), base)
    except (ValueError, OSError) as error:  # tomlkit's are ValueErrors, too
        way = f"mend it, or delete it and run setup again.{of_toml(error)}"
        raise OptionError(f"{path} can't be read ({error}); {way}") from error


def _workspace(content: Mapping[str, Any], base: Path) -> Workspace:
    top = _fields(content, NAME, TOP)
    upstream = _fields(top.get("upstream", {}), "upstream", UPSTREAM)
    weights = _fields(top.get("weights", {}), "weights", dict.fromkeys(CATALOGUE, object))
    return Workspace(
        presets=tuple(top.get("presets", ())),
        comfyui=tuple(_below(base, text) for text in top.get("comfyui_dir", ())),
        python=upstream.get("python"),
        musubi_dir=_below(base, upstream["musubi_dir"]) if "musubi_dir" in upstream else None,
        commit=upstream.get("commit"),
        weights={name: _weight(name, row, base) for name, row in weights.items()},
        launch=_tables(top.get("launch", {}), "launch"),
    )


def _tables(table: Any, where: str) -> dict[str, dict[str, Any]]:
    """Tables in a table. Raises ValueError: it is none."""
    if not isinstance(table, dict) or not all(isinstance(row, dict) for row in table.values()):
        raise ValueError(f"{where} must hold tables, as [{where}.slurm]")
    return {name: dict(row) for name, row in table.items()}


def _weight(name: str, row: Any, base: Path) -> WeightFile:
    """A table as setup writes it, or the bare path that a user writes."""
    facts = _fields({"path": row} if isinstance(row, str) else row, name, WEIGHT)
    if "path" not in facts:
        raise ValueError(f"{name} has no path")
    stamp = (facts["bytes"], facts["mtime_ns"]) if {"bytes", "mtime_ns"} <= facts.keys() else None
    return WeightFile(path=_below(base, facts["path"]), stamp=stamp, sha256=facts.get("sha256"))


def _fields(table: Any, where: str, known: Mapping[str, type]) -> dict[str, Any]:
    """The fields of a table that say something. Raises ValueError: it is none, or has an unknown one or a wrong one."""
    if not isinstance(table, dict):
        raise ValueError(f"{where} must be a table, not {table!r}")
    for name, value in table.items():
        if name not in known:
            raise ValueError(f"{where} takes no {name}.{closest(name, known)}")
        texts = not isinstance(value, list) or all(isinstance(each, str) for each in value)
        if not isinstance(value, known[name]) or isinstance(value, bool) or not texts:
            raise ValueError(f"{name} must be {WORDS.get(known[name], 'a table')}, not {value!r}")
    return {name: value for name, value in table.items() if value not in ("", [])}


def _below(base: Path, text: str) -> Path:
    """Relative paths are below the workspace."""
    return absolute(text if text.startswith("~") else base / text)


def save(base: Path, found: Workspace) -> None:
    """Write it: a user's comments stay, and so do the weights that were written by hand."""
    import tomlkit

    path = base / NAME
    document = tomlkit.parse(path.read_text(**TEXT)) if path.is_file() else tomlkit.document()
    if not document:
        document.add(tomlkit.comment(HEAD))
    document["presets"] = list(found.presets)
    document["comfyui_dir"] = [str(folder) for folder in found.comfyui]
    upstream = document.setdefault("upstream", tomlkit.table())
    for name in UPSTREAM:
        if value := getattr(found, name):
            upstream[name] = str(value)
        else:
            upstream.pop(name, None)
    weights = document.setdefault("weights", tomlkit.table())
    for name, file in found.weights.items():
        if file.stamp:
            row = dict(zip(WEIGHT, (str(file.path), *file.stamp, file.sha256), strict=True))
            weights[name] = tomlkit.inline_table()
            weights[name].update({name: value for name, value in row.items() if value is not None})
    write_atomic(path, tomlkit.dumps(document))


def remember(base: Path, engine: str, options: Mapping[str, Any]) -> None:
    """Keep the options that an engine is given, and no others, for the next launch. Raises OSError."""
    import tomlkit

    path = base / NAME
    document = tomlkit.parse(path.read_text(**TEXT)) if path.is_file() else tomlkit.document()
    row = document.setdefault("launch", tomlkit.table()).setdefault(engine, tomlkit.table())
    for name in {*row} - {*options}:
        del row[name]
    for name, value in options.items():
        row[name] = list(value) if isinstance(value, tuple) else value
    write_atomic(path, tomlkit.dumps(document))
