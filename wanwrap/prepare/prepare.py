"""Raw pictures and clips -> a data set that upstream reads rightly: find, name, make, remember."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from wanwrap.errors import PackageError
from wanwrap.prepare.make import WORK, Maker
from wanwrap.prepare.manifest import FOLDERS, Made, Manifest
from wanwrap.prepare.naming import name_all
from wanwrap.prepare.sources import Found, Source, search
from wanwrap.system import console
from wanwrap.system.files import lock
from wanwrap.system.process import interruptible


@dataclass(kw_only=True)
class Report:
    """What came of it; `gone` are outputs whose sources are no longer there."""

    out: Path
    planned: bool
    items: list[Made] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    begun: bool = False


def prepare(place: Path, maker: Maker, report: Report) -> None:
    """Do all that is new, several at once, and put what came of each source into `report` as it comes.

    `place` is a folder or a file. Nothing is written where the maker only tells.

    Raises:
        DatasetError, OptionError: there is nothing, or the data set is where the originals lie.
        PackageError: av can't write clips.
        OutputError: another `prepare` is at work there, or the data set can't be written.
        OSError: the disk is full.
        KeyboardInterrupt: Ctrl-C or SIGTERM; what is done is kept and remembered.
    """
    found, out = search(place, maker.out), maker.out
    if any(source.moving for source in found.sources):
        check_encoder()
    report.items += found.left
    if maker.dry_run or not found.sources:
        _all(found, maker, report)
        return
    for name in FOLDERS:
        (out / name).mkdir(parents=True, exist_ok=True)
    work, busy = out / WORK, f"another `wanwrap prepare` is at work in {out}; wait until it has ended."
    with interruptible(), lock(work, busy):
        shutil.rmtree(work, ignore_errors=True)  # what a power cut left
        work.mkdir()
        try:
            _all(found, maker, report)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def check_encoder() -> None:
    """Raises PackageError: this build of av writes no H.264."""
    import av

    try:
        av.Codec("libx264", "w")
    except ValueError as error:
        raise PackageError(
            "this build of av has no libx264, which writes clips; "
            "python -m pip install --force-reinstall --only-binary av av brings one that has."
        ) from error


def _all(found: Found, maker: Maker, report: Report) -> None:
    manifest, sources = Manifest(maker.out), {str(source.path): source for source in found.sources}
    rows, writes = manifest.rows, bool(sources) and not maker.dry_run
    manifest.add({key: source.row() for key, source in sources.items()})
    name_all(sources, rows, maker.out, maker.current)
    for key, row in rows.items():
        if row.folder == str(found.folder) and key not in sources:
            report.gone += row.outputs or ()
    # threads of each encoder: all cores have work, however few clips there are
    maker.threads = max(1, _cores() // max(1, sum(source.moving for source in found.sources)))
    report.begun = True
    with console.bar("preparing" if writes else "looking at", len(sources)) as step:

        def finished(key: str, made: Made) -> None:
            report.items.append(made)
            if writes and made.action != "failed":
                rows[key] = made
                manifest.write()
            step()

        try:
            if writes:
                manifest.write(now=True)
            _side_by_side(sources, rows, maker, finished, lambda: step(0))
        finally:
            if writes:
                manifest.write(now=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _side_by_side(
    sources: Mapping[str, Source],
    rows: Mapping[str, Made],
    maker: Maker,
    finished: Callable[[str, Made], None],
    idle: Callable[[], object],
) -> None:
    """As many at once as there are cores. An error or Ctrl-C ends all; what has been finished by then counts."""
    order = sorted(sources, key=lambda key: -sources[key].size)  # the longest first, so that none is left over
    with ThreadPoolExecutor(_cores()) as pool:
        waiting = {pool.submit(maker.make, sources[key], rows[key]): key for key in order}
        try:
            while waiting:
                # not for ever: Windows hears no Ctrl-C meanwhile
                done, _ = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
                idle()  # time goes on
                for job in done:
                    finished(waiting.pop(job), job.result())
        except BaseException:
            maker.stop.set()
            pool.shutdown(cancel_futures=True)
            for job, key in waiting.items():
                if not job.cancelled() and job.exception() is None:
                    finished(key, job.result())
            raise
