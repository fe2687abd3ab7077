"""The verb that trains."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wanwrap.cli.options import PATH, RUN, RunVerb, control, environment, json_option, option, with_options
from wanwrap.cli.terminal import show_json, show_text
from wanwrap.errors import OptionError
from wanwrap.system import console

if TYPE_CHECKING:
    from wanwrap.plan.plan import Plan


@click.command(
    cls=RunVerb,
    epilog="Example: wanwrap run t2v-vanilla cats --noise_level low --epochs 30 -- --max_grad_norm 0",
)
@with_options(RUN)
@option("--dry_run", is_flag=True, help="Print the run as a script instead; needs neither upstream nor weights.")
@environment("--parallel", is_flag=True, help="Both experts side by side, on a GPU each.")
@option("--save", type=PATH, help="Write all of this into a run file, X.toml, instead; `wanwrap run X.toml` reads it.")
@control("--shell", type=click.Choice(["bash", "powershell"]), help="The script's language.")
@control("--restart", is_flag=True, help="Begin anew; what an earlier run has made is put aside.")
@control("--no_retry", is_flag=True, help="Out of memory ends it, instead of swapping more blocks.")
@control("--to_comfyui", is_flag=True, help="Copy the finished LoRAs and their workflow into ComfyUI.")
@control("--comfyui_dir", type=PATH, help="Which ComfyUI (default: the one that setup was given).")
@control("--out", type=PATH, help="With --dry_run: write the script to this file, as its shell reads it.")
@json_option("With --dry_run the plan, else the run's records, as JSON.", "Control")
def run(
    dry_run: bool,
    save: Path | None,
    parallel: bool,
    shell: Any,
    restart: bool,
    no_retry: bool,
    to_comfyui: bool,
    comfyui_dir: Path | None,
    out: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Train a PRESET (a name, or your own ./file.py) on a DATASET.

    Both and all options may stand in a run file instead, `wanwrap run cats.toml`; --save writes one, and stops.

    DATASET is a folder, the name of one in BASE_DIR/datasets (default: the only one there), or a TOML of your own;
    `sample` is wanwrap's own. It is cached, then each expert is trained. The same command again goes on where a run has
    stopped, whatever has stopped it: from the last whole state, with the same learning rates as without the stop.

    What stands after `--` goes to upstream's training command, checked against its options.

    Samples while training, of Wan 2.1: `-- --sample_prompts FILE --sample_every_n_epochs 5`. FILE holds a prompt a line,
    with options behind it: --w 832 --h 480 (multiples of 16) --f 81 (frames, 4N+1) --s steps --l guidance --fs shift
    --d seed --n negative prompt --i first frame (I2V). What is left out is the preset's. They lie in the expert's
    samples/, clips at upstream's 24 fps.
    """
    from wanwrap.plan.build import build  # here and below: help waits for none of them, a dry run for few
    from wanwrap.plan.request import read

    if parallel and options["gpus"] > 1:
        raise OptionError(
            "--parallel gives each expert a GPU, --gpus several to one after the other; give one of them."
        )
    if comfyui_dir and not to_comfyui:
        raise OptionError("--comfyui_dir says where --to_comfyui copies the LoRAs; give both, or neither.")
    if save and (dry_run or as_json):
        raise OptionError("--save only writes the run file; leave out --dry_run and --json, or --save.")
    if out and (as_json or not dry_run):
        raise OptionError("--out goes with --dry_run, and without --json: it is the file for the script.")
    request = read(shell=shell, **options)
    plan = build(request, whole=not (dry_run or save))
    if save:
        from wanwrap.cli.save import write_run_file

        write_run_file(click.get_current_context(), plan, save)
        return
    target = shelf = None
    if to_comfyui:
        from wanwrap.run import comfyui

        target = comfyui.check(plan, comfyui_dir, request.workspace.comfyui)
        shelf = comfyui.check_workflow(plan.folder, comfyui_dir, request.workspace.comfyui)
    if dry_run:
        _show(plan, shell, as_json, out, target)
        return
    from wanwrap.cli.report import Renewal
    from wanwrap.cli.train import train
    from wanwrap.cli.words import finished
    from wanwrap.look import workflow
    from wanwrap.run.run import sample

    train(plan, restart=restart, retry=not no_retry, parallel=parallel, as_json=as_json)
    placed = comfyui.place(plan, target) if target else []
    left = workflow.write(plan.folder, shelf)
    Renewal(plan.folder).write()  # which names it
    if as_json:
        console.say(*placed, *left)
    else:
        click.echo("\n".join([*finished(plan, placed), *left]))
    sample(plan)


def _show(plan: Plan, shell: Any, as_json: bool, out: Path | None, target: Path | None) -> None:
    """The plan on stdout, or its script in a file; on stderr what is missing, and how `run` differs where it has begun."""
    from wanwrap.cli.words import heading, lacking, plan_json
    from wanwrap.plan.preflight import missing
    from wanwrap.plan.script import encoded, script, start
    from wanwrap.system.shell import native

    needed, shell = missing(plan), shell or native()
    if as_json:
        show_json({**plan_json(plan), "missing": needed})
    else:
        show_text(script(plan, shell, heading(plan)), out, lambda text: encoded(text, shell))
    notes = [*plan.notes, *([f"start it by: {start(out, shell)}"] if out else [])]
    if plan.folder.is_dir():
        from wanwrap.run.record import standing

        begun = [words for words in map(standing, plan.trainings) if words]
        notes += [f"{words}; that is what `run` does, and this script begins anew." for words in begun]
    if target:
        notes.append(f"`run` then copies the LoRAs to {target}; the script leaves that to you.")
    doctor = f"not looked at here: what uses GPU and RAM now, and packages; `wanwrap doctor {plan.request.preset.word}` does."
    console.say(*(f"note: {note}" for note in notes), *lacking(needed), doctor)
