"""What `check` has found, as a screen, as JSON and as a contact sheet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from wanwrap.data.check import Checked, Row
from wanwrap.errors import listing
from wanwrap.look.contact_sheet import Shown, page
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
        yield from _table(found, found.rows)
    else:
        yield f"  ({len(found.rows)} files; --all lists each)"
    yield from _buckets(found, everything)
    yield from _sum(outlook)
    left = [row for row in found.rows if not row.kept and not row.stops]
    yield from _left("not trained:", found, left, everything)
    warnings = list(found.warnings())
    if warnings:
        yield "\nto know:"
        yield from (f"  {line}" for line in warnings)
    skip = "" if found.dataset.config else " (or leave them out: --skip_bad)"
    yield from _left(f"these stop a run{skip}:", found, found.stopping, everything)


def _heading(outlook: Outlook) -> str:
    found = outlook.checked
    count = {kind: sum(row.kind == kind for row in found.kept) for kind in ("image", "video")}
    out = f", {len(found.rows) - len(found.kept)} not trained" if len(found.kept) < len(found.rows) else ""
    return (
        f"{found.dataset.name}, as {outlook.preset} trains it: "
        f"{_count(count['image'], 'picture')}, {_count(count['video'], 'clip')}{out}"
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 'es' if what.endswith('ch') else 's'}"


def _table(found: Checked, rows: Sequence[Row]) -> Iterator[str]:
    names = {row: found.short(row.path) for row in rows}
    width = max(map(len, names.values()), default=0)
    for row in rows:
        kept = f"{_caption(row)} -> {_gives(row)}" if row.kept else "NOT TRAINED, see below"
        remarks = f" ({'; '.join(said)})" if (said := found.remarks(row)) else ""
        yield f"  {names[row]:<{width}}  {facts(row)}  {kept}{remarks}"


def facts(row: Row) -> str:
    """Size, and of a clip frames, rate and length; a dash for what can't be read."""
    if row.item is None:
        return "-"
    size = "x".join(map(str, row.item.size))
    if row.item.frames is None or not row.item.fps:
        return size
    return f"{size}, {row.item.frames} frames at {row.item.fps:.4g} fps, {row.item.frames / row.item.fps:.1f} s"


def _caption(row: Row) -> str:
    text = " ".join(row.item.caption.split()) if row.item else ""
    return f'"{text[:29]}..." ({len(text)})' if len(text) > 32 else f'"{text}"'


def _gives(row: Row) -> str:
    """The buckets it lands in, with how many windows of it."""
    number = {key: row.keys.count(key) for key in row.keys}
    return ", ".join(f"{count} x {bucket(key)}" if count > 1 else bucket(key) for key, count in number.items())


def bucket(key: tuple[int, ...]) -> str:
    """`1280x720, picture`, or `1280x720, 21 frames`."""
    size = f"{key[0]}x{key[1]}"
    return f"{size}, picture" if len(key) == 2 else f"{size}, {_count(key[2], 'frame')}"


def _buckets(found: Checked, everything: bool) -> Iterator[str]:
    """The largest first: they decide on the memory."""
    rows = sorted(found.buckets.items(), key=lambda pair: (-tokens(pair[0]), pair[0]))
    if rows:
        yield f"\n  {'bucket':<22} {'per epoch':>9} {'tokens':>8}"
    for key, count in rows if everything else rows[:FEW]:
        yield f"  {bucket(key):<22} {count:>9} {tokens(key):>8}"
    if len(rows) > FEW and not everything:
        yield f"  and {len(rows) - FEW} more (--all)"


def _sum(outlook: Outlook) -> Iterator[str]:
    found = outlook.checked
    data = found.dataset
    yield f"\n{_count(data.train_items, 'item')} in {_count(data.batches, 'batch')} per epoch"
    for level, epochs, steps in outlook.lengths:
        yield f"train{' ' + level if level else ''}: {_count(steps, 'step')}{f' in {epochs} epochs' if epochs else ''}"
    if found.largest:
        yield f"largest: {bucket(found.largest)}, {tokens(found.largest)} tokens (decides on the memory)"
    if found.kept:
        lengths = [len(row.item.caption) for row in found.kept if row.item]
        yield f"captions: {min(lengths)} to {max(lengths)} characters, {sum(lengths) / len(lengths):.0f} on average{_trigger(found)}"
        if large := found.enlarged:
            most = max(large, key=lambda row: row.scale)
            share = f"{len(large)} of {len(found.kept)} ({len(large) / len(found.kept):.0%})"
            yield f"enlarged: {share}, the most {found.short(most.path)}, {most.scale:.1f} times"


def _trigger(found: Checked) -> str:
    if found.trigger is None:
        return ""
    having = sum(bool(found.holds_trigger(row)) for row in found.kept)
    return f"; {found.trigger!r} in {having} of {len(found.kept)}"


def _left(title: str, found: Checked, rows: Sequence[Row], everything: bool) -> Iterator[str]:
    if not rows:
        return
    yield f"\n{title}"
    for reason, names in _by_reason(found, rows).items():
        yield f"  {listing(names, len(names) if everything else 5)}: {reason}"


def _by_reason(found: Checked, rows: Sequence[Row]) -> dict[str, list[str]]:
    by_reason = dict[str, list[str]]()
    for row in rows:
        by_reason.setdefault(str(row.reason), []).append(found.short(row.path))
    return by_reason


def as_json(outlook: Outlook) -> dict[str, Any]:
    """All of it for other programs."""
    found = outlook.checked
    data, kept = found.dataset, found.kept
    return {
        "dataset": data.name,
        "preset": outlook.preset,
        "items": [_item(found, row) for row in found.rows],
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
        "errors": [f"{row.path}: {row.reason}" for row in found.stopping],
        "warnings": list(found.warnings()),
        "exit_code": found.exit_code,
    }


def _item(found: Checked, row: Row) -> dict[str, Any]:
    item = row.item
    seconds = item.frames / item.fps if item and item.frames and item.fps else None
    return {
        "path": str(row.path),
        "kind": row.kind,
        "kept": row.kept,
        "reason": row.reason,
        "stops": row.stops,
        "width": item.size[0] if item else None,
        "height": item.size[1] if item else None,
        "frames": item.frames if item else None,
        "fps": item.fps if item else None,
        "seconds": seconds,
        "caption": item.caption if item else None,
        "caption_length": len(item.caption) if item else None,
        "trigger": found.holds_trigger(row),
        "buckets": [list(key) for key in row.keys],
        "clips": len(row.keys),
        "upscaled": row.scale > 1,
        "scale": round(row.scale, 3),
        "remarks": found.remarks(row),
    }


def sheet(outlook: Outlook) -> Iterator[str]:
    """The contact sheet, piece by piece."""
    found = outlook.checked
    shown = [each for row in found.rows for each in _shown(found, row)]
    summary = [_heading(outlook), *(line.strip() for line in _sum(outlook)), *found.warnings()]
    with console.bar("thumbnails", len(shown)) as done:
        yield from page(found.dataset.name, summary, shown, done)


def _shown(found: Checked, row: Row) -> Iterator[Shown]:
    """A file once for each bucket it lands in."""
    caption = row.item.caption if row.item else None
    for key in dict.fromkeys(row.keys) or [None]:
        yield Shown(
            path=row.path,
            kind=row.kind,
            group=bucket(key) if key else "",
            bucket=(key[0], key[1]) if key else None,
            facts=facts(row),
            caption=caption,
            notes=tuple(found.remarks(row)),
            reason=row.reason,
        )
