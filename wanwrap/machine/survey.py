"""What presets need, looked for: in the training Python, the workspace, ComfyUI and the Hugging Face cache."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from wanwrap.errors import WanwrapError, WeightsError
from wanwrap.machine.install import Command, missing
from wanwrap.machine.request import SetupRequest
from wanwrap.machine.setup import Setup
from wanwrap.system import console
from wanwrap.weights import comfyui, download, marks, workspace
from wanwrap.weights.catalogue import CATALOGUE, TOKENIZERS
from wanwrap.weights.identify import Sha256, checked, look
from wanwrap.weights.locate import published
from wanwrap.weights.models import option
from wanwrap.weights.search import Search, could_be, search
from wanwrap.weights.weight_file import WeightFile


def survey(
    request: SetupRequest,
    *,
    torch: str | None = None,
    weights_only: bool = False,
    dry_run: bool = False,
    ask: Callable[[str], bool] | None = None,
) -> Setup:
    """Look everywhere: the training Python, the workspace, ComfyUI, the Hugging Face cache.

    `torch` is the build that the user names. `ask` is asked of files of which only the user can say what they are.
    A dry run computes no sha256 of 28 GB files: what it says of them is by their names then.

    Raises:
        PackageError, GpuError, UpstreamError: what is missing can't be installed; of a dry run that is told.
        WeightsError: a file that the user names can't be used; no such ComfyUI.
    """
    request = _anew(request)
    commands, problem = list[Command](), None
    try:
        commands = [] if weights_only else missing(request.first, request.modules, torch, request.packages)
    except WanwrapError as error:
        if not dry_run:
            raise  # before minutes of hashing
        problem = error
    found = _search(request, marks.quick if dry_run else marks.thorough, ask)
    tokenizers = tuple(name for name in request.tokenizers if not download.cached(TOKENIZERS[name]))
    left = None if weights_only else commands
    return Setup(request=request, search=found, tokenizers=tokenizers, commands=left, problem=problem)


def _anew(request: SetupRequest) -> SetupRequest:
    """With this Python in place of the one that an earlier setup has recorded, where that is gone."""
    if why := request.first.gone.get("python"):
        console.say(f"{why.partition(';')[0]}: {sys.executable} is taken instead")
        return replace(request, runs=tuple(replace(run, python=sys.executable) for run in request.runs))
    return request


def _search(request: SetupRequest, sha256: Sha256, ask: Callable[[str], bool] | None) -> Search:
    """The weights. What the user names, or an earlier setup has recorded, comes before what is found."""
    found = search([*request.needs], [request.models, *_comfyui(request), *comfyui.hub_cache()], sha256)
    for name in request.needs:
        if known := _known(request, name, found, sha256) or _said(name, found, ask):
            found.chosen[name] = known
            found.files = [known, *(each for each in found.files if each.path != known.path)]
    return found


def _comfyui(request: SetupRequest) -> Iterator[Path]:
    """Their folders of models; one that an earlier setup was given may be gone. Raises WeightsError: another is none."""
    for place in request.comfyui:
        try:
            yield from comfyui.folders(place)
        except WeightsError as error:
            if place not in request.first.workspace.comfyui:
                raise
            console.say(f"an earlier setup's ComfyUI is left out: {error}")


def _known(request: SetupRequest, name: str, searched: Search, sha256: Sha256) -> WeightFile | None:
    """The file that the user names, else the one that an earlier setup has recorded, if it is as it was.

    Raises:
        WeightsError: it can't be that; or the user's own is gone, for which nothing else may stand in.
    """
    given, record = request.first.files.get(name), request.first.workspace.weights.get(name)
    path = given or (record.path if record else None)
    if path is None:
        return None
    found = next((each for each in searched.files if each.path == path), None) or look(path, sha256)
    if not given and record and _gone(record, found, name):
        return None
    why = "you named it" if given else "as before"
    if given and found.convert:
        return replace(found, reason=why)
    checked(found, name)
    told = "sha256" if found.told == "sha256" else "user"
    return replace(found, usable=True, names=(name,), told=told, reason=why)


def _gone(record: WeightFile, found: WeightFile, name: str) -> bool:
    """Whether a file is no longer what was recorded, its content though its size and time are the same.

    Raises:
        WeightsError: it was the user's own.
    """
    other = record.sha256 and found.hashable and found.sha256 not in (None, record.sha256)
    if not record.changed and not other:
        return False
    if CATALOGUE[name].role == "dit" and record.sha256 not in published(name):
        raise WeightsError(
            f"{record.path}, which {workspace.NAME} has as {name}, is gone or has been changed; name it again "
            f"({option(name)} FILE), or delete that line to have the published one."
        )
    console.say(f"{record.path} is gone or another file since it was recorded as {name}: it is looked for anew")
    return True


def _said(name: str, found: Search, ask: Callable[[str], bool] | None) -> WeightFile | None:
    """A file of which only the user can say that it is that one, and says so."""
    for each in could_be(name, found) if ask and name not in found.chosen else ():
        if ask and ask(f"{each.path}: {each.reason}. Use it as {name}?"):
            return replace(each, names=(name,), told="user", reason="you say so")
    return None
