"""What a terminal is given: help that can be copied, words for one thing, and an end where nothing can be written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from helpers import PYTHONPATH, golden_plan

from wanwrap.cli.main import VERBS, main
from wanwrap.cli.words import heading

FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["presets"], ["presets", "--json"]])
def test_a_full_disk_behind_a_redirection(words: list[str], tmp_path: Path) -> None:
    argv, env = [sys.executable, "-m", "wanwrap", *words], {**os.environ, "PYTHONPATH": PYTHONPATH}
    with FULL.open("w") as full:
        done = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=env)
    assert done.returncode == 13 and done.stderr.startswith("Error: standard output"), done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("verb", VERBS)
def test_an_example_is_in_one_piece_in_the_narrowest_terminal(verb: str) -> None:
    command = main.get_command(click.Context(main), verb)
    assert command and command.epilog
    text = command.get_help(click.Context(command, info_name=verb, terminal_width=40))
    assert f"\n{command.epilog}\n" in f"{text}\n"


def test_one_is_no_plural() -> None:
    text = "\n".join(heading(golden_plan("wan21-t2v-14b", given={"max_train_steps": 1})))
    assert "1 step," in text and "1 steps" not in text
