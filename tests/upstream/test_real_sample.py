"""Samples against upstream's own command lines, with toys: without LoRAs bit for bit, with them as near as rounding lets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT
from real import FOLDER, PYTHON, ask, lora_of, rehearse

from wanwrap.look import samples
from wanwrap.look.sampling import CHILD
from wanwrap.preset import load
from wanwrap.rehearsal.stage import CHILD as TOYS

pytestmark = [pytest.mark.upstream, pytest.mark.skipif(not FOLDER, reason="WANWRAP_MUSUBI_DIR is not set")]
ENV = {**os.environ, "PYTHONPATH": os.pathsep.join((f"{FOLDER}/src", str(ROOT))), "PYTHONUTF8": "1"}
PRESETS = ("t2v-vanilla", "t2v-lightning", "i2v-vanilla", "wan21-i2v-480p", "wan21-t2v-1.3b")


def call(*argv: object) -> str:
    done = subprocess.run([*map(str, argv)], capture_output=True, encoding="utf-8", env=ENV)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def sample(folder: Path, *words: object) -> str:
    where = ("--python", PYTHON, "--size", "64x96", "--steps", 4, "--prompt", "a cat", "--prompt", "a dog -- asleep")
    return call(sys.executable, "-m", "wanwrap", "sample", folder, *where, *words)


def latents(argv: list[str], place: Path) -> list[str]:
    """Upstream's command, which saves its latents there instead of a picture."""
    return [*argv, "--output_type", "latent", "--save_path", str(place)]


@pytest.mark.parametrize("name", PRESETS)
def test_the_cells_are_what_upstreams_commands_make(name: str, tmp_path: Path) -> None:
    """Upstream merges the LoRAs into 16 bits, here they are added as in a training. Where it then quantises to fp8, the
    merged weights are rounded anew, which in toys can be half of what a LoRA does: one preset alone is compared so.
    """
    experts = rehearse(tmp_path, name, "sample", "--lr", "0.001")
    folder = lora_of(next(iter(experts.values()))).parent
    assert len(samples.read(folder)) == 2  # the rehearsal has made one without the LoRAs and one with them
    frames = ("--frames", 5) if load(name).mode != "t2v" else ()
    rows = json.loads(sample(folder, *frames, "--epochs", "last", "--dry_run", "--json"))
    fp8 = () if name == "t2v-vanilla" else ("--fp8", "--fp8_scaled")
    words = [row["argv"][row["argv"].index("wan_generate_video") + 1 :] for row in rows]
    arguments = [[word for word in argv if word not in fp8] for argv in words]
    for number, argv in enumerate(arguments):
        call(PYTHON, TOYS, "wan_generate_video", *latents(argv, tmp_path / "theirs" / str(number)))
    loras = {name: str(lora_of(expert)) for name, expert in experts.items()}
    cells = [
        {"argv": latents(argv, tmp_path), "loras": which, "strength": 1.0, "out": str(tmp_path / f"ours-{number}")}
        for number, (argv, which) in enumerate(
            [
                *zip(arguments, [{}, {}, loras, loras], strict=True),
                (arguments[0], {}),
            ]  # and once more without, after all
        )
    ]
    job = {
        "load": arguments[0],
        "networks": dict.fromkeys(loras, ("musubi_tuner.networks.lora_wan", {})),
        "cells": cells,
    }
    (tmp_path / "job.json").write_text(json.dumps(job), encoding="utf-8")
    call(PYTHON, TOYS, CHILD, tmp_path / "job.json")
    pairs = [[str(next((tmp_path / "theirs" / str(n)).iterdir())), str(tmp_path / f"ours-{n}")] for n in range(4)]
    pairs += [[pairs[0][0], str(tmp_path / "ours-4")], [pairs[0][1], pairs[2][1]], [pairs[1][1], pairs[3][1]]]
    found: list[dict[str, Any]] = ask("distances", pairs, tmp_path)
    assert [found[n]["same"] for n in (0, 1, 4)] == [True] * 3
    if (
        load(name).experts[0].dit == "wan2.1-t2v-1.3b"
    ):  # whose keys have a prefix: upstream merges nothing, and says so to nobody
        assert found[2]["distance"] == found[5]["distance"] > 0.02
        return
    for hooked, effect in zip(found[2:4], found[5:7], strict=True):
        print(name, hooked, effect)
        assert 0.02 < effect["distance"] > 4 * hooked["distance"]  # a merge rounds to 16 bits, and is then quantised


def test_a_kill_in_the_middle_loses_nothing(tmp_path: Path) -> None:
    experts = rehearse(tmp_path, "wan21-t2v-1.3b", "sample")
    folder = lora_of(experts["dit"]).parent
    words = ("sample", folder, "--python", PYTHON, "--size", "64x64", "--steps", 30, "--prompt", "a", "--prompt", "b")
    argv = [sys.executable, "-m", "wanwrap", *map(str, words), "--frames", "17"]
    before = len(samples.read(folder))
    with subprocess.Popen(argv, env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while len(samples.read(folder)) < before + 2:
            assert process.poll() is None
        process.kill()
    there = {row.file for row in samples.read(folder)}
    call(*argv)
    rows = samples.read(folder)
    assert there < {row.file for row in rows} and len(rows) == before + 6
    assert not [*(folder / "samples").glob("*.part")] and not (folder / "samples" / "job.json").exists()
    answer = ask("media", [str(folder / row.file) for row in rows if row.clip], tmp_path)
    assert answer == [[17, 64, 64]] * 6
