"""What a safetensors header tells, and where a weight is."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import dit, safetensors
from weightfiles import rows, sparse

from wanwrap.errors import WeightsError
from wanwrap.system.safetensors import read_header
from wanwrap.upstream.dit import blocks_dtype
from wanwrap.weights.catalogue import ALSO, CATALOGUE, NEVER
from wanwrap.weights.locate import locate
from wanwrap.weights.models import said_by, strange
from wanwrap.weights.weight_file import WeightFile

K = "blocks.0.cross_attn.k.weight"


@pytest.mark.parametrize(("stored", "name"), [("F16", "fp16"), ("BF16", "bf16"), ("F32", "fp32"), ("F8_E4M3", "fp8")])
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_type_of_a_dit(stored: str, name: str, prefix: str, tmp_path: Path) -> None:
    assert locate("wan2.2-t2v-low", tmp_path, dit(tmp_path / "a.safetensors", stored, prefix)).dtype == name


def test_types_that_upstream_cant_train_on() -> None:
    for message, dtypes in {
        "already scaled or quantised": {K: "F8_E4M3", "blocks.0.cross_attn.k.scale_weight": "F32"},
        "no Wan DiT": {"blocks.0.attn1.to_q.weight": "F16"},
        "stores its blocks as I8": {K: "I8"},
    }.items():
        with pytest.raises(WeightsError, match=message):
            blocks_dtype(Path("a.safetensors"), dtypes)


def test_a_dit_of_another_model(tmp_path: Path) -> None:
    i2v = sparse(tmp_path / "a.safetensors", rows("i2v-A14B"))
    assert locate("wan2.2-i2v-low", tmp_path, i2v).size == i2v.stat().st_size
    with pytest.raises(
        WeightsError, match=r"is Wan 2.2 I2V A14B \(high or low .* not what was asked for \(wan2.1_i2v_480p"
    ):
        locate("wan2.1-i2v-480p", tmp_path, i2v)
    with pytest.raises(WeightsError, match=r"none of those that upstream loads .Wan 2.1 T2V 1.3B"):
        locate("wan2.1-i2v-480p", tmp_path, sparse(tmp_path / "b.safetensors", rows("flf2v-14B")))
    short = sparse(tmp_path / "c.safetensors", dict(list(rows("t2v-14B").items())[:-1]))
    with pytest.raises(WeightsError, match="none of those that upstream loads"):
        locate("wan2.2-t2v-low", tmp_path, short)
    (tmp_path / "d.pth").write_bytes(b"PK\x03\x04")
    with pytest.raises(WeightsError, match=r"no .safetensors file; upstream reads a DiT from nothing else"):
        locate("wan2.2-t2v-low", tmp_path, tmp_path / "d.pth")


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
            read_header(tmp_path / "b.safetensors")


def test_where_a_weight_is(tmp_path: Path) -> None:
    missing = locate("vae", tmp_path, None)
    assert not missing.exists
    assert missing.reason == "wan_2.1_vae.safetensors (0.3 GB) is not there."
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "wan_2.1_vae.safetensors").write_bytes(b"short")
    found = locate("vae", tmp_path, None)
    assert found.exists
    assert "has 5 bytes instead of 253,815,318; get it again" in found.reason
    with pytest.raises(WeightsError, match="there is no file"):
        locate("vae", tmp_path, tmp_path / "other")


def record(path: Path, stamp: tuple[int, int] | None = None, sha256: str | None = None) -> WeightFile:
    return WeightFile(path=path, stamp=stamp, sha256=sha256)


def test_what_setup_has_recorded(tmp_path: Path) -> None:
    name = "wan2.1-t2v-14b"  # of which no list gives the size
    path = dit(tmp_path / "mine.safetensors", "BF16")
    size, mtime = path.stat().st_size, path.stat().st_mtime_ns
    mark = CATALOGUE[name].sha256
    found = locate(name, tmp_path, None, record(path, (size, mtime), mark))
    assert (found.path, found.dtype, found.sha256, found.usable) == (path, "bf16", mark, True)
    assert locate(name, tmp_path, None, record(path, (size, mtime), "a" * 64)).sha256 is None  # nobody's
    assert locate(name, tmp_path, None, record(path, (size, mtime))).sha256 is None  # known by its name
    assert locate(name, tmp_path, None, record(path)).path == path  # written by hand
    other = dit(tmp_path / "other.safetensors")
    assert locate(name, tmp_path, other, record(path, (size, mtime))).path == other
    for remembered in (record(path, (size, mtime + 1)), record(tmp_path / "gone.safetensors", (size, mtime))):
        assert "is gone or another file since setup" in locate("vae", tmp_path, None, remembered).reason


def test_encoders_and_vaes_that_upstream_cant_read(tmp_path: Path) -> None:
    comfy = {**{name: ("F16", [1]) for name in ("shared.weight", "encoder.final_layer_norm.weight")}}
    with pytest.raises(WeightsError, match=r"none of those that upstream loads .UMT5-XXL"):
        locate("t5", tmp_path, safetensors(tmp_path / "a.safetensors", {**comfy, "encoder.block.0.x": ("F16", [1])}))
    scaled = {"scaled_fp8": ("F32", [1]), "token_embedding.weight": ("F16", [1])}
    with pytest.raises(WeightsError, match=r"scaled or quantised.*; take models_t5"):
        locate("t5", tmp_path, safetensors(tmp_path / "t5.safetensors", scaled))
    own = sparse(tmp_path / "own.safetensors", {f"encoder.{name}": row for name, row in rows("t5", "BF16").items()})
    assert locate("t5", tmp_path, own).exists
    five_b = {"decoder.conv1.weight": ("F16", [1]), "conv2.weight": ("F16", [48])}
    with pytest.raises(WeightsError, match=r"5B model; all others use Wan 2.1's; take wan_2.1_vae"):
        locate("vae", tmp_path, safetensors(tmp_path / "wan2.2_vae.safetensors", five_b))
    prefixed = {"model.decoder.conv1.weight": ("F16", [1]), "model.conv2.weight": ("F16", [16])}
    with pytest.raises(WeightsError, match=r"none of those that upstream loads .Wan 2.1's VAE"):
        locate("vae", tmp_path, safetensors(tmp_path / "prefixed.safetensors", prefixed))
    with pytest.raises(WeightsError, match="is a toy, and was given as the t5; give models_t5"):
        locate("t5", tmp_path, dit(tmp_path / "dit.safetensors"))
    vision = safetensors(tmp_path / "clip_vision_h.safetensors", {"vision_model.x": ("F16", [1])})
    with pytest.raises(WeightsError, match="visual half alone"):
        locate("clip", tmp_path, vision)
    (tmp_path / "t5.pth").touch()
    with pytest.raises(WeightsError, match="no file of torch's"):
        locate("t5", tmp_path, tmp_path / "t5.pth")


def test_the_other_experts_file_is_refused(tmp_path: Path) -> None:
    """High and low noise have the same header; the name is all there is to go by."""
    low = dit(tmp_path / "wan2.2_t2v_low_noise_14B_fp16.safetensors")
    with pytest.raises(WeightsError, match="by its name it is not what was asked for"):
        locate("wan2.2-t2v-high", tmp_path, low)
    with pytest.raises(WeightsError, match="by its name"):
        locate("wan2.2-t2v-high", tmp_path, dit(tmp_path / "My-T2V-LOW_bf16.safetensors"))
    assert locate("wan2.2-t2v-low", tmp_path, low).exists
    assert locate("wan2.2-t2v-high", tmp_path, dit(tmp_path / "slowed.safetensors")).exists
    other_type = dit(tmp_path / "wan2.1_t2v_14B_bf16.safetensors", "BF16")
    assert locate("wan2.1-t2v-14b-fp8", tmp_path, other_type).dtype == "bf16"
    qwen = sparse(tmp_path / "qwen_image_vae.safetensors", rows("vae", "BF16"))
    with pytest.raises(WeightsError, match="Qwen-Image's VAE"):
        locate("vae", tmp_path, qwen)


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
        ("wan2.2_t2v_high_0.7_0.3", {"2.2", "t2v", "high"}, ["0", "7", "0", "3"]),
        ("diffusion_pytorch_model-00001-of-00006", set(), []),
    ],
)
def test_what_a_name_says(name: str, said: set[str], odd: list[str]) -> None:
    assert said_by(name) == said
    assert strange(Path(f"{name}.safetensors")) == odd


def test_each_published_file_is_told_apart() -> None:
    """By name, and by sha256 where it is known: nothing in the catalogue can be taken for another."""
    assert len({weight.name for weight in CATALOGUE.values()}) == len(CATALOGUE)
    known = [weight.sha256 for weight in (*CATALOGUE.values(), *(weight for _, weight in ALSO))] + [*NEVER]
    assert all(mark and len(mark) == 64 for mark in known)
    assert len(set(known)) == len(known)
    assert {name for name, _ in ALSO} <= CATALOGUE.keys()
