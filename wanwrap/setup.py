"""The setup verb: what presets need, where it is and what is to be fetched; then all of that, done and recorded."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from wanwrap import install, order, preflight, recipe, rewriting, room, workspace
from wanwrap import upstream as upstreams
from wanwrap.data import absolute
from wanwrap.driver import driver
from wanwrap.errors import (
    DownloadError,
    GpuError,
    PackageError,
    RoomError,
    StepError,
    UpstreamError,
    WanwrapError,
    WeightsError,
    listing,
)
from wanwrap.plan import Choices, Places, needed
from wanwrap.preset import Preset
from wanwrap.process import Listener
from wanwrap.registry import load, shipped
from wanwrap.source import stat
from wanwrap.upstream import Upstream
from wanwrap.weights import comfyui, download, marks
from wanwrap.weights.catalogue import CATALOGUE, TOKENIZERS
from wanwrap.weights.identify import Found, Sha256, look
from wanwrap.weights.locate import digest, locate
from wanwrap.weights.search import Search, could_be, search
from wanwrap.whole import held
from wanwrap.workspace import Record, Workspace

Say = Callable[[str], object]


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is to be made ready, and where; `level` is one expert alone, `given` the weights that the user names."""

    presets: tuple[Preset, ...]
    words: tuple[str, ...] = ()  # the presets as the user names them
    places: Places
    comfyui: tuple[Path, ...] = ()
    level: Any = None
    given: Mapping[str, Path] = field(default_factory=dict)
    before: Workspace = field(default_factory=Workspace)

    @property
    def models(self) -> Path:
        """Where downloads go."""
        return self.places.base / "models"

    @property
    def needs(self) -> dict[str, list[str]]:
        """The presets that need it, by the catalogue's names."""
        found = dict[str, list[str]]()
        for preset in self.presets:
            level = self.level if preset.experts[0].noise_level else None
            for name in needed(preset, Choices(noise_level=level)):
                found.setdefault(name, []).append(preset.name)
        return found

    @property
    def tokenizers(self) -> list[str]:
        """Of T5, and of CLIP for Wan 2.1 I2V."""
        return ["t5", *(["clip"] if any(preset.needs_clip for preset in self.presets) else [])]

    @property
    def modules(self) -> set[str]:
        """What the training Python must be able to import."""
        wanted = {"musubi_tuner", "torch", "accelerate"}
        for preset in self.presets:
            for expert in preset.experts:
                wanted |= {*preflight.modules({**recipe.BASE, **preset.train, **expert.train})}
        return wanted


def wish(
    names: Sequence[str],
    *,
    base_dir: Path,
    comfyui_dir: Sequence[Path] = (),
    noise_level: str | None = None,
    python: str | None = None,
    musubi_dir: Path | None = None,
    default: Sequence[str] = (),
    **given: Any,
) -> Wish:
    """What the command line asks for; without `names` what was set up before, else `default`.

    Raises:
        PresetError, OptionError, UpstreamError: what is asked for does not exist or can't be.
    """
    base = order.workspace_folder(base_dir)
    before = workspace.load(base)
    words = tuple(names or before.presets or default)
    presets = tuple(map(load, words))
    level = None if noise_level == "both" else noise_level
    found = upstreams.find(musubi_dir or before.musubi_dir, base)
    return Wish(
        presets=presets,
        words=tuple(word if word in shipped() else str(absolute(word)) for word in words),
        places=Places(base=base, upstream=found, python=order.training_python(python or before.python)),
        comfyui=tuple(dict.fromkeys([*map(absolute, comfyui_dir), *before.comfyui])),
        level=level,
        given={name: absolute(path) for preset in presets for name, path in _named(preset, level, given).items()},
        before=before,
    )


def _named(preset: Preset, level: Any, given: Mapping[str, Any]) -> dict[str, Path]:
    """The weights that the user names, by the catalogue's names. CLIP is for those presets that take it."""
    fitting = {name: path for name, path in given.items() if name != "clip" or preset.needs_clip}
    return order.files_given(preset, Choices(noise_level=level if preset.experts[0].noise_level else None), fitting)


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What is there, and what is left to do; nothing has been written yet."""

    wish: Wish
    search: Search
    tokenizers: tuple[str, ...]  # those that are not in the Hugging Face cache

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
        """Bytes; what broke off attempts have brought is not taken off."""
        return sum(CATALOGUE[name].bytes for name in self.fetch)

    @property
    def to_write(self) -> int:
        """Bytes that the disk must have room for."""
        return self.to_download + sum(self.chosen[name].size for name in self.convert)

    def lacking_disk(self) -> str | None:
        """Why the disk is too small; None where it is not."""
        left = sum(path.stat().st_size for path in (self.wish.models / download.STAGING).glob("*"))
        return room.lacking(self.wish.models, max(0, self.to_write - left), what="needed for what is to be written")


def survey(wish: Wish, sha256: Sha256, say: Say, ask: Callable[[str], bool] | None = None) -> Survey:
    """Look everywhere: the workspace, ComfyUI, the Hugging Face cache. `sha256` is asked of what could be needed.

    `ask` is asked of files of which only the user can say what they are.

    Raises:
        WeightsError: a file that the user names can't be used; no such ComfyUI.
    """
    homes = [folder for given in wish.comfyui for folder in comfyui.folders(given, say)]
    found = search([*wish.needs], [wish.models, *homes, *comfyui.hub_cache()], sha256, say)
    for name in wish.needs:
        if known := _known(wish, name, sha256):
            found.chosen[name] = known
            found.files = [known, *(each for each in found.files if each.path != known.path)]
        for each in could_be(name, found) if name not in found.chosen else ():
            if ask and ask(f"{each.path} could be {name}: {each.reason}. Use it as {name}?"):
                found.chosen[name] = replace(each, names=(name,), told="user", reason="you say so")
                break
    missing = tuple(name for name in wish.tokenizers if not download.cached(TOKENIZERS[name]))
    return Survey(wish=wish, search=found, tokenizers=missing)


def _known(wish: Wish, name: str, sha256: Sha256) -> Found | None:
    """The file that the user names, else the one that an earlier setup has recorded, if it is as it was."""
    given, record = wish.given.get(name), wish.before.weights.get(name)
    if given is None and (record is None or record.changed):
        return None
    if given and (found := look(given, sha256)).convert and CATALOGUE[name].role == "t5":
        return replace(found, reason="you named it")
    found = look(locate(name, wish.models, given, record).path, sha256)
    told = "sha256" if found.told == "sha256" else "user"
    return replace(found, usable=True, names=(name,), told=told, reason="you named it" if given else "as before")


def check(found: Survey) -> None:
    """Raises RoomError: the disk is too small, with the numbers. OutputError: the workspace can't be written to."""
    room.writable(found.wish.places.base)
    if why := found.lacking_disk():
        raise RoomError(why)


@dataclass
class Progress:
    """What has been done, on disk at once; what failed, to be told at the end."""

    wish: Wish
    records: dict[str, Record] = field(default_factory=dict)
    failed: dict[str, WanwrapError] = field(default_factory=dict)
    upstream: Upstream | None = None

    def done(self, name: str, path: Path, sha256: str | None) -> None:
        """One more weight is there."""
        self.records[name] = Record(path, *stat(path), sha256)
        self.write()

    def write(self) -> None:
        """Put the workspace's file on disk."""
        before, wish, upstream = self.wish.before, self.wish, self.upstream
        found = Workspace(
            presets=tuple(dict.fromkeys([*before.presets, *wish.words])),
            comfyui=wish.comfyui,
            python=wish.places.python if wish.places.python != sys.executable else None,
            musubi_dir=upstream.folder if upstream else before.musubi_dir,
            commit=upstream.commit if upstream else before.commit,
            weights={**before.weights, **self.records},
        )
        workspace.save(wish.places.base, found)


@contextmanager
def alone(wish: Wish) -> Iterator[None]:
    """Raises OutputError: another setup is at work in this workspace."""
    (wish.places.base / "datasets").mkdir(parents=True, exist_ok=True)
    with held(wish.places.base / "setup", f"another wanwrap setup is at work in {wish.places.base}"):
        yield


def fetch_all(found: Survey, progress: Progress, bar: marks.Bar, say: Say) -> None:
    """Record what is there, and get the rest. One file that fails doesn't keep the others from coming.

    Raises:
        RoomError, OutputError: the disk is full or can't be written to.
        DownloadError and others: something is missing still; what is done, what failed, and how to go on.
    """
    for name, each in found.chosen.items():
        if name not in found.convert:
            progress.done(name, each.path, each.sha256)
    wish = found.wish
    for name in found.tokenizers:
        with _tried(progress, f"tokenizer of {name}"):
            download.fetch_tokenizer(TOKENIZERS[name], say)
    for name in found.fetch:
        with _tried(progress, name):
            progress.done(name, *download.fetch(CATALOGUE[name], wish.models, say, marks.thorough(bar)))
    for name, out in found.convert.items():
        with _tried(progress, name):
            _convert(found.chosen[name], out, wish.places.python, bar, say)
            progress.done(name, out, None)
    if progress.failed:
        raise _failure(progress)


@contextmanager
def _tried(progress: Progress, name: str) -> Iterator[None]:
    """A failure is told at the end; a full disk stops all."""
    try:
        yield
    except (DownloadError, WeightsError, PackageError, StepError) as error:
        progress.failed[name] = error


def _failure(progress: Progress) -> WanwrapError:
    """What failed, of the first one's kind."""
    first = next(iter(progress.failed.values()))
    rows = "\n".join(f"  {name}: {error}" for name, error in progress.failed.items())
    done = listing(name for name in progress.wish.needs if name in progress.records) or "nothing"
    return type(first)(f"setup is not complete. Done: {done}. Left:\n{rows}\nThe same command goes on from here.")


def _convert(found: Found, out: Path, python: str, bar: marks.Bar, say: Say) -> None:
    """A text encoder in Wan's key names."""
    rewriting.run_convert(
        file=found.path,
        out=out,
        python=python,
        precision=None,
        sha256=found.sha256,
        bar=lambda size: bar(f"converting {found.path.name}", size),
        say=say,
    )


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """Upstream in the Python that will train: what has to be installed for it, or why that can't be."""

    commands: tuple[install.Command, ...] = ()
    problem: WanwrapError | None = None


def trainer(wish: Wish, torch: str | None) -> Trainer:
    """What is missing; nothing has been installed yet."""
    try:
        answer = preflight.ask(wish.places.python, wish.places.upstream, install.question(wish.modules))
        return Trainer(commands=tuple(install.commands(wish.places, answer, driver(), torch)))
    except (PackageError, GpuError, UpstreamError) as error:
        return Trainer(problem=error)


def install_all(wish: Wish, found: Trainer, screen: Listener, say: Say) -> Upstream:
    """Install what is missing, and have it imported: the upstream that will train.

    Raises:
        PackageError, GpuError, UpstreamError: it can't be installed, or can't be imported after all.
    """
    if found.problem:
        raise found.problem
    wish.places.base.mkdir(parents=True, exist_ok=True)
    install.install(found.commands, screen, say)
    places = wish.places
    if places.upstream.folder is None:
        places = replace(places, upstream=upstreams.find(None, places.base))
    answer = preflight.ask(places.python, places.upstream, install.question(wish.modules) - {install.CUDA_BUILD})
    return preflight.check_answer(answer, places, any_upstream=True, gpu=False)
