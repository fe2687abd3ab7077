"""Whole trees of made-up installations: each file gets its verdict, and nothing in them changes."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from helpers import Wanwrap
from hypothesis import given
from hypothesis import strategies as st
from weightfiles import Rows, lora, prefixed, rows, scaled, sparse

from wanwrap.weights import marks
from wanwrap.weights.catalogue import ALSO, CATALOGUE, NEVER
from wanwrap.weights.identify import look

T2V, I2V22, I2V21 = rows("t2v-14B"), rows("i2v-A14B"), rows("i2v-14B")
BF16 = {name: ("BF16", shape) for name, (_, shape) in T2V.items()}
FP8 = {name: ("F8_E4M3" if "blocks." in name else dtype, shape) for name, (dtype, shape) in T2V.items()}
HIGH, LOW = "wan2.2_t2v_high_noise_14B_fp16.safetensors", "wan2.2_t2v_low_noise_14B_fp16.safetensors"
COMFY_T5: Rows = {
    "shared.weight": ("F16", [256384, 4096]),
    "encoder.final_layer_norm.weight": ("F16", [4096]),
    "spiece_model": ("U8", [4548313]),
    **{
        f"encoder.block.{n}.layer.{part}.weight": ("F16", shape)
        for n in range(24)
        for part, shape in {
            **{f"0.SelfAttention.{m}": [4096, 4096] for m in "qkvo"},
            "0.SelfAttention.relative_attention_bias": [32, 64],
            "0.layer_norm": [4096],
            "1.layer_norm": [4096],
            "1.DenseReluDense.wi_0": [10240, 4096],
            "1.DenseReluDense.wi_1": [10240, 4096],
            "1.DenseReluDense.wo": [4096, 10240],
        }.items()
    },
}


@dataclass(frozen=True)
class Made:
    """A file to make, and what is to be said of it; `sha256` is what a computation is made to find."""

    path: str
    tensors: Rows | bytes | str | int  # a header, the bytes themselves, a link, a size of zeros
    says: str
    sha256: str | None = None
    metadata: dict[str, str] | None = None
    aria2: bool = False


def published(name: str) -> str:
    mark = CATALOGUE[name].sha256
    assert mark
    return mark


KIJAI_VAE, VAE_PTH, KIJAI_T5, _, COMFY_MARK = (row.sha256 for name, row in ALSO if name in ("vae", "t5"))
QWEN = next(iter(NEVER))
NATIVE = "ComfyUI/models"
PORTABLE = "portable/ComfyUI_windows_portable/ComfyUI/models"
STABILITY = "stability/Data/Models"
HUB = "hub/models--Org--Name/snapshots/0123abc"
DESKTOP = "Documents/ComfyUI/models"
EXTRA = "elsewhere"
TREE = [
    # a git clone: what ComfyUI's own templates bring
    Made(f"{NATIVE}/diffusion_models/wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors", scaled(T2V), f"not used: it is already scaled or quantised (it holds blocks.0.cross_attn.k.scale_weight), which upstream can't read; take {HIGH}"),
    Made(f"{NATIVE}/diffusion_models/sub/folder/{LOW}", T2V, "used for wan2.2-t2v-low", published("wan2.2-t2v-low")),
    Made(f"{NATIVE}/diffusion_models/split_files/diffusion_models/{HIGH}", T2V, "used for wan2.2-t2v-high", published("wan2.2-t2v-high")),
    Made(f"{NATIVE}/diffusion_models/Wan2_2-T2V-A14B-LOW_fp8_e4m3fn_scaled_KJ.safetensors", scaled(T2V, ".weight_scale"), f"not used: it is already scaled or quantised (it holds blocks.0.cross_attn.k.weight_scale), which upstream can't read; take {LOW}"),
    Made(f"{NATIVE}/diffusion_models/mixed.safetensors", T2V, "not used: it is already scaled or quantised (it holds _quantization_metadata)", metadata={"_quantization_metadata": "{}"}),
    Made(f"{NATIVE}/unet/wan2.2_i2v_low_noise_14B_fp16.safetensors", I2V22, "not needed (Wan 2.2 I2V A14B", published("wan2.2-i2v-low")),
    Made(f"{NATIVE}/unet/Wan2.2-T2V-High-Q4_K_M.gguf", b"GGUF\x03\0\0\0" + bytes(16) + (20).to_bytes(8, "little") + b"general.architecture" + (8).to_bytes(4, "little") + (3).to_bytes(8, "little") + b"wan", f"not used: it is GGUF, which upstream can't read; take {HIGH}"),
    Made(f"{NATIVE}/diffusion_models/wan2.2_ti2v_5B_fp16.safetensors", {"patch_embedding.weight": ("F16", [3072, 48, 1, 2, 2]), "blocks.0.cross_attn.k.weight": ("F16", [3072, 3072])}, "not used: it is Wan 2.2's TI2V 5B, which upstream can't train"),
    Made(f"{NATIVE}/diffusion_models/wan2.1_vace_14B_fp16.safetensors", {**T2V, "vace_blocks.0.after_proj.weight": ("F16", [8, 8])}, "not used: it is made for VACE, which no preset trains"),
    Made(f"{NATIVE}/diffusion_models/diffusers.safetensors", {"condition_embedder.time_proj.weight": ("F16", [8]), "blocks.0.attn1.to_q.weight": ("F16", [8, 8])}, "not used: it is none of those that upstream loads (Wan 2.1 T2V 1.3B"),
    Made(f"{NATIVE}/diffusion_models/Rapid-AIO.safetensors", {**prefixed(T2V), "vae.decoder.conv1.weight": ("F16", [1])}, "not used: it is none of those that upstream loads (Wan 2.1 T2V 1.3B"),
    Made(f"{NATIVE}/diffusion_models/Wan2.2_Remix_t2v_14b_high_lighting_v0.9_dyno.safetensors", prefixed(FP8), "not used: upstream loads it, but by its name (remix, lighting, v0, 9, dyno) it may be a finetune or merge of wan2.2-t2v-high: only you can say, with --dit_high"),
    Made(f"{NATIVE}/diffusion_models/merged.safetensors", BF16, "not used: upstream loads it, but its name (merged) doesn't tell whether it is wan2.1-t2v-14b or wan2.2-t2v-high or wan2.2-t2v-low: only you can say, with --dit or --dit_high or --dit_low"),
    Made(f"{NATIVE}/diffusion_models/cut.safetensors", (200).to_bytes(8, "little") + b'{"a":{"dtype":"F16","shape":[4],"data_offsets":[0,8]}}' + b" " * 146 + b"abc", "not used: it is cut off: 211 of 216 bytes are there; get it again"),
    Made(f"{NATIVE}/diffusion_models/monstrous.safetensors", (10**12).to_bytes(8, "little") + b"{}" * 50, "not used: it is not a safetensors file"),
    Made(f"{NATIVE}/diffusion_models/lying.safetensors", (56).to_bytes(8, "little") + b'{"a":{"dtype":"F16","shape":[9],"data_offsets":[0,8]}}  ' + bytes(8), "not used: it is damaged (a has another size than its shape says)"),
    Made(f"{NATIVE}/diffusion_models/gone.safetensors", "nowhere/at/all.safetensors", "not used: it is a broken link, to nowhere/at/all.safetensors"),
    Made(f"{NATIVE}/diffusion_models/halfway.safetensors", T2V, "not used: it is still being downloaded", aria2=True),
    Made(f"{NATIVE}/vae/qwen_image_vae.safetensors", rows("vae", "BF16"), "not used: it is Qwen-Image's VAE", QWEN),
    Made(f"{NATIVE}/vae/ae.safetensors", rows("vae", "BF16"), "not used: it is Qwen-Image's VAE", QWEN),
    Made(f"{NATIVE}/vae/wan_video_vae.safetensors", rows("vae", "BF16"), "not used: another is used", KIJAI_VAE),
    Made(f"{NATIVE}/vae/wan2.2_vae.safetensors", {"decoder.conv1.weight": ("BF16", [1024]), "conv2.weight": ("BF16", [48, 48, 1, 1, 1]), "decoder.upsamples.0.upsamples.0.residual.2.weight": ("BF16", [8])}, "not used: it is the VAE of Wan 2.2's 5B model; all others use Wan 2.1's; take wan_2.1_vae.safetensors"),
    Made(f"{NATIVE}/vae/sdxl_vae.safetensors", {"decoder.conv_in.weight": ("F16", [8, 8]), "encoder.down_blocks.0.x.weight": ("F16", [8])}, "not used: it is none of those that upstream loads (Wan 2.1's VAE"),
    Made(f"{NATIVE}/text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors", {"shared.weight": ("F8_E4M3", [256384, 4096]), "scaled_fp8": ("F8_E4M3", [2])}, "not used: it is already scaled or quantised (it holds scaled_fp8), which upstream can't read; take models_t5"),
    Made(f"{NATIVE}/text_encoders/t5xxl_fp16.safetensors", {"shared.weight": ("F16", [32128, 4096]), "encoder.block.0.layer.0.SelfAttention.q.weight": ("F16", [8, 8])}, "not used: it is none of those that upstream loads (UMT5-XXL in Wan's key names"),
    Made(f"{NATIVE}/text_encoders/umt5_xxl_fp16.safetensors", COMFY_T5, "not used: another is used", COMFY_MARK),
    Made(f"{NATIVE}/text_encoders/umt5-xxl-enc-fp8_e4m3fn.safetensors", {name: ("F8_E4M3", shape) for name, (_, shape) in rows("t5").items()}, "not used: it is fp8, rounded once and for all"),
    Made(f"{NATIVE}/clip_vision/clip_vision_h.safetensors", {"vision_model.embeddings.class_embedding": ("F16", [1280])}, "not needed: only Wan 2.1 I2V takes a CLIP"),
    Made(f"{NATIVE}/clip_vision/open-clip-xlm-roberta-large-vit-huge-14_visual_fp16.safetensors", {name: row for name, row in rows("clip").items() if name.startswith("visual.")}, "not needed: only Wan 2.1 I2V"),
    Made(f"{NATIVE}/loras/lightning/high_noise_model.safetensors", lora(), "not needed", published("lightning-i2v-v1-high")),
    Made(f"{NATIVE}/loras/renamed_lightning.safetensors", lora(), "used for lightning-t2v-v1.1-high", published("lightning-t2v-v1.1-high")),
    Made(f"{NATIVE}/loras/wan2.2_t2v_lightx2v_4steps_lora_v1.1_low_noise.safetensors", lora(), "not used: it has the size of Comfy-Org/Wan_2.2_ComfyUI_Repackaged's wan2.2_t2v_lightx2v_4steps_lora_v1.1_low_noise.safetensors, but another content", "f" * 64),
    # names, types and sizes that are nearly right
    Made(f"{NATIVE}/loras/wan2.2_t2v_lightx2v_4steps_lora_v1.1_low_noise_kijai/Wan2.2-Lightning_T2V-v1.1-A14B-4steps-lora_LOW_fp16.safetensors", lora(dtype="F16"), "not used: it is none of the releases that the presets merge"),
    Made(f"{NATIVE}/diffusion_models/wan2.2_t2v_high_noise_14B_融合_fp16.safetensors", BF16, "not used: upstream loads it, but by its name (融合) it may be a finetune or merge of wan2.2-t2v-high"),
    Made(f"{NATIVE}/diffusion_models/wan2.2_t2v_high_noise_14B_0.7_0.3.safetensors", BF16, "not used: upstream loads it, but by its name (0, 7, 0, 3) it may be a finetune or merge of wan2.2-t2v-high"),
    Made(f"{NATIVE}/diffusion_models/Wan2.2-Remix-T2V/high_noise_model/model.safetensors", BF16, "not used: upstream loads it, but by its name (model) it may be a finetune or merge of wan2.2-t2v-high"),
    Made(f"{NATIVE}/diffusion_models/comfyui_prefix.safetensors", prefixed(T2V, "diffusion_model."), "not used: it is none of those that upstream loads (Wan 2.1 T2V 1.3B"),
    Made(f"{NATIVE}/diffusion_models/wan2.2_t2v_high_noise_14B_fp8_e5m2.safetensors", {name: ("F8_E5M2", shape) for name, (_, shape) in T2V.items()}, f"not used: it stores blocks.0.cross_attn.k.bias as F8_E5M2, which upstream can't train with; take {HIGH}"),
    Made(f"{NATIVE}/text_encoders/umt5_int8.safetensors", {name: ("I8", shape) for name, (_, shape) in rows("t5").items()}, "not used: it stores"),
    Made(f"{NATIVE}/text_encoders/umt5-base.safetensors", {name.replace("block.23", "block.11"): (dtype, [side // 4 if side in (4096, 10240) else side for side in shape]) for name, (dtype, shape) in COMFY_T5.items() if not re.search(r"block\.(1[2-9]|2[0-2])\.", name)}, "not used: it is none of those that upstream loads (UMT5-XXL in Wan's key names"),
    Made(f"{NATIVE}/text_encoders/headless.safetensors", {name: row for name, row in rows("t5").items() if name != "norm.weight"}, "not used: it is none of those that upstream loads (UMT5-XXL in Wan's key names"),
    Made(f"{NATIVE}/vae/my_wan_vae.pth", 507_609_880, "not used: it has the size of Wan-AI/Wan2.1-T2V-14B's Wan2.1_VAE.pth, but another content", "d" * 64),
    Made(f"{NATIVE}/text_encoders/somebodys_t5.pth", 11_361_920_418, "used for t5", published("t5")),
    Made(f"{NATIVE}/text_encoders/preallocated.pth", 11_361_920_418, "not used: it is still being downloaded", aria2=True),
    Made(f"{NATIVE}/vae/prefixed_wan_vae.safetensors", prefixed(rows("vae")), "not used: it is none of those that upstream loads (Wan 2.1's VAE"),
    Made(f"{NATIVE}/vae/itself.safetensors", "itself.safetensors", "not used: it is a broken link"),
    # Portable: another level, and bf16 under a plain name of the community's
    Made(f"{PORTABLE}/diffusion_models/wan22_t2v_14B_low_noise_bf16.safetensors", BF16, "not used: another is used"),
    Made(f"{PORTABLE}/diffusion_models/Wan2_1-I2V-14B-480P_bf16.safetensors", {name: ("BF16", shape) for name, (_, shape) in I2V21.items()}, "not needed (Wan 2.1 I2V 14B"),
    Made(f"{PORTABLE}/diffusion_models/wan2.1_t2v_1.3B_fp16.safetensors", prefixed(rows("t2v-1.3B")), "not needed (Wan 2.1 T2V 1.3B)"),
    Made(f"{PORTABLE}/vae/Wan2_1_VAE_fp32.safetensors", rows("vae", "F32"), "not used: another is used"),
    # Stability Matrix' shared store
    Made(f"{STABILITY}/DiffusionModels/{LOW}", T2V, f"not used: it has the size of Comfy-Org/Wan_2.2_ComfyUI_Repackaged's {LOW}, but another content: its sha256 is eeeeeeee...; get it again", "e" * 64),
    Made(f"{STABILITY}/TextEncoders/umt5-xxl-enc-bf16.safetensors", rows("t5", "BF16"), "not used: another is used", KIJAI_T5, {"format": "pt"}),
    Made(f"{STABILITY}/VAE/Wan2.1_VAE.pth", 507_609_880, "not used: another is used", VAE_PTH),
    Made(f"{STABILITY}/VAE/wan_2.1_vae.safetensors", rows("vae", "BF16"), "used for vae", published("vae"), {"x": "y" * 9048}),
    # the Desktop app's folder, and one that extra_model_paths.yaml names
    Made(f"{DESKTOP}/clip/models_t5_umt5-xxl-enc-bf16.pth", 1000, "not used: it has 1,000 bytes instead of 11,361,920,418; get it again"),
    Made(f"{EXTRA}/dits/flf2v.safetensors", rows("flf2v-14B"), "not used: it is none of those that upstream loads (Wan 2.1 T2V 1.3B"),
    Made(f"{EXTRA}/dits/fun_control.safetensors", rows("fun-control"), "not used: it is none of those that upstream loads (Wan 2.1 T2V 1.3B"),
    # the Hugging Face cache: links into blobs, a set of shards
    *(Made(f"{HUB}/high_noise_model/diffusion_pytorch_model-0000{n}-of-00002.safetensors", dict(list({k: ("F32", s) for k, (_, s) in T2V.items()}.items())[n - 1 :: 2]), "not used: upstream loads it, but by its name (diffusion_pytorch_model-00001-of-00002) it may be" if n == 1 else "") for n in (1, 2)),
]  # fmt: skip


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """All of it, with what ties the installations together."""
    root = tmp_path / "machine"
    for made in TREE:
        path = root / made.path
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(made.tensors, dict):
            sparse(path, made.tensors, made.metadata)
        elif isinstance(made.tensors, bytes):
            path.write_bytes(made.tensors)
        elif isinstance(made.tensors, str):
            path.symlink_to(made.tensors)
        else:
            path.write_bytes(b"PK\x03\x04")
            os.truncate(path, made.tensors)
        if made.aria2:
            path.with_name(f"{path.name}.aria2").touch()
    (root / NATIVE / "vae" / "loop").symlink_to(root / NATIVE)
    (root / NATIVE / "checkpoints").mkdir()
    sparse(root / NATIVE / "diffusion_models" / "flux.safetensors", {"double_blocks.0.x.weight": ("F16", [8])})
    sparse(root / NATIVE / "loras" / "mine.safetensors", lora(rank=4))
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
    return {
        str(path): ((info := path.lstat()).st_size, info.st_mtime_ns, info.st_ino)
        for path in [root, *sorted(root.rglob("*"))]
    }


def remember(root: Path) -> None:
    """What a computation of 28 GB would find."""
    for made in TREE:
        if made.sha256:
            marks.keep(root / made.path, made.sha256)


def options(root: Path) -> list[str]:
    homes = ("ComfyUI", "portable/ComfyUI_windows_portable", "stability/Data/Packages/ComfyUI", "Documents/ComfyUI")
    return [word for home in homes for word in ("--comfyui_dir", str(root / home))]


def test_each_file_of_a_tree_gets_its_verdict(tree: Path, wanwrap: Wanwrap) -> None:
    remember(tree)
    before = snapshot(tree)
    env = {"HF_HUB_CACHE": str(tree / "hub")}
    done = wanwrap("setup", "t2v-lightning", "--weights_only", "--dry_run", "--json", *options(tree), **env)
    assert done.returncode == 0, done.stderr
    said = {file["path"]: file["why"] for file in json.loads(done.stdout)["files"]}
    seen = {os.path.realpath(tree / made.path): made for made in TREE if made.says}
    told = {os.path.realpath(path): why for path, why in said.items()}
    wrong = [
        f"{made.path}: {told.get(path)}" for path, made in seen.items() if not str(told.get(path)).startswith(made.says)
    ]
    assert not wrong
    assert told.keys() - seen.keys() == set() and seen.keys() - told.keys() == set()
    assert len(said) == len(told) >= 40
    assert "which is not there" in done.stderr and "more dits" in done.stderr
    assert snapshot(tree) == before
    plain = wanwrap("setup", "t2v-lightning", "--weights_only", "--dry_run", *options(tree), **env)
    assert "and 2 of other models, or LoRAs of yours" in plain.stdout
    assert all(f"    {Path(path).name}: {why}\n" in plain.stdout for path, why in said.items())
    assert snapshot(tree) == before


def test_inspect_tells_of_each_file_what_setup_goes_by(tree: Path, wanwrap: Wanwrap) -> None:
    remember(tree)
    files = [tree / made.path for made in TREE]
    done = wanwrap("inspect", "--json", *files)
    found = json.loads(done.stdout)
    assert [row["path"] for row in found] == [str(path) for path in files]
    assert all({"path", "role", "usable", "reason"} <= row.keys() for row in found)
    vision = ("clip_vision_h.safetensors", "open-clip-xlm-roberta-large-vit-huge-14_visual_fp16.safetensors")
    good = (
        "used",
        "not needed",
        "not used: another",
        "not used: upstream loads",
        "not used: it is none of the releases",
        "not used: it is fp8",
    )
    for made, row in zip(TREE, found, strict=True):
        assert row["usable"] is ((not made.says or made.says.startswith(good)) and not made.path.endswith(vision)), row
    roles = {Path(row["path"]).name: row["role"] for row in found}
    assert roles["Wan2.2-T2V-High-Q4_K_M.gguf"] == roles["Rapid-AIO.safetensors"] == roles[HIGH] == "dit"
    assert roles["ae.safetensors"] == "vae" and roles["t5xxl_fp16.safetensors"] == "t5"
    assert roles["clip_vision_h.safetensors"] == "clip" and roles["renamed_lightning.safetensors"] == "lora"
    assert done.returncode == 5  # the broken link
    text = wanwrap("inspect", tree / TREE[0].path).stdout
    assert "NOT usable: it is already scaled" in text and "dit: Wan T2V 14B" in text


def test_what_the_clip_is_said_to_be(tree: Path, wanwrap: Wanwrap) -> None:
    home = ("--comfyui_dir", tree / "ComfyUI")
    said = wanwrap("setup", "wan21-i2v-480p", "--weights_only", "--dry_run", *home).stdout
    assert "clip_vision_h.safetensors: not used: it is no whole CLIP in Wan's key names" in said
    assert "visual_fp16.safetensors: not used: it is no whole CLIP" in said
    assert "wan2.1-i2v-480p  download" in said and "Tokenizer of clip: in the Hugging Face cache" in said


def test_a_lora_in_full(tmp_path: Path, wanwrap: Wanwrap) -> None:
    mine = sparse(
        tmp_path / "a.safetensors", lora(lambda name: "lora_unet_" + name.replace(".", "_"), 16, dtype="BF16")
    )
    peft = {name.replace("lora_down", "lora_A").replace("lora_up", "lora_B"): row for name, row in lora("base_model.model.{}".format, 8, 1536).items() if not name.endswith("alpha")}  # fmt: skip
    other = sparse(tmp_path / "b.safetensors", peft)
    flux = sparse(tmp_path / "c.safetensors", {"double_blocks.0.img_attn.qkv.lora_A.weight": ("F16", [4, 8]), "double_blocks.0.img_attn.qkv.lora_B.weight": ("F16", [8, 4])})  # fmt: skip
    loha = sparse(tmp_path / "d.safetensors", {"lora_unet_blocks_0_self_attn_q.hada_w1_a": ("F16", [5120, 4])})
    found = json.loads(wanwrap("inspect", "--json", mine, other, flux, loha).stdout)
    assert found[0]["lora"] == {"format": "musubi-tuner", "rank": 16, "alpha": 0.0, "modules": 400, "model": "Wan 14B"}
    assert found[1]["lora"] == {"format": "peft", "rank": 8, "alpha": None, "modules": 400, "model": "Wan 1.3B"}
    assert [row["usable"] for row in found] == [True, True, False, False]
    assert "another model than Wan" in found[2]["reason"] and "hada_w1_a" in found[3]["reason"]


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda _: None, "there is no folder"),
        (lambda home: home.mkdir(), "is no ComfyUI: there is no models folder with diffusion_models"),
        (lambda home: home.touch(), "there is no folder"),
        (lambda home: yaml(home, "comfyui:\n\tunet: x\n"), "is no YAML in line 2"),
        (lambda home: yaml(home, "a: [1"), "mend it"),
        (lambda home: yaml(home, "just words"), "is no ComfyUI"),
    ],
)
def test_a_comfyui_that_is_none(break_it: Callable[[Path], None], words: str, tmp_path: Path, wanwrap: Wanwrap) -> None:
    break_it(tmp_path / "comfy")
    done = wanwrap("setup", "--weights_only", "--dry_run", "--comfyui_dir", tmp_path / "comfy")
    assert done.returncode == 5 and words in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "home" / "local_training").exists()


def yaml(home: Path, text: str) -> None:
    home.mkdir()
    (home / "extra_model_paths.yaml").write_text(text)


JUNK: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, -1, 0, 1.5, "x", "F16", "\ud800", [], [2, 2], [[]], {}, {"a": 1}, 10**30]
)
NAMES = st.sampled_from([*list(rows("vae"))[:9], *list(COMFY_T5)[:6], *list(lora(rank=2))[:6], "patch_embedding.weight", "x.lora_down.weight", "conv2.weight", "\ud800", "__metadata__"])  # fmt: skip


@given(
    st.dictionaries(
        NAMES,
        JUNK
        | st.fixed_dictionaries(
            {"dtype": JUNK | st.just("F16"), "shape": JUNK, "data_offsets": JUNK | st.just([0, 0])}
        ),
        max_size=8,
    )
)
def test_no_header_is_too_strange_for_a_verdict(header: dict[str, object]) -> None:
    text = json.dumps(header).encode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "wan_vae.safetensors")
        path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
        assert look(path).reason
