"""Where a weight is: the path the user gives, else the one that setup found, else the workspace's models folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from wanwrap.errors import WeightsError
from wanwrap.paths import absolute
from wanwrap.system.safetensors import header_sha256, shards, stat
from wanwrap.weights.catalogue import ALSO, CATALOGUE
from wanwrap.weights.weight_file import WeightFile


def locate(name: str, models: Path, given: Path | None, record: WeightFile | None = None) -> WeightFile:
    """The catalogue's file `name`: what the user gave, else what setup found, else what `models` holds.

    One that is missing, or not what it was, is not `usable`, for a `reason` in a whole sentence.

    Raises:
        WeightsError: the user's file is not there, or one that upstream cannot train on, or another model's.
    """
    row = CATALOGUE[name]
    release = row.sha256 if row.role == "lightning" else None  # it must be that release, whatever its path
    if given is None and record and record.stamp is None:
        given = record.path  # written by hand
    if given is not None:
        if not (path := absolute(given)).is_file():
            raise WeightsError(f"there is no file {path}, which was given for {name}; look at its path.")
        from wanwrap.weights import marks

        return _file(path, name, release, marks.quick, own=True)
    if record is None:
        path = models / row.path
        if not path.is_file() and not (path := next(iter(sorted(models.rglob(row.tail))), path)).is_file():
            why = f"{path.name} ({row.bytes / 1e9:.1f} GB) is not there."
            mark = row.sha256
            return WeightFile(
                path=path,
                names=(name,),
                reason=why,
                dtype=row.dtype,
                size=row.bytes,
                sha256=mark,
                identity=mark,
                content=mark,
            )
        return _file(path, name, row.sha256, lambda _: None, own=False)
    if record.changed:
        why = f"{record.path} is gone or another file since setup has found it; run setup again."
        return WeightFile(path=record.path, names=(name,), dtype=row.dtype, reason=why, identity=name, content=name)
    own = bool(release) or record.sha256 not in published(name)
    return _file(record.path, name, release if own else record.sha256, lambda _: record.sha256, own=own)


def published(name: str) -> set[str | None]:
    """The sha256 of all published files that are this one."""
    model, rows = name.removesuffix("-fp8"), (*CATALOGUE.items(), *ALSO)
    return {row.sha256 for each, row in rows if each.removesuffix("-fp8") == model}


def _file(path: Path, name: str, mark: str | None, sha256: Callable[[Path], str | None], *, own: bool) -> WeightFile:
    """A file that is there; `mark` is the sha256 that it must have, None where it is for its header to say whether it
    serves. The user's `own` is known by its path, size and time.
    """
    row, stats = CATALOGUE[name], {each: stat(each) for each in shards(path)}
    size, dtype, header, why = sum(count for count, _ in stats.values()), row.dtype, None, ""
    if mark == row.sha256 and row.size not in (None, size):
        why = f"{path} has {size:,} bytes instead of {row.size:,}; get it again."
    if mark is None or row.role == "dit":
        from wanwrap.weights.identify import checked, look  # a run of weights that are not there waits for no import

        dtype = checked(look(path, sha256), name)
    if mark is None and path.suffix == ".safetensors":
        header = header_sha256(path)
    return WeightFile(
        path=path,
        names=(name,),
        usable=not why,
        reason=why,
        dtype=dtype,
        size=size,
        stamp=stats[path],
        sha256=mark,
        identity=":".join(f"{each}:{count}:{mtime}" for each, (count, mtime) in stats.items()) if own else str(mark),
        content=mark or f"{size}:{header or path.name}",
        header_sha256=header,
    )
