"""`status` and `stop`, from another process, on folders as runs leave them."""

from __future__ import annotations

import json
import os
import signal
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
from runs import begin, ended, until

from wanwrap.cli import run_words
from wanwrap.cli.stop import stop
from wanwrap.cli.words import duration
from wanwrap.errors import OutputError
from wanwrap.run import status
from wanwrap.system.files import is_locked, lock

HOLD = """
import sys, time
from contextlib import ExitStack
from pathlib import Path
from wanwrap.system.files import lock
folder, experts = Path(sys.argv[1]), sys.argv[2].split()
with ExitStack() as held:
    for expert in experts:
        held.enter_context(lock(folder / expert, "another wanwrap is at work there"))
    print("held", flush=True)
    if len(sys.argv) > 3:  # as a run does: look for the wish to stop
        while not (folder / experts[0] / "stop").is_file():
            time.sleep(0.5)  # a run looks each second
        (folder / experts[0] / "stop").unlink()
        record = folder / experts[0] / "record.json"
        record.write_text(record.read_text().replace('"state": "running"', '"state": "stopped"'))
    else:
        sys.stdin.read()
"""


def training(**changes: Any) -> dict[str, Any]:
    """The record of one expert, in the midst of its training."""
    return {
        "expert": "low",
        "lora": "cats-low.safetensors",
        "settings": {},
        "command": "wanwrap run t2v-vanilla cats",
        "state": "running",
        "steps_planned": 2500,
        "steps_done": 1150,
        "epochs_planned": 50,
        "epochs_done": 23,
        "steps_per_epoch": 50,
        "state_every": 1,
        "loss": 0.0712,
        "seconds_per_step": 5.25,
        "updated": "2026-01-02T03:04:05+00:00",
        "blocks_to_swap": 20,
        "saved_epoch": 20,
        "attempts": [{"number": 1, "epoch": 0, "step": 0, "reason": "the GPU ran out of memory"}, {"number": 2}],
        "files": ["cats-low-000005.safetensors", "cats-low-000010.safetensors"],
        **changes,
    }


HIGH = training(expert="high", lora="cats-high.safetensors", seconds_per_step=4.0, attempts=[{}])
DONE = {"state": "done", "steps_done": 2500, "epochs_done": 50}


def run_folder(base: Path, name: str, **experts: object) -> Path:
    """A run's folder, as it lies there."""
    for expert, record in experts.items():
        folder = base / "outputs" / name / expert
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        (folder / "run.log").touch()
        (folder / "record.json").write_text(record if isinstance(record, str) else json.dumps(record))
    return base / "outputs" / name


@contextmanager
def alive(folder: Path, experts: str = "low", *more: str) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the locks of experts."""
    argv = [sys.executable, "-c", HOLD, str(folder), experts, *more]
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


def test_what_is_running_is_told_in_full(base: Path, wanwrap: Wanwrap) -> None:
    run_folder(base, "dogs", low=training(**DONE))
    cats = run_folder(base, "cats", high={**HIGH, **DONE}, low=training())
    with alive(cats):
        done = wanwrap("status")
    assert (done.returncode, done.stderr) == (0, "")
    first, second, *_ = done.stdout.splitlines()
    assert first.startswith("cats  high: finished; low: 1 h 58 min left, 23 of 50 epochs")
    assert second == "dogs  low: finished"
    for told in (
        "1 h 58 min left, 23 of 50 epochs, step 1150 of 2500, loss 0.0712, 5.25 s/step",
        "last whole state: epoch 20, attempt 2 (before: the GPU ran out of memory), 2 LoRAs (the last: cats-low-000010",
        "20 blocks swapped, updated 2026-01-0",
        "50 of 50 epochs, step 2500 of 2500",
        str(cats / "low" / "run.log"),
        f"tensorboard --logdir {cats}",
    ):
        assert told in done.stdout, told


def test_the_time_left_counts_all_experts_by_their_own_pace(base: Path, wanwrap: Wanwrap) -> None:
    def left(experts: str, **records: object) -> dict[str, Any]:
        with alive(run_folder(base, "cats", **records), experts):
            found = json.loads(wanwrap("status", "cats", "--json").stdout)
        return {"all": found["seconds_left"], **{k: each["seconds_left"] for k, each in found["experts"].items()}}

    waiting = training(state="waiting", steps_done=0, seconds_per_step=None)
    high = {**HIGH, "steps_done": 500}
    assert left("high low", high=high, low=waiting) == {"high": 8000, "low": 10000, "all": 18000}  # at high's pace
    assert left("high low", high=high, low=training()) == {"high": 8000, "low": 1350 * 5.25, "all": 8000}  # at once
    assert left("low", high={**high, "state": "interrupted"}, low=training())["all"] == 1350 * 5.25  # the other's rests
    assert left("high", high={**high, "seconds_per_step": None}, low=waiting)["all"] is None  # nobody knows yet


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "was killed (a power cut, a crash, or ended by force); the same `wanwrap run` command goes on"),
        ({"state": "waiting", "doing": "cache text"}, "was killed"),
        ({"state": "waiting"}, "not begun yet"),
        ({"state": "interrupted"}, "interrupted; the same `wanwrap run` command goes on"),
        ({"state": "stopped", "reason": "as asked"}, "stopped: as asked; the same `wanwrap run` command goes on"),
        ({"state": "failed", "reason": "the disk is full; make room.\nTraceback"}, "failed: the disk is full; make room; when that is mended"),
        ({"state": "something new"}, "something new"),
    ],
)  # fmt: skip
def test_what_runs_no_more(changes: dict[str, Any], words: str, base: Path, wanwrap: Wanwrap) -> None:
    run_folder(base, "cats", low=training(**changes))
    done = wanwrap("status", "cats")
    assert done.returncode == 0 and done.stdout.splitlines()[1].startswith(f"  low     {words}"), done
    assert " left" not in done.stdout and "again   wanwrap run t2v-vanilla cats" in done.stdout


def test_what_lost_its_last_record(base: Path, wanwrap: Wanwrap) -> None:
    """A disk that was full took it; the LoRA is there."""
    cats = run_folder(base, "cats", low=training())
    (cats / "cats-low.safetensors").touch()
    assert wanwrap("status").stdout == "cats  low: finished\n"


@pytest.mark.parametrize("record", ["", "{", "[]", '{"state": 3}', '{"settings": 1, "attempts": []}'])
def test_a_record_that_is_none(record: str, base: Path, wanwrap: Wanwrap) -> None:
    cats = run_folder(base, "cats", low=record)
    done = wanwrap("status", "cats")
    assert done.returncode == 0 and "low     its record can't be read" in done.stdout, done
    with alive(cats):
        assert "low: running" in wanwrap("status").stdout and wanwrap("stop").returncode == 0


NOT_ROOT = """
import ctypes, os, sys
for capability in (1, 2):  # to read and write what belongs to others: gone with the next program
    ctypes.CDLL(None).prctl(24, capability)
os.execv(sys.executable, [sys.executable, "-m", "wanwrap", *sys.argv[1:]])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="permissions as Linux has them")
@pytest.mark.parametrize(
    "what",
    [
        "cats",
        "cats/low",
        "cats/low/record.json",
    ],
)
def test_a_folder_that_may_not_be_read(what: str, base: Path) -> None:
    run_folder(base, "cats", low=training())
    place = base / "outputs" / what
    place.chmod(0)
    env = {**os.environ, "PYTHONPATH": PYTHONPATH}
    try:
        argv = [sys.executable, "-c", NOT_ROOT, "status", "--base_dir", str(base)]
        done = subprocess.run(argv, capture_output=True, text=True, env=env)
    finally:
        place.chmod(0o755)
    assert done.returncode == 0 and "can't be read" in done.stdout and "running" not in done.stdout, done


def test_a_lock_that_a_power_cut_left(base: Path, wanwrap: Wanwrap) -> None:
    cats = run_folder(base, "cats", low=training())
    with alive(cats) as process:
        process.kill()
        process.wait()
        assert (cats / "low.lock").is_file() and not is_locked(cats / "low")
    assert "was killed" in wanwrap("status", "cats").stdout
    with lock(cats / "low", "why"):  # and the next run begins
        assert is_locked(cats / "low")
    assert not is_locked(cats / "low")


def test_a_step_that_is_no_training(base: Path, wanwrap: Wanwrap) -> None:
    cats = run_folder(base, "cats", low=training(state="waiting", doing="cache text"))
    with alive(cats):
        assert "low: running (cache text)" in wanwrap("status").stdout
        assert "low ends when cache text is done" in wanwrap("stop").stdout


def test_probing_makes_no_start_fail(tmp_path: Path) -> None:
    """As often as one likes: a run that starts at that very moment gets its lock."""
    over, place = threading.Event(), tmp_path / "low"
    seen = set()

    def probe() -> None:
        while not over.is_set():
            seen.add(is_locked(place))

    threads = [threading.Thread(target=probe) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(200):
            with lock(place, "another one"):
                pass
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert False in seen


def test_two_runs_in_one_folder_stay_impossible(tmp_path: Path) -> None:
    with alive(tmp_path):
        began = time.monotonic()
        with pytest.raises(OutputError, match="another one"), lock(tmp_path / "low", "another one"):
            pass
        assert time.monotonic() - began < 2
        assert is_locked(tmp_path / "low")  # nothing was taken away


def test_follow_ends_with_the_run(base: Path, wanwrap: Wanwrap) -> None:
    """Whatever goes meanwhile."""
    cats = run_folder(base, "cats", low=training())
    with alive(cats) as process:
        threading.Timer(2, (cats / "low" / "record.json").unlink).start()
        threading.Timer(3.5, process.kill).start()
        done = wanwrap("status", "--follow")
    assert done.returncode == 0, done
    assert done.stderr.startswith("cats:\n  low: 1 h 58 min left, 23 of 50 epochs, step 1150 of 2500")
    assert done.stdout.startswith("cats\n")


def test_a_record_that_goes_just_now(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cats, read = run_folder(base, "cats", low=training()), Path.read_text

    def gone(path: Path, *arguments: Any, **more: Any) -> str:
        path.unlink(missing_ok=True)
        return read(path, *arguments, **more)

    monkeypatch.setattr(Path, "read_text", gone)
    with alive(cats):
        (low,) = status.look(cats).experts
    assert low.running and low.record.state == "unreadable" and run_words.state(low)


def test_stop_tells_after_which_epoch(base: Path, wanwrap: Wanwrap) -> None:
    cats = run_folder(base, "cats", low=training(steps_done=1160))
    with alive(cats):
        assert (
            wanwrap("stop", "cats").stdout
            == "cats: low ends after epoch 24, when its state is saved, in about 4 min.\n"
        )
        assert (cats / "low" / "stop").read_bytes() == b""
        assert "running (training); asked to stop" in wanwrap("status").stdout
        run_folder(base, "cats", low=training(state_every=5))
        found = json.loads(wanwrap("stop", "cats", "--json").stdout)
        assert found["experts"]["low"]["stopping"] and "after epoch 25" in found["what"][0]
        run_folder(base, "cats", low=training(state_every=40, epochs_done=47, steps_done=2350))
        assert "after epoch 50" in wanwrap("stop", "cats").stdout


def test_stop_now(base: Path, wanwrap: Wanwrap) -> None:
    cats = run_folder(base, "cats", low=training())
    with alive(cats):
        assert "low ends at once" in wanwrap("stop", "--now").stdout
        assert (cats / "low" / "stop").read_bytes() == b"now"
        assert "ends at once" in wanwrap("stop").stdout  # and isn't asked for less
        assert (cats / "low" / "stop").read_bytes() == b"now"
        assert "asked to end at once" in wanwrap("status").stdout


@pytest.mark.parametrize(("begun", "ends"), [(0, 24), (5, 21), (6, 22), (20, 24)])
def test_a_stop_between_states_of_another_interval(begun: int, ends: int, base: Path, wanwrap: Wanwrap) -> None:
    """Upstream counts from where it has gone on: after a state at epoch 5 it saves each epoch, not every fourth."""
    going = training(state_every=4, epochs_done=20, attempts=[{"number": 1, "epoch": begun, "step": 50 * begun}])
    with alive(run_folder(base, "cats", low=going)):
        assert f"after epoch {ends}" in wanwrap("stop").stdout


def test_stop_waits_for_the_end(base: Path, wanwrap: Wanwrap) -> None:
    cats = run_folder(base, "cats", low=training())
    with alive(cats, "low", "until asked"):
        done = wanwrap("stop", "--wait")
    assert done.returncode == 0 and done.stdout.splitlines()[-1].startswith("cats: low stopped; the same"), done
    with alive(run_folder(base, "cats", low=training()), "low", "until asked"):
        found = json.loads(wanwrap("stop", "cats", "--wait", "--json").stdout)
    assert (found["experts"]["low"]["state"], found["running"]) == ("stopped", False)


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_while_it_waits(tmp_path: Path, base: Path) -> None:
    """The run has been asked to stop, and isn't said to go on."""
    cats = run_folder(base, "cats", low=training())
    with alive(cats), begin(tmp_path, "stop", "--wait") as process:
        until((cats / "low" / "stop").is_file)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        text = ended(process, 130)
    assert "asked to stop" in text and "goes on" not in text


def test_one_expert_is_stopped(base: Path, wanwrap: Wanwrap) -> None:
    cats = run_folder(base, "cats", high=HIGH, low=training())
    with alive(cats, "high low"):
        done = wanwrap("stop", "--noise_level", "low")
        assert "low ends after" in done.stdout and "high" not in done.stdout
        assert (cats / "low" / "stop").is_file() and not (cats / "high" / "stop").exists()
    birds = run_folder(base, "birds", high={**HIGH, **DONE}, low=training())
    with alive(birds, "high low"):  # whoever trains low holds the lock of high, too
        assert "high    finished" in wanwrap("status", "birds").stdout
        assert "high" not in wanwrap("stop", "birds").stdout and not (birds / "high" / "stop").exists()
    with alive(run_folder(base, "dogs", high=HIGH), "high"):
        done = wanwrap("stop", "dogs", "--noise_level", "low")
        assert done.returncode == 11 and "no expert of low noise" in done.stderr


def test_nothing_to_stop(base: Path, wanwrap: Wanwrap) -> None:
    assert wanwrap("stop").returncode == 11
    cats = run_folder(base, "cats", low=training(**DONE))
    for wanted in (("stop",), ("stop", "cats"), ("stop", "cats", "--now")):
        done = wanwrap(*wanted)
        assert done.returncode == 11 and "running" in done.stderr and not done.stdout, done
        assert not (cats / "low" / "stop").exists()  # the next run would see it
    assert json.loads(wanwrap("stop", "cats", "--json").stdout)["exit_code"] == 11
    assert wanwrap("stop", "cast").stderr.rstrip().endswith("Did you mean cats?")


@pytest.mark.parametrize(("changes", "live"), [(DONE, False), ({"state": "waiting"}, False), ({}, True)])
def test_stop_on_a_drive_without_locks(
    changes: dict[str, Any], live: bool, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record alone tells whether somebody is at work."""
    monkeypatch.setattr(status, "is_locked", lambda _: None)
    cats = run_folder(base, "cats", low=training(**changes))
    for _ in range(2):
        (low,) = status.look(cats).experts
        assert (low.running, low.live, low.training) == (None, live, live)
        if live:
            status.stop([low], now=False)
            assert "ends after epoch" in run_words.stopping(low, now=False)
        else:
            with pytest.raises(OutputError):
                status.stop([low], now=False)
        assert (cats / "low" / "stop").exists() == live
    verb: Any = stop.callback
    with pytest.raises(OutputError, match="no locks" if live else "not running"):
        verb(run=str(cats), now=False, wait=True, noise_level=None, base_dir=base, as_json=False)


def test_several_that_run(base: Path, wanwrap: Wanwrap) -> None:
    cats, dogs = (run_folder(base, name, low=training()) for name in ("cats", "dogs"))
    with alive(cats), alive(dogs):
        done = wanwrap("stop")
        assert done.returncode == 11 and "several runs go on" in done.stderr
        assert wanwrap("status", "--follow").returncode == 11
        assert len(wanwrap("status").stdout.splitlines()) == 2
        assert wanwrap("stop", "dogs").returncode == 0


def test_a_rehearsal_is_seen(base: Path, wanwrap: Wanwrap) -> None:
    toy = run_folder(base / "rehearsal" / "cats-t2v-vanilla", "cats-toy", low=training())
    with alive(toy):
        assert wanwrap("status").stdout.startswith("cats-toy  rehearsal; low: ")
        assert wanwrap("stop").returncode == 0 and (toy / "low" / "stop").is_file()
    killed = wanwrap("status", "cats-toy").stdout
    assert "begins anew" in killed and "goes on" not in killed


def test_a_run_by_its_path(base: Path, wanwrap: Wanwrap, tmp_path: Path) -> None:
    run_folder(tmp_path / "else where", "it's", low=training(**DONE))
    done = wanwrap("status", tmp_path / "else where" / "outputs" / "it's")
    assert done.stdout.startswith("it's\n  low     finished") and "--logdir '" in done.stdout
    for wrong in ("nope", "", ".", "/", "x" * 5000, "outputs"):
        done = wanwrap("status", wrong)
        assert done.returncode == 11 and "Traceback" not in done.stderr, done
    assert wanwrap("status").stdout == f"nothing has run yet in {base}\n"
    assert wanwrap("status", "--json").stdout == "[]\n"


def test_a_name_that_is_no_text(base: Path, wanwrap: Wanwrap) -> None:
    name = os.fsdecode(b"c\xffts")
    try:
        cats = run_folder(base, name, low=training())
    except OSError:
        pytest.skip("this drive takes no such names")
    with alive(cats):
        assert wanwrap("status", name).returncode == 0
        assert json.loads(wanwrap("status", "--json").stdout)[0]["name"] == name
        assert wanwrap("stop").returncode == 0 and (cats / "low" / "stop").is_file()


def test_durations() -> None:
    times = [0, 59.4, 59.9, 60, 3569, 3599, 3600, 7087, 90000, 700000]
    assert [duration(each) for each in times] == [
        "0 s", "59 s", "1 min", "1 min", "59 min", "1 h 00 min", "1 h 00 min", "1 h 58 min", "25 h 00 min", "8 days",
    ]  # fmt: skip
