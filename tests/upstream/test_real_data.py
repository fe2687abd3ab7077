"""Data sets against the real musubi-tuner: what is predicted is what it caches and prints, and nothing is encoded twice."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, clip, picture
from PIL import Image
from raw import footage
from real import ask

from wanwrap.data import caches
from wanwrap.data.check import Checked, check
from wanwrap.data.config import load as load_config
from wanwrap.data.dataset import Dataset
from wanwrap.data.folder import scan
from wanwrap.plan.plan import Plan
from wanwrap.plan.planner import make_plan
from wanwrap.plan.preflight import Machine
from wanwrap.plan.request import Request
from wanwrap.preset import Clips, Pictures, Preset, load
from wanwrap.run import record as records
from wanwrap.run.run import _Run
from wanwrap.run.training import Training
from wanwrap.system.safetensors import read_header
from wanwrap.upstream.buckets import LATENTS
from wanwrap.upstream.pin import Upstream
from wanwrap.weights.catalogue import CATALOGUE
from wanwrap.weights.weight_file import WeightFile

pytestmark = pytest.mark.upstream
FOLDER, PYTHON = os.environ.get("WANWRAP_MUSUBI_DIR", ""), os.environ.get("WANWRAP_PYTHON", sys.executable)
RATES = [Fraction(16), Fraction(24), Fraction(25), Fraction(30000, 1001), Fraction(30), Fraction(60)]
MODES = ["wan21-t2v-1.3b", "i2v-vanilla", "wan21-i2v-480p"]  # T2V, I2V, I2V with CLIP
SIDES = [32, 48, 64, 80, 96]
ENDINGS = [".png", ".jpg", ".webp", ".BMP"]


def draw(rng: random.Random, folder: Path) -> Preset:
    """A data set on disk, not all of it captioned, and a preset that trains it in its own way."""
    for number in range(rng.randint(1, 6)):
        name, size = f"p{number}{rng.choice(ENDINGS)}", (rng.randint(16, 160), rng.randint(16, 160))
        picture(folder / name, size, f"picture {number}" if rng.random() < 5 / 6 else None)
    for number in range(rng.randint(0, 4)):
        size, words = (2 * rng.randint(10, 70), 2 * rng.randint(10, 70)), f"clip {number}"
        caption = words if rng.random() < 5 / 6 else None
        clip(folder / f"c{number}.mp4", rng.randint(1, 90), rng.choice(RATES), size, caption)

    def how() -> dict[str, Any]:
        side, batch, repeats = rng.choices(SIDES, k=2), rng.randint(1, 3), rng.randint(1, 3)
        return {"resolution": tuple(side), "batch_size": batch, "num_repeats": repeats}

    def windows() -> dict[str, Any]:
        frames = tuple(rng.sample((1, 5, 9, 13, 21), k=rng.randint(1, 2)))
        extraction = rng.choice(("head", "chunk", "uniform"))
        return {"target_frames": frames, "frame_extraction": extraction, "frame_sample": rng.randint(1, 3)}

    real = load(rng.choice(MODES))
    soft = {"optimizer_type": "adamw", "optimizer_args": None, "max_train_epochs": rng.randint(1, 2)}
    soft |= {"max_data_loader_n_workers": 0, "blocks_to_swap": None, "fp8_base": None, "fp8_scaled": None}
    return replace(
        real,
        train={**real.train, **soft},
        pictures=Pictures(**how()),
        clips=tuple(Clips(**how(), **windows()) for _ in range(rng.randint(1, 2))),
        bucket_no_upscale=rng.random() < 0.5,
        cache_text={},
        cache_latents={},
    )


def toy(name: str, base: Path) -> WeightFile:
    ending = ".pth" if name in ("t5", "clip") else ".safetensors"
    return WeightFile(path=base / f"{name}{ending}", dtype="bf16", stamp=(0, 0), identity=name, names=(name,))


def roles(weights: Iterable[WeightFile]) -> dict[str, Any]:
    """What each toy is to be."""
    return {str(each.path): {"role": CATALOGUE[each.names[0]].role, "dtype": "bf16"} for each in weights}


def plan_of(preset: Preset, data: Dataset, base: Path, name: str, child: str = "child.py") -> Plan:
    request = Request(
        preset=preset,
        base_dir=base,
        noise_level="low" if len(preset.experts) > 1 else None,
        output_name=name,
        python=PYTHON,
        upstream=Upstream(folder=Path(FOLDER), child=child),
        wanwrap=(sys.executable, "-m", "wanwrap"),
    )
    return make_plan(request, data, {key: toy(key, base) for key in request.needed})


def written(plan: Plan) -> Path:
    """The files of a plan, on disk: the data set TOML of its one expert."""
    for path, text in plan.files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return plan.trainings[0].folder / "dataset.toml"


def upstream(asked: dict[str, Any], tmp_path: Path) -> list[str]:
    """What each call printed."""
    (tmp_path / "asked.json").write_text(json.dumps(asked), encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": f"{FOLDER}/src", "PYTHONUTF8": "1"}
    argv = [PYTHON, str(Path(__file__).with_name("real_runs.py")), str(tmp_path / "asked.json")]
    done = subprocess.run(argv, capture_output=True, encoding="utf-8", env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    answers: list[str] = json.loads(done.stdout.splitlines()[-1])
    assert not [text for text in answers if "ENDED BY" in text], next(t[-1500:] for t in answers if "ENDED BY" in t)
    return answers


def test_what_is_predicted_is_what_upstream_caches_and_prints(tmp_path: Path) -> None:
    """At least 20 data sets, from caching to training: files, buckets, batches and steps, item by item."""
    cases, rng = [], random.Random(3)
    for number in range(60):
        folder = tmp_path / "data" / str(number)
        preset = draw(rng, folder)
        data = scan(folder, preset, whole=True)
        if not data.train_items:
            continue
        plan = plan_of(preset, data.sound(skip_bad=True), tmp_path / "base", str(number))
        own = load_config(written(plan), whole=True)  # as `prune` will read it
        assert [list(caches.names(e, "latents")) for e in own.entries] == [list(caches.names(e, "latents")) for e in data.entries]  # fmt: skip
        cases.append((data, check(data), plan))
        if len(cases) == 24:
            break
    assert len(cases) >= 20 and {plan.request.preset.name for _, _, plan in cases} == set(MODES)
    assert any(entry.listed for data, _, _ in cases for entry in data.entries)
    assert any(row.item.problem for _, checked, _ in cases for row in checked.rows)
    toys, calls = defaultdict[str, dict[str, Any]](dict), list[list[str]]()
    for _, _, plan in cases:
        toys[plan.request.preset.task] |= roles(plan.weights.values())
        started = (list(step.argv) for step in plan.steps if "child.py" in step.argv)
        calls += [argv[argv.index("child.py") + 1 :] for argv in started]  # [script, argument, ...]
    answers = upstream({"toys": toys, "calls": calls}, tmp_path)
    for index, (data, checked, plan) in enumerate(cases):
        compare(data, checked, plan, answers[3 * index + 2])


def compare(data: Dataset, checked: Checked, plan: Plan, printed: str) -> None:
    kept = {row.item.path.stem: row for row in checked.kept}
    things = Counter[str]()
    for entry, cache in zip(data.entries, plan.caches, strict=True):
        there = {path.name for path in cache.iterdir() if path.suffix == ".safetensors"}
        assert there == {name for what in ("latents", "text") for name, _ in caches.names(entry, what)}
        things.update(re.match(r"[pc]\d+", name)[0] for name in there if name.endswith(LATENTS))  # type: ignore[index]
    assert dict(things) == {stem: len(row.keys) for stem, row in kept.items()}
    counted = Counter[tuple[int, ...]]()
    for text, number in re.findall(r"bucket: \(([\d, ]+)\), count: (\d+)", printed):
        counted[tuple(map(int, text.split(",")))] += int(number)
    clips = {key for entry in data.entries if entry.kind == "video" for key in entry.keys}
    predicted = Counter[tuple[int, ...]]()
    for key, number in checked.buckets.items():
        # upstream adds a window size of FramePack's to pictures
        predicted[key if key in clips else (*key, 9)] += number
    assert counted == predicted
    (training,) = plan.trainings
    assert re.search(r"num train items[^\n]*: (\d+)", printed)[1] == str(data.train_items)  # type: ignore[index]
    assert re.search(r"num batches per epoch[^\n]*: (\d+)", printed)[1] == str(data.batches)  # type: ignore[index]
    assert re.search(r"total optimization steps[^\n]*: (\d+)", printed)[1] == str(training.steps)  # type: ignore[index]


def test_frame_k_shows_what_stood_there_at_its_time(tmp_path: Path) -> None:
    """By the frame rate that is measured and written alone, and after `prepare`."""
    raw, out, vanilla = tmp_path / "raw", tmp_path / "out", load("t2v-vanilla")
    for fps in RATES:
        footage(raw / f"{float(fps):.4g}.mp4", int(4 * fps), fps).with_suffix(".txt").write_text("it moves")
    prepare = [sys.executable, "-m", "wanwrap", "prepare", str(raw), "--out", str(out)]
    subprocess.run(prepare, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    asked = dict[tuple[str, str], tuple[str, float]]()
    for folder in (raw, out):
        data = scan(folder, vanilla).sound()
        for entry in data.entries:
            for item in entry.items:
                asked[folder.name, item.path.stem] = str(item.path), entry.options["source_fps"]
    assert len(asked) == 2 * len(RATES) and {fps for (where, _), (_, fps) in asked.items() if where == "out"} == {16.0}
    answers = dict(zip(asked, ask("frames", list(asked.values()), tmp_path), strict=True))
    for fps in RATES:
        for where in ("raw", "out"):
            shown = answers[where, f"{float(fps):.4g}"]
            assert len(shown) in (63, 64)
            for k, number in enumerate(shown):
                # upstream takes the first frame at or after the time (or, by its rounding, the next one), prepare the nearest
                late, near = Fraction(number) / fps - Fraction(k, 16), Fraction(17, 32) / fps + Fraction(1, 1000)
                assert 0 <= late <= 1 / fps if where == "raw" else abs(late) <= near, (where, fps, k)


CHILD = ROOT / "wanwrap" / "rehearsal" / "child.py"
MACHINE = Machine(upstream=Upstream(), python="", packages={}, gpus=[])


@dataclass
class Caches:
    """A workspace with toy encoders, whose caches are filled as `run` does; `said` is what it says."""

    base: Path
    said: list[str]
    before: dict[Path, int]

    def fill(self, data: Dataset, preset: Preset, name: str = "a") -> list[str]:
        """The names of the files that were encoded."""
        plan = plan_of(preset, data.sound(), self.base, name, str(CHILD))
        written(plan)
        (train,) = plan.trainings
        self.said.clear()
        with ExitStack() as locks:
            _Run(plan, [Training(plan, train, records.begin(plan, train, MACHINE))])._cache(locks)
        after = {path: path.stat().st_mtime_ns for path in self.base.parent.rglob("*_wan*.safetensors")}
        encoded = sorted(path.name for path, time in after.items() if self.before.get(path) != time)
        self.before = after
        return encoded

    @property
    def encoders(self) -> list[str]:
        """The encoders that were started the last time: each takes its time to load."""
        return [line.strip() for line in self.said if line.startswith("\ncache ")]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]) -> Caches:
    """Beside the folder `cats`, which has two pictures."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    base = tmp_path / "base"
    base.mkdir()
    for number in (1, 2):
        picture(tmp_path / "cats" / f"p{number}.png", (96 + 16 * number, 64), f"picture {number}")
    files = roles(toy(name, base) for name in ("vae", "t5"))
    make = [PYTHON, str(CHILD), "make", json.dumps({"task": "t2v-1.3B", "files": files})]
    subprocess.run(make, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": f"{FOLDER}/src"})
    return Caches(base, said, {})


def test_nothing_is_encoded_twice(tmp_path: Path, workspace: Caches) -> None:
    """With the real scripts and toy encoders, counted by the files' times."""
    folder = tmp_path / "cats"
    clip(folder / "c0.mp4", 40, 24, (64, 48), "clip 0")
    small, clips = Pictures(resolution=(64, 64)), (Clips(resolution=(64, 48), target_frames=(1, 9)),)

    def encoded(name: str = "wan21-t2v-1.3b", how: Pictures = small) -> tuple[list[str], int]:
        """The files that were encoded, and how many encoders were started for it."""
        preset = replace(load(name), pictures=how, clips=clips, cache_text={}, bucket_no_upscale=False)
        files = workspace.fill(scan(folder, preset, whole=True), preset, name)
        return files, len(workspace.encoders)

    latents = [f"c0_00000-00{n}_0064x0048_wan.safetensors" for n in (1, 9)]
    latents += ["p1_0112x0064_wan.safetensors", "p2_0128x0064_wan.safetensors"]
    text = [f"{stem}_wan_te.safetensors" for stem in ("c0", "p1", "p2")]
    assert encoded() == (sorted([*latents, *text]), 2)
    assert encoded() == ([], 0)  # a second run
    assert encoded("t2v-vanilla") == ([], 0)  # another preset with the same needs, one of two experts
    (folder / "p1.txt").write_text("another caption")
    assert encoded() == (["p1_wan_te.safetensors"], 1)
    picture(folder / "p2.png", (128, 64), None).touch()
    assert encoded() == ([], 0)  # written anew, and the same
    Image.new("RGB", (128, 64), "black").save(folder / "p2.png")
    assert encoded() == (["p2_0128x0064_wan.safetensors"], 1)
    half = next(path for path in workspace.before if path.name == latents[2])
    half.write_bytes(half.read_bytes()[:-100])  # a kill while it was written
    assert encoded() == ([half.name], 1)
    kept = dict(workspace.before)
    assert encoded(how=Pictures(resolution=(96, 96)))[0] == sorted([*latents[2:], *text[1:]])
    assert len(encoded("i2v-vanilla")[0]) == 7  # for I2V the latents hold the first frame too
    assert kept.items() <= workspace.before.items()  # each in a folder of its own
    for path in folder.glob("p1.*"):
        path.unlink()
    assert encoded() == ([], 0)
    assert (half in kept, half in workspace.before) == (True, False)  # it has left the training


def test_ones_own_cache_folder_is_kept_right_too(tmp_path: Path, workspace: Caches) -> None:
    """One folder whatever the resolution, beside the media: upstream's own way, in which it trains what is stale."""
    own, preset = tmp_path / "own.toml", replace(load("wan21-t2v-1.3b"), cache_text={})

    def encoded(side: int) -> list[str]:
        table = f'image_directory = "{(tmp_path / "cats").as_posix()}"\nresolution = {side}\n'
        own.write_text(f'[general]\ncaption_extension = ".txt"\n[[datasets]]\n{table}')
        return workspace.fill(load_config(own, whole=True), preset)

    def shapes() -> set[str]:
        return {key for path in workspace.before for key in read_header(path) if key.startswith("latents")}

    assert len(encoded(64)) == 4
    before = shapes()
    assert encoded(64) == [] and workspace.encoders == []
    assert encoded(96) == ["p1_0112x0064_wan.safetensors", "p2_0128x0064_wan.safetensors"]
    assert workspace.encoders == ["cache latents"] and not shapes() & before
