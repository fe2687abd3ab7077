"""What `prepare` tells: a line for each item that came out otherwise than it went in, and a summary."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from wanwrap.cli.words import count
from wanwrap.errors import DatasetError, listing
from wanwrap.prepare.manifest import Made
from wanwrap.prepare.preparation import Preparation
from wanwrap.prepare.prepare import Report
from wanwrap.system.shell import quote

ACTIONS = ("copied", "converted", "cut", "unchanged", "left out", "failed")
QUIET = ("copied", "unchanged")  # of these only remarks are told
KINDS = {"images": "picture", "videos": "clip"}  # by the folder


def as_json(work: Preparation, report: Report) -> dict[str, Any]:
    """All of it, for other programs."""
    counts = Counter[str](made.action for made in report.items)
    sums = {"without_caption": len(_bare(report)), "seconds": round(sum(map(_seconds, report.items)), 3)}
    items = [
        {
            "source": made.source,
            "outputs": made.there,
            "action": made.action,
            "reason": made.reason,
            "notes": made.notes,
            "seconds": _seconds(made),
            "fps": made.fps if made.there else 0.0,
        }
        for made in report.items
    ]
    return {
        "out": work.out,
        "dry_run": work.dry_run,
        "items": items,
        "counts": {action: counts[action] for action in ACTIONS} | sums,
        "gone": report.gone,
    }


def _bare(report: Report) -> list[str]:
    """Outputs without a caption."""
    return [name for made in report.items if not made.captioned for name in made.there]


def _seconds(made: Made) -> float:
    """Of the clips that are there: pieces may have been removed."""
    return made.seconds * len(made.there) / len(made.outputs) if made.outputs else 0.0


def check(report: Report) -> None:
    """Raises DatasetError: some sources failed, or nothing has come of all."""
    failed = [made.source for made in report.items if made.action == "failed"]
    if failed:
        media = len(failed) + sum(bool(made.there) for made in report.items)
        raise DatasetError(f"{len(failed)} of {media} can't be prepared: {listing(failed)}; replace or remove them.")
    if not any(made.outputs for made in report.items):
        raise DatasetError("nothing in it makes a data set; give a folder that holds pictures, or longer clips.")


def lines(work: Preparation, report: Report) -> Iterator[str]:
    """For people: what is not as usual first, the sum and the next step at the end."""
    left = defaultdict[str, list[str]](list)  # there may be thousands
    for made in report.items:
        if made.action == "left out" and not made.there:
            left[made.reason].append(made.source)
        else:
            yield from _told(made, work)
    for reason, names in sorted(left.items()):
        yield f"left out   {listing(names)}: {reason}"
    yield from _summary(work, report)


def _told(made: Made, work: Preparation) -> Iterator[str]:
    usual = made.action in QUIET and not made.reason and not work.dry_run
    if not usual:
        outputs = f" -> {listing(made.there, 3)}" if made.there and made.action != "unchanged" else ""
        action = "captioned" if made.action == "unchanged" and made.reason else made.action
        yield f"{action:<9}  {made.source}{outputs}{f' ({made.reason})' if made.reason else ''}"
    for note in made.notes:
        yield f"note       {made.source}: {note}"


def _summary(work: Preparation, report: Report) -> Iterator[str]:
    actions = Counter[str](made.action for made in report.items)
    yield ", ".join(f"{actions[action]} {action}" for action in ACTIONS if actions[action]) or "nothing found"
    parts = Counter(name.partition("/")[0] for made in report.items for name in made.there)
    whole = " and ".join(count(parts[folder], kind) for folder, kind in KINDS.items() if parts[folder]) or "nothing"
    length = f" ({sum(map(_seconds, report.items)):.1f} s)" if parts["videos"] else ""
    yield f"{work.out} {'would hold' if work.dry_run else 'holds'} {whole} of these{length}"
    if report.gone:
        yield f"their sources are gone, and they are trained still; remove them if that is not meant: {listing(report.gone, 20)}"
    out = quote(str(work.out))
    if bare := _bare(report):
        have = f"{len(bare)} {'has' if len(bare) == 1 else 'have'} no caption"
        yield f"{have}: `wanwrap caption {out}` writes them, or this command with --template, or you"
    if parts and not work.dry_run:
        yield f"next: wanwrap check {out}"
