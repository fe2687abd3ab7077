"""The verb that makes a data set of raw media."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import click

from wanwrap.cli import prepare_report as told
from wanwrap.cli.options import PATH, Verb, json_option, option, trigger
from wanwrap.cli.terminal import indented, show_json
from wanwrap.prepare.preparation import Preparation
from wanwrap.prepare.prepare import Report
from wanwrap.prepare.prepare import prepare as carry_out
from wanwrap.system import console


def _area(_: click.Context, param: click.Parameter, value: str) -> int:
    """`WxH` in pixels."""
    match = re.fullmatch(r"([1-9]\d{0,4})[xX]([1-9]\d{0,4})", value)
    if not match:
        raise click.BadParameter(f"{value!r} is no WIDTHxHEIGHT, like 1280x720.", param=param)
    return int(match[1]) * int(match[2])


def _seconds(_: click.Context, param: click.Parameter, value: float) -> Fraction:
    """A length of time, exactly as it was written."""
    if not 0 <= value < 1e6:
        raise click.BadParameter("it must be a number of seconds.", param=param)
    return Fraction(str(value))


def _colour(_: click.Context, param: click.Parameter, value: str) -> str:
    """`#rrggbb`."""
    from PIL import ImageColor

    try:
        return "#{:02x}{:02x}{:02x}".format(*ImageColor.getrgb(value)[:3])
    except ValueError:
        raise click.BadParameter(f"{value!r} is no colour, like white or #808080.", param=param) from None


@click.command(
    cls=Verb,
    epilog='Example: wanwrap prepare ~/raw --out local_training/datasets/cats --trigger "ohwx cat"',
)
@click.argument("place", metavar="FOLDER", type=PATH)
@option("--out", type=PATH, required=True, help="The data set: images/ and videos/ are made in it.")
@option("--keep_fps", is_flag=True, help="Leave clips at their own frame rate, if it is 16 or more.")
@option(
    "--max_size",
    "area",
    default="1920x1080",
    show_default=True,
    callback=_area,
    help="Shrink clips to that many pixels.",
)
@option(
    "--max_seconds", type=float, default=5.0, show_default=True, callback=_seconds, help="Split longer clips evenly."
)
@option("--scenes", is_flag=True, help="Split at scene cuts first.")
@option(
    "--min_seconds",
    type=float,
    default=1.4,
    show_default=True,
    callback=_seconds,
    help="Leave shorter clips and pieces out.",
)
@option("--background", default="white", show_default=True, callback=_colour, help="Colour behind transparency.")
@option("--trigger", callback=trigger, help="A word to put in front of captions that lack it.")
@option("--template", help="Caption for those without: {trigger} {name} {folder} {kind} are filled in.")
@option("--again", is_flag=True, help="Make anew what you have removed, and captions whose source differs.")
@option("--dry_run", is_flag=True, help="Only list what would be done.")
@json_option("What was done, as JSON.")
def prepare(place: Path, out: Path, as_json: bool, **options: Any) -> None:
    """Make a data set that musubi-tuner reads rightly of a FOLDER of pictures and clips, or of one file.

    \b
    Clips      16 fps, H.264, upright, cut into pieces of 5 s at most; a frame shows what stood there at its time
    Pictures   as they are where musubi-tuner reads them rightly, else PNG: HEIC, TIFF, 16 bits, CMYK, colour
               profiles, turned by EXIF, transparent
    Captions   FILE.txt beside FILE comes along, to each piece

    The originals are never changed. The same command does only what is new, and goes on where it was stopped.
    """
    work, report = Preparation(out=out, **options), Report()
    try:
        carry_out(place, work, report)
    except KeyboardInterrupt:
        console.say("\nwhat is done is kept; the same command goes on from here")
        raise
    finally:
        report.items.sort(key=lambda made: made.source)
        if as_json and report.items:
            show_json(told.as_json(work, report))
    for line in told.lines(work, report) if not as_json else ():
        click.echo(indented(line))
    told.check(report)
