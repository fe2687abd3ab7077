"""Asked of the training Python, as a script: what can it train with, and can upstream build these trainings there?

Argument 1 is JSON: `modules`, a list of `module` or `module:attribute` to import, and `trainings`, upstream's options
and steps of each; where all modules are there, network, optimizer and learning rate of each are built once, before
anything is cached or loaded. The DiT is full-size on torch's meta device, which holds no numbers: all of it takes less
than a second beside the imports. Prints one JSON object. That Python need not have wanwrap.
"""

import contextlib
import importlib
import importlib.metadata
import json
import math
import struct
import sys
import types
import warnings
from pathlib import Path
from typing import Any

# told by their versions
PACKAGES = "torch torchvision accelerate diffusers transformers xformers bitsandbytes safetensors"
LONGEST = 200_000  # steps of a schedule that are walked
STALLED = 0.1  # of the steps, at whose end a rate may be 0


def ask(name: str) -> "str | None":
    """None where the module imports, else why not (a wheel made for another torch fails here, not at night)."""
    module, _, attribute = name.partition(":")
    try:
        found = importlib.import_module(module)
        if attribute:
            getattr(found, attribute)
    except (Exception, SystemExit) as error:
        return f"{type(error).__name__}: {error}"
    return None


def upstream() -> "dict[str, object]":
    """Version and commit of an installed musubi-tuner."""
    try:
        found = importlib.metadata.distribution("musubi-tuner")
    except importlib.metadata.PackageNotFoundError:
        return {}
    origin = json.loads(found.read_text("direct_url.json") or "{}")
    return {"version": found.version, "commit": origin.get("vcs_info", {}).get("commit_id")}


def packages() -> "dict[str, str]":
    """The versions that a training depends on, as far as they are installed."""
    found = {}
    for name in PACKAGES.split():
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def gpus() -> "list[dict[str, object]]":
    """What each CUDA GPU is that torch can use: bytes, and those that are free; its UUID as nvidia-smi has it."""
    try:
        import torch

        cuda = torch.cuda
        numbers = range(cuda.device_count() if cuda.is_available() else 0)
        pairs = [(cuda.get_device_properties(n), cuda.mem_get_info(n)[0]) for n in numbers]
    except Exception:
        return []
    return [
        {
            "name": gpu.name,
            "memory": gpu.total_memory,
            "free": free,
            "uuid": str(getattr(gpu, "uuid", "")),  # since torch 2.4
            "capability": [gpu.major, gpu.minor],
            "multiprocessors": gpu.multi_processor_count,
        }
        for gpu, free in pairs
    ]


# ---- trainings, built once


class Problem(Exception):
    """What upstream would not say, or too late."""


def attempt(argv: "list[str]", steps: int) -> "dict[str, str] | None":
    """What is wrong with a training, and the stage at which it showed; None where nothing is.

    `steps` are those of the schedule: optimizer steps times GPUs.
    """
    stage = "options"
    try:
        trainer, args = parsed(argv)
        stage = "network"
        network = build_network(trainer, args)
        stage = "optimizer"
        params, _ = network.prepare_optimizer_params(unet_lr=args.learning_rate)
        optimizer = trainer.get_optimizer(args, params)[2]
        stage = "learning rate"
        args.max_train_steps = steps
        walk(trainer.get_lr_scheduler(args, optimizer, 1), optimizer, steps)
        stage = "samples"
        if args.vae_dtype:
            importlib.import_module("musubi_tuner.utils.model_utils").str_to_dtype(args.vae_dtype)
    except NotImplementedError:  # somebody's network or optimizer wants numbers, of which there are none here
        return None
    except Exception as error:
        words = str(error) if isinstance(error, Problem) else f"{type(error).__name__}: {error}"
        return {"stage": stage, "error": words, "package": "yes" if isinstance(error, ImportError) else ""}
    return None


def parsed(argv: "list[str]") -> Any:
    """Upstream's trainer, and the options as its own parser takes them."""
    module = importlib.import_module("musubi_tuner.wan_train_network")
    parser = module.wan_setup_parser(module.setup_parser_common())

    def refuse(message: str) -> None:
        raise Problem(message)

    parser.error = refuse
    return module.WanNetworkTrainer(), parser.parse_args(argv)


def build_network(trainer: Any, args: Any) -> Any:
    """The network on a DiT without numbers. Raises Problem: it has nothing to train, or would not load its file."""
    import torch

    module = importlib.import_module("musubi_tuner.wan_train_network")
    config = module.WAN_CONFIGS[args.task]
    sizes = ("dim", "eps", "ffn_dim", "freq_dim", "in_dim", "num_heads", "num_layers", "out_dim", "text_len")
    kinds = {"model_type": "i2v" if config.i2v else "t2v", "model_version": "2.2" if config.v2_2 else "2.1"}
    weights, args.network_weights = args.network_weights, None
    with torch.device("meta"):
        dit = module.WanModel(**kinds, **{name: config[name] for name in sizes}, attn_mode="torch")
        accelerator = types.SimpleNamespace(print=lambda *_: None)  # no more of it is asked for here
        network = trainer._build_network(args, accelerator, dit, None, None)
    tensors = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    if not tensors:
        raise Problem("it has no matrix to train; look at exclude_patterns in --network_args")
    if weights:
        compare(Path(weights), tensors)
    return network


def compare(path: Path, tensors: "dict[str, tuple[int, ...]]") -> None:
    """Raises Problem: a LoRA of which upstream would pass over something without a word, or stop at it."""
    with path.open("rb") as file:
        rows = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    there = {name: tuple(row["shape"]) for name, row in rows.items() if name != "__metadata__"}
    if not any(name.endswith(".alpha") for name in there):  # they may be lacking all together: the rank is taken
        tensors = {name: shape for name, shape in tensors.items() if not name.endswith(".alpha")}
    for what, names in (("holds", there.keys() - tensors), ("lacks", tensors.keys() - there)):
        if names:
            count = f" and {len(names) - 1} more" if len(names) > 1 else ""
            words = f"it {what} {min(names)}{count}, which upstream would pass over"
            raise Problem(f"{path} is of another network: {words}")
    for name, shape in tensors.items():
        if there[name] != shape and (shape or math.prod(there[name]) != 1):
            raise Problem(f"{path} is for another model: {name} is {[*there[name]]}, and must be {[*shape]} here")


def walk(scheduler: Any, optimizer: Any, steps: int) -> None:
    """Raises Problem, or what the scheduler itself does: at some step the learning rate is none."""
    if not hasattr(scheduler, "state_dict"):  # upstream's dummy, for an optimizer that needs no schedule
        return
    last = 0  # step whose rate is above 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the optimizer takes no steps here
        for step in range(1, min(steps, LONGEST) + 1):
            rates = [float(group["lr"]) for group in optimizer.param_groups]
            if wrong := [rate for rate in rates if not (math.isfinite(rate) and rate >= 0)]:
                raise Problem(f"it would be {wrong[0]} in step {step}")
            last = step if max(rates) > 0 else last
            scheduler.step()
    if steps - last > 1 + STALLED * steps and steps <= LONGEST:
        raise Problem(f"it would be 0 from step {last + 1} of {steps} on")


def problems(trainings: "dict[str, dict[str, Any]]") -> "dict[str, dict[str, str]]":
    """What is wrong with each training; only where something is."""
    import torch

    if not torch.cuda.is_available():
        here = str(Path(__file__).resolve().parent)
        sys.path.insert(0, here)
        import bare_cpu

        sys.path.remove(here)  # its modules must not shadow others
        bare_cpu.help_if_needed()
    return {name: found for name, asked in trainings.items() if (found := attempt(**asked))}


if __name__ == "__main__":
    sys.path.pop(0)
    asked = json.loads(sys.argv[1])
    missing = {name: why for name in asked["modules"] if (why := ask(name))}
    answer = {
        "python": sys.version.split()[0],
        "missing": missing,
        "upstream": upstream(),
        "packages": packages(),
        "gpus": gpus(),
        "problems": problems(asked["trainings"]) if asked["trainings"] and not missing else {},
    }
    print("\n" + json.dumps(answer))
