"""The setup verb: what presets need, where it is and what is to be fetched; then all of that, done and recorded."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from wanwrap.errors import DownloadError, PackageError, RoomError, StepError, WanwrapError, WeightsError, listing
from wanwrap.machine.install import Trainer, install_all
from wanwrap.machine.wish import Wish
from wanwrap.rewrite import start
from wanwrap.system import console, disk
from wanwrap.system.files import lock
from wanwrap.system.safetensors import stat
from wanwrap.upstream.pin import Upstream
from wanwrap.weights import comfyui, download, marks, workspace
from wanwrap.weights.catalogue import CATALOGUE, TOKENIZERS
from wanwrap.weights.identify import Found, Sha256, look
from wanwrap.weights.locate import checked, digest, published
from wanwrap.weights.models import option
from wanwrap.weights.search import Search, could_be, search
from wanwrap.weights.workspace import Record, Workspace


@dataclass(kw_only=True)
class Setup:
    """What is there, what is left to do, and what of that has been done: on disk at once; what failed is told last."""

    wish: Wish
    search: Search
    tokenizers: tuple[str, ...]  # those that are not in the Hugging Face cache
    trainer: Trainer | None = None  # None: Python is left alone
    upstream: Upstream | None = None  # that has been installed, or was there
    records: dict[str, Record] = field(default_factory=dict)
    failed: dict[str, WanwrapError] = field(default_factory=dict)

    @property
    def chosen(self) -> dict[str, Found]:
        """The files that are there, by the catalogue's names."""
        return self.search.chosen

    @property
    def fetch(self) -> list[str]:
        """What is to be downloaded."""
        return [name for name in self.wish.needs if name not in self.chosen]

    @property
    def convert(self) -> dict[str, Path]:
        """Where those are written anew that upstream can't read as they are."""
        folder = self.wish.models / "converted"
        return {
            name: folder / f"umt5-xxl-enc-bf16-{digest(found.sha256 or found.path, found.size)}.safetensors"
            for name, found in self.chosen.items()
            if found.convert
        }

    @property
    def to_download(self) -> int:
        """Bytes."""
        return sum(max(0, CATALOGUE[name].bytes - self.have(name)) for name in self.fetch)

    @property
    def to_write(self) -> int:
        """Bytes that the disk must have room for."""
        return self.to_download + sum(self.chosen[name].size for name in self.convert)

    def have(self, name: str) -> int:
        """Bytes that an attempt which broke off has brought."""
        parts = (self.wish.models / download.STAGING).glob(f"{CATALOGUE[name].name}.*.part")
        return sum(part.stat().st_size for part in parts)

    def done(self, name: str, path: Path, sha256: str | None, stamp: tuple[int, int] | None = None) -> None:
        """One more weight is there. Raises WeightsError: it is no longer what it was at `stamp`."""
        now = stat(path)
        if stamp not in (None, now):
            raise WeightsError(f"{path} has changed since it was looked at.")
        before = self.wish.before.weights.get(name)
        by_hand = before if before and before.path == path and before.bytes is None else None
        self.records[name] = by_hand or Record(path, *now, sha256 and marks.keep(path, sha256))
        self.write()

    def write(self) -> None:
        """Put the workspace's file on disk, with all that stands in it by now."""
        wish, upstream, before = self.wish, self.upstream, workspace.load(self.wish.base_dir)
        found = Workspace(
            presets=tuple(dict.fromkeys([*before.presets, *wish.words])),
            comfyui=tuple(dict.fromkeys([*wish.comfyui, *before.comfyui])),
            python=wish.python if wish.python != sys.executable else None,
            musubi_dir=upstream.folder if upstream else before.musubi_dir,
            commit=upstream.commit if upstream else before.commit,
            weights={**before.weights, **self.records},
        )
        workspace.save(wish.base_dir, found)


def survey(
    wish: Wish, sha256: Sha256, ask: Callable[[str], bool] | None = None, trainer: Trainer | None = None
) -> Setup:
    """Look everywhere: the workspace, ComfyUI, the Hugging Face cache. `sha256` is asked of what could be needed.

    `ask` is asked of files of which only the user can say what they are.

    Raises:
        WeightsError: a file that the user names can't be used; no such ComfyUI.
    """
    folders = [wish.models, *_comfyui(wish), *comfyui.hub_cache()]
    found = search([*wish.needs], folders, sha256)
    for name in wish.needs:
        if known := _known(wish, name, found, sha256) or _said(name, found, ask):
            found.chosen[name] = known
            found.files = [known, *(each for each in found.files if each.path != known.path)]
    missing = tuple(name for name in wish.tokenizers if not download.cached(TOKENIZERS[name]))
    return Setup(wish=wish, search=found, tokenizers=missing, trainer=trainer)


def _comfyui(wish: Wish) -> Iterator[Path]:
    """Their folders of models; those that an earlier setup was given may be gone."""
    for given in wish.comfyui:
        yield from comfyui.folders(given)
    for given in wish.before.comfyui:
        try:
            yield from comfyui.folders(given) if given not in wish.comfyui else ()
        except WeightsError as error:
            console.say(f"an earlier setup's ComfyUI is left out: {error}")


def _known(wish: Wish, name: str, searched: Search, sha256: Sha256) -> Found | None:
    """The file that the user names, else the one that an earlier setup has recorded, if it is as it was.

    Raises:
        WeightsError: it can't be that; or the user's own is gone, for which nothing else may stand in.
    """
    given, record = wish.given.get(name), wish.before.weights.get(name)
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


def _gone(record: Record, found: Found, name: str) -> bool:
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


def _said(name: str, found: Search, ask: Callable[[str], bool] | None) -> Found | None:
    """A file of which only the user can say that it is that one, and says so."""
    for each in could_be(name, found) if ask and name not in found.chosen else ():
        if ask and ask(f"{each.path}: {each.reason}. Use it as {name}?"):
            return replace(each, names=(name,), told="user", reason="you say so")
    return None


def check(found: Setup) -> None:
    """Raises RoomError: the disk is too small, with the numbers. OutputError: the workspace can't be written to."""
    disk.writable(found.wish.base_dir)
    if why := disk.lacking(found.wish.models, found.to_write, what="needed for what is to be written"):
        raise RoomError(why)


def alone(wish: Wish) -> AbstractContextManager[bool]:
    """Raises OutputError: another setup is at work in this workspace."""
    (wish.base_dir / "datasets").mkdir(parents=True, exist_ok=True)
    return lock(
        wish.base_dir / "setup", f"another wanwrap setup is at work in {wish.base_dir}; wait until it has ended."
    )


def install(found: Setup) -> None:
    """Upstream and what the presets import, where they are wanted.

    Raises:
        UpstreamError, PackageError: they can't be had.
    """
    if found.trainer is None:
        return
    try:
        found.upstream = install_all(found.wish, found.trainer.commands)
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
    models = found.wish.models
    for name, each in found.chosen.items():
        with _tried(found, name):
            if name not in found.convert:
                found.done(name, each.path, each.sha256 if each.told == "sha256" else None, each.stamp)
    for name in found.tokenizers:
        with _tried(found, f"tokenizer of {name}"):
            download.fetch_tokenizer(TOKENIZERS[name])
    for name in found.fetch:
        with _tried(found, name):
            found.done(name, *download.fetch(CATALOGUE[name], models, marks.thorough))
    for name, out in found.convert.items():
        with _tried(found, name):
            if out.is_file() and look(out).broken:  # under that name it was setup's own
                out.unlink()
            each = found.chosen[name]
            start.run_convert(file=each.path, out=out, python=found.wish.python, precision=None, sha256=each.sha256)
            found.done(name, out, None)
    if found.failed:
        raise _failure(found)


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
    """What failed, of the first one's kind; one reason of several is said once."""
    first, whys = next(iter(found.failed.values())), dict[str, list[str]]()
    for name, error in found.failed.items():
        whys.setdefault(getattr(error, "why", None) or str(error), []).append(name)
    rows = "\n".join(f"  {', '.join(names)}: {why}" for why, names in whys.items())
    done = listing(name for name in found.wish.needs if name in found.records) or "nothing"
    return type(first)(f"setup is not complete. Done: {done}. Left:\n{rows}\nThe same command goes on from here.")
