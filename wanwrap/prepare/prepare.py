"""Raw pictures and clips -> a data set that upstream reads rightly: name, decide, make, remember."""

from __future__ import annotations

import os
import shutil
import threading
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path

from wanwrap.data.media import CAPTION
from wanwrap.prepare.caption_text import Wording
from wanwrap.prepare.clip import Limits
from wanwrap.prepare.encode import check_encoder
from wanwrap.prepare.making import Maker, Result
from wanwrap.prepare.manifest import FOLDERS, Entry, Prepared
from wanwrap.prepare.naming import NUMBER, Names
from wanwrap.prepare.sources import Found, Source, search
from wanwrap.system import console
from wanwrap.system.files import lock
from wanwrap.system.process import interruptible

WORK = ".wanwrap-prepare.tmp"  # in the data set, so that a finished file is moved and not copied


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What the user asked for: `place` is a folder or a file, `out` the data set."""

    place: Path
    out: Path
    limits: Limits
    wording: Wording
    again: bool = False


@dataclass(kw_only=True)
class Report:
    """What came of it; `gone` are outputs whose sources are no longer there."""

    out: Path
    items: list[Result] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    planned: bool = False
    begun: bool = False


def prepare(wish: Wish, report: Report, *, dry_run: bool = False) -> None:
    """Do all that is new, several at once, and put what came of each source into `report` as it comes.

    Raises:
        DatasetError, OptionError: there is nothing, or the data set is where the originals lie.
        PackageError: av can't write clips.
        OutputError: another `prepare` is at work there, or the data set can't be written.
        OSError: the disk is full.
        KeyboardInterrupt: Ctrl-C or SIGTERM; what is done is kept and remembered.
    """
    found = search(wish.place, wish.out)
    if any(source.moving for source in found.sources):
        check_encoder()
    report.items += [Result(source=name, action="left out", reason=why) for name, why in found.other.items()]
    report.items += [Result(source=name, action="failed", reason=why) for name, why in found.failed.items()]
    if dry_run or not found.sources:  # nothing is written
        _all(wish, found, Prepared(wish.out), report, dry_run=True)
        report.planned = dry_run
        return
    for name in FOLDERS:
        (wish.out / name).mkdir(parents=True, exist_ok=True)
    work, busy = wish.out / WORK, f"another `wanwrap prepare` is at work in {wish.out}; wait until it has ended."
    with interruptible(), lock(work, busy):
        shutil.rmtree(work, ignore_errors=True)  # what a power cut left
        work.mkdir()
        try:
            _all(wish, found, Prepared(wish.out), report, dry_run=False)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _all(wish: Wish, found: Found, prepared: Prepared, report: Report, *, dry_run: bool) -> None:
    report.planned, report.begun = dry_run, True
    keys = {str(source.path): source for source in found.sources}
    maker = Maker(wish.out, wish.out / WORK, wish.limits, wish.wording, _threads(found), wish.again)
    _name(wish.out, found, keys, prepared, maker)
    report.gone = [name for entry in prepared.gone(found.folder, set(keys)) for name in entry.outputs or ()]
    if not dry_run:
        prepared.write(now=True)
    with console.bar("looking at" if dry_run else "preparing", len(keys)) as step:

        def finished(key: str, result: Result | None) -> None:
            if result is None:
                step(0)  # time goes on
                return
            report.items.append(result)
            if result.entry and not dry_run:
                prepared.entries[key] = result.entry
                prepared.write()
            step()

        try:
            order = sorted(keys, key=lambda key: -keys[key].size)  # the longest first, so that none is left over
            do = maker.plan if dry_run else maker.make
            _side_by_side({key: (keys[key], prepared.entries[key]) for key in order}, do, finished, maker.stop)
        finally:
            if not dry_run:
                prepared.write(now=True)


def _name(out: Path, found: Found, keys: dict[str, Source], prepared: Prepared, maker: Maker) -> None:
    """A stem for every source: the one that it had, or a new one. What others put there is never written over."""
    prepared.adopt(found.folder, {key: (source.name, source.size, source.mtime_ns) for key, source in keys.items()})
    names, there = Names(prepared.stems(out)), _there(out)
    for key, source in sorted(keys.items(), key=lambda pair: (len(pair[1].path.stem), pair[0])):  # cat before cat(1)
        entry = prepared.entries.get(key)
        if entry and maker.current(source, entry):
            continue
        if entry and not _taken(entry, there):
            entry.pending = True
            continue
        old = entry or Entry(folder=str(found.folder), source=source.name, name="")
        prepared.entries[key] = replace(old, name=names.claim(source.path.stem, source.name))


def _there(out: Path) -> dict[str, set[str]]:
    """Media that lie in the data set, by stem without a piece's number."""
    files = defaultdict[str, set[str]](set)
    for folder in FOLDERS:
        for path in (out / folder).iterdir() if (out / folder).is_dir() else ():
            if path.suffix != CAPTION:
                files[NUMBER.sub("", path.stem.lower())].add(f"{folder}/{path.name}")
                files[path.stem.lower()].add(f"{folder}/{path.name}")
    return files


def _taken(entry: Entry, there: dict[str, set[str]]) -> bool:
    """Whether somebody has put a file under the name since; of an interrupted run all are its own."""
    return (
        entry.outputs is not None
        and not entry.pending
        and bool(there.get(entry.name.lower(), set()) - set(entry.outputs))
    )


def _threads(found: Found) -> int:
    """Threads of each encoder: all cores have work, however few clips there are."""
    return max(1, _cores() // max(1, sum(source.moving for source in found.sources)))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _side_by_side(
    jobs: dict[str, tuple[Source, Entry]],
    do: Callable[[Source, Entry], Result],
    finished: Callable[[str, Result | None], None],
    stop: threading.Event,
) -> None:
    """As many at once as there are cores; `finished` gets each, and now and then None where nothing is.

    An error or Ctrl-C sets `stop`, which ends all; what has been finished by then counts.
    """
    with ThreadPoolExecutor(_cores()) as pool:
        waiting = {pool.submit(do, *job): key for key, job in jobs.items()}
        try:
            while waiting:
                # not for ever: Windows hears no Ctrl-C meanwhile
                done, _ = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
                for job in done:
                    finished(waiting.pop(job), job.result())
                if not done:
                    finished("", None)
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            for job, key in waiting.items():
                if not job.cancelled() and job.exception() is None:
                    finished(key, job.result())
            raise
