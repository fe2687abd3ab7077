"""The verb that brings home what a launched run has made."""

from __future__ import annotations

from pathlib import Path

import click

from wanwrap.cli.options import BASE_DIR, Verb, json_option
from wanwrap.cli.report import Renewal
from wanwrap.cli.terminal import show_result
from wanwrap.errors import LaunchError, closest, listing
from wanwrap.launch.launched import all_of
from wanwrap.launch.send import fetch as bring


@click.command(cls=Verb, epilog="Example: wanwrap fetch cats-t2v-vanilla")
@click.argument("run")
@BASE_DIR
@json_option("The files, as JSON.")
def fetch(run: str, base_dir: Path, as_json: bool) -> None:
    """Bring the LoRAs, records and page of a RUN that was launched elsewhere into its folder here.

    It goes by the engine's own commands, and may be typed again and again while the run goes on. What other verbs do with
    a run they do with this one then: report, sample, publish.
    """
    there = {launched.name: (folder, launched) for folder, launched in all_of(base_dir)}
    if run not in there:
        have = f"launched are {listing(there)}" if there else "nothing was launched from there"
        raise LaunchError(f"no run {run} in {base_dir}: {have}.{closest(run, there)}")
    folder, launched = there[run]
    try:
        bring(folder, launched)
    finally:
        Renewal(folder).write()
    files = sorted(folder.glob("*.safetensors"))
    show_result(
        as_json, lambda: {"folder": folder, "files": files}, [f"fetched: {folder}", *(f"  {each}" for each in files)]
    )
