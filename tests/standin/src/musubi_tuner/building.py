"""What wanwrap builds of upstream before a run, as far as its own checks need it: a network of one module, a class by
its name as optimizer and as schedule. STANDIN_TENSORS gives the network's tensors."""

import ast
import importlib
import json
import os

SIZES = ("dim", "eps", "ffn_dim", "freq_dim", "in_dim", "num_heads", "num_layers", "out_dim", "text_len")


class _Config(dict):
    i2v = v2_2 = False


class _Any(dict):
    def __missing__(self, _):
        return _Config.fromkeys(SIZES, 1)


WAN_CONFIGS = _Any()


class WanModel:
    def __init__(self, **_): ...


class _Tensor:
    def __init__(self, shape):
        self.shape = shape


class _Network:
    def __init__(self, args):
        module, dim = "lora_unet_blocks_0_cross_attn_k", args.network_dim
        parts = {"lora_down.weight": (dim, 4), "lora_up.weight": (4, dim), "alpha": ()}
        told = os.environ.get("STANDIN_TENSORS")
        self.tensors = json.loads(told) if told else {f"{module}.{name}": shape for name, shape in parts.items()}

    def state_dict(self):
        return {name: _Tensor(shape) for name, shape in self.tensors.items()}

    def prepare_optimizer_params(self, unet_lr):
        return [unet_lr], None


class _Optimizer:
    def __init__(self, rate):
        self.param_groups = [{"lr": rate}]


def _arguments(pairs):
    return {name: ast.literal_eval(value) for name, value in (pair.split("=") for pair in pairs or ())}


class WanNetworkTrainer:
    def _build_network(self, args, accelerator, transformer, vae, dtype):  # noqa: ARG002  as upstream calls it
        accelerator.print("import network module:", args.network_module)
        return _Network(args)

    def get_optimizer(self, args, params):
        _arguments(args.optimizer_args)
        return "name", "", _Optimizer(params[0])

    def get_lr_scheduler(self, args, optimizer, processes):  # noqa: ARG002  as upstream calls it
        place, _, name = (args.lr_scheduler_type or "").rpartition(".")
        if not name:
            return object()
        found = getattr(importlib.import_module(place or "torch.optim.lr_scheduler"), name)
        _arguments(args.lr_scheduler_args)
        return found
