"""`status` and `stop`, from another process, on folders as runs leave them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers import PYTHONPATH, Wanwrap
from wanwrap.cli.status_report import duration

from wanwrap.errors import OutputError
from wanwrap.run import status
from wanwrap.system.files import is_locked, lock

HOLD = """
import sys, time
from pathlib import Path
from wanwrap.whole import held
folder = Path(sys.argv[1])
with lock(folder / "run", "another wanwrap is at work there"):
    print("held", flush=True)
    if len(sys.argv) > 2:  # as a run does: look for the wish to stop
        while not (folder / "stop").is_file():
            time.sleep(0.05)
        (folder / "stop").unlink()
        ledger = folder / "run.json"
        ledger.write_text(ledger.read_text().replace('"state": "running"', '"state": "stopped"'))
    else:
        sys.stdin.read()
"""


def training(**changes: Any) -> dict[str, Any]:
    """The record of one expert, in the midst of its training."""
    return {
        "wanwrap": "0.1",
        "expert": "low",
        "state": "running",
        "steps_planned": 2500,
        "steps_done": 1150,
        "epochs_planned": 50,
        "epochs_done": 23,
        "steps_per_epoch": 50,
        "loss": 0.0712,
        "seconds_per_step": 5.25,
        "updated": "2026-01-02T03:04:05+00:00",
        "blocks_to_swap": 20,
        "resume": {"step": 1000, "epoch": 20, "folder": "/x"},
        "attempts": [{"how": "the GPU ran out of memory"}, {"how": None}],
        "files": ["cats-low-000005.safetensors", "cats-low-000010.safetensors"],
        **changes,
    }


def ledger(state: str = "running", *experts: str, step: str = "train low", **changes: Any) -> dict[str, Any]:
    names = ["check caches", *(f"train {each}".strip() for each in experts or ("high", "low"))]
    rows: list[dict[str, Any]] = [{"name": name, "state": "planned"} for name in names]
    for row in rows:
        row |= {"optimizer_steps_planned": 2500} if row["name"].startswith("train") else {}
        row |= {"state": "running"} if row["name"] == step else {}
    return {"state": state, "steps": rows, **changes}


def run_folder(base: Path, name: str, record: object, file: str = "run.json", **trainings: object) -> Path:
    """A run's folder, as it lies there."""
    folder = base / "outputs" / name
    (folder / "training").mkdir(parents=True, exist_ok=True)
    (folder / file).write_text(json.dumps(record), encoding="utf-8")
    (folder / "run.log").touch()
    (folder / "logs").mkdir(exist_ok=True)
    for expert, content in trainings.items():
        (folder / "training" / f"{expert}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


@contextmanager
def alive(folder: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the run's lock."""
    argv = [sys.executable, "-c", HOLD, str(folder), *words]
    env = {**os.environ, "PYTHONPATH": PYTHONPATH}
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout and process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "home" / "local_training"  # the default, where `wanwrap` is called


def done_high() -> dict[str, Any]:
    return training(expert="high", state="done", steps_done=2500, epochs_done=50, seconds_per_step=4.0, attempts=[{}])


def test_what_is_running_is_told_in_full(base: Path, wanwrap: Wanwrap) -> None:
    run_folder(base, "dogs", ledger("done", step=""))
    cats = run_folder(base, "cats", ledger(), high=done_high(), low=training())
    with alive(cats):
        done = wanwrap("status")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert (
        lines[0] == "cats  running (train low); high done; low 23 of 50 epochs; 1 h 58 min left"
        and lines[1] == "dogs  finished"
    )
    text = done.stdout
    assert "low     running: 23 of 50 epochs, step 1150 of 2500, loss 0.0712, 5.25 s/step, 1 h 58 min left" in text
    assert "high    done: 50 of 50 epochs, step 2500 of 2500" in text
    assert "last whole state: epoch 20, attempt 2 (before: the GPU ran out of memory), 2 LoRAs (the last: cats-" in text
    assert "20 blocks swapped, updated 2026-01-0" in text
    assert f"log     {cats / 'run.log'}" in text and f"tensorboard --logdir {cats / 'logs'}" in text


def test_the_time_left_counts_all_experts_by_their_own_pace(base: Path, wanwrap: Wanwrap) -> None:
    high = training(expert="high", steps_done=500, seconds_per_step=4.0)
    cats = run_folder(base, "cats", ledger(step="train high"), high=high)
    with alive(cats):
        (found,) = json.loads(wanwrap("status", "--json").stdout)
        assert found["trainings"]["high"]["seconds_left"] == 2000 * 4
        assert (
            found["trainings"]["low"]["state"] == "waiting"
        )  # it has written nothing: the ledger's steps, high's pace
        assert found["trainings"]["low"]["seconds_left"] == 2500 * 4
        assert found["seconds_left"] == 4500 * 4
        run_folder(base, "cats", ledger(step="train high"), high=high, low=training(state="waiting", steps_done=0))
        one = json.loads(wanwrap("status", "cats", "--json").stdout)
        assert one["seconds_left"] == 2000 * 4 + 2500 * 5.25
        run_folder(base, "cats", ledger(step="train high"), high={**high, "seconds_per_step": None}, low={})
        one = json.loads(wanwrap("status", "cats", "--json").stdout)
        assert one["seconds_left"] is None  # nobody knows yet


def test_the_other_experts_earlier_run_is_no_part_of_this_one(base: Path, wanwrap: Wanwrap) -> None:
    cats = run_folder(base, "cats", ledger("interrupted"), high=training(state="interrupted", expert="high"))
    run_folder(base, "cats", ledger("running", "low"), file="run-low.json", low=training())
    os.utime(cats / "run-low.json", (1, 1))  # a clock that was set back
    with alive(cats):
        found = json.loads(wanwrap("status", "cats", "--json").stdout)
    assert found["seconds_left"] == 1350 * 5.25 and found["log"].endswith("run-low.log")
    assert {*found["trainings"]} == {"high", "low"}


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (ledger("running"), "was killed (a power cut, a crash, or ended by force); the same `wanwrap run` command goes"),
        (ledger("done", step=""), "finished"),
        (ledger("interrupted", step=""), "interrupted; the same `wanwrap run` command goes on"),
        (ledger("stopped", reason="as asked"), "stopped: as asked; the same `wanwrap run` command goes on"),
        (ledger("failed", reason="train low failed: the disk is full; make room.\nTraceback"), "failed: train low failed: the disk is full; make room; when that is mended"),
        (ledger("something new"), "something new"),
        (["no", "ledger"], "was killed"),
        ({}, "was killed"),
        ({"state": 3, "steps": "x"}, "3"),
    ],
)  # fmt: skip
def test_what_runs_no_more(record: object, words: str, base: Path, wanwrap: Wanwrap) -> None:
    run_folder(base, "cats", record, low=training())
    done = wanwrap("status", "cats")
    assert done.returncode == 0 and done.stdout.startswith(f"cats: {words}"), done
    assert "cut off: 23 of 50 epochs" in done.stdout and " left" not in done.stdout


def test_a_lock_that_a_power_cut_left(base: Path, wanwrap: Wanwrap) -> None:
    cats = run_folder(base, "cats", ledger())
    with alive(cats) as process:
        process.kill()
        process.wait()
        assert (cats / "run.wanwrap-part").is_file() and not is_locked(cats)
    assert "was killed" in wanwrap("status", "cats").stdout
    with lock(cats / "run", "why"):  # and the next run begins
        assert is_locked(cats)
    assert not is_locked(cats)


def test_a_step_that_is_no_training(base: Path, wanwrap: Wanwrap) -> None:
    cats = run_folder(base, "cats", ledger(step="check caches"))
    with alive(cats):
        done = wanwrap("status")
        stopped = wanwrap("stop")
    assert "cats: running (check caches)" in done.stdout
    assert stopped.stdout == "cats ends when check caches is done, before a training begins.\n"


def test_probing_makes_no_start_fail(tmp_path: Path) -> None:
    """As often as one likes: a run that starts at that very moment gets its lock."""
    over = threading.Event()
    seen = set()

    def probe() -> None:
        while not over.is_set():
            seen.add(is_locked(tmp_path))

    threads = [threading.Thread(target=probe) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(200):
            with lock(tmp_path / "run", "another one"):
                pass
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert False in seen


def test_two_runs_in_one_folder_stay_impossible(tmp_path: Path) -> None:
    with alive(tmp_path):
        began = time.monotonic()
        with pytest.raises(OutputError, match="another one"), lock(tmp_path / "run", "another one"):
            pass
        assert time.monotonic() - began < 2
        assert is_locked(tmp_path)  # nothing was taken away


def test_follow_ends_with_the_run(base: Path, wanwrap: Wanwrap) -> None:
    cats = run_folder(base, "cats", ledger(), high=done_high(), low=training())
    with alive(cats) as process:
        threading.Timer(2.5, process.kill).start()
        done = wanwrap("status", "--follow")
    assert done.returncode == 0
    assert done.stderr.startswith("cats: train low: 1 h 58 min left, 23 of 50 epochs, step 1150 of 2500, loss 0.0712")
    assert done.stdout.startswith("cats: was killed")


def test_stop_tells_after_which_epoch(base: Path, wanwrap: Wanwrap) -> None:
    cats = run_folder(base, "cats", ledger(), low=training(steps_done=1160))
    with alive(cats):
        done = wanwrap("stop", "cats")
        assert done.stdout == "cats ends after epoch 24 of low, when its state is saved, in about 4 min.\n"
        assert (cats / "stop").read_bytes() == b""
        assert "running (train low); asked to stop" in wanwrap("status").stdout
        run_folder(base, "cats", ledger(), low=training(state_every=5))
        found = json.loads(wanwrap("stop", "cats", "--json").stdout)
        assert found["asked"] == {"now": False, "expert": "low", "epoch": 25, "seconds": 100 * 5.25}
        run_folder(base, "cats", ledger(), low=training(state_every=40, epochs_done=47, steps_done=2350))
        assert "after epoch 50 of low" in wanwrap("stop", "cats").stdout


def test_stop_now(base: Path, wanwrap: Wanwrap) -> None:
    cats = run_folder(base, "cats", ledger(), low=training())
    with alive(cats):
        done = wanwrap("stop", "--now")
        assert (
            done.stdout == "cats ends at once. low goes on from epoch 20 the next time: 150 steps are trained again.\n"
        )
        assert (cats / "stop").read_bytes() == b"now"
        assert "ends at once" in wanwrap("stop").stdout  # and isn't asked for less
        assert (cats / "stop").read_bytes() == b"now"
        assert "asked to end at once" in wanwrap("status").stdout


def test_stop_waits_for_the_end(base: Path, wanwrap: Wanwrap) -> None:
    cats = run_folder(base, "cats", ledger(), low=training())
    with alive(cats, "until asked"):
        done = wanwrap("stop", "--wait")
    assert done.returncode == 0 and done.stdout.splitlines()[-1].startswith("cats stopped; the same"), done
    with alive(run_folder(base, "cats", ledger(), low=training()), "until asked"):
        found = json.loads(wanwrap("stop", "cats", "--wait", "--json").stdout)
    assert (found["state"], found["running"], found["asked"]["expert"]) == ("stopped", False, "low")


def test_nothing_to_stop(base: Path, wanwrap: Wanwrap) -> None:
    assert wanwrap("stop").returncode == 11
    cats = run_folder(base, "cats", ledger("done", step=""))
    for words in (("stop",), ("stop", "cats"), ("stop", "cats", "--now")):
        done = wanwrap(*words)
        assert done.returncode == 11 and "running" in done.stderr and not done.stdout, done
        assert not (cats / "stop").exists()  # the next run would see it
    assert json.loads(wanwrap("stop", "cats", "--json").stdout)["exit_code"] == 11
    assert wanwrap("stop", "cast").stderr.rstrip().endswith("Did you mean cats?")


def test_several_that_run(base: Path, wanwrap: Wanwrap) -> None:
    with alive(run_folder(base, "cats", ledger())), alive(run_folder(base, "dogs", ledger())):
        done = wanwrap("stop")
        assert done.returncode == 11 and "several runs go on" in done.stderr
        assert wanwrap("status", "--follow").returncode == 11
        assert len(wanwrap("status").stdout.splitlines()) == 2
        assert wanwrap("stop", "dogs").returncode == 0


def test_a_run_by_its_path(base: Path, wanwrap: Wanwrap, tmp_path: Path) -> None:
    run_folder(tmp_path / "else where", "it's", ledger("done", step=""))
    done = wanwrap("status", tmp_path / "else where" / "outputs" / "it's")
    assert done.stdout.startswith("it's: finished") and "--logdir '" in done.stdout
    for wrong in ("nope", "", ".", "/", "x" * 5000, "outputs"):
        done = wanwrap("status", wrong)
        assert done.returncode == 11 and "Traceback" not in done.stderr, done
    assert wanwrap("status").stdout == f"nothing has run yet in {base / 'outputs'}\n"
    assert wanwrap("status", "--json").stdout == "[]\n"


def test_a_name_that_is_no_text(base: Path, wanwrap: Wanwrap) -> None:
    name = os.fsdecode(b"c\xffts")
    try:
        cats = run_folder(base, name, ledger(), low=training())
    except OSError:
        pytest.skip("this drive takes no such names")
    with alive(cats):
        assert wanwrap("status", name).returncode == 0
        assert json.loads(wanwrap("status", "--json").stdout)[0]["name"] == name
        assert wanwrap("stop").returncode == 0 and (cats / "stop").is_file()


@pytest.mark.parametrize("field", sorted({*training()} - {"wanwrap", "expert"}))
def test_records_that_hold_nonsense(field: str, base: Path) -> None:
    """A record that somebody has edited, or of another version, is no reason to tell nothing."""
    from wanwrap.cli import status_report as report

    for value in (None, "x", -1, 10**400, [], ["x"], {}, {"step": "x"}, True, float("nan")):
        folder = run_folder(base, "cats", ledger(), low={**training(), field: value})
        with lock(folder / "run", ""):
            run = status.look(folder)
        assert run.running
        assert list(report.detail(run)) and report.line(run) and report.brief(run)
        for now in (True, False):
            assert report.stopping(run, now=now)
        assert report.as_json(run)["name"] == "cats"


def test_durations() -> None:
    times = [0, 59.4, 59.9, 60, 3569, 3599, 3600, 7087, 90000, 700000]
    assert [duration(each) for each in times] == [
        "0 s", "59 s", "1 min", "1 min", "59 min", "1 h 00 min", "1 h 00 min", "1 h 58 min", "25 h 00 min", "8 days",
    ]  # fmt: skip
