"""Merged files against a plain merge in memory, bit for bit, in every format; and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from helpers import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from platforms import linux

torch = pytest.importorskip("torch")
from safetensors import safe_open  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from wanwrap.errors import OptionError, WeightsError  # noqa: E402
from wanwrap.rewrite import engine, merge  # noqa: E402
from wanwrap.rewrite.child import carry_out  # noqa: E402
from wanwrap.rewrite.tensors import Worker  # noqa: E402
from wanwrap.system.safetensors import WIDTHS, open_source, sha256  # noqa: E402
from wanwrap.weights import catalogue  # noqa: E402

Tensors = dict[str, Any]
TYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
FP8 = torch.float8_e4m3fn
DIM, FFN, RANK = 24, 40, 4
MODULES = {"self_attn.q": (DIM, DIM), "cross_attn.k": (DIM, DIM), "ffn.0": (FFN, DIM), "ffn.2": (DIM, FFN)}
PREFIX = "model.diffusion_model."
OURS = "diffusion_model."  # of the LoRAs here
KEY = "blocks.0.cross_attn.k"


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


def low_rank(module: str, up: Any, down: Any) -> Tensors:
    return {f"{module}.lora_up.weight": up, f"{module}.lora_down.weight": down}


def lora(naming: str = f"{OURS}{{}}", dtype: Any = torch.float32, alpha: Any = None) -> Tensors:
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


def plain(weight: Any, up: Any, down: Any, scale: float, dtype: Any = None) -> Any:
    """The reference: all in fp32, one rounding."""
    change = (up.float().flatten(1) @ down.float().flatten(1)) * scale
    return (weight.float() + change.reshape(weight.shape)).to(dtype or weight.dtype)


def wanted(weights: Tensors, scale: float = 1.0, dtype: Any = None, stored: Any = torch.float32) -> Tensors:
    """A DiT with all of the deltas, that were `stored` in some type."""
    result = {name: tensor.to(dtype or tensor.dtype) for name, tensor in weights.items()}
    for module, up, down in deltas():
        name = f"{module}.weight"
        result[name] = plain(weights[name], up.to(stored), down.to(stored), scale, dtype)
    return result


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
@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_every_naming(naming: str, prefix: str, tmp_path: Path) -> None:
    """A prefixed DiT comes out in native names: upstream's own merge passes over others without a word."""
    weights = dit()
    prefixed = {f"{prefix}{name}": tensor for name, tensor in weights.items()}
    equal(merged(tmp_path, prefixed, lora(naming, alpha=torch.tensor(3))), wanted(weights, 3 / RANK))


@pytest.mark.parametrize("lora_type", TYPES)
@pytest.mark.parametrize("stored", TYPES)
@pytest.mark.parametrize("precision", [None, "fp16", "bf16"])
def test_every_type(lora_type: str, stored: str, precision: str | None, tmp_path: Path) -> None:
    """A type that is asked for is reached with one rounding, not two."""
    weights, delta = dit(TYPES[stored]), lora(dtype=TYPES[lora_type], alpha=torch.tensor(8))
    found = merged(tmp_path, weights, delta, strength=0.7, precision=precision)
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16, None: TYPES[stored]}[precision]
    equal(found, wanted(weights, 0.7 * 8 / RANK, dtype, TYPES[lora_type]))


@pytest.mark.parametrize(
    ("alpha", "value"),
    [
        (None, RANK),
        (torch.tensor([8], dtype=torch.int32), 8),
        (torch.tensor(1.5), 1.5),
        (torch.tensor(1.5, dtype=torch.float16), 1.5),
        (torch.tensor(1.5, dtype=torch.bfloat16), 1.5),
        (torch.tensor(2.5, dtype=torch.float64), 2.5),
    ],
)
def test_every_alpha(alpha: Any, value: float, tmp_path: Path) -> None:
    equal(merged(tmp_path, dit(), lora(alpha=alpha)), wanted(dit(), value / RANK))


def test_differences_and_convolutions(tmp_path: Path) -> None:
    """As in lightx2v's LoRAs for Wan 2.1; beside a low-rank change of the same weight too."""
    weights, conv = dit(torch.bfloat16), "patch_embedding.weight"
    full = {
        "blocks.0.norm3.diff": ("blocks.0.norm3.weight", torch.randn(DIM)),
        "blocks.0.ffn.0.diff_b": ("blocks.0.ffn.0.bias", torch.randn(FFN)),
        "blocks.1.diff_m": ("blocks.1.modulation", torch.randn(1, 6, DIM)),
        "blocks.1.ffn.2.diff": ("blocks.1.ffn.2.weight", torch.randn(DIM, FFN)),
        "patch_embedding.diff": (conv, torch.randn(weights[conv].shape)),
    }
    up, down = torch.randn(DIM, 3, 1, 1, 1), torch.randn(3, 16, 1, 2, 2)
    delta = {f"{OURS}{key}": change.bfloat16() for key, (_, change) in full.items()}
    found = merged(tmp_path, weights, delta | low_rank(f"{OURS}patch_embedding", up, down), strength=0.3)
    result = {name: tensor.float() for name, tensor in weights.items()}
    result[conv] = plain(result[conv], up, down, 0.3)
    for name, change in full.values():
        result[name] += change.bfloat16().float() * 0.3
    equal(found, {name: tensor.bfloat16() for name, tensor in result.items()})


def test_what_no_lora_touches_is_copied_byte_for_byte(tmp_path: Path) -> None:
    """Negative zeros, subnormals, tensors without numbers; and F32 among F16 stays F32."""
    weights = dit() | {"empty": torch.ones(3, 0).half(), "nothing": torch.ones(0).half()}
    weights["head.head.bias"] = torch.tensor([-0.0, 1e-7, 65504.0], dtype=torch.float16)
    weights["patch_embedding.weight"] = torch.full((DIM, 16, 1, 2, 2), 1e-40)
    equal(merged(tmp_path, weights, lora()), wanted(weights))
    rows = open_source(tmp_path / "out.safetensors").rows.values()
    assert not [row for row in rows if row.begin % WIDTHS[row.dtype]], "all numbers lie where they can be mapped"


@settings(max_examples=40)
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
    weights = {f"{KEY}.weight": torch.randn(rows, columns).to(TYPES[stored])}
    up, down = torch.randn(rows, rank), torch.randn(rank, columns)
    delta = low_rank(f"{OURS}{KEY}", up, down) | {f"{OURS}{KEY}.alpha": torch.tensor(2.0)}
    found = merged(tmp_path_factory.mktemp("any"), weights, delta, strength=strength)
    equal(found, {name: plain(weight, up, down, strength * 2.0 / rank) for name, weight in weights.items()})


@pytest.mark.parametrize("chunk", [1, 64 << 10])
def test_in_pieces_as_in_one(chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight of many chunks equals the product of the whole; pieces of very few rows would not on every machine."""
    work, pieces = Worker.__call__, list[engine.Chunk]()

    def noted(self: Worker, piece: engine.Chunk, view: memoryview) -> int:
        pieces.append(piece)
        return work(self, piece, view)

    monkeypatch.setattr(Worker, "__call__", noted)
    monkeypatch.setattr(engine, "CHUNK", chunk)
    torch.manual_seed(3)
    weights = {f"{KEY}.weight": torch.randn(1027, 512).half(), "x": torch.randn(2_003).half()}
    up, down = torch.randn(1027, 64), torch.randn(64, 512)
    found = merged(tmp_path, weights, low_rank(f"{OURS}{KEY}", up, down))
    equal(found, weights | {f"{KEY}.weight": plain(weights[f"{KEY}.weight"], up, down, 1.0)})
    rows = [(piece.start, piece.stop - piece.start) for piece in pieces if piece.tensor.by_rows]
    assert len(rows) > 10 and not any(start % 16 or count < 16 for start, count in rows)


def test_a_set_of_shards(tmp_path: Path) -> None:
    weights = dit()
    names = sorted(weights)
    for number, part in enumerate((names[:9], names[9:14], names[14:]), 1):
        save_file({name: weights[name] for name in part}, tmp_path / f"dit-0000{number}-of-00003.safetensors")
    save_file(lora(), tmp_path / "lora.safetensors")
    first, delta, out = (tmp_path / f"{name}.safetensors" for name in ("dit-00001-of-00003", "lora", "out"))
    carry_out("merge", str(out), dit=str(first), lora=str(delta))
    equal(load_file(out), wanted(weights))
    (tmp_path / "dit-00002-of-00003.safetensors").unlink()
    with pytest.raises(WeightsError, match="00002-of-00003"):
        merge.job(dit=first, lora=delta)


def test_the_record_in_the_file(tmp_path: Path) -> None:
    """What it was made of; so that it is not merged again."""
    weights, source = dit(), tmp_path / "dit.safetensors"
    merged(tmp_path, weights, lora(), strength=0.5)
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        record = json.loads(file.metadata()["wanwrap"])
    assert (record["made"], record["strength"], record["left"]) == ("merge", 0.5, "")
    about = source.stat()
    assert record["from"] == [{"name": source.name, "bytes": about.st_size, "mtime_ns": about.st_mtime_ns}]
    assert record["lora"]["sha256"] == sha256(tmp_path / "lora.safetensors")
    (tmp_path / "out.safetensors").rename(source)
    with pytest.raises(WeightsError, match="merged in"):
        carry_out("merge", str(tmp_path / "new"), dit=str(source), lora=str(tmp_path / "lora.safetensors"))


@linux
def test_large_differences_take_no_more_memory(tmp_path: Path) -> None:
    """A piece of each is read, as of the DiT."""
    weights = {f"{KEY}.weight": torch.ones(4, 4).half(), "x.weight": torch.ones(4096, 8192).half()}
    save_file(weights, tmp_path / "dit.safetensors")
    save_file({"x.diff": torch.ones(4096, 8192)}, tmp_path / "lora.safetensors")
    order = {name: str(tmp_path / f"{name}.safetensors") for name in ("dit", "lora", "out")} | {"verb": "merge"}
    code = (
        "import re, runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__'); "
        "print(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1])"
    )
    argv = [sys.executable, "-c", code, str(ROOT / "wanwrap" / "rewrite" / "child.py"), json.dumps(order)]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) < 400_000, "KiB; of them torch takes 220,000"
    assert float(load_file(tmp_path / "out.safetensors")["x.weight"][-1].float().mean()) == 2.0


def test_every_key_is_merged_or_none(tmp_path: Path) -> None:
    """What an I2V LoRA of Wan 2.1 has, and Wan 2.2 has not."""
    delta = lora()
    for block in range(2):
        delta |= low_rank(f"{OURS}blocks.{block}.cross_attn.k_img", torch.ones(DIM, 2), torch.ones(2, DIM))
    with pytest.raises(WeightsError, match=r"k_img.lora_down.weight \(2\)"):
        merged(tmp_path, dit(), delta)
    assert not list(tmp_path.glob("out*"))
    equal(merged(tmp_path, dit(), delta, allow_partial=True), wanted(dit()))


def other(name: str, value: Any) -> Tensors:
    """A LoRA with one more or another tensor."""
    return lora() | {f"{OURS}blocks.0.ffn.0.{name}": value}


def spoilt(tensors: Tensors, name: str, value: float) -> Tensors:
    tensors[name].view(-1)[-1] = value
    return tensors


ONE = torch.ones(1)
LARGE = {name: tensor * 0 + 65504 for name, tensor in dit().items()}
FP8_ALL = {name: tensor.to(FP8) if name.endswith("k.weight") else tensor for name, tensor in dit().items()}
FP8_ONE = dit() | {"blocks.1.ffn.0.weight": torch.ones(FFN, DIM).to(FP8)}  # upstream looks at another
HALF = {name: tensor for name, tensor in lora(alpha=torch.tensor(8)).items() if "1.ffn.2.lora_up" not in name}
MORE = {**{f"{PREFIX}{name}": tensor for name, tensor in dit().items()}, "vae.x": ONE}

# (DiT, LoRA, options, what of the message matters)
Case = tuple[Tensors, Tensors, dict[str, Any], str]
REFUSED: list[Case] = [
    (dit(), other("lora_up.weight", torch.ones(FFN + 1, RANK)), {}, rf"\[{FFN + 1}, {DIM}\]"),
    (dit(), low_rank("unet.a", torch.ones(1, 1), torch.ones(1, 1)), {}, "no tensor"),
    (dit(), low_rank("blocks.0.ffn.0", torch.ones(4, 3), torch.ones(2, 4)), {}, "don't fit"),
    *(
        (dit(), other(key, torch.ones(2, 2)), {"allow_partial": True}, key)
        for key in ("dora_scale", "lora_mid.weight", "hada_w1_a", "lora_B.bias", "lora_up")
    ),
    (dit(), HALF, {}, r"ffn\.2\.lora_down\.weight, .*ffn\.2\.alpha"),
    (dit(), lora() | lora("transformer.{}"), {}, "one tensor"),
    (spoilt(dit(torch.bfloat16), "head.head.bias", 7e4), lora(), {"precision": "fp16"}, "head.bias.*--precision bf16"),
    (LARGE, lora(), {"strength": 1000.0}, "F16.*--precision bf16"),
    (dit(torch.bfloat16), lora(), {"strength": 1e39}, "BF16.*--strength"),
    (FP8_ALL, lora(), {}, "fp8"),
    (FP8_ONE, lora(), {}, "blocks.1.ffn.0.weight as F8_E4M3"),
    (dit(), lora(dtype=FP8), {}, "lora.safetensors stores .* F8_E4M3"),
    ({"x": ONE}, lora(), {}, "no Wan DiT"),
    (lora("{}"), lora(), {}, "LoRA, no DiT"),
    (MORE, lora(), {}, "vae.x"),
    (dit(), lora(), {"dit_sha256": "a" * 64}, "dit.safetensors is not"),
    (dit(), lora(), {"lora_sha256": "a" * 64}, "lora.safetensors is not"),
    (dit(), lora(alpha=torch.tensor(0.0)), {}, "alpha"),
]
for value in (float("nan"), float("inf"), -float("inf")):
    REFUSED += [
        (dit(), spoilt(lora(), f"{OURS}blocks.1.ffn.0.lora_up.weight", value), {}, "lora.safetensors holds NaN"),
        (dit(), lora(alpha=torch.tensor(value)), {}, "alpha"),
    ]
    for name in ("blocks.1.ffn.0.weight", "head.head.bias"):  # merged, and copied
        REFUSED += [(spoilt(dit(each), name, value), lora(), {}, f"{name} holds NaN") for each in TYPES.values()]


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_refused(number: int, tmp_path: Path) -> None:
    weights, delta, wish, match = REFUSED[number]
    with pytest.raises(WeightsError, match=match):
        merged(tmp_path, weights, delta, **wish)
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("strength", [0.0, float("nan"), float("inf")])
def test_a_strength_that_merges_nothing(strength: float, tmp_path: Path) -> None:
    with pytest.raises(OptionError):
        merge.job(dit=tmp_path / "a", lora=tmp_path / "b", strength=strength)


def test_the_other_experts_lora(tmp_path: Path) -> None:
    """By the names of both, and of what a DiT was made of; but a LoRA's name says nothing of the DiT it is in."""
    low, mine, plain = (tmp_path / f"{name}.safetensors" for name in ("wan2.2_low_noise_fp16", "mine", "plain"))
    high, other_low = tmp_path / "Lightning_T2V-HIGH.safetensors", tmp_path / "other_low.safetensors"
    save_file(dit(), low)
    save_file(dit(), plain)
    save_file(lora(), high)
    save_file(lora(dtype=torch.bfloat16), other_low)
    carry_out("convert", str(mine), file=str(low), precision="bf16")
    for each in (low, mine):
        with pytest.raises(WeightsError, match=f"HIGH.* for high and .*{each.name} is for low"):
            merge.job(dit=each, lora=high)
    carry_out("merge", str(tmp_path / "once.safetensors"), dit=str(plain), lora=str(high))
    merge.job(dit=tmp_path / "once.safetensors", lora=other_low)


@pytest.mark.parametrize(
    ("lora_is", "dit_is", "channels", "words"),
    [
        ("lightning-t2v-v1.1-high", "wan2.2-t2v-low", 16, "for high .* for low"),
        ("lightning-i2v-v1-high", "wan2.2-i2v-low", 36, "for high .* for low"),
        ("lightning-i2v-v1-low", "wan2.2-t2v-low", 16, "for i2v .* for t2v"),
        ("lightning-t2v-v2.0-low", None, 36, "for t2v .* for i2v"),
    ],
)
def test_published_files_are_told_by_their_content(
    lora_is: str, dit_is: str | None, channels: int, words: str, tmp_path: Path
) -> None:
    """lightx2v's files share names and shapes; a DiT's expert is not in its header."""
    files = {"dit": (dit(channels=channels), dit_is), "lora": (lora(), lora_is)}
    rows = dict[str, catalogue.Weight]()
    for file, (content, name) in files.items():
        path = tmp_path / f"{file}.safetensors"
        save_file(content, path)
        if name:
            old = catalogue.CATALOGUE[name]
            size = path.stat().st_size
            rows[name] = catalogue.Weight(old.role, old.repo, None, old.path, "fp16", size, sha256(path))
    with patch.dict(catalogue.CATALOGUE, rows), pytest.raises(WeightsError, match=words):
        merged(tmp_path, *(content for content, _ in files.values()))
