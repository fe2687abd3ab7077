"""The setup verb: what there is, what is left to do, and all of that done and recorded."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from wanwrap.errors import DownloadError, PackageError, RoomError, StepError, WanwrapError, WeightsError, listing
from wanwrap.machine.install import Command, install_all
from wanwrap.machine.request import SetupRequest
from wanwrap.rewrite import start
from wanwrap.system import console, disk
from wanwrap.system.files import lock, remove
from wanwrap.system.safetensors import digest, stat
from wanwrap.upstream.pin import Upstream
from wanwrap.weights import download, marks, workspace
from wanwrap.weights.catalogue import CATALOGUE, TOKENIZERS
from wanwrap.weights.identify import look
from wanwrap.weights.search import Search
from wanwrap.weights.weight_file import WeightFile
from wanwrap.weights.workspace import Workspace


@dataclass(kw_only=True)
class Setup:
    """What is there, what is left to do, and what of that has been done: on disk at once; what failed is told last.

    `complete`: nothing is left to do.
    """

    request: SetupRequest
    search: Search
    tokenizers: tuple[str, ...]  # those that are not in the Hugging Face cache
    commands: Sequence[Command] | None = None  # that install what is missing; None: Python is left alone
    problem: WanwrapError | None = None  # why they can't be told
    upstream: Upstream | None = None  # that has been installed, or was there
    records: dict[str, WeightFile] = field(default_factory=dict)
    complete: bool = False
    failed: dict[str, WanwrapError] = field(default_factory=dict)

    @property
    def fetch(self) -> list[str]:
        """What is to be downloaded."""
        return [name for name in self.request.needs if name not in self.search.chosen]

    @property
    def convert(self) -> dict[str, Path]:
        """Where those are written anew that upstream can't read as they are."""
        folder = self.request.models / "converted"
        return {
            name: folder / f"umt5-xxl-enc-bf16-{digest(found.sha256 or found.path, found.size)}.safetensors"
            for name, found in self.search.chosen.items()
            if found.convert
        }

    @property
    def to_download(self) -> int:
        """Bytes."""
        return sum(max(0, CATALOGUE[name].bytes - self.have(name)) for name in self.fetch)

    @property
    def to_write(self) -> int:
        """Bytes that the disk must have room for."""
        return self.to_download + sum(self.search.chosen[name].size for name in self.convert)

    def have(self, name: str) -> int:
        """Bytes that an attempt which broke off has brought."""
        parts = (self.request.models / download.STAGING).glob(f"{CATALOGUE[name].name}.*.part")
        return sum(part.stat().st_size for part in parts)

    def done(self, name: str, path: Path, sha256: str | None, stamp: tuple[int, int] | None = None) -> None:
        """One more weight is there. Raises WeightsError: it is no longer what it was at `stamp`."""
        now = stat(path)
        if stamp not in (None, now):
            raise WeightsError(f"{path} has changed since it was looked at.")
        before = self.request.first.workspace.weights.get(name)
        by_hand = before if before and before.path == path and before.stamp is None else None
        mark = sha256 and marks.keep(path, sha256)
        self.records[name] = by_hand or WeightFile(path=path, stamp=now, sha256=mark)
        self.write()

    def write(self) -> None:
        """Put the workspace's file on disk, with all that stands in it by now."""
        words = self.request.words if self.complete else ()  # or `doctor` would ask for a preset that was given up
        run, upstream, before = self.request.first, self.upstream, workspace.load(self.request.first.base_dir)
        found = Workspace(
            presets=tuple(dict.fromkeys([*before.presets, *words])),
            comfyui=tuple(dict.fromkeys([*self.request.comfyui, *before.comfyui])),
            python=run.python if run.python != sys.executable else None,
            musubi_dir=upstream.folder if upstream else before.musubi_dir,
            commit=upstream.commit if upstream else before.commit,
            weights={**before.weights, **self.records},
        )
        workspace.save(run.base_dir, found)


def check(found: Setup) -> None:
    """Raises RoomError: the disk is too small, with the numbers. OutputError: the workspace can't be written to."""
    disk.writable(found.request.first.base_dir)
    if why := disk.lacking(found.request.models, found.to_write, what="needed for what is to be written"):
        raise RoomError(why)


def alone(request: SetupRequest) -> AbstractContextManager[bool]:
    """Raises OutputError: another setup is at work in this workspace."""
    base = request.first.base_dir
    (base / "datasets").mkdir(parents=True, exist_ok=True)
    return lock(base / "setup", f"another wanwrap setup is at work in {base}; wait until it has ended.")


def install(found: Setup) -> None:
    """Upstream and what the presets import, where they are wanted.

    Raises:
        UpstreamError, PackageError: they can't be had.
    """
    if found.commands is None:
        return
    try:
        found.upstream = install_all(found.request.first, found.request.modules, found.commands)
    except WanwrapError as error:
        found.failed["musubi-tuner"] = error
        raise
    found.write()
    for line in found.upstream.remarks():
        console.say(line)


def fetch_all(found: Setup) -> None:
    """Record what is there, and get the rest. One file that fails doesn't keep the others from coming.

    Raises:
        RoomError, OutputError: the disk is full or can't be written to.
        DownloadError and others: something is missing still; what is done, what failed, and how to go on.
    """
    run, models = found.request.first, found.request.models
    for name, each in found.search.chosen.items():
        with _tried(found, name):
            if name not in found.convert:
                found.done(name, each.path, each.sha256 if each.told == "sha256" else None, each.stamp)
    for name in found.tokenizers:
        with _tried(found, f"tokenizer of {name}"):
            download.fetch_tokenizer(TOKENIZERS[name])
    for name in found.fetch:
        with _tried(found, name):
            weight = CATALOGUE[name]
            found.done(name, download.fetch(weight, models, marks.thorough), weight.sha256)
    for name, out in found.convert.items():
        with _tried(found, name):
            if out.is_file() and look(out).broken:  # under that name it was setup's own
                remove(out)
            each = found.search.chosen[name]
            start.run_convert(file=each.path, out=out, python=run.python, precision=None, sha256=each.sha256)
            found.done(name, out, None)
    if found.failed:
        raise _failure(found)
    found.complete = True
    found.write()


@contextmanager
def _tried(found: Setup, name: str) -> Iterator[None]:
    """A failure is told at the end; a full disk stops all."""
    try:
        yield
    except (DownloadError, WeightsError, PackageError, StepError) as error:
        found.failed[name] = error
    except FileNotFoundError as error:
        found.failed[name] = WeightsError(f"{error.filename} is gone since it was found.")


def _failure(found: Setup) -> WanwrapError:
    """What failed, of the first one's kind."""
    first = next(iter(found.failed.values()))
    rows = "\n".join(f"  {name}: {error}" for name, error in found.failed.items())
    done = listing(name for name in found.request.needs if name in found.records) or "nothing"
    return type(first)(f"setup is not complete. Done: {done}. Left:\n{rows}\nThe same command goes on from here.")
