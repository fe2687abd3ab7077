"""Upstream's command-line options: spelled out, read, and checked against upstream's own parsers.

wanwrap redeclares none of upstream's options. Their names, types and choices stand in a table
that `scripts/upstream_flags.py` reads out of upstream's source.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from wanwrap.errors import OptionError, closest
from wanwrap.paths import upstream_flags

Value = bool | int | float | str | Sequence[str] | None
Options = Mapping[str, Value]

TRAIN = "wan_train_network"
CACHE_LATENTS = "wan_cache_latents"
CACHE_TEXT = "wan_cache_text_encoder_outputs"
CAPTION = "caption_images_by_qwen_vl"

ATTENTION = {"sdpa", "xformers", "flash_attn", "flash3"}

# Options that would make wanwrap train something other than what it says, and the way out of each.
REFUSED = {
    "config_file": "upstream does not check what stands in it; give its settings as options",
    "dataset_config": "use wanwrap's own --dataset_config, before the `--`",
    "dit": "use wanwrap's own --dit, --dit_high or --dit_low, before the `--`",
    "vae": "use wanwrap's own --vae, before the `--`",
    "t5": "use wanwrap's own --t5, before the `--`",
    "clip": "use wanwrap's own --clip, before the `--`",
    "task": "a preset is made for one task; choose another preset",
    "output_dir": "use wanwrap's own --base_dir, before the `--`",
    "output_name": "use wanwrap's own --output_name, before the `--`",
    "logging_dir": "wanwrap keeps the curves in the run's folder",
    "dit_high_noise": "it trains one LoRA for both experts; wanwrap trains one each, with --noise_level both",
    "resume": "upstream counts from 0 again and overwrites the files; use --resume_from FILE",
    "resume_from_huggingface": "upstream counts from 0 again and overwrites the files",
    "network_weights": "use wanwrap's own --resume_from, before the `--`",
    "dim_from_weights": "it is broken in upstream 0.3.4; use --dim and --alpha",
    "base_weights": "upstream silently drops keys of most LoRAs; merge first and pass the file with --dit",
    "sage_attn": "upstream cannot train with it; use --attention sdpa",
    "show_timesteps": "it trains nothing",
    "save_every_n_steps": "wanwrap goes on from whole epochs; use --save_every",
    "save_last_n_steps": "wanwrap goes on from whole epochs; use --save_every and -- --save_last_n_epochs",
    "save_last_n_steps_state": "wanwrap keeps the states that it can go on from",
    "save_last_n_epochs_state": "wanwrap keeps the states that it can go on from",
    "timestep_boundary": "it does nothing for one DiT; --min_timestep and --max_timestep set an expert's window",
    "offload_inactive_dit": "it does nothing for one DiT; try --blocks_to_swap",
    "guidance_scale": "upstream ignores it for Wan",
    "img_in_txt_in_offloading": "upstream ignores it for Wan",
    "huggingface_token": "a token in a command line can be read by others; use the variable HF_TOKEN",
    "wandb_api_key": "a key in a command line can be read by others; use the variable WANDB_API_KEY",
}


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
        if isinstance(value, str):
            yield value
        elif isinstance(value, Sequence):
            yield from map(str, value)
        elif value is not True:
            yield str(value)


def check(options: Options, script: str) -> None:
    """Refuse what upstream's parser would refuse.

    Raises:
        OptionError: an unknown name, a value of another type, or one outside the choices.
    """
    known = table(script)
    for name, value in options.items():
        if name not in known:
            raise OptionError(f"upstream's {script}.py has no option --{name}.{closest(name, known)}")
        if value is None or (isinstance(value, bool) and known[name]["kind"] == "flag"):
            continue
        _check_value(name, value, known[name])


def _check_value(name: str, value: Value, row: Mapping[str, Any]) -> None:
    if row["kind"] == "flag" or isinstance(value, bool):
        wanted = "no value" if row["kind"] == "flag" else "a value"
        raise OptionError(f"--{name} takes {wanted}; it was given as {value!r}.")
    several = row.get("nargs") == "*"
    if several != (isinstance(value, Sequence) and not isinstance(value, str)):
        raise OptionError(f"--{name} takes {'a list of values' if several else 'one value'}, not {value!r}.")
    choices = row.get("choices")
    if choices and value not in choices:
        raise OptionError(f"--{name} takes one of {', '.join(choices)}; not {value}.{closest(str(value), choices)}")
    for one in [value] if isinstance(value, str) or not isinstance(value, Sequence) else value:
        convert(name, str(one), row)


def _share(word: str) -> int | float | str:
    """Upstream's steps or share of all steps: 100, 0.1 or 10%."""
    if word.endswith("%"):
        float(word[:-1])
        return word
    value = float(word)
    return int(value) if value.is_integer() and (value >= 1 or value == 0) else value


KINDS: dict[str, tuple[str, Callable[[str], int | float | str]]] = {
    "int": ("a whole number", int),
    "float": ("a number", float),
    "_int_or_float": ("a number or a percentage", _share),
}


def convert(name: str, word: str, row: Mapping[str, Any]) -> int | float | str:
    """A word of the command line as upstream's parser would take it.

    Raises:
        OptionError: it is not of the option's type.
    """
    described, kind = KINDS.get(row.get("type", "str"), ("text", str))
    try:
        value: int | float | str = kind(word)
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(word)
    except ValueError as error:
        raise OptionError(f"--{name} takes {described}; not {word!r}.") from error
    return value


def parse(words: Sequence[str], own: Collection[str] = ()) -> dict[str, Value]:
    """What stands after `--` on wanwrap's command line, checked; `own` are wanwrap's own options.

    Raises:
        OptionError: upstream would refuse it, or wanwrap does, with the reason.
    """
    known, options, rest = table(TRAIN), dict[str, Value](), list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if not word.startswith("--"):
            raise OptionError(f"after `--` come upstream's options; {word!r} is none (they begin with --).")
        if name in REFUSED:
            raise OptionError(f"--{name} can't be given to upstream: {REFUSED[name]}.")
        if name in own and name not in known:
            raise OptionError(f"--{name} is wanwrap's own: put it before the `--`.")
        check({name: None}, TRAIN)
        row = known[name]
        values = [value] if equals else _take(rest, row)
        options[name] = _value(name, values, row)
    check(options, TRAIN)
    return options


def _take(rest: list[str], row: Mapping[str, Any]) -> list[str]:
    """The values that follow an option: none for a flag, all for a list, else one."""
    most = {"flag": 0}.get(row["kind"], len(rest) if row.get("nargs") == "*" else 1)
    taken: list[str] = []
    while rest and len(taken) < most and not rest[0].startswith("--"):
        taken.append(rest.pop(0))
    return taken


def _value(name: str, values: list[str], row: Mapping[str, Any]) -> Value:
    if row["kind"] == "flag":
        if values:
            raise OptionError(f"--{name} takes no value.")
        return True
    if row.get("nargs") == "*":
        return tuple(values)
    if not values:
        raise OptionError(f"--{name} needs a value.")
    return convert(name, values[0], row)


def overlay(options: Options, given: Options) -> dict[str, Value]:
    """`given` over `options`, where upstream itself would let a preset's setting win silently."""
    merged = {**options, **{name: value for name, value in given.items() if value is not None}}
    if ATTENTION & given.keys():  # upstream takes the first of sdpa, flash_attn, xformers, flash3
        merged.update(dict.fromkeys((ATTENTION - given.keys()) & merged.keys(), None))
    if "max_train_steps" in given and "max_train_epochs" not in given:  # epochs override steps
        merged["max_train_epochs"] = None
    if "max_train_epochs" in given and "max_train_steps" not in given:
        merged["max_train_steps"] = None
    return merged


def number(options: Options, name: str, default: float) -> float:
    """An option that is a number; `default` where it is absent.

    Raises:
        OptionError: it is none.
    """
    value = options.get(name)
    return default if value is None else float(convert(name, str(value), {"type": "float"}))


def whole(options: Options, name: str, default: int) -> int:
    """An option that counts something; `default` where it is absent.

    Raises:
        OptionError: it is no whole number.
    """
    value = options.get(name)
    if value is None:
        return default
    return int(convert(name, str(value), {"type": "int"}))
