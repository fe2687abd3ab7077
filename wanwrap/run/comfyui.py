"""What is finished into ComfyUI: LoRAs and a workflow, never over another file, and refused before the training, not after."""

from __future__ import annotations

import filecmp
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from wanwrap.errors import FULL, OptionError, OutputError, RoomError, WeightsError
from wanwrap.paths import absolute
from wanwrap.plan.plan import Plan, Train
from wanwrap.system import disk
from wanwrap.system.files import atomic_file, opened, write_atomic
from wanwrap.weights import comfyui
from wanwrap.weights.workspace import NAME

WORKFLOW = "comfyui_workflow.json"  # in a run's folder


def check(plan: Plan, given: Path | None, recorded: Sequence[Path]) -> Path:
    """The folder for the plan's LoRAs: of the ComfyUI that is given, else of the one that setup has recorded.

    Raises:
        OptionError: nothing tells which ComfyUI.
        OutputError: it has no folder for LoRAs, none that can be written, or other files under their names.
        WeightsError: it is no ComfyUI.
    """
    folder = _loras(_home(given, recorded))
    disk.writable(folder)
    for train in plan.trainings:
        if _is_taken(train.lora, folder / train.lora.name):
            raise OutputError(
                f"{folder / train.lora.name} is there already, and is another file; move it away, or give another "
                "--output_name."
            )
    return folder


def _home(given: Path | None, recorded: Sequence[Path]) -> Path:
    """Which ComfyUI. Raises OptionError: nothing tells."""
    homes = [absolute(given)] if given else recorded
    if len(homes) != 1:
        known = f"{NAME} has several ({', '.join(map(str, homes))})" if homes else f"{NAME} has none"
        raise OptionError(f"--to_comfyui: which one? {known}; give it with --comfyui_dir FOLDER.")
    return homes[0]


def check_workflow(folder: Path, given: Path | None, recorded: Sequence[Path]) -> Path | None:
    """Where ComfyUI lists the workflow of the run in `folder`; None where it keeps nothing of its user yet.

    Raises:
        OptionError: nothing tells which ComfyUI.
        OutputError: another file is there under its name.
    """
    home = _home(given, recorded)
    users = (place / "user" / "default" for place in (*comfyui.homes(home), home.parent))
    if not (user := next((place for place in users if place.is_dir()), None)):
        return None
    out = user / "workflows" / f"{folder.name}.json"
    if _is_taken(folder / WORKFLOW, out):
        raise OutputError(f"{out} is there already, and is another file; move it away, or give another --output_name.")
    return out


def place_workflow(text: str, before: Path, out: Path) -> str:
    """Copy a finished run's workflow there, where nothing is or what it was `before`; what was done, or why nothing was.

    Where it can't be, the run is done all the same.
    """
    if _is_taken(before, out) and not _holds(out, text):
        return f"{out} is another file, and stays as it is"
    try:
        out.parent.mkdir(exist_ok=True)
        write_atomic(out, text)
    except (OSError, OutputError) as error:
        return f"{out} could not be written ({getattr(error, 'strerror', None) or error})"
    return f"copied to {out}"


def _holds(path: Path, text: str) -> bool:
    with suppress(OSError):
        return path.read_bytes() == text.encode("utf-8", "surrogateescape")
    return False


def _loras(home: Path) -> Path:
    """Its folder of LoRAs, in a `models` if there is one: a stray one beside it is none of ComfyUI's."""
    comfyui.folders(home, quiet=True)
    try:
        found = comfyui.folders(home, comfyui.LORAS)
    except WeightsError as error:
        raise OutputError(f"{home} has no folder for LoRAs; make it: {home / 'models' / 'loras'}.") from error
    return min(found, key=lambda folder: folder.parent.name.lower() != "models")


def _is_taken(file: Path, out: Path) -> bool:
    """Whether another file is there; one that this run has made, now or before, is none."""
    mine = [file, *(path / file.name for path in file.parent.glob("before-*"))]
    return os.path.lexists(out) and not any(_same(path, out) for path in mine)


def _same(one: Path, other: Path) -> bool:
    try:
        return filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False


def place(plan: Plan, folder: Path) -> list[str]:
    """Copy the LoRAs there, each whole or not at all; what was done, a line each.

    Raises:
        OutputError, RoomError: one could not be; all lie in the run's folder.
    """
    return [_placed(train, folder / train.lora.name) for train in plan.trainings]


def _placed(train: Train, out: Path) -> str:
    file = train.lora
    if _same(file, out):
        return f"{out} is there already, the same"
    if _is_taken(file, out):
        raise OutputError(f"the training is done, and {file} was not copied: {out} is another file; copy it by hand.")
    try:
        with opened(file) as source, atomic_file(out) as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
    except OSError as error:
        kind = RoomError if error.errno in FULL else OutputError
        why = f"could not be copied to {out.parent} ({error.strerror or error}); copy it by hand"
        raise kind(f"the training is done, and {file} {why}.") from error
    return f"copied to {out}"
