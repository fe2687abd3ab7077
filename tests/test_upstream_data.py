"""Data sets against the real musubi-tuner: what is predicted is what it caches and prints, and nothing is encoded twice."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, clip, picture
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from raw import footage
from test_upstream import ask

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
SIDES = st.sampled_from([32, 48, 64, 80, 96])


@dataclass(frozen=True)
class Spec:
    """A data set that is to be made, and how it is trained."""

    mode: str
    pictures: list[tuple[int, int, str, bool]]  # width, height, ending, captioned
    clips: list[tuple[int, int, Fraction, int, bool]]  # width, height, fps, frames, captioned
    how: Pictures
    lengths: tuple[Clips, ...]
    no_upscale: bool
    epochs: int


def specs() -> st.SearchStrategy[Spec]:
    side, captioned = st.integers(16, 160), st.integers(0, 5).map(bool)
    endings = st.sampled_from([".png", ".jpg", ".webp", ".BMP"])
    size = st.tuples(SIDES, SIDES)
    extraction = st.sampled_from(["head", "chunk", "uniform"])
    lengths = st.lists(st.sampled_from([1, 5, 9, 13, 21]), min_size=1, max_size=2, unique=True).map(tuple)
    number = st.integers(1, 3)
    clips = st.builds(
        Clips,
        resolution=size,
        target_frames=lengths,
        frame_extraction=extraction,
        frame_sample=number,
        batch_size=number,
        num_repeats=number,
    )
    even = st.integers(10, 70).map(lambda half: 2 * half)
    return st.builds(
        Spec,
        mode=st.sampled_from(MODES),
        pictures=st.lists(st.tuples(side, side, endings, captioned), min_size=1, max_size=6),
        clips=st.lists(st.tuples(even, even, st.sampled_from(RATES), st.integers(1, 90), captioned), max_size=4),
        how=st.builds(Pictures, resolution=size, batch_size=number, num_repeats=number),
        lengths=st.lists(clips, min_size=1, max_size=2).map(tuple),
        no_upscale=st.booleans(),
        epochs=st.integers(1, 2),
    )


def drawn(strategy: st.SearchStrategy[Any], number: int) -> list[Any]:
    """Hypothesis' examples, the same each time."""
    found = list[Any]()

    @settings(max_examples=number, phases=[Phase.generate], derandomize=True, deadline=None, database=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(strategy)
    def collect(example: Any) -> None:
        found.append(example)

    collect()
    return found


def made(spec: Spec, folder: Path) -> Path:
    """The data set on disk."""
    for number, (width, height, ending, captioned) in enumerate(spec.pictures):
        picture(folder / f"p{number}{ending}", (width, height), f"picture {number}" if captioned else None)
    for number, (width, height, fps, frames, captioned) in enumerate(spec.clips):
        clip(folder / f"c{number}.mp4", frames, fps, (width, height), f"clip {number}" if captioned else None)
    return folder


def preset_of(spec: Spec) -> Preset:
    soft = {"optimizer_type": "adamw", "optimizer_args": None, "max_train_epochs": spec.epochs}
    soft |= {"max_data_loader_n_workers": 0, "blocks_to_swap": None, "fp8_base": None, "fp8_scaled": None}
    real = load(spec.mode)
    return replace(
        real,
        experts=real.experts[-1:] if len(real.experts) == 1 else real.experts,
        train={**real.train, **soft},
        pictures=spec.how,
        clips=spec.lengths,
        bucket_no_upscale=spec.no_upscale,
        cache_text={},
        cache_latents={},
    )


def toy(name: str, base: Path) -> WeightFile:
    ending = ".pth" if name in ("t5", "clip") else ".safetensors"
    return WeightFile(path=base / f"{name}{ending}", dtype="bf16", stamp=(0, 0), identity=name, names=(name,))


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


def call_of(step: Any) -> list[str]:
    """A step as [script, argument, ...]."""
    return list(step.argv[step.argv.index("child.py") + 1 :])


def spec_of(plan: Plan) -> dict[str, Any]:
    return {str(w.path): {"role": CATALOGUE[name].role, "dtype": "bf16"} for name, w in plan.weights.items()}


def upstream(asked: dict[str, Any], tmp_path: Path) -> list[str]:
    """What each call printed."""
    (tmp_path / "asked.json").write_text(json.dumps(asked), encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": f"{FOLDER}/src", "PYTHONUTF8": "1"}
    argv = [PYTHON, str(Path(__file__).with_name("upstream_runs.py")), str(tmp_path / "asked.json")]
    done = subprocess.run(argv, capture_output=True, encoding="utf-8", env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    answers: list[str] = json.loads(done.stdout.splitlines()[-1])
    assert not [text for text in answers if "ENDED BY" in text], next(t[-1500:] for t in answers if "ENDED BY" in t)
    return answers


def test_what_is_predicted_is_what_upstream_caches_and_prints(tmp_path: Path) -> None:
    """At least 20 data sets, from caching to training: files, buckets, batches and steps, item by item."""
    cases = []
    for number, spec in enumerate(drawn(specs(), 60)):
        preset, folder = preset_of(spec), made(spec, tmp_path / "data" / str(number))
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
    toys = dict[str, dict[str, Any]]()
    for _, _, plan in cases:
        toys.setdefault(plan.request.preset.task, {}).update(spec_of(plan))
    calls = [call_of(step) for _, _, plan in cases for step in plan.steps if "child.py" in step.argv]
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
        predicted[key if key in clips else (*key, 9)] += (
            number  # upstream adds a window size of FramePack's to pictures
        )
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
                late = Fraction(number) / fps - Fraction(k, 16)
                assert (
                    (0 <= late <= 1 / fps)
                    if where == "raw"
                    else abs(late) <= Fraction(17, 32) / fps + Fraction(1, 1000)
                ), (where, fps, k)


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
        after = {path: path.stat().st_mtime_ns for path in self.base.rglob("*_wan*.safetensors")}
        encoded = sorted(path.name for path, time in after.items() if self.before.get(path) != time)
        self.before = after
        return encoded

    @property
    def encoders(self) -> list[str]:
        """The encoders that were started the last time: each takes its time to load."""
        return [line.strip() for line in self.said if line.startswith("\ncache ")]


def test_nothing_is_encoded_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    """With the real scripts and toy encoders, counted by the files' times."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    folder, base = tmp_path / "cats", tmp_path / "base"
    for number in range(3):
        picture(folder / f"p{number}.png", (96 + 16 * number, 64), f"picture {number}")
    clip(folder / "c0.mp4", 40, 24, (64, 48), "clip 0")
    small, clips = Pictures(resolution=(64, 64)), (Clips(resolution=(64, 48), target_frames=(1, 9)),)

    def preset(name: str, how: Pictures = small) -> Preset:
        return replace(load(name), pictures=how, clips=clips, cache_text={}, bucket_no_upscale=False)

    t2v, i2v = preset("wan21-t2v-1.3b"), preset("i2v-vanilla")
    files = spec_of(plan_of(t2v, scan(folder, t2v).sound(), base, "a"))
    base.mkdir()
    make = [PYTHON, str(CHILD), "make", json.dumps({"task": "t2v-1.3B", "files": files})]
    subprocess.run(make, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": f"{FOLDER}/src"})
    caches = Caches(base, said, {})

    def encoded(how: Preset = t2v, name: str = "a") -> list[str]:
        return caches.fill(scan(folder, how, whole=True), how, name)

    all_of_it = [
        "c0_00000-001_0064x0048_wan.safetensors",
        "c0_00000-009_0064x0048_wan.safetensors",
        "c0_wan_te.safetensors",
    ]
    all_of_it += [f"p{n}_{96 + 16 * n:04d}x0064_wan.safetensors" for n in range(3)] + [f"p{n}_wan_te.safetensors" for n in range(3)]  # fmt: skip
    assert encoded() == sorted(all_of_it) and caches.encoders == ["cache latents", "cache text"]
    assert encoded() == [] and caches.encoders == []  # a second run
    assert encoded(preset("t2v-vanilla"), "b") == []  # another preset with the same needs, one of two experts
    (folder / "p1.txt").write_text("another caption")
    assert encoded() == ["p1_wan_te.safetensors"] and caches.encoders == ["cache text"]
    picture(folder / "p2.png", (128, 64), None).touch()
    assert encoded() == []  # written anew, and the same
    Image.new("RGB", (128, 64), "black").save(folder / "p2.png")
    assert encoded() == ["p2_0128x0064_wan.safetensors"] and caches.encoders == ["cache latents"]
    for path in folder.glob("p0.*"):
        path.unlink()
    assert encoded() == []
    assert not [path.name for path in caches.before if path.name.startswith("p0")]  # it has left the training
    latents = next(path for path in caches.before if path.name.startswith("p1_0112"))
    latents.write_bytes(latents.read_bytes()[:-100])  # a kill while it was written
    assert encoded() == [latents.name]
    kept = dict(caches.before)
    assert encoded(preset("wan21-t2v-1.3b", Pictures(resolution=(96, 96)))) == [
        "p1_0112x0064_wan.safetensors", "p1_wan_te.safetensors", "p2_0128x0064_wan.safetensors", "p2_wan_te.safetensors",
    ]  # fmt: skip
    assert len(encoded(i2v)) == 7  # for I2V the latents hold the first frame too
    assert kept.items() <= caches.before.items()  # each in a folder of its own
    assert encoded() == []


def test_ones_own_cache_folder_is_kept_right_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    """One folder whatever the resolution, beside the media: upstream's own way, in which it trains what is stale."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    folder, base = tmp_path / "cats", tmp_path / "base"
    for number in range(2):
        picture(folder / f"p{number}.png", (96, 64), f"picture {number}")
    t2v, own = load("wan21-t2v-1.3b"), tmp_path / "own.toml"

    def data(side: int) -> Dataset:
        own.write_text(
            f'[general]\ncaption_extension = ".txt"\n[[datasets]]\nimage_directory = "{folder.as_posix()}"\nresolution = {side}\n'
        )
        return load_config(own, whole=True)

    files = spec_of(plan_of(t2v, data(64), base, "a"))
    base.mkdir()
    make = [PYTHON, str(CHILD), "make", json.dumps({"task": "t2v-1.3B", "files": files})]
    subprocess.run(make, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": f"{FOLDER}/src"})
    caches = Caches(base, said, {})
    latents = [folder / f"p{number}_0096x0064_wan.safetensors" for number in range(2)]

    def shapes() -> set[str]:
        return {key for path in latents for key in read_header(path) if key.startswith("latents")}

    caches.fill(data(64), replace(t2v, cache_text={}))
    before = shapes()
    caches.fill(data(64), replace(t2v, cache_text={}))
    assert caches.encoders == [] and shapes() == before
    caches.fill(data(96), replace(t2v, cache_text={}))
    assert caches.encoders == ["cache latents"]
    assert len(shapes()) == len(before) == 1 and shapes() != before
