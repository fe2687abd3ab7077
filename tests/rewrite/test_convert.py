"""ComfyUI's text encoder in Wan's names, casts, and the prefix of repacked files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import Wanwrap, comfy_names

torch = pytest.importorskip("torch")
from safetensors.torch import load_file, save_file  # noqa: E402

from wanwrap.errors import WeightsError  # noqa: E402
from wanwrap.rewrite import convert  # noqa: E402
from wanwrap.rewrite.child import carry_out  # noqa: E402
from wanwrap.weights.models import MODELS, Model, structure  # noqa: E402

NAMES = comfy_names((0, 1, 11))


def comfy() -> dict[str, Any]:
    """UMT5 as ComfyUI publishes it, in small: with its tokenizer as bytes, and an embedding twice."""
    made = {name: torch.randn(3, 5).half() for name in NAMES}
    extra = {
        "spiece_model": torch.arange(7, dtype=torch.uint8),
        "encoder.embed_tokens.weight": made["shared.weight"] + 0,
    }
    return {**made, **extra}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small encoder is one that upstream loads."""
    model = Model(role="t5", what="a toy", names=("t5",))
    monkeypatch.setitem(MODELS, structure(dict.fromkeys(NAMES.values(), (3, 5))), model)


def dit(dtype: Any, prefix: str = "") -> dict[str, Any]:
    made = {"blocks.0.cross_attn.k.weight": torch.randn(6, 6), "blocks.0.norm3.weight": torch.randn(6)}
    return {f"{prefix}{name}": tensor.to(dtype) for name, tensor in made.items()}


def converted(tmp_path: Path, content: dict[str, Any], **wish: Any) -> dict[str, Any]:
    save_file(content, tmp_path / "in.safetensors")
    carry_out("convert", str(tmp_path / "out.safetensors"), file=str(tmp_path / "in.safetensors"), **wish)
    found: dict[str, Any] = load_file(tmp_path / "out.safetensors")
    return found


@pytest.mark.parametrize(("precision", "dtype"), [(None, torch.bfloat16), ("fp16", torch.float16)])
def test_comfyuis_text_encoder(precision: str | None, dtype: Any, tmp_path: Path) -> None:
    content = comfy()
    found = converted(tmp_path, content, precision=precision)
    assert found.keys() == set(NAMES.values())
    for old, new in NAMES.items():
        assert found[new].dtype == dtype and torch.equal(found[new], content[old].to(dtype))


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("precision", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_cast_and_prefix(stored: Any, precision: str, dtype: Any, prefix: str, tmp_path: Path) -> None:
    content = dit(stored, prefix)
    content[f"{prefix}patch_embedding.weight"] = torch.randn(6, 16, 1, 2, 2)  # kept in fp32, as Wan 2.1's are
    if stored == dtype and not prefix:
        with pytest.raises(WeightsError, match=f"is {precision} already: there is nothing to convert"):
            converted(tmp_path, content, precision=precision)
        return
    found = converted(tmp_path, content, precision=precision)
    assert {name: tensor.dtype for name, tensor in found.items()} == {
        "blocks.0.cross_attn.k.weight": dtype,
        "blocks.0.norm3.weight": dtype,
        "patch_embedding.weight": dtype if stored == torch.float32 else torch.float32,
    }
    for name, tensor in found.items():
        assert torch.equal(tensor, content[prefix + name].to(tensor.dtype))


def test_the_prefix_alone(tmp_path: Path) -> None:
    content = dit(torch.bfloat16, "model.diffusion_model.")
    found = converted(tmp_path, content)
    assert all(torch.equal(tensor, content[f"model.diffusion_model.{name}"]) for name, tensor in found.items())
    assert not any(name.startswith("model.") for name in found)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (dit(torch.float16), "is as upstream reads it; --precision fp16 or bf16 casts it"),
        ({"a": torch.ones(2)}, "neither a Wan DiT nor a UMT5"),
        ({**comfy(), "scaled_fp8": torch.ones(1)}, "scaled fp8 .it holds scaled_fp8.: what was rounded away"),
        ({**comfy(), "encoder.block.0.more.weight": torch.ones(1)}, "is no UMT5-XXL as ComfyUI publishes it"),
        ({n: t for n, t in comfy().items() if "block.11.layer.1.DenseReluDense.wo" not in n}, "is no UMT5-XXL"),
        ({**comfy(), "shared.weight": torch.ones(3, 5).to(torch.float8_e4m3fn)}, "is no UMT5-XXL"),
        ({n: t for n, t in comfy().items() if "11.layer.0.SelfAttention.rel" not in n}, "is no UMT5-XXL"),
        (dit(torch.float8_e4m3fn), "F8_E4M3; .* fp8 keeps 3 bits: another type would not bring them back"),
    ],
)
def test_nothing_to_convert(content: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=message):
        converted(tmp_path, content)
    assert not list(tmp_path.glob("out*"))


def test_shards_become_one_file(tmp_path: Path) -> None:
    content = dit(torch.bfloat16)
    for number, name in enumerate(content, 1):
        save_file({name: content[name]}, tmp_path / f"in-0000{number}-of-00002.safetensors")
    carry_out("convert", str(tmp_path / "out.safetensors"), file=str(tmp_path / "in-00002-of-00002.safetensors"))
    found = load_file(tmp_path / "out.safetensors")
    assert found.keys() == content.keys() and all(torch.equal(found[name], content[name]) for name in found)


def test_fp16_numbers_that_bf16_holds_and_back(tmp_path: Path) -> None:
    content = dit(torch.bfloat16)
    content["blocks.0.norm3.weight"][0] = 1e30
    with pytest.raises(WeightsError, match="does not fit into F16"):
        converted(tmp_path, content, precision="fp16")


def test_damaged_headers(tmp_path: Path) -> None:
    """Offsets that lie would put one tensor's numbers into another."""
    path = tmp_path / "in.safetensors"
    save_file(dit(torch.float16), path)
    whole = path.read_bytes()
    for old, new, message in (
        (b'"shape":[6,6]', b'"shape":[6,7]', "another size than its shape"),
        (b'"data_offsets":[72,84]', b'"data_offsets":[70,82]', "overlap or leave gaps"),
        (
            b'"dtype":"F16","shape":[6]',
            b'"dtype":"F77","shape":[6]',
            "as F77, which neither upstream nor wanwrap reads",
        ),
    ):
        assert old in whole
        path.write_bytes(whole.replace(old, new))
        with pytest.raises(WeightsError, match=message):
            convert.job(file=path, precision="bf16")
    path.write_bytes(whole + b"\0")
    with pytest.raises(WeightsError, match="overlap or leave gaps"):
        convert.job(file=path, precision="bf16")
    path.write_bytes(whole[:-1])
    with pytest.raises(WeightsError, match="is cut off"):
        convert.job(file=path, precision="bf16")


def test_a_part_that_is_read_is_not_written(tmp_path: Path, wanwrap: Wanwrap) -> None:
    source = tmp_path / "x.safetensors.wanwrap-part"
    save_file(dit(torch.float16), source)
    before = source.read_bytes()
    done = wanwrap("convert", source, "--out", tmp_path / "x.safetensors", "--precision", "bf16")
    assert done.returncode == 11 and source.read_bytes() == before
