"""What is chosen to fit a card, through the real upstream at toy size: taken, acting, and training the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import golden_plan
from real import ask, lora_of, rehearse

from wanwrap.plan.card import Card
from wanwrap.plan.fit import fitted
from wanwrap.preset import shipped
from wanwrap.upstream.memory import EMBEDDING, GIB, OFFLOAD
from wanwrap.upstream.options import TRAIN

pytestmark = pytest.mark.upstream

SWAP = "blocks_to_swap"
SAYS = {
    EMBEDDING: "Using 2.1 style time embedding",
    OFFLOAD: "Activation CPU offloading: True",
    SWAP: "Swapping 2 blocks out of 4 blocks",
}


def test_upstreams_parser_takes_what_is_chosen(tmp_path: Path) -> None:
    """For each preset on the smallest card, where all is chosen that can be."""
    calls, wanted = list[dict[str, Any]](), list[dict[str, Any]]()
    for name in shipped():
        plan = golden_plan(name, fit="auto")
        made = fitted(plan, Card("a card", 8 * GIB, expandable=None))
        for fit, train in zip(made.fits, made.trainings, strict=True):
            at = train.argv.index(f"musubi_tuner.{TRAIN}")
            calls.append({"script": TRAIN, "argv": train.argv[at + 1 :]})
            wanted.append(dict(fit.chosen))
    assert {name for chosen in wanted for name in chosen} == {*SAYS}
    for chosen, taken in zip(wanted, ask("parse", calls, tmp_path), strict=True):
        assert {name: taken[name] for name in chosen} == chosen


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    return tried(tmp_path_factory.mktemp("plain"))


def tried(base: Path, *words: object) -> tuple[dict[str, Any], str]:
    """The LoRA that a rehearsal trains, and what upstream prints in it."""
    from safetensors.torch import load_file

    expert = rehearse(base, "t2v-vanilla", "sample", "--noise_level", "low", *words)["low"]
    return load_file(lora_of(expert)), (Path(expert["folder"]) / "run.log").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "acts", "most"),
    [
        ((), (), 0.0),  # a repeat
        (("--blocks_to_swap", 2), (SWAP,), 0.0),
        (("--", f"--{OFFLOAD}"), (OFFLOAD,), 0.0),
        (("--", f"--{EMBEDDING}"), (EMBEDDING,), 0.05),  # embedded once, not for each token: sums in another order
        (("--vram", 12), (SWAP, OFFLOAD, EMBEDDING), 0.05),  # chosen by itself
    ],
)
def test_it_acts_and_trains_the_same(
    words: tuple[object, ...],
    acts: tuple[str, ...],
    most: float,
    plain: tuple[dict[str, Any], str],
    tmp_path: Path,
) -> None:
    """All steps of two epochs, beside those of a run without it; `most` is how far the LoRA's numbers are off."""
    (before, quiet), (after, told) = plain, tried(tmp_path, *words)
    assert not any(said in quiet for said in SAYS.values())
    assert {name for name, said in SAYS.items() if said in told} == {*acts}
    ups = [name for name in before if name.endswith("lora_up.weight")]
    assert ups and before.keys() == after.keys() and all(before[name].abs().max() for name in ups)
    off = sum(float((before[name] - after[name]).float().norm() ** 2) for name in ups) ** 0.5
    assert off <= most * sum(float(before[name].float().norm() ** 2) for name in ups) ** 0.5
