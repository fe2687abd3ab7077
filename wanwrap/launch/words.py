"""The words of the run there, and what they name here, each by its place there."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wanwrap.errors import OptionError, RoomError
from wanwrap.paths import absolute, folder
from wanwrap.plan.build import SAMPLE
from wanwrap.plan.plan import Plan
from wanwrap.plan.request import FILES, WEIGHTS
from wanwrap.system.disk import large
from wanwrap.system.safetensors import digest, stat
from wanwrap.upstream.options import parse, spell
from wanwrap.upstream.sample_prompts import parsed

MOST_DATA = 200_000_000_000  # bytes of a data set: more than a night's line takes
INPUTS = "inputs"  # where files and the data set go there
RESUME = "resume_from"  # run's option that names a file which is sent along


@dataclass(frozen=True)
class Words:
    """The words after `wanwrap run` there, `after` being upstream's, what they name by its place there, and more words for
    `wanwrap setup`.
    """

    before: tuple[str, ...]
    after: tuple[str, ...]
    uploads: Mapping[str, Path]
    setup: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        """In one piece."""
        return (*self.before, *self.after)


def words(plan: Plan, given: Mapping[str, Any], spelled: Sequence[str], upstream: Sequence[str]) -> Words:
    """The run's words there: `given` are its options by their names, `spelled` the same as words but for files, and
    `upstream` what stands after `--`.

    Raises:
        OptionError: one names files of this machine that can't be sent.
    """
    if given.get("any_upstream"):
        raise OptionError(
            "--any_upstream: there the musubi-tuner trains that wanwrap is checked against; leave it out."
        )
    if own := sorted({*WEIGHTS} & given.keys()):
        raise OptionError(
            f"--{own[0]} is a file of this machine; there the published weights are fetched: leave it out."
        )
    if plan.dataset.config is not None:
        raise OptionError(
            f"{plan.dataset.config} names folders of this machine; give the folder of the data set itself."
        )
    if any("i" in parsed(line)[1] for line in plan.request.samples):
        raise OptionError(
            "the pictures that sample prompts begin with are not sent; leave out --sample_prompts: `wanwrap sample` makes "
            "samples when the LoRAs are here."
        )
    uploads = dict[str, Path]()
    preset = plan.request.preset.name
    if str(given["preset"]).endswith(".py"):
        preset = f"./{_sent(uploads, absolute(given['preset']))}"
    dataset = SAMPLE
    if plan.dataset.root and plan.dataset.root != folder("templates") / SAMPLE:
        dataset = _sent(uploads, plan.dataset.root)
    files = [f"--{RESUME}", _sent(uploads, absolute(given[RESUME]))] if RESUME in given else []
    name = [] if "output_name" in given else ["--output_name", plan.name]
    return Words((preset, dataset, *spelled, *files, *name), _upstream(upstream, uploads), uploads)


def _sent(uploads: dict[str, Path], path: Path) -> str:
    """The place there of a file or folder: another one for what lies elsewhere here, whatever it is called."""
    place = f"{INPUTS}/{digest(path)}/{path.name}"
    uploads[place] = path.resolve()
    return place


def _upstream(words: Sequence[str], uploads: dict[str, Path]) -> tuple[str, ...]:
    """Upstream's options, whose files are sent too."""
    options = parse(words)
    options |= {name: _sent(uploads, absolute(str(options[name]))) for name in options.keys() & FILES.keys()}
    return ("--", *spell(options)) if options else ()


def mark(path: Path) -> str:
    """Of a file or folder, another one when a file in it has changed."""
    return digest(path, *((each.relative_to(path), *stat(each)) for each in sorted(_files(path))))


def data_bytes(path: Path) -> int:
    """Of a file, or of all files in a folder."""
    return sum(each.stat().st_size for each in _files(path))


def _files(path: Path) -> Iterator[Path]:
    """The file itself, or all in the folder."""
    return (each for each in (path, *path.rglob("*")) if each.is_file())


def check_data(words: Words, ignore_files: Collection[str]) -> None:
    """What is sent is what is trained there: a folder of files, all of which the engine's program sends.

    Raises:
        OptionError: it would leave some out; `ignore_files` are those in which it looks for names.
        RoomError: they are too large.
    """
    for path in (file for place in words.uploads.values() for file in place.rglob("*")):
        if path.is_symlink():
            raise OptionError(f"{path} is a link, which not every program sends; put the file itself there.")
        if path.name in ignore_files:
            raise OptionError(f"{path} could keep files of the data set from being sent; move it away.")
    for place in words.uploads.values():
        if (size := data_bytes(place)) > MOST_DATA:
            raise RoomError(f"{place} has {large(size)}, too much to be sent; move away what is not trained.")
