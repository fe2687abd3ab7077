"""What `check` has found, as a screen, as JSON and as a contact sheet."""

from __future__ import annotations

import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wanwrap.cli.words import count
from wanwrap.data.check import Checked, Key, Row, bucket_name
from wanwrap.errors import listing
from wanwrap.look import contact_sheet
from wanwrap.upstream.buckets import tokens

FEW = 16  # files that are all listed; of more only those that need a look, unless all are asked for


@dataclass(frozen=True)
class Outlook:
    """A checked data set, and what a preset makes of it: noise level, epochs and steps of each training."""

    checked: Checked
    preset: str
    lengths: Sequence[tuple[str | None, int | None, int]]

    @property
    def summary(self) -> list[str]:
        """What there is, and what will be trained."""
        found, kept = self.checked, self.checked.kept
        data, clips = found.dataset, sum(row.item.kind == "video" for row in kept)
        out = f", {len(found.rows) - len(kept)} not trained" if len(kept) < len(found.rows) else ""
        things = f"{count(len(kept) - clips, 'picture')}, {count(clips, 'clip')}{out}"
        told = [f"{data.name}, as {self.preset} trains it: {things}"]
        told += [f"{count(data.train_items, 'item')} in {count(data.batches, 'batch')} per epoch"]
        for level, epochs, steps in self.lengths:
            name, length = f"train {level}" if level else "train", f" in {epochs} epochs" if epochs else ""
            told += [f"{name}: {count(steps, 'step')}{length}"]
        if found.largest:
            told += [f"largest: {bucket_name(found.largest)}, {tokens(found.largest)} tokens (decides on the memory)"]
        if found.trigger is not None:
            told += [f"captions: {found.trigger!r} in {sum(bool(row.trigger) for row in kept)} of {len(kept)}"]
        if large := found.enlarged:
            most = max(large, key=lambda row: row.scale)
            share = f"{len(large)} of {len(kept)} ({len(large) / len(kept):.0%})"
            told += [f"enlarged: {share}, the most {data.short(most.item.path)}, {most.scale:.1f} times"]
        return told


def lines(outlook: Outlook, *, everything: bool) -> Iterator[str]:
    """What to look at, the buckets, the sum, then what to do something about."""
    found = outlook.checked
    heading, *summary = outlook.summary
    yield heading
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
    yield from ("", *summary)
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


def as_json(outlook: Outlook) -> dict[str, Any]:
    """All of it for other programs."""
    found, data, kept = outlook.checked, outlook.checked.dataset, outlook.checked.kept
    return {
        "dataset": data.name,
        "preset": outlook.preset,
        "items": [_row(row) for row in found.rows],
        "entries": [
            {"kind": e.kind, "directory": e.directory, "files": len(e.items), **e.options} for e in data.entries
        ],
        "buckets": [{**_bucket(key), "items": number} for key, number in sorted(found.buckets.items())],
        "train_items": data.train_items,
        "batches_per_epoch": data.batches,
        "steps_per_epoch": next((steps // epochs for _, epochs, steps in outlook.lengths if epochs), None),
        "epochs": outlook.lengths[0][1],
        "total_steps": max(steps for _, _, steps in outlook.lengths),
        "trainings": [dict(zip(("noise_level", "epochs", "steps"), each, strict=True)) for each in outlook.lengths],
        "largest_bucket": _bucket(found.largest) if found.largest else None,
        "upscaled_share": len(found.enlarged) / len(kept) if kept else 0.0,
        "near_duplicates": found.alike,
        "same_captions": found.same_captions,
        "errors": [f"{row.item.path}: {row.item.problem}" for row in found.stopping],
        "warnings": list(found.warnings()),
        "exit_code": found.exit_code,
    }


def _bucket(key: Key) -> dict[str, Any]:
    return {"bucket": key, "tokens": tokens(key)}


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


def sheet(outlook: Outlook, place: Path) -> None:
    """All of it as a contact sheet."""
    found = outlook.checked
    contact_sheet.write(place, found.dataset.name, [*outlook.summary, *found.warnings()], found.rows)
