"""What a rehearsal makes of a plan; test_upstream.py carries rehearsals out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import Wanwrap, golden_plan, safetensors

from wanwrap.errors import StepError
from wanwrap.plan.plan import Choices, Places, Plan
from wanwrap.preset import load, shipped
from wanwrap.rehearsal import stage as module
from wanwrap.upstream.options import CACHE_LATENTS
from wanwrap.upstream.pin import Upstream
from wanwrap.weights.catalogue import CATALOGUE
from wanwrap.weights.locate import Located


def staged(name: str, *, gpu: bool, **given: Any) -> tuple[Plan, tuple[str, ...]]:
    choices = Choices(given=given)
    real = golden_plan(name, choices)
    weights = {
        key: Located(path=Path(f"/x/{w.name}"), dtype=w.dtype, exists=True, identity=key)
        for key, w in CATALOGUE.items()
    }
    places = Places(base=Path("/r"), upstream=Upstream(folder=Path("/up")), python="python")
    return module.stage(real.preset, real.dataset, weights, places, choices, gpu=gpu)


@pytest.mark.parametrize("name", shipped())
def test_on_a_gpu_every_option_is_the_real_runs(name: str) -> None:
    """But the length, and what the toy's 4 blocks can swap."""
    plan, notes = staged(name, gpu=True)
    assert [note for note in notes if "without a GPU" in note] == []
    for small, real in zip(plan.trainings, golden_plan(name).trainings, strict=True):
        assert small.recipe and real.recipe
        changed = {key for key, value in real.recipe.options.items() if small.recipe.options.get(key) != value}
        assert changed <= {"max_train_epochs", "save_every_n_epochs", "lr_scheduler_args", "sample_every_n_epochs"}
        assert small.recipe.options["max_train_epochs"] == 2


@pytest.mark.parametrize("name", shipped())
def test_all_goes_through_the_child_and_nothing_leaves_the_folder(name: str) -> None:
    plan, _ = staged(name, gpu=False)
    make, *steps = plan.steps
    spec = json.loads(make.argv[-1])
    assert spec["task"] == load(name).task
    for step in steps:
        ours = step.reads or step.name == "check caches"
        assert ours or (module.CHILD in step.argv and "-m musubi_tuner" not in " ".join(step.argv))
        paths = [word for word in step.argv if word.startswith("/") and word != module.CHILD]
        assert paths and all(word.startswith("/r/") for word in paths)
    assert all(path.is_relative_to("/r") for path in plan.files)
    made = {str(step.makes) for step in plan.rewrites}
    read = {word for step in steps for word in step.argv if "/models/" in word} - made
    assert read == set(spec["files"])
    for path, wanted in spec["files"].items():
        weight = CATALOGUE[Path(path).stem]
        assert (wanted["role"], wanted["dtype"]) == (weight.role, weight.dtype)
        assert Path(path).suffix == Path(weight.name).suffix


def test_what_a_cpu_cannot_do_is_replaced_and_said() -> None:
    plan, notes = staged("t2v-style", gpu=False, optimizer_type="bitsandbytes.optim.Lion", block_swap_h2d_only=True)
    options = plan.trainings[0].recipe.options if plan.trainings[0].recipe else {}
    assert (options["optimizer_type"], options["sdpa"], options.get("xformers")) == ("adamw", True, None)
    assert options.get("block_swap_h2d_only") is None
    said = " ".join(notes)
    for words in ("adamw stands in for bitsandbytes.optim.Lion", "sdpa stands in for xformers", "h2d_only is left out"):
        assert words in said


def test_toys_are_merged_and_what_takes_long_is_left_out_and_said() -> None:
    plan, notes = staged("t2v-lightning", gpu=True, blocks_to_swap=30, network_weights="/old.safetensors")
    assert [step.name for step in plan.steps[1:3]] == ["merge Lightning, high", "merge Lightning, low"]
    assert not any("sha256" in word for step in plan.rewrites for word in step.argv)
    assert "network_weights is left out" in notes
    assert plan.trainings[0].recipe and plan.trainings[0].recipe.options["blocks_to_swap"] == module.SWAP


def test_items_are_few_and_small() -> None:
    plan, _ = staged("t2v-vanilla", gpu=True)
    for entry in plan.dataset.entries:
        width, height = entry.options["resolution"]
        assert len(entry.items) <= module.ITEMS and width % 16 == height % 16 == 0
        assert 0.5 < width * height / module.AREA < 2
        assert max(entry.options.get("target_frames", [1])) <= module.FRAMES
    argv = next(step.argv for step in plan.steps if step.name == "cache latents")
    assert CACHE_LATENTS in argv


def lora(path: Path, content: bytes) -> Path:
    safetensors(path, {"a.lora_down.weight": ("F16", [4, 4]), "a.lora_up.weight": ("F16", [4, 4])})
    path.write_bytes(path.read_bytes()[:-1] + content)
    return path


def test_a_lora_of_zeros_or_a_broken_loss_fails_the_rehearsal(tmp_path: Path) -> None:
    plan = golden_plan("wan21-t2v-14b")
    made = tmp_path / "a.safetensors"
    plan = replace(plan, steps=(replace(plan.trainings[0], makes=made),))
    good = {"steps": [{"name": "train", "loss": "0.1"}]}
    lora(made, b"\x01")
    module.verify(plan, good)
    with pytest.raises(StepError, match="a loss of nan"):
        module.verify(plan, {"steps": [{"name": "train", "loss": "nan"}]})
    lora(made, b"\x00")
    loha = replace(
        plan, steps=(replace(plan.trainings[0], makes=safetensors(tmp_path / "h", {"a.hada_w1_a": ("F16", [1])})),)
    )
    module.verify(loha, good)  # LoHa starts from no zeros that could be looked for
    with pytest.raises(StepError, match="nothing was learned"):
        module.verify(plan, good)


def test_what_the_real_run_refuses_is_refused_before_anything_is_written(tmp_path: Path, wanwrap: Wanwrap) -> None:
    done = wanwrap("rehearse", "t2v-vanilla", "--dataset", "sample", "--blocks_to_swap", 40)
    assert done.returncode == 7
    done = wanwrap("rehearse", "t2v-vanilla", "--dataset", "sample", STANDIN_LACKS="xformers", standin=False)
    assert done.returncode == 6
    assert list((tmp_path / "home").iterdir()) == []
