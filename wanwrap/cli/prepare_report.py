"""What `prepare` tells: a line for each item that came out otherwise than it went in, and a summary."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import PurePath
from typing import Any

from wanwrap.errors import DatasetError, listing
from wanwrap.prepare.making import Result
from wanwrap.prepare.prepare import Report

ACTIONS = ("copied", "converted", "cut", "unchanged", "left out", "failed")
QUIET = ("copied", "unchanged")  # of these only remarks are told
KINDS = {"images": "picture", "videos": "clip"}


def as_json(report: Report) -> dict[str, Any]:
    """All of it, for other programs."""
    items = [_item(result) for result in _sorted(report)]
    counts = {action: sum(item["action"] == action for item in items) for action in ACTIONS}
    more = {"without_caption": len(_bare(report)), "seconds": round(_seconds(report), 3)}
    gone = sorted(report.gone)
    return {"out": str(report.out), "dry_run": report.planned, "items": items, "counts": {**counts, **more}, "gone": gone}  # fmt: skip


def _item(result: Result) -> dict[str, Any]:
    names = ("source", "outputs", "action", "reason", "notes", "seconds", "fps")
    return {name: getattr(result, name) for name in names}


def _sorted(report: Report) -> list[Result]:
    return sorted(report.items, key=lambda result: result.source)


def _bare(report: Report) -> list[str]:
    """Outputs without a caption."""
    return [name for result in report.items if not result.captioned for name in result.outputs]


def _seconds(report: Report) -> float:
    return sum(result.seconds for result in report.items)


def check(report: Report) -> None:
    """Raises DatasetError: some sources failed, or nothing has come of all."""
    failed = [result.source for result in _sorted(report) if result.action == "failed"]
    if failed:
        media = sum(bool(result.outputs) or result.action == "failed" for result in report.items)
        done = "" if report.planned else " All others are done."
        raise DatasetError(
            f"{len(failed)} of {media} can't be prepared: {listing(failed)}; replace or remove them.{done}"
        )
    if not any(result.outputs or (result.entry and result.entry.outputs) for result in report.items):
        raise DatasetError("nothing in it makes a data set; give a folder that holds pictures, or longer clips.")


def lines(report: Report) -> list[str]:
    """For people: what is not as usual first, the sum and the next step at the end."""
    others = [result for result in report.items if result.action == "left out" and not result.outputs]
    told = [result for result in _sorted(report) if result.action != "left out" or result.outputs]
    remarks = [line for result in told for line in _told(result, report.planned)]
    return [*remarks, *_left(others), *_summary(report)]


def _told(result: Result, planned: bool) -> list[str]:
    quiet = result.action in QUIET and not result.reason and not planned
    made = f" -> {listing(result.outputs, 3)}" if result.outputs and result.action != "unchanged" else ""
    action = "captioned" if result.action == "unchanged" and result.reason else result.action
    head = f"{action:<9}  {result.source}{made}"
    line = head + (f" ({result.reason})" if result.reason else "")
    if quiet:
        return [f"note       {result.source}: {note}" for note in result.notes]
    return [line, *(f"           {note}" for note in result.notes)]


def _left(others: list[Result]) -> list[str]:
    """What is no media, a line a reason: there may be thousands."""
    reasons = dict[str, list[str]]()
    for result in others:
        reasons.setdefault(result.reason, []).append(result.source)
    return [f"left out   {listing(sorted(names))}: {why}" for why, names in sorted(reasons.items())]


def _summary(report: Report) -> list[str]:
    counts = Counter[str](result.action for result in report.items)
    parts = Counter(KINDS[PurePath(name).parts[0]] for result in report.items for name in result.outputs)
    would = "would hold" if report.planned else "holds"
    made = " and ".join(f"{count} {kind}{'s' * (count != 1)}" for kind, count in sorted(parts.items(), reverse=True))
    length = f" ({_seconds(report):.1f} s)" if parts["clip"] else ""
    sums = ", ".join(f"{counts[action]} {action}" for action in ACTIONS if counts[action])
    told = [sums or "nothing found", f"{report.out} {would} {made or 'nothing'} of these{length}"]
    rates = sorted({round(result.fps, 2) for result in report.items if result.fps})
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
    out = shlex.quote(str(report.out))
    if bare:
        have = f"{len(bare)} {'has' if len(bare) == 1 else 'have'} no caption"
        told.append(f"{have}: wanwrap caption {out} writes them, or --template, or you")
    if made and not report.planned:
        told.append(f"next: wanwrap check {out}")
    return told
