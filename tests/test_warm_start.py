"""`--resume_from` and resume_checkpoints: only a file of which upstream loads every tensor, of the same expert."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import Wanwrap, golden_plan, lora, record
from wanwrap.plan.resume_checkpoints import offers
from weightfiles import STRUCTURES, rows, sparse

from wanwrap.errors import OptionError, WeightsError
from wanwrap.plan import warm_start
from wanwrap.plan.plan import Plan
from wanwrap.preset import load, shipped
from wanwrap.system.safetensors import open_source
from wanwrap.upstream import network
from wanwrap.upstream.options import Options
from wanwrap.weights import provenance

LORA: Options = {"network_module": "musubi_tuner.networks.lora_wan", "network_dim": 8}
SMALL = {"t2v-A14B": "t2v-14B"}  # one structure


def plan_for(preset: str = "t2v-vanilla", **given: Any) -> Plan:
    """A plan that trains on a model that is not there: the published one is taken."""
    level = None if load(preset).experts[0].noise_level is None else "low"
    return golden_plan(preset, noise_level=level, given={"network_dim": 8, "network_alpha": 8, **given})  # type: ignore[arg-type]


def checked(path: Path, preset: str = "t2v-vanilla", **given: Any) -> list[str]:
    return warm_start.remarks(plan_for(preset, network_weights=str(path), **given))


def made(path: Path, preset: str = "t2v-vanilla", **more: Any) -> Path:
    """A LoRA of all modules of a preset's model; the tensors of one block are as large as they are."""
    return lora(path, modules=network.declared(load(preset)), **more)


def text(preset: str, expert: str | None) -> str:
    """The record of another plan."""
    plan = golden_plan(preset)
    step = next(step for step in plan.trainings if warm_start.level(step) == expert)
    return step.argv[step.argv.index("--training_comment") + 1]


@pytest.mark.parametrize("name", shipped())
def test_the_declared_matrices_are_those_of_the_published_model(name: str, tmp_path: Path) -> None:
    preset = load(name)
    dit = sparse(tmp_path / "dit.safetensors", rows(SMALL.get(preset.task, preset.task)))
    assert network.declared(preset) == network.found(open_source(dit))
    assert len(network.declared(preset)) == {"t2v-1.3B": 300, "i2v-14B": 480}.get(preset.task, 400)
    assert STRUCTURES


def test_the_networks_of_upstream() -> None:
    matrices = network.declared(load("wan21-t2v-1.3b"))
    plain = network.tensors(matrices, LORA)
    assert plain and len(plain) == 900
    assert plain["lora_unet_blocks_29_ffn_0.lora_up.weight"] == (8960, 8)
    some = network.tensors(matrices, {**LORA, "network_args": ("exclude_patterns=['.*ffn.*']",)})
    assert some and len(some) == 720 and not any("ffn" in key for key in some)
    both = ("exclude_patterns=['.*']", r"include_patterns=['.*self_attn\.[qk]']")
    assert len(network.tensors(matrices, {**LORA, "network_args": both}) or ()) == 180
    loha = network.tensors(matrices, {**LORA, "network_module": "networks.loha"})
    assert loha and loha["lora_unet_blocks_0_ffn_0.hada_w2_b"] == (8, 1536) and len(loha) == 1500
    lokr = network.tensors(matrices, {**LORA, "network_module": "networks.lokr"})
    assert lokr and lokr["lora_unet_blocks_0_ffn_0.lokr_w1"] == (80, 32)  # 8960 = 80 * 112, 1536 = 32 * 48
    whole = network.tensors(matrices, {**LORA, "network_module": "networks.lokr", "network_dim": 64})
    assert whole and whole["lora_unet_blocks_0_ffn_0.lokr_w2"] == (112, 48)
    assert network.tensors(matrices, {**LORA, "network_module": "lycoris.kohya"}) is None
    with pytest.raises(OptionError, match="is no list of patterns"):
        network.tensors(matrices, {**LORA, "network_args": ("exclude_patterns=ffn",)})


def test_a_whole_file_is_taken_and_its_price_said(tmp_path: Path) -> None:
    said = checked(made(tmp_path / "old.safetensors", "wan21-t2v-1.3b"), "wan21-t2v-1.3b")
    assert len(said) == 1 and "optimizer's moments" in said[0] and "full --lr 8e-05" in said[0]
    assert "give its command again" in said[0]


def peft(name: str) -> str:
    return f"base_model.model.{name}"


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("diffusion_model.{}".format, "ComfyUI's key names (diffusion_model.blocks"),
        ("transformer.{}".format, "diffusers' key names"),
    ],
)
def test_another_format_comes_with_the_command_that_converts(
    key: Callable[[str], str], words: str, tmp_path: Path
) -> None:
    path = lora(tmp_path / "it's.safetensors", key=key)
    with pytest.raises(WeightsError) as caught:
        checked(path)
    message = str(caught.value)
    assert words in message and "train from scratch" in message
    command = shlex.split(message.partition("convert it first: ")[2])
    assert command[:5] == ["cd", "/musubi-tuner/src;", "python", "-m", "musubi_tuner.convert_lora"]
    out = str(path.with_name("it's-musubi.safetensors"))
    assert command[5:] == ["--input", str(path), "--output", out, "--target", "default"]


def test_what_upstreams_converter_cant_read_is_not_sent_there(tmp_path: Path) -> None:
    for name in ("base_model.model.{}", "blocks.{}"):
        path = lora(tmp_path / "x.safetensors", key=name.format)
        with pytest.raises(WeightsError, match="give a LoRA in upstream's key names") as caught:
            checked(path)
        assert "convert_lora" not in str(caught.value)


def test_each_tensor_must_be_one_of_the_networks(tmp_path: Path) -> None:
    preset = "wan21-t2v-1.3b"
    matrices = network.declared(load(preset))
    less = {name: size for name, size in matrices.items() if "ffn.2" not in name}
    path = lora(tmp_path / "less.safetensors", modules=less)
    with pytest.raises(WeightsError, match=r"it lacks blocks_\*_ffn_2 \(30\)\. Upstream"):
        checked(path, preset)
    assert checked(path, preset, network_args=("exclude_patterns=['.*ffn.2']",))
    more = lora(tmp_path / "more.safetensors", modules={**matrices, "head.head": (64, 1536)})
    with pytest.raises(WeightsError, match=r"it holds head_head\. "):
        checked(more, preset)
    wide = lora(tmp_path / "wide.safetensors", modules={**matrices, "blocks.3.ffn.0": (8960, 1535)})
    with pytest.raises(WeightsError, match=r"blocks_3_ffn_0.lora_down.weight is \[8, 1535\], and must be \[8, 1536\]"):
        checked(wide, preset)
    with pytest.raises(WeightsError, match=r"lacks .*blocks_\*_self_attn_q"):
        checked(made(tmp_path / "small.safetensors", preset))  # of 1.3B, into 14B


def test_image_keys_are_missed(tmp_path: Path) -> None:
    """A LoRA of T2V, or of Wan 2.2, for Wan 2.1 I2V: upstream would leave its image matrices untrained, and say nothing."""
    matrices = network.declared(load("wan21-i2v-480p"))
    source = sparse(
        tmp_path / "t2v.safetensors",
        {
            key: ("F32", list(shape))
            for key, shape in (network.tensors(matrices, LORA) or {}).items()
            if "_img" not in key
        },
    )
    wanted = network.tensors(matrices, LORA)
    assert wanted and len(wanted) == 3 * 480
    with pytest.raises(
        WeightsError, match=r"lacks blocks_\*_cross_attn_k_img \(40\), blocks_\*_cross_attn_v_img \(40\)\. "
    ):
        warm_start._check_tensors(open_source(source), wanted)


@pytest.mark.parametrize(
    ("rank", "alpha", "words"),
    [(16, 8, "Give --dim 16 --alpha 8"), (8, 4, "rank 8 and alpha 4; the run has 8 and 8. Give --dim 8 --alpha 4")],
)
def test_rank_and_alpha_must_be_the_runs(rank: int, alpha: float, words: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=words):
        checked(lora(tmp_path / "x.safetensors", rank=rank, alpha=alpha))


def test_alpha_of_each_module_counts(tmp_path: Path) -> None:
    """The first is as the run's; upstream scales all by the run's own."""
    preset = "wan21-t2v-1.3b"
    path = made(tmp_path / "x.safetensors", preset)
    content = bytearray(path.read_bytes())
    content[-4:] = b"\0\0\x80\x3f"  # the last tensor is an alpha; 1.0
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="alphas 1 to 8"):
        checked(path, preset)


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        (("t2v-vanilla", "high"), "trained as the high-noise expert of t2v-vanilla, and this run trains the low-noise expert of t2v-vanilla; .*wanwrap run t2v-vanilla --noise_level high"),
        (("t2v-lightning", "low"), "the low-noise expert of t2v-lightning, and this run trains the low-noise expert of t2v-vanilla"),
        (("wan21-t2v-14b", None), "trained as wan21-t2v-14b, .*: wanwrap run wan21-t2v-14b\\."),
        ("875,1000", "timesteps 875 to 1000, as the high-noise expert is, and this run trains the low-noise"),
        ("900,1000", "timesteps 900 to 1000, as the high-noise expert is"),
    ],
)  # fmt: skip
def test_another_expert_or_preset_is_refused_by_name(
    metadata: str | tuple[str, str | None], words: str, tmp_path: Path
) -> None:
    kept = {provenance.WINDOW: metadata} if isinstance(metadata, str) else {provenance.KEY: text(*metadata)}
    with pytest.raises(WeightsError, match=words):
        checked(lora(tmp_path / "x.safetensors", metadata=kept))


def test_the_same_expert_passes_with_and_without_a_record(tmp_path: Path) -> None:
    preset = "wan21-t2v-1.3b"
    for kept in ({provenance.KEY: text(preset, None)}, {provenance.KEY: "None"}, {provenance.WINDOW: "x"}, {}):
        assert checked(made(tmp_path / "x.safetensors", preset, metadata=kept), preset)
    step = plan_for().trainings[0]
    for window in ("0,875", "0,900"):
        warm_start._check_same(plan_for(), step, Path("x"), {provenance.WINDOW: window})
    own = plan_for(min_timestep=800, max_timestep=1000)  # the user's own window
    warm_start._check_same(own, own.trainings[0], Path("x"), {provenance.WINDOW: "800,1000"})


def test_a_network_that_nobody_knows_is_said(tmp_path: Path) -> None:
    plan = plan_for("wan21-t2v-1.3b", network_weights=str(lora(tmp_path / "x.safetensors")))
    (step,) = plan.trainings
    assert step.recipe
    options = {**step.recipe.options, "network_module": "lycoris.kohya"}
    other = replace(plan, steps=(replace(step, recipe=replace(step.recipe, options=options)),))
    assert "can't be checked" in warm_start.remarks(other)[1]


def arguments(cats: Path, weights: list[str], *more: object) -> tuple[object, ...]:
    return ("run", "t2v-vanilla", "--dataset", cats, *weights, "--noise_level", "low", "--dim", 8, *more)


def test_refused_before_anything_starts(tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path) -> None:
    """Through the command, on the DiT that is there: a toy of one matrix."""
    for path, words in (
        (lora(tmp_path / "a.safetensors", metadata={provenance.KEY: text("t2v-vanilla", "high")}), "high-noise expert"),
        (
            lora(tmp_path / "b.safetensors", modules={"blocks.1.cross_attn.k": (4, 4)}),
            "it lacks blocks_*_cross_attn_k, and holds blocks_*_cross_attn_k",
        ),
        (lora(tmp_path / "c.safetensors", key="diffusion_model.{}".format), "convert it first"),
        (cats / "images" / "one.png", "is not a safetensors file"),
    ):
        for how in ([], ["--dry_run"]):
            done = wanwrap(*arguments(cats, weights, "--resume_from", path, *how))
            assert done.returncode == 5 and words in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not (tmp_path / "record.jsonl").exists()


def test_checkpoints_are_offered_and_never_taken(
    tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path
) -> None:
    folder = tmp_path / "home" / "local_training" / "resume_checkpoints"
    mine = {provenance.KEY: text("t2v-vanilla", "low"), "ss_epoch": "20"}
    lora(folder / "mine.safetensors", metadata=mine)
    lora(folder / "wider.safetensors", rank=4, alpha=2, metadata=mine)
    lora(folder / "the high one.safetensors", metadata={provenance.KEY: text("t2v-vanilla", "high")})
    lora(folder / "unknown.safetensors", metadata={provenance.WINDOW: "0,875"})
    lora(folder / "unknown too.safetensors")
    lora(folder / "other rank.safetensors", rank=4, metadata={provenance.WINDOW: "0,875"})
    lora(folder / "comfy.safetensors", key="diffusion_model.{}".format, metadata=mine)
    (folder / "junk.safetensors").write_text("hello")
    (folder / "notes.txt").write_text("hello")
    done = wanwrap(*arguments(cats, weights))
    assert done.returncode == 0, done.stderr
    assert not any("--network_weights" in call["argv"] for call in record(tmp_path))
    said = [line for line in done.stderr.splitlines() if "resume_checkpoints" in line]
    assert len(said) == 4, said
    assert said[0].startswith("note: mine.safetensors in resume_checkpoints belongs to this run (the low-noise expert")
    assert said[0].endswith(f"--resume_from {folder / 'mine.safetensors'} --noise_level low")
    assert "unknown.safetensors" in said[1] and "may belong to the low-noise expert of t2v-vanilla" in said[1]
    assert said[2].endswith("wider.safetensors --noise_level low --dim 4 --alpha 2")
    assert said[3] == f"note: 5 other file(s) in {folder} are not for this run."
    for line in (said[0], said[2]):  # what is offered can be had
        words = shlex.split(line.partition("with its weights: ")[2])
        done = wanwrap(*arguments(cats, weights, "--output_name", f"again{len(words)}", *words))
        assert done.returncode == 0, done.stderr
        assert words[1] in record(tmp_path)[-1]["argv"] and "resume_checkpoints belongs" not in done.stderr


def test_a_pair_is_offered_each_its_own(tmp_path: Path) -> None:
    plan = golden_plan("t2v-vanilla")
    folder = tmp_path / "resume_checkpoints"
    assert offers(plan, tmp_path) == []
    folder.mkdir()
    assert offers(plan, tmp_path) == []
    for level in ("high", "low"):
        lora(folder / f"{level}.safetensors", metadata={provenance.KEY: text("t2v-vanilla", level)})
    assert offers(plan, tmp_path) == [f"2 file(s) in {folder} are not for this run."]  # one module of 400


def test_no_record_of_another_kind_breaks_an_offer(tmp_path: Path) -> None:
    strange = json.dumps({"wanwrap": "9", "preset": "t2v-vanilla", "expert": "low", "base": [], "timesteps": ["a"]})
    folder = tmp_path / "resume_checkpoints"
    lora(folder / "x.safetensors", metadata={provenance.KEY: strange})
    lora(folder / "empty.safetensors", modules={})
    assert len(offers(golden_plan("t2v-vanilla"), tmp_path)) == 1
