"""What a safetensors header tells, and where a weight is."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from helpers import comfy_names, dit, lora
from weightfiles import Rows, rows, sparse

from wanwrap.errors import WeightsError
from wanwrap.system.safetensors import open_source, read_header
from wanwrap.upstream.dit import blocks_dtype
from wanwrap.weights.catalogue import ALSO, CATALOGUE, NEVER
from wanwrap.weights.locate import locate
from wanwrap.weights.lora import match
from wanwrap.weights.models import said_by, strange
from wanwrap.weights.weight_file import WeightFile

K = "blocks.0.cross_attn.k.weight"
PREFIX = "model.diffusion_model."


@pytest.mark.parametrize(
    ("dtypes", "noun"),
    [
        ({K: "F8_E4M3", "blocks.0.cross_attn.k.scale_weight": "F32"}, "quantised"),
        ({"blocks.0.attn1.to_q.weight": "F16"}, "no Wan DiT"),
        ({K: "I8"}, "I8"),
    ],
)
def test_types_that_upstream_cant_train_on(dtypes: dict[str, str], noun: str) -> None:
    with pytest.raises(WeightsError, match=noun):
        blocks_dtype(Path("a.safetensors"), dtypes)


@pytest.mark.parametrize(
    ("name", "file", "tensors", "noun"),
    [
        ("wan2.1-i2v-480p", "a.safetensors", rows("i2v-A14B"), "2.2 I2V.*wan2.1_i2v_480p"),
        ("wan2.2-t2v-low", "a.safetensors", dict([*rows("t2v-14B").items()][:-1]), "1.3B"),
        ("wan2.2-t2v-low", "a.pth", {}, r"no \.safetensors"),
        ("t5", "a.safetensors", {K: ("F16", [4, 4])}, "given as the t5"),
        ("t5", "a.safetensors", {name: ("F16", [2, 2]) for name in comfy_names(range(1))}, "convert"),
        ("t5", "a.pth", {}, "torch"),
        ("clip", "a.safetensors", {"vision_model.x": ("F16", [1])}, "visual half"),
        ("vae", "qwen_image_vae.safetensors", rows("vae", "F32"), "Qwen"),
        ("wan2.2-t2v-high", "wan2.2_t2v_low_noise_14B_fp16.safetensors", {K: ("F16", [4, 4])}, "rename"),
        ("wan2.2-t2v-high", "My-T2V-LOW_bf16.safetensors", {K: ("F16", [4, 4])}, "rename"),
    ],
)
def test_what_was_given_and_is_another(name: str, file: str, tensors: Rows, noun: str, tmp_path: Path) -> None:
    path = tmp_path / file
    if tensors:
        sparse(path, tensors)
    else:
        path.touch()
    with pytest.raises(WeightsError, match=noun):
        locate(name, tmp_path, path)


@pytest.mark.parametrize(
    ("name", "file", "tensors", "dtype"),
    [
        ("wan2.2-i2v-low", "a.safetensors", rows("i2v-A14B"), "fp16"),
        ("t5", "a.safetensors", {f"encoder.{name}": row for name, row in rows("t5", "BF16").items()}, "bf16"),
        ("wan2.2-t2v-low", "wan2.2_t2v_low_noise_14B_fp16.safetensors", {K: ("F16", [4, 4])}, "fp16"),
        ("wan2.2-t2v-low", "a.safetensors", {K: ("F32", [4, 4])}, "fp32"),
        ("wan2.2-t2v-high", "slowed.safetensors", {PREFIX + K: ("F8_E4M3", [4, 4])}, "fp8"),
        ("wan2.1-t2v-14b-fp8", "wan2.1_t2v_14B_bf16.safetensors", {PREFIX + K: ("BF16", [4, 4])}, "bf16"),
    ],
)
def test_what_was_given_and_can_be_it(name: str, file: str, tensors: Rows, dtype: str, tmp_path: Path) -> None:
    path = sparse(tmp_path / file, tensors)
    found = locate(name, tmp_path, path)
    assert found.usable and (found.size, found.dtype) == (path.stat().st_size, dtype)


def test_cut_off_and_lying_files(tmp_path: Path) -> None:
    whole = dit(tmp_path / "a.safetensors").read_bytes()
    damaged = (whole[:20], b"", b"GGUF" + whole[4:], b"\xff" * 100, b"\x02\0\0\0\0\0\0\0[]")
    for content, noun in ((whole[:-1], "cut off"), *((content, "not a safetensors") for content in damaged)):
        (tmp_path / "b.safetensors").write_bytes(content)
        with pytest.raises(WeightsError, match=noun):
            read_header(tmp_path / "b.safetensors")


def test_where_a_weight_is(tmp_path: Path) -> None:
    missing = locate("vae", tmp_path, None)
    assert not missing.exists and "0.3 GB" in missing.reason
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "wan_2.1_vae.safetensors").write_bytes(b"short")
    found = locate("vae", tmp_path, None)
    assert found.exists and not found.usable and "253,815,318" in found.reason
    with pytest.raises(WeightsError, match="no file"):
        locate("vae", tmp_path, tmp_path / "other")


def test_what_setup_has_recorded(tmp_path: Path) -> None:
    name = "wan2.1-t2v-14b"  # of which no list gives the size
    path = dit(tmp_path / "mine.safetensors", "BF16")
    size, mtime = path.stat().st_size, path.stat().st_mtime_ns
    mark, ours = CATALOGUE[name].sha256, WeightFile(path=path, stamp=(size, mtime))
    found = locate(name, tmp_path, None, WeightFile(path=path, stamp=ours.stamp, sha256=mark))
    assert (found.path, found.dtype, found.sha256, found.usable) == (path, "bf16", mark, True)
    nobodys = WeightFile(path=path, stamp=ours.stamp, sha256="a" * 64)
    by_hand = WeightFile(path=path)
    for known in (nobodys, ours, by_hand):
        found = locate(name, tmp_path, None, known)
        assert (found.path, found.sha256, found.usable) == (path, None, True)
    other = dit(tmp_path / "other.safetensors")
    assert locate(name, tmp_path, other, ours).path == other
    changed = WeightFile(path=path, stamp=(size, mtime + 1))
    gone = WeightFile(path=tmp_path / "gone.safetensors", stamp=ours.stamp)
    for known in (changed, gone):
        found = locate("vae", tmp_path, None, known)
        assert not found.usable and "setup" in found.reason


@pytest.mark.parametrize("alpha", [0, math.nan, math.inf])
def test_a_lora_that_would_add_nothing_is_refused(alpha: float, tmp_path: Path) -> None:
    base = open_source(dit(tmp_path / "dit.safetensors")).rows
    assert match(open_source(lora(tmp_path / "good.safetensors")), base, 1.0).patches
    with pytest.raises(WeightsError, match="alpha"):
        match(open_source(lora(tmp_path / "bad.safetensors", alpha=alpha)), base, 1.0)


@pytest.mark.parametrize(
    ("name", "said", "odd"),
    [
        ("wan2.2_t2v_high_noise_14B_fp16", {"2.2", "t2v", "high"}, []),
        ("Wan2_2-T2V-A14B-LowNoise_bf16 (1)", {"2.2", "t2v", "low"}, []),
        ("wan22_i2v_14B_low_noise_bf16", {"2.2", "i2v", "low"}, []),
        ("WanVideo_2_1_VAE", {"2.1"}, []),
        ("wan2.1_i2v_480p_14B_fp8_e4m3fn", {"2.1", "i2v", "480p"}, []),
        ("CineFlow_t2v_lownoise_v2", {"t2v", "low"}, ["cineflow", "v2"]),
        ("glow_HighLights", set(), ["glow", "highlights"]),
        ("wan2.2_t2v_high_0.7_融合", {"2.2", "t2v", "high"}, ["0", "7", "融合"]),
        ("diffusion_pytorch_model-00001-of-00006", set(), []),
    ],
)
def test_what_a_name_says(name: str, said: set[str], odd: list[str]) -> None:
    assert said_by(name) == said
    assert strange(Path(f"{name}.safetensors")) == odd


def test_each_published_file_is_told_apart() -> None:
    """By name, and by sha256: nothing in the catalogue can be taken for another."""
    assert len({weight.name for weight in CATALOGUE.values()}) == len(CATALOGUE)
    known = [weight.sha256 for weight in (*CATALOGUE.values(), *(weight for _, weight in ALSO))] + [*NEVER]
    assert all(len(mark) == 64 for mark in known)
    assert len(set(known)) == len(known)
    assert {name for name, _ in ALSO} <= CATALOGUE.keys()
