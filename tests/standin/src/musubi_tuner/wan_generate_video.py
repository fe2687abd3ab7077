"""A stand-in for upstream's sampling: what it would make says of what it is made; STANDIN_SAMPLES ends it after so many."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from musubi_tuner import standin

CFG = SimpleNamespace(v2_2=True, sample_neg_prompt="ugly", t5_dtype="bf16")
MADE = list[str]()


def parse_args() -> argparse.Namespace:
    return standin.parser_of("wan_generate_video.py").parse_args()


def setup_args(args: argparse.Namespace) -> argparse.Namespace:
    return args


def get_generation_settings(args: Any) -> Any:
    standin.record("wan_generate_video.py", args)
    return SimpleNamespace(cfg=CFG, vae_dtype="bf16", dit_dtype="fp16", dit_weight_dtype=None)


class _Model:
    """Any model; a DiT has the LoRAs that are hooked onto it."""

    def __init__(self, path: str | None) -> None:
        assert path and Path(path).is_file(), f"there is no {path}"
        self.path, self.device, self.lora = path, "cuda", None

    @property
    def model(self) -> Any:
        return self

    def to(self, *_: Any) -> None: ...

    def to_device(self, *_: Any) -> None: ...

    def visual(self, _: Any) -> str:
        return "seen"

    def __call__(self, texts: list[str], _: Any) -> list[str]:
        return texts


def load_vae(args: Any, *_: Any) -> _Model:
    return _Model(args.vae)


def load_text_encoder(args: Any, *_: Any) -> _Model:
    return _Model(args.t5)


def load_clip_model(args: Any, *_: Any) -> _Model:
    return _Model(args.clip)


def load_dit_models(args: Any, *_: Any) -> list[_Model]:
    return [_Model(path) for path in (args.dit_high_noise, args.dit) if path]


def load_file(path: str) -> dict[str, Any]:
    """Its tensors by their names, and its own name."""
    names = [name for name in standin.header(path) if name != "__metadata__"]
    assert all(name.startswith("lora_unet_") for name in names), path
    return {**{name: SimpleNamespace(dtype="bf16") for name in names}, "path": SimpleNamespace(dtype=path)}


def clean_memory_on_device(_: Any) -> None: ...


def generate(args: Any, _: Any, shared: dict[str, Any]) -> dict[str, Any]:
    if len(MADE) == int(os.environ.get("STANDIN_SAMPLES", "-1")):
        print("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", file=sys.stderr)
        sys.exit(1)
    MADE.append(args.prompt)
    loras = [
        [Path(dit.lora.path).name, dit.lora.multiplier] for dit in shared["models"] if dit.lora and dit.lora.enabled
    ]
    return {"prompt": args.prompt, "loras": loras, "context": shared["encoded_contexts"][args.prompt]["context"]}


def save_output(latent: dict[str, Any], args: Any, *_: Any) -> None:
    folder = Path(args.save_path)
    folder.mkdir(parents=True)
    (folder / f"20261122-120000-001_{args.seed}__000.png").write_text(json.dumps(latent), encoding="utf-8")
