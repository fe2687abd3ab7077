"""`wanwrap.toml` in the workspace: what `setup` found, so that `run` finds it. A user may edit it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wanwrap.data import absolute
from wanwrap.errors import OptionError
from wanwrap.source import stat
from wanwrap.whole import write_whole

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
        content = tomlkit.parse(path.read_text(encoding="utf-8")).unwrap()
        return _workspace(content, base)
    except (ParseError, UnicodeDecodeError, AttributeError, TypeError, ValueError, KeyError) as error:
        raise OptionError(f"{path} can't be read ({error}); mend it, or delete it and run setup again.") from error


def _workspace(content: Mapping[str, Any], base: Path) -> Workspace:
    upstream = content.get("upstream", {})
    folder = upstream.get("musubi_dir")
    return Workspace(
        presets=tuple(map(str, content.get("presets", ()))),
        comfyui=tuple(absolute(base / path) for path in content.get("comfyui_dir", ())),
        python=upstream.get("python"),
        musubi_dir=absolute(base / folder) if folder else None,
        commit=upstream.get("commit"),
        weights={name: _record(row, base) for name, row in content.get("weights", {}).items()},
    )


def _record(row: Any, base: Path) -> Record:
    """A table as setup writes it, or the bare path that a user writes."""
    if isinstance(row, str):
        return Record(absolute(base / row))
    return Record(absolute(base / row["path"]), row.get("bytes"), row.get("mtime_ns"), row.get("sha256"))


def save(base: Path, found: Workspace) -> None:
    """Write it: what a user has added besides stays, and weights of other presets."""
    import tomlkit

    path = base / NAME
    document = tomlkit.parse(path.read_text(encoding="utf-8")) if path.is_file() else tomlkit.document()
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
    write_whole(path, tomlkit.dumps(document))


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
