"""A run for another machine, an engine that carries it out there, and what that is given: nothing is sent or read here."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wanwrap.errors import OptionError, closest

WORKSPACE = "local_training"  # below the folder in which wanwrap is started there
# of wanwrap's exit codes: a mistake of the user's, which another try doesn't mend
MISTAKES = (2, 3, 4, 5, 6, 7, 8, 9, 11, 13)
# of `wanwrap setup` those alone: git and pip end so when the network fails
SETUP_MISTAKES = tuple(code for code in MISTAKES if code not in (6, 8))
AGAIN = "the same command with --again goes on after them."
INTERRUPTED = 130  # ended as it was asked; the same command goes on
# GB of memory of the cards that are rented, as nvidia-smi counts them (GiB), by the names that people use
GPUS = {
    "T4": 15,
    "L4": 22.5,
    "A10": 22.5,
    "RTX3090": 24,
    "RTX4090": 24,
    "RTX5090": 31.8,
    "A40": 45,
    "A6000": 48,
    "L40S": 45,
    "RTX-PRO-6000": 95.6,
    "A100-40GB": 40,
    "A100-80GB": 80,
    "H100": 79.6,
    "H200": 140.4,
    "B200": 179,
}
OTHER_NAMES = {  # as `_plain` has them
    "a100": "A100-80GB",
    "a10g": "A10",
    "3090": "RTX3090",
    "4090": "RTX4090",
    "5090": "RTX5090",
    "rtxa6000": "A6000",
    "h10080gb": "H100",
    "h200141gb": "H200",
}
# dense bf16 operations a second, in units of 10**12, of those that are known (NVIDIA's data sheets, without sparsity)
TERAFLOPS = {
    "L4": 121,
    "A10": 125,
    "RTX3090": 71,
    "RTX4090": 165,
    "RTX5090": 210,
    "A40": 150,
    "A6000": 155,
    "L40S": 362,
    "A100-40GB": 312,
    "A100-80GB": 312,
    "H100": 989,
    "H200": 989,
    "B200": 2250,
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run for another machine: `wanwrap setup` and `wanwrap run` as they are, in a folder with a workspace of their own.

    `runs` are the words after `wanwrap run`, of one process each: one for all, or one for each of `experts`. `uploads`
    are files and folders of this machine by their places there, below the folder in which wanwrap is started.
    """

    name: str  # the run's: its folder in outputs/
    folder: Path  # the run's on this machine; what is rendered goes into its `launch`
    preset: str
    setup: tuple[str, ...]  # the words after `wanwrap setup`
    runs: tuple[tuple[str, ...], ...]
    experts: tuple[str, ...]  # of each of the runs: both, high, low or dit
    uploads: Mapping[str, Path]  # the wheel among them
    wheel: str  # its place there
    gpu: str  # one of GPUS
    gpus: int = 1  # of each run
    hours: float  # after which it is ended, at the latest
    price: float | None = None  # of a GPU and hour, in the user's own currency
    ram: int = 24  # GB that each of the runs needs
    disk: int = 250  # GB: DiTs, merged DiTs, caches, LoRAs and states
    secrets: tuple[str, ...] = ()  # variables that the engine's own secrets hold, as HF_TOKEN

    @property
    def ample_ram(self) -> int:
        """GB where the limit is a hard one and RAM costs little: each DiT of 28.6 GB passes through it."""
        return max(self.ram, 64)

    def cost(self, idle: float) -> float | None:
        """Of all GPUs for all hours, and those that they stay `idle`, at most."""
        return None if self.price is None else self.price * (self.hours + idle) * self.gpus * len(self.runs)


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """What an engine is given: `files` by their names in the run's folder `launch`, then commands, all run in that folder.

    `before` upload and check, each of `start` begins a job, whose id `id_pattern` (a regular expression with one group) finds
    in what it prints. `later` are commands by what they do: status, follow, fetch, stop; `{id}` in their words is that id.
    `fetch` brings the run's folder to `results` beside the files, or into the run's folder itself where that is empty.
    Two runs at once on one `volume` would write the same files, as neither sees the other's locks.
    """

    files: Mapping[str, str]
    before: Sequence[tuple[str, ...]] = ()
    start: Sequence[tuple[str, ...]] = ()  # a job each
    id_pattern: str = ""
    later: Mapping[str, Sequence[tuple[str, ...]]] = field(default_factory=dict)
    results: str = ""
    volume: str = ""
    idle: float = 0.0  # hours for which a machine stays, and costs, when its run has ended
    after: str  # how it goes on where the hours were too few
    notes: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Engine:
    """What can carry a run out elsewhere, by the program that a user has of it.

    `options` are its own ones, a name, type and help each; `render(job, **options)` makes of a job what it is given, and where
    the machines there see the files of this one (`shared_files`) needs the `python` and `cwd` of this process too.
    """

    word: str  # that means it
    program: str = ""
    install: str = ""  # how to get the program
    options: Sequence[tuple[str, type, str]]
    render: Callable[..., Rendered]
    complaint: Callable[[Mapping[str, str], Path], str | None] = lambda _environ, _home: None  # why nobody is let in
    shared_files: bool = False
    ignore_files: Sequence[str] = ()  # in which it looks for the names of files to leave out

    @property
    def option_types(self) -> dict[str, type]:
        """By their names."""
        return {name: kind for name, kind, _ in self.options}


def _plain(name: str) -> str:
    """Without what nvidia-smi and the clouds add to it."""
    return re.sub(r"nvidia|geforce|sxm\d?|pcie|hbm\d\w?|[^a-z0-9]", "", name.lower())


def gpu(name: str) -> str:
    """A card's name as GPUS has it. Raises OptionError: it is unknown."""
    if found := {**{_plain(each): each for each in GPUS}, **OTHER_NAMES}.get(_plain(name)):
        return found
    raise OptionError(f"--gpu {name}: known are {', '.join(GPUS)}.{closest(name, GPUS)}")
