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
    from tomlkit.exceptions import ParseError

    try:
        content = tomlkit.parse(path.read_text(encoding="utf-8-sig", errors="surrogateescape")).unwrap()
        return _workspace(_Fields(content, base))
    except (ParseError, UnicodeDecodeError, _Wrong) as error:
        raise OptionError(f"{path} can't be read ({error}); mend it, or delete it and run setup again.") from error


class _Wrong(Exception):
    """A field that is not what it should be."""


@dataclass(frozen=True)
class _Fields:
    """A table of the file, asked for its fields by the type they must have."""

    content: Mapping[str, Any]
    base: Path

    def get(self, name: str, kind: type, what: str) -> Any:
        """The field; None where there is none."""
        value = self.content.get(name)
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            raise _Wrong(f"{name} must be {what}, not {value!r}")
        return value

    def text(self, name: str) -> str | None:
        """None where it is empty, too."""
        return self.get(name, str, "a text") or None

    def path(self, name: str) -> Path | None:
        """Relative ones are below the workspace."""
        text = self.text(name)
        return self.below(text) if text else None

    def below(self, text: str) -> Path:
        """Raises OptionError: below the home of nobody."""
        return absolute(text if text.startswith("~") else self.base / text)

    def texts(self, name: str) -> tuple[str, ...]:
        found = self.get(name, list, "a list of texts") or ()
        if not all(isinstance(each, str) for each in found):
            raise _Wrong(f"{name} must be a list of texts, not {found!r}")
        return tuple(found)

    def table(self, name: str) -> _Fields:
        return _Fields(self.get(name, dict, "a table") or {}, self.base)


def _workspace(fields: _Fields) -> Workspace:
    upstream, weights = fields.table("upstream"), fields.table("weights")
    if strange := next((name for name in weights.content if name not in CATALOGUE), None):
        raise _Wrong(f"there are no weights named {strange}.{closest(strange, CATALOGUE)}")
    return Workspace(
        presets=fields.texts("presets"),
        comfyui=tuple(map(fields.below, fields.texts("comfyui_dir"))),
        python=upstream.text("python"),
        musubi_dir=upstream.path("musubi_dir"),
        commit=upstream.text("commit"),
        weights={name: record for name in weights.content if (record := _record(name, weights))},
    )


def _record(name: str, weights: _Fields) -> Record | None:
    """A table as setup writes it, or the bare path that a user writes; None for an empty one."""
    if isinstance(weights.content[name], str):
        path = weights.path(name)
        return Record(path) if path else None
    row = weights.table(name)
    path = row.path("path")
    if path is None:
        raise _Wrong(f"{name} has no path")
    size, mtime = (row.get(field, int, "a number") for field in ("bytes", "mtime_ns"))
    return Record(path, size, mtime, row.text("sha256"))


def save(base: Path, found: Workspace) -> None:
    """Write it: what a user has added besides stays, and weights of other presets."""
    import tomlkit

    path = base / NAME
    document = (
        tomlkit.parse(path.read_text(encoding="utf-8-sig", errors="surrogateescape"))
        if path.is_file()
        else tomlkit.document()
    )
    if not document:
        document.add(tomlkit.comment(HEAD))
    document["presets"] = list(found.presets)
    document["comfyui_dir"] = [str(folder) for folder in found.comfyui]
    upstream = {"python": found.python, "musubi_dir": _text(found.musubi_dir), "commit": found.commit}
    document["upstream"] = {name: value for name, value in upstream.items() if value}
    table = tomlkit.table()
    for name, record in found.weights.items():
        row = tomlkit.inline_table()
        row.update({name: _text(value) for name, value in vars(record).items() if value is not None})
        table[name] = row
    document["weights"] = table
    write_atomic(path, tomlkit.dumps(document))


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
