"""A GPU whose memory is full while steps take several times as long as they should.

Windows' driver moves what doesn't fit into RAM: nothing fails, and a night trains what an hour would (musubi-tuner #157:
90 s a step instead of 4.4). What steps should take is reckoned from their operations and from the most that the card has
done in a second: in this run, in earlier ones, or what it is built for. A first run that spills a little only, by less
than a factor of 5, may pass for a slow card.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from statistics import fmean, median
from typing import Any

from wanwrap.errors import OutputError
from wanwrap.plan.plan import Plan, Train
from wanwrap.run.record import Record, command_line
from wanwrap.system import gpu
from wanwrap.system.files import write_atomic
from wanwrap.system.shell import joined
from wanwrap.upstream import buckets, memory
from wanwrap.upstream.dit import flops
from wanwrap.upstream.options import Options, spell, whole

SLOW = 3  # times as long as it should
FEW = 10  # steps by which a pace is judged
FULL = 0.9  # of a card's memory: users who spill report 0.92 to 0.98
FIXED = 1.0  # seconds of a batch whatever its size; measured ones are 0.5 to 1
LEAST = 0.3  # of what a card is built for; published trainings on clips reach 0.37 to 0.74
OFTEN = 60  # seconds between two questions to nvidia-smi


class Watch:
    """One expert's training, on the first GPU that its Python sees."""

    def __init__(self, plan: Plan, train: Train, record: Record) -> None:
        self._plan, self._train, self._record = plan, train, record
        self._card: Mapping[str, Any] = next(iter(record.machine.get("gpus", [])), {})
        self._own = self._asked = 0.0  # operations a second, the most in an epoch; when nvidia-smi was asked
        self._slow = False

    def look(self, seconds: Sequence[float]) -> str | None:
        """What is wrong and what to do, by the seconds of each step of an attempt but its first; None where nothing is."""
        steps, windows = self._slower(seconds), sys.platform == "win32"
        if steps is None or not (windows or gpu.wsl()) or time.monotonic() - self._asked < OFTEN:
            return None
        self._asked, found = time.monotonic(), gpu.find(self._card["uuid"])
        if found is None or found.used < FULL * found.total:
            return None
        self._slow = True
        full = f"{found.used / memory.GIB:.1f} of {found.total / memory.GIB:.1f} GiB"
        return (
            f"{steps}, and the GPU's memory is full ({full}): the driver moves what doesn't fit into RAM. "
            f"{self._way_out(found.total)}{f' {gpu.NO_FALLBACK}' if windows else ''}"
        )

    def keep(self) -> None:
        """Remember what the card has done, for the next run. A cache that can't be written costs nothing else."""
        if self._card and self._own > self._known and not self._slow:
            with suppress(OSError, OutputError):
                _place().parent.mkdir(parents=True, exist_ok=True)
                write_atomic(_place(), json.dumps({**_speeds(), self._card["name"]: self._own}, indent=1))

    def _slower(self, seconds: Sequence[float]) -> str | None:
        """`steps take 41 s where about 6 s are usual`, where they do.

        A few steps may all be of the largest batch; those of whole epochs are as the data set is.
        """
        if not self._card:
            return None
        (mean, largest), epoch = self._operations, self._newest_epoch(seconds)
        if total := sum(epoch):
            self._own = max(self._own, min(mean * len(epoch) / total, self._built or float("inf")))
        if not (speed := max(self._own, self._known)):
            return None
        paces = [(median(seconds[-FEW:]), largest)] if len(seconds) >= FEW else []
        paces += [(fmean(sorted(epoch)[:-1]), mean)] if epoch else []  # but for a step that had to wait for samples
        for taken, operations in paces:
            usual = self._several * FIXED + operations / speed
            if taken > SLOW * usual:
                return f"steps take {taken:.3g} s where about {usual:.2g} s are usual"
        return None

    def _newest_epoch(self, seconds: Sequence[float]) -> Sequence[float]:
        """Of the steps of the newest epoch that is whole, of several if they are short; the very first step is not there."""
        length = self._train.per_epoch * -(-FEW // self._train.per_epoch)
        ended = (len(seconds) + 1) // length * length - 1
        return seconds[max(0, ended - length) : max(0, ended)]

    @property
    def _options(self) -> Options:
        """As they are now: blocks may have been added."""
        return {**self._train.options, "blocks_to_swap": self._record.blocks_to_swap}

    @property
    def _several(self) -> int:
        """Batches of a step."""
        return whole(self._options, "gradient_accumulation_steps", 1)

    @cached_property
    def _operations(self) -> tuple[float, float]:
        """Floating-point operations of a step on average, and of one whose batches are all the largest."""
        task, batches = str(self._options["task"]), list[float]()
        for shape, count, most in self._plan.dataset.batch_shapes:
            batches += [most * flops(task, buckets.tokens(shape))] * count
        return self._several * fmean(batches), self._several * max(batches)

    @cached_property
    def _built(self) -> float:
        """Operations a second for which this card is built; 0 where nobody knows."""
        return gpu.operations(self._card["name"], self._card["capability"], self._card["multiprocessors"])

    @cached_property
    def _known(self) -> float:
        """Operations a second that this card has shown in earlier runs, or ought to reach at least."""
        return max(_speeds().get(self._card["name"], 0.0), LEAST * self._built)

    def _way_out(self, card: int) -> str:
        """What would fit a card of so many bytes."""
        tokens, _ = self._plan.dataset.largest or (0, ())
        change = memory.fitting(self._options, tokens, card)
        if change is None:
            return "Nothing that trains the same fits it: take fewer frames, smaller sizes or smaller batches."
        if not change:
            needed = memory.peak(self._options, tokens) / memory.GIB
            return f"The training needs about {needed:.1f} GiB: the Task Manager tells what else uses the GPU."
        end = joined(("wanwrap", "stop", str(self._plan.folder), "--now"))
        return f"End it (`{end}`), and go on with what would fit: `{joined(('wanwrap', *_changed(change)))}`."


def _changed(change: Options) -> list[str]:
    """This command's words with other options, of which the last one counts."""
    words = command_line()
    at = words.index("--") if "--" in words else len(words)
    own = {name: value for name, value in change.items() if name == "blocks_to_swap"}
    after = [*spell({name: value for name, value in change.items() if name not in own})]
    return [*words[:at], *spell(own), *(words[at:] or ["--"] if after else words[at:]), *after]


def _speeds() -> dict[str, float]:
    """Operations a second by the names of cards, as earlier runs have measured them."""
    with suppress(OSError, ValueError, TypeError, AttributeError):
        rows = json.loads(_place().read_text(encoding="utf-8"))
        return {name: float(speed) for name, speed in rows.items()}
    return {}


def _place() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("wanwrap") / "speeds.json"
