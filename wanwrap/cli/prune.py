"""A step of `run`, and of the script that it prints, as a verb of its own."""

from __future__ import annotations

from pathlib import Path

import click

from wanwrap.cli.options import PATH, Verb, json_option, option
from wanwrap.cli.terminal import show_result
from wanwrap.data import config as own
from wanwrap.data.cache_lock import changing, check_unused
from wanwrap.data.caches import survey


@click.command(
    cls=Verb,
    hidden=True,
    epilog="Example: wanwrap prune local_training/outputs/cats/low/dataset.toml --latents 1f0a2b3c --text 4d5e6f70",
)
@click.argument("config", type=PATH, metavar="TOML")
@option("--latents", required=True, help="What the latents are made by: VAE, CLIP, mode, as a mark.")
@option("--text", required=True, help="What the embeddings are made by: T5 and its type, as a mark.")
@json_option("As a JSON list, an object for each cache folder.")
def prune(config: Path, latents: str, text: str, as_json: bool) -> None:
    """Remove from the caches of a data set TOML what is stale, half or of no file there; a step of every `run`.

    What stays is what musubi-tuner, with --skip_existing, need not encode again. By hand, take the command that
    `run --dry_run` prints: other marks mean other encoders, so that everything is encoded anew. Captions that have
    changed since `run` listed them are refused.
    """
    entries = own.load(config, whole=True, current=True).sound().entries
    with changing([entry.cache for entry in entries]):
        found = [survey(entry, {"latents": latents, "text": text}) for entry in entries]
        check_unused([each.folder for each in found if not each.complete])
        for each in found:
            each.prune()
    rows = [
        {
            "folder": each.folder,
            "latents": len(each.wanted("latents")),
            "new_latents": len(each.missing("latents")),
            "captions": len(each.wanted("text")),
            "new_captions": len(each.missing("text")),
            "removed": len(each.stale),
        }
        for each in found
    ]
    told = "{folder.name}: to encode are {new_latents} of {latents} latents and {new_captions} of {captions} captions"
    stale = "; {removed} that were stale or half are removed"
    show_result(as_json, lambda: rows, ((told + stale if row["removed"] else told).format(**row) for row in rows))
