"""What stands in a job, typed on the other machine: it is the same run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers import Wanwrap, small_dataset


def job(cli: Wanwrap, *words: object) -> dict[str, Any]:
    done = cli("launch", words[0], "--dry_run", "--json", *words[1:])
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["job"]
    return found


def trainings(cli: Wanwrap, *words: object) -> list[list[str]]:
    """Upstream's words of each training, without folders: those there are others."""
    done = cli("run", words[0], "--dry_run", "--json", *words[1:])
    assert done.returncode == 0, done.stderr
    steps = [step["argv"] for step in json.loads(done.stdout)["steps"] if "wan_train_network" in " ".join(step["argv"])]
    return [[Path(word).name for word in argv] for argv in steps]


@pytest.mark.parametrize("engine", ["sky", "script"])
@pytest.mark.parametrize(
    "words",
    [
        ("t2v-vanilla", "cats", "--epochs", "4", "--lr", "1e-5", "--network_args", "loraplus_lr_ratio=4", "--skip_bad"),
        ("t2v-vanilla", "cats", "--separate", "--attention", "sdpa", "--", "--seed=7"),
        ("t2v-lightning", "cats", "--noise_level", "low", "--optimizer", "adamw", "--output_name", "my own"),
        ("i2v-vanilla", "cats", "--parallel", "--no_sample", "--", "--optimizer_args", "weight_decay=0.1", "eps=1e-8"),
        (
            "mine.py",
            "cats",
            "--blocks_to_swap",
            "20",
            "--",
            "--sample_prompts",
            "a b.txt",
            "--sample_every_n_epochs",
            "2",
        ),
        ("night.toml",),
    ],
)
def test_the_same_run(engine: str, words: tuple[str, ...], cli: Wanwrap, tmp_path: Path) -> None:
    home = tmp_path / "home"
    small_dataset(home / "cats")
    (home / "a b.txt").write_text("a cat\n", encoding="utf-8")
    assert cli("show", "wan21-t2v-1.3b", "--out", home / "mine.py").returncode == 0
    (home / "night.toml").write_text('preset = "t2v-vanilla"\ndataset = "cats"\nepochs = 7\nskip_bad = true\n')
    own = tuple(word for word in words if word not in ("--separate", "--parallel"))
    here = trainings(cli, own[0], "--fit", "off", *own[1:])
    made = job(cli, engine, words[0], "--gpu", "RTX5090", "--fit", "off", *words[1:])
    for place, path in made["uploads"].items():  # as it is sent; what it is made of is not there
        if "inputs" in place:
            (home / place).parent.mkdir(parents=True)
            (shutil.copytree if Path(path).is_dir() else shutil.copy)(path, home / place)
    for name in ("cats", "a b.txt", "mine.py", "night.toml"):
        (home / name).rename(tmp_path / f"gone {name}")
    assert [argv for run in made["runs"] for argv in trainings(cli, *run)] == here
