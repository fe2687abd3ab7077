"""What the scripts share: upstream's options, its demands on a data set TOML, and a record of the call."""

from __future__ import annotations

import argparse
import json
import os
import struct
import sys
from pathlib import Path
from typing import Any

FLAGS = Path(__file__).resolve().parents[3] / "upstream_flags.json"
TYPES = {"int": int, "float": float, "Path": Path}
COMMON = {"resolution", "caption_extension", "batch_size", "num_repeats", "enable_bucket", "bucket_no_upscale"}
IMAGE = {"image_directory", "image_jsonl_file", "cache_directory"}
VIDEO = {
    "video_directory",
    "video_jsonl_file",
    "cache_directory",
    "target_frames",
    "frame_extraction",
    "frame_stride",
    "frame_sample",
    "max_frames",
    "source_fps",
}


def parser_of(script: str) -> argparse.ArgumentParser:
    """A parser as upstream's."""
    parser = argparse.ArgumentParser(prog=script)
    for flag, row in json.loads(FLAGS.read_text())["scripts"][script].items():
        if row["kind"] == "flag":
            parser.add_argument(flag, action="store_true")
        else:
            more = {key: row[key] for key in ("nargs", "choices", "required", "default") if key in row}
            parser.add_argument(flag, type=TYPES.get(row["type"], str), **more)
    return parser


def parse(script: str) -> argparse.Namespace:
    """The arguments, as upstream's parser takes them; they are recorded."""
    args = parser_of(script).parse_args()
    record(script, args)
    return args


def record(script: str, args: argparse.Namespace) -> None:
    """Append what reached this process to STANDIN_RECORD."""
    names = ("PYTHONPATH", "PYTHONUTF8", "PYTHONUNBUFFERED", "PYTORCH_CUDA_ALLOC_CONF", "NCCL_P2P_DISABLE")
    names += ("CUDA_VISIBLE_DEVICES", "WANDB_RUN_GROUP", "WANDB_NAME")
    line = {
        "script": script,
        "argv": sys.argv[1:],
        "cwd": str(Path.cwd()),
        "env": {name: os.environ.get(name) for name in names},
        "toml": Path(args.dataset_config).read_text(encoding="utf-8") if "dataset_config" in args else None,
    }
    with Path(os.environ["STANDIN_RECORD"]).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def datasets(path: str) -> list[dict[str, Any]]:
    """The entries of a TOML that upstream's schema accepts."""
    text = Path(path).read_text(encoding="utf-8")
    try:
        import tomllib  # starts quicker

        config = tomllib.loads(text)
    except ImportError:  # Python 3.10
        import tomlkit

        config = tomlkit.parse(text).unwrap()
    assert set(config) <= {"general", "datasets"}, f"extra keys not allowed: {set(config)}"
    assert set(config.get("general", {})) <= COMMON, "extra keys not allowed in [general]"
    entries = [{**config.get("general", {}), **table} for table in config["datasets"]]
    for table in config["datasets"]:
        allowed = COMMON | (VIDEO if {"video_directory", "video_jsonl_file"} & set(table) else IMAGE)
        assert set(table) <= allowed, f"extra keys not allowed: {set(table) - allowed}"
        assert type(table.get("source_fps", 1.0)) is float, "expected float for source_fps"
    caches = [entry["cache_directory"] for entry in entries]
    assert len(set(caches)) == len(caches), "cache directory should be unique for each dataset"
    return entries


def encode(args: argparse.Namespace, what: Any, tensors: list[str]) -> None:
    """Empty files under the names that wanwrap expects; the tests with the real upstream tell whether it is right."""
    sys.path.append(str(FLAGS.parents[1]))  # a training Python may know nothing of wanwrap
    from wanwrap.data.caches import names
    from wanwrap.data.config import load

    for entry in load(Path(args.dataset_config)).entries:
        entry.cache.mkdir(parents=True, exist_ok=True)
        for name, _ in names(entry, what):
            if not (args.skip_existing and (entry.cache / name).exists()):
                write(entry.cache / name, {tensor: ("F16", [0], b"") for tensor in tensors})


def write(path: Path, tensors: dict[str, tuple[str, list[int], bytes]], metadata: dict[str, str] | None = None) -> None:
    """A safetensors file: `{name: (dtype, shape, content)}`."""
    rows: dict[str, Any] = {}
    end = 0
    if metadata:
        rows["__metadata__"] = metadata
    for name, (dtype, shape, content) in tensors.items():
        rows[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + len(content)]}
        end += len(content)
    text = json.dumps(rows).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(content for *_, content in tensors.values()))


def header(path: str | Path) -> dict[str, Any]:
    """A safetensors header."""
    with Path(path).open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        loaded: dict[str, Any] = json.loads(file.read(length))
        return loaded


def batches(path: str) -> int:
    """Batches of an epoch: of what lies in the caches, as upstream counts. wanwrap, which starts slowly, counts those of
    several pictures; the tests with the real upstream tell whether rightly."""
    entries = datasets(path)
    if all(entry.get("batch_size", 1) == 1 for entry in entries):
        return sum(entry.get("num_repeats", 1) * len(cached(entry)) for entry in entries)
    sys.path.append(str(FLAGS.parents[1]))
    from wanwrap.data.config import load

    return load(Path(path)).batches


def cached(entry: dict[str, Any]) -> list[Path]:
    """The latents in the cache of an entry."""
    return sorted(Path(entry["cache_directory"]).glob("*_wan.safetensors"))


def save(path: Path, dim: int, metadata: dict[str, str] | None = None, learned: float = 0.0) -> None:
    """A LoRA of one module, of one number."""
    module, content = "lora_unet_blocks_0_self_attn_q", struct.pack("<f", learned) * dim * 8
    shapes = {"lora_down": [dim, 8], "lora_up": [8, dim]}
    write(path, {f"{module}.{name}.weight": ("F32", shape, content) for name, shape in shapes.items()}, metadata)
