"""Upstream's own models, shrunk until a bare CPU trains them in seconds.

The classes, the key names and the strict loading stay upstream's; only sizes
change, and the tokenizers, which upstream would fetch from the Hub. Every size
that upstream quantises block-wise to fp8 stays a multiple of its block, 64.
"""

import logging
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from musubi_tuner.wan.configs import WAN_CONFIGS
from musubi_tuner.wan.modules import clip, model, t5, vae
from safetensors.torch import save_file

VOCABULARY = 320
RANK = 4
DIT = {"dim": 256, "ffn_dim": 512, "num_heads": 2, "num_layers": 4}
T5 = {"vocab_size": VOCABULARY, "dim_attn": 64, "dim_ffn": 64, "num_heads": 1, "encoder_layers": 1}
VAE = {"dim": 16}
CLIP = {
    "embed_dim": 64,
    "vision_layers": 2,  # upstream leaves the last one out
    "vision_mlp_ratio": 0.05,
    "vocab_size": VOCABULARY,
    "text_dim": 64,
    "text_heads": 1,
    "text_layers": 1,
}
DTYPES = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8": torch.float8_e4m3fn,
}

_load_state_dict = torch.nn.Module.load_state_dict


def shrink() -> None:
    for config in WAN_CONFIGS.values():
        config.update(DIT)
    t5.umt5_xxl = partial(t5.umt5_xxl, **T5)
    vae._video_vae = partial(vae._video_vae, **VAE)
    clip.clip_xlm_roberta_vit_h_14 = partial(clip.clip_xlm_roberta_vit_h_14, **CLIP)
    t5.HuggingfaceTokenizer = clip.HuggingfaceTokenizer = ByteTokenizer


class ByteTokenizer:
    """A token a byte: 0 is padding, 1 the end, as in upstream's tokenizer."""

    def __init__(self, *_: Any, seq_len: int, **__: Any) -> None:
        self.seq_len = seq_len

    def __call__(self, sequence: str | list[str], return_mask: bool = False, **_: Any) -> Any:
        texts = [sequence] if isinstance(sequence, str) else sequence
        ids = torch.tensor([self._ids(text) for text in texts])
        return (ids, (ids > 0).long()) if return_mask else ids

    def _ids(self, text: str) -> list[int]:
        ids = [*(byte + 2 for byte in text.encode()[: self.seq_len - 1]), 1]
        return ids + [0] * (self.seq_len - len(ids))


def make(spec: dict[str, Any]) -> None:
    """Write {"task": …, "files": {path: {"role": …, "dtype": …, "prefix": …}}}."""
    logging.disable(logging.INFO)
    torch.manual_seed(0)
    torch.nn.Module.load_state_dict = _load_random
    for path, wanted in spec["files"].items():
        _save({}, path)
        if wanted["role"] == "lightning":
            weights = dict(_lightning(_load("dit", path, spec["task"]).state_dict()))
        else:
            weights = _load(wanted["role"], path, spec["task"]).state_dict()
        prefix, dtype = wanted.get("prefix", ""), wanted["dtype"]
        _save({prefix + name: _cast(name, value, dtype) for name, value in weights.items()}, path)
        print(f"toy {wanted['role']} {dtype}: {path}", flush=True)


def _load(role: str, path: str, task: str) -> Any:
    """The model that upstream's own loader builds, its weights from _load_random."""
    if role == "dit":
        config = WAN_CONFIGS[task]
        return model.load_wan_model(config, "cpu", path, "torch", False, "cpu", torch.float32)
    if role == "vae":
        return vae.WanVAE(vae_path=path, device="cpu").model
    if role == "t5":
        return t5.T5EncoderModel(512, torch.float32, "cpu", weight_path=path).model
    return clip.CLIPModel(torch.float32, "cpu", weight_path=path).model


def _lightning(dit: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """A LoRA for the blocks' matrices, under the names and with the alpha of lightx2v's files."""
    for name, weight in dit.items():
        if name.startswith("blocks.") and weight.ndim == 2:
            module = f"diffusion_model.{name.removesuffix('.weight')}"
            yield f"{module}.lora_down.weight", torch.randn(RANK, weight.shape[1]) * 0.1
            yield f"{module}.lora_up.weight", torch.randn(weight.shape[0], RANK) * 0.1
            yield f"{module}.alpha", torch.tensor(RANK)


def _load_random(module: Any, *_: Any, **__: Any) -> Any:
    weights = {name: _random(name, value) for name, value in module.state_dict().items()}
    return _load_state_dict(module, weights, strict=True, assign=True)


def _random(name: str, like: Any) -> Any:
    if like.ndim > 1:
        return torch.randn(like.shape) * float(like[0].numel()) ** -0.5
    return torch.ones(like.shape) if name.endswith("weight") else torch.zeros(like.shape)


def _cast(name: str, value: Any, dtype: str) -> Any:
    """In plain fp8 files only the matrices inside the blocks are fp8."""
    if not value.is_floating_point():
        return value
    matrix = "blocks." in name and name.endswith(".weight") and value.ndim > 1
    if dtype == "fp8" and not matrix:
        dtype = "bf16"
    return value.to(DTYPES[dtype]).contiguous()


def _save(weights: dict[str, Any], path: str) -> None:
    if path.endswith(".safetensors"):
        save_file(weights, path)
    else:
        torch.save(weights, path)
