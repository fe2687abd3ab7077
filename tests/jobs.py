"""Jobs as `wanwrap launch` makes them, for the tests of what engines are given."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from wanwrap.launch.job import Job

BOTH = ("t2v-vanilla", "cats", "--epochs", "30")


def job(**changes: Any) -> Job:
    """Both experts of Wan 2.2, one after the other on one GPU."""
    plain = Job(
        name="cats-t2v-vanilla",
        folder=Path("/here/local_training/outputs/cats-t2v-vanilla"),
        preset="t2v-vanilla",
        setup=("t2v-vanilla",),
        runs=(BOTH,),
        experts=("both",),
        uploads={
            "local_training/datasets/cats": Path("/here/pictures/my cats"),
            "wanwrap-0.2.0-py3-none-any.whl": Path(
                "/here/local_training/outputs/cats-t2v-vanilla/launch/wanwrap-0.2.0-py3-none-any.whl"
            ),
        },
        wheel="wanwrap-0.2.0-py3-none-any.whl",
        gpu="A100-80GB",
        hours=12,
        price=2.5,
    )
    return replace(plain, **changes)


def each(**changes: Any) -> Job:
    """An expert each, side by side."""
    runs = tuple((*BOTH, "--noise_level", level) for level in ("high", "low"))
    return job(runs=runs, experts=("high", "low"), **changes)
