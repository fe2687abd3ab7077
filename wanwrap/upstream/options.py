"""Upstream's command-line options: its own parsers, built out of a table, and what wanwrap knows of single options.

`scripts/upstream_flags.py` reads the table from upstream's source: no option is declared here again.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NoReturn

from wanwrap.errors import OptionError, closest
from wanwrap.paths import upstream_flags

Value = bool | int | float | str | Sequence[str] | None
Options = Mapping[str, Value]

TRAIN = "wan_train_network"
CACHE_LATENTS = "wan_cache_latents"
CACHE_TEXT = "wan_cache_text_encoder_outputs"
CAPTION = "caption_images_by_qwen_vl"
SAMPLE = "wan_generate_video"
CONVERT_LORA = "convert_lora"

# wanwrap's options, as the guides spell them, and upstream's names for them.
ALIASES = {
    "lr": "learning_rate",
    "scheduler": "lr_scheduler",
    "power": "lr_scheduler_power",
    "min_lr": "lr_scheduler_min_lr_ratio",
    "optimizer": "optimizer_type",
    "dim": "network_dim",
    "alpha": "network_alpha",
    "epochs": "max_train_epochs",
    "save_every": "save_every_n_epochs",
    "seed": "seed",
    "flow_shift": "discrete_flow_shift",
    "blocks_to_swap": "blocks_to_swap",
}

ATTENTION = {"sdpa", "xformers", "flash_attn", "flash3"}

# Options that would make wanwrap train something other than what it says, and the way out of each.
_OWN = "use wanwrap's own, before the `--`"
_EPOCHS = "wanwrap goes on from whole epochs; use --save_every"
_MERGE = "upstream silently drops keys of most LoRAs; merge first and pass the file with --dit"
_UPLOAD = "after an interruption upstream uploads under the names of other epochs; upload the finished LoRAs"
REFUSED = {
    **dict.fromkeys(("dataset_config", "dit", "vae", "t5", "clip", "output_name"), _OWN),
    "config_file": "upstream does not check what stands in it; give its settings as options",
    "task": "a preset is made for one task; choose another preset",
    "output_dir": "use wanwrap's own --base_dir, before the `--`",
    "logging_dir": "wanwrap keeps the curves in the run's folder",
    "dit_high_noise": "it trains one LoRA for both experts; wanwrap trains one each, with --noise_level both",
    "resume": "upstream counts from 0 again and overwrites the files; use --resume_from FILE",
    "resume_from_huggingface": "upstream counts from 0 again and overwrites the files",
    "network_weights": "use wanwrap's own --resume_from, before the `--`",
    "dim_from_weights": "it is broken in upstream 0.3.4; use --dim and --alpha",
    **dict.fromkeys(("base_weights", "base_weights_multiplier"), _MERGE),
    "sage_attn": "upstream cannot train with it; use --attention sdpa",
    "show_timesteps": "it trains nothing",
    **dict.fromkeys(("save_every_n_steps", "save_last_n_steps"), _EPOCHS),
    **dict.fromkeys(
        ("save_last_n_steps_state", "save_last_n_epochs_state"), "wanwrap keeps the states it goes on from"
    ),
    "timestep_boundary": "it does nothing for one DiT; --min_timestep and --max_timestep set an expert's window",
    "offload_inactive_dit": "it does nothing for one DiT; try --blocks_to_swap",
    **dict.fromkeys(("guidance_scale", "img_in_txt_in_offloading"), "upstream ignores it for Wan"),
    "huggingface_token": "a token in a command line can be read by others; use the variable HF_TOKEN",
    **dict.fromkeys(("huggingface_repo_id", "huggingface_repo_type", "huggingface_path_in_repo"), _UPLOAD),
    **dict.fromkeys(("huggingface_repo_visibility", "save_state_to_huggingface", "async_upload"), _UPLOAD),
    "wandb_api_key": "a key in a command line can be read by others; use the variable WANDB_API_KEY",
}

# How upstream works, saves and tells, not what it trains: these may change between two starts of one training.
_WORKING = {
    *("blocks_to_swap", "use_pinned_memory_for_block_swap", "block_swap_h2d_only", "block_swap_ring_size"),
    *("gradient_checkpointing", "gradient_checkpointing_cpu_offload", "split_attn", *ATTENTION),
    "force_v2_1_time_embedding",  # one timestep an item, embedded once or for each token: the same but for rounding
    *("max_data_loader_n_workers", "persistent_data_loader_workers", "disable_numpy_memmap"),
    *("vae", "t5", "clip", "fp8_t5", "vae_dtype", "vae_cache_cpu"),  # for samples alone
    *("no_metadata", "training_comment", "cuda_allow_tf32", "cuda_cudnn_benchmark"),
}
_WORKING_PREFIXES = ("save_", "sample_", "log_", "wandb_", "metadata_", "compile", "dynamo_", "ddp_")


def changes_result(name: str) -> bool:
    """Whether another value of an option would train another LoRA."""
    return name not in _WORKING and not name.startswith(_WORKING_PREFIXES)


@cache
def table(script: str) -> dict[str, dict[str, Any]]:
    """Upstream's options of one script: `{"seed": {"kind": "value", "type": "int"}, ...}`."""
    scripts = json.loads(upstream_flags().read_text(encoding="utf-8"))["scripts"]
    return {flag.removeprefix("--"): row for flag, row in scripts[f"{script}.py"].items()}


def spell(options: Options) -> Iterator[str]:
    """Options as arguments, in the order given: True is a bare flag, None and False are absent."""
    for name, value in options.items():
        if value is None or value is False:
            continue
        if str(value).startswith("-"):
            yield f"--{name}={value}"  # on its own it would read as an option
            continue
        yield f"--{name}"
        if isinstance(value, Sequence) and not isinstance(value, str):
            yield from map(str, value)
        elif value is not True:
            yield str(value)


def called(name: str) -> str:
    """An option of upstream's as wanwrap's users know it."""
    return next((f"--{ours}" for ours, theirs in ALIASES.items() if theirs == name), f"--{name}")


def _number(word: str) -> float:
    """argparse itself takes nan and inf."""
    if not math.isfinite(value := float(word)):
        raise ValueError(word)
    return value


def _share(word: str) -> float | str:
    """Upstream's steps or share of all steps: 100, 0.1 or 10%."""
    value = _number(word.removesuffix("%"))
    return word if word.endswith("%") else value


_number.__name__ = _share.__name__ = "number"  # as argparse's messages call a type
_TYPES: dict[str, Callable[[str], Any]] = {"int": int, "float": _number, "_int_or_float": _share}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise OptionError(f"{self.prog}: {message}.")


@cache
def parser(script: str) -> argparse.ArgumentParser:
    """Upstream's own parser of one script; only what is given stands in its result. It raises OptionError."""
    made = _Parser(f"upstream's {script}.py", add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for name, row in table(script).items():
        words = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))  # hyphens are accepted too
        if row["kind"] == "flag":
            made.add_argument(*words, dest=name, action="store_true")
        else:
            kind = _TYPES.get(row["type"], str)
            made.add_argument(*words, dest=name, type=kind, nargs=row.get("nargs"), choices=row.get("choices"))
    return made


def check(options: Options, script: str) -> None:
    """Refuse what upstream's parser would refuse, and what wanwrap does.

    Raises:
        OptionError: an unknown name, one of REFUSED, a value of another type, or one outside the choices.
    """
    for name, value in options.items():
        row = table(script).get(name)
        if row is None:
            raise OptionError(f"upstream's {script}.py has no option --{name}.{closest(name, table(script))}")
        if name in REFUSED:
            raise OptionError(f"--{name} can't be given to upstream: {REFUSED[name]}.")
        several = isinstance(value, Sequence) and not isinstance(value, str)
        wrong = (isinstance(value, bool) != (row["kind"] == "flag")) or several != (row.get("nargs") == "*")
        if value is not None and wrong:
            wanted = "no value" if row["kind"] == "flag" else "a list of values" if row.get("nargs") else "one value"
            raise OptionError(f"--{name} takes {wanted}; it was given as {value!r}.")
    parser(script).parse_args([*spell(options)])


def parse(words: Sequence[str], own: Collection[str] = ()) -> dict[str, Value]:
    """What stands after `--` on wanwrap's command line, checked; `own` are wanwrap's own options.

    Raises:
        OptionError: upstream would refuse it, or wanwrap does, with the reason.
    """
    given, rest = parser(TRAIN).parse_known_args([*words])
    if rest:
        name = rest[0].removeprefix("--").partition("=")[0]
        if name in own:
            raise OptionError(f"--{name} is wanwrap's own: put it before the `--`.")
        raise OptionError(f"after `--` come upstream's options; {rest[0]} is none.{closest(name, table(TRAIN))}")
    check(vars(given), TRAIN)
    return {name: tuple(value) if isinstance(value, list) else value for name, value in vars(given).items()}


def overlay(options: Options, given: Options) -> dict[str, Value]:
    """`given` over `options`, where upstream itself would let a preset's setting win silently."""
    merged = {**options, **{name: value for name, value in given.items() if value is not None}}
    for alike in (ATTENTION, {"max_train_steps", "max_train_epochs"}):
        if alike & given.keys():  # upstream takes the first attention, and epochs rather than steps
            merged.update(dict.fromkeys((alike - given.keys()) & merged.keys(), None))
    return merged


def number(options: Options, name: str, default: float) -> float:
    """An option that is a number, checked before; `default` where it is absent."""
    value = options.get(name)
    return default if value is None else float(str(value))


def whole(options: Options, name: str, default: int) -> int:
    """An option that counts something, checked before; `default` where it is absent."""
    return int(number(options, name, default))


def texts(options: Options, name: str) -> tuple[str, ...]:
    """An option that takes several values; empty where it is absent."""
    value = options.get(name)
    return tuple(map(str, value)) if isinstance(value, Sequence) else ()


def arguments(options: Options, name: str) -> dict[str, str]:
    """An option of name=value pairs."""
    return {key: value for key, _, value in (pair.partition("=") for pair in texts(options, name))}
