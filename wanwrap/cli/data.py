"""The verbs for data sets, and the steps of a run that are verbs of their own: check, prune, collect."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wanwrap.cli.options import BASE_DIR, PATH
from wanwrap.cli.terminal import indented, say, show_json, steps

if TYPE_CHECKING:
    from wanwrap.data.check import Checked

DEFAULT = "t2v-lightning"


@click.command(
    short_help="What of a data set will be trained, and how.",
    epilog="Example: wanwrap check cats --preset t2v-vanilla --trigger ohwx --contact_sheet cats.html",
)
@click.argument("dataset", required=False)
@click.option("--preset", help="The preset that will train it (default: the one that was set up, else t2v-lightning).")
@click.option("--trigger", help="A word that every caption should hold.")
@click.option("--contact_sheet", type=PATH, help="Write a page with all of it as it will be cropped.")
@click.option("--all", "everything", is_flag=True, help="List each file, however many there are.")
@BASE_DIR
@click.option("--json", "as_json", is_flag=True, help="As a JSON object.")
@click.pass_context
def check(ctx: click.Context, /, everything: bool, contact_sheet: Path | None, as_json: bool, **arguments: Any) -> None:
    """Tell what of DATASET (a folder, a name in the workspace, or a TOML; default: the only one there) will be trained.

    Each picture and clip: size, frames, caption, the bucket it lands in, what it gives, or why it is left out. In
    sum: buckets, batches, steps, tokens, what is blown up, what is twice there. All files are read to their end, in
    parallel; a second time only those that have changed. The exit code is 4 where a run would be stopped.
    """
    from wanwrap.cli.check_report import as_json as report_json
    from wanwrap.cli.check_report import lines
    from wanwrap.data import check as work
    from wanwrap.look.contact_sheet import check_place
    from wanwrap.paths import absolute
    from wanwrap.system.disk import writable

    place = contact_sheet and absolute(contact_sheet)
    if place:
        check_place(place)  # before minutes of reading
        writable(place.parent)
    with steps("reading files") as bar:
        found = work.check(**arguments, default=DEFAULT, bar=bar)
    if place:
        _draw(found, place)
    if as_json:
        show_json(report_json(found), indent=None)  # of 10,000 files in a third of the time
    else:
        click.echo("\n".join(indented(line) for line in lines(found, everything=everything)))
    ctx.exit(found.exit_code)


def _draw(found: Checked, place: Path) -> None:
    """The page, with a bar while thumbnails are made."""
    from wanwrap.cli.check_report import sheet
    from wanwrap.system.files import whole

    place.parent.mkdir(parents=True, exist_ok=True)
    with steps("thumbnails") as begin, whole(place) as file:
        for piece in sheet(found, begin):
            file.write(piece.encode("utf-8", "backslashreplace"))
    say(f"the contact sheet: {place}")


@click.command(
    hidden=True,  # a step of `run`, and of the script that it prints
    short_help="Forget caches of what has changed.",
    epilog="Example: wanwrap prune local_training/outputs/cats/dataset.toml --latents 1f0a2b3c --text 4d5e6f70",
)
@click.argument("config", type=PATH, metavar="TOML")
@click.option("--latents", required=True, help="What the latents are made by: VAE, CLIP, mode, as a mark.")
@click.option("--text", required=True, help="What the embeddings are made by: T5 and its type, as a mark.")
@click.option("--json", "as_json", is_flag=True, help="As a JSON list, an object for each cache folder.")
def prune(config: Path, latents: str, text: str, as_json: bool) -> None:
    """Remove from the caches of a data set TOML what is stale, half or of no file there; a step of every `run`.

    What stays is what musubi-tuner, with --skip_existing, need not encode again. By hand, take the command that
    `run --dry_run` prints: other marks mean other encoders, so that everything is encoded anew.
    """
    from wanwrap.data.caches import prune as work
    from wanwrap.data.config import caches, load
    from wanwrap.errors import OutputError
    from wanwrap.paths import absolute
    from wanwrap.run.ledger import ancestors, at_work

    with steps("reading files") as bar:
        data = load(absolute(config), whole=True, bar=bar).sound()
    if busy := at_work(absolute(config).parent.parent, [cache for _, cache in caches(data)], besides=ancestors()):
        raise OutputError(
            f"another wanwrap (process {busy[0]}) trains from these caches in {busy[1]}; wait until it has ended."
        )
    found = [work(entry, cache, {"latents": latents, "text": text}) for entry, cache in caches(data)]
    if as_json:
        show_json([{**vars(each), "folder": str(each.folder)} for each in found])
        return
    for each in found:
        stale = f", {each.removed} stale or half file(s) removed" if each.removed else ""
        click.echo(
            f"{each.folder.name}: to encode are {each.new_latents} of {each.latents} latents and "
            f"{each.new_captions} of {each.captions} captions{stale}"
        )


@click.command(
    hidden=True,  # what `run` does by itself; of the script that it prints each training's last line
    short_help="Put what upstream has trained into its place.",
    epilog="Example: wanwrap collect local_training/outputs/cats/training/low-1 --into local_training/outputs/cats "
    "--label cats-low",
)
@click.argument("source", type=PATH, metavar="FOLDER")
@click.option("--into", type=PATH, required=True, help="The run's folder.")
@click.option("--label", required=True, help="What the LoRAs are called, without number and ending.")
@click.option("--save_every", type=int, help="Epochs between two LoRAs that are kept.")
@click.option("--keep_last", type=int, help="How many of them.")
@click.option("--json", "as_json", is_flag=True, help="As a JSON list.")
def collect(source: Path, into: Path, label: str, save_every: int | None, keep_last: int | None, as_json: bool) -> None:
    """Move the LoRAs of a training that has ended, its samples and its curves into the run's folder; the rest goes."""
    from wanwrap.paths import absolute
    from wanwrap.run.collect import by_hand

    made = [str(path) for path in by_hand(absolute(source), absolute(into), label, save_every, keep_last)]
    if as_json:
        show_json(made)
    else:
        click.echo("\n".join(made))


VERBS = (check, prune, collect)
