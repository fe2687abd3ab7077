"""`--resume_from`: only a file of which upstream loads every tensor, of the same expert."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from helpers import Wanwrap, golden_plan, lora, record, safetensors

from wanwrap.errors import WeightsError
from wanwrap.plan import warm_start
from wanwrap.plan.plan import Plan
from wanwrap.preset import load
from wanwrap.system.safetensors import read_header
from wanwrap.upstream import probe
from wanwrap.weights import provenance

OTHER_MODULE = {"blocks.1.cross_attn.k": (4, 4)}


def plan_for(preset: str = "t2v-vanilla", **given: Any) -> Plan:
    """A plan that trains on a model that is not there: the published one is taken."""
    level: Any = None if load(preset).experts[0].noise_level is None else "low"
    return golden_plan(preset, noise_level=level, given={"network_dim": 8, "network_alpha": 8, **given})


def remarks(path: Path, preset: str = "t2v-vanilla", **given: Any) -> list[str]:
    return warm_start.remarks(plan_for(preset, network_weights=str(path), **given))


def text(preset: str, expert: str) -> str:
    """The record of another plan."""
    (train,) = (train for train in golden_plan(preset).trainings if train.expert == expert)
    return train.argv[train.argv.index("--training_comment") + 1]


def test_a_file_is_taken_and_its_price_said(tmp_path: Path) -> None:
    (said,) = remarks(lora(tmp_path / "old.safetensors"))
    assert "moments" in said and "--lr 8e-05" in said


@pytest.mark.parametrize("key", ["diffusion_model.{}", "transformer.{}", "base_model.model.{}"])
def test_another_format_comes_with_the_command_that_converts(key: str, tmp_path: Path) -> None:
    path = lora(tmp_path / "it's.safetensors", key=key.format)
    with pytest.raises(WeightsError, match=key.format("blocks")) as caught:
        remarks(path)
    command = shlex.split(str(caught.value).partition("cd ")[2].replace("\\\n", ""))
    assert command[:4] == ["/musubi-tuner/src", "python", "-m", "musubi_tuner.convert_lora"]
    out = str(path.with_name("it's-musubi.safetensors"))
    assert command[4:] == ["--input", str(path), "--output", out, "--target", "default"]


@pytest.mark.parametrize(("rank", "alpha", "words"), [(16, 8, "--dim 16 --alpha 8"), (8, 4, "--dim 8 --alpha 4")])
def test_rank_and_alpha_must_be_the_runs(rank: int, alpha: float, words: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=words):
        remarks(lora(tmp_path / "x.safetensors", rank=rank, alpha=alpha))


def test_alpha_of_each_module_counts(tmp_path: Path) -> None:
    """The first is as the run's; upstream scales all by the run's own."""
    path = lora(tmp_path / "x.safetensors", modules={"blocks.0.ffn.0": (4, 4), **OTHER_MODULE})
    content = bytearray(path.read_bytes())
    content[-4:] = b"\0\0\x80\x3f"  # the last tensor is an alpha; 1.0
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="alphas 1, 8"):
        remarks(path)


@pytest.mark.parametrize(
    ("metadata", "noun"),
    [
        (("t2v-vanilla", "high"), "wanwrap run t2v-vanilla --noise_level high"),
        (("t2v-lightning", "low"), "the low-noise expert of t2v-lightning"),
        (("wan21-t2v-14b", "dit"), r"wanwrap run wan21-t2v-14b\."),
        ("875,1000", "--noise_level high"),
        ("900,1000", "--noise_level high"),
    ],
)
def test_another_expert_or_preset_is_refused_by_name(
    metadata: str | tuple[str, str], noun: str, tmp_path: Path
) -> None:
    kept = {provenance.WINDOW: metadata} if isinstance(metadata, str) else {provenance.KEY: text(*metadata)}
    with pytest.raises(WeightsError, match=noun):
        remarks(lora(tmp_path / "x.safetensors", metadata=kept))


def test_the_same_expert_passes_with_and_without_a_record(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    records: list[dict[str, str]] = [{provenance.KEY: text("t2v-vanilla", "low")}, {provenance.KEY: "None"}, {}]
    for kept in (*records, *({provenance.WINDOW: window} for window in ("x", "0,875", "0,900"))):
        assert remarks(lora(path, metadata=kept))
    lora(path, metadata={provenance.WINDOW: "800,1000"})
    assert remarks(path, min_timestep=800, max_timestep=1000)  # the user's own window


def test_each_tensor_must_be_one_of_the_networks(tmp_path: Path) -> None:
    """As probe.py compares them with the network that upstream has built."""
    path = lora(tmp_path / "x.safetensors", modules={"a": (4, 6)})
    tensors = {"lora_unet_a.lora_down.weight": (8, 6), "lora_unet_a.lora_up.weight": (4, 8), "lora_unet_a.alpha": ()}
    probe.compare(path, tensors)
    for network, words in (
        ({**tensors, "lora_unet_b.lora_up.weight": (4, 8)}, "lacks lora_unet_b.lora_up.weight"),
        ({name: shape for name, shape in tensors.items() if "up" not in name}, "holds lora_unet_a.lora_up.weight"),
        ({**tensors, "lora_unet_a.lora_down.weight": (8, 5)}, "is [8, 6], and must be [8, 5]"),
    ):
        with pytest.raises(probe.Problem, match=re.escape(words)):
            probe.compare(path, network)


def test_alphas_may_be_lacking_all_together(tmp_path: Path) -> None:
    path = lora(tmp_path / "x.safetensors", modules={"a": (4, 4)})
    rows = {name: (row["dtype"], row["shape"]) for name, row in read_header(path).items()}
    del rows["lora_unet_a.alpha"]
    probe.compare(safetensors(path, rows), {**{name: tuple(shape) for name, (_, shape) in rows.items()}, "a.alpha": ()})


def arguments(cats: Path, weights: list[str], *more: object) -> tuple[object, ...]:
    return ("run", "t2v-vanilla", cats, *weights, "--noise_level", "low", "--dim", 8, *more)


def test_refused_before_anything_starts(tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path) -> None:
    mine = lora(tmp_path / "a.safetensors", metadata={provenance.KEY: text("t2v-vanilla", "high")})
    for path in (mine, lora(tmp_path / "b.safetensors", key="diffusion_model.{}".format), cats / "images" / "one.png"):
        done = wanwrap(*arguments(cats, weights, "--resume_from", path, "--dry_run"))
        assert done.returncode == 5 and path.name in done.stderr, done.stderr
    other = lora(tmp_path / "c.safetensors", modules=OTHER_MODULE)  # the training Python finds out
    done = wanwrap(*arguments(cats, weights, "--resume_from", other))
    assert done.returncode == 5 and "lora_unet_blocks_1_cross_attn_k" in done.stderr, done.stderr
    assert not (tmp_path / "record.jsonl").exists()


def test_it_reaches_upstream(tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path) -> None:
    path = lora(tmp_path / "old.safetensors")
    done = wanwrap(*arguments(cats, weights, "--resume_from", path))
    assert done.returncode == 0, done.stderr
    argv = record(tmp_path)[-1]["argv"]
    assert argv[argv.index("--network_weights") + 1] == str(path)


def test_checkpoints_are_told_and_never_taken(tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path) -> None:
    mine = lora(tmp_path / "home" / "local_training" / "resume_checkpoints" / "mine.safetensors")
    done = wanwrap(*arguments(cats, weights))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(f"{mine.parent}") == 1 and "--resume_from" in done.stderr
    assert not any("--network_weights" in call["argv"] for call in record(tmp_path))
