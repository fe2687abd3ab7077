"""The command line: verbs are loaded when they are meant, errors become a message and an exit code."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from wanwrap import __version__
from wanwrap.cli.terminal import Terminal, documents, mend_streams, show_json
from wanwrap.errors import WanwrapError, closest, of_system
from wanwrap.system import console

# Each is a module of this package, loaded when it is meant; so that help needs none its line stands here.
VERBS = {
    "setup": "Get musubi-tuner and the weights, or use those that are there.",
    "doctor": "Is this machine ready to train?",
    "inspect": "What is this file, and can it be trained with?",
    "presets": "List the presets.",
    "show": "Print a preset in full.",
    "prepare": "Make a data set of raw pictures and clips.",
    "caption": "Write the captions that are missing.",
    "check": "What of a data set will be trained, and how.",
    "fit": "On which card it can be trained, and with what.",
    "run": "Train on a data set, or print how.",
    "launch": "Send a run to another machine.",
    "fetch": "Bring home what was made there.",
    "rehearse": "Try a run in small, with toy weights.",
    "sample": "Pictures and clips that tell which epoch is the best.",
    "status": "What runs, how far it is, how long it will take.",
    "report": "Make a run's page: curves, LoRAs, samples.",
    "stop": "End a run at its next state, with all of it saved.",
    "publish": "Put a run's LoRAs on the Hugging Face Hub.",
    "merge": "Merge a LoRA into a DiT.",
    "convert": "Change a file into what musubi-tuner reads.",
    "prune": "Forget caches of what has changed.",
}
EPILOG = "Exit codes: 0 done, 2 usage, 3 preset, 4 data set, 5 weights, 6 upstream, 7 option, 8 package, 9 GPU, 10 step failed, 11 output, 12 download, 13 too little disk or memory, 14 launch, 130 interrupted."


class Group(click.Group):
    """The one place where an error becomes a message and an exit code; a bug keeps its traceback."""

    def get_command(self, ctx: click.Context, name: str) -> click.Command:
        if name not in VERBS:
            ctx.fail(f"No such command {name!r}.{closest(name, VERBS)}")
        verb: click.Command = getattr(importlib.import_module(f"wanwrap.cli.{name}"), name)
        return verb

    def list_commands(self, _: click.Context) -> list[str]:
        return [*VERBS]

    def format_commands(self, _: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([*VERBS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, click.Abort):
            console.say("interrupted")
            ctx.exit(130)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """All of it; also where not even the help can be written."""
        mend_streams()
        console.use(Terminal())
        try:
            return super().main(*args, **kwargs)
        except WanwrapError as error:
            _fail(error)
        except OSError as error:  # a full disk, a folder that may not be read: whichever module met it
            _fail(of_system(error, "standard output", "make room, give another place, or see to its permissions."))


def _fail(error: WanwrapError) -> NoReturn:
    """End with a message; for a program that waits for JSON with that, too."""
    console.say(f"Error: {error}")
    try:
        if "--json" in sys.argv and not documents:
            show_json({"error": str(error), "exit_code": error.exit_code})
        sys.stdout.flush()
    except OSError:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115  or Python tries again when it ends
    sys.exit(error.exit_code)


SETTINGS = {
    "help_option_names": ["-h", "--help"],
    "token_normalize_func": lambda name: name.replace("-", "_"),
    "max_content_width": 110,
}


@click.group(cls=Group, context_settings=SETTINGS, epilog=EPILOG)
@click.version_option(__version__, prog_name="wanwrap")
def main() -> None:
    """Train Wan 2.1 / 2.2 video LoRAs with musubi-tuner.

    From pictures to a LoRA:

    \b
      wanwrap setup t2v-vanilla --comfyui_dir ~/ComfyUI
      wanwrap prepare ~/raw --out local_training/datasets/cats
      wanwrap caption cats --trigger mycat
      wanwrap check cats --preset t2v-vanilla
      wanwrap rehearse t2v-vanilla cats
      wanwrap run t2v-vanilla cats
    """
