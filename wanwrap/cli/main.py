"""The command line: with `terminal`, the only module that prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from wanwrap import __version__
from wanwrap.cli import run
from wanwrap.cli.options import PATH, PRECISION, PYTHON, sha256
from wanwrap.cli.terminal import bar, make_whole, say, show_json, shown
from wanwrap.errors import FULL, OutputError, RoomError, WanwrapError

if TYPE_CHECKING:
    from wanwrap.rewrite.start import Made

JSON = "wanwrap.json"
EPILOG = "Exit codes: 0 done, 2 usage, 3 preset, 4 data set, 5 weights, 6 upstream, 7 option, 8 package, 9 GPU, 10 step failed, 11 output, 12 download, 13 too little disk or memory, 130 interrupted."


class Group(click.Group):
    """The one place where an error becomes a message and an exit code; a bug keeps its traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All verbs."""
        self._load()
        return super().list_commands(ctx)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """The verbs of the machine are loaded when one of them may be meant: a dry run waits for none."""
        if args[0] not in self.commands:
            self._load()
        return super().resolve_command(ctx, args)

    def _load(self) -> None:
        from wanwrap.cli import caption, data, machine, prepare, watch

        for module in (prepare, caption, data, machine, watch):
            for verb in module.VERBS:
                self.add_command(verb)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Remember whether JSON is waited for."""
        ctx.meta[JSON] = "--json" in args
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb."""
        make_whole()
        try:
            return super().invoke(ctx)
        except WanwrapError as error:
            _failed(ctx, str(error), error.exit_code)
        except (KeyboardInterrupt, click.Abort):
            say("interrupted")
            ctx.exit(130)
        except click.NoSuchOption as error:
            raise _hinted(error) from error
        except BrokenPipeError:
            raise  # `| head`: click ends quietly
        except OSError as error:  # a full disk, a folder that may not be read: whichever module met it
            kind = RoomError if error.errno in FULL else OutputError
            why = f"{error.filename or 'writing'}: {error.strerror or error}; make room or give another place."
            _failed(ctx, why, kind.exit_code)


def _failed(ctx: click.Context, why: str, code: int) -> None:
    """End with a message; for a program that waits for JSON with that, too."""
    say(f"Error: {why}")
    if ctx.meta.get(JSON) and not shown():
        show_json({"error": why, "exit_code": code})
    ctx.exit(code)


def _hinted(error: click.NoSuchOption) -> click.UsageError:
    """The error with where upstream's own options go."""
    from wanwrap.plan.request import ALIASES
    from wanwrap.upstream.options import TRAIN, table

    name = error.option_name.lstrip("-").replace("-", "_")
    ours = next((ours for ours, theirs in ALIASES.items() if theirs == name), None)
    if ours is None and name not in table(TRAIN):
        return error
    hint = f"wanwrap calls it --{ours}." if ours else "It is upstream's own: put it behind `--`, at the end."
    return click.UsageError(f"No such option: {error.option_name}. {hint}", error.ctx)


SETTINGS = {
    "help_option_names": ["-h", "--help"],
    "token_normalize_func": lambda name: name.replace("-", "_"),
    "max_content_width": 110,
}


@click.group(cls=Group, context_settings=SETTINGS, epilog=EPILOG)
@click.version_option(__version__, prog_name="wanwrap")
def main() -> None:
    """Train Wan 2.1 / 2.2 video LoRAs with musubi-tuner.

    \b
    wanwrap setup t2v-vanilla --comfyui_dir ~/ComfyUI  upstream and weights, those of ComfyUI where they lie
    wanwrap doctor                                    is this machine ready?
    wanwrap presets                                   what can be trained
    wanwrap prepare ~/raw --out local_training/datasets/cats   raw pictures and clips as a data set
    wanwrap caption cats --trigger mycat              write the captions that are missing
    wanwrap check cats --preset t2v-vanilla           what of it will be trained
    wanwrap run t2v-vanilla --dataset cats --dry_run  the whole run as a script
    wanwrap rehearse t2v-vanilla --dataset cats       a minute with toy weights: does all of it work?
    wanwrap run t2v-vanilla --dataset cats            the real thing
    wanwrap status                                    what runs, how far it is, how long it will take
    wanwrap stop cats-t2v-vanilla                     end a run at its next state, with all of it saved
    wanwrap merge --dit A --lora B --out C            a LoRA into a DiT, in 1 GB of memory
    """


@main.command(epilog="Example: wanwrap presets")
@click.option("--json", "as_json", is_flag=True, help="As a JSON list.")
def presets(as_json: bool) -> None:
    """List the presets."""
    from wanwrap.registry import load, shipped

    found = [load(name) for name in shipped()]
    if as_json:
        show_json([{"name": p.name, "task": p.task, "summary": p.summary} for p in found])
        return
    width = max(len(preset.name) for preset in found)
    for preset in found:
        click.echo(f"{preset.name:<{width}}  {preset.summary}")


@main.command(
    short_help="Print a preset in full, with its commands.",
    epilog="Example: wanwrap show t2v-vanilla --source > mine.py, edit, wanwrap run ./mine.py",
)
@click.argument("preset")
@click.option("--source", is_flag=True, help="The preset's Python module, as a start for your own.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def show(preset: str, source: bool, as_json: bool) -> None:
    """Print a preset in full, with the commands that it runs (here on wanwrap's sample data set)."""
    from wanwrap.cli.report import described, plan_json
    from wanwrap.plan.request import sample_plan
    from wanwrap.plan.script import script
    from wanwrap.registry import path_of

    if source:
        click.echo(path_of(preset).read_text(encoding="utf-8"), nl=False)
        return
    plan = sample_plan(preset)
    if as_json:
        show_json(plan_json(plan))
        return
    click.echo("\n".join(described(plan)))
    click.echo("\n" + script(plan, "bash"), nl=False)


MARK = "Stop if the sha256 of the {} is another one."


@main.command(
    short_help="Merge a LoRA into a DiT.",
    epilog="Example: wanwrap merge --dit wan2.2_t2v_low_noise_14B_fp16.safetensors "
    "--lora wan2.2_t2v_lightx2v_4steps_lora_v1.1_low_noise.safetensors --out merged.safetensors",
)
@click.option("--dit", type=PATH, required=True, help="The DiT, in fp16, bf16 or fp32; of shards any one.")
@click.option(
    "--lora", type=PATH, required=True, help="The LoRA, as upstream, ComfyUI, diffusers or peft name its keys."
)
@click.option("--strength", type=float, default=1.0, show_default=True, help="How much of it.")
@click.option("--precision", type=PRECISION, help="Cast the result (default: the DiT's own type).")
@click.option("--allow_partial", is_flag=True, help="Leave out keys whose tensors the DiT lacks; they are listed.")
@click.option("--out", type=PATH, required=True, help="The new file.")
@click.option("--dit_sha256", callback=sha256, help=MARK.format("DiT"))
@click.option("--lora_sha256", callback=sha256, help=MARK.format("LoRA"))
@PYTHON
@click.option("--json", "as_json", is_flag=True, help="What was made, as JSON.")
def merge(as_json: bool, **arguments: Any) -> None:
    """Merge a LoRA into a DiT: W + strength * alpha / rank * up @ down, in fp32 with one rounding.

    Any size in 1 GB of memory; on the GPU where there is one. Every key of the LoRA is merged, or none is.
    A file that is there is never written over.
    """
    from wanwrap.rewrite.start import run_merge

    with bar("merging") as begin:
        made = run_merge(**_places(arguments, "dit", "lora", "out"), bar=begin, say=say)
    _made(made, as_json)


@main.command(
    short_help="Change a file into what musubi-tuner reads.",
    epilog="Example: wanwrap convert umt5_xxl_fp16.safetensors --out umt5-xxl-enc-bf16.safetensors",
)
@click.argument("file", type=PATH)
@click.option("--precision", type=PRECISION, help="Cast to this type (a text encoder: to bf16 by default).")
@click.option("--out", type=PATH, required=True, help="The new file.")
@click.option("--sha256", callback=sha256, help=MARK.format("file"))
@PYTHON
@click.option("--json", "as_json", is_flag=True, help="What was made, as JSON.")
def convert(as_json: bool, **arguments: Any) -> None:
    """Change a file into what musubi-tuner reads: what there is to do is found from its header.

    \b
    A DiT        cast to fp16 or bf16; without the prefix of repacked files (Wan 2.1 1.3B)
    Shards       one file
    UMT5         ComfyUI's key names become Wan's, its fp16 becomes bf16
    """
    from wanwrap.rewrite.start import run_convert

    with bar("converting") as begin:
        made = run_convert(**_places(arguments, "file", "out"), bar=begin, say=say)
    _made(made, as_json)


def _places(arguments: dict[str, Any], *names: str) -> dict[str, Any]:
    """The arguments with whole paths, and the Python that has torch."""
    from wanwrap.paths import absolute
    from wanwrap.plan.request import training_python

    python = training_python(arguments["python"])
    return {**arguments, **{name: absolute(arguments[name]) for name in names}, "python": python}


def _made(made: Made, as_json: bool) -> None:
    """What was made, and what was left out of it."""
    if left := made.made.get("left"):
        say(f"left out, since the DiT has no such tensors: {left}")
    if as_json:
        show_json(made.json())
    elif made.reused:
        click.echo(f"{made.out} is there already, made of the same files: nothing to do.")
    else:
        size = made.out.stat().st_size / 1e9
        click.echo(f"made {made.out} ({size:.2f} GB in {made.seconds:.0f} s, on the {made.device})")


for verb in run.VERBS:
    main.add_command(verb)
