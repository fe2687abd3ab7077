"""What lies in a run's folders before it begins: the same training, another one, what nobody knows; and out of its way."""

from __future__ import annotations

from contextlib import AbstractContextManager, suppress
from pathlib import Path

from wanwrap.errors import OutputError, listing
from wanwrap.plan.plan import Plan, Train
from wanwrap.run import record as records
from wanwrap.run.attempt import leftovers, remove_leftovers
from wanwrap.run.comfyui import WORKFLOW
from wanwrap.run.status import EXPERTS
from wanwrap.system import console, disk
from wanwrap.system.files import is_locked, lock, move
from wanwrap.upstream import states

SAMPLES = "samples"  # of the LoRAs of both experts, by `wanwrap sample`
BUSY = "another wanwrap is at work in {}; `wanwrap status` tells what it does, `wanwrap stop` ends it."
NO_RECORD = (
    "{} holds {} of which no record is there; give another --output_name, move them away, or begin anew with --restart "
    "(they are put aside)."
)


def check_folders(plan: Plan, *, restart: bool = False) -> None:
    """What the plan's folders tell; a `restart` puts aside what is there.

    Raises:
        OutputError: they can't be written, are in use, or hold another training or files that nobody knows of.
    """
    for place in (plan.folder, *plan.caches):
        disk.writable(place)
    check_others(plan)
    for train in plan.trainings:
        if is_locked(train.folder):
            raise OutputError(BUSY.format(train.folder))
        if not restart:
            check_folder(plan, train)
    if restart and is_locked(plan.folder / SAMPLES):
        raise OutputError(f"`wanwrap sample` is at work in {plan.folder / SAMPLES}; wait for it, or end it.")


def check_others(plan: Plan) -> None:
    """Raises OutputError: the other expert of the run is not one to use together with those of the plan."""
    mine = records.trained_as(records.inference(plan.request))
    for name in {*EXPERTS} - {train.expert for train in plan.trainings}:
        other = records.begun(plan.folder / name)
        if other and other.inference and (theirs := records.trained_as(other.inference)) != mine:
            raise OutputError(
                f"{plan.folder / name} was trained as {theirs}, and this is {mine}: they can't be used together; give "
                "another --output_name."
            )


def hold(train: Train) -> AbstractContextManager[bool]:
    """An expert's folder, for this process alone; False where the drive has no locks. Raises OutputError: in use."""
    return lock(train.folder, BUSY.format(train.folder))


def check_folder(plan: Plan, train: Train) -> None:
    """Raises OutputError: an expert's folder holds another training, or files that nobody knows of."""
    begun = records.begun(train.folder)
    if begun and begun.state == "begun by 0.1.0":
        raise OutputError(
            f"{plan.folder / 'training'} holds a training of {train.expert} that wanwrap 0.1.0 has begun: end it with "
            "that version, give another --output_name, or begin anew with --restart (what is there is put aside)."
        )
    if begun:
        records.check_same(plan, train, begun.settings)
    elif loras := sorted(path.name for path in _loras(train)):
        raise OutputError(NO_RECORD.format(plan.folder, f"LoRAs ({listing(loras)})"))
    elif attempts := leftovers(train.folder):
        raise OutputError(NO_RECORD.format(plan.folder, f"a training that was begun by hand ({attempts[0]})"))


def _loras(train: Train) -> list[Path]:
    """Those that lie in the run's folder."""
    there = train.folder.parent.iterdir() if train.folder.parent.is_dir() else ()
    return [path for path in there if states.lora_epoch(path.name, train.label) is not None]


def put_aside(plan: Plan) -> None:
    """Move what earlier runs of these experts have made into a folder of its own; their states go. Says where."""
    if not plan.folder.is_dir():
        return
    for train in plan.trainings:
        training = plan.folder / "training"  # 0.1.0's, as is logs/
        of_0_1_0 = [training / f"{train.expert}.json", *training.glob(f"{train.expert}-*")]
        with hold(train):
            remove_leftovers(train)
            made = [*_loras(train), train.folder, plan.folder / "logs" / train.expert, *of_0_1_0]
            made += [plan.folder / SAMPLES, plan.folder / WORKFLOW]  # which show those
            if there := [path for path in made if path.exists()]:
                aside = _new_folder(plan.folder)
                for path in there:
                    place = aside / path.relative_to(plan.folder)
                    place.parent.mkdir(exist_ok=True)
                    move(path, place)
                console.say(f"what was there of {train.expert} is in {aside} now")


def _new_folder(folder: Path) -> Path:
    """The next `before-N`, made: the other expert's run may make one at the same moment."""
    number = 1
    while True:
        aside = folder / f"before-{number}"
        with suppress(FileExistsError):
            aside.mkdir()
            return aside
        number += 1
