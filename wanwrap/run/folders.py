"""What lies in a run's folders before it begins: the same training, another one, what nobody knows; and out of its way."""

from __future__ import annotations

import itertools
from contextlib import suppress
from pathlib import Path

from wanwrap.errors import OutputError, listing
from wanwrap.plan.plan import Plan, Train
from wanwrap.run import record as records
from wanwrap.run import version_1
from wanwrap.system import console, disk
from wanwrap.system.files import is_locked, lock
from wanwrap.upstream import states

BUSY = "another wanwrap is at work in {}; `wanwrap status` tells what it does, `wanwrap stop` ends it."


def check_folders(plan: Plan, *, restart: bool = False) -> None:
    """What the plan's folders tell; a `restart` puts aside what is there.

    Raises:
        OutputError: they can't be written, are in use, or hold another training or files that nobody knows of.
    """
    for place in (plan.folder, *plan.caches):
        disk.writable(place)
    for train in plan.trainings:
        if is_locked(train.folder):
            raise OutputError(BUSY.format(train.folder))
        if not restart:
            check_folder(plan, train)


def check_folder(plan: Plan, train: Train) -> None:
    """Raises OutputError: an expert's folder holds another training, or files that nobody knows of."""
    found = records.begun(train.folder)
    before = found.settings if found else version_1.settings(plan.folder, train.expert)
    if before is not None:
        records.check_same(plan, train, before)
        return
    unknown = sorted(path.name for path in _loras(train))
    begun = (
        [path for path in train.folder.iterdir() if path.name.startswith("attempt-")] if train.folder.is_dir() else []
    )
    if unknown or begun:
        what = f"LoRAs ({listing(unknown)})" if unknown else f"a training that was begun by hand ({begun[0]})"
        raise OutputError(
            f"{plan.folder} holds {what} of which no record is there; give another --output_name, move them away, or "
            "begin anew with --restart (they are put aside)."
        )


def _loras(train: Train) -> list[Path]:
    """Those that lie in the run's folder."""
    there = train.folder.parent.iterdir() if train.folder.parent.is_dir() else ()
    return [path for path in there if states.lora_epoch(path.name, train.label) is not None]


def put_aside(plan: Plan) -> None:
    """Move what earlier runs of these experts have made into a folder of its own; their states go. Says where."""
    if not plan.folder.is_dir():
        return
    for train in plan.trainings:
        with lock(train.folder, BUSY.format(train.folder)):
            loras = _loras(train)
            if not (train.folder.exists() or loras or version_1.is_there(plan.folder, train.expert)):
                continue
            aside = _new_folder(plan.folder)
            version_1.put_aside(plan.folder, train.expert, aside)
            if train.folder.exists():
                train.folder.replace(aside / train.expert)
            for path in loras:
                path.replace(aside / path.name)
            for path in (aside / train.expert).glob("*/"):
                if path.name.startswith(("state-", "attempt-")):
                    states.remove(path)
            console.say(f"what was there of {train.expert} is in {aside} now")


def _new_folder(folder: Path) -> Path:
    """The next `before-N`, made: the other expert's run may make one at the same moment."""
    for number in itertools.count(1):
        with suppress(FileExistsError):
            (aside := folder / f"before-{number}").mkdir()
            return aside
    raise AssertionError
