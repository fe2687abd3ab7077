"""A workspace of wanwrap 0.1.0: what it has finished is finished, what it has made is used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from helpers import Wanwrap, golden_plan, record
from runs import NAME, WHOLE, calls, folder, loras, told

from wanwrap.data.cache_lock import READERS
from wanwrap.data.caches import survey

Words = tuple[object, ...]


def as_0_1_0_left_it(tmp_path: Path, expert: str = "low") -> None:
    """An expert's folder becomes what 0.1.0 had: its record, states and curves in folders that both experts share."""
    out, now = folder(tmp_path), told(tmp_path, expert)
    own, shared = out / expert, out / "training"
    before = {name: now[name] for name in ("expert", "state", "steps_done", "steps_planned", "epochs_done", "files")}
    settings = {name: value for name, value in now["settings"].items() if name != "save_last_n_epochs_state"}
    before |= {"wanwrap": "0.1.0", "settings": settings, "resume": None}
    for state in own.glob("state-*"):
        place = f"{expert}-1/{NAME}-{expert}-{state.name[6:]}-state"
        before["resume"] = {"epoch": now["saved_epoch"], "step": 6 * now["saved_epoch"], "folder": place}
        shutil.copytree(state, shared / place)
    shared.mkdir(exist_ok=True)
    (shared / f"{expert}.json").write_text(json.dumps(before))
    (out / f"run-{expert}.json").write_text(json.dumps({"state": now["state"], "process": 1, "steps": []}))
    (out / "logs" / expert).mkdir(parents=True)
    (out / "logs" / expert / "events.out.tfevents.wanwrap-0001").touch()
    for name in ("accelerate.yaml", "dataset.toml", "run.log"):
        (own / name).replace(out / name)
    shutil.rmtree(own)
    for readers in out.parents[1].rglob(READERS):
        readers.rmdir()


def test_a_finished_run(tmp_path: Path, cli: Wanwrap, low: Words) -> None:
    cli(*low)
    as_0_1_0_left_it(tmp_path)
    assert cli("status").stdout == f"{NAME}  low: finished\n"
    assert json.loads(cli("status", NAME, "--json").stdout)["experts"]["low"]["state"] == "done"
    other = cli(*low, "--lr", "1e-5")
    assert other.returncode == 11 and "learning_rate: 8e-05 -> 1e-05" in other.stderr, other
    done = cli(*low)
    assert done.returncode == 0 and f"{NAME}-low.safetensors" in done.stdout, done.stderr
    both = cli(*low, "--noise_level", "both")
    assert both.returncode == 0 and loras(tmp_path) == loras(tmp_path, "high") == WHOLE, both.stderr
    assert len(calls(tmp_path)) == len(record(tmp_path)) == 2  # high was trained; nothing was encoded anew
    shown = cli("status").stdout
    assert "high: finished" in shown and "low: finished" in shown


def test_one_that_is_half_done_is_not_gone_on_with(tmp_path: Path, cli: Wanwrap, low: Words) -> None:
    cli(*low, STANDIN_DO="after:30")
    as_0_1_0_left_it(tmp_path)
    for expert in ("low", "both"):
        done = cli(*low, "--noise_level", expert)
        assert done.returncode == 11 and all(word in done.stderr for word in ("0.1.0", "--output_name", "--restart"))
    assert "0.1.0" in cli("status").stdout and cli("stop", NAME).returncode == 11
    assert cli(*low, "--noise_level", "high").returncode == 0
    again = cli(*low, "--restart")
    assert again.returncode == 0 and loras(tmp_path) == WHOLE, again.stderr
    aside = folder(tmp_path) / "before-1"
    there = {path.relative_to(aside).as_posix() for path in aside.rglob("*")}
    assert {f"{NAME}-low-000004.safetensors", "training/low.json", "logs/low"} <= there
    assert not any("high" in name for name in there) and not (folder(tmp_path) / "training" / "low.json").exists()
    assert cli("status").stdout.count("finished") == 2


@pytest.mark.parametrize("content", ["", "[]", '{"state": 3}'])
def test_a_record_of_it_that_is_none(content: str, tmp_path: Path, cli: Wanwrap, low: Words) -> None:
    (folder(tmp_path) / "training").mkdir(parents=True)
    (folder(tmp_path) / "training" / "low.json").write_text(content)
    assert cli(*low).returncode == 11 and cli("status").returncode == 0


def test_its_caches_are_known() -> None:
    """By what their manifests say; the names of folders and of merged DiTs stand in the golden scripts."""
    plan, known = golden_plan("wan21-i2v-720p"), dict[str, str]()
    for entry in plan.dataset.entries:
        known |= survey(entry, plan.encoders).marks
    assert known == {
        "0_1024x0768_wan.safetensors": "885a673c",
        "1_1920x1080_wan.safetensors": "9159cd3c",
        "0_wan_te.safetensors": "ed376113",
        "1_wan_te.safetensors": "ed376113",
        "run_00000-001_1280x0720_wan.safetensors": "8f02d5b8",
        "run_00000-021_1280x0720_wan.safetensors": "8f02d5b8",
        "run_00000-045_0960x0544_wan.safetensors": "2c194b7d",
        "run_00055-045_0960x0544_wan.safetensors": "2c194b7d",
        "run_wan_te.safetensors": "ed376113",
    }
