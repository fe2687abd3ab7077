"""`wanwrap.toml` in the workspace: what `setup` found, so that `run` finds it. A user may edit it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wanwrap.errors import OptionError, closest
from wanwrap.paths import absolute
from wanwrap.system.files import write_atomic
from wanwrap.system.safetensors import stat
from wanwrap.weights.catalogue import CATALOGUE

NAME = "wanwrap.toml"
TEXT: dict[str, Any] = {"encoding": "utf-8-sig", "errors": "surrogateescape"}
HEAD = "What `wanwrap setup` found on this machine; `wanwrap run` reads it. Run setup again when something has moved."


@dataclass(frozen=True)
class Record:
    """One weight where setup found it. Without `bytes` it was written by hand, and nothing is known of it."""

    path: Path
    bytes: int | None = None
    mtime_ns: int | None = None
    sha256: str | None = None

    @property
    def changed(self) -> bool:
        """Whether the file is another one now, or gone."""
        return not self.path.is_file() or (self.bytes is not None and stat(self.path) != (self.bytes, self.mtime_ns))


@dataclass(frozen=True)
class Workspace:
    """What stands in the file; `weights` by the catalogue's names."""

    presets: tuple[str, ...] = ()
    comfyui: tuple[Path, ...] = ()
    python: str | None = None
    musubi_dir: Path | None = None
    commit: str | None = None
    weights: Mapping[str, Record] = field(default_factory=dict)


def load(base: Path) -> Workspace:
    """What setup has written there; nothing where it has not run.

    Raises:
        OptionError: it can't be read.
    """
    path = base / NAME
    if not path.is_file():
        return Workspace()
    import tomlkit

    try:
        return _workspace(tomlkit.parse(path.read_text(**TEXT)).unwrap(), base)
    except ValueError as error:  # tomlkit's are, too
        raise OptionError(f"{path} can't be read ({error}); mend it, or delete it and run setup again.") from error


def _workspace(content: Mapping[str, Any], base: Path) -> Workspace:
    upstream, weights = (_field(content, name, dict, "a table") or {} for name in ("upstream", "weights"))
    if strange := next((name for name in weights if name not in CATALOGUE), None):
        raise ValueError(f"there are no weights named {strange}.{closest(strange, CATALOGUE)}")
    records = {name: _record(name, weights, base) for name in weights}
    return Workspace(
        presets=_texts(content, "presets"),
        comfyui=tuple(_below(base, text) for text in _texts(content, "comfyui_dir")),
        python=_text(upstream, "python"),
        musubi_dir=_path(upstream, "musubi_dir", base),
        commit=_text(upstream, "commit"),
        weights={name: record for name, record in records.items() if record},
    )


def _record(name: str, weights: Mapping[str, Any], base: Path) -> Record | None:
    """A table as setup writes it, or the bare path that a user writes; None for an empty one."""
    if isinstance(weights[name], str):
        path = _path(weights, name, base)
        return Record(path) if path else None
    row = _field(weights, name, dict, "a table")
    path = _path(row, "path", base)
    if path is None:
        raise ValueError(f"{name} has no path")
    size, mtime = (_field(row, field, int, "a number") for field in ("bytes", "mtime_ns"))
    return Record(path, size, mtime, _text(row, "sha256"))


def _field(table: Mapping[str, Any], name: str, kind: type, what: str) -> Any:
    """The field, None where there is none. Raises ValueError: it is no such thing."""
    value = table.get(name)
    if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
        raise ValueError(f"{name} must be {what}, not {value!r}")
    return value


def _text(table: Mapping[str, Any], name: str) -> str | None:
    return _field(table, name, str, "a text") or None


def _texts(table: Mapping[str, Any], name: str) -> tuple[str, ...]:
    found = _field(table, name, list, "a list of texts") or []
    if not all(isinstance(each, str) for each in found):
        raise ValueError(f"{name} must be a list of texts, not {found!r}")
    return tuple(found)


def _path(table: Mapping[str, Any], name: str, base: Path) -> Path | None:
    text = _text(table, name)
    return _below(base, text) if text else None


def _below(base: Path, text: str) -> Path:
    """Relative paths are below the workspace. Raises OptionError: below the home of nobody."""
    return absolute(text if text.startswith("~") else base / text)


def save(base: Path, found: Workspace) -> None:
    """Write it: what a user has added besides stays, and weights of other presets."""
    import tomlkit

    path = base / NAME
    document = tomlkit.parse(path.read_text(**TEXT)) if path.is_file() else tomlkit.document()
    if not document:
        document.add(tomlkit.comment(HEAD))
    document["presets"] = list(found.presets)
    document["comfyui_dir"] = [str(folder) for folder in found.comfyui]
    document["upstream"] = _written({name: getattr(found, name) for name in ("python", "musubi_dir", "commit")})
    table = tomlkit.table()
    for name, record in found.weights.items():
        table[name] = tomlkit.inline_table()
        table[name].update(_written(vars(record)))
    document["weights"] = table
    write_atomic(path, tomlkit.dumps(document))


def _written(values: Mapping[str, Any]) -> dict[str, Any]:
    """What is known, as TOML holds it."""
    return {
        name: str(value) if isinstance(value, Path) else value for name, value in values.items() if value is not None
    }
