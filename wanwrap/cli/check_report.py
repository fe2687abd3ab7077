"""What `check` has found, as a screen, as JSON and as a contact sheet."""

from __future__ import annotations

import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from wanwrap.cli.words import count
from wanwrap.data.check import Checked, Row, bucket_name
from wanwrap.errors import listing
from wanwrap.upstream.buckets import tokens

FEW = 16  # files that are all listed; of more only those that need a look, unless all are asked for

Training = tuple["str | None", "int | None", int]  # noise level, epochs (None where it counts in steps), steps


def summary(found: Checked, preset: str, trainings: Sequence[Training]) -> list[str]:
    """What there is, and what will be trained."""
    data, kept = found.dataset, found.kept
    clips, dropped = sum(row.item.kind == "video" for row in kept), len(found.rows) - len(kept)
    out = f", {dropped} not trained" if dropped else ""
    things = f"{count(len(kept) - clips, 'picture')}, {count(clips, 'clip')}{out}"
    told = [f"{data.name}, as {preset} trains it: {things}"]
    told += [f"{count(data.train_items, 'item')} in {count(data.batches, 'batch')} per epoch"]
    for level, epochs, steps in trainings:
        name, length = f"train {level}" if level else "train", f" in {epochs} epochs" if epochs else ""
        told += [f"{name}: {count(steps, 'step')}{length}"]
    if largest := data.largest:
        number, key = largest
        told += [f"largest batch: {bucket_name(key)}, {number} tokens (decides on the memory)"]
    if found.trigger is not None:
        told += [f"captions: {found.trigger!r} in {sum(bool(row.trigger) for row in kept)} of {len(kept)}"]
    if large := [row for row in kept if row.scale > 1]:
        most = max(large, key=lambda row: row.scale)
        share = f"{len(large)} of {len(kept)} ({len(large) / len(kept):.0%})"
        told += [f"enlarged: {share}, the most {data.short(most.item.path)}, {most.scale:.1f} times"]
    return told


def lines(found: Checked, summary: Sequence[str], *, everything: bool) -> Iterator[str]:
    """What to look at, the buckets, the sum, then what to do something about."""
    yield summary[0]
    if everything or len(found.rows) <= FEW:
        yield from _table(found)
    else:
        yield f"  ({len(found.rows)} files; --all lists each)"
    # the largest first: they decide on the memory
    buckets = sorted(found.buckets.items(), key=lambda pair: (-tokens(pair[0]), pair[0]))
    rows = [f"{bucket_name(key):<22} {number:>9} {tokens(key):>8}" for key, number in buckets]
    if len(rows) > FEW and not everything:
        rows[FEW:] = [f"and {len(rows) - FEW} more (--all)"]
    yield from _part(f"  {'bucket':<22} {'per epoch':>9} {'tokens':>8}", rows)
    yield from ("", *summary[1:])
    left = [row for row in found.rows if row.item.problem and not row.item.stops]
    yield from _part("not trained:", _reasons(found, left, everything))
    yield from _part("to know:", [*found.warnings()])
    skip = "" if found.dataset.config else " (or leave them out: --skip_bad)"
    yield from _part(f"these stop a run{skip}:", _reasons(found, found.stopping, everything))


def _part(title: str, rows: Sequence[str]) -> Iterator[str]:
    if rows:
        yield f"\n{title}"
    yield from (f"  {row}" for row in rows)


def _table(found: Checked) -> Iterator[str]:
    names = [found.dataset.short(row.item.path) for row in found.rows]
    width = max(map(len, names), default=0)
    for name, row in zip(names, found.rows, strict=True):
        caption, windows = textwrap.shorten(row.item.caption, 40, placeholder=" ..."), Counter(row.keys).items()
        gives = ", ".join(f"{n} x {bucket_name(key)}" if n > 1 else bucket_name(key) for key, n in windows)
        text = "NOT TRAINED, see below" if row.item.problem else f'"{caption}" -> {gives}'
        remarks = f" ({'; '.join(row.remarks)})" if row.remarks else ""
        yield f"  {name:<{width}}  {row.facts}  {text}{remarks}"


def _reasons(found: Checked, rows: Sequence[Row], everything: bool) -> list[str]:
    """Why files are not trained, with their names: of each reason five, unless all are asked for."""
    reasons = defaultdict[str, list[str]](list)
    for row in rows:
        reasons[str(row.item.problem)].append(found.dataset.short(row.item.path))
    return [f"{listing(names, len(rows) if everything else 5)}: {why}" for why, names in reasons.items()]


def as_json(found: Checked, preset: str, trainings: Sequence[Training]) -> dict[str, Any]:
    """All of it for other programs."""
    data, kept, largest = found.dataset, found.kept, found.dataset.largest
    return {
        "dataset": data.name,
        "preset": preset,
        "items": [_row(row) for row in found.rows],
        "entries": [
            {"kind": e.kind, "directory": e.directory, "files": len(e.items), **e.options} for e in data.entries
        ],
        "buckets": [{"bucket": key, "tokens": tokens(key), "items": n} for key, n in sorted(found.buckets.items())],
        "train_items": data.train_items,
        "batches_per_epoch": data.batches,
        "steps_per_epoch": next((steps // epochs for _, epochs, steps in trainings if epochs), None),
        "epochs": trainings[0][1],
        "total_steps": max(steps for _, _, steps in trainings),
        "trainings": [dict(zip(("noise_level", "epochs", "steps"), each, strict=True)) for each in trainings],
        "largest_bucket": largest and {"bucket": largest[1], "tokens": tokens(largest[1]), "batch_tokens": largest[0]},
        "upscaled_share": sum(row.scale > 1 for row in kept) / len(kept) if kept else 0.0,
        "near_duplicates": found.alike,
        "same_captions": found.same_captions,
        "errors": [f"{row.item.path}: {row.item.problem}" for row in found.stopping],
        "warnings": list(found.warnings()),
        "exit_code": found.exit_code,
    }


def _row(row: Row) -> dict[str, Any]:
    item, read = row.item, any(row.item.size)
    return {
        "path": item.path,
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
