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
from wanwrap.plan.plan import Plan, Train
from wanwrap.system import disk
from wanwrap.system.files import atomic_file
from wanwrap.weights import comfyui
from wanwrap.weights.workspace import NAME


@dataclass(frozen=True)
class LoraFolder:
    """Where LoRAs go: `folder`; `others` are more folders of LoRAs of the same ComfyUI, which sees one file a name."""

    folder: Path
    others: tuple[Path, ...] = ()

    def taken(self, train: Train) -> Path | None:
        """Another file that ComfyUI would see under the LoRA's name; one that this run made, now or before, is none."""
        mine = [train.lora, *(path / train.lora.name for path in train.lora.parent.glob("before-*"))]
        there = [path for each in (self.folder, *self.others) if os.path.lexists(path := each / train.lora.name)]
        return next((path for path in there if not any(_same(own, path) for own in mine)), None)


def check(plan: Plan, given: Path | None, recorded: Sequence[Path]) -> LoraFolder:
    """Where the plan's LoRAs will go: into the ComfyUI that is given, else into the one that setup has recorded.

    Raises:
        OptionError: nothing tells which ComfyUI.
        OutputError: it has no folder for LoRAs, none that can be written, or other files under their names.
        WeightsError: it is no ComfyUI.
    """
    first, *others = _folders(_home(given, recorded))
    found = LoraFolder(first, tuple(others))
    disk.writable(first)
    for train in plan.trainings:
        if other := found.taken(train):
            raise OutputError(
                f"{other} is there already, and {train.lora.name} would get its name in ComfyUI; move it away, or give "
                "another --output_name."
            )
    return found


def _home(given: Path | None, recorded: Sequence[Path]) -> Path:
    if given:
        return absolute(given)
    if len(recorded) == 1:
        return recorded[0]
    known = f"{NAME} has several ({', '.join(map(str, recorded))})" if recorded else f"{NAME} has none"
    raise OptionError(f"--to_comfyui: which one? {known}; give it with --comfyui_dir FOLDER.")


def _folders(home: Path) -> list[Path]:
    """The folders of LoRAs, at the front those that lie in a `models`: a stray one beside it is none of ComfyUI's."""
    comfyui.folders(home, quiet=True)
    try:
        found = comfyui.folders(home, comfyui.LORAS)
    except WeightsError as error:
        raise OutputError(f"{home} has no folder for LoRAs; make it: {home / 'models' / 'loras'}.") from error
    return sorted(found, key=lambda folder: folder.parent.name.lower() != "models")


def place(plan: Plan, target: LoraFolder) -> list[str]:
    """Copy the LoRAs there, each whole or not at all; what was done, a line each.

    Raises:
        OutputError, RoomError: one could not be; the others have been, and all lie in the run's folder.
    """
    said, failed = list[str](), list[WanwrapError]()
    for train in plan.trainings:
        try:
            said.append(_placed(train, target))
        except (OutputError, RoomError) as error:
            failed.append(error)
    if failed:
        done = "".join(f"; {line}" for line in said)
        raise type(failed[0])(f"the training is done, and {'; '.join(str(each).rstrip('.') for each in failed)}{done}.")
    return said


def _placed(train: Train, target: LoraFolder) -> str:
    file, out = train.lora, target.folder / train.lora.name
    if other := target.taken(train):
        raise OutputError(f"{file} was not copied: {other} is there, another file; copy it under another name")
    if _same(file, out):
        return f"{out} is there already, the same"
    try:
        with file.open("rb") as source, atomic_file(out) as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
            if target.taken(train):
                raise OutputError(f"{file} was not copied: {out} has come meanwhile; copy it under another name")
    except OSError as error:
        kind = RoomError if error.errno in FULL else OutputError
        why = error.strerror or error
        raise kind(f"{file} could not be copied to {target.folder} ({why}); copy it by hand") from error
    return f"copied to {out}"


def _same(one: Path, other: Path) -> bool:
    """Whether both are there with one content."""
    try:
        return filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False
