"""A GPU whose memory is full while steps take several times as long as they should.

Windows' driver moves what doesn't fit into RAM: nothing fails, and a night trains what an hour would (musubi-tuner #157:
90 s a step instead of 4.4). What a step should take is reckoned from its operations and from the most that the card has
done in a second: in this run, in earlier ones, or what it is built for.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

from wanwrap.errors import OutputError
from wanwrap.plan.plan import Plan, Train
from wanwrap.run.record import Record
from wanwrap.system import gpu
from wanwrap.system.files import write_atomic
from wanwrap.upstream import buckets, memory
from wanwrap.upstream.dit import flops
from wanwrap.upstream.options import Options, spell, whole

SLOW = 3  # times as long as it should
FEW = 10  # steps by which a pace is judged
FULL = 0.95  # of a card's memory
FIXED = 1.0  # seconds of a step whatever its size; measured ones are 0.5 to 1
LEAST = 0.3  # of what a card is built for; published trainings on clips reach 0.37 to 0.74
OFTEN = 60  # seconds between two questions to nvidia-smi


class Watch:
    """One expert's training, on the first GPU that its Python sees."""

    def __init__(self, plan: Plan, train: Train, record: Record) -> None:
        self._plan, self._train, self._record = plan, train, record
        self._card: Mapping[str, Any] = next(iter(record.machine.get("gpus", [])), {})
        self._epoch = train.per_epoch * -(-FEW // train.per_epoch)  # steps of whole epochs, FEW or more
        self._own = self._asked = 0.0  # operations a second, the most in an epoch; when nvidia-smi was asked
        self._slow = False

    def look(self, seconds: Sequence[float]) -> str | None:
        """What is wrong and what to do, by the seconds of each step so far; None where nothing is."""
        if (steps := self._slower(seconds)) is None or time.monotonic() - self._asked < OFTEN:
            return None
        self._asked, found = time.monotonic(), gpu.find(self._card.get("uuid", ""))
        if found is None or found.used < FULL * found.total:
            return None
        self._slow = True
        full = f"{found.used / memory.GIB:.1f} of {found.total / memory.GIB:.1f} GiB"
        windows = sys.platform == "win32"
        moved = ": the driver moves what doesn't fit into RAM" if windows or gpu.wsl() else ""
        policy = f" {gpu.NO_FALLBACK}" if windows else ""
        return f"{steps}, and the GPU's memory is full ({full}){moved}. {self._way_out(found.total)}{policy}"

    def keep(self) -> None:
        """Remember what the card has done, for the next run. A cache that can't be written costs nothing else."""
        if self._own > self._known and not self._slow:
            with suppress(OSError, OutputError):
                _place().parent.mkdir(parents=True, exist_ok=True)
                write_atomic(_place(), json.dumps({**_speeds(), self._card["name"]: self._own}, indent=1))

    def _slower(self, seconds: Sequence[float]) -> str | None:
        """`steps take 41 s where about 6 s are usual`, where they do.

        A few steps may all be of the largest batch; those of an epoch are as the data set is.
        """
        typical, largest = self._operations
        if len(seconds) >= self._epoch:
            self._own = max(self._own, typical / median(seconds[-self._epoch :]))
        if not (speed := max(self._own, self._known)):
            return None
        for steps, operations in ((FEW, largest), (self._epoch, typical)):
            usual = FIXED + operations / speed
            if len(seconds) >= steps and (taken := median(seconds[-steps:])) > SLOW * usual:
                return f"steps take {taken:.3g} s where about {usual:.2g} s are usual"
        return None

    @property
    def _options(self) -> Options:
        """As they are now: blocks may have been added."""
        return {**self._train.options, "blocks_to_swap": self._record.blocks_to_swap}

    @cached_property
    def _operations(self) -> tuple[float, float]:
        """Floating-point operations of the median step, and of one whose batches are all the largest."""
        task, several = str(self._options["task"]), whole(self._options, "gradient_accumulation_steps", 1)
        batches = list[float]()
        for shape, count, most in self._plan.dataset.batch_shapes:
            batches += [most * flops(task, buckets.tokens(shape))] * count
        return several * median(batches), several * max(batches)

    @cached_property
    def _known(self) -> float:
        """Operations a second that this card is known for, or ought to reach at least; 0 where nobody knows."""
        if not self._card:
            return 0.0
        built = gpu.operations(self._card["name"], self._card["capability"], self._card["multiprocessors"])
        return max(float(_speeds().get(self._card["name"], 0)), LEAST * built)

    def _way_out(self, card: int) -> str:
        """What would fit a card of so many bytes."""
        tokens, _ = self._plan.dataset.largest or (0, ())
        change = memory.fitting(self._options, tokens, card)
        if change is None:
            return "Nothing that trains the same fits it: take fewer frames, smaller sizes or smaller batches."
        if not change:
            needed = memory.peak(self._options, tokens) / memory.GIB
            return f"The training needs about {needed:.1f} GiB: nvidia-smi tells what else uses the GPU."
        own = {name: value for name, value in change.items() if name == "blocks_to_swap"}
        after = {name: value for name, value in change.items() if name not in own}
        words = " ".join([*spell(own), *(["--", *spell(after)] if after else [])])
        return f"It would fit with `{words}`: end it (`wanwrap stop`), and the same command with that goes on."


def _speeds() -> dict[str, Any]:
    """Operations a second by the names of cards, as earlier runs have measured them."""
    with suppress(OSError, ValueError):
        return dict(json.loads(_place().read_text(encoding="utf-8")))
    return {}


def _place() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("wanwrap") / "speeds.json"
