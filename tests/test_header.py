"""What a safetensors header tells, and what is refused by it."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import dit, safetensors

from wanwrap.errors import WeightsError
from wanwrap.weights.catalogue import CATALOGUE
from wanwrap.weights.header import check_task, dit_dtype, lora_dim_alpha
from wanwrap.weights.locate import download, locate


@pytest.mark.parametrize(("stored", "name"), [("F16", "fp16"), ("BF16", "bf16"), ("F32", "fp32"), ("F8_E4M3", "fp8")])
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_type_of_a_dit(stored: str, name: str, prefix: str, tmp_path: Path) -> None:
    assert dit_dtype(dit(tmp_path / "a.safetensors", stored, prefix)) == name


def test_files_that_upstream_cant_train_on(tmp_path: Path) -> None:
    k = "blocks.0.cross_attn.k.weight"
    cases = {
        "already scaled or quantised": {k: ("F8_E4M3", [2, 2]), "blocks.0.cross_attn.k.scale_weight": ("F32", [1])},
        "no Wan DiT": {"blocks.0.attn1.to_q.weight": ("F16", [2, 2])},
        "stores its blocks as I8": {k: ("I8", [2, 2])},
    }
    for message, tensors in cases.items():
        with pytest.raises(WeightsError, match=message):
            dit_dtype(safetensors(tmp_path / "a.safetensors", tensors))
    with pytest.raises(WeightsError, match=r"no .safetensors file"):
        dit_dtype(tmp_path / "a.pth")


def test_a_dit_of_another_model(tmp_path: Path) -> None:
    k, patches = "blocks.0.cross_attn.k.weight", "patch_embedding.weight"

    def model(width: int, channels: int, *more: str) -> Path:
        rows = {patches: ("F16", [width, channels, 1]), **{key: ("F16", [1]) for key in (k, *more)}}
        return safetensors(tmp_path / "a.safetensors", rows)

    check_task(model(5120, 16), "t2v-A14B")
    check_task(model(5120, 36, "blocks.0.cross_attn.k_img.weight"), "i2v-14B")
    with pytest.raises(WeightsError, match="made for i2v-A14B; this preset trains i2v-14B"):
        check_task(model(5120, 36), "i2v-14B")
    with pytest.raises(WeightsError, match="made for t2v-A14B or t2v-14B or t2i-14B; this preset"):
        check_task(model(5120, 16), "t2v-1.3B")
    for key, name in (("vace_blocks.0.x", "VACE"), ("img_emb.emb_pos", "FLF2V")):
        with pytest.raises(WeightsError, match=f"made for {name}, which no preset trains"):
            check_task(model(5120, 16, key), "t2v-A14B")
    with pytest.raises(WeightsError, match="of a model that no preset trains"):
        check_task(model(3072, 48), "t2v-A14B")


def test_cut_off_and_lying_files(tmp_path: Path) -> None:
    whole = dit(tmp_path / "a.safetensors").read_bytes()
    for content, message in (
        (whole[:-1], "is cut off"),
        (whole[:20], "not a safetensors file"),
        (b"", "not a safetensors file"),
        (b"GGUF" + whole[4:], "not a safetensors file"),
        (b"\xff" * 100, "not a safetensors file"),
        (b"\x02\0\0\0\0\0\0\0[]", "not a safetensors file"),
    ):
        (tmp_path / "b.safetensors").write_bytes(content)
        with pytest.raises(WeightsError, match=message):
            dit_dtype(tmp_path / "b.safetensors")


def test_rank_and_alpha_of_a_lora(tmp_path: Path) -> None:
    rows = {"lora_unet_blocks_0_self_attn_q.lora_down.weight": ("F16", [16, 4])}
    assert lora_dim_alpha(safetensors(tmp_path / "a.safetensors", rows, {"ss_network_alpha": "8.0"})) == (16, 8.0)
    with pytest.raises(WeightsError, match="no LoRA"):
        lora_dim_alpha(dit(tmp_path / "b.safetensors"))


def test_where_a_weight_is(tmp_path: Path) -> None:
    missing = locate("vae", tmp_path, None)
    assert not missing.exists
    assert f"--local-dir {tmp_path}" in (missing.complaint() or "")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "wan_2.1_vae.safetensors").write_bytes(b"short")
    found = locate("vae", tmp_path, None)
    assert found.exists
    assert "has 5 bytes instead of 253,815,318; get it again" in (found.complaint() or "")
    with pytest.raises(WeightsError, match="there is no file"):
        locate("vae", tmp_path, tmp_path / "other")


def test_encoders_and_vaes_that_upstream_cant_read(tmp_path: Path) -> None:
    comfy = safetensors(tmp_path / "umt5_xxl_fp16.safetensors", {"shared.weight": ("F16", [2])})
    with pytest.raises(WeightsError, match="ComfyUI's umt5_xxl files have other key names; take models_t5"):
        locate("t5", tmp_path, comfy)
    scaled = safetensors(
        tmp_path / "t5.safetensors", {"scaled_fp8": ("F32", [1]), "token_embedding.weight": ("F16", [1])}
    )
    with pytest.raises(WeightsError, match="scaled or quantised"):
        locate("t5", tmp_path, scaled)
    own = safetensors(tmp_path / "own.safetensors", {"encoder.token_embedding.weight": ("F16", [1])})
    assert locate("t5", tmp_path, own).exists
    five_b = {"decoder.conv1.weight": ("F16", [1]), "conv2.weight": ("F16", [48])}
    with pytest.raises(WeightsError, match="5B model"):
        locate("vae", tmp_path, safetensors(tmp_path / "wan2.2_vae.safetensors", five_b))
    prefixed = {"model.decoder.conv1.weight": ("F16", [1]), "model.conv2.weight": ("F16", [16])}
    with pytest.raises(WeightsError, match="no vae that upstream reads"):
        locate("vae", tmp_path, safetensors(tmp_path / "prefixed.safetensors", prefixed))
    vision = safetensors(tmp_path / "clip_vision_h.safetensors", {"vision_model.x": ("F16", [1])})
    with pytest.raises(WeightsError, match="lack half of it"):
        locate("clip", tmp_path, vision)
    (tmp_path / "t5.pth").touch()
    with pytest.raises(WeightsError, match="no file of torch's"):
        locate("t5", tmp_path, tmp_path / "t5.pth")


def test_the_other_experts_file_is_refused(tmp_path: Path) -> None:
    """High and low noise have the same header; the name is all there is to go by."""
    low = dit(tmp_path / "wan2.2_t2v_low_noise_14B_fp16.safetensors")
    with pytest.raises(WeightsError, match="by its name not what was asked for"):
        locate("wan2.2-t2v-high", tmp_path, low)
    with pytest.raises(WeightsError, match="by its name"):
        locate("wan2.2-t2v-high", tmp_path, dit(tmp_path / "My-T2V-LOW_bf16.safetensors"))
    assert locate("wan2.2-t2v-low", tmp_path, low).exists
    assert locate("wan2.2-t2v-high", tmp_path, dit(tmp_path / "slowed.safetensors")).exists
    other_type = dit(tmp_path / "wan2.1_t2v_14B_bf16.safetensors", "BF16")
    assert locate("wan2.1-t2v-14b-fp8", tmp_path, other_type).dtype == "bf16"
    qwen = tmp_path / "qwen_image_vae.safetensors"
    qwen.touch()
    with pytest.raises(WeightsError, match="Qwen-Image's VAE"):
        locate("vae", tmp_path, qwen)


def test_each_published_file_is_told_apart() -> None:
    """By name, and by sha256 where it is known: nothing in the catalogue can be taken for another."""
    assert len({weight.name for weight in CATALOGUE.values()}) == len(CATALOGUE)
    known = [weight.sha256 for weight in CATALOGUE.values() if weight.sha256]
    assert len(set(known)) == len(known)
    assert all(len(mark) == 64 for mark in known)
    assert download(CATALOGUE["t5"], Path("/m/models_t5_umt5-xxl-enc-bf16.pth")).endswith("--local-dir /m")
