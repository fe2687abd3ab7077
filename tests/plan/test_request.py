"""What `wanwrap.toml` tells a run: taken at its word, or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import STANDIN

from wanwrap.errors import OptionError, WanwrapError
from wanwrap.plan.build import SAMPLE, build
from wanwrap.plan.request import read


def recorded(tmp_path: Path, text: str) -> Path:
    (tmp_path / "wanwrap.toml").write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("line", "given"),
    [
        ('python = "/nowhere/bin/python"', {"python": "python3"}),
        ('python = "~/nowhere/python"', {"python": "python3"}),
        ('musubi_dir = "elsewhere/musubi-tuner"', {"musubi_dir": STANDIN}),
    ],
)
def test_what_is_not_there_is_named_unless_another_is_given(tmp_path: Path, line: str, given: dict[str, Any]) -> None:
    base = recorded(tmp_path, f"[upstream]\n{line}\n")
    with pytest.raises(OptionError, match=f"{tmp_path}.*{line.split()[0]} = .*nowhere|elsewhere"):
        read(preset="t2v-vanilla", base_dir=base)
    assert read(preset="t2v-vanilla", base_dir=base, **given)


@pytest.mark.parametrize("text", ['vae = "gone.safetensors"', 'vae = "."'])
def test_a_weight_that_is_no_file(tmp_path: Path, text: str) -> None:
    base = recorded(tmp_path, f"[weights]\n{text}\n")
    with pytest.raises(WanwrapError, match="vae"):
        build(read(preset="t2v-vanilla", base_dir=base, dataset=SAMPLE))
