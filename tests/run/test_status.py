"""`status` and `stop` on folders as runs leave them. That they see other processes is shown by the tests of runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import PYTHONPATH, Wanwrap
from platforms import linux, odd_names

from wanwrap.cli import run_words
from wanwrap.cli import status as verb
from wanwrap.cli.stop import stop
from wanwrap.cli.words import duration
from wanwrap.errors import OutputError
from wanwrap.run import status
from wanwrap.system.files import is_locked, lock


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
        "raised": {"blocks_to_swap": 20},
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
def alive(folder: Path, experts: str = "low") -> Iterator[None]:
    """Somebody holds the locks of experts."""
    with ExitStack() as held:
        for expert in experts.split():
            held.enter_context(lock(folder / expert, "another one"))
        yield


def meanwhile(monkeypatch: pytest.MonkeyPatch, *changes: Callable[[], object]) -> None:
    """One of these comes between two looks of who follows a run."""
    left = [*changes]
    monkeypatch.setattr(verb, "time", SimpleNamespace(sleep=lambda _: left.pop(0)()))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "home" / "local_training"  # the default, where `cli` is called


def test_what_is_running_is_told_in_full(base: Path, cli: Wanwrap) -> None:
    run_folder(base, "dogs", low=training(**DONE))
    cats = run_folder(base, "cats", high={**HIGH, **DONE}, low=training())
    with alive(cats):
        done = cli("status")
    assert (done.returncode, done.stderr) == (0, "")
    first, second, *_ = done.stdout.splitlines()
    assert first.startswith("cats  high: finished; low: 1 h 58 min left, 23 of 50 epochs")
    assert second == "dogs  low: finished"
    for told in (
        "1 h 58 min left, 23 of 50 epochs, step 1150 of 2500, loss 0.0712, 5.25 s/step",
        "epoch 20, attempt 2 (before: the GPU ran out of memory), 2 LoRAs (the last: cats-low-000010",
        "since the GPU's memory ran out with --blocks_to_swap 20, updated 2026-01-0",
        "50 of 50 epochs, step 2500 of 2500",
        str(cats / "low" / "run.log"),
        "tensorboard --logdir ",
    ):
        assert told in done.stdout, told


def test_the_time_left_counts_all_experts_by_their_own_pace(base: Path, cli: Wanwrap) -> None:
    def left(experts: str, **records: object) -> dict[str, Any]:
        with alive(run_folder(base, "cats", **records), experts):
            found = json.loads(cli("status", "cats", "--json").stdout)
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
        ({}, "was killed (a power cut, a crash, or ended by force); the same"),
        ({"state": "waiting", "doing": "cache text"}, "was killed"),
        ({"state": "waiting"}, "not begun yet"),
        ({"state": "interrupted"}, "interrupted; the same"),
        ({"state": "stopped", "reason": "as asked"}, "stopped: as asked; the same"),
        (
            {"state": "failed", "reason": "the disk is full.\nTraceback"},
            "failed: the disk is full; when that is mended",
        ),
        ({"state": "something new"}, "something new"),
    ],
)
def test_what_runs_no_more(changes: dict[str, Any], words: str, base: Path, cli: Wanwrap) -> None:
    """A lock that a power cut has left is none."""
    (run_folder(base, "cats", low=training(**changes)) / "low.lock").touch()
    done = cli("status", "cats")
    assert done.returncode == 0 and done.stdout.splitlines()[1].startswith(f"  low     {words}"), done
    assert " left" not in done.stdout and "again   wanwrap run t2v-vanilla cats" in done.stdout


def test_what_lost_its_last_record(base: Path, cli: Wanwrap) -> None:
    """A disk that was full took it; the LoRA is there."""
    (run_folder(base, "cats", low=training()) / "cats-low.safetensors").touch()
    assert cli("status").stdout == "cats  low: finished\n"


@pytest.mark.parametrize("record", ["", "{", "[]", '{"state": 3}', '{"settings": 1, "attempts": []}'])
def test_a_record_that_is_none(record: str, base: Path, cli: Wanwrap) -> None:
    cats = run_folder(base, "cats", low=record)
    done = cli("status", "cats")
    assert done.returncode == 0 and "record can't be read" in done.stdout, done
    with alive(cats):
        assert "low: running" in cli("status").stdout and cli("stop").returncode == 0


NOT_ROOT = """
import ctypes, os, sys
for capability in (1, 2):  # to read and write what belongs to others: gone with the next program
    ctypes.CDLL(None).prctl(24, capability)
os.execv(sys.executable, [sys.executable, "-m", "wanwrap", *sys.argv[1:]])
"""


@linux
@pytest.mark.parametrize("what", ["cats", "cats/low", "cats/low/record.json"])
def test_a_folder_that_may_not_be_read(what: str, base: Path) -> None:
    run_folder(base, "cats", low=training())
    place = base / "outputs" / what
    place.chmod(0)
    env = {**os.environ, "PYTHONPATH": PYTHONPATH}
    try:
        argv = [sys.executable, "-c", NOT_ROOT, "status", "--base_dir", str(base)]
        done = subprocess.run(argv, capture_output=True, encoding="utf-8", env=env)
    finally:
        place.chmod(0o755)
    assert done.returncode == 0 and "can't be read" in done.stdout and "running" not in done.stdout, done


def test_a_step_that_is_no_training(base: Path, cli: Wanwrap) -> None:
    with alive(run_folder(base, "cats", low=training(state="waiting", doing="cache text"))):
        assert "low: running (cache text)" in cli("status").stdout
        assert "when cache text is done" in cli("stop").stdout


def test_probing_makes_no_start_fail(tmp_path: Path) -> None:
    """As often as one likes: a run that starts at that very moment gets its lock."""
    over, place = threading.Event(), tmp_path / "low"

    def probe() -> set[bool | None]:
        seen = set()
        while not over.is_set():
            seen.add(is_locked(place))
        return seen

    with ThreadPoolExecutor(3) as pool:
        probes = [pool.submit(probe) for _ in range(3)]
        try:
            for _ in range(200):
                with lock(place, "another one"):
                    pass
        finally:
            over.set()
    assert any(False in each.result() for each in probes)


def test_follow_ends_with_the_run(base: Path, cli: Wanwrap, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes meanwhile."""
    cats = run_folder(base, "cats", low=training())
    with ExitStack() as held:
        held.enter_context(alive(cats))
        meanwhile(monkeypatch, (cats / "low" / "record.json").unlink, held.close)
        done = cli("status", "--follow")
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


def test_stop_tells_after_which_epoch(base: Path, cli: Wanwrap) -> None:
    cats = run_folder(base, "cats", low=training(steps_done=1160))
    with alive(cats):
        told = cli("stop", "cats").stdout
        assert "epoch 24" in told and "4 min" in told
        assert (cats / "low" / "stop").read_bytes() == b""
        assert "asked to stop" in cli("status").stdout
        run_folder(base, "cats", low=training(state_every=5))
        found = json.loads(cli("stop", "cats", "--json").stdout)
        assert found["experts"]["low"]["stopping"] and "epoch 25" in found["what"][0]
        run_folder(base, "cats", low=training(state_every=40, epochs_done=47, steps_done=2350))
        assert "epoch 50" in cli("stop", "cats").stdout


def test_stop_now(base: Path, cli: Wanwrap) -> None:
    cats = run_folder(base, "cats", low=training())
    with alive(cats):
        for words in (["--now"], []):  # who ends at once isn't asked for less
            assert "at once" in cli("stop", *words).stdout
            assert (cats / "low" / "stop").read_bytes() == b"now"
        assert "at once" in cli("status").stdout


@pytest.mark.parametrize(("begun", "ends"), [(0, 24), (5, 21), (6, 22), (20, 24)])
def test_a_stop_between_states_of_another_interval(begun: int, ends: int, base: Path, cli: Wanwrap) -> None:
    """Upstream counts from where it has gone on: after a state at epoch 5 it saves each epoch, not every fourth."""
    going = training(state_every=4, epochs_done=20, attempts=[{"number": 1, "epoch": begun, "step": 50 * begun}])
    with alive(run_folder(base, "cats", low=going)):
        assert f"epoch {ends}" in cli("stop").stdout


def test_stop_waits_for_the_end(base: Path, cli: Wanwrap, monkeypatch: pytest.MonkeyPatch) -> None:
    def waited(*words: str) -> str:
        cats = run_folder(base, "cats", low=training())
        with ExitStack() as held:
            held.enter_context(alive(cats))
            meanwhile(monkeypatch, lambda: run_folder(base, "cats", low=training(state="stopped")), held.close)
            done = cli("stop", "--wait", *words)
        assert done.returncode == 0 and (cats / "low" / "stop").is_file(), done
        return done.stdout

    assert waited().splitlines()[-1].startswith("cats: low stopped")
    found = json.loads(waited("--json"))
    assert (found["experts"]["low"]["state"], found["running"]) == ("stopped", False)


def test_ctrl_c_while_it_waits(base: Path, cli: Wanwrap, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run has been asked to stop, and isn't said to go on."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    meanwhile(monkeypatch, interrupt)
    with alive(run_folder(base, "cats", low=training())):
        done = cli("stop", "--wait")
    assert done.returncode == 130 and "asked to stop" in done.stderr and "goes on" not in done.stderr


def test_one_expert_is_stopped(base: Path, cli: Wanwrap) -> None:
    cats = run_folder(base, "cats", high=HIGH, low=training())
    with alive(cats, "high low"):
        done = cli("stop", "--noise_level", "low")
        assert "low ends" in done.stdout and "high" not in done.stdout
        assert (cats / "low" / "stop").is_file() and not (cats / "high" / "stop").exists()
    birds = run_folder(base, "birds", high={**HIGH, **DONE}, low=training())
    with alive(birds, "high low"):  # whoever trains low holds the lock of high, too
        assert "high    finished" in cli("status", "birds").stdout
        assert "high" not in cli("stop", "birds").stdout and not (birds / "high" / "stop").exists()
    with alive(run_folder(base, "dogs", high=HIGH), "high"):
        done = cli("stop", "dogs", "--noise_level", "low")
        assert done.returncode == 11 and "no expert" in done.stderr


def test_nothing_to_stop(base: Path, cli: Wanwrap) -> None:
    assert cli("stop").returncode == 11
    cats = run_folder(base, "cats", low=training(**DONE))
    for wanted in (("stop",), ("stop", "cats"), ("stop", "cats", "--now")):
        done = cli(*wanted)
        assert done.returncode == 11 and "running" in done.stderr and not done.stdout, done
        assert not (cats / "low" / "stop").exists()  # the next run would see it
    assert json.loads(cli("stop", "cats", "--json").stdout)["exit_code"] == 11
    assert "cats?" in cli("stop", "cast").stderr
    with alive(run_folder(base, "cats", low=training())):
        (low,) = status.look(cats).experts
    with pytest.raises(OutputError):  # it has ended since
        status.stop([low], now=False)
    assert not (cats / "low" / "stop").exists()


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
            assert "epoch" in run_words.stopping(low, now=False)
        else:
            with pytest.raises(OutputError):
                status.stop([low], now=False)
        assert (cats / "low" / "stop").exists() == live
    stopping: Any = stop.callback
    with pytest.raises(OutputError, match="no locks" if live else "not running"):
        stopping(run=str(cats), now=False, wait=True, noise_level=None, base_dir=base, as_json=False)


def test_several_that_run(base: Path, cli: Wanwrap) -> None:
    cats, dogs = (run_folder(base, name, low=training()) for name in ("cats", "dogs"))
    with alive(cats), alive(dogs):
        assert cli("stop").returncode == 11 and cli("status", "--follow").returncode == 11
        assert not [*base.rglob("stop")]
        assert len(cli("status").stdout.splitlines()) == 2
        assert cli("stop", "dogs").returncode == 0 and [*base.rglob("stop")] == [dogs / "low" / "stop"]


def test_a_rehearsal_is_seen(base: Path, cli: Wanwrap) -> None:
    toy = run_folder(base / "rehearsal" / "cats-t2v-vanilla", "cats-toy", low=training())
    with alive(toy):
        assert cli("status").stdout.startswith("cats-toy  rehearsal; low: ")
        assert cli("stop").returncode == 0 and (toy / "low" / "stop").is_file()
    killed = cli("status", "cats-toy").stdout
    assert "begins anew" in killed and "goes on" not in killed


def test_a_run_by_its_path(base: Path, cli: Wanwrap, tmp_path: Path) -> None:
    run_folder(tmp_path / "else where", "it's", low=training(**DONE))
    done = cli("status", tmp_path / "else where" / "outputs" / "it's")
    assert done.stdout.startswith("it's\n  low     finished") and "--logdir '" in done.stdout
    for wrong in ("nope", "", ".", "/", "x" * 5000, "outputs"):
        assert cli("status", wrong).returncode == 11
    assert cli("status").stdout == f"nothing has run yet in {base}\n"
    assert cli("status", "--json").stdout == "[]\n"


@odd_names
def test_a_name_that_is_no_text(base: Path, cli: Wanwrap) -> None:
    name = os.fsdecode(b"c\xffts")
    try:
        cats = run_folder(base, name, low=training())
    except OSError:
        pytest.skip("this drive takes no such names")
    with alive(cats):
        assert cli("status", name).returncode == 0
        assert json.loads(cli("status", "--json").stdout)[0]["name"] == name
        assert cli("stop").returncode == 0 and (cats / "low" / "stop").is_file()


def test_durations() -> None:
    times = [0, 59.4, 59.9, 60, 3569, 3599, 3600, 7087, 90000, 700000]
    assert [duration(each) for each in times] == [
        "0 s", "59 s", "1 min", "1 min", "59 min", "1 h 00 min", "1 h 00 min", "1 h 58 min", "25 h 00 min", "8 days",
    ]  # fmt: skip
