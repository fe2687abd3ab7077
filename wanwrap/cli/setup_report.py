"""What setup says, to people and to other programs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from wanwrap.cli.terminal import indented
from wanwrap.errors import listing
from wanwrap.machine.request import SetupRequest
from wanwrap.machine.setup import Setup
from wanwrap.system.disk import large, nearest
from wanwrap.system.shell import joined, quote
from wanwrap.upstream.pin import VERSION
from wanwrap.weights import workspace
from wanwrap.weights.catalogue import CATALOGUE, TOKENIZERS


def surveyed(found: Setup) -> Iterator[str]:
    """What is needed, where it is, what will be fetched and installed, and the room for it."""
    yield "Weights:"
    rows = [_row(found, name) for name in found.request.needs]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
    if found.search.files:
        yield "Files found:"
        for folder, files in groupby(found.search.files, lambda each: each.path.parent):
            yield f"  {folder}"
            yield from (indented(f"    {each.path.name}: {found.search.why(each)}") for each in files)
    if found.search.others:
        yield f"  and {found.search.others} of other models, or LoRAs of yours (`wanwrap inspect FILE` tells of each)"
    for name in found.request.tokenizers:
        state = "to download (21 MB)" if name in found.tokenizers else "in the Hugging Face cache"
        yield f"Tokenizer of {name}: {state}"
    place = nearest(found.request.models)
    free = large(shutil.disk_usage(place).free)
    yield f"To download: {large(found.to_download)}; to write: {large(found.to_write)}; free in {place}: {free}"
    for name, size in found.request.merged.items():
        yield f"When {name} runs it writes {large(size)} more: DiTs with Lightning merged in"
    if found.problem:
        yield f"Can't be installed: {found.problem} (--weights_only leaves Python alone.)"
    elif found.commands:
        yield "To install:"
        yield from (f"  {joined(command.argv)}  # {command.why}" for command in found.commands)
    elif found.commands is not None:
        yield f"musubi-tuner {VERSION} and what the presets import: there, nothing to install"


def _row(found: Setup, name: str) -> tuple[str, str, str, str]:
    """A weight's name, state, size, and where it is or comes from."""
    weight, each = CATALOGUE[name], found.search.chosen.get(name)
    if each is None:
        have = found.have(name)
        return name, "download", large(weight.bytes), weight.tail + (f" ({large(have)} are there)" if have else "")
    state = "convert" if each.convert else "to check" if each.unchecked else "found"
    return name, state, large(each.size), str(each.path)


def as_json(found: Setup) -> dict[str, Any]:
    """All of it for other programs."""
    commands, place = found.commands, nearest(found.request.models)
    used = {each.path for each in found.search.chosen.values()}
    return {
        "presets": [run.preset.name for run in found.request.runs],
        "base_dir": found.request.first.base_dir,
        "weights": {name: _json(found, name) for name in found.request.needs},
        "files": [
            {**each.json(), "used": each.path in used, "why": found.search.why(each)} for each in found.search.files
        ],
        "tokenizers": {name: name not in found.tokenizers for name in found.request.tokenizers},
        "download_bytes": found.to_download,
        "write_bytes": found.to_write,
        "free_bytes": shutil.disk_usage(place).free,
        "install": None if commands is None else [list(command.argv) for command in commands],
        "problem": str(found.problem) if found.problem else None,
        "failed": {name: str(error) for name, error in found.failed.items()},
        "upstream": vars(found.upstream) if found.upstream else None,
    }


def _json(found: Setup, name: str) -> dict[str, Any]:
    weight, each, record = CATALOGUE[name], found.search.chosen.get(name), found.records.get(name)
    path = record.path if record else each.path if each else found.request.models / weight.path
    return {
        "state": "ready" if record else _row(found, name)[1],
        "path": path,
        "bytes": each.size if each else weight.bytes,
        "repo": weight.repo,
        "revision": weight.revision,
        "sha256": each.sha256 if each else weight.sha256,
        "needed_by": found.request.needs[name],
    }


def listed(request: SetupRequest) -> Iterator[str]:
    """The catalogue: each file with its repository, revision, size, sha256 and what it is for."""
    for name, presets in request.needs.items():
        weight = CATALOGUE[name]
        size = large(weight.size) if weight.size else f"about {large(weight.bytes)}"
        yield f"{name}  ({weight.role}, {weight.dtype}, {size})"
        yield f"    {weight.repo} @ {weight.revision or 'main'}: {weight.path}"
        yield f"    sha256 {weight.sha256}"
        yield f"    for {', '.join(presets)}"
    for name in request.tokenizers:
        yield f"tokenizer of {name}  (21 MB)"
        yield f"    {TOKENIZERS[name].repo} @ main: {TOKENIZERS[name].folder}/"
    yield f"in all {large(sum(CATALOGUE[name].bytes for name in request.needs))}"


def listed_json(request: SetupRequest) -> list[dict[str, Any]]:
    """The same for other programs."""
    rows = [{"name": name, **vars(CATALOGUE[name]), "needed_by": presets} for name, presets in request.needs.items()]
    return rows + [
        {"name": f"{name}-tokenizer", "role": "tokenizer", **vars(TOKENIZERS[name])} for name in request.tokenizers
    ]


def ready(found: Setup) -> Iterator[str]:
    """The last words."""
    words = found.request.words
    what = "ready"
    if found.commands is None:
        what = "the weights are ready (musubi-tuner and its packages were left alone)"
    yield f"{what}: {listing(words)}. What was found stands in {found.request.first.base_dir / workspace.NAME}."
    word = quote(words[0])
    yield f"Now: wanwrap rehearse {word} DATASET, then wanwrap run {word} DATASET"
