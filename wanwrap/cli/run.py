"""The verb that trains."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wanwrap.cli.options import PATH, RUN, RunVerb, option, with_options
from wanwrap.cli.terminal import show_json
from wanwrap.errors import OptionError, WanwrapError
from wanwrap.system import console

if TYPE_CHECKING:
    from wanwrap.plan.plan import Plan
    from wanwrap.plan.preflight import Machine
    from wanwrap.plan.request import Request
    from wanwrap.plan.script import Shell
    from wanwrap.run.comfyui import LoraFolder


@click.command(
    cls=RunVerb,
    epilog="Example: wanwrap run t2v-vanilla cats --noise_level low --epochs 30 -- --max_grad_norm 0",
)
@with_options(RUN)
@option("--dry_run", is_flag=True, help="Print the run as a script instead; needs neither upstream nor weights.")
@option("--parallel", is_flag=True, help="Both experts side by side, on a GPU each.", group="Environment")
@option("--shell", type=click.Choice(["bash", "powershell"]), help="The script's language.", group="Control")
@option("--restart", is_flag=True, help="Begin anew; what an earlier run has made is put aside.", group="Control")
@option("--no_retry", is_flag=True, help="Out of memory ends it, instead of swapping more blocks.", group="Control")
@option("--to_comfyui", is_flag=True, help="Copy the finished LoRAs into ComfyUI's models/loras.", group="Control")
@option("--comfyui_dir", type=PATH, help="Which ComfyUI (default: the one that setup was given).", group="Control")
@option(
    "--json", "as_json", is_flag=True, help="With --dry_run the plan, else the run's records, as JSON.", group="Control"
)
def run(
    dry_run: bool, parallel: bool, shell: Shell | None, restart: bool, no_retry: bool, as_json: bool, **options: Any
) -> None:
    """Train a PRESET (a name, or your own ./file.py) on a DATASET.

    DATASET is a folder, the name of one in BASE_DIR/datasets, or a TOML of your own; `sample` is wanwrap's own. It is
    cached, then each expert is trained. The same command again goes on where a run has stopped, whatever has stopped
    it: from the last whole state, with the same learning rates as without the stop.

    What stands after `--` goes to upstream's training command, checked against its options.
    """
    from wanwrap.plan.build import build
    from wanwrap.plan.request import read

    to_comfyui, comfyui_dir = options.pop("to_comfyui"), options.pop("comfyui_dir")
    if parallel and options["gpus"] > 1:
        raise OptionError(
            "--parallel gives each expert a GPU, --gpus several to one after the other; give one of them."
        )
    if comfyui_dir and not to_comfyui:
        raise OptionError("--comfyui_dir says where --to_comfyui copies the LoRAs; give both, or neither.")
    request = read(**options)
    if not dry_run:
        from wanwrap.data.probed import read_apart

        read_apart()
    plan = build(request, whole=not dry_run)
    target = _target(request, plan, comfyui_dir) if to_comfyui else None
    if dry_run:
        _print(plan, shell, as_json, target)
        return
    from wanwrap.run.comfyui import place

    train(plan, restart=restart, retry=not no_retry, parallel=parallel, as_json=as_json)
    placed = place(plan, target) if target else []
    if as_json:
        for line in placed:
            console.say(line)
    else:
        from wanwrap.cli.words import finished

        click.echo("\n".join(finished(plan, placed)))


def _target(request: Request, plan: Plan, given: Path | None) -> LoraFolder:
    from wanwrap.run.comfyui import check

    return check(plan, given, request.workspace.comfyui)


def _print(plan: Plan, shell: Shell | None, as_json: bool, target: LoraFolder | None) -> None:
    """The plan on stdout; what is missing for it, and how `run` differs where it has begun, on stderr."""
    from wanwrap.cli.words import heading, lacking, plan_json
    from wanwrap.plan.preflight import missing
    from wanwrap.plan.script import native, script

    needed = missing(plan)
    if as_json:
        show_json({**plan_json(plan), "missing": needed})
    else:
        click.echo(script(plan, shell or native(), heading(plan)), nl=False)
    for note in plan.notes:
        console.say(f"note: {note}")
    if plan.folder.is_dir():
        from wanwrap.run.record import standing

        for words in filter(None, map(standing, plan.trainings)):
            console.say(f"note: {words}; that is what `run` does, and this script begins anew.")
    if target:
        console.say(f"note: `run` then copies the LoRAs to {target.folder}; the script leaves that to you.")
    for line in lacking(needed):
        console.say(line)


def train(plan: Plan, *, restart: bool, retry: bool, parallel: bool, as_json: bool) -> None:
    """Check all, then carry the plan out; with `as_json` the records come out however it ends."""
    from wanwrap.run import run as work
    from wanwrap.run.record import standing

    work.check_folders(plan, restart=restart)
    _begin(plan)
    for words in filter(None, map(standing, plan.trainings if not restart else ())):
        console.say(words)
    todo = plan if restart else work.remaining(plan)
    machine = _preflight(todo, together=parallel, restart=restart) if todo else None
    if restart:
        work.put_aside(plan)
    try:
        if todo and machine and parallel and len(todo.trainings) > 1:
            _side_by_side(todo, machine)
        elif todo and machine:
            carry_out(todo, machine, retry=retry)
    finally:
        if as_json:
            from wanwrap.cli.run_words import run_json
            from wanwrap.run.status import look

            show_json(run_json(look(plan.folder)))


def _begin(plan: Plan) -> None:
    from wanwrap.cli.words import heading

    for line in (*heading(plan), *(f"note: {note}" for note in plan.notes)):
        console.say(line)
    folder = plan.request.base_dir / "resume_checkpoints"
    if folder.is_dir() and "network_weights" not in plan.request.given and any(folder.glob("*.safetensors")):
        console.say(f"note: LoRAs in {folder} are not used unasked; --resume_from FILE begins with the weights of one.")


def _preflight(plan: Plan, *, together: bool, restart: bool) -> Machine:
    """Everything that can be known to be wrong beforehand; what is cheap first."""
    from wanwrap.plan import preflight
    from wanwrap.run.run import bytes_to_save
    from wanwrap.weights import marks

    experts = len(plan.trainings) if together else 1
    machine = preflight.check_machine(plan, gpus=max(plan.request.gpus, experts))
    for line in machine.upstream.remarks():
        console.say(line)
    preflight.check_weights(plan, marks.thorough)
    preflight.check_tokenizers(plan)
    preflight.check_disk(plan, bytes_to_save(plan, restart=restart))
    preflight.check_ram(plan, together=together)
    return machine


def carry_out(plan: Plan, machine: Machine, *, retry: bool = True) -> None:
    """Run it, with lines that tell how far it is, and in the end where it goes on.

    Raises:
        the errors of run.carry_out; SystemExit: it was stopped, as was asked.
    """
    from wanwrap.cli.run_words import going
    from wanwrap.cli.words import heading
    from wanwrap.run.run import How, carry_out
    from wanwrap.run.status import look
    from wanwrap.run.training import Stopped

    try:
        carry_out(plan, machine, How(heading, lambda: console.show(going(look(plan.folder))), retry))
    except KeyboardInterrupt:
        console.say("\n" + _interrupted(plan))
        raise
    except Stopped as stopped:
        console.say(f"\n{stopped}\n{_interrupted(plan)}")
        raise SystemExit(Stopped.exit_code) from None  # as was asked: no error
    except WanwrapError:
        console.say("")  # upstream's progress bar ends without a new line
        raise


def _interrupted(plan: Plan) -> str:
    """Where a run was stopped, and what is left of it."""
    from wanwrap.cli.run_words import again
    from wanwrap.run.record import read

    if plan.request.upstream.child:
        return "stopped; a rehearsal begins anew the next time."
    found = {train.expert: read(train.folder) for train in plan.trainings}
    begun = [again(each, name) for name, each in found.items() if each and each.attempts and each.state != "done"]
    return " ".join(["stopped; the same command goes on.", *begun])


def _side_by_side(plan: Plan, machine: Machine) -> None:
    """Each expert as a run of its own, on a GPU of its own. Raises SystemExit: one has failed."""
    from wanwrap.run.parallel import run_each

    words = [word for word in sys.argv[1:] if word not in ("--parallel", "--json", "--restart")]
    if code := run_each(plan, machine, words):
        raise SystemExit(code)
