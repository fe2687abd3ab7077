"""What the scripts share: upstream's options, its demands on a data set TOML, and a record of the call."""

from __future__ import annotations

import argparse
import json
import os
import struct
from pathlib import Path
from typing import Any

FLAGS = Path(__file__).resolve().parents[3] / "upstream_flags.json"
TYPES = {"int": int, "float": float, "Path": Path}
COMMON = {"resolution", "caption_extension", "batch_size", "num_repeats", "enable_bucket", "bucket_no_upscale"}
IMAGE = {"image_directory", "image_jsonl_file", "cache_directory"}
VIDEO = {
    "video_directory",
    "cache_directory",
    "target_frames",
    "frame_extraction",
    "frame_stride",
    "frame_sample",
    "max_frames",
    "source_fps",
}


def parse(script: str) -> argparse.Namespace:
    """The arguments, as upstream's parser takes them; they are recorded."""
    parser = argparse.ArgumentParser(prog=script)
    for flag, row in json.loads(FLAGS.read_text())["scripts"][script].items():
        if row["kind"] == "flag":
            parser.add_argument(flag, action="store_true")
        else:
            more = {key: row[key] for key in ("nargs", "choices", "required", "default") if key in row}
            parser.add_argument(flag, type=TYPES.get(row["type"], str), **more)
    args = parser.parse_args()
    record(script, args)
    return args


def record(script: str, args: argparse.Namespace) -> None:
    """Append what reached this process to STANDIN_RECORD."""
    import sys

    names = ("PYTHONPATH", "PYTHONUTF8", "PYTHONUNBUFFERED", "PYTORCH_CUDA_ALLOC_CONF", "NCCL_P2P_DISABLE")
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
    import tomlkit

    config = tomlkit.parse(Path(path).read_text(encoding="utf-8")).unwrap()
    assert set(config) <= {"general", "datasets"}, f"extra keys not allowed: {set(config)}"
    assert set(config.get("general", {})) <= COMMON, "extra keys not allowed in [general]"
    entries = [{**config.get("general", {}), **table} for table in config["datasets"]]
    for table in config["datasets"]:
        allowed = COMMON | (VIDEO if "video_directory" in table else IMAGE)
        assert set(table) <= allowed, f"extra keys not allowed: {set(table) - allowed}"
        assert type(table.get("source_fps", 1.0)) is float, "expected float for source_fps"
    caches = [entry["cache_directory"] for entry in entries]
    assert len(set(caches)) == len(caches), "cache directory should be unique for each dataset"
    return entries


def header(path: str) -> dict[str, Any]:
    """A safetensors header."""
    with Path(path).open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        loaded: dict[str, Any] = json.loads(file.read(length))
        return loaded


def save(path: Path, dim: int) -> None:
    """A LoRA of one module."""
    down, up = dim * 8 * 2, 8 * dim * 2
    rows = {
        "lora_unet_blocks_0_self_attn_q.lora_down.weight": {
            "dtype": "F16",
            "shape": [dim, 8],
            "data_offsets": [0, down],
        },
        "lora_unet_blocks_0_self_attn_q.lora_up.weight": {
            "dtype": "F16",
            "shape": [8, dim],
            "data_offsets": [down, down + up],
        },
    }
    text = json.dumps(rows).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(down + up))
