"""Merges and conversions as wanwrap starts them: is it made already, is there room, and the child that makes it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wanwrap import errors
from wanwrap.errors import OutputError, WanwrapError, WeightsError
from wanwrap.paths import PACKAGE
from wanwrap.rewrite import convert, merge
from wanwrap.rewrite.job import Job
from wanwrap.system import console, disk, process
from wanwrap.system.failures import failure
from wanwrap.system.files import PART
from wanwrap.system.safetensors import SHARD, header_sha256, open_source, shards, stat
from wanwrap.weights.provenance import made_from

ADVICE = {
    "gpu memory": "end what else is on the GPU, or set CUDA_VISIBLE_DEVICES=-1 to do without it",
    "memory": "close other programs",
}

Sources = Mapping[str, tuple[Path, str | None]]  # by their names in the record; the sha256 that they must have


@dataclass
class Made:
    """A new file, or with `reused` one that was there already; `made` is the record in its metadata."""

    out: Path
    made: Mapping[str, Any] = field(default_factory=dict)
    reused: bool = False
    seconds: float = 0.0
    device: str | None = None

    def json(self) -> dict[str, Any]:
        """For other programs."""
        size = self.out.stat().st_size
        return {**vars(self), "out": str(self.out), "bytes": size, "seconds": round(self.seconds, 1)}


def run_merge(*, dit: Path, lora: Path, out: Path, python: str, **wish: Any) -> Made:
    """`wish` holds merge.job's other arguments.

    Raises:
        the errors of merge.job; OutputError, RoomError, PackageError, StepError.
    """
    wanted = {"made": "merge", "strength": wish["strength"], "precision": wish["precision"]}
    wanted |= {} if wish["allow_partial"] else {"left": ""}
    sources = {"from": (dit, wish["dit_sha256"]), "lora": (lora, wish["lora_sha256"])}
    return _run(merge.job, {"dit": dit, "lora": lora, **wish}, wanted, sources, out, python)


def run_convert(*, file: Path, out: Path, python: str, **wish: Any) -> Made:
    """`wish` holds convert.job's other arguments.

    Raises:
        the errors of convert.job; OutputError, RoomError, PackageError, StepError.
    """
    wanted = {"made": "convert", "precision": wish["precision"]}
    return _run(convert.job, {"file": file, **wish}, wanted, {"from": (file, wish["sha256"])}, out, python)


def _run(
    decide: Callable[..., Job],
    arguments: Mapping[str, Any],
    wanted: Mapping[str, Any],
    sources: Sources,
    out: Path,
    python: str,
) -> Made:
    """What is there already, else what the child makes. A mistake in the sources is told before one in `out`."""
    _check_out(out, [path for path, _ in sources.values()])
    if not out.exists():
        return _make(str(wanted["made"]), decide(**arguments), arguments, out, python)
    if all(path.is_file() for path, _ in sources.values()):
        decide(**arguments)
    return _there(out, wanted, sources)


def _there(out: Path, wanted: Mapping[str, Any], sources: Sources) -> Made:
    """The file that is there, if it is whole and made as is wanted now. Raises OutputError: it is something else."""
    for path, mark in sources.values():
        if not (mark or path.is_file()):
            raise WeightsError(f"there is no file {path}; look at its path.")
    try:
        record = made_from(open_source(out).metadata)
    except WeightsError as error:
        raise OutputError(f"--out is there already, but damaged: {error} Delete it, or give another name.") from error
    why = [
        f"with {name} {record.get(name)!r}, not {value!r}"
        for name, value in wanted.items()
        if record.get(name) != value
    ]
    why += [
        f"not of {path} as it is now" for key, (path, mark) in sources.items() if not _same(path, record.get(key), mark)
    ]
    if why:
        raise OutputError(f"{out} is there already, made {', '.join(why)}; give another --out, or delete it.")
    return Made(out, record, reused=True)


def _check_out(out: Path, sources: Sequence[Path]) -> None:
    """Raises OutputError: no name for a new file."""
    for place in (out, out.with_name(out.name + PART)):
        if any(path.exists() and place.exists() and path.samefile(place) for path in sources):
            raise OutputError(f"{place} is a file that is read; give another --out.")
    if out.suffix != ".safetensors" or SHARD.search(out.name):
        raise OutputError(f"--out {out}: give a name that ends in .safetensors, and is none of a set of shards.")
    if out.exists() and not out.is_file():
        raise OutputError(f"--out {out} is no file; give another name.")


def _same(path: Path, recorded: Any, mark: str | None) -> bool:
    """Whether `path` is what was recorded: by the sha256 that it must have, else by name, size, time and header."""
    files = recorded if isinstance(recorded, list) else [recorded]
    try:
        if mark:
            return [file["sha256"] for file in files] == [mark]
        paths = list(shards(path))
        if [(each.name, *stat(each)) for each in paths] != [(f["name"], f["bytes"], f["mtime_ns"]) for f in files]:
            return False
        pairs = zip(paths, files, strict=True)
        return all("sha256" in file or header_sha256(each) == file["header_sha256"] for each, file in pairs)
    except (KeyError, TypeError):  # another program's record
        return False


def _make(verb: str, job: Job, arguments: Mapping[str, Any], out: Path, python: str) -> Made:
    """Start the child and follow it."""
    disk.check(out.parent, job.bytes, within=[out])
    out.parent.mkdir(parents=True, exist_ok=True)
    words = {name: str(value) if isinstance(value, Path) else value for name, value in arguments.items()}
    order = json.dumps({"verb": verb, "out": str(out), **words})
    began, argv = time.monotonic(), [python, str(PACKAGE / "rewrite" / "child.py"), order]
    what = "merging" if verb == "merge" else f"converting {job.source.paths[0].name}"
    with console.bar(what, job.source.bytes, "B") as done:
        child = _Child(done)
        status = process.run(process.Command(argv, out.parent, {"PYTHONUTF8": "1"}), child.listen)
    if child.error:
        raise child.error
    if status:
        text = "\n".join(child.printed[-15:])
        why = failure(status, text, ADVICE)
        raise why.error(f"{verb} {why.text}\n{text}")
    return Made(out, made_from(open_source(out).metadata), False, time.monotonic() - began, child.device)


@dataclass
class _Child:
    """What the child says: progress for the bar, the device, an error; what else it prints is kept."""

    done: Callable[[int], object]
    told: int = 0  # bytes
    device: str | None = None
    error: WanwrapError | None = None
    printed: list[str] = field(default_factory=list)
    rest: bytes = b""

    def listen(self, chunk: bytes) -> None:
        *lines, self.rest = (self.rest + chunk).split(b"\n")
        for line in lines:
            self._line(line.decode("utf-8", "replace"))

    def _line(self, line: str) -> None:
        try:
            words = json.loads(line) if line.startswith("{") else {}
        except ValueError:
            words = {}
        if not words:
            self.printed.append(line)
        elif "done" in words:
            self.done(words["done"] - self.told)
            self.told = words["done"]
        elif "error" in words:
            self.error = getattr(errors, words["kind"])(words["error"])
        self.device = words.get("device", self.device)
