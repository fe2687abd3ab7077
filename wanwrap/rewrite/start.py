"""Merges and conversions as wanwrap starts them: is it made already, is there room, and the child that makes it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wanwrap import errors
from wanwrap.errors import OutputError, WeightsError
from wanwrap.paths import PACKAGE
from wanwrap.rewrite import convert, merge
from wanwrap.rewrite.job import Job
from wanwrap.system import console, disk, process
from wanwrap.system.failures import failure
from wanwrap.system.files import PART
from wanwrap.system.log import JsonLines
from wanwrap.system.safetensors import SHARD, open_source, shards, stat
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


def run_merge(*, dit: Path, lora: Path, out: Path, python: str, **options: Any) -> Made:
    """`options` holds merge.job's other arguments.

    Raises:
        the errors of merge.job; OutputError, RoomError, PackageError, StepError.
    """
    wanted = {"made": "merge", "strength": options["strength"], "precision": options["precision"]}
    wanted |= {} if options["allow_partial"] else {"left": ""}
    sources = {"from": (dit, options["dit_sha256"]), "lora": (lora, options["lora_sha256"])}
    if _is_there(out, sources):
        return _reused(out, wanted, sources)
    arguments = {"dit": dit, "lora": lora, **options}
    return _make("merge", merge.job(**arguments), arguments, out, python)


def run_convert(*, file: Path, out: Path, python: str, **options: Any) -> Made:
    """`options` holds convert.job's other arguments.

    Raises:
        the errors of convert.job; OutputError, RoomError, PackageError, StepError.
    """
    sources = {"from": (file, options["sha256"])}
    if _is_there(out, sources):
        return _reused(out, {"made": "convert", "precision": options["precision"]}, sources)
    arguments = {"file": file, **options}
    return _make("convert", convert.job(**arguments), arguments, out, python)


def _is_there(out: Path, sources: Sources) -> bool:
    """Whether there is a file already. Raises OutputError: it is no name for a new one."""
    for place in (out, out.with_name(out.name + PART)):
        if any(path.exists() and place.exists() and path.samefile(place) for path, _ in sources.values()):
            raise OutputError(f"{place} is a file that is read; give another --out.")
    if out.suffix != ".safetensors" or SHARD.search(out.name):
        raise OutputError(f"--out {out}: give a name that ends in .safetensors, and is none of a set of shards.")
    return out.exists()


def _reused(out: Path, wanted: Mapping[str, Any], sources: Sources) -> Made:
    """The file that is there, if it is whole and made as is wanted now. Raises OutputError: it is something else."""
    try:
        record = made_from(open_source(out).metadata)
    except WeightsError as error:
        raise OutputError(f"--out is there already, but damaged: {error} Delete it, or give another name.") from error
    settings = [(name, record.get(name), value) for name, value in wanted.items()]
    why = [f"with {name} {there!r}, not {value!r}" for name, there, value in settings if there != value]
    why += [
        f"not of {path} as it is now" for key, (path, mark) in sources.items() if not _same(path, record.get(key), mark)
    ]
    if why:
        raise OutputError(f"{out} is there already, made {', '.join(why)}; give another --out, or delete it.")
    return Made(out, record, reused=True)


def _same(path: Path, recorded: Any, mark: str | None) -> bool:
    """Whether `path` is what was recorded: by the sha256 that it must have, else by name, size and time.

    Raises:
        WeightsError: its sha256 is not known, and it is gone.
    """
    files = recorded if isinstance(recorded, list) else [recorded]
    try:
        if mark:
            return [file["sha256"] for file in files] == [mark]
        there = [(each.name, *stat(each)) for each in shards(path)]
        return there == [(file["name"], file["bytes"], file["mtime_ns"]) for file in files]
    except (KeyError, TypeError):  # another program's record
        return False


def _make(verb: str, job: Job, arguments: Mapping[str, Any], out: Path, python: str) -> Made:
    """Start the child and follow it."""
    disk.check(out.parent, job.bytes, within=[out])
    out.parent.mkdir(parents=True, exist_ok=True)
    order = json.dumps({"verb": verb, "out": out, **arguments}, default=str)
    argv = [python, str(PACKAGE / "rewrite" / "child.py"), order]
    began, what = time.monotonic(), "merging" if verb == "merge" else f"converting {job.source.paths[0].name}"
    answer: dict[str, Any] = {"done": 0}
    with console.bar(what, job.source.bytes, "B") as advance:

        def hear(words: dict[str, Any]) -> None:
            advance(words.get("done", answer["done"]) - answer["done"])
            answer.update(words)

        child = JsonLines(hear)
        status = process.run(process.Command(argv, out.parent, {"PYTHONUTF8": "1"}), child)
    if "error" in answer:
        raise getattr(errors, answer["kind"])(answer["error"])
    if status:
        text = "\n".join(child.printed[-15:])
        why = failure(status, text, ADVICE)
        raise why.error(f"{verb} {why.text}\n{text}")
    return Made(out, made_from(open_source(out).metadata), False, time.monotonic() - began, answer["device"])
