"""Whole trees of made-up installations: each file gets its verdict, and nothing in them changes."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from helpers import Wanwrap, comfy_names, grow
from hypothesis import given
from hypothesis import strategies as st
from platforms import symlinks
from weightfiles import Rows, lora, prefixed, rows, scaled, sparse

from wanwrap.errors import WeightsError
from wanwrap.weights import marks
from wanwrap.weights.catalogue import ALSO, CATALOGUE, NEVER
from wanwrap.weights.comfyui import folders
from wanwrap.weights.identify import look

T2V, T5, VAE, CLIP = rows("t2v-14B"), rows("t5"), rows("vae", "BF16"), rows("clip")
BF16 = {name: ("BF16", shape) for name, (_, shape) in T2V.items()}
FP32 = {name: ("F32", shape) for name, (_, shape) in T2V.items()}
FP8 = {name: ("F8_E4M3" if "blocks." in name else dtype, shape) for name, (dtype, shape) in T2V.items()}
E5M2 = {name: ("F8_E5M2", shape) for name, (_, shape) in T2V.items()}
FP8_T5 = {name: ("F8_E4M3", shape) for name, (_, shape) in T5.items()}
COMFY_T5: Rows = {theirs: T5[wans] for theirs, wans in comfy_names(range(24)).items()}
WITH_TOKENIZER = {**COMFY_T5, "spiece_model": ("U8", [4548313])}
SMALL_T5 = {name: COMFY_T5[name] for name in comfy_names(range(12))}
HIGH, LOW = (Path(CATALOGUE[f"wan2.2-t2v-{level}"].path).name for level in ("high", "low"))
LIGHTNING = CATALOGUE["lightning-t2v-v1.1-low"].name
KIJAI_VAE, VAE_PTH, KIJAI_T5, _, COMFY_MARK = (row.sha256 for name, row in ALSO if name in ("vae", "t5"))
KINDS = {name: row.sha256 for name, row in CATALOGUE.items()}
GGUF = b"GGUF\x03\0\0\0" + bytes(16) + b"general.architecture" + (8).to_bytes(4, "little") + bytes(8) + b"wan"


def header(rows: object) -> bytes:
    text = json.dumps(rows).encode()
    return len(text).to_bytes(8, "little") + text


CUT, LYING = (
    header({"a": {"dtype": "F16", "shape": [side], "data_offsets": [0, 8]}}) + bytes(count)
    for side, count in ((4, 3), (9, 8))
)
FIVE_B: Rows = {"patch_embedding.weight": ("F16", [3072, 48, 1, 2, 2]), "blocks.0.cross_attn.k.weight": ("F16", [8, 8])}
FIVE_B_VAE: Rows = {"decoder.conv1.weight": ("BF16", [8]), "conv2.weight": ("BF16", [48, 48, 1, 1, 1])}
HEADLESS = {name: row for name, row in T5.items() if name != "norm.weight"}
VISUAL = {name: row for name, row in CLIP.items() if name.startswith("visual.")}


@dataclass(frozen=True)
class Made:
    """A file to make, and what is to be said of it; `sha256` is what a computation is made to find."""

    path: str
    content: Rows | bytes | str | int  # a header, the bytes themselves, a link, a size of zeros
    verdict: str  # used, unneeded, spare (another is used, or only the user can say) or bad
    nouns: str = ""
    sha256: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)


VERDICTS = {"used": "used for", "unneeded": "not needed", "spare": "not used", "bad": "not used"}
DITS, UNET = "ComfyUI/models/diffusion_models", "ComfyUI/models/unet"
VAES, T5S, LORAS = "ComfyUI/models/vae", "ComfyUI/models/text_encoders", "ComfyUI/models/loras"
VISION = "ComfyUI/models/clip_vision"
PORTABLE = "portable/ComfyUI_windows_portable/ComfyUI/models"
STABILITY = "stability/Data/Models"  # Stability Matrix' shared store
DESKTOP = "Documents/ComfyUI/models"  # the Desktop app's
EXTRA = "elsewhere/dits"  # one that extra_model_paths.yaml names
HUB = "hub/models--Org--Name/snapshots/0123abc"
SHARDS = {n: f"{HUB}/high_noise_model/diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n in (1, 2)}
TREE = [
    Made(f"{DITS}/wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors", scaled(T2V), "bad", f"scale_weight {HIGH}"),
    Made(f"{DITS}/sub/folder/{LOW}", T2V, "used", "wan2.2-t2v-low", KINDS["wan2.2-t2v-low"]),
    Made(f"{DITS}/split_files/diffusion_models/{HIGH}", T2V, "used", "wan2.2-t2v-high", KINDS["wan2.2-t2v-high"]),
    Made(f"{DITS}/T2V-A14B-LOW_KJ.safetensors", scaled(T2V, ".weight_scale"), "bad", f"k.weight_scale {LOW}"),
    Made(f"{DITS}/mixed.safetensors", T2V, "bad", "quantised", metadata={"_quantization_metadata": "{}"}),
    Made(f"{DITS}/wan2.1_vace_14B_fp16.safetensors", {**T2V, "vace_blocks.0.x": ("F16", [8])}, "bad", "VACE"),
    Made(f"{DITS}/diffusers.safetensors", {"blocks.0.attn1.to_q.weight": ("F16", [8, 8])}, "bad", "1.3B"),
    Made(f"{DITS}/AIO.safetensors", {**prefixed(T2V), "vae.decoder.conv1.weight": ("F16", [1])}, "bad", "1.3B"),
    Made(f"{DITS}/comfyui_prefix.safetensors", prefixed(T2V, "diffusion_model."), "bad", "1.3B"),
    Made(f"{DITS}/Wan2.2_Remix_t2v_high_dyno.safetensors", prefixed(FP8), "spare", "remix, dyno --dit_high"),
    Made(f"{DITS}/Wan2.2-Remix/high_noise_model/model.safetensors", BF16, "spare", "model wan2.2-t2v-high"),
    Made(f"{DITS}/merged.safetensors", BF16, "spare", "merged wan2.1-t2v-14b --dit --dit_high --dit_low"),
    Made(f"{DITS}/wan2.2_t2v_high_noise_14B_fp32.safetensors", FP32, "spare", "fp32"),
    Made(f"{DITS}/wan2.2_t2v_high_noise_14B_fp8_e5m2.safetensors", E5M2, "bad", f"F8_E5M2 {HIGH}"),
    Made(f"{DITS}/gone.safetensors", "nowhere/at/all.safetensors", "bad", "nowhere/at/all.safetensors"),
    Made(f"{DITS}/itself.safetensors", "itself.safetensors", "bad", "link"),
    Made(f"{DITS}/cut.safetensors", CUT, "bad", "cut 72"),
    Made(f"{DITS}/lying.safetensors", LYING, "bad", "damaged"),
    Made(f"{DITS}/wan2.2_ti2v_5B_fp16.safetensors", FIVE_B, "bad", "5B"),
    Made(f"{UNET}/wan2.2_i2v_low_noise_14B_fp16.safetensors", rows("i2v-A14B"), "unneeded", "I2V A14B"),
    Made(f"{UNET}/Wan2.2-T2V-High-Q4_K_M.gguf", GGUF, "bad", f"GGUF {HIGH}"),
    Made(f"{VAES}/ae.safetensors", VAE, "bad", "Qwen-Image's", next(iter(NEVER))),
    Made(f"{VAES}/wan_video_vae.safetensors", VAE, "spare", "another", KIJAI_VAE),
    Made(f"{VAES}/prefixed_wan_vae.safetensors", prefixed(rows("vae")), "bad", "2.1's"),
    Made(f"{VAES}/sdxl_vae.safetensors", {"decoder.conv_in.weight": ("F16", [8, 8])}, "bad", "2.1's"),
    Made(f"{VAES}/my_wan_vae.pth", 507_609_880, "bad", "dddddddd Wan2.1_VAE.pth", "d" * 64),
    Made(f"{VAES}/wan2.2_vae.safetensors", FIVE_B_VAE, "bad", "5B wan_2.1_vae.safetensors"),
    Made(f"{T5S}/umt5_xxl_fp8_e4m3fn_scaled.safetensors", {**T5, "scaled_fp8": ("F8_E4M3", [2])}, "bad", "scaled_fp8"),
    Made(f"{T5S}/t5xxl_fp16.safetensors", {"shared.weight": ("F16", [32128, 4096])}, "bad", "UMT5-XXL"),
    Made(f"{T5S}/umt5-base.safetensors", SMALL_T5, "bad", "UMT5-XXL"),
    Made(f"{T5S}/headless.safetensors", HEADLESS, "bad", "UMT5-XXL"),
    Made(f"{T5S}/umt5_xxl_fp16.safetensors", WITH_TOKENIZER, "spare", "another", COMFY_MARK),
    Made(f"{T5S}/umt5-xxl-enc-fp8_e4m3fn.safetensors", FP8_T5, "spare", "fp8"),
    Made(f"{T5S}/somebodys_t5.pth", 11_361_920_418, "used", "t5", KINDS["t5"]),
    Made(f"{T5S}/preallocated.pth", 11_361_920_418, "bad", ".aria2"),
    Made(f"{VISION}/clip_vision_h.safetensors", {"vision_model.x": ("F16", [1280])}, "unneeded", "CLIP"),
    Made(f"{VISION}/visual.safetensors", VISUAL, "unneeded", "CLIP"),
    Made(f"{LORAS}/lightning/high_noise_model.safetensors", lora(), "unneeded", "", KINDS["lightning-i2v-v1-high"]),
    Made(f"{LORAS}/light.safetensors", lora(), "used", "v1.1-high", KINDS["lightning-t2v-v1.1-high"]),
    Made(f"{LORAS}/{LIGHTNING}", lora(), "bad", f"ffffffff {LIGHTNING}", "f" * 64),
    Made(f"{LORAS}/kijai/Wan2.2-Lightning_LOW_fp16.safetensors", lora(dtype="F16"), "spare", "releases"),
    Made(f"{PORTABLE}/diffusion_models/wan22_t2v_14B_low_noise_bf16.safetensors", BF16, "spare", "another"),
    Made(f"{PORTABLE}/diffusion_models/Wan2_1-I2V-14B-480P.safetensors", rows("i2v-14B"), "unneeded", "I2V 14B"),
    Made(f"{PORTABLE}/diffusion_models/wan2.1_t2v.safetensors", prefixed(rows("t2v-1.3B")), "unneeded", "1.3B"),
    Made(f"{PORTABLE}/vae/Wan2_1_VAE_fp32.safetensors", rows("vae", "F32"), "spare", "another"),
    Made(f"{STABILITY}/DiffusionModels/{LOW}", T2V, "bad", f"eeeeeeee {LOW}", "e" * 64),
    Made(
        f"{STABILITY}/TextEncoders/t5.safetensors", rows("t5", "BF16"), "spare", "another", KIJAI_T5, {"format": "pt"}
    ),
    Made(f"{STABILITY}/VAE/Wan2.1_VAE.pth", 507_609_880, "spare", "another", VAE_PTH),
    Made(f"{STABILITY}/VAE/wan_2.1_vae.safetensors", VAE, "used", "vae", KINDS["vae"], {"x": "y" * 9048}),
    Made(f"{DESKTOP}/clip/{CATALOGUE['t5'].name}", 1000, "bad", "1,000 11,361,920,418"),
    Made(f"{EXTRA}/flf2v.safetensors", rows("flf2v-14B"), "bad", "1.3B"),
    Made(SHARDS[1], dict([*FP32.items()][::2]), "spare", "diffusion_pytorch_model-00001-of-00002"),
]


def grown(root: Path) -> Path:
    """All of it, with what ties the installations together; known are the sha256 that a computation would find."""
    for made in TREE:
        path = root / made.path
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(made.content, dict):
            sparse(path, made.content, made.metadata)
        elif isinstance(made.content, bytes):
            path.write_bytes(made.content)
        elif isinstance(made.content, str):
            path.symlink_to(Path(made.content))
        else:
            path.write_bytes(b"PK\x03\x04")
            grow(path, made.content)
        if ".aria2" in made.nouns:
            path.with_name(f"{path.name}.aria2").touch()
        if made.sha256:
            marks.keep(path, made.sha256)
    sparse(root / SHARDS[2], dict([*FP32.items()][1::2]))
    (root / VAES / "loop").symlink_to(root / "ComfyUI" / "models")
    sparse(root / DITS / "flux.safetensors", {"double_blocks.0.x.weight": ("F16", [8])})
    sparse(root / LORAS / "mine.safetensors", lora(rank=4))
    (root / "ComfyUI" / "extra_model_paths.yaml").write_text(
        "# my places\ncomfyui:\n    base_path: ../elsewhere\n    is_default: true\n    unet: |\n"
        "        dits/  # legacy location still supported\n        'more dits'\n    custom_nodes: nodes\n"
        "a111:\n    vae: models/VAE\nempty:\n"
    )
    package = root / "stability" / "Data" / "Packages" / "ComfyUI"
    package.mkdir(parents=True)
    (package / "models").symlink_to(root / STABILITY)
    return root


def snapshot(root: Path) -> dict[str, tuple[int, int, int]]:
    """Names, sizes, times and links."""
    infos = {str(path): path.lstat() for path in [root, *root.rglob("*")]}
    return {path: (info.st_size, info.st_mtime_ns, info.st_ino) for path, info in infos.items()}


@symlinks
def test_each_file_of_a_tree_gets_its_verdict(tmp_path: Path, cli: Wanwrap) -> None:
    tree = grown(tmp_path / "machine")
    before = snapshot(tree)
    homes = ("ComfyUI", "portable/ComfyUI_windows_portable", "stability/Data/Packages/ComfyUI", "Documents/ComfyUI")
    places = [word for home in homes for word in ("--comfyui_dir", tree / home)]
    command = ("setup", "--weights_only", "--dry_run", *places)
    hub = {"HF_HUB_CACHE": str(tree / "hub")}
    done = cli(*command, "t2v-lightning", "--json", **hub)
    assert done.returncode == 0 and "more dits" in done.stderr, done.stderr
    told = {os.path.realpath(row["path"]): row for row in json.loads(done.stdout)["files"]}
    assert told.keys() == {os.path.realpath(tree / made.path) for made in TREE}
    for made in TREE:
        row = told[os.path.realpath(tree / made.path)]
        assert row["why"].startswith(VERDICTS[made.verdict]), made
        assert [noun for noun in made.nouns.split() if noun not in row["why"]] == [], row
        assert row["usable"] is (made.verdict != "bad" and row["role"] != "clip"), row
    for place, kind in {DITS: "dit", UNET: "dit", VAES: "vae", T5S: "t5", VISION: "clip", LORAS: "lora"}.items():
        roles = {told[os.path.realpath(tree / made.path)]["role"] for made in TREE if made.path.startswith(place)}
        assert roles - {"other"} == {kind}, place
    plain = cli(*command, "t2v-lightning", **hub).stdout
    assert "and 2 of" in plain and all(f": {row['why']}\n" in plain for row in told.values())
    i2v = json.loads(cli(*command, "wan21-i2v-480p", "--json").stdout)["files"]
    assert {row["why"][:8] for row in i2v if row["role"] == "clip"} == {"not used"}  # ComfyUI's are half a CLIP
    assert snapshot(tree) == before


@pytest.mark.parametrize(("pad", "known"), [(620_000, True), (520_000, False)])
def test_of_a_published_file_whose_size_is_foretold(pad: int, known: bool, tmp_path: Path) -> None:
    """Its sha256 is asked for where its size is near, and where it may be needed."""
    path = sparse(tmp_path / "renamed.safetensors", BF16, {"x": "y" * pad})
    found = look(path, lambda _: KINDS["wan2.1-t2v-14b"], ["wan2.1-t2v-14b"])
    assert (found.hashable, found.told) == (known, "sha256" if known else None)
    assert look(path, lambda _: pytest.fail("computed"), ["wan2.2-i2v-low", "vae"]).usable


def test_a_lora_in_full(tmp_path: Path, cli: Wanwrap) -> None:
    ours = lora(lambda name: "lora_unet_" + name.replace(".", "_"), 16, dtype="BF16")
    theirs = lora("base_model.model.{}".format, 8, 1536)
    parts = {"lora_down": "lora_A", "lora_up": "lora_B"}
    peft = {name.replace(old, new): theirs[name] for old, new in parts.items() for name in theirs if old in name}
    flux = {f"double_blocks.0.img_attn.qkv.{part}.weight": ("F16", [4, 4]) for part in parts.values()}
    loha = {"lora_unet_blocks_0_self_attn_q.hada_w1_a": ("F16", [5120, 4])}
    files = [sparse(tmp_path / f"{n}.safetensors", each) for n, each in enumerate((ours, peft, flux, loha))]
    done = cli("inspect", "--json", *files, tmp_path / "gone.safetensors")
    found = json.loads(done.stdout)
    assert done.returncode == 5 and [row["path"] for row in found[:4]] == [str(file) for file in files]
    assert found[0]["lora"] == {"format": "musubi-tuner", "rank": 16, "alpha": 0.0, "modules": 400, "model": "Wan 14B"}
    assert found[1]["lora"] == {"format": "peft", "rank": 8, "alpha": None, "modules": 400, "model": "Wan 1.3B"}
    assert [row["usable"] for row in found] == [True, True, False, False, False]
    assert "model" in found[2]["reason"] and "hada_w1_a" in found[3]["reason"]
    assert "NOT usable" in cli("inspect", files[2]).stdout


@pytest.mark.parametrize(
    ("text", "noun"),
    [
        ("comfyui:\n\tunet: x\n", "line 2"),
        ("a: [1", "YAML"),
        ("just words", "no ComfyUI"),
        (None, "diffusion_models"),
        ("gone", "no folder"),
    ],
)
def test_a_comfyui_that_is_none(text: str | None, noun: str, tmp_path: Path) -> None:
    if text not in (None, "gone"):
        (tmp_path / "extra_model_paths.yaml").write_text(str(text))
    with pytest.raises(WeightsError, match=noun):
        folders(tmp_path / "gone" if text == "gone" else tmp_path)


def test_any_level_of_an_installation_will_do(tmp_path: Path) -> None:
    """A launcher shares one store among its packages; a folder that is named twice keeps its place."""
    data, package = tmp_path / "Data", tmp_path / "Data" / "Packages" / "Forge"
    store, own, extra = data / "Models" / "VAE", package / "models" / "Lora", package / "extra"
    for folder in (store, own, extra):
        folder.mkdir(parents=True)
    (package / "extra_model_paths.yaml").write_text("a:\n    vae: extra\n    loras: models/Lora\n")
    assert folders(package) == [own, store, extra]
    assert folders(data) == folders(tmp_path) == [store, own, extra]


JUNK: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, -1, 0, 1.5, "x", "F16", "\ud800", [], [2, 2], [[]], {}, {"a": 1}, 10**30]
)
ROW = st.fixed_dictionaries({"dtype": JUNK | st.just("F16"), "shape": JUNK, "data_offsets": JUNK | st.just([0, 0])})
SIGNS = ("patch_embedding.weight", "x.lora_down.weight", "conv2.weight", "\ud800", "__metadata__")
NAMES = st.sampled_from([*[*VAE][:9], *[*COMFY_T5][:6], *[*lora(rank=2)][:6], *SIGNS])


@given(st.dictionaries(NAMES, JUNK | ROW, max_size=8))
def test_no_header_is_too_strange_for_a_verdict(rows: dict[str, object]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "wan_vae.safetensors")
        path.write_bytes(header(rows) + bytes(8))
        assert look(path).reason
