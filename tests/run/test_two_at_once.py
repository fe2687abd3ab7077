"""Runs at the same time: both experts of one name, several that train from one cache; in real processes."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers import Wanwrap, picture, record
from platforms import signals, symlinks
from runs import (
    NAME,
    WHOLE,
    alive,
    asleep,
    begin,
    calls,
    ended,
    folder,
    heard,
    is_gone,
    loras,
    option,
    saved,
    told,
    until,
)

from wanwrap.data import cache_lock
from wanwrap.data.cache_lock import READERS, changing, check_unused, reading
from wanwrap.errors import OutputError
from wanwrap.system.files import lock

Words = tuple[object, ...]
CACHING = ("wan_cache_latents.py", "wan_cache_text_encoder_outputs.py")


def cached(tmp_path: Path) -> list[int]:
    """How often latents were encoded, and captions."""
    return [len(calls(tmp_path, script)) for script in CACHING]


def test_both_experts_of_one_name_in_the_same_second(tmp_path: Path, anew: Words) -> None:
    """With other options, too: each trains as it was told, and each file is encoded once."""
    high = (*anew, "--noise_level", "high", "--lr", "5e-5", "--dim", 4)
    both = [begin(tmp_path, *words) for words in (high, anew)]
    said = [ended(process, 0) for process in both]
    assert loras(tmp_path) == loras(tmp_path, "high") == WHOLE
    assert cached(tmp_path) == [1, 1] and sum("nothing to encode" in text for text in said) == 1
    rates = {option(argv, "output_name"): option(argv, "learning_rate") for argv in calls(tmp_path)}
    assert rates == {f"{NAME}-high": "5e-05", f"{NAME}-low": "8e-05"}
    assert (told(tmp_path, "high")["state"], told(tmp_path)["state"]) == ("done", "done")
    assert not [*folder(tmp_path).parents[1].rglob("*.lock")]


def test_one_of_them_is_killed(tmp_path: Path, cli: Wanwrap, low: Words) -> None:
    high = (*low, "--noise_level", "high")
    with begin(tmp_path, *high, STANDIN_PACE="0.07") as killed, begin(tmp_path, *low, STANDIN_PACE="0.07") as other:
        until(lambda: saved(tmp_path, "high") and saved(tmp_path))
        killed.kill()
        killed.wait()
        shown = cli("status").stdout
        assert "high: was killed" in shown and "low     running (training)" in shown
        ended(other, 0)
    assert loras(tmp_path) == WHOLE and told(tmp_path, "high")["state"] == "running"
    done = cli(*high)
    assert done.returncode == 0 and "going on from" in done.stderr, done.stderr
    assert loras(tmp_path, "high") == WHOLE


def test_one_expert_at_once_is_one_too_many(tmp_path: Path, low: Words) -> None:
    both = [begin(tmp_path, *low, STANDIN_PACE="0.05") for _ in range(2)]
    texts = [process.communicate(timeout=120)[0] for process in both]
    assert sorted(process.returncode for process in both) == [0, 11], texts
    assert any("another wanwrap" in text for text in texts)
    assert loras(tmp_path) == WHOLE


# ---- --parallel


def test_parallel_is_two_runs(tmp_path: Path, cli: Wanwrap, anew: Words) -> None:
    """One that fails doesn't take the other down; each has a GPU, a record and a log of its own."""
    both = (*anew, "--noise_level", "both", "--parallel", "--", "--max_grad_norm", 0)
    alone = cli(*both, STANDIN_GPUS="1")
    assert alone.returncode == 9 and "--parallel" in alone.stderr
    done = cli(*both, STANDIN_DO="fail", STANDIN_ONLY="high", STANDIN_GPUS="2")
    assert done.returncode == 10 and "high: " in done.stderr, done.stderr
    assert (told(tmp_path, "high")["state"], told(tmp_path)["state"]) == ("failed", "done")
    trained = [call for call in record(tmp_path) if call["script"] == "wan_train_network.py"]
    assert {call["env"]["CUDA_VISIBLE_DEVICES"] for call in trained} == {"0", "1"}
    assert cached(tmp_path) == [1, 1] and (folder(tmp_path) / "high" / "run.log").is_file()
    again = cli("run", "--json", *both[1:], STANDIN_GPUS="2")
    assert [each["state"] for each in json.loads(again.stdout)["experts"].values()] == ["done", "done"]
    assert len(calls(tmp_path)) == 3


@signals
def test_parallel_is_stopped(tmp_path: Path, cli: Wanwrap, low: Words) -> None:
    both = (*low, "--noise_level", "both", "--parallel")
    with begin(tmp_path, *both, "--restart", STANDIN_GPUS="2", STANDIN_PACE="0.1") as process:
        until(lambda: saved(tmp_path, "high") and saved(tmp_path))
        process.send_signal(signal.SIGINT)
        text = ended(process, 130)
    assert "high goes on from epoch" in text and "low goes on from epoch" in text
    assert {told(tmp_path, expert)["state"] for expert in ("high", "low")} == {"interrupted"}
    until(lambda: not alive(tmp_path), 5)
    assert cli(*both, STANDIN_GPUS="2").returncode == 0
    assert loras(tmp_path) == loras(tmp_path, "high") == WHOLE


# ---- caches


def test_a_run_that_changes_nothing_joins_one_that_would_is_refused(
    tmp_path: Path, cli: Wanwrap, anew: Words, cats: Path
) -> None:
    """A process that has died is in nobody's way; no number of a process decides: two containers share them."""
    with begin(tmp_path, *anew, STANDIN_DO="sleep") as process:
        trainer = asleep(tmp_path, process)
        joined = cli(*anew, "--output_name", "other")
        assert joined.returncode == 0 and "nothing to encode" in joined.stderr, joined.stderr
        (cats / "images" / "one.txt").write_text("another caption")
        refused = cli(*anew, "--output_name", "third")
        assert refused.returncode == 11 and f"{NAME}-low trains" in refused.stderr, refused.stderr
        process.kill()
    until(lambda: is_gone(trainer), 20)
    assert cached(tmp_path) == [1, 1]
    caches = [path.parent for path in folder(tmp_path).parents[1].rglob(READERS)]
    assert caches and all(len([*(cache / READERS).iterdir()]) == 1 for cache in caches)
    for cache in caches:
        (cache / ".wanwrap-cache.lock").touch()
        (cache / READERS / f"mine-{os.getpid()}-abcd.lock").touch()
    done = cli(*anew, "--output_name", "third")
    assert done.returncode == 0, done.stderr
    (changed,) = (cache for cache in caches if cache.name.startswith("images"))
    assert not [*(changed / READERS).iterdir()]


def test_a_folder_that_nobody_trains_from_may_change(
    tmp_path: Path, cli: Wanwrap, weights: list[str], cats: Path
) -> None:
    """Of a TOML with two, one is in use and stays as it is."""

    def toml(name: str, *folders: str) -> Path:
        media, caches = cats.as_posix(), f"{tmp_path.as_posix()}/c"
        rows = [f'[[datasets]]\nimage_directory = "{media}/{each}"\ncache_directory = "{caches}-{each}"\n' for each in folders]  # fmt: skip
        (tmp_path / name).write_text(f'[general]\ncaption_extension = ".txt"\nresolution = [64, 64]\n{"".join(rows)}')
        return tmp_path / name

    picture(cats / "more" / "four.png")
    run = ("run", "t2v-vanilla", "--noise_level", "low", "--epochs", 2, *weights)
    with begin(tmp_path, *run, toml("one.toml", "images"), STANDIN_DO="sleep") as process:
        asleep(tmp_path, process)
        done = cli(*run, toml("two.toml", "images", "more"))
        assert done.returncode == 0, done.stderr
        process.kill()


@symlinks
def test_it_waits_for_anothers_caching(tmp_path: Path, anew: Words) -> None:
    """Under another name of the same folder, too."""
    over, hold = tmp_path / "over", "import time\nwhile not p1.exists(): time.sleep(0.05)"
    with begin(tmp_path, *anew, STANDIN_DO=f"meanwhile:{hold}", STANDIN_FILE=str(over)) as first:
        until(lambda: (tmp_path / "record.jsonl").exists() and calls(tmp_path, CACHING[0]))
        (tmp_path / "home" / "elsewhere").symlink_to("local_training")
        with begin(tmp_path, *anew, "--output_name", "other", "--base_dir", "elsewhere") as second:
            heard(second, "waiting: another wanwrap is caching")
            over.touch()
            ended(second, 0)
        ended(first, 0)
    assert cached(tmp_path) == [1, 1] and loras(tmp_path) == loras(tmp_path, name="other") == WHOLE


def test_a_caption_that_changes_while_it_waits(tmp_path: Path, cli: Wanwrap, anew: Words, cats: Path) -> None:
    """Its new words were not planned: nothing is trained on them under the name of the old ones."""
    assert cli(*anew, "--epochs", 1).returncode == 0
    (cache,) = (path.parent for path in folder(tmp_path).parents[1].rglob("*images*/.wanwrap-cache.json"))
    (cats / "images" / "one.txt").write_text("a second caption")
    with changing([cache]):
        process = begin(tmp_path, *anew, "--output_name", "other")
        heard(process, "waiting: another wanwrap is caching")
        (cats / "images" / "one.txt").write_text("a third caption")
    text = ended(process, 10)
    assert "one.png" in text and "changed" in text, text
    assert len(calls(tmp_path)) == 1 and cached(tmp_path) == [1, 1]  # it is told before anything is encoded


@pytest.mark.parametrize(("what", "options"), [("caching", []), ("making", ["--precision", "bf16"])])
def test_a_wait_that_is_stopped(what: str, options: list[str], tmp_path: Path, cli: Wanwrap, low: Words) -> None:
    """For another's caching, or for another that casts the same DiT."""
    run = (*low, *options)
    plan = json.loads(cli(*run, "--dry_run", "--json").stdout)
    (toml,) = (text for text in plan["files"].values() if "cache_directory" in text)
    cache = Path(re.findall('cache_directory = "(.*)"', toml)[0]) / ".wanwrap-cache"
    trained_on = next(option(step["argv"], "dit") for step in plan["steps"] if "makes" in step)
    place = cache if what == "caching" else Path(str(trained_on))
    place.parent.mkdir(parents=True, exist_ok=True)
    with lock(place, ""), begin(tmp_path, *run) as process:
        heard(process, f"waiting: another wanwrap is {what}")
        assert cli("stop", "--now").returncode == 0
        text = ended(process, 130)
    assert "stopped while it waited" in text, text
    assert not (tmp_path / "record.jsonl").exists()  # upstream was not started


@symlinks
def test_in_whatever_order_and_by_whatever_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who changes several folders has them alone, and nobody waits for the other for ever."""
    monkeypatch.setattr(cache_lock, "POLL", 0.001)
    (tmp_path / "link").symlink_to("a")
    a, b, link = tmp_path / "a", tmp_path / "b", tmp_path / "link"
    inside, end = list[int](), time.monotonic() + 30

    def in_time() -> None:
        assert time.monotonic() < end

    def change(*caches: Path) -> None:
        for _ in range(50):
            with changing(caches, in_time):
                inside.append(1)
                check_unused(caches)
                assert len(inside) == 1
                inside.pop()

    with ThreadPoolExecutor() as pool:
        assert not any(pool.map(change, (link, b), (b, a)))
    with changing([a]), reading([link], "mine"), pytest.raises(OutputError, match="mine trains"):
        check_unused([a])
