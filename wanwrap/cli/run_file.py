"""Reads a run file: `wanwrap run cats.toml` takes preset, data set and options from it.

Its values become click's defaults: they are read by the options' own types, and whatever is typed wins.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from wanwrap.errors import OptionError, closest, of_toml
from wanwrap.paths import absolute

# what is said of one start, never of a run; and the other name of DATASET
OF_A_START = {"dry_run", "save", "shell", "restart", "out", "as_json", "dataset_option"}
WORDS = ("preset", "dataset", "python")  # a name, or a path
DATA = ("dataset", "dataset_option", "dataset_config")  # three words for one thing


def read(ctx: click.Context, _: click.Parameter, value: str | None) -> str | None:
    """The preset that is meant: a name, or the one in a run file, of which all else becomes the default of its option.

    Raises:
        OptionError: it can't be read, or something in it is unknown or of another type.
    """
    if value is None or not value.lower().endswith(".toml"):
        return value
    path = absolute(value)
    content = _content(path)
    try:
        upstream = _upstream(content.pop("upstream", {}), path.parent)
        options = dict(_option(ctx, name.replace("-", "_"), given, path.parent) for name, given in content.items())
    except (ValueError, OptionError) as error:
        raise OptionError(f"{path}: {error}") from error
    if "preset" not in options:
        raise OptionError(f'{path} names no preset; write a line like preset = "t2v-vanilla" into it.')
    ctx.params["upstream_options"] = (*upstream, *ctx.params["upstream_options"])
    ctx.default_map = options
    return str(options.pop("preset"))


def _content(path: Path) -> dict[str, Any]:
    import tomlkit

    from wanwrap.system.files import decode

    try:
        content: dict[str, Any] = tomlkit.parse(decode(path.read_bytes())).unwrap()
    except (OSError, ValueError) as error:  # tomlkit's are ValueErrors, too
        raise OptionError(f"the run file {path} can't be read: {error}.{of_toml(error)}") from error
    if {"general", "datasets"} & content.keys():
        raise OptionError(f"{path} is a data set, no run file; put it behind a preset: wanwrap run PRESET {path.name}.")
    return content


def _option(ctx: click.Context, name: str, value: Any, folder: Path) -> tuple[str, Any]:
    """An option and its value as it would be typed. Raises ValueError: there is none, or it takes no such value."""
    from wanwrap.cli.run import run
    from wanwrap.upstream.options import TRAIN, table

    known = {param.name: param for param in run.params if param.name not in OF_A_START}
    if (param := known.get(name)) is None:
        theirs = " It is upstream's own: write it below [upstream]." if name in table(TRAIN) else ""
        raise ValueError(f"a run file takes no {name}.{theirs or closest(name, map(str, known))}")
    if wrong := _wrong(param, value):
        raise ValueError(f"{name} must be {wrong}, not {value!r}.")
    if isinstance(value, str) and (isinstance(param.type, click.Path) or is_path(name, value)):
        value = _below(folder, value)
    typed = value if isinstance(value, bool | list) else str(value)
    try:
        param.type_cast_value(ctx, typed)
    except click.BadParameter as error:
        raise ValueError(f"{name}: {error.message}") from error
    return name, typed


def _wrong(param: click.Parameter, value: Any) -> str:
    """What a value must be of which an option is not; nothing where it is."""
    if getattr(param, "is_flag", False):
        return "" if isinstance(value, bool) else "true or false"
    if param.multiple:
        return "" if isinstance(value, list) and all(isinstance(each, str) for each in value) else "a list of texts"
    return "" if isinstance(value, str | int | float) and not isinstance(value, bool) else "a text or a number"


def is_path(name: str, word: str) -> bool:
    """Whether one that may be a name is a path."""
    return name in WORDS and bool(re.search(r"(?i)^~|[/\\]|\.(py|toml)$", word))


def _below(folder: Path, word: str) -> str:
    return str(absolute(word if word.startswith("~") else folder / word)) if word else word


def _upstream(table: Any, folder: Path) -> list[str]:
    """The words that would stand after `--`. Raises ValueError, OptionError: upstream or wanwrap would refuse them."""
    from wanwrap.plan.request import FILES
    from wanwrap.upstream.options import TRAIN, check, spell

    if not isinstance(table, dict):
        raise ValueError("upstream must be a table: [upstream], and musubi-tuner's options below it.")
    options = {name.replace("-", "_"): value for name, value in table.items()}
    check(options, TRAIN)
    if off := [name for name, value in options.items() if value is False]:
        raise ValueError(f"upstream.{off[0]} is false: upstream has no way to switch a flag off; leave it out.")
    return [*spell({name: _below(folder, str(value)) if name in FILES else value for name, value in options.items()})]


def prefer_typed_data(ctx: click.Context) -> None:
    """Of a data set that is typed and another one in the run file the first counts, whichever way each is named."""
    source = {name: ctx.get_parameter_source(name) for name in DATA}
    if ParameterSource.COMMANDLINE in source.values():
        ctx.params |= {name: None for name in DATA if source[name] is ParameterSource.DEFAULT_MAP}
