"""What `wanwrap.toml` tells a run: taken at its word, or refused by name."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import STANDIN, Wanwrap

from wanwrap.errors import WanwrapError
from wanwrap.machine.request import read as read_setup
from wanwrap.machine.survey import survey
from wanwrap.plan.build import SAMPLE, build
from wanwrap.plan.request import read


def recorded(tmp_path: Path, text: str) -> Path:
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "wanwrap.toml").write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("line", "given"),
    [
        ('python = "/nowhere/bin/python"', {"python": "python3"}),
        ('python = "~/nowhere/python"', {"python": "python3"}),
        ('python = "python2.6"', {"python": "python3"}),
        ('musubi_dir = "elsewhere/musubi-tuner"', {"musubi_dir": STANDIN}),
    ],
)
def test_what_is_not_there_is_named_unless_another_is_given(
    line: str, given: dict[str, Any], tmp_path: Path, cli: Wanwrap, low: tuple[object, ...]
) -> None:
    """A run and a rehearsal stop at it, doctor and a dry run tell it; what needs no upstream is done."""
    base, name = recorded(tmp_path / "w", f"[upstream]\n{line}\n"), line.split()[0]
    assert read(preset="t2v-vanilla", base_dir=base).gone.keys() == {name}
    assert not read(preset="t2v-vanilla", base_dir=base, **given).gone
    place = ("--base_dir", base)
    for verb in (low, ("rehearse", *low[1:])):
        done = cli(*verb, *place, standin=False)
        assert done.returncode == 7 and f"{base / 'wanwrap.toml'} has {name} = " in done.stderr, done.stderr
    dry = cli(*low, *place, "--dry_run", standin=False)
    assert dry.returncode == 0 and f"wanwrap.toml has {name} = " in dry.stderr
    assert "TO DO   wanwrap.toml" in cli("doctor", *place, standin=False).stdout
    assert cli("check", "sample", *place, standin=False).returncode == 0


def test_setup_looks_anew_for_what_is_gone(tmp_path: Path, said: list[str]) -> None:
    base = recorded(tmp_path, '[upstream]\npython = "/nowhere/python"\n')
    found = survey(read_setup(["t2v-vanilla"], base_dir=base), weights_only=True)
    assert found.request.first.python == sys.executable and "nowhere" in said[0]


@pytest.mark.parametrize("text", ['vae = "gone.safetensors"', 'vae = "."'])
def test_a_weight_that_is_no_file(tmp_path: Path, text: str) -> None:
    base = recorded(tmp_path, f"[weights]\n{text}\n")
    with pytest.raises(WanwrapError, match="vae"):
        build(read(preset="t2v-vanilla", base_dir=base, dataset=SAMPLE))
