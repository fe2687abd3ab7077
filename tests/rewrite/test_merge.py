"""Merged files against a plain merge in memory, bit for bit, in every format; and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
from safetensors import safe_open  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from wanwrap.errors import OptionError, WeightsError  # noqa: E402
from wanwrap.rewrite import engine, merge  # noqa: E402
from wanwrap.rewrite.child import carry_out  # noqa: E402
from wanwrap.weights import catalogue  # noqa: E402

Tensors = dict[str, Any]
TYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
DIM, FFN, RANK = 24, 40, 4
MODULES = {"self_attn.q": (DIM, DIM), "cross_attn.k": (DIM, DIM), "ffn.0": (FFN, DIM), "ffn.2": (DIM, FFN)}


def dit(dtype: Any = torch.float16, channels: int = 16) -> Tensors:
    """Two blocks, and tensors outside them, as native names have it."""
    torch.manual_seed(1)
    made: Tensors = {"patch_embedding.weight": torch.randn(DIM, channels, 1, 2, 2), "head.head.bias": torch.randn(7)}
    for block in range(2):
        made[f"blocks.{block}.modulation"] = torch.randn(1, 6, DIM)
        made[f"blocks.{block}.norm3.weight"] = torch.randn(DIM)
        for module, shape in MODULES.items():
            made[f"blocks.{block}.{module}.weight"] = torch.randn(shape)
            made[f"blocks.{block}.{module}.bias"] = torch.randn(shape[0])
    return {name: tensor.to(dtype) for name, tensor in made.items()}


def deltas() -> Iterator[tuple[str, Any, Any]]:
    """(module, up, down) for all matrices of the blocks."""
    torch.manual_seed(2)
    for block in range(2):
        for module, (rows, columns) in MODULES.items():
            yield f"blocks.{block}.{module}", torch.randn(rows, RANK) * 0.1, torch.randn(RANK, columns) * 0.1


def plain(weight: Any, up: Any, down: Any, scale: float, dtype: Any = None) -> Any:
    """The reference: all in fp32, one rounding."""
    change = (up.float().flatten(1) @ down.float().flatten(1)) * scale
    return (weight.float() + change.reshape(weight.shape)).to(dtype or weight.dtype)


def lora(naming: str, dtype: Any = torch.float32, alpha: Any = None) -> Tensors:
    """A LoRA for all matrices, its keys as one of the trainers writes them."""
    made: Tensors = {}
    for module, up, down in deltas():
        name = naming.format(module if "lora_unet" not in naming else module.replace(".", "_"))
        kind = ("lora_A", "lora_B") if "lora_A" in naming else ("lora_down", "lora_up")
        name, _, infix = name.partition("|")
        made[f"{name}.{kind[0]}{infix.replace('lora_A', '')}.weight"] = down.to(dtype)
        made[f"{name}.{kind[1]}{infix.replace('lora_A', '')}.weight"] = up.to(dtype)
        if alpha is not None:
            made[f"{name}.alpha"] = alpha.clone()
    return {name: tensor.contiguous() for name, tensor in made.items()}


def merged(tmp_path: Path, weights: Tensors, delta: Tensors, **wish: Any) -> Tensors:
    """What wanwrap makes of them, read by safetensors' own library."""
    save_file(weights, tmp_path / "dit.safetensors")
    save_file(delta, tmp_path / "lora.safetensors")
    out = tmp_path / "out.safetensors"
    carry_out("merge", str(out), dit=str(tmp_path / "dit.safetensors"), lora=str(tmp_path / "lora.safetensors"), **wish)
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out.safetensors"]
    loaded: Tensors = load_file(out)
    return loaded


def equal(found: Tensors, wanted: Tensors) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name].view(torch.uint8), tensor.contiguous().view(torch.uint8)), name


NAMINGS = [
    "diffusion_model.{}",
    "transformer.{}",
    "{}",
    "lora_unet_{}",
    "model.diffusion_model.{}",
    "diffusion_model.{}|lora_A",
    "transformer.{}|lora_A",
    "base_model.model.{}|lora_A.default",
]


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("stored", ["F16", "BF16"])
def test_every_naming(naming: str, stored: str, tmp_path: Path) -> None:
    weights = dit(TYPES[stored])
    found = merged(tmp_path, weights, lora(naming, alpha=torch.tensor(3)))
    for module, up, down in deltas():
        weights[f"{module}.weight"] = plain(weights[f"{module}.weight"], up, down, 3 / RANK)
    equal(found, weights)


@pytest.mark.parametrize("lora_type", TYPES)
@pytest.mark.parametrize("stored", TYPES)
@pytest.mark.parametrize("precision", [None, "fp16", "bf16"])
def test_every_type(lora_type: str, stored: str, precision: str | None, tmp_path: Path) -> None:
    """A type that is asked for is reached with one rounding, not two."""
    weights, delta = dit(TYPES[stored]), lora("diffusion_model.{}", TYPES[lora_type], torch.tensor(8))
    found = merged(tmp_path, weights, delta, strength=0.7, precision=precision)
    wanted = {"fp16": torch.float16, "bf16": torch.bfloat16, None: TYPES[stored]}[precision]
    result = {name: tensor.to(wanted) for name, tensor in weights.items()}
    for module, _, _ in deltas():
        up, down = (delta[f"diffusion_model.{module}.lora_{part}.weight"] for part in ("up", "down"))
        result[f"{module}.weight"] = plain(weights[f"{module}.weight"], up, down, 0.7 * 8 / RANK, wanted)
    equal(found, result)


@pytest.mark.parametrize(
    ("alpha", "value"),
    [
        (None, RANK),
        (torch.tensor(8), 8),
        (torch.tensor([8], dtype=torch.int32), 8),
        (torch.tensor(1.5), 1.5),
        (torch.tensor(1.5, dtype=torch.float16), 1.5),
        (torch.tensor(1.5, dtype=torch.bfloat16), 1.5),
        (torch.tensor(2.5, dtype=torch.float64), 2.5),
    ],
)
def test_every_alpha(alpha: Any, value: float, tmp_path: Path) -> None:
    weights = dit()
    found = merged(tmp_path, weights, lora("diffusion_model.{}", alpha=alpha))
    for module, up, down in deltas():
        weights[f"{module}.weight"] = plain(weights[f"{module}.weight"], up, down, value / RANK)
    equal(found, weights)


def test_differences_of_weights_biases_and_modulations(tmp_path: Path) -> None:
    """As in lightx2v's LoRAs for Wan 2.1; beside a low-rank change of the same weight too."""
    weights = dit(torch.bfloat16)
    full = {
        "blocks.0.norm3.diff": ("blocks.0.norm3.weight", torch.randn(DIM)),
        "blocks.0.ffn.0.diff_b": ("blocks.0.ffn.0.bias", torch.randn(FFN)),
        "blocks.1.diff_m": ("blocks.1.modulation", torch.randn(1, 6, DIM)),
        "blocks.1.ffn.2.diff": ("blocks.1.ffn.2.weight", torch.randn(DIM, FFN)),
        "patch_embedding.diff": ("patch_embedding.weight", torch.randn(DIM, 16, 1, 2, 2)),
    }
    delta = {f"diffusion_model.{key}": change.bfloat16() for key, (_, change) in full.items()}
    module, up, down = list(deltas())[-1]
    delta |= {f"diffusion_model.{module}.lora_up.weight": up, f"diffusion_model.{module}.lora_down.weight": down}
    found = merged(tmp_path, weights, delta, strength=0.3)
    assert module == "blocks.1.ffn.2"
    for name, change in full.values():
        total = weights[name].float()
        if name == f"{module}.weight":
            total = total + (up @ down) * 0.3
        weights[name] = (total + change.bfloat16().float() * 0.3).bfloat16()
    equal(found, weights)


def test_a_convolution(tmp_path: Path) -> None:
    weights = dit()
    up, down = torch.randn(DIM, 3, 1, 1, 1), torch.randn(3, 16, 1, 2, 2)
    name = "diffusion_model.patch_embedding"
    found = merged(tmp_path, weights, {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down})
    weights["patch_embedding.weight"] = plain(weights["patch_embedding.weight"], up, down, 1.0)
    equal(found, weights)


def test_a_prefixed_dit_comes_out_in_native_names(tmp_path: Path) -> None:
    """Upstream's own merge at inference passes over prefixed names without a word."""
    weights = dit(torch.bfloat16)
    found = merged(tmp_path, {f"model.diffusion_model.{n}": t for n, t in weights.items()}, lora("lora_unet_{}"))
    for module, up, down in deltas():
        weights[f"{module}.weight"] = plain(weights[f"{module}.weight"], up, down, 1.0)
    equal(found, weights)


def test_what_no_lora_touches_is_copied_byte_for_byte(tmp_path: Path) -> None:
    """Negative zeros and subnormals too; and F32 among F16 stays F32."""
    weights = dit()
    weights["head.head.bias"] = torch.tensor([-0.0, 1e-7, 0.0, 65504.0], dtype=torch.float16)
    weights["patch_embedding.weight"] = torch.full((DIM, 16, 1, 2, 2), 1e-40)
    found = merged(tmp_path, weights, lora("diffusion_model.{}"))
    for name in ("head.head.bias", "patch_embedding.weight"):
        equal({name: found[name]}, {name: weights[name]})


@given(
    rows=st.integers(1, 70),
    columns=st.integers(1, 70),
    rank=st.integers(1, 9),
    strength=st.floats(-2, 2).filter(lambda x: abs(x) > 1e-3),
    stored=st.sampled_from(["F16", "BF16"]),
    seed=st.integers(0, 2**31),
)
def test_any_shape(
    rows: int, columns: int, rank: int, strength: float, stored: str, seed: int, tmp_path_factory: Any
) -> None:
    torch.manual_seed(seed)
    weights = {"blocks.0.cross_attn.k.weight": torch.randn(rows, columns).to(TYPES[stored])}
    up, down = torch.randn(rows, rank), torch.randn(rank, columns)
    name = "diffusion_model.blocks.0.cross_attn.k"
    delta = {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down, f"{name}.alpha": torch.tensor(2.0)}
    found = merged(tmp_path_factory.mktemp("any"), weights, delta, strength=strength)
    equal(found, {k: plain(w, up, down, strength * 2.0 / rank) for k, w in weights.items()})


def test_in_pieces_as_in_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight of many chunks equals the product of the whole; pieces of very few rows would not."""
    monkeypatch.setattr(engine, "CHUNK", 64 << 10)
    torch.manual_seed(3)
    shape, name = (1027, 512), "diffusion_model.blocks.0.cross_attn.k"
    weights = {"blocks.0.cross_attn.k.weight": torch.randn(shape).half(), "x": torch.randn(200_003).half()}
    up, down = torch.randn(shape[0], 64), torch.randn(64, shape[1])
    found = merged(tmp_path, weights, {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down})
    equal(found, {**weights, (key := "blocks.0.cross_attn.k.weight"): plain(weights[key], up, down, 1.0)})


def test_tensors_without_numbers(tmp_path: Path) -> None:
    weights = {**dit(), "empty": torch.ones(3, 0).half(), "nothing": torch.ones(0).half()}
    module = "diffusion_model.blocks.0.ffn.2"
    delta = {f"{module}.lora_up.weight": torch.ones(DIM, 1), f"{module}.lora_down.weight": torch.ones(1, FFN)}
    found = merged(tmp_path, weights, delta)
    assert found["empty"].shape == (3, 0) and found["nothing"].shape == (0,)


def test_a_set_of_shards(tmp_path: Path) -> None:
    weights = dit()
    names = sorted(weights)
    for number, part in enumerate((names[:9], names[9:14], names[14:]), 1):
        save_file({name: weights[name] for name in part}, tmp_path / f"dit-0000{number}-of-00003.safetensors")
    save_file(lora("diffusion_model.{}"), tmp_path / "lora.safetensors")
    out, lora_file = tmp_path / "out.safetensors", str(tmp_path / "lora.safetensors")
    carry_out("merge", str(out), dit=str(tmp_path / "dit-00001-of-00003.safetensors"), lora=lora_file)
    for module, up, down in deltas():
        weights[f"{module}.weight"] = plain(weights[f"{module}.weight"], up, down, 1.0)
    equal(load_file(out), weights)
    (tmp_path / "dit-00002-of-00003.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"no file .*00002-of-00003.safetensors; all shards are needed"):
        merge.job(dit=tmp_path / "dit-00001-of-00003.safetensors", lora=tmp_path / "lora.safetensors")


def test_the_record_in_the_file(tmp_path: Path) -> None:
    save_file(dit(), tmp_path / "dit.safetensors", {"author": "somebody"})
    weights = load_file(tmp_path / "dit.safetensors")
    merged(tmp_path, weights, lora("diffusion_model.{}"), strength=0.5)
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        record = json.loads(file.metadata()["wanwrap"])
    assert (record["made"], record["strength"], record["left"]) == ("merge", 0.5, "")
    source = tmp_path / "dit.safetensors"
    assert record["from"] == [
        {"name": source.name, "bytes": source.stat().st_size, "mtime_ns": source.stat().st_mtime_ns}
    ]
    assert len(record["lora"]["sha256"]) == 64 and set(record["lora"]["sha256"]) != {"0"}


def test_large_differences_take_no_more_memory(tmp_path: Path) -> None:
    """A piece of each is read, as of the DiT."""
    weights = {
        "blocks.0.cross_attn.k.weight": torch.ones(8192, 8192).half(),
        **{f"x{n}.weight": torch.ones(8192, 8192).half() for n in range(2)},
    }
    save_file(weights, tmp_path / "dit.safetensors")
    save_file({f"x{n}.diff": torch.ones(8192, 8192) for n in range(2)}, tmp_path / "lora.safetensors")
    order = {name: str(tmp_path / f"{name}.safetensors") for name in ("dit", "lora", "out")} | {"verb": "merge"}
    code = (
        "import re, runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__'); "
        "print(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1])"
    )
    argv = [sys.executable, "-c", code, str(ROOT / "wanwrap" / "rewrite" / "child.py"), json.dumps(order)]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) < 700_000, "KiB; of them torch takes 220,000"
    assert float(load_file(tmp_path / "out.safetensors")["x1.weight"].float().mean()) == 2.0


def refused(tmp_path: Path, match: str, weights: Tensors, delta: Tensors, **wish: Any) -> None:
    with pytest.raises(WeightsError, match=match):
        merged(tmp_path, weights, delta, **wish)
    assert not list(tmp_path.glob("out*"))


def test_a_lora_of_another_model(tmp_path: Path) -> None:
    delta = lora("diffusion_model.{}")
    delta["diffusion_model.blocks.0.ffn.0.lora_up.weight"] = torch.randn(FFN + 1, RANK)
    refused(
        tmp_path, rf"it changes blocks.0.ffn.0.weight by \[{FFN + 1}, {DIM}\], .* is \[{FFN}, {DIM}\]", dit(), delta
    )
    refused(tmp_path, "changes no tensor of this DiT", dit(), {"unet.a.lora_up.weight": torch.ones(1, 1), "unet.a.lora_down.weight": torch.ones(1, 1)})  # fmt: skip
    refused(tmp_path, "don't fit", dit(), {"blocks.0.ffn.0.lora_up.weight": torch.ones(4, 3), "blocks.0.ffn.0.lora_down.weight": torch.ones(2, 4)})  # fmt: skip


def test_every_key_is_merged_or_none(tmp_path: Path) -> None:
    """What an I2V LoRA of Wan 2.1 has, and Wan 2.2 has not."""
    weights, delta = dit(), lora("diffusion_model.{}")
    for block in range(2):
        name = f"diffusion_model.blocks.{block}.cross_attn.k_img"
        delta |= {f"{name}.lora_up.weight": torch.ones(DIM, 2), f"{name}.lora_down.weight": torch.ones(2, DIM)}
    grouped = r"diffusion_model.blocks.\*.cross_attn.k_img.lora_down.weight \(2\)"
    refused(tmp_path, f"no tensors for 4 of .* 20 keys: {grouped}.*--allow_partial", weights, delta)
    found = merged(tmp_path, weights, delta, allow_partial=True)
    for module, up, down in deltas():
        weights[f"{module}.weight"] = plain(weights[f"{module}.weight"], up, down, 1.0)
    equal(found, weights)


@pytest.mark.parametrize("key", ["dora_scale", "lora_mid.weight", "hada_w1_a", "lora_B.bias", "lora_up"])
def test_parts_that_cant_be_merged_are_never_dropped(key: str, tmp_path: Path) -> None:
    delta = {**lora("diffusion_model.{}"), f"diffusion_model.blocks.0.ffn.0.{key}": torch.ones(2, 2)}
    refused(tmp_path, f"can't merge: diffusion_model.blocks.*{key}", dit(), delta, allow_partial=True)


def test_half_a_pair(tmp_path: Path) -> None:
    delta = lora("diffusion_model.{}", alpha=torch.tensor(8))
    del delta["diffusion_model.blocks.1.ffn.2.lora_up.weight"]
    refused(tmp_path, r"can't merge: .*ffn.2.lora_down.weight, .*ffn.2.alpha", dit(), delta)


def test_two_changes_of_one_tensor(tmp_path: Path) -> None:
    refused(tmp_path, "for one tensor", dit(), {**lora("diffusion_model.{}"), **lora("transformer.{}")})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity(value: float, tmp_path: Path) -> None:
    for name in ("blocks.1.ffn.0.weight", "head.head.bias"):  # merged and copied
        for stored in TYPES.values():
            weights = dit(stored)
            weights[name].view(-1)[-1] = value
            refused(tmp_path, f"dit.safetensors: {name} holds NaN or infinity", weights, lora("diffusion_model.{}"))
    delta = lora("diffusion_model.{}")
    delta[(name := "diffusion_model.blocks.1.ffn.0.lora_up.weight")][0, 0] = value
    refused(tmp_path, f"lora.safetensors holds NaN or infinity in {name}", dit(), delta)
    refused(tmp_path, "does not fit into BF16.*take less --strength", dit(torch.bfloat16), lora("{}"), strength=1e39)
    refused(tmp_path, r"alpha is (nan|-?inf), so nothing", dit(), lora("{}", alpha=torch.tensor(value)))


def test_numbers_too_large_for_fp16(tmp_path: Path) -> None:
    weights = dit(torch.bfloat16)
    weights["head.head.bias"][0] = 70000.0
    refused(
        tmp_path, "head.head.bias does not fit into F16.*take --precision bf16", weights, lora("{}"), precision="fp16"
    )
    weights = dit()
    weights["blocks.0.ffn.0.weight"][:] = 65504.0
    refused(tmp_path, "blocks.0.ffn.0.weight does not fit into F16.*take --precision bf16", weights, lora("{}"), strength=1000.0)  # fmt: skip


def test_fp8_and_what_is_no_dit(tmp_path: Path) -> None:
    weights = dit()
    for name in weights:
        if name.endswith("k.weight"):
            weights[name] = weights[name].to(torch.float8_e4m3fn)
    refused(tmp_path, "F8_E4M3; .* fp8 keeps 3 bits.*rounded away", weights, lora("{}"))
    mixed = dit()
    mixed["blocks.1.ffn.0.weight"] = mixed["blocks.1.ffn.0.weight"].to(torch.float8_e4m3fn)  # upstream looks at one
    refused(tmp_path, "stores blocks.1.ffn.0.weight as F8_E4M3", mixed, lora("{}"))
    refused(tmp_path, "lora.safetensors stores .* as F8_E4M3", dit(), lora("{}", torch.float8_e4m3fn))
    refused(tmp_path, "no Wan DiT", {"x": torch.ones(2)}, lora("{}"))
    refused(tmp_path, "is a LoRA, no DiT", lora("{}"), lora("{}"))
    refused(tmp_path, "more than a DiT .vae.x.", {**{f"model.diffusion_model.{n}": t for n, t in dit().items()}, "vae.x": torch.ones(1)}, lora("{}"))  # fmt: skip


@pytest.mark.parametrize("strength", [0.0, float("nan"), float("inf")])
def test_a_strength_that_merges_nothing(strength: float, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="merges nothing"):
        merge.job(dit=tmp_path / "a", lora=tmp_path / "b", strength=strength)


def test_the_other_experts_lora_is_refused_by_name(tmp_path: Path) -> None:
    save_file(dit(), tmp_path / "wan2.2_t2v_low_noise_14B_fp16.safetensors")
    save_file(lora("{}"), tmp_path / "Wan2.2-Lightning_T2V-HIGH_fp16.safetensors")
    with pytest.raises(WeightsError, match=r"HIGH_fp16.safetensors is for high and .* is for low"):
        merge.job(
            dit=tmp_path / "wan2.2_t2v_low_noise_14B_fp16.safetensors",
            lora=tmp_path / "Wan2.2-Lightning_T2V-HIGH_fp16.safetensors",
        )


def test_what_was_cast_is_still_of_its_expert(tmp_path: Path) -> None:
    save_file(dit(), tmp_path / "wan2.2_t2v_low_noise_14B_fp16.safetensors")
    save_file(lora("{}"), tmp_path / "lightning_high.safetensors")
    mine = tmp_path / "mine.safetensors"
    carry_out("convert", str(mine), file=str(tmp_path / "wan2.2_t2v_low_noise_14B_fp16.safetensors"), precision="bf16")
    with pytest.raises(WeightsError, match=r"high.safetensors is for high and .*mine.safetensors is for low"):
        merge.job(dit=mine, lora=tmp_path / "lightning_high.safetensors")
    save_file(lora("{}"), tmp_path / "style_high.safetensors")
    merged_once = tmp_path / "once.safetensors"
    save_file(dit(), tmp_path / "plain.safetensors")
    style = str(tmp_path / "style_high.safetensors")
    carry_out("merge", str(merged_once), dit=str(tmp_path / "plain.safetensors"), lora=style)
    save_file(lora("{}", torch.bfloat16), tmp_path / "other_low.safetensors")
    merge.job(dit=merged_once, lora=tmp_path / "other_low.safetensors")  # a LoRA's name says nothing of the DiT


def published(monkeypatch: pytest.MonkeyPatch, name: str, path: Path) -> None:
    """Let the catalogue say that this file is `name`."""
    from wanwrap.system.safetensors import sha256

    old = catalogue.CATALOGUE[name]
    row = catalogue.Weight(old.role, old.repo, None, old.path, "fp16", path.stat().st_size, sha256(path))
    monkeypatch.setitem(catalogue.CATALOGUE, name, row)


@pytest.mark.parametrize(
    ("lora_is", "dit_is", "channels", "words"),
    [
        ("lightning-t2v-v1.1-high", "wan2.2-t2v-low", 16, "is for high and .* is for low"),
        ("lightning-i2v-v1-high", "wan2.2-i2v-low", 36, "is for high and .* is for low"),
        ("lightning-i2v-v1-low", "wan2.2-t2v-low", 16, "is for i2v and .* is for t2v"),
        ("lightning-t2v-v2.0-low", None, 36, "is for t2v and .* is for i2v"),
    ],
)
def test_published_files_are_told_by_their_content(
    lora_is: str, dit_is: str | None, channels: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """lightx2v's files share names and shapes; a DiT's expert is not in its header."""
    save_file(dit(channels=channels), tmp_path / "dit.safetensors")
    save_file(lora("{}"), tmp_path / "lora.safetensors")
    published(monkeypatch, lora_is, tmp_path / "lora.safetensors")
    if dit_is:
        published(monkeypatch, dit_is, tmp_path / "dit.safetensors")
    refused(tmp_path, words, dit(channels=channels), lora("{}"))


def test_a_file_that_is_not_the_published_one(tmp_path: Path) -> None:
    for name in ("dit", "lora"):
        refused(
            tmp_path, f"{name}.safetensors is not the published file", dit(), lora("{}"), **{f"{name}_sha256": "a" * 64}
        )


def test_merged_twice(tmp_path: Path) -> None:
    merged(tmp_path, dit(), lora("{}"))
    (tmp_path / "out.safetensors").rename(tmp_path / "dit2.safetensors")
    twice = {"dit": str(tmp_path / "dit2.safetensors"), "lora": str(tmp_path / "lora.safetensors")}
    with pytest.raises(WeightsError, match=r"has lora.safetensors merged in"):
        carry_out("merge", str(tmp_path / "out.safetensors"), **twice)
