"""The verbs that carry a plan out: run, rehearse."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wanwrap.cli.options import run_options, to_comfyui
from wanwrap.cli.terminal import bars, board, say, screen, show_json, steps
from wanwrap.errors import OptionError, WanwrapError

if TYPE_CHECKING:
    from wanwrap.plan.plan import Plan
    from wanwrap.plan.request import Order
    from wanwrap.plan.script import Shell
    from wanwrap.run.comfyui import Shelf
    from wanwrap.run.ledger import Ledger
    from wanwrap.run.run import How
    from wanwrap.upstream.pin import Upstream


@click.command(
    short_help="Train on a data set, or print how.",
    epilog="Example: wanwrap run t2v-vanilla --noise_level low --dataset cats --epochs 30 -- --max_grad_norm 0",
)
@run_options
@click.option("--dry_run", is_flag=True, help="Print the run as a script instead; needs neither upstream nor weights.")
@click.option(
    "--shell",
    type=click.Choice(["bash", "powershell"]),
    help="The script's language (default: this system's).",
)
@click.option("--restart", is_flag=True, help="Begin anew; what an earlier run of the name has made is put aside.")
@click.option("--no_retry", is_flag=True, help="Out of memory ends the run, instead of swapping more blocks.")
@click.option("--parallel", is_flag=True, help="Both experts side by side, on a GPU each.")
@click.option("--json", "as_json", is_flag=True, help="With --dry_run the plan, else the run's record, as JSON.")
@to_comfyui
def run(
    dry_run: bool,
    shell: Shell | None,
    restart: bool,
    no_retry: bool,
    parallel: bool,
    as_json: bool,
    to_comfyui: bool,
    comfyui_dir: Path | None,
    **arguments: Any,
) -> None:
    """Train a PRESET (a name, or your own ./file.py) on a data set: cache it, then train each expert.

    The same command again goes on where a run has stopped, whatever has stopped it: from the last whole state, with
    the same learning rates as without the stop.

    What stands after `--` goes to upstream's training command, checked against its options.
    """
    from wanwrap.plan.request import order

    if parallel and arguments.get("gpus", 1) > 1:
        raise OptionError(
            "--parallel gives each expert a GPU, --gpus several to one after the other; give one of them."
        )
    asked = order(**arguments)
    if dry_run:
        from wanwrap.run.progress import standing

        plan = asked.plan()
        for line in standing(plan):
            say(f"note: {line}; that is what `run` does, and this script begins anew.")
        shelf = _shelf(asked, plan, to_comfyui, comfyui_dir)
        _print(asked, plan, shell, as_json)
        if shelf:
            say(f"note: `run` then copies the LoRAs to {shelf.folder}; the script leaves that to you.")
        return
    from wanwrap.cli.report import finished
    from wanwrap.data.probed import read_apart
    from wanwrap.plan.preflight import check_plan, check_room, check_tokenizers, check_weights, each_its_gpu
    from wanwrap.plan.resume_checkpoints import offers
    from wanwrap.run.comfyui import place
    from wanwrap.run.run import How
    from wanwrap.weights import marks

    read_apart()
    with steps("reading files") as files:
        plan = asked.plan(whole=True, bar=files)
    check_plan(plan, restart=restart)
    shelf = _shelf(asked, plan, to_comfyui, comfyui_dir)
    for note in offers(plan, asked.places.base):
        say(f"note: {note}")
    upstream, answer = asked.ask(plan, gpu=True)
    gpus = each_its_gpu(plan, answer) if parallel else ()
    with bars() as begin:
        check_weights(plan, marks.thorough(begin))
    for note in check_tokenizers(plan):
        say(f"note: {note}")
    check_room(plan)
    with board() as show:
        how = How(show=show, retry=not no_retry, gpus=gpus)
        carry_out(plan, upstream, answer, as_json, how, restart=restart)
    placed = place(plan, shelf) if shelf else []
    if as_json:
        for line in placed:
            say(line)
    else:
        click.echo("\n".join(finished(plan, placed)))


def _shelf(asked: Order, plan: Plan, wanted: bool, given: Path | None) -> Shelf | None:
    """Where the LoRAs go in ComfyUI; None where nobody asked for it."""
    if not wanted:
        if given:
            raise OptionError("--comfyui_dir says where --to_comfyui copies the LoRAs; give both, or neither.")
        return None
    from wanwrap.run.comfyui import check

    return check(plan, given, asked.workspace.comfyui, lambda text: say(f"note: {text}"))


def _print(asked: Order, plan: Plan, shell: Shell | None, as_json: bool) -> None:
    """The plan on stdout; what is missing for it on stderr."""
    from wanwrap.cli.report import heading, lacking, plan_json
    from wanwrap.plan.script import native, script

    missing = asked.missing(plan)
    if as_json:
        show_json({**plan_json(plan), "missing": missing})
    else:
        click.echo(script(plan, shell or native(), heading(plan)), nl=False)
    for line in (*(f"note: {note}" for note in plan.notes), *lacking(missing)):
        say(line)


def carry_out(
    plan: Plan, upstream: Upstream, answer: Mapping[str, Any], as_json: bool, how: How, *, restart: bool = False
) -> Ledger:
    """Write the plan's files and run it; with `as_json` the record comes out however it ends."""
    from wanwrap.cli.report import heading, interrupted
    from wanwrap.plan.preflight import BUSY, check_caches
    from wanwrap.run import ledger, progress
    from wanwrap.run.run import run as run_plan
    from wanwrap.run.run import write_files
    from wanwrap.run.training import Stopped
    from wanwrap.system.files import held

    for line in (*heading(plan), *(f"note: {note}" for note in plan.notes), *upstream.remarks()):
        say(line)
    plan.folder.mkdir(parents=True, exist_ok=True)
    with held(plan.folder / "run", BUSY.format(plan.folder)):
        if restart and (aside := progress.put_aside(plan)):
            say(f"what was there is in {aside} now")
        else:
            progress.check(plan)  # again: another may have trained there since
        for line in progress.standing(plan):
            say(line)
        if all(progress.is_done(plan, step) for step in plan.trainings):
            return _nothing_to_do(plan, as_json)
        write_files(plan)
        record = ledger.opened(plan, upstream, answer)
        try:
            check_caches(plan)  # last: of two that start at once each sees the other
            run_plan(plan, record, screen, say, how)
        except KeyboardInterrupt:
            say("\n" + interrupted(plan, record.record))
            raise
        except Stopped as stopped:
            say(f"\n{stopped}\n{interrupted(plan, record.record)}")
            raise SystemExit(Stopped.exit_code) from None  # as was wished: no error
        except WanwrapError as error:
            record.close(str(error))
            raise
        finally:
            record.close()
            say("")  # upstream's progress bar ends without a new line
            if as_json:
                show_json(record.record)
    return record


def _nothing_to_do(plan: Plan, as_json: bool) -> Ledger:
    """All is trained: the record of the run that did it stays as it is."""
    from wanwrap.run import ledger
    from wanwrap.upstream import states

    for step in plan.trainings:
        assert step.training
        states.clear(plan.folder / "training", step.training.key)  # a power cut may have left them
    record = ledger.last(plan)
    if as_json:
        show_json(record.record)
    return record


@click.command(
    short_help="Try a run in small, with toy weights.", epilog="Example: wanwrap rehearse t2v-vanilla --dataset cats"
)
@run_options
@click.option("--json", "as_json", is_flag=True, help="The rehearsal's record as JSON.")
def rehearse(as_json: bool, **arguments: Any) -> None:
    """Carry a run out in small, through the real upstream: toy weights, a few items, two epochs.

    Takes the options of `run` and about a minute, on a GPU or a CPU, and needs no weights. It shows that
    the installation, the data set, the options and the attention and optimizer packages work together.
    """
    from wanwrap.cli.report import rehearsed
    from wanwrap.plan.request import order
    from wanwrap.rehearsal.stage import rehearsal, verify
    from wanwrap.run.run import How

    asked = order(**arguments)
    with steps("reading files") as files:
        found = rehearsal(asked, files)
    for note in found.notes:
        say(f"rehearsal: {note}.")
    with board() as show:
        record = carry_out(found.plan, found.upstream, found.answer, as_json, How(show=show, retry=False))
    verify(found.plan, record.record)
    if not as_json:
        click.echo("\n".join(rehearsed(found.plan, asked.missing(found.real))))


VERBS = (run, rehearse)
