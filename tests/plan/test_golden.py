"""The whole script and TOML of every preset, as a reviewer can read them, and their contract with upstream."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import pytest
from helpers import GOLDEN, compare, golden_plan
from platforms import posix_paths

from wanwrap.cli.words import heading
from wanwrap.plan.card import Card
from wanwrap.plan.fit import Fit, fitted
from wanwrap.plan.fit_words import bucket
from wanwrap.plan.script import script
from wanwrap.preset import load, shipped
from wanwrap.upstream.memory import EMBEDDING, GIB, OFFLOAD
from wanwrap.upstream.options import CACHE_LATENTS, CACHE_TEXT, TRAIN, parser

# what upstream gets wrong by itself
WRITTEN_OUT = (
    "task mixed_precision save_precision timestep_sampling optimizer_type learning_rate max_grad_norm seed network_module "
    "network_dim network_alpha output_dir output_name logging_dir"
)


@posix_paths
@pytest.mark.parametrize("name", shipped())
def test_script_and_toml(name: str, update: bool) -> None:
    plan = golden_plan(name)
    compare(GOLDEN / name / "run.sh", script(plan, "bash", heading(plan)), update)
    (toml,) = {text for path, text in plan.files.items() if path.name == "dataset.toml"}
    compare(GOLDEN / name / "dataset.toml", toml, update)


@posix_paths
def test_powershell(update: bool) -> None:
    plan = golden_plan("wan21-t2v-1.3b-rtx3090")
    compare(GOLDEN / "run.ps1", script(plan, "powershell", heading(plan)), update)


CARDS, RAM = (8, 12, 16, 24, 32, 48, 80), 64  # GiB
COLUMNS = "{:4}  {:7}  {:>4}  {:>4}  {:>6}  {:>5}  {:>4}  {}"
SYSTEMS: dict[str, bool | None] = {"linux": None, "windows": False}  # whether torch's segments may be told to grow


def test_what_is_chosen_for_each_card(update: bool) -> None:
    """On a machine with 64 GiB of RAM; a reviewer asks of each line whether it is what should be done."""
    lines = [line for name in shipped() for line in _fits(name)]
    compare(GOLDEN / "fit.txt", "\n".join(lines), update)


def _fits(name: str) -> Iterator[str]:
    """`name: 24480 tokens, 45 frames of 960x544`, and a line for each expert, system and card: GiB, blocks, what else."""
    plan = golden_plan(name, fit="auto")
    tokens, key = plan.dataset.largest or (0, ())
    yield f"{name}: {tokens} tokens, {bucket(key)}"
    yield COLUMNS.format("", "system", "card", "fits", "total", "RAM", "swap", "chosen")
    for index, train in enumerate(plan.trainings):
        for system, expandable in SYSTEMS.items():
            for size in CARDS:
                made = fitted(plan, Card("a card", size * GIB, RAM * GIB, expandable=expandable))
                yield COLUMNS.format(train.expert, system, size, *_columns(made.fits[index])).rstrip()
    yield ""


def _columns(fit: Fit) -> list[str]:
    names = {EMBEDDING: "embedding", OFFLOAD: "offload", "blocks_to_swap": "swap"}
    chosen = [*(["expandable"] if fit.expandable else []), *(names.get(name, name) for name in fit.chosen)]
    sizes = [f"{size / GIB:.1f}" for size in (fit.memory.total, fit.ram)]
    return ["yes" if fit.fits else "NO", *sizes, str(fit.options.get("blocks_to_swap") or "-"), " ".join(chosen)]


def test_no_golden_folder_is_left_behind() -> None:
    assert {path.name for path in GOLDEN.iterdir() if path.is_dir()} <= {*shipped(), "launch"}


@pytest.mark.parametrize("name", shipped())
def test_what_is_printed_is_what_upstream_takes(name: str) -> None:
    """Read back from the golden text, not from the plan, by upstream's own options and choices."""
    commands = (GOLDEN / name / "run.sh").read_text(encoding="utf-8").partition("\ncd ")[2].replace("\\\n", " ")
    taken = list[tuple[str, dict[str, object]]]()
    for words in (shlex.split(line, comments=True) for line in commands.splitlines()):
        for asked in (CACHE_LATENTS, CACHE_TEXT, TRAIN):
            if (module := f"musubi_tuner.{asked}") in words:
                taken.append((asked, vars(parser(asked).parse_args(words[words.index(module) + 1 :]))))
    assert [asked for asked, _ in taken] == [CACHE_LATENTS, CACHE_TEXT, *[TRAIN] * len(load(name).experts)]
    for _, options in taken[2:]:
        assert {*WRITTEN_OUT.split()} <= {*options}
        assert options["timestep_sampling"] != "shift" or "discrete_flow_shift" in options
        assert "lr_scheduler_min_lr_ratio" not in options  # no preset's scheduler obeys it


def test_a_script_moves_the_loras_that_a_run_keeps() -> None:
    plan = golden_plan("t2v-vanilla", given={"save_last_n_epochs": 2})
    high, low = plan.trainings
    assert high.loras == [f"{high.label}-{epoch}.safetensors" for epoch in ("000040", "000045")] + [high.lora.name]
    moved = script(plan, "bash").partition("\nmv ")[2].partition("\n\n")[0].replace("\\\n", "").split()
    assert moved == [*(f"high/attempt-1/{name}" for name in high.loras), "."]
    assert not {*high.loras} & {*low.loras}


def test_vanilla_and_lightning_share_their_caches_and_t2v_and_i2v_do_not() -> None:
    vanilla, lightning, i2v = (
        {str(entry.cache) for entry in golden_plan(name).dataset.entries}
        for name in ("t2v-vanilla", "t2v-lightning", "i2v-vanilla")
    )
    assert vanilla == lightning and len(vanilla) == 3
    assert not vanilla & i2v
