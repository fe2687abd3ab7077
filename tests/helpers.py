"""What the tests share: media and weight files that are as small as can be, and the plans of the golden files."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from PIL import Image

from wanwrap.data.folder import arrange
from wanwrap.data.media import Item
from wanwrap.plan.plan import Plan
from wanwrap.plan.planner import make_plan
from wanwrap.plan.request import Request, samples
from wanwrap.preset import load
from wanwrap.upstream.pin import COMMIT, VERSION, Upstream
from wanwrap.weights.locate import locate

ROOT = Path(__file__).resolve().parent.parent
STANDIN = Path(__file__).resolve().parent / "standin"
GOLDEN = Path(__file__).resolve().parent / "golden"
TOYS = Path(__file__).resolve().parent / "toys"
PYTHONPATH = f"{TOYS}{os.pathsep}{ROOT}"  # toys are models in each process that begins with it

# a block of UMT5: as ComfyUI names its tensors, and as Wan does
T5_BLOCK = {
    "layer.0.SelfAttention.q": "attn.q",
    "layer.0.SelfAttention.k": "attn.k",
    "layer.0.SelfAttention.v": "attn.v",
    "layer.0.SelfAttention.o": "attn.o",
    "layer.0.SelfAttention.relative_attention_bias": "pos_embedding.embedding",
    "layer.0.layer_norm": "norm1",
    "layer.1.layer_norm": "norm2",
    "layer.1.DenseReluDense.wi_0": "ffn.gate.0",
    "layer.1.DenseReluDense.wi_1": "ffn.fc1",
    "layer.1.DenseReluDense.wo": "ffn.fc2",
}

Wanwrap = Callable[..., "subprocess.CompletedProcess[str]"]


def record(tmp_path: Path) -> list[dict[str, Any]]:
    """What reached the stand-in, call by call."""
    return [json.loads(line) for line in (tmp_path / "record.jsonl").read_text(encoding="utf-8").splitlines()]


def compare(path: Path, text: str, update: bool) -> None:
    """With a golden file, or into one."""
    if update:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text


# What makes toys the published files, in every process that wanwrap starts with its folder on the path.
CUSTOM = """
import json, dataclasses
import toy_models
from pathlib import Path
from wanwrap.weights.catalogue import CATALOGUE, TOKENIZERS
rows = json.loads(Path(__file__).with_name("rows.json").read_text())
for name in rows.keys() & CATALOGUE.keys():
    CATALOGUE[name] = dataclasses.replace(CATALOGUE[name], **rows[name])
for name, files in rows.get("tokenizers", {}).items():
    TOKENIZERS[name] = dataclasses.replace(TOKENIZERS[name], files=files)
"""


def published(tmp_path: Path, rows: dict[str, Any]) -> dict[str, str]:
    """The environment in which the catalogue has these `{name: {field: value}}`."""
    custom = tmp_path / "custom"
    custom.mkdir(exist_ok=True)
    (custom / "sitecustomize.py").write_text(CUSTOM)
    (custom / "rows.json").write_text(json.dumps(rows))
    return {"PYTHONPATH": f"{custom}{os.pathsep}{PYTHONPATH}"}


def picture(path: Path, size: tuple[int, int] = (640, 384), caption: str | None = "a red balloon") -> Path:
    """A picture with its caption."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "#8cc4ee").save(path)
    return captioned(path, caption)


def captioned(path: Path, caption: str | None) -> Path:
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return path


def clip(
    path: Path,
    frames: int = 40,
    fps: int | Fraction = 16,
    size: tuple[int, int] = (64, 48),
    caption: str | None = "it flies",
) -> Path:
    """A clip with its caption."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        scene = av.VideoFrame.from_image(Image.new("RGB", size, "#8cc4ee"))  # type: ignore[no-untyped-call]
        for _ in range(frames):
            scene.pts = None
            container.mux(stream.encode(scene))
        container.mux(stream.encode())
    return captioned(path, caption)


def safetensors(path: Path, tensors: dict[str, tuple[str, list[int]]], metadata: dict[str, str] | None = None) -> Path:
    """A whole safetensors file of zeros: `{name: (dtype, shape)}`."""
    widths, end, rows = {"F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "I8": 1}, 0, dict[str, Any]()
    if metadata:
        rows["__metadata__"] = metadata
    for name, (dtype, shape) in tensors.items():
        size = widths[dtype]
        for side in shape:
            size *= side
        rows[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(rows).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))
    return path


def lora(
    path: Path,
    rank: int = 8,
    alpha: float = 8.0,
    metadata: dict[str, str] | None = None,
    modules: Mapping[str, tuple[int, ...]] = {"blocks.0.cross_attn.k": (4, 4)},
    key: Callable[[str], str] = lambda name: f"lora_unet_{name.replace('.', '_')}",
) -> Path:
    """A LoRA in upstream's own format, of zeros but for its alphas; `modules` are `{name: (out, in)}`."""
    rows = {f"{key(name)}.{part}": shape for name, (out, into) in modules.items() for part, shape in (("lora_down.weight", [rank, into]), ("lora_up.weight", [out, rank]), ("alpha", []))}  # fmt: skip
    safetensors(path, {name: ("F32", shape) for name, shape in rows.items()}, metadata)
    content = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    for name, row in json.loads(content[8:start]).items():
        if name.endswith(".alpha"):
            struct.pack_into("<f", content, start + row["data_offsets"][0], alpha)
    path.write_bytes(content)
    return path


def grow(path: Path, size: int) -> None:
    """A file becomes so many bytes long, of which the disk has none."""
    if sys.platform == "win32":
        subprocess.run(["fsutil", "sparse", "setflag", str(path)], check=True, capture_output=True)
    os.truncate(path, size)


def dit(path: Path, dtype: str = "F16", prefix: str = "", metadata: dict[str, str] | None = None) -> Path:
    """A DiT by the one tensor that upstream looks at."""
    return safetensors(path, {f"{prefix}blocks.0.cross_attn.k.weight": (dtype, [4, 4])}, metadata)


def toy_weights(folder: Path) -> list[str]:
    """Every file that a Wan 2.2 run reads; the options that give them."""
    high, low = dit(folder / "high.safetensors"), dit(folder / "low.safetensors")
    vae = safetensors(folder / "vae.safetensors", {"decoder.conv1.weight": ("F16", [1]), "conv2.weight": ("F16", [16])})
    t5 = folder / "t5.pth"
    t5.write_bytes(b"PK\x03\x04")
    return ["--dit_high", str(high), "--dit_low", str(low), "--vae", str(vae), "--t5", str(t5)]


def small_dataset(folder: Path) -> Path:
    """Two pictures and a clip: three batches and three windows an epoch."""
    picture(folder / "images" / "one.png")
    picture(folder / "images" / "two.jpg", (384, 576))
    clip(folder / "videos" / "three.mp4", frames=73)
    return folder


def comfy_names(blocks: Iterable[int]) -> dict[str, str]:
    """`{ComfyUI's: Wan's}` names of a text encoder."""
    return {
        "shared.weight": "token_embedding.weight",
        "encoder.final_layer_norm.weight": "norm.weight",
        **{
            f"encoder.block.{n}.{theirs}.weight": f"blocks.{n}.{native}.weight"
            for n in blocks
            for theirs, native in T5_BLOCK.items()
        },
    }


def golden_plan(name: str, train: Mapping[str, Any] = {}, **asked: Any) -> Plan:
    """The plan on a machine where every path is short; `train` changes the preset, `asked` are a Request's fields."""
    preset, base = load(name), Path("/training")
    preset = replace(preset, train={**preset.train, **train})
    cats = Path("/datasets/cats")
    pictures = tuple(
        Item(path=cats / "images" / f"{i}.png", kind="image", size=size)
        for i, size in enumerate([(1024, 768), (1920, 1080)])
    )
    run = Item(path=cats / "videos" / "run.mp4", kind="video", size=(1280, 720), frames=150, fps=24.0)
    items = [*(pictures if preset.pictures else ()), *([run] if preset.clips else ())]
    data = arrange(cats, items, preset)
    upstream = Upstream(folder=Path("/musubi-tuner"), version=VERSION, commit=COMMIT)
    request = Request(preset=preset, base_dir=base, upstream=upstream, python="python", **asked)
    if "sample_prompts" not in request.given:  # a file that no test reads here
        request = replace(request, samples=samples(request))
    return make_plan(request, data, {key: locate(key, base / "models", None) for key in request.needed})
