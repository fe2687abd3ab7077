"""What upstream needs to run where there is no GPU; with one, nothing here acts.

Upstream is written for CUDA. On a CPU its scripts fail for reasons that say
nothing about the plan being rehearsed, so these are taken out of the way: an
import that asks for a device, a torchvision built for CUDA, and an autocast
that knows neither fp32, nor fp8 weights, nor bf16 tensors among fp16 ones.
"""

import functools
import importlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch.nn import functional

OPERATORS = ("linear", "conv2d", "conv3d", "layer_norm")
NMS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def help_if_needed() -> None:
    if torch.cuda.is_available():
        return
    torch.cuda.current_device = lambda: 0
    torch.cuda.set_device = lambda _: None  # for block swap
    with suppress(ImportError):  # the probe is asked too where there is no upstream
        offloading: Any = importlib.import_module("musubi_tuner.modules.custom_offloading_utils")
        offloading.swap_weight_devices_no_cuda = _exchange
    _import_torchvision()
    # Only the CPU's autocast insists on one dtype here; CUDA's leaves cat alone.
    torch.cat = torch.amp.autocast("cpu", enabled=False)(torch.cat)
    torch.nn.parallel.DistributedDataParallel = _Parallel
    for name in OPERATORS:
        setattr(functional, name, _weights_follow_input(getattr(functional, name)))


class _Parallel(torch.nn.parallel.DistributedDataParallel):  # type: ignore[misc, unused-ignore]
    """With several processes: on GPUs accelerate itself leaves a model alone of which nothing is trained."""

    def __new__(cls, module: Any, *_: Any, **__: Any) -> Any:
        return super().__new__(cls) if any(each.requires_grad for each in module.parameters()) else module


def _import_torchvision() -> None:
    """torchvision from PyPI, beside a CPU torch, misses two of its own operators at import."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        torch.library.define("torchvision::nms", NMS)
        torch.library.define("torchvision::qnms", NMS)
        importlib.import_module("torchvision")


def _exchange(_: Any, leaving: Any, coming: Any) -> None:
    """A block's weights into the place of another's; upstream's own takes what leaves for safe before it is overwritten."""
    for gone, here in zip(leaving.modules(), coming.modules(), strict=True):
        if getattr(gone, "weight", None) is not None:
            place, gone.weight.data = gone.weight.data, gone.weight.data.clone()
            here.weight.data = place.copy_(here.weight.data)


def _weights_follow_input(operator: Callable[..., Any]) -> Callable[..., Any]:
    """As under CUDA's autocast(float32): upstream asserts an fp32 time embedding."""

    @functools.wraps(operator)
    def call(x: Any, *args: Any, **kwargs: Any) -> Any:
        args = tuple(_as(x.dtype, value) for value in args)
        return operator(x, *args, **{name: _as(x.dtype, value) for name, value in kwargs.items()})

    return call


def _as(dtype: Any, value: Any) -> Any:
    return value.to(dtype) if isinstance(value, torch.Tensor) else value
