"""A plan as one self-contained script, to copy and run by hand: it does exactly what `run` does."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from wanwrap.plan.plan import Plan, Train
from wanwrap.system.shell import Shell, literal, quote


def script(plan: Plan, shell: Shell, heading: Iterable[str] = ()) -> str:
    """Folders, files, environment, then each command in order; the first that fails ends it."""
    bash = shell == "bash"
    lines = [*(["#!/usr/bin/env bash"] if bash else []), *map(_comment, heading)]
    lines += _bash_start(plan) if bash else _powershell_start(plan)
    for step in plan.steps:
        lines += ["", *map(_comment, (step.name, *step.comments))]
        run = command(step.argv, shell)
        # a program that can't be started leaves LASTEXITCODE as it was
        lines += [run] if bash else ["$global:LASTEXITCODE = 1", run, "if ($LASTEXITCODE) { exit $LASTEXITCODE }"]
        lines += [_move(step, shell)] if isinstance(step, Train) else []
    return "\n".join((*lines, ""))


def encoded(text: str, shell: Shell) -> bytes:
    """A script as its shell reads it from a file: PowerShell 5 knows UTF-8 by its mark alone."""
    return text.encode("utf-8-sig" if shell == "powershell" else "utf-8", "surrogateescape")  # names may be no text


def start(path: Path, shell: Shell) -> str:
    """How a script is started from its file; PowerShell's own policy would refuse it."""
    if shell == "bash":
        return shlex.join(("bash", str(path)))
    return f"powershell -ExecutionPolicy Bypass -File {quote(str(path), shell)}"


def command(argv: Sequence[str], shell: Shell) -> str:
    """One command, one option a line, to be copied as it stands."""
    return _broken(argv, shlex.quote, " \\\n  ") if shell == "bash" else "& " + _broken(argv, _native, " `\n  ")


def _bash_start(plan: Plan) -> Iterator[str]:
    yield "set -euo pipefail"
    yield ""
    yield shlex.join(("mkdir", "-p", *(str(train.folder) for train in plan.trainings)))
    written = dict[str, Path]()
    for path, text in plan.files.items():
        if (same := written.setdefault(text, path)) != path:
            yield shlex.join(("cp", str(same), str(path)))
            continue
        mark = "END"  # a delimiter that is no line of the text
        while mark in text.splitlines():
            mark += "_"
        yield f"cat > {shlex.quote(str(path))} <<'{mark}'\n{text.rstrip()}\n{mark}\n"
    yield shlex.join(("cd", str(plan.folder)))
    yield from environment(plan.env, "bash")


def environment(env: Mapping[str, str], shell: Shell) -> Iterator[str]:
    """What sets variables, a line each."""
    for name, value in env.items():
        yield f"export {name}={shlex.quote(value)}" if shell == "bash" else f"$env:{name} = {literal(value)}"


def _powershell_start(plan: Plan) -> Iterator[str]:
    yield "$ErrorActionPreference = 'Stop'"
    yield "$PSNativeCommandArgumentPassing = 'Legacy'  # quote arguments alike in PowerShell 5 and 7"
    yield ""
    for train in plan.trainings:
        yield f"[void][IO.Directory]::CreateDirectory({literal(str(train.folder))})"
    for path, text in plan.files.items():
        # WriteAllText writes UTF-8 without a mark, which Set-Content of PowerShell 5 does not.
        yield f"[IO.File]::WriteAllText({literal(str(path))}, {literal(text)})\n"
    yield f"Set-Location -LiteralPath {literal(str(plan.folder))}"
    yield "$ErrorActionPreference = 'Continue'  # PowerShell 5 takes a line on stderr, as of a progress bar, for an error"
    yield from environment(plan.env, "powershell")


def _move(train: Train, shell: Shell) -> str:
    """The LoRAs that are kept, into the run's folder; beside them lie others, of the states in between."""
    folder = train.attempt_folder(1).relative_to(train.folder.parent)
    made = [(folder / name).as_posix() for name in train.loras]
    if shell == "bash":
        return "mv " + " \\\n  ".join(map(shlex.quote, (*made, ".")))
    return "Move-Item -ErrorAction Stop -Force -Destination . -LiteralPath `\n  " + ", `\n  ".join(map(literal, made))


def _comment(text: str) -> str:
    """One line, whatever stands in the text."""
    return f"# {' '.join(text.split())}"


def _broken(argv: Sequence[str], quote: Callable[[str], str], newline: str) -> str:
    words = [quote(argv[0])]
    for before, word in pairwise(argv):
        starts_line = word.startswith("--") or (word == "-m" and before != argv[0])
        words.append((newline if starts_line else " ") + quote(word))
    return "".join(words)


def _native(word: str) -> str:
    """A literal that reaches a program as it is; PowerShell (Legacy) joins all to one line, which Windows splits.

    It puts a word with a space between quotes, but not if the space stands after an odd number of quotes. Of these 5.1
    counts all, 7 those without a backslash before them. And 7 alone doubles the backslashes before its own last quote.
    """
    inside = subprocess.list2cmdline([f" {word}"])[2:-1]  # as it stands between quotes
    if '"' in word and any(map(str.isspace, word)):  # with quotes of its own: 5.1 must count two for each, 7 none
        begin = literal(f'"{inside}')
        return f"""({begin}.Replace('\\"', ('""', '\\"')[$PSVersionTable.PSVersion.Major -gt 5]) + '"')"""
    own = word in ("", "--%") or word.endswith("\\")  # the first would be left out, the second obeyed
    return literal(f'"{inside}"' if own else inside)
