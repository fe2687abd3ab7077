"""What the README says is so."""

from __future__ import annotations

import re

from helpers import ROOT

from wanwrap import errors
from wanwrap.preset import shipped
from wanwrap.upstream.options import ALIASES

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_ci_runs_the_readmes_test_command() -> None:
    (command,) = (line for line in README.splitlines() if "pip install -e '.[test]'" in line)
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_every_preset_has_its_place() -> None:
    assert set(shipped()) == set(re.findall(r"`((?:t2v|i2v|wan21)-[\w.-]+)`", README.split("**3.")[1].split("**4.")[0]))


def test_every_error_has_its_own_exit_code_in_the_table() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.WanwrapError)]
    codes = [kind.exit_code for kind in kinds]
    assert len(set(codes)) == len(codes)
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", README, re.M)} == {0, 2, 130, *codes}


def test_the_guides_options_are_named() -> None:
    options = README.split("## Options")[1].split("## A preset")[0]
    assert all(f"--{name}" in options for name in ALIASES)


def test_no_path_of_a_machine_is_in_any_file() -> None:
    for folder in ("wanwrap", "presets", "templates", "scripts"):
        for path in (ROOT / folder).rglob("*.*"):
            if path.suffix in (".py", ".toml", ".yaml", ".md"):
                assert not re.search(r"/(work|root|home/\w+)/", path.read_text(encoding="utf-8")), path
