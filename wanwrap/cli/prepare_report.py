"""What `prepare` tells: a line for each item that came out otherwise than it went in, and a summary."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import PurePath
from typing import Any

from wanwrap.errors import DatasetError, listing
from wanwrap.prepare.manifest import Made
from wanwrap.prepare.preparation import Preparation
from wanwrap.prepare.prepare import Report

ACTIONS = ("copied", "converted", "cut", "unchanged", "left out", "failed")
QUIET = ("copied", "unchanged")  # of these only remarks are told
KINDS = {"images": "picture", "videos": "clip"}


def as_json(work: Preparation, report: Report) -> dict[str, Any]:
    """All of it, for other programs."""
    counts: dict[str, Any] = {action: sum(made.action == action for made in report.items) for action in ACTIONS}
    return {
        "out": str(work.out),
        "dry_run": work.dry_run,
        "items": [
            {
                "source": made.source,
                "outputs": made.there,
                "action": made.action,
                "reason": made.reason,
                "notes": made.notes,
                "seconds": _seconds(made),
                "fps": made.fps if made.there else 0.0,
            }
            for made in _sorted(report)
        ],
        "counts": {
            **counts,
            "without_caption": len(_bare(report)),
            "seconds": round(sum(map(_seconds, report.items)), 3),
        },
        "gone": sorted(report.gone),
    }


def _sorted(report: Report) -> list[Made]:
    return sorted(report.items, key=lambda made: made.source)


def _bare(report: Report) -> list[str]:
    """Outputs without a caption."""
    return [name for made in report.items if not made.captioned for name in made.there]


def _seconds(made: Made) -> float:
    """Of the clips that are there: pieces may have been removed."""
    return made.seconds * len(made.there) / len(made.outputs) if made.outputs else 0.0


def check(work: Preparation, report: Report) -> None:
    """Raises DatasetError: some sources failed, or nothing has come of all."""
    failed = [made.source for made in _sorted(report) if made.action == "failed"]
    if failed:
        media = sum(bool(made.there) or made.action == "failed" for made in report.items)
        done = "" if work.dry_run else " All others are done."
        raise DatasetError(
            f"{len(failed)} of {media} can't be prepared: {listing(failed)}; replace or remove them.{done}"
        )
    if not any(made.outputs for made in report.items):
        raise DatasetError("nothing in it makes a data set; give a folder that holds pictures, or longer clips.")


def lines(work: Preparation, report: Report) -> list[str]:
    """For people: what is not as usual first, the sum and the next step at the end."""
    told, left = list[str](), dict[str, list[str]]()
    for made in _sorted(report):
        if made.action == "left out" and not made.there:
            left.setdefault(made.reason, []).append(made.source)  # there may be thousands
        else:
            told += _told(made, work.dry_run)
    told += [f"left out   {listing(names)}: {why}" for why, names in sorted(left.items())]
    return [*told, *_summary(work, report)]


def _told(made: Made, planned: bool) -> list[str]:
    if made.action in QUIET and not made.reason and not planned:
        return [f"note       {made.source}: {note}" for note in made.notes]
    outputs = f" -> {listing(made.there, 3)}" if made.there and made.action != "unchanged" else ""
    action = "captioned" if made.action == "unchanged" and made.reason else made.action
    reason = f" ({made.reason})" if made.reason else ""
    return [f"{action:<9}  {made.source}{outputs}{reason}", *(f"           {note}" for note in made.notes)]


def _summary(work: Preparation, report: Report) -> list[str]:
    counts = Counter[str](made.action for made in report.items)
    parts = Counter(KINDS[PurePath(name).parts[0]] for made in report.items for name in made.there)
    would = "would hold" if work.dry_run else "holds"
    whole = " and ".join(f"{count} {kind}{'s' * (count != 1)}" for kind, count in sorted(parts.items(), reverse=True))
    length = f" ({sum(map(_seconds, report.items)):.1f} s)" if parts["clip"] else ""
    sums = ", ".join(f"{counts[action]} {action}" for action in ACTIONS if counts[action])
    told = [sums or "nothing found", f"{work.out} {would} {whole or 'nothing'} of these{length}"]
    rates = sorted({round(made.fps, 2) for made in report.items if made.fps and made.there})
    if len(rates) > 1:
        told.append(
            f"the clips run at {listing(f'{rate:g}' for rate in rates)} fps; upstream takes one rate for an entry, and "
            "`run` makes an entry of each"
        )
    bare, gone = _bare(report), sorted(report.gone)
    if gone:
        told.append(
            f"their sources are gone, and they are trained still; remove them if that is not meant: {listing(gone, 20)}"
        )
    out = shlex.quote(str(work.out))
    if bare:
        have = f"{len(bare)} {'has' if len(bare) == 1 else 'have'} no caption"
        told.append(f"{have}: wanwrap caption {out} writes them, or --template, or you")
    if whole and not work.dry_run:
        told.append(f"next: wanwrap check {out}")
    return told
