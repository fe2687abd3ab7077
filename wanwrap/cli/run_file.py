"""A run file: `wanwrap run cats.toml` reads preset, data set and options from it, and `--save cats.toml` writes one.

Its values become click's defaults: they are read by the options' own types, and whatever is typed wins.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from wanwrap.errors import OptionError, closest, of_toml
from wanwrap.paths import absolute
from wanwrap.system.shell import quote

if TYPE_CHECKING:
    from wanwrap.plan.plan import Plan
    from wanwrap.plan.request import Request

# what is said of one start, never of a run; and the other name of DATASET
OF_A_START = {"dry_run", "save", "shell", "restart", "out", "as_json", "dataset_option"}
WORDS = ("preset", "dataset", "python")  # a name, or a path
DATA = ("dataset", "dataset_option", "dataset_config")  # three words for one thing
ARGUMENTS = {
    "preset": "What is trained, and how: a name, or your own ./file.py.",
    "dataset": "A folder (./cats), the name of one in BASE_DIR/datasets, or a TOML of your own.",
}
HEAD = """\
# `wanwrap run THIS_FILE` carries this run out, `wanwrap rehearse THIS_FILE` tries it in small.
# A line that begins with # gives nothing; its value is what holds without it. What is typed beside the file wins over it.
# A relative path begins at this file's folder. On Windows write paths with /, or in 'single quotes'.
"""


# ---- read


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
    if isinstance(value, str) and (isinstance(param.type, click.Path) or _is_path(name, value)):
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


def _is_path(name: str, word: str) -> bool:
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


# ---- write


def write(ctx: click.Context, plan: Plan, out: Path) -> None:
    """A run file with all that was given, and as comments all that could be. Raises OutputError: there is a file already."""
    from wanwrap.cli.options import GROUPS
    from wanwrap.cli.terminal import show_text
    from wanwrap.upstream.options import parse

    if out.suffix.lower() != ".toml":
        raise OptionError(f"--save {out} must end in .toml, by which `run` knows a run file.")
    lines, holds = [HEAD.replace("THIS_FILE", quote(out.name))], _holds(plan, ctx.params["preset"])
    for group in GROUPS:
        ours = [each for each in ctx.command.params if getattr(each, "group", GROUPS[0]) == group]
        lines += [f"# ---- {group}", *(_row(ctx, each, holds) for each in ours if each.name not in OF_A_START), ""]
    lines += ["[upstream]  # musubi-tuner's own options, which are typed behind `--`"]
    lines += [f"{name} = {_toml(plan.request.given[name])}" for name in parse(ctx.params["upstream_options"])]
    show_text("\n".join((*lines, "")), out, lambda text: text.encode("utf-8", "surrogateescape"))


def _row(ctx: click.Context, param: click.Parameter, holds: Mapping[str, str]) -> str:
    """`epochs = 30   # How often the data set is seen.`, with a # before it where it was not given."""
    name = str(param.name)
    value, default = ctx.params.get(name), ctx.get_parameter_source(name) is ParameterSource.DEFAULT
    given = value is not None and (name in ARGUMENTS or not default)  # an argument's source may be an option's
    text = holds[name] if name in holds and (name in WORDS or not given) else _toml(value)
    return f"{'' if given else '#'}{name} = {text}".ljust(40) + f"  # {getattr(param, 'help', None) or ARGUMENTS[name]}"


def _toml(value: Any) -> str:
    """A value as it stands in a TOML; `...` where there is none."""
    import tomlkit

    if value is None:
        return "..."
    several = isinstance(value, Sequence) and not isinstance(value, str)
    plain = [*value] if several else value if isinstance(value, bool | int | float) else str(value)
    return tomlkit.item(plain).as_string()


def _holds(plan: Plan, preset: str) -> dict[str, str]:
    """What holds where nothing is given, of both experts; and the words that were given, as they are meant anywhere."""
    from wanwrap.upstream.options import ALIASES, ATTENTION
    from wanwrap.weights.models import option

    request = plan.request
    all_options = [{**each.options, "save_every_n_epochs": each.save_every} for each in plan.trainings]
    values: dict[str, list[Any]] = {
        ours: [options.get(theirs) for options in all_options] for ours, theirs in ALIASES.items()
    }
    values |= {option(name).removeprefix("--"): [weight.path] for name, weight in plan.weights.items()}
    values |= {
        "attention": [name for name in ATTENTION if all_options[0].get(name)],
        "network_args": [options.get("network_args") for options in all_options],
        "output_name": [plan.name],
        "preset": [absolute(preset) if _is_path("preset", preset) else preset],
        "dataset": [_data(request, plan.dataset.name)],
        "python": [request.python],
        "musubi_dir": [request.upstream.folder],
    }
    return {name: " or ".join(dict.fromkeys(map(_toml, each))) for name, each in values.items()}


def _data(request: Request, name: str) -> str:
    """A data set of the workspace by its name, any other by its whole path."""
    word = str(request.dataset_config or request.dataset or name).rstrip(f"/{os.sep}")
    here = (request.base_dir / "datasets" / word).is_dir() and not _is_path("dataset", word)
    return word if here or not Path(word).exists() else str(absolute(word))
