"""Merges and conversions as wanwrap starts them: is it made already, is there room, and the child that makes it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wanwrap import convert, errors, merge, room
from wanwrap.data import PACKAGE
from wanwrap.errors import OutputError, StepError, WanwrapError, WeightsError
from wanwrap.job import Job, made_from
from wanwrap.process import stream
from wanwrap.source import open_source, sha256, stat
from wanwrap.words import ended

Bar = Callable[[int], Callable[[int], object]]  # bytes in all -> what is told how many are done
Say = Callable[[str], object]


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


def run_merge(*, dit: Path, lora: Path, out: Path, python: str, bar: Bar, say: Say, **wish: Any) -> Made:
    """`wish` holds merge.job's other arguments.

    Raises:
        the errors of merge.job; OutputError, RoomError, PackageError, StepError.
    """
    wanted = {"made": "merge", "strength": wish["strength"], "precision": wish["precision"]}
    wanted |= {} if wish["allow_partial"] else {"left": ""}
    if found := _there(out, wanted, {"from": (dit, wish["dit_sha256"]), "lora": (lora, wish["lora_sha256"])}):
        return found
    arguments: dict[str, Any] = {"dit": dit, "lora": lora, **wish}
    return _make("merge", merge.job(**arguments), arguments, out, python, bar, say)


def run_convert(*, file: Path, out: Path, precision: str | None, python: str, bar: Bar, say: Say) -> Made:
    """Raises: the errors of convert.job; OutputError, RoomError, PackageError, StepError."""
    if found := _there(out, {"made": "convert", "precision": precision}, {"from": (file, None)}):
        return found
    arguments: dict[str, Any] = {"file": file, "precision": precision}
    return _make("convert", convert.job(**arguments), arguments, out, python, bar, say)


def _there(out: Path, wanted: Mapping[str, Any], sources: Mapping[str, tuple[Path, str | None]]) -> Made | None:
    """The file if it is there, whole, and made as is wanted now. Raises OutputError: it is something else."""
    if not out.exists():
        return None
    if any(path.exists() and path.samefile(out) for path, _ in sources.values()):
        raise OutputError(f"--out {out} is a file that is read; give another name.")
    try:
        record = made_from(open_source(out).metadata)
    except WeightsError as error:
        raise OutputError(f"--out is there already, but damaged: {error} Delete it, or give another name.") from error
    same = {name: record.get(name) for name in wanted} == wanted
    if not same or not all(_same(path, record.get(key), mark) for key, (path, mark) in sources.items()):
        raise OutputError(f"{out} is there already and was made of something else; give another --out, or delete it.")
    return Made(out, record, reused=True)


def _same(path: Path, recorded: Any, mark: str | None) -> bool:
    """Whether a record's files are those of `path`, as far as these are still there; `mark` is a sha256 they must have."""
    files = recorded if isinstance(recorded, list) else [recorded]
    for file in files:
        here = path if len(files) == 1 else path.with_name(file["name"])
        if mark not in (None, file.get("sha256")) or not (
            here.exists() or path.name in [each["name"] for each in files]
        ):
            return False
        if here.exists() and mark is None and stat(here) != (file["bytes"], file["mtime_ns"]):
            known = file.get("sha256") if here.stat().st_size == file["bytes"] else None
            return bool(known) and sha256(here) == known
    return True


def _make(verb: str, job: Job, arguments: Mapping[str, Any], out: Path, python: str, bar: Bar, say: Say) -> Made:
    """Start the child and follow it."""
    room.check(out.parent, job.bytes, within=[out])
    out.parent.mkdir(parents=True, exist_ok=True)
    words = {name: str(value) if isinstance(value, Path) else value for name, value in arguments.items()}
    order = json.dumps({"verb": verb, "out": str(out), **words})
    child, began = _Child(bar(job.source.bytes)), time.monotonic()
    argv = [python, str(PACKAGE / "rewrite_child.py"), order]
    status = stream(argv, out.parent, {"PYTHONUTF8": "1"}, child.listen, lambda: False, say)
    if child.error:
        raise child.error
    if status:
        text = "\n".join(child.printed[-15:])
        raise StepError(f"{verb} {ended(status, text)}\n{text}")
    return Made(out, made_from(open_source(out).metadata), False, time.monotonic() - began, child.device)


@dataclass
class _Child:
    """What the child says: progress for the bar, the device, an error; what else it prints is kept."""

    tell: Callable[[int], object]
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
            self.tell(words["done"])
        elif "error" in words:
            self.error = getattr(errors, words["kind"])(words["error"])
        self.device = words.get("device", self.device)
