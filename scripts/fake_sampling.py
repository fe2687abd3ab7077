"""Upstream's sampling on models of full size without numbers: a DiT's forward pass, the VAE and the text encoder.

Imports upstream: for the training Python.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from caching_allocator import Event
from fake_upstream import BF16, Autocast, Shape, batch_of, linear, load
from memory_trace import Trace
from musubi_tuner.networks import lora_wan
from musubi_tuner.wan.configs import WAN_CONFIGS
from musubi_tuner.wan.modules import t5, vae
from torch._subclasses import fake_tensor
from torch.nn import functional

from wanwrap.upstream.buckets import tokens
from wanwrap.upstream.dit import blocks
from wanwrap.upstream.sampling_memory import SamplingNeed


def normalize(x: Any, dim: int) -> Any:
    """As with CUDA's autocast, which has a norm give float32."""
    return x / torch.linalg.vector_norm(x, 2, dim, keepdim=True, dtype=torch.float32).clamp_min(1e-12).expand_as(x)


functional.normalize = normalize  # type: ignore[assignment, unused-ignore]


@contextmanager
def sampling() -> Iterator[Trace]:
    """Fake tensors as upstream samples: no gradients, autocast."""
    trace = Trace()
    with fake_tensor.FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), Autocast("cpu"):
        yield trace


def hook(model: Any, rank: int) -> Any:
    """A LoRA of this rank on all Linears of the blocks."""
    state = dict[str, Any]()
    for name, module in model.blocks.named_modules():
        if isinstance(module, torch.nn.Linear):
            key = f"lora_unet_blocks_{name.replace('.', '_')}"
            state[f"{key}.lora_down.weight"] = torch.empty(rank, module.in_features)
            state[f"{key}.lora_up.weight"] = torch.empty(module.out_features, rank)
            state[f"{key}.alpha"] = torch.tensor(rank)
    network = lora_wan.create_arch_network_from_weights(1.0, state, unet=model, for_inference=True)
    network.apply_to(None, model, False, True)
    network.load_state_dict(state, assign=True)
    return network.requires_grad_(False)


def denoise(need: SamplingNeed, options: dict[str, Any]) -> tuple[Trace, list[Event]]:
    """Two forward passes of the last of its DiTs, and what rests on the GPU before them."""
    config, given = WAN_CONFIGS[need.task], {**need.trained(options), **options}
    count, models, networks = blocks(need.task), list[Any](), list[Any]()
    with sampling() as trace:
        for _ in range(need.dits):
            model = load(config, given, count).eval()
            models.append(model)
            networks += [hook(model, rank) for rank in need.ranks]
            trace.hold(linear(model.blocks[count - (given["blocks_to_swap"] or 0) :]), "weights", in_ram=True)
            trace.hold(model.state_dict().values(), "weights")
        trace.hold((each for network in networks for each in network.parameters()), "lora")
        resting, batch = [*trace.events], batch_of(config, (*need.size, need.frames))
        inputs = {"context": batch["t5"], "seq_len": tokens((*need.size, need.frames))}
        if config.i2v:
            inputs["y"] = [batch["latents_image"][0]]
            inputs["clip_fea"] = None if config.v2_2 else batch["clip"]
        with trace:
            for _ in range(2):
                model([batch["latents"][0]], t=torch.tensor([500.0]), **inputs)
    return trace, resting


def wan_vae(trace: Trace, cache_in_ram: bool) -> Any:
    """Upstream's VAE in bf16; "meta" stands for RAM."""
    with torch.device("meta"):
        model = vae.WanVAE_(dim=96, z_dim=16, temperal_downsample=[False, True, True])
    state = {name: torch.empty(each.shape, dtype=BF16) for name, each in model.state_dict().items()}
    model.load_state_dict(state, assign=True)
    trace.hold(state.values(), "weights")
    made = vae.WanVAE.__new__(vae.WanVAE)
    made.model, made.scale = model.eval().requires_grad_(False), [torch.empty(16, dtype=BF16)] * 2
    if cache_in_ram:
        model.set_cache_device(torch.device("meta"))
    return made


def decode(shape: Shape, cache_in_ram: bool = False) -> Trace:
    """A clip out of its latents."""
    width, height, frames = shape
    with sampling() as trace:
        model, latent = wan_vae(trace, cache_in_ram), torch.empty(1, 16, (frames - 1) // 4 + 1, height // 8, width // 8)
        with trace:
            model.decode(latent)
    return trace


def encode(shape: Shape, cache_in_ram: bool = False) -> Trace:
    """The first frame of a clip and the empty ones after it, into latents."""
    width, height, frames = shape
    with sampling() as trace:
        model, clip = wan_vae(trace, cache_in_ram), torch.empty(3, frames, height, width)
        with trace:
            model.encode([clip])
    return trace


def text(fp8: bool) -> Trace:
    """A prompt's embedding."""
    with torch.device("meta"):
        model = t5.umt5_xxl(encoder_only=True).to(BF16).eval().requires_grad_(False)
    kept = BF16
    if fp8:
        kept = torch.float8_e4m3fn
        model.to(kept).prepare_fp8(BF16)
    shapes = {name: (each.shape, each.dtype) for name, each in model.state_dict().items()}
    with sampling() as trace:
        model.load_state_dict(
            {name: torch.empty(shape, dtype=kind) for name, (shape, kind) in shapes.items()}, assign=True
        )
        trace.hold(model.state_dict().values(), "weights")
        ids = torch.zeros(1, 512, dtype=torch.long)
        with trace:
            model(ids, torch.ones(1, 512, dtype=torch.long))
    return trace
