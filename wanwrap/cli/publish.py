"""The verb that puts LoRAs on the Hugging Face Hub."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from wanwrap.cli.options import BASE_DIR, Verb, json_option, option
from wanwrap.cli.terminal import show_result
from wanwrap.errors import OptionError
from wanwrap.look import publish as work
from wanwrap.look.publish import Publication, There
from wanwrap.run.status import find
from wanwrap.system import console

# of the Hub's own names those that are usual for LoRAs
LICENSES = "apache-2.0, mit, openrail, creativeml-openrail-m, cc0-1.0, cc-by-4.0, cc-by-sa-4.0, cc-by-nc-4.0, cc-by-nc-sa-4.0, other"


def known(word: str) -> str:
    """A licence by the Hub's name. One that is none is a mistake. (click's own Choice would show - as _.)"""
    if word.lower() not in LICENSES.split(", "):
        raise click.BadParameter(f"{word} is none of {LICENSES}.")
    return word.lower()


@click.command(cls=Verb, epilog="Example: wanwrap publish cats-t2v-vanilla joe/cats --license apache-2.0")
@click.argument("run")
@click.argument("repo", metavar="OWNER/NAME")
@option("--epochs", default="last", show_default=True, help="Of which epochs, as in 20,last; or all.")
@option(
    "--license",
    "--licence",
    "license",
    type=known,
    metavar="NAME",
    help="Under which the LoRAs are; Wan's is apache-2.0.",
)
@option("--private", is_flag=True, help="Nobody else can see it.")
@option("--overwrite", is_flag=True, help="Also into a repository that holds something else.")
@option("--dry_run", is_flag=True, help="Show what would be sent, with the model card, and ask nothing of the Hub.")
@option("--yes", is_flag=True, help="Send it without asking.")
@BASE_DIR
@json_option("What is sent, as JSON.")
def publish(
    run: str,
    repo: str,
    epochs: str,
    license: str | None,
    private: bool,
    overwrite: bool,
    dry_run: bool,
    yes: bool,
    base_dir: Path,
    as_json: bool,
) -> None:
    """Put the LoRAs of a RUN into a repository at the Hub, with a model card, samples and the workflow that are there.

    It shows what would be sent, and asks. Sends with HF_TOKEN, or what `hf auth login` has kept. If it breaks off, the
    same command goes on; another epoch can be added later. Of your data set nothing is sent but what samples show and say.
    """
    work.check_name(repo)
    found, license = find(run, base_dir), license or _ask_license()
    there = There() if dry_run else work.look(repo)
    made = work.collect(found, [word.strip() for word in epochs.split(",")], repo, license, there)
    work.check(made, there, private=private, overwrite=overwrite)
    hidden = there.private if there.private is not None else private
    console.say(*_told(made, there, f"{'private' if hidden else 'public'}, licence {license}"))
    if not dry_run:
        _confirm(yes)
        work.send(made, private=hidden)
    document = {"repo": repo, "url": made.url, "private": hidden, "sent": not dry_run, "files": made.sizes}
    words = [made.card.removesuffix("\n")] if dry_run else [f"published: {made.url}"]
    show_result(as_json, lambda: {**document, "remarks": made.remarks, "card": made.card}, words)


def _ask_license() -> str:
    """Raises OptionError: nobody is there to answer."""
    if not sys.stdin.isatty():
        raise OptionError(
            f"--license is missing: Wan's own is apache-2.0, and your data may ask for another ({LICENSES})."
        )
    console.say(f"Under which licence? Wan's own is apache-2.0; what you trained on may ask for another ({LICENSES}).")
    answer: str = click.prompt("licence", value_proc=known, err=True)
    return answer


def _told(made: Publication, there: There, how: str) -> Iterator[str]:
    """What will be sent, a line each."""
    yield f"to {made.repo} ({how}{'' if there.private is None else ', there already'}):"
    width = max(map(len, made.sizes))
    for name, size in made.sizes.items():
        yield f"  {name:<{width}}  {size / 1e6:8.2f} MB{'  (renewed if it has changed)' if name in there.files else ''}"
    yield f"  in all {sum(made.sizes.values()) / 1e6:.1f} MB"
    yield from (f"note: {remark}" for remark in made.remarks)


def _confirm(yes: bool) -> None:
    """Raises OptionError: nobody is there to answer; click.Abort: no."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise OptionError("there is no terminal to ask on: read this, and the model card (--dry_run), and give --yes.")
    click.confirm("Send it?", abort=True, err=True)
