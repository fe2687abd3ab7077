"""Upstream's trainer on a model of full size without numbers: torch's fake tensors, on a CPU, as they would be with CUDA.

Imports upstream: for the training Python.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import init_empty_weights
from memory_trace import Trace
from torch._subclasses import fake_tensor
from torch.nn import functional
from torch.optim import adam

from wanwrap.upstream.memory import EMBEDDING
from wanwrap.upstream.options import spell

torch.cuda.current_device = lambda: 0  # upstream asks for one at import
logging.disable(logging.INFO)
from musubi_tuner import wan_train_network  # noqa: E402
from musubi_tuner.wan.modules import model  # noqa: E402

BF16, FP8 = torch.bfloat16, torch.float8_e4m3fn
Shape = tuple[int, int, int]  # width, height, frames


class Autocast(torch.amp.autocast):  # type: ignore[misc, unused-ignore]
    """The CPU's, doing what CUDA's does: it casts to float32 too, where it is told to."""

    def __init__(self, device_type: str, dtype: Any = BF16, enabled: bool = True, cache_enabled: bool = True) -> None:
        super().__init__(device_type, dtype=BF16, enabled=enabled, cache_enabled=cache_enabled)
        self.fast_dtype = dtype


def in_float32(function: Any) -> Any:
    """As CUDA's autocast calls what adds up or norms."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*(each.float() if isinstance(each, torch.Tensor) else each for each in args), **kwargs)

    return call


fake_tensor.CONSTANT_NUMEL_LIMIT = 4096  # sizes and lengths that upstream reads out of small tensors
torch.amp.autocast = torch.autocast = Autocast
torch.addcmul, functional.layer_norm = in_float32(torch.addcmul), in_float32(functional.layer_norm)
adam._get_value = lambda _: 1  # how many steps it has done
model.checkpoint = partial(model.checkpoint, preserve_rng_state=False)  # a fake generator has no state
wan_train_network.detect_wan_sd_dtype = lambda _: BF16
GPU = SimpleNamespace(device=torch.device("cpu"), print=print, autocast=partial(Autocast, "cpu"))  # an accelerator


class Move(torch.autograd.Function):  # type: ignore[misc, unused-ignore]
    """To RAM or onto the GPU; a gradient goes the other way. There is one device here."""

    @staticmethod
    def forward(ctx: Any, x: Any, trace: Trace, to_ram: bool) -> Any:
        ctx.trace, ctx.to_ram = trace, to_ram
        return trace.copy(x, in_ram=to_ram)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return ctx.trace.copy(gradient, in_ram=not ctx.to_ram), None, None


def offloading(trace: Trace) -> Any:
    """In place of upstream's wrapper for gradient_checkpointing_cpu_offload."""

    def wrap(block: Any, _: Any) -> Any:
        def call(x: Any, *rest: Any) -> Any:
            return Move.apply(block(Move.apply(x, trace, False) if trace.is_in_ram(x) else x, *rest), trace, True)

        return call

    return wrap


def weights(shapes: dict[str, Any], options: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """A DiT of a 16 bit file as upstream's loader leaves it: tensors without numbers."""
    for name, like in shapes.items():
        target = any(key in name for key in model.FP8_OPTIMIZATION_TARGET_KEYS) and name.endswith(".weight")
        target &= not any(key in name for key in model.FP8_OPTIMIZATION_EXCLUDE_KEYS)
        scaled = target and options.get("fp8_scaled")
        plain = options.get("fp8_base") and not options.get("fp8_scaled")
        yield name, torch.empty(like.shape, dtype=FP8 if scaled or plain else BF16)
        if scaled:
            yield (
                name.replace(".weight", ".scale_weight"),
                torch.empty(like.shape[0], like.shape[1] // 64, 1, dtype=BF16),
            )


def load(config: Any, options: dict[str, Any], count: int) -> Any:
    """Upstream's DiT of so many blocks."""
    sizes = ("dim", "eps", "ffn_dim", "freq_dim", "in_dim", "num_heads", "out_dim", "text_len")
    kinds = {"model_type": "i2v" if config.i2v else "t2v", "model_version": "2.2" if config.v2_2 else "2.1"}
    with init_empty_weights():
        found = model.WanModel(**kinds, num_layers=count, **{name: config[name] for name in sizes}, attn_mode="torch")
    state = dict(weights(found.state_dict(), options))
    model.apply_fp8_monkey_patch(found, state)
    found.load_state_dict(state, strict=True, assign=True)
    found.requires_grad_(False)
    found.set_time_embedding_v2_1(bool(options.get(EMBEDDING)))
    return found.train()


def optimizer(trainer: Any, args: Any, network: Any) -> Any:
    """What has `state` and `step`: upstream's AdamW; of others what they keep."""
    if args.optimizer_type == "adamw":
        args.optimizer_args = ["foreach=True"]  # torch's default on a GPU
        return trainer.get_optimizer(args, [*network.parameters()])[2]
    state = dict[Any, dict[str, Any]]()
    if args.optimizer_type == "adamw8bit":  # bitsandbytes: two of a byte, and a float32 for 256 each
        for number, each in enumerate(network.parameters()):
            kept = {f"state{i}": torch.empty(each.numel(), dtype=torch.uint8) for i in (1, 2)}
            state[number] = {**kept, **{f"absmax{i}": torch.empty(-(-each.numel() // 256)) for i in (1, 2)}}
    return SimpleNamespace(state=state, step=lambda: None)


def batch_of(config: Any, shape: Shape) -> dict[str, Any]:
    """A batch of one item, as upstream's data set gives it."""
    width, height, frames = shape
    latents = (1, 16, (frames - 1) // 4 + 1, height // 8, width // 8)
    found = {"latents": torch.empty(latents), "t5": [torch.empty(200, 4096, dtype=BF16)], "timesteps": None}
    if config.i2v:
        found["latents_image"] = torch.empty(1, 20, *latents[2:])
        found["clip"] = torch.empty(1, 257, 1280)
    return found


def mark(trace: Trace, transformer: Any, network: Any) -> None:
    """Name what comes: the blocks' inputs, gradients, and which block's backward pass it is."""
    count, parameters = len(transformer.blocks), [*network.parameters()]

    def take(parameter: Any) -> None:
        trace.hold([parameter.grad], "lora")
        done = sum(each.grad is not None for each in parameters) * count // len(parameters)
        trace.moment = {0: "last", count - 1: "first", count: "step"}.get(done, "between")

    for block in transformer.blocks:
        block.register_forward_pre_hook(lambda _, args: trace.hold(args[:1], "inputs"))
    for parameter in parameters:
        parameter.register_post_accumulate_grad_hook(take)


def linear(blocks: Any) -> list[Any]:
    """The weights that block swap moves."""
    return [each.weight for block in blocks for each in block.modules() if isinstance(each, torch.nn.Linear)]


def build(options: dict[str, Any], count: int, trace: Trace) -> tuple[Any, Any, Any, Any]:
    """Upstream's trainer, its options, the DiT, and the network in it."""
    parser = wan_train_network.wan_setup_parser(wan_train_network.setup_parser_common())
    trainer, args = wan_train_network.WanNetworkTrainer(), parser.parse_args(["--dit", "none", *spell(options)])
    trainer.handle_model_specific_args(args)
    model.create_cpu_offloading_wrapper = offloading(trace)
    transformer = load(trainer.config, options, count)
    network = trainer._build_network(args, GPU, transformer, None, None)
    network.prepare_grad_etc(transformer)
    if args.gradient_checkpointing_cpu_offload:  # upstream's own `to` does it on a GPU
        transformer.head.register_forward_pre_hook(lambda _, args: (Move.apply(args[0], trace, False), *args[1:]))
    return trainer, args, transformer, network


def follow(options: dict[str, Any], shape: Shape, count: int, swapped: int = 0) -> tuple[Trace, int]:
    """Two steps by upstream's trainer, and the bytes of a block that can be swapped.

    There are so many blocks; those that are swapped are the last ones, all the time.
    """
    trace = Trace()
    with fake_tensor.FakeTensorMode(allow_non_fake_inputs=True):
        trainer, args, transformer, network = build(options, count, trace)
        trace.hold(linear(transformer.blocks[count - swapped :]), "weights", in_ram=True)
        trace.hold(transformer.state_dict().values(), "weights")
        trace.hold(network.parameters(), "lora")
        mark(trace, transformer, network)
        batch, adam_like = batch_of(trainer.config, shape), optimizer(trainer, args, network)
        with trace:
            for _ in range(2):
                trace.flops, trace.moment = 0, "last"
                noise = torch.randn_like(batch["latents"])
                rest = (batch["latents"], noise, None, BF16, torch.float32, None, 0)
                trainer.process_batch(args, GPU, transformer, network, batch, *rest)[0].backward()
                adam_like.step()
                trace.hold((each for kept in adam_like.state.values() for each in kept.values()), "lora")
                network.zero_grad(set_to_none=True)
    return trace, sum(each.numel() * each.itemsize for each in linear(transformer.blocks[:1]))
