"""Captions by upstream's own script: what has none is staged for it, and each answer is put in its place at once."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wanwrap.caption import prompts
from wanwrap.caption.request import ANSWERS, STAGED, CaptionRequest
from wanwrap.data import clips, media, pictures
from wanwrap.data.media import CAPTION, Item
from wanwrap.errors import FULL, OutputError
from wanwrap.system import console
from wanwrap.system.failures import failure
from wanwrap.system.files import lock, write_atomic
from wanwrap.system.log import run_logged
from wanwrap.system.process import Command

MAX_SIZE = 1280  # upstream's default
ADVICE = {
    "gpu memory": "--fp8 halves the model, and a smaller --max_size each picture",
    "memory": "close other programs",
}
FACTOR, LEAST = 28, 256 * 256  # pixels: upstream brings sides to multiples of it, and areas to no less
MOST = 3000  # characters: more than the 512 tokens that training reads of a caption
LONGEST = 100  # times as long as wide; the processor takes no more than 200, of rounded sides


@dataclass
class Outcome:
    """What became of each: its caption, or why it has none; `kept` have one that was there."""

    kept: int = 0
    written: dict[Path, str] = field(default_factory=dict)
    failed: dict[Path, str] = field(default_factory=dict)

    def json(self) -> dict[str, Any]:
        """For other programs."""
        written = [{"path": str(path), "caption": text} for path, text in self.written.items()]
        failed = [{"path": str(path), "reason": why} for path, why in self.failed.items()]
        return {"written": written, "kept": self.kept, "failed": failed}

    def write(self, path: Path, text: str, *, overwrite: bool) -> None:
        """Put a caption beside its picture or clip; one that somebody has written meanwhile stays.

        Raises OSError: the disk is full.
        """
        place = path.with_suffix(CAPTION)
        if not text:
            self.failed[path] = "the model answered nothing"
        elif len(text) > MOST:
            self.failed[path] = f"the model ran on for {len(text):,} characters"
        elif media.filled(place) and not overwrite:
            self.kept += 1
        else:
            try:
                write_atomic(place, f"{text}\n")
                self.written[path] = text
            except (OSError, OutputError) as error:
                if getattr(error, "errno", None) in FULL:
                    raise
                why = getattr(error, "strerror", None) or error
                self.failed[path] = f"its caption {place.name} can't be written: {why}"


def carry_out(request: CaptionRequest, model: Path, outcome: Outcome) -> None:
    """Show the model what has no caption, and write each answer beside its picture or clip as soon as it is there.

    Raises:
        StepError, or the error of system.failures: upstream failed; what it had answered until then is written.
        OutputError: another wanwrap does the same.
        KeyboardInterrupt: Ctrl-C; the same.
    """
    staging = request.work / STAGED
    request.work.mkdir(parents=True, exist_ok=True)
    with lock(request.work, f"another wanwrap is writing captions for {request.folder.name}; wait until it has ended."):
        shutil.rmtree(staging, ignore_errors=True)  # a power cut may have left it
        try:
            staging.mkdir()
            most = int(str(request.options["max_size"] or MAX_SIZE))
            with console.bar("looking at file") as done:
                staged = _stage(request.targets, staging, most, outcome.failed, done)
            if staged:
                replaced = {item.path for item in request.replaced} & {*staged.values()}
                if replaced:
                    place = _keep(replaced, request.work)
                    console.say(f"{len(replaced)} captions will be replaced; the old ones are in {place}")
                _write(request, model, staged, outcome)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _keep(replaced: Iterable[Path], folder: Path) -> Path:
    """Write captions that are about to be replaced to a new file in `folder`, and return it."""
    rows = list[str]()
    for path in replaced:
        caption = path.with_suffix(CAPTION).read_bytes().decode("utf-8", "surrogateescape")
        rows.append(json.dumps({"path": str(path), "caption": caption}) + "\n")
    place = folder / f"replaced-{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 10**9:09}.jsonl"
    write_atomic(place, "".join(rows))
    return place


def _write(request: CaptionRequest, model: Path, staged: dict[str, Path], outcome: Outcome) -> None:
    """Upstream's script, followed; `staged` are the files by their names in its folder."""
    answers, read = request.work / ANSWERS, 0

    def look() -> bool:
        """Write what has come. Never a reason to end upstream."""
        nonlocal read
        if answers.is_file():
            with answers.open("rb") as file:
                file.seek(read)
                lines = file.read().split(b"\n")[:-1]  # the last one is still being written
            for line in lines:
                read += len(line) + 1
                row = json.loads(line)
                if path := staged.pop(Path(row["image_path"]).name, None):
                    text = prompts.caption(row["caption"], request.trigger)
                    outcome.write(path, text, overwrite=request.overwrite)
        return False

    try:
        argv = request.argv(model)
        status, tail = run_logged("captioning", Command(argv, request.work, request.env), request.log, look)
    finally:
        look()
    if status:
        why = failure(status, tail, ADVICE)
        raise why.error(f"captioning {why.text}\n{tail}\nThe whole log: {request.log}")
    for path in staged.values():
        outcome.failed[path] = "upstream gave no caption for it"


def _stage(
    items: Iterable[Item], folder: Path, most: int, failed: dict[Path, str], done: Callable[[], object]
) -> dict[str, Path]:
    """Put what the model is to see into `folder`, by the names there: upstream captions all pictures of one folder.

    Each is decoded first, since upstream ends at the first that it can't read. `failed` gets those, with the reason.
    """

    def one(name: str, item: Item) -> None:
        try:
            _stage_one(item, folder / name, most)
        except Exception as error:  # whatever a decoder raises, the file is what is wrong
            if isinstance(error, OSError) and error.errno in FULL:
                raise
            failed[item.path] = media.why(item.path, error)
        done()

    names = dict[str, Item]()  # that every program takes
    for number, item in enumerate(items, 1):
        names[f"{number:06}{item.path.suffix.lower() if item.kind == 'image' else '.png'}"] = item
    with ThreadPoolExecutor() as pool:
        list(pool.map(one, names, names.values()))
    return {name: item.path for name, item in names.items() if item.path not in failed}


def _stage_one(item: Item, place: Path, most: int) -> None:
    path, caption = item.path, item.path.with_suffix(CAPTION)
    if caption.exists() and not caption.is_file():
        raise ValueError(f"its caption {caption.name} is no file")
    read = pictures.read(path, whole=True) if item.kind == "image" else clips.read(path, whole=False)
    if not seen(read.size, most):
        raise ValueError(f"upstream can't bring its {read.size[0]}x{read.size[1]} pixels to a size for the model")
    if item.kind == "video":
        clips.middle(path, read.frames).save(place)
    else:
        _link(path, place)


def _link(path: Path, place: Path) -> None:
    """A second name for a picture, which takes no room; a copy where that can't be."""
    try:
        if not os.access(path, os.W_OK):
            raise PermissionError  # Windows could not remove its second name
        os.link(os.path.realpath(path), place)
    except OSError:
        shutil.copyfile(path, place)


def seen(size: tuple[int, int], most: int) -> bool:
    """Whether upstream finds a size for a picture of (width, height), `most` squared pixels at most; else it ends."""
    width, height = (int(side / FACTOR + 0.5) * FACTOR for side in size)
    if not width * height or max(size) > LONGEST * min(size):
        return False
    if LEAST <= width * height <= most**2:
        return True
    small = width * height < LEAST
    scale = math.sqrt((LEAST if small else most**2) / (width * height)) / FACTOR
    nearest, step = (math.ceil, FACTOR) if small else (math.floor, -FACTOR)
    width, height = (nearest(side * scale) * FACTOR for side in size)
    return any(LEAST <= w * h <= most**2 for w, h in ((width, height), (width + step, height), (width, height + step)))
