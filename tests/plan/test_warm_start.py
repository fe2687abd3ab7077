"""`--resume_from`: only a file of which upstream loads every tensor, of the same expert."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from helpers import Wanwrap, golden_plan, lora, record, safetensors
from platforms import posix_paths

from wanwrap.errors import WeightsError
from wanwrap.plan import warm_start
from wanwrap.preset import load
from wanwrap.system.safetensors import read_header
from wanwrap.upstream import probe
from wanwrap.weights import provenance

OTHER_MODULE = {"blocks.1.cross_attn.k": (4, 4)}


def remarks(path: Path, preset: str = "t2v-vanilla", **given: Any) -> list[str]:
    """Of a training, of the low expert, on a model that is not there: the published one is taken."""
    level: Any = None if load(preset).experts[0].noise_level is None else "low"
    options = {"network_dim": 8, "network_alpha": 8, "network_weights": str(path), **given}
    return warm_start.remarks(golden_plan(preset, noise_level=level, given=options))


def text(preset: str, expert: str) -> str:
    """The record of another plan."""
    (train,) = (train for train in golden_plan(preset).trainings if train.expert == expert)
    return train.argv[train.argv.index("--training_comment") + 1]


@posix_paths
def test_another_format_comes_with_the_command_that_converts(tmp_path: Path) -> None:
    path = lora(tmp_path / "it's.safetensors", key="transformer.{}".format)
    with pytest.raises(WeightsError, match=r"transformer\.blocks") as caught:
        remarks(path)
    command = shlex.split(str(caught.value).partition("cd ")[2].replace("\\\n", ""))
    assert command[:4] == ["/musubi-tuner/src", "python", "-m", "musubi_tuner.convert_lora"]
    out = str(path.with_name("it's-musubi.safetensors"))
    assert command[4:] == ["--input", str(path), "--output", out, "--target", "default"]


def test_one_key_of_another_format_is_for_the_training_python_to_judge(tmp_path: Path) -> None:
    path = lora(tmp_path / "x.safetensors")
    rows = {name: (row["dtype"], row["shape"]) for name, row in read_header(path).items() if "alpha" not in name}
    assert remarks(safetensors(tmp_path / "y.safetensors", {**rows, "text_encoder.x": ("F32", [1])}))


@pytest.mark.parametrize(("rank", "alpha"), [(16, 8), (8, 4)])
def test_rank_and_alpha_must_be_the_runs(rank: int, alpha: float, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=f"--dim {rank} --alpha {alpha}"):
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
        (("t2v-vanilla", "high"), "t2v-vanilla --noise_level high"),
        (("t2v-lightning", "low"), "t2v-lightning"),
        (("wan21-t2v-14b", "dit"), r"wan21-t2v-14b\."),
        ("875,1000", "--noise_level high"),
    ],
)
def test_another_expert_or_preset_is_refused_by_name(
    metadata: str | tuple[str, str], noun: str, tmp_path: Path
) -> None:
    kept = {provenance.WINDOW: metadata} if isinstance(metadata, str) else {provenance.KEY: text(*metadata)}
    with pytest.raises(WeightsError, match=noun):
        remarks(lora(tmp_path / "x.safetensors", metadata=kept))


def test_the_same_expert_passes_and_its_price_is_said(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    records: list[dict[str, str]] = [{provenance.KEY: text("t2v-vanilla", "low")}, {provenance.KEY: "None"}, {}]
    for kept in (*records, *({provenance.WINDOW: window} for window in ("x", "0,875", "0,900"))):
        (said,) = remarks(lora(path, metadata=kept))
        assert "moments" in said and "--lr 8e-05" in said
    lora(path, metadata={provenance.WINDOW: "800,1000"})
    assert remarks(path, min_timestep=800, max_timestep=1000)  # the user's own window


def test_each_tensor_must_be_one_of_the_networks(tmp_path: Path) -> None:
    """As probe.py compares them with the network that upstream has built."""
    path = lora(tmp_path / "x.safetensors", modules={"a": (4, 6)})
    tensors = {"lora_unet_a.lora_down.weight": (8, 6), "lora_unet_a.lora_up.weight": (4, 8), "lora_unet_a.alpha": ()}
    probe.compare(path, tensors)
    for network, words in (
        ({**tensors, "lora_unet_b.lora_up.weight": (4, 8)}, "lacks lora_unet_b"),
        ({name: shape for name, shape in tensors.items() if "up" not in name}, "holds lora_unet_a.lora_up"),
        ({**tensors, "lora_unet_a.lora_down.weight": (8, 5)}, r"\[8, 6\].*\[8, 5\]"),
    ):
        with pytest.raises(probe.Problem, match=words):
            probe.compare(path, network)
    rows = {name: (row["dtype"], row["shape"]) for name, row in read_header(path).items()}
    del rows["lora_unet_a.alpha"]  # all may be lacking together
    probe.compare(safetensors(path, rows), tensors)


def test_what_is_refused_and_what_reaches_upstream(
    tmp_path: Path, cli: Wanwrap, low: tuple[object, ...], cats: Path
) -> None:
    run = (*low, "--dim", 8, "--epochs", 1)
    mine = lora(tmp_path / "a.safetensors", metadata={provenance.KEY: text("t2v-vanilla", "high")})
    for path in (mine, cats / "images" / "one.png"):
        done = cli(*run, "--resume_from", path, "--dry_run")
        assert done.returncode == 5 and path.name in done.stderr, done.stderr
    other = lora(tmp_path / "c.safetensors", modules=OTHER_MODULE)  # the training Python finds out
    done = cli(*run, "--resume_from", other)
    assert done.returncode == 5 and "lora_unet_blocks_1_cross_attn_k" in done.stderr, done.stderr
    assert not (tmp_path / "record.jsonl").exists()

    there = lora(tmp_path / "home" / "local_training" / "resume_checkpoints" / "mine.safetensors")
    done = cli(*run)  # it is told, and not taken unasked
    assert done.returncode == 0 and done.stderr.count(f"{there.parent}") == 1 and "--resume_from" in done.stderr
    assert not any("--network_weights" in call["argv"] for call in record(tmp_path))
    done = cli(*run, "--resume_from", there, "--output_name", "b")
    assert done.returncode == 0, done.stderr
    argv = record(tmp_path)[-1]["argv"]
    assert argv[argv.index("--network_weights") + 1] == str(there)
    there.rename(
        tmp_path / "mine.safetensors"
    )  # the same file elsewhere goes on, one of another name is another training
    assert cli(*run, "--resume_from", tmp_path / "mine.safetensors", "--output_name", "b").returncode == 0
    (tmp_path / "mine.safetensors").rename(tmp_path / "hers.safetensors")
    assert cli(*run, "--resume_from", tmp_path / "hers.safetensors", "--output_name", "b").returncode == 11
