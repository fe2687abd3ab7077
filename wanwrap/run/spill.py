"""Steps that take several times as long as they should: a GPU that spills, or is kept from its work.

Where the memory is full Windows' driver moves what doesn't fit into RAM: nothing fails, and a night trains what an hour
would (musubi-tuner #157: 90 s a step instead of 4.4). What steps should take is reckoned from their operations and from
the most that the card has done in a second: in this run, in earlier ones, or what it is built for. A first run that is
slowed by less than a factor of 5 may pass for a slow card.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from statistics import fmean, median
from typing import Any

from wanwrap.errors import listing
from wanwrap.plan import card
from wanwrap.plan.card import ALLOCATOR
from wanwrap.plan.fit import Fit, quickest
from wanwrap.plan.fit_words import gib, offers, words
from wanwrap.plan.plan import Plan, Train
from wanwrap.run.record import Record, command_line
from wanwrap.system import gpu
from wanwrap.system.gpu import Gpu
from wanwrap.system.shell import joined
from wanwrap.upstream.options import Options
from wanwrap.upstream.pace import several

SLOW = 3  # times as long as it should
FEW = 10  # steps by which a pace is judged
FULL = 0.9  # of a card's memory: users who spill report 0.92 to 0.98
OFTEN = 60  # seconds between two questions to nvidia-smi


class Watch:
    """One start of an expert's training, on the first GPU that its Python sees."""

    def __init__(self, plan: Plan, train: Train, record: Record) -> None:
        self._plan, self._train, self._record = plan, train, record
        self._gpu: Mapping[str, Any] = next(iter(record.machine.get("gpus", [])), {})
        self._own, self._asked = 0.0, -1e9  # operations a second, the most in an epoch; when nvidia-smi was asked
        self._slow = False
        self.used = 0  # bytes of the GPU, by all programs, the most that was seen

    @cached_property
    def fit(self) -> Fit:
        """What is trained, as its options are now, on this GPU with torch's segments as they are set."""
        raised = {name: value for name, value in self._record.raised.items() if name != ALLOCATOR}
        train = replace(self._train, options={**self._train.options, **raised})
        its = card.seen([self._gpu] if self._gpu else [])
        return Fit(train, self._plan.dataset, its and its.with_env({**self._plan.env, **self._record.raised}))

    def look(self, seconds: Sequence[float]) -> str | None:
        """What is wrong and what to do, by the seconds of each step of an attempt but its first; None where nothing is."""
        slower = self._slower(seconds)
        if not self._gpu or not seconds or time.monotonic() - self._asked < OFTEN:
            return None
        self._asked, found = time.monotonic(), gpu.find(self._gpu["uuid"])
        self.used = max(self.used, found.used if found else 0)
        if slower is None or found is None:
            return None
        self._slow = True
        if found.used >= FULL * found.total and (sys.platform == "win32" or gpu.wsl()):
            return f"{slower}, and {self._spilt(found)}"
        return f"{slower}: see whether other programs use the GPU, how hot it is, and whether power is saved."

    def keep(self) -> None:
        """Remember what the card has done, for the next run."""
        if self.fit.card and self._own and not self._slow:
            card.keep_speed(self.fit.card.name, self._own)

    def _slower(self, seconds: Sequence[float]) -> str | None:
        """`steps take 41 s where about 6 s are usual`, where they do.

        A few steps may all be of the largest batch; those of whole epochs are as the data set is.
        """
        if not self.fit.card:
            return None
        epoch = self._newest_epoch(seconds)
        if total := sum(epoch):
            own = several(self.fit.options) * self.fit.operations[0] * len(epoch) / total
            built = gpu.operations(self._gpu["name"], self._gpu["capability"], self._gpu["multiprocessors"])
            self._own = max(self._own, min(own, built or own))
        if not (speed := max(self._own, self.fit.card.speed[0])):
            return None
        mean, largest = self.fit.pace(speed)
        paces = [(median(seconds[-FEW:]), largest)] if len(seconds) >= FEW else []
        paces += [(fmean(sorted(epoch)[:-1]), mean)] if epoch else []  # but for a step that had to wait for samples
        for taken, usual in paces:
            if taken > SLOW * usual:
                return f"steps take {taken:.3g} s where about {usual:.2g} s are usual"
        return None

    @property
    def _length(self) -> int:
        """Steps of an epoch, of several if they are short."""
        return self._train.per_epoch * -(-FEW // self._train.per_epoch)

    def _newest_epoch(self, seconds: Sequence[float]) -> Sequence[float]:
        """Of the steps of the newest epoch that is whole; the very first step is not there."""
        ended = (len(seconds) + 1) // self._length * self._length - 1
        return seconds[max(0, ended - self._length) : max(0, ended)]

    def _spilt(self, found: Gpu) -> str:
        """That the memory is full, and what would fit."""
        full = f"the GPU's memory is full ({gib(found.used)} of {gib(found.total)})"
        policy = f" {gpu.NO_FALLBACK}" if sys.platform == "win32" else ""
        return f"{full}: the driver moves what doesn't fit into RAM. {self._way_out()}{policy}"

    def _way_out(self) -> str:
        """What would fit."""
        way = quickest(self.fit, {})
        if not way.fits:
            return f"Nothing that trains the same fits it; make smaller: {listing(offers(way), 3) or '--dim'}."
        if not way.chosen:
            needed = gib(way.memory.total)
            return f"The training needs about {needed}: the Task Manager tells what else uses the GPU."
        end = joined(("wanwrap", "stop", str(self._plan.folder), "--now"))
        return f"End it (`{end}`), and go on with what would fit: `{joined(('wanwrap', *_changed(way.chosen)))}`."


def _changed(change: Options) -> list[str]:
    """This command's words with other options, of which the last one counts."""
    given, (own, after) = command_line(), words(change)
    at = given.index("--") if "--" in given else len(given)
    return [*given[:at], *own, *(given[at:] or ["--"] if after else given[at:]), *after]
