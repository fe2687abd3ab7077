"""Writes a run file, for `wanwrap run ... --save cats.toml`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import tomlkit
from click.core import ParameterSource

from wanwrap.cli.options import GROUPS
from wanwrap.cli.run_file import OF_A_START, WORDS, is_path
from wanwrap.cli.terminal import show_text
from wanwrap.errors import OptionError
from wanwrap.paths import absolute
from wanwrap.plan.plan import Plan
from wanwrap.plan.request import Request
from wanwrap.system.shell import quote
from wanwrap.upstream.options import ALIASES, ATTENTION, parse
from wanwrap.weights.models import option

ARGUMENTS = {
    "preset": "What is trained, and how: a name, or your own ./file.py.",
    "dataset": "A folder (./cats), the name of one in BASE_DIR/datasets, or a TOML of your own.",
}
HEAD = """\
# `wanwrap run THIS_FILE` carries this run out, `wanwrap rehearse THIS_FILE` tries it in small.
# A line that begins with # gives nothing; its value is what holds without it. What is typed beside the file wins over it.
# A relative path begins at this file's folder. On Windows write paths with /, or in 'single quotes'.
"""


def write_run_file(ctx: click.Context, plan: Plan, out: Path) -> None:
    """A run file with all that was given, and as comments all that could be. Raises OutputError: there is a file already."""
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
    if value is None:
        return "..."
    several = isinstance(value, Sequence) and not isinstance(value, str)
    plain = [*value] if several else value if isinstance(value, bool | int | float) else str(value)
    return tomlkit.item(plain).as_string()


def _holds(plan: Plan, preset: str) -> dict[str, str]:
    """What holds where nothing is given, of both experts; and the words that were given, as they are meant anywhere."""
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
        "preset": [absolute(preset) if is_path("preset", preset) else preset],
        "dataset": [_data(request, plan.dataset.name)],
        "python": [request.python],
        "musubi_dir": [request.upstream.folder],
    }
    return {name: " or ".join(dict.fromkeys(map(_toml, each))) for name, each in values.items()}


def _data(request: Request, name: str) -> str:
    """A data set of the workspace by its name, any other by its whole path."""
    word = str(request.dataset_config or request.dataset or name).rstrip(f"/{os.sep}")
    here = (request.base_dir / "datasets" / word).is_dir() and not is_path("dataset", word)
    return word if here or not Path(word).exists() else str(absolute(word))
