"""What `check` has found, as a screen, as JSON and as a contact sheet."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from wanwrap.cli.words import count
from wanwrap.data.check import Checked, Row, bucket_name
from wanwrap.errors import listing
from wanwrap.look.contact_sheet import page
from wanwrap.system import console
from wanwrap.upstream.buckets import tokens

FEW = 16  # files that are all listed; of more only those that need a look, unless all are asked for


@dataclass(frozen=True)
class Outlook:
    """A checked data set, and what a preset makes of it: noise level, epochs and steps of each training."""

    checked: Checked
    preset: str
    lengths: Sequence[tuple[str | None, int | None, int]]


def lines(outlook: Outlook, *, everything: bool) -> Iterator[str]:
    """What to look at, the buckets, the sum, then what to do something about."""
    found = outlook.checked
    yield _heading(outlook)
    if everything or len(found.rows) <= FEW:
        yield from _table(found)
    else:
        yield f"  ({len(found.rows)} files; --all lists each)"
    yield from _buckets(found, everything)
    yield from _sum(outlook)
    left = [row for row in found.rows if row.item.problem and not row.item.stops]
    yield from _left("not trained:", found, left, everything)
    warnings = list(found.warnings())
    if warnings:
        yield "\nto know:"
        yield from (f"  {line}" for line in warnings)
    skip = "" if found.dataset.config else " (or leave them out: --skip_bad)"
    yield from _left(f"these stop a run{skip}:", found, found.stopping, everything)


def _heading(outlook: Outlook) -> str:
    found = outlook.checked
    clips = sum(row.item.kind == "video" for row in found.kept)
    out = f", {len(found.rows) - len(found.kept)} not trained" if len(found.kept) < len(found.rows) else ""
    return (
        f"{found.dataset.name}, as {outlook.preset} trains it: "
        f"{count(len(found.kept) - clips, 'picture')}, {count(clips, 'clip')}{out}"
    )


def _table(found: Checked) -> Iterator[str]:
    names = [found.dataset.short(row.item.path) for row in found.rows]
    width = max(map(len, names), default=0)
    for name, row in zip(names, found.rows, strict=True):
        text = "NOT TRAINED, see below" if row.item.problem else f"{_caption(row.item.caption)} -> {_gives(row)}"
        remarks = f" ({'; '.join(row.remarks)})" if row.remarks else ""
        yield f"  {name:<{width}}  {row.facts}  {text}{remarks}"


def _caption(caption: str) -> str:
    text = " ".join(caption.split())
    return f'"{text[:29]}..." ({len(text)})' if len(text) > 32 else f'"{text}"'


def _gives(row: Row) -> str:
    """The buckets it lands in, with how many windows of it."""
    number = Counter(row.keys)
    return ", ".join(f"{n} x {bucket_name(key)}" if n > 1 else bucket_name(key) for key, n in number.items())


def _buckets(found: Checked, everything: bool) -> Iterator[str]:
    """The largest first: they decide on the memory."""
    rows = sorted(found.buckets.items(), key=lambda pair: (-tokens(pair[0]), pair[0]))
    if rows:
        yield f"\n  {'bucket':<22} {'per epoch':>9} {'tokens':>8}"
    for key, number in rows if everything else rows[:FEW]:
        yield f"  {bucket_name(key):<22} {number:>9} {tokens(key):>8}"
    if len(rows) > FEW and not everything:
        yield f"  and {len(rows) - FEW} more (--all)"


def _sum(outlook: Outlook) -> Iterator[str]:
    found = outlook.checked
    data = found.dataset
    yield f"\n{count(data.train_items, 'item')} in {count(data.batches, 'batch')} per epoch"
    for level, epochs, steps in outlook.lengths:
        yield f"train{' ' + level if level else ''}: {count(steps, 'step')}{f' in {epochs} epochs' if epochs else ''}"
    if found.largest:
        yield f"largest: {bucket_name(found.largest)}, {tokens(found.largest)} tokens (decides on the memory)"
    if found.kept:
        lengths = [len(row.item.caption) for row in found.kept]
        yield f"captions: {min(lengths)} to {max(lengths)} characters, {sum(lengths) / len(lengths):.0f} on average{_trigger(found)}"
        if large := found.enlarged:
            most = max(large, key=lambda row: row.scale)
            share = f"{len(large)} of {len(found.kept)} ({len(large) / len(found.kept):.0%})"
            yield f"enlarged: {share}, the most {found.dataset.short(most.item.path)}, {most.scale:.1f} times"


def _trigger(found: Checked) -> str:
    if found.trigger is None:
        return ""
    having = sum(bool(row.trigger) for row in found.kept)
    return f"; {found.trigger!r} in {having} of {len(found.kept)}"


def _left(title: str, found: Checked, rows: Sequence[Row], everything: bool) -> Iterator[str]:
    reasons = defaultdict[str, list[str]](list)
    for row in rows:
        reasons[str(row.item.problem)].append(found.dataset.short(row.item.path))
    if rows:
        yield f"\n{title}"
    for reason, names in reasons.items():
        yield f"  {listing(names, len(names) if everything else 5)}: {reason}"


def as_json(outlook: Outlook) -> dict[str, Any]:
    """All of it for other programs."""
    found = outlook.checked
    data, kept = found.dataset, found.kept
    return {
        "dataset": data.name,
        "preset": outlook.preset,
        "items": [_row(row) for row in found.rows],
        "entries": [
            {"kind": e.kind, "directory": str(e.directory), "files": len(e.items), **e.options} for e in data.entries
        ],
        "buckets": [
            {"bucket": list(key), "items": count, "tokens": tokens(key)} for key, count in sorted(found.buckets.items())
        ],
        "train_items": data.train_items,
        "batches_per_epoch": data.batches,
        "steps_per_epoch": next((steps // epochs for _, epochs, steps in outlook.lengths if epochs), None),
        "epochs": outlook.lengths[0][1],
        "total_steps": max(steps for _, _, steps in outlook.lengths),
        "trainings": [
            {"noise_level": level, "epochs": epochs, "steps": steps} for level, epochs, steps in outlook.lengths
        ],
        "largest_bucket": {"bucket": list(found.largest), "tokens": tokens(found.largest)} if found.largest else None,
        "upscaled_share": len(found.enlarged) / len(kept) if kept else 0.0,
        "near_duplicates": [[str(path) for path in group] for group in found.alike],
        "same_captions": [[str(path) for path in group] for group in found.same_captions],
        "errors": [f"{row.item.path}: {row.item.problem}" for row in found.stopping],
        "warnings": list(found.warnings()),
        "exit_code": found.exit_code,
    }


def _row(row: Row) -> dict[str, Any]:
    item, read = row.item, any(row.item.size)
    return {
        "path": str(item.path),
        "kind": item.kind,
        "kept": not item.problem,
        "reason": item.problem,
        "stops": bool(item.problem) and item.stops,
        "width": item.size[0] or None,
        "height": item.size[1] or None,
        "frames": item.frames or None,
        "fps": item.fps or None,
        "seconds": item.frames / item.fps if item.frames else None,
        "caption": item.caption if read else None,
        "caption_length": len(item.caption) if read else None,
        "trigger": row.trigger,
        "buckets": row.keys,
        "clips": len(row.keys),
        "upscaled": row.scale > 1,
        "scale": round(row.scale, 3),
        "remarks": row.remarks,
    }


def sheet(outlook: Outlook) -> Iterator[str]:
    """The contact sheet, piece by piece."""
    found = outlook.checked
    summary = [_heading(outlook), *(line.strip() for line in _sum(outlook)), *found.warnings()]
    figures = sum(len({*row.keys}) or 1 for row in found.rows)
    with console.bar("thumbnails", figures) as done:
        yield from page(found.dataset.name, summary, found.rows, done)
