"""Raw pictures and clips -> a data set that upstream reads rightly: find, name, make, remember."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event, Lock

from wanwrap.prepare.encode import check_encoder
from wanwrap.prepare.make import as_it_was, caption, make
from wanwrap.prepare.manifest import FOLDERS, Made, Manifest
from wanwrap.prepare.naming import name_all
from wanwrap.prepare.preparation import Preparation
from wanwrap.prepare.sources import Source, search
from wanwrap.system import console
from wanwrap.system.files import PART, lock
from wanwrap.system.process import cores, interruptible


@dataclass(kw_only=True)
class Report:
    """What came of it; `gone` are outputs whose sources are no longer there."""

    items: list[Made] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)


def prepare(place: Path, work: Preparation, report: Report) -> None:
    """Do all that is new, several at once, and put what came of each source into `report` as it comes.

    `place` is a folder or a file. Nothing is written in a dry run.

    Raises:
        DatasetError, OptionError: there is nothing, or the data set is where the originals lie.
        PackageError: av can't write clips.
        OutputError: another `prepare` is at work there, or the data set can't be written.
        OSError: the disk is full.
        KeyboardInterrupt: Ctrl-C or SIGTERM; what is done is kept and remembered.
    """
    sources, left = search(place, work.out)
    clips = sum(source.moving for source in sources)
    if clips:
        check_encoder()
    # all cores have work, however few clips there are
    work = replace(work, threads=max(1, cores() // max(1, clips)))
    try:
        if work.dry_run or not sources:
            report.items += left
            _all(sources, work, report)
            return
        for name in FOLDERS:
            (work.out / name).mkdir(parents=True, exist_ok=True)
        busy = f"another `wanwrap prepare` is at work in {work.out}; wait until it has ended."
        with interruptible(), lock(work.out / ".wanwrap-prepare", busy):
            for part in (work.out / "videos").glob(f"*{PART}"):
                part.unlink()  # a kill has left it
            report.items += left
            _all(sources, work, report)
    finally:
        report.items.sort(key=lambda made: made.source)


def _all(sources: Sequence[Source], work: Preparation, report: Report) -> None:
    manifest, recording = Manifest(work.out, keep=bool(sources) and not work.dry_run), Lock()
    manifest.find_moved({str(source.path): (source.size, source.mtime_ns) for source in sources})
    report.gone += sorted(name for key in manifest.gone() for name in manifest.rows[key].outputs)
    same = {source: as_it_was(source, manifest.rows.get(str(source.path), Made()), work) for source in sources}
    todo = name_all((source for source in sources if not same[source]), manifest.rows, work.out)
    manifest.write()

    def one(source: Source) -> None:
        made = same[source] or make(source, todo[source], work)
        if made.action != "failed":
            caption(source, made, work)
        with recording:
            report.items.append(made)
            manifest.record(str(source.path), made)
            step()

    def idle() -> None:
        with recording:
            step(0)

    with console.bar("looking at" if work.dry_run else "preparing", len(sources)) as step:
        try:
            _side_by_side(one, sources, work.stop, idle)
        finally:
            manifest.write()


def _side_by_side(
    one: Callable[[Source], None], sources: Sequence[Source], stop: Event, idle: Callable[[], object]
) -> None:
    """As many at once as there are cores. An error or Ctrl-C ends all."""
    pool = ThreadPoolExecutor(cores())
    try:
        # the longest first, so that none is left over
        left = {pool.submit(one, source) for source in sorted(sources, key=lambda source: -source.size)}
        while left:
            done, left = wait(left, timeout=0.5, return_when=FIRST_EXCEPTION)  # Windows hears no Ctrl-C in a longer one
            idle()  # time goes on
            for job in done:
                job.result()
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
