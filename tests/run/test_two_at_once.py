"""Runs at the same time: both experts of one name, several that train from one cache; in real processes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import PYTHONPATH, Wanwrap, picture, record
from runs import WHOLE, alive, asleep, begin, calls, ended, folder, is_gone, loras, option, saved, told, until

from wanwrap.data.cache_lock import READERS, changing, check_unused, reading
from wanwrap.errors import OutputError
from wanwrap.system.files import is_locked, lock

Words = tuple[object, ...]
CACHING = ("wan_cache_latents.py", "wan_cache_text_encoder_outputs.py")


def cached(tmp_path: Path) -> list[int]:
    """How often latents were encoded, and captions."""
    return [len(calls(tmp_path, script)) for script in CACHING]


def test_both_experts_of_one_name_in_the_same_second(tmp_path: Path, low: Words) -> None:
    """With other options, too: each trains as it was told, and each file is encoded once."""
    high = (*low, "--noise_level", "high", "--lr", "5e-5", "--dim", 4)
    both = [begin(tmp_path, *words, STANDIN_PACE="0.05") for words in (high, low)]
    said = [ended(process, 0) for process in both]
    assert loras(tmp_path) == loras(tmp_path, "high") == WHOLE
    assert cached(tmp_path) == [1, 1] and sum("nothing to encode" in text for text in said) == 1
    rates = {option(argv, "output_name"): option(argv, "learning_rate") for argv in calls(tmp_path)}
    assert rates == {"cats-t2v-vanilla-high": "5e-05", "cats-t2v-vanilla-low": "8e-05"}
    assert (told(tmp_path, "high")["state"], told(tmp_path)["state"]) == ("done", "done")
    assert not [*folder(tmp_path).parents[1].rglob("*.lock")]


def test_one_of_them_is_killed(tmp_path: Path, wanwrap: Wanwrap, low: Words) -> None:
    high = (*low, "--noise_level", "high")
    with begin(tmp_path, *high, STANDIN_PACE="0.1") as killed, begin(tmp_path, *low, STANDIN_PACE="0.15") as other:
        until(lambda: saved(tmp_path, "high") and saved(tmp_path))
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        shown = wanwrap("status").stdout
        assert "high: was killed" in shown and "low     running (training)" in shown
        ended(other, 0)
    assert loras(tmp_path) == WHOLE and told(tmp_path, "high")["state"] == "running"
    done = wanwrap(*high)
    assert done.returncode == 0 and "going on from" in done.stderr, done.stderr
    assert loras(tmp_path, "high") == WHOLE and cached(tmp_path) == [1, 1]


def test_one_expert_at_once_is_one_too_many(tmp_path: Path, low: Words) -> None:
    both = [begin(tmp_path, *low, STANDIN_PACE="0.05") for _ in range(2)]
    texts = [process.communicate(timeout=120)[0] for process in both]
    assert sorted(process.returncode for process in both) == [0, 11], texts
    assert any("another wanwrap is at work" in text for text in texts)
    assert loras(tmp_path) == WHOLE


# ---- --parallel


def test_parallel_is_two_runs(tmp_path: Path, wanwrap: Wanwrap, low: Words) -> None:
    """One that fails doesn't take the other down; each has a GPU, a record and a log of its own."""
    both = (*low, "--noise_level", "both", "--parallel")
    alone = wanwrap(*both, STANDIN_GPUS="1")
    assert alone.returncode == 9 and "--parallel" in alone.stderr
    done = wanwrap(*both, STANDIN_DO="fail", STANDIN_ONLY="high", STANDIN_GPUS="2", STANDIN_PACE="0.02")
    assert done.returncode == 10 and "high: " in done.stderr, done.stderr
    assert (told(tmp_path, "high")["state"], told(tmp_path)["state"]) == ("failed", "done")
    trained = [call for call in record(tmp_path) if call["script"] == "wan_train_network.py"]
    assert {call["env"]["CUDA_VISIBLE_DEVICES"] for call in trained} == {"0", "1"}
    assert cached(tmp_path) == [1, 1] and (folder(tmp_path) / "high" / "run.log").is_file()
    again = wanwrap(*both, "--json", STANDIN_GPUS="2")
    assert {name: each["state"] for name, each in json.loads(again.stdout)["experts"].items()} == {
        "high": "done",
        "low": "done",
    }
    assert len(calls(tmp_path)) == 3


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_parallel_is_stopped(tmp_path: Path, wanwrap: Wanwrap, low: Words) -> None:
    both = (*low, "--noise_level", "both", "--parallel")
    with begin(tmp_path, *both, "--restart", STANDIN_GPUS="2", STANDIN_PACE="0.1") as process:
        until(lambda: saved(tmp_path, "high") and saved(tmp_path))
        process.send_signal(signal.SIGINT)
        text = ended(process, 130)
    assert "high goes on from epoch" in text and "low goes on from epoch" in text
    assert {told(tmp_path, expert)["state"] for expert in ("high", "low")} == {"interrupted"}
    until(lambda: not alive(tmp_path), 5)
    assert wanwrap(*both, STANDIN_GPUS="2").returncode == 0
    assert loras(tmp_path) == loras(tmp_path, "high") == WHOLE


# ---- caches


def test_a_run_that_changes_nothing_joins_one_that_would_is_refused(
    tmp_path: Path, wanwrap: Wanwrap, low: Words, cats: Path
) -> None:
    with begin(tmp_path, *low, STANDIN_DO="sleep") as process:
        asleep(tmp_path, process)
        joined = wanwrap(*low, "--output_name", "other")
        assert joined.returncode == 0 and "nothing to encode" in joined.stderr, joined.stderr
        (cats / "images" / "one.txt").write_text("another caption")
        refused = wanwrap(*low, "--output_name", "third")
        assert refused.returncode == 11 and "cats-t2v-vanilla-low trains from" in refused.stderr, refused.stderr
        process.send_signal(signal.SIGINT)
        ended(process, 130)
    assert cached(tmp_path) == [1, 1]
    assert wanwrap(*low, "--output_name", "third").returncode == 0


def test_a_folder_that_nobody_trains_from_may_change(
    tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path
) -> None:
    """Of a TOML with two, one is in use and stays as it is."""

    def toml(name: str, *folders: str) -> Path:
        rows = [f'[[datasets]]\nimage_directory = "{cats}/{each}"\ncache_directory = "{tmp_path}/c-{each}"\n' for each in folders]  # fmt: skip
        (tmp_path / name).write_text(f'[general]\ncaption_extension = ".txt"\nresolution = [64, 64]\n{"".join(rows)}')
        return tmp_path / name

    picture(cats / "more" / "four.png")
    run = ("run", "t2v-vanilla", "--noise_level", "low", "--epochs", 2, *weights)
    with begin(tmp_path, *run, toml("one.toml", "images"), STANDIN_DO="sleep") as process:
        asleep(tmp_path, process)
        done = wanwrap(*run, toml("two.toml", "images", "more"))
        assert done.returncode == 0, done.stderr
        process.send_signal(signal.SIGINT)
        ended(process, 130)


def test_it_waits_for_anothers_caching(tmp_path: Path, low: Words) -> None:
    """Under another name of the same folder, too."""
    hold = "import time; time.sleep(3)"
    with begin(tmp_path, *low, STANDIN_DO=f"meanwhile:{hold}", STANDIN_FILE="") as first:
        until(lambda: (tmp_path / "record.jsonl").exists() and calls(tmp_path, CACHING[0]))
        (tmp_path / "home" / "elsewhere").symlink_to("local_training")
        with begin(tmp_path, *low, "--output_name", "other", "--base_dir", "elsewhere") as second:
            text = ended(second, 0)
        assert "waiting: another wanwrap is caching in" in text
        ended(first, 0)
    assert cached(tmp_path) == [1, 1] and loras(tmp_path) == loras(tmp_path, name="other") == WHOLE


def waiting(process: subprocess.Popen[str], what: str) -> None:
    """Until it says that it waits for another one that does so."""
    assert process.stdout
    said = list[str]()
    while f"waiting: another wanwrap {what}" not in "".join(said[-1:]):
        said.append(process.stdout.readline())
        assert said[-1], "".join(said)


def test_a_caption_that_changes_while_it_waits(tmp_path: Path, wanwrap: Wanwrap, low: Words, cats: Path) -> None:
    """Its new words were not planned: nothing is trained on them under the name of the old ones."""
    assert wanwrap(*low).returncode == 0
    (cache,) = (path.parent for path in folder(tmp_path).parents[1].rglob("*images*/.wanwrap-cache.json"))
    (cats / "images" / "one.txt").write_text("a second caption")
    with changing([cache]):
        process = begin(tmp_path, *low, "--output_name", "other")
        waiting(process, "is caching in")
        (cats / "images" / "one.txt").write_text("a third caption")
    text = ended(process, 10)
    assert "one.png: the data set has changed" in text, text
    assert len(calls(tmp_path)) == 1 and cached(tmp_path) == [1, 1]  # it is told before anything is encoded
    assert wanwrap(*low, "--output_name", "other").returncode == 0


@pytest.mark.parametrize("what", ["caching", "making"])
def test_a_wait_that_is_stopped(what: str, tmp_path: Path, wanwrap: Wanwrap, low: Words) -> None:
    """For another's caching, or for another that casts the same DiT."""
    run = (*low, "--precision", "bf16")
    plan = json.loads(wanwrap(*run, "--dry_run", "--json").stdout)
    (toml,) = (text for text in plan["files"].values() if "cache_directory" in text)
    cache = Path(re.findall('cache_directory = "(.*)"', toml)[0]) / ".wanwrap-cache"
    trained_on = next(option(step["argv"], "dit") for step in plan["steps"] if "makes" in step)
    place = cache if what == "caching" else Path(str(trained_on))
    place.parent.mkdir(parents=True, exist_ok=True)
    with lock(place, ""), begin(tmp_path, *run) as process:
        waiting(process, f"is {what}")
        assert wanwrap("stop", "--now").returncode == 0
        text = ended(process, 130)
    assert "stopped while it waited, as you asked" in text, text
    assert not (tmp_path / "record.jsonl").exists()  # upstream was not started


def test_what_a_dead_process_has_left_is_in_nobodys_way(
    tmp_path: Path, wanwrap: Wanwrap, low: Words, cats: Path
) -> None:
    """No number of a process decides: two containers share them."""
    with begin(tmp_path, *low, STANDIN_DO="sleep") as process:
        trainer = asleep(tmp_path, process)
        process.kill()
    until(lambda: is_gone(trainer))
    caches = [path.parent for path in folder(tmp_path).parents[1].rglob(READERS)]
    assert caches and all(len([*(cache / READERS).iterdir()]) == 1 for cache in caches)
    for cache in caches:
        (cache / ".wanwrap-cache.lock").touch()
        (cache / READERS / f"mine-{os.getpid()}-abcd.lock").touch()
    (cats / "images" / "one.txt").write_text("another caption")
    done = wanwrap(*low, "--output_name", "other")
    assert done.returncode == 0, done.stderr
    (changed,) = (cache for cache in caches if cache.name.startswith("images"))
    assert not [*(changed / READERS).iterdir()]


READ = """
import sys
from pathlib import Path
from wanwrap.data.cache_lock import changing, reading
caches = [Path(each) for each in sys.argv[1:]]
with changing(caches):
    held = reading(caches, "cats low")
    held.__enter__()
print("reads", flush=True)
sys.stdin.read()
"""


def test_several_read_and_one_changes(tmp_path: Path) -> None:
    """In whatever order the folders are named, and by whatever name: nobody waits for the other for ever."""
    (tmp_path / "link").symlink_to("a")
    a, b, link = tmp_path / "a", tmp_path / "b", tmp_path / "link"
    env = {**os.environ, "PYTHONPATH": PYTHONPATH}
    with changing([b, a]):
        assert is_locked(a / ".wanwrap-cache") and is_locked(b / ".wanwrap-cache")
        check_unused([a, b])
        with reading([link], "mine"), pytest.raises(OutputError, match="mine trains from"):
            check_unused([a])
        check_unused([a])
    argv = [sys.executable, "-c", READ, str(link), str(b)]
    with subprocess.Popen(argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout and reader.stdout.readline() == "reads\n"
        with changing([a, b]), reading([a], "another"):
            with pytest.raises(OutputError, match="cats_low trains from"):
                check_unused([b])
            reader.kill()
            reader.wait()
            check_unused([b])
