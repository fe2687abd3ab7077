"""`wanwrap caption` through the real script of musubi-tuner 0.3.4, on a CPU; its model alone is not (tests/captioner)."""

from __future__ import annotations

import json
import random
import shlex
from pathlib import Path

import pytest
from captions import QWEN, colour, film, media_of, texts
from helpers import ROOT, Wanwrap
from real import FOLDER, PYTHON, ask
from weightfiles import sparse

from wanwrap.caption.captioning import NARROWEST
from wanwrap.caption.model import BYTES, check
from wanwrap.system.safetensors import open_source

pytestmark = pytest.mark.upstream


def python(folder: Path) -> Path:
    """The training Python with tests/captioner on its path."""
    path = folder / "python"
    extra = {"BARE_CPU": ROOT / "wanwrap" / "upstream", "CAPTIONER": folder}
    words = " ".join(f"{name}={shlex.quote(str(value))}" for name, value in extra.items())
    stub = shlex.quote(str(ROOT / "tests" / "captioner"))
    path.write_text(f'#!/bin/sh\n{words} PYTHONPATH={stub}:"$PYTHONPATH" exec {shlex.quote(PYTHON)} "$@"\n')
    path.chmod(0o755)
    return path


def test_each_caption_is_beside_what_it_tells(wanwrap: Wanwrap, tmp_path: Path) -> None:
    folder = tmp_path / "my [cats] 'n more"
    expected = dict[str, str]()
    for number, name in enumerate(["#ff0000", "#00ff00", "#0000ff"] * 3):
        side = 504 + 28 * number  # upstream and the processor keep multiples of 28 in this range
        ending = ("png", "jpg", "JPG", "webp", "bmp", "avif")[number % 6]
        colour(folder / ("", "images")[number % 2] / f"{number}.{ending}", name, (side, 448))
        expected[str(number)] = f"mycat, {('red', 'green', 'blue')[number % 3]}, {side}x448"
    film(folder / "videos" / "clip.mp4", ["#ff0000", "#0000ff", "#00ff00"], (560, 448))
    expected["clip"] = "mycat, blue, 560x448"
    colour(folder / "odd.png", "#ff0000", (640, 384))
    expected["odd"] = "mycat, red, 644x392"
    before = media_of(folder)

    prompt = "-Say 'what'\\nis \"there\" 猫."
    options = ["--prompt", prompt, "--trigger", "mycat", "--max_new_tokens", "77", "--cpu"]
    model = sparse(tmp_path / "m.safetensors", QWEN)
    env = {"WANWRAP_MUSUBI_DIR": FOLDER, "CUDA_VISIBLE_DEVICES": ""}
    done = wanwrap("caption", folder, "--model", model, "--python", python(tmp_path), *options, standin=False, **env)
    assert done.returncode == 0, done.stderr
    assert texts(folder) == expected
    assert media_of(folder) == before
    (log,) = tmp_path.glob("home/local_training/captions/*/caption.log")
    assert "Generating captions: 100%" in log.read_text() and "11 written" in done.stdout

    rows = [json.loads(line) for line in (tmp_path / "seen.jsonl").read_text().splitlines()]
    assert len(rows) == 11 and {row["max_new_tokens"] for row in rows} == {77}
    told = "-Say 'what'\nis \"there\" 猫.\nBegin the caption with these words: mycat"
    assert {row["text"] for row in rows} == {told + "assistant"}


def test_upstream_takes_all_sizes_that_are_shown_to_it(tmp_path: Path) -> None:
    rng = random.Random(3)
    asked = list[tuple[int, int, int]]()
    for most in (400, 500, 640, 1280):  # --max_size takes no less
        for _ in range(150):
            short = rng.randint(NARROWEST, rng.choice([150, 300, 2000]))
            sides = [short, min(rng.randint(short, 100 * short), 20_000)]
            rng.shuffle(sides)
            asked.append((sides[0], sides[1], most))
    assert {*ask("sizes", asked, tmp_path)} == {True}


def test_upstreams_strict_loader_takes_the_structure(tmp_path: Path) -> None:
    assert ask("captioner", {name: shape for name, (_, shape) in QWEN.items()}, tmp_path) == len(QWEN) == 729
    path = sparse(tmp_path / "m.safetensors", QWEN)
    assert check(path) == path and sum(row.end - row.begin for row in open_source(path).rows.values()) == BYTES
