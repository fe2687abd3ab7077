"""Finished LoRAs into ComfyUI's models/loras: never over another file, and refused before the training, not after it."""

from __future__ import annotations

import filecmp
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wanwrap.errors import FULL, OptionError, OutputError, RoomError, WanwrapError, WeightsError
from wanwrap.paths import absolute
from wanwrap.plan.plan import Plan
from wanwrap.system import disk
from wanwrap.system.files import whole
from wanwrap.weights import comfyui
from wanwrap.weights.comfyui import Say
from wanwrap.weights.workspace import NAME


@dataclass(frozen=True)
class Shelf:
    """Where LoRAs go: `folder`; `others` are more folders of LoRAs of the same ComfyUI, which sees one file a name."""

    folder: Path
    others: tuple[Path, ...] = ()

    def taken(self, file: Path) -> Path | None:
        """Another file that ComfyUI would see under this one's name; the same content is none."""
        there = (folder / file.name for folder in (self.folder, *self.others))
        return next((path for path in there if os.path.lexists(path) and not _same(file, path)), None)


def check(plan: Plan, given: Path | None, recorded: Sequence[Path], say: Say) -> Shelf:
    """Where the plan's LoRAs will go: into the ComfyUI that is given, else into the one that setup has recorded.

    Raises:
        OptionError: nothing tells which ComfyUI.
        OutputError: it has no folder for LoRAs, none that can be written, or other files under their names.
        WeightsError: it is no ComfyUI.
    """
    first, *others = _loras(_home(given, recorded), say)
    shelf = Shelf(first, tuple(others))
    disk.writable(shelf.folder)
    for step in plan.trainings:
        assert step.makes
        if other := shelf.taken(step.makes):
            raise OutputError(
                f"{other} is there already, and {step.makes.name} would get its name in ComfyUI; "
                "move it away, or give another --output_name."
            )
    return shelf


def _home(given: Path | None, recorded: Sequence[Path]) -> Path:
    if given:
        return absolute(given)
    if len(recorded) == 1:
        return recorded[0]
    known = f"{NAME} has several ({', '.join(map(str, recorded))})" if recorded else f"{NAME} has none"
    raise OptionError(f"--to_comfyui: which one? {known}; give it with --comfyui_dir FOLDER.")


def _loras(home: Path, say: Say) -> list[Path]:
    """The folders of LoRAs, at the front those that lie in a `models`: a stray one beside it is none of ComfyUI's."""
    comfyui.folders(home, lambda _: None)
    try:
        found = comfyui.folders(home, say, comfyui.LORAS)
    except WeightsError as error:
        raise OutputError(f"{home} has no folder for LoRAs; make it: {home / 'models' / 'loras'}.") from error
    return sorted(found, key=lambda folder: folder.parent.name.lower() != "models")


def place(plan: Plan, shelf: Shelf) -> list[str]:
    """Copy the LoRAs there, each whole or not at all; what was done, a line each.

    Raises:
        OutputError, RoomError: one could not be; the others have been, and all lie in the run's folder.
    """
    said, failed = list[str](), list[WanwrapError]()
    for step in plan.trainings:
        assert step.makes
        try:
            said.append(_placed(step.makes, shelf))
        except (OutputError, RoomError) as error:
            failed.append(error)
    if failed:
        done = "".join(f"; {line}" for line in said)
        raise type(failed[0])(f"the training is done, and {'; '.join(str(each).rstrip('.') for each in failed)}{done}.")
    return said


def _placed(file: Path, shelf: Shelf) -> str:
    out = shelf.folder / file.name
    if other := shelf.taken(file):
        raise OutputError(f"{file} was not copied: {other} is there, another file; copy it under another name")
    if os.path.lexists(out):
        return f"{out} is there already, the same"
    try:
        with file.open("rb") as source, whole(out) as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
            if os.path.lexists(out):
                raise OutputError(f"{file} was not copied: {out} has come meanwhile; copy it under another name")
    except OSError as error:
        kind = RoomError if error.errno in FULL else OutputError
        why = error.strerror or error
        raise kind(f"{file} could not be copied to {shelf.folder} ({why}); copy it by hand") from error
    return f"copied to {out}"


def _same(one: Path, other: Path) -> bool:
    """Whether both are there with one content."""
    try:
        return filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False
