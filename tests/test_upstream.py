"""The real musubi-tuner 0.3.4, on a CPU: it takes every command and TOML, counts alike, and trains the toys."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, clip, golden_plan, picture

from wanwrap.dataset import scan
from wanwrap.dataset_config import load as load_config
from wanwrap.dataset_toml import render
from wanwrap.options import TRAIN
from wanwrap.preset import Clips, Pictures, load, shipped
from wanwrap.weights import header

pytestmark = pytest.mark.upstream
FOLDER, PYTHON = os.environ.get("WANWRAP_MUSUBI_DIR", ""), os.environ.get("WANWRAP_PYTHON", sys.executable)


def ask(what: str, asked: object, tmp_path: Path) -> Any:
    """The answer of upstream_child.py."""
    (tmp_path / "asked.json").write_text(json.dumps(asked), encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": f"{FOLDER}/src", "PYTHONUTF8": "1"}
    argv = [PYTHON, str(Path(__file__).with_name("upstream_child.py")), what, str(tmp_path / "asked.json")]
    done = subprocess.run(argv, capture_output=True, encoding="utf-8", env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_table_of_options_is_upstreams() -> None:
    argv = [sys.executable, str(ROOT / "scripts" / "upstream_flags.py"), FOLDER, "--check"]
    assert subprocess.run(argv, capture_output=True, text=True).stderr == ""


def test_upstreams_parsers_take_every_command(tmp_path: Path) -> None:
    calls, steps = [], []
    for name in shipped():
        for step in golden_plan(name).steps:
            script = next((word for word in step.argv if word.startswith("musubi_tuner.wan_")), None)
            if script:
                calls.append({"script": script.partition(".")[2], "argv": step.argv[step.argv.index(script) + 1 :]})
                steps.append(step)
    assert len(calls) == 2 * 12 + 12 + 5
    for call, step, taken in zip(calls, steps, ask("parse", calls, tmp_path), strict=True):
        assert call["script"] != TRAIN or step.recipe
        for option, value in (step.recipe.options if step.recipe else {}).items():
            if value is not None:
                assert taken[option] == (list(value) if isinstance(value, tuple) else value), (step.name, option)


def test_upstreams_sanitizer_takes_every_toml(tmp_path: Path) -> None:
    odd = Path("/data/my \"cats\" & dogs $HOME ü # [x] = 'y' \\t C:\\Users\\new")
    paths, expected = [], []
    for name in shipped():
        plan = golden_plan(name)
        entries = tuple(replace(entry, directory=odd / str(i)) for i, entry in enumerate(plan.dataset.entries))
        data = replace(plan.dataset, entries=entries)
        path = tmp_path / f"{name}.toml"
        path.write_text(render(data, [odd / "cache" / str(i) for i in range(len(entries))]), encoding="utf-8")
        paths.append(str(path))
        expected.append(data)
    for data, taken in zip(expected, ask("sanitize", paths, tmp_path), strict=True):
        for index, (entry, params) in enumerate(zip(data.entries, taken, strict=True)):
            assert params[f"{entry.kind}_directory"] == str(odd / str(index))
            assert params["cache_directory"] == str(odd / "cache" / str(index))
            for option, value in entry.options.items():
                assert params[option] == (list(value) if isinstance(value, tuple) else value)


def test_items_and_batches_are_counted_alike(tmp_path: Path) -> None:
    """Random data sets with buckets, repeats, batches and every way to take windows of clips."""
    rng = random.Random(2)
    paths, predicted = [], []
    for index in range(12):
        folder = tmp_path / str(index)
        for number in range(rng.randint(1, 9)):
            picture(folder / f"p{number}.png", (rng.randint(40, 500), rng.randint(40, 500)))
        fps = rng.choice([16, 24, 25, 30, 60])
        for number in range(rng.randint(1, 4)):
            size = (rng.randint(20, 200) * 2, rng.randint(20, 200) * 2)
            clip(folder / f"c{number}.mp4", rng.randint(fps * 2, fps * 4), fps, size)
        preset = replace(
            load("t2v-vanilla"),
            bucket_no_upscale=rng.random() < 0.5,
            pictures=Pictures(resolution=size_of(rng), batch_size=rng.randint(1, 4), num_repeats=rng.randint(1, 3)),
            clips=tuple(clips_of(rng, how) for how in ("head", "chunk", "uniform", "full", "slide")),
        )
        data = scan(folder, preset)
        path = tmp_path / f"{index}.toml"
        path.write_text(render(data, [folder / "cache" / str(i) for i in range(len(data.entries))]), encoding="utf-8")
        paths.append(str(path))
        predicted.append({"items": data.train_items, "batches": data.batches})
        own = load_config(path)
        assert (own.train_items, own.batches) == (data.train_items, data.batches)
    assert predicted == ask("count", paths, tmp_path)


def size_of(rng: random.Random) -> tuple[int, int]:
    return rng.randint(4, 20) * 16, rng.randint(4, 20) * 16


def clips_of(rng: random.Random, how: Any) -> Clips:
    frames = tuple(sorted({rng.choice([1, 5, 9, 13, 17, 21, 25]) for _ in range(rng.randint(1, 3))}))
    return Clips(
        resolution=size_of(rng),
        target_frames=frames,
        frame_extraction=how,
        frame_sample=rng.randint(1, 5),
        batch_size=rng.randint(1, 4),
        num_repeats=rng.randint(1, 3),
    )


@pytest.mark.parametrize("name", shipped())
def test_every_preset_rehearses(name: str, tmp_path: Path) -> None:
    """The real scripts from caching to LoRA; a wrong step count would have stopped it."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    arguments = ["rehearse", name, "--dataset", "sample", "--python", PYTHON, "--base_dir", str(tmp_path), "--json"]
    done = subprocess.run([sys.executable, "-m", "wanwrap", *arguments], capture_output=True, encoding="utf-8", env=env)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    trainings = [step for step in record["steps"] if "optimizer_steps_planned" in step]
    assert len(trainings) == len(load(name).experts)
    for training in trainings:
        assert training["optimizer_steps_done"] == training["optimizer_steps_planned"]
        rows = header.read(Path(training["makes"]))
        modules = [key for key in rows if key.endswith(".lora_down.weight")]
        assert len(modules) == 4 * (12 if load(name).needs_clip else 10)  # the toy has 4 blocks
        assert rows["__metadata__"]["ss_steps"] == str(training["optimizer_steps_planned"])
