"""ComfyUI's text encoder in Wan's names, casts, and the prefix of repacked files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import comfy_names

torch = pytest.importorskip("torch")
from safetensors.torch import load_file, save_file  # noqa: E402

from wanwrap.errors import WeightsError  # noqa: E402
from wanwrap.rewrite import convert  # noqa: E402
from wanwrap.rewrite.child import carry_out  # noqa: E402
from wanwrap.weights.models import MODELS, Model, structure  # noqa: E402

NAMES = comfy_names((0, 1, 11))
PREFIX = "model.diffusion_model."
FP8 = torch.float8_e4m3fn


def comfy(**more: Any) -> dict[str, Any]:
    """UMT5 as ComfyUI publishes it, in small: with its tokenizer as bytes, and an embedding twice."""
    made = {name: torch.randn(3, 5).half() for name in NAMES}
    extra = {
        "spiece_model": torch.arange(7, dtype=torch.uint8),
        "encoder.embed_tokens.weight": made["shared.weight"] + 0,
    }
    return {**made, **extra, **more}


def without(part: str) -> dict[str, Any]:
    return {name: tensor for name, tensor in comfy().items() if part not in name}


def dit(dtype: Any, prefix: str = "") -> dict[str, Any]:
    """With one tensor that is kept in fp32, as Wan 2.1's are."""
    made = {"blocks.0.cross_attn.k.weight": torch.randn(6, 6), "blocks.0.norm3.weight": torch.randn(6)}
    kept = {f"{prefix}patch_embedding.weight": torch.randn(6, 16, 1, 2, 2)}
    return {f"{prefix}{name}": tensor.to(dtype) for name, tensor in made.items()} | kept


def converted(tmp_path: Path, content: dict[str, Any], **wish: Any) -> dict[str, Any]:
    save_file(content, tmp_path / "in.safetensors")
    carry_out("convert", str(tmp_path / "out.safetensors"), file=str(tmp_path / "in.safetensors"), **wish)
    found: dict[str, Any] = load_file(tmp_path / "out.safetensors")
    return found


@pytest.mark.parametrize(("precision", "dtype"), [(None, torch.bfloat16), ("fp16", torch.float16)])
def test_comfyuis_text_encoder(
    precision: str | None, dtype: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model(role="t5", what="a toy", names=("t5",))
    monkeypatch.setitem(MODELS, structure(dict.fromkeys(NAMES.values(), (3, 5))), model)
    content = comfy()
    found = converted(tmp_path, content, precision=precision)
    assert found.keys() == set(NAMES.values())
    for old, new in NAMES.items():
        assert found[new].dtype == dtype and torch.equal(found[new], content[old].to(dtype))


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("precision", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16), (None, None)])
@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_cast_and_prefix(stored: Any, precision: str, dtype: Any, prefix: str, tmp_path: Path) -> None:
    content = dit(stored, prefix)
    if dtype in (stored, None) and not prefix:
        with pytest.raises(WeightsError, match="nothing to convert"):
            converted(tmp_path, content, precision=precision)
        return
    found = converted(tmp_path, content, precision=precision)
    cast = dtype or stored
    assert {name: tensor.dtype for name, tensor in found.items()} == {
        "blocks.0.cross_attn.k.weight": cast,
        "blocks.0.norm3.weight": cast,
        "patch_embedding.weight": cast if stored == torch.float32 else torch.float32,
    }
    for name, tensor in found.items():
        assert torch.equal(tensor, content[prefix + name].to(tensor.dtype))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({"a": torch.ones(2)}, "neither"),
        (comfy(scaled_fp8=torch.ones(1)), "scaled_fp8"),
        (comfy(**{"encoder.block.0.more.weight": torch.ones(1)}), "UMT5"),
        (without("block.11.layer.1.DenseReluDense.wo"), "UMT5"),
        (comfy(**{"shared.weight": torch.ones(3, 5).to(FP8)}), "UMT5"),
        (dit(FP8), "F8_E4M3"),
    ],
)
def test_what_cant_be_converted(content: dict[str, Any], match: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=match):
        converted(tmp_path, content)
    assert not list(tmp_path.glob("out*"))


def test_shards_become_one_file(tmp_path: Path) -> None:
    content = dit(torch.bfloat16)
    for number, name in enumerate(content, 1):
        save_file({name: content[name]}, tmp_path / f"in-0000{number}-of-00003.safetensors")
    carry_out("convert", str(tmp_path / "out.safetensors"), file=str(tmp_path / "in-00002-of-00003.safetensors"))
    found = load_file(tmp_path / "out.safetensors")
    assert found.keys() == content.keys() and all(torch.equal(found[name], content[name]) for name in found)


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        (b'"shape":[6,6]', b'"shape":[6,7]', "size"),
        (b'"data_offsets":[72,84]', b'"data_offsets":[70,82]', "overlap"),
        (b'"dtype":"F16","shape":[6]', b'"dtype":"F77","shape":[6]', "F77"),
        (b"", b"\0", "gaps"),
    ],
)
def test_damaged_headers(old: bytes, new: bytes, match: str, tmp_path: Path) -> None:
    """Offsets that lie would put one tensor's numbers into another."""
    path = tmp_path / "in.safetensors"
    content = dit(torch.float16)
    del content["patch_embedding.weight"]
    save_file(content, path)
    whole = path.read_bytes()
    assert old in whole
    path.write_bytes(whole.replace(old, new) if old else whole + new)
    with pytest.raises(WeightsError, match=match):
        convert.job(file=path, precision="bf16")
