"""Raw pictures and clips -> a data set that upstream reads rightly: find, name, make, remember."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from wanwrap.data.media import Unfit, why
from wanwrap.errors import FULL, WanwrapError
from wanwrap.prepare import clip, picture
from wanwrap.prepare.captions import check_template, remove_output, write_captions
from wanwrap.prepare.encode import check_encoder
from wanwrap.prepare.manifest import FOLDERS, Made, read_rows, write_rows
from wanwrap.prepare.preparation import FOR_ANIMATIONS, FOR_CLIPS, FOR_PICTURES, Preparation
from wanwrap.prepare.sources import Source, name_all, search
from wanwrap.system import console
from wanwrap.system.files import PART, lock, remove
from wanwrap.system.process import cores, interruptible

OFTEN = 5  # seconds between two writes of what is done; it grows with the data set


@dataclass(kw_only=True)
class Report:
    """What came of it, in no order; `gone` are outputs whose sources are no longer there."""

    items: list[Made] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)


def prepare(place: Path, work: Preparation, report: Report) -> None:
    """Do all that is new, several at once, and put what came of each source into `report` as it comes.

    `place` is a folder or a file. Nothing is written in a dry run.

    Raises:
        DatasetError, OptionError: there is nothing, the data set is where the originals lie, options contradict.
        PackageError: av can't write clips.
        OutputError: another `prepare` is at work there, or the data set can't be written.
        OSError: the disk is full.
        KeyboardInterrupt: Ctrl-C or SIGTERM; what is done is kept and remembered.
    """
    work.check()
    check_template(work)
    sources, left = search(place, work.out)
    clips = sum(source.moving for source in sources)
    if clips:
        check_encoder()
    # all cores have work, however few clips there are
    work = replace(work, threads=max(1, cores() // max(1, clips)))
    with _alone(work.out) if sources and not work.dry_run else nullcontext():
        report.items += left
        _all(sources, work, report)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """The data set's folders, in which no other `prepare` is at work."""
    for name in FOLDERS:
        (out / name).mkdir(parents=True, exist_ok=True)
    busy = f"another `wanwrap prepare` is at work in {out}; wait until it has ended."
    with interruptible(), lock(out / ".wanwrap-prepare", busy):
        for part in (out / "videos").glob(f"*{PART}"):
            remove(part)  # a kill has left it
        yield


def _all(sources: Sequence[Source], work: Preparation, report: Report) -> None:
    rows = read_rows(work.out)
    lost = [row for key, row in rows.items() if not Path(key).exists()]
    report.gone += sorted(name for row in lost for name in row.outputs if (work.out / name).is_file())
    if not sources:
        return
    same = {source: as_it_was(source, rows.get(str(source.path), Made()), work) for source in sources}
    todo = name_all((source for source in sources if not same[source]), rows, work.out)

    def one(source: Source) -> None:
        made = same[source] or make(source, todo[source], work)
        if made.action != "failed":
            write_captions(source, made, work)
        report.items.append(made)
        rows[str(source.path)] = made
        if not made.outputs:
            del rows[str(source.path)]  # its name is free again

    def remember() -> None:
        if not work.dry_run:
            write_rows(work.out, rows.copy())  # others are at it

    remember()
    try:
        _side_by_side(one, sources, remember, "looking at" if work.dry_run else "preparing")
    finally:
        remember()


def _side_by_side(
    one: Callable[[Source], None], sources: Sequence[Source], remember: Callable[[], None], what: str
) -> None:
    """As many at once as there are cores. After an error or Ctrl-C nothing more is begun."""
    pool, written = ThreadPoolExecutor(cores()), time.monotonic()
    try:
        # the longest first, so that none is left over
        left = {pool.submit(one, source) for source in sorted(sources, key=lambda source: -source.size)}
        with console.bar(what, len(sources)) as step:
            while left:
                done, left = wait(left, timeout=0.5)  # Windows hears no Ctrl-C in a longer one
                step(len(done))  # also where nothing is done: time goes on
                for job in done:
                    job.result()
                if done and time.monotonic() - written > OFTEN:
                    remember()
                    written = time.monotonic()
    finally:
        pool.shutdown(cancel_futures=True)


def as_it_was(source: Source, row: Made, work: Preparation) -> Made | None:
    """What was made of a source as it is now, as far as it is still there; None where it is to be made anew.

    What somebody has removed since is not wanted, whatever the settings.
    """
    if not row.outputs or (row.size, row.mtime_ns) != (source.size, source.mtime_ns):
        return None
    there = [name for name in row.outputs if (work.out / name).is_file()]
    if removed := len(row.outputs) - len(there):
        reason = f"{removed} of {len(row.outputs)} removed from the data set (--again makes them anew)"
        return None if work.again else replace(row, source=source.name, there=there, action="left out", reason=reason)
    same = row.settings.items() <= work.settings().items()
    return replace(row, source=source.name, there=there) if same else None


def make(source: Source, row: Made, work: Preparation) -> Made:
    """Make the outputs of a source; its row is a new one, which counts unless it has failed.

    Raises:
        OSError: the data set can't be written.
        KeyboardInterrupt: all is being ended.
    """
    made = Made(source=source.name, name=row.name, caption=row.caption)
    made.size, made.mtime_ns = source.size, source.mtime_ns
    try:
        _make(source, made, work)
    except WanwrapError:
        raise
    except Exception as error:  # whatever a decoder raises, the file is what is wrong
        ours = isinstance(error, OSError) and work.out in Path(str(error.filename)).parents
        if ours or getattr(error, "errno", None) in FULL:
            raise
        reason = str(error) if isinstance(error, Unfit) else f"it can't be read: {why(source.path, error)}"
        return replace(row, source=source.name, action="failed", reason=reason)
    made.there = made.outputs
    if not work.dry_run:
        for name in {*row.outputs} - {*made.outputs}:
            remove_output(work.out / name, row)
    return made


def _make(source: Source, made: Made, work: Preparation) -> None:
    if source.moving:
        made.settings = work.settings(FOR_CLIPS)
        clip.make(clip.look(source.path, work), made, work)
    elif picture.moves(source.path):
        made.settings = work.settings(FOR_ANIMATIONS)
        clip.make(clip.animation(source.path, work), made, work)
    else:
        made.settings = work.settings(FOR_PICTURES)
        picture.make(source.path, made, work)
