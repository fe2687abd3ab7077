"""What a rehearsal makes of a plan; upstream/test_real.py carries rehearsals out."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import Wanwrap, golden_plan, picture, safetensors
from platforms import posix_paths

from wanwrap.data import config
from wanwrap.errors import RoomError, StepError, UpstreamError, WanwrapError
from wanwrap.plan import preflight
from wanwrap.plan.build import build
from wanwrap.plan.card import ALLOCATOR, Card
from wanwrap.plan.fit import fitted
from wanwrap.plan.plan import Plan, Rewrite, Sample
from wanwrap.plan.preflight import Machine
from wanwrap.plan.request import read
from wanwrap.preset import load, shipped
from wanwrap.rehearsal import stage as module
from wanwrap.run import record as records
from wanwrap.upstream.memory import EMBEDDING, GIB, OFFLOAD
from wanwrap.upstream.options import Value
from wanwrap.upstream.pin import Upstream
from wanwrap.weights.catalogue import CATALOGUE


def staged(name: str, *, gpu: bool, **given: Any) -> tuple[Plan, tuple[str, ...]]:
    return module.stage(golden_plan(name, given=given), Path("/r"), gpu=gpu)


@pytest.mark.parametrize("name", shipped())
def test_on_a_gpu_every_option_is_the_real_runs(name: str) -> None:
    """But the length, and what the toy's 4 blocks can swap."""
    plan, notes = staged(name, gpu=True)
    assert "without a GPU" not in " ".join(notes)
    own = {"dit", "dataset_config", "output_name", "sample_prompts", "vae", "t5"}
    length = {"max_train_epochs", "save_every_n_epochs", "lr_scheduler_args", "sample_every_n_epochs"}
    for small, real in zip(plan.trainings, golden_plan(name).trainings, strict=True):
        changed = {key for key, value in real.options.items() if small.options.get(key) != value}
        assert changed <= own | length
        assert small.options["max_train_epochs"] == 2


@posix_paths
@pytest.mark.parametrize("name", shipped())
def test_all_goes_through_the_child_and_nothing_leaves_the_folder(name: str) -> None:
    plan, _ = staged(name, gpu=False)
    make, *steps = plan.steps
    spec = json.loads(make.argv[-1])
    assert spec["task"] == load(name).task
    for step in steps:
        ours = isinstance(step, Rewrite | Sample) or step.name == "check caches"
        assert ours or (module.CHILD in step.argv and "-m musubi_tuner" not in " ".join(step.argv))
        paths = [word for word in step.argv if word.startswith("/") and word not in (module.CHILD, "/musubi-tuner")]
        assert paths and all(Path(word).is_relative_to("/r") for word in paths)
    assert all(path.is_relative_to("/r") for path in plan.files)
    made = {str(step.out) for step in plan.rewrites}
    read = {word for step in steps for word in step.argv if "/models/" in word} - made
    assert read == set(spec["files"])
    for path, wanted in spec["files"].items():
        weight = CATALOGUE[Path(path).stem]
        assert (wanted["role"], wanted["dtype"]) == (weight.role, weight.dtype)
        assert Path(path).suffix == Path(weight.name).suffix


def test_what_a_cpu_cannot_do_is_replaced_and_said() -> None:
    swap: dict[str, Any] = {"blocks_to_swap": 10, "block_swap_h2d_only": True, "block_swap_ring_size": 4}
    plan, notes = staged("t2v-style", gpu=False, optimizer_type="bitsandbytes.optim.Lion", **swap)
    options = plan.trainings[0].options
    assert (options["optimizer_type"], options["sdpa"], options.get("xformers")) == ("adamw", True, None)
    assert options.get("block_swap_h2d_only") is options.get("block_swap_ring_size") is None
    said = " ".join(notes)
    assert all(word in said for word in ("bitsandbytes.optim.Lion", "xformers", "h2d_only"))


def test_toys_are_merged_and_what_takes_long_is_left_out_and_said() -> None:
    samples: dict[str, Any] = {"sample_prompts": "/p.txt", "sample_every_n_epochs": 2, "vae_dtype": "float32"}
    plan, notes = staged("t2v-lightning", gpu=True, blocks_to_swap=30, network_weights="/old.safetensors", **samples)
    assert [step.name for step in plan.steps[1:3]] == ["merge Lightning, high", "merge Lightning, low"]
    assert not any("sha256" in word for step in plan.rewrites for word in step.argv)
    assert {"network_weights is left out", "vae_dtype is left out"} <= {*notes}
    assert plan.trainings[0].options["blocks_to_swap"] == module.SWAP


def test_a_sample_is_drawn_too_as_small_as_can_be() -> None:
    """Of the prompts that were given, with its first frame."""
    given: dict[str, Value] = {"sample_prompts": "/p.txt", "sample_every_n_epochs": 9}
    lines = ("a cat --w 832 --h 480 --f 81 --s 40 --l 5 --fs 3 --n a dog --i /first frame.png", "a dog")
    plan, _ = module.stage(golden_plan("wan21-i2v-480p", given=given, samples=lines), Path("/r"), gpu=False)
    (train,) = plan.trainings
    written = plan.files[Path(str(train.options["sample_prompts"]))]
    assert written == f"a cat {module.PROMPT} --i /first frame.png\n" and train.options["sample_every_n_epochs"] == 2


def test_what_is_chosen_for_a_card_is_rehearsed() -> None:
    """On a CPU too, in as many blocks as the toy has; each expert with its own."""
    card = Card("a card", 24 * GIB, expandable=None)
    real = fitted(golden_plan("t2v-vanilla", fit="auto"), card)
    high, low = real.fits
    real = replace(real, fits=(high, replace(low, chosen={OFFLOAD: True})))
    plan, notes = module.stage(real, Path("/r"), gpu=False)
    first, second = (train.options for train in plan.trainings)
    assert first["blocks_to_swap"] == module.SWAP and first[EMBEDDING] is True and first.get(OFFLOAD) is None
    assert second[OFFLOAD] is True and second.get(EMBEDDING) is second.get("blocks_to_swap") is None
    assert plan.env[ALLOCATOR] == "expandable_segments:True"
    assert any(f"--{EMBEDDING}" in note for note in notes)


def test_captions_are_those_of_ones_own_toml(tmp_path: Path) -> None:
    """From a list, whatever lies beside, or from files of another ending; they are asked for again before caching."""
    path = picture(tmp_path / "m" / "a.png", caption="beside")
    path.with_suffix(".words").write_text("its own")
    (tmp_path / "list.jsonl").write_text(json.dumps({"image_path": str(path), "caption": "listed"}) + "\n")
    for source in ('image_jsonl_file = "{}/list.jsonl"', 'image_directory = "{}/m"\ncaption_extension = ".words"'):
        own = f'[[datasets]]\n{source.format(tmp_path.as_posix())}\ncache_directory = "{tmp_path.as_posix()}/cache"\n'
        (tmp_path / "own.toml").write_text(own)
        plan, data = golden_plan("t2v-style"), config.load(tmp_path / "own.toml").sound()
        small, _ = module.stage(replace(plan, dataset=data), tmp_path / "r", gpu=True)
        for file, text in small.files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        again = config.load(small.trainings[0].folder / "dataset.toml").sound()
        assert again.entries[0].items == data.entries[0].items


def test_items_are_few_and_small_and_it_is_called_a_toy() -> None:
    """Name, LoRAs and record: nobody takes one for the real thing."""
    real = golden_plan("t2v-vanilla")
    many = [replace(entry, items=entry.items * 9) for entry in real.dataset.entries]
    plan, _ = module.stage(replace(real, dataset=replace(real.dataset, entries=tuple(many))), Path("/r"), gpu=True)
    for entry in plan.dataset.entries:
        width, height = entry.options["resolution"]
        assert len(entry.items) == 3 and width % 16 == height % 16 == 0
        assert 0.5 < width * height / module.AREA < 2
        assert max(entry.options.get("target_frames", [1])) <= module.FRAMES
    assert plan.name == "cats-t2v-vanilla-toy"
    for train in plan.trainings:
        assert "-toy" in train.lora.name
        assert json.loads(train.argv[train.argv.index("--training_comment") + 1])["toy"] is True


@pytest.mark.parametrize("loss", [0.1, None])
@pytest.mark.parametrize(
    ("module_name", "content", "learned"),
    [("lora_up", b"\x01", True), ("lora_up", b"\0", False), ("hada_w1_a", b"\0", True)],
)
def test_a_lora_of_zeros_or_a_broken_loss_fails_the_rehearsal(
    module_name: str, content: bytes, learned: bool, loss: float | None, tmp_path: Path
) -> None:
    """LoHa starts from no zeros that could be looked for."""
    real = read(preset="wan21-t2v-14b", dataset="sample", base_dir=tmp_path)
    plan, _ = module.stage(build(real), tmp_path, gpu=True)
    (train,) = plan.trainings
    safetensors(train.lora, {"a.lora_down.weight": ("F16", [4, 4]), f"a.{module_name}.weight": ("F16", [4, 4])})
    train.lora.write_bytes(train.lora.read_bytes()[:-1] + content)
    train.folder.mkdir()
    machine = Machine(upstream=Upstream(), python="3.11", packages={}, gpus=[])
    records.begin(plan, train, machine).write(train.folder, loss=loss)
    with nullcontext() if learned and loss else pytest.raises(StepError, match="zeros" if loss else "number"):
        module.verify(plan)


@pytest.mark.parametrize(
    ("arguments", "code", "noun"),
    [
        (["--blocks_to_swap", 40], 7, "40"),
        (["--optimizer", "bogus"], 7, "bogus"),  # nothing stands in for what there isn't
        (["--optimizer", "torch.optim.Bogus"], 8, "Bogus"),
    ],
)
def test_what_the_real_run_refuses_is_refused_before_anything_is_written(
    arguments: list[object], code: int, noun: str, tmp_path: Path, cli: Wanwrap
) -> None:
    done = cli("rehearse", "t2v-vanilla", "sample", *arguments, STANDIN_GPUS="0")
    assert done.returncode == code and noun in done.stderr, done.stderr
    assert not [*(tmp_path / "home").iterdir()]


@pytest.mark.parametrize(
    ("missing", "free", "error"),
    [({}, 10**6, RoomError), ({"musubi_tuner": "ModuleNotFoundError"}, 10**12, UpstreamError)],
)
def test_what_the_machine_lacks_is_told_before_anything_is_written(
    missing: dict[str, str], free: int, error: type[WanwrapError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=10**12, used=10**12, free=free))
    monkeypatch.setattr(preflight, "ask", lambda *_: {"missing": missing, "gpus": []})
    with pytest.raises(error):
        module.rehearsal(read(preset="t2v-vanilla", dataset="sample", base_dir=tmp_path))
    assert not [*tmp_path.iterdir()]
