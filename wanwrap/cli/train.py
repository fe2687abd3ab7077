"""What `run` and `rehearse` do when they train: check all, carry the plan out, tell how far it is."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from wanwrap.cli.report import Renewal
from wanwrap.cli.run_words import again, going, run_json
from wanwrap.cli.terminal import show_json
from wanwrap.cli.words import expected, heading
from wanwrap.errors import WanwrapError
from wanwrap.plan import preflight
from wanwrap.plan.card import seen
from wanwrap.plan.fit import refitted
from wanwrap.plan.fit_words import line
from wanwrap.plan.plan import Plan
from wanwrap.plan.preflight import Machine
from wanwrap.run import run as work
from wanwrap.run.attempt import is_lost
from wanwrap.run.folders import check_folders, put_aside
from wanwrap.run.parallel import run_each
from wanwrap.run.record import command_line, read, standing
from wanwrap.run.run import bytes_to_save
from wanwrap.run.status import FETCHED, look
from wanwrap.run.training import Stopped
from wanwrap.system import console
from wanwrap.system.files import remove
from wanwrap.weights import marks


def train(plan: Plan, *, restart: bool, retry: bool, parallel: bool, as_json: bool) -> None:
    """Check all, then carry the plan out; with `as_json` the records come out however it ends."""
    check_folders(plan, restart=restart)
    console.say(*heading(plan), *(f"note: {note}" for note in _notes(plan)))
    if not restart:
        console.say(*filter(None, map(standing, plan.trainings)))
    todo = plan if restart else work.remaining(plan)
    machine = None
    if todo:
        todo, machine = _preflight(todo, together=parallel, restart=restart)
    if restart:
        put_aside(plan)
    if todo:
        remove(plan.folder / FETCHED)  # from now on it is this machine's
    try:
        if todo and machine and parallel and len(todo.trainings) > 1:
            _side_by_side(todo, machine)
        elif todo and machine:
            carry_out(todo, machine, retry=retry)
    finally:
        if as_json:
            show_json(run_json(look(plan.folder)))


def _notes(plan: Plan) -> Iterator[str]:
    yield from plan.notes
    folder = plan.request.base_dir / "resume_checkpoints"
    if folder.is_dir() and "network_weights" not in plan.request.given and any(folder.glob("*.safetensors")):
        yield f"LoRAs in {folder} are not used unasked; --resume_from FILE begins with the weights of one."


def _preflight(plan: Plan, *, together: bool, restart: bool) -> tuple[Plan, Machine]:
    """Everything that can be known to be wrong beforehand, what is cheap first; the plan fits the GPU that torch sees."""
    gpus = max(plan.request.gpus, len(plan.trainings) if together else 1)
    machine = preflight.check_machine(plan, gpus=gpus)
    console.say(*machine.upstream.remarks())
    before, plan = plan, refitted(plan, seen(machine.gpus[:gpus]))
    if plan is not before:
        console.say(*(f"{each.train.name}, {line(each)}{expected(each)}" for each in plan.fits))
    console.say(*preflight.check_gpu_memory(plan, machine, gpus))
    preflight.check_weights(plan, marks.thorough)
    preflight.check_tokenizers(plan)
    preflight.check_disk(plan, bytes_to_save(plan, restart=restart))
    preflight.check_ram(plan, together=together)
    return plan, machine


def carry_out(plan: Plan, machine: Machine, *, retry: bool = True) -> None:
    """Run it, with lines that tell how far it is, and in the end where it goes on.

    Raises:
        the errors of run.carry_out; SystemExit: it was stopped, as was asked.
    """
    page = Renewal(plan.folder)

    def show() -> None:
        run = look(plan.folder)
        console.show(going(run))
        page.look(run)

    try:
        work.carry_out(plan, machine, heading, show=show, retry=retry)
    except KeyboardInterrupt:
        console.say("\n" + _interrupted(plan))
        raise
    except Stopped as stopped:
        console.say(f"\n{stopped}\n{_interrupted(plan)}")
        raise SystemExit(Stopped.exit_code) from None  # as was asked: no error
    except WanwrapError:
        console.say("")  # upstream's progress bar ends without a new line
        raise
    finally:
        page.write()


def _interrupted(plan: Plan) -> str:
    """Where a run was stopped, and what is left of it."""
    if plan.request.upstream.child:
        return "stopped; a rehearsal begins anew the next time."
    words = [f"stopped; the same command{' without --restart' if '--restart' in sys.argv else ''} goes on."]
    for train in plan.trainings:
        record = read(train.folder)
        if record and record.attempts and record.state != "done":
            gone = f"{train.expert}: The state after epoch {record.saved_epoch} is damaged or gone."
            words.append(gone if is_lost(train, record.saved_epoch) else again(record, train.expert))
    return " ".join(words)


def _side_by_side(plan: Plan, machine: Machine) -> None:
    """Each expert as a run of its own, on a GPU of its own. Raises SystemExit: one has failed."""
    words = [word for word in command_line() if word not in ("--parallel", "--json")]
    try:
        if code := run_each(plan, machine, words):
            raise SystemExit(code)
    finally:
        Renewal(plan.folder).write()  # of both, when both have ended
