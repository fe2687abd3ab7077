"""Nothing is encoded twice and nothing stale is trained: with the stand-in, in CI. (upstream/test_real_data.py: the real one.)"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import Wanwrap, captioned, clip, picture, record
from PIL import Image

from wanwrap.data import read
from wanwrap.data.cache_lock import reading
from wanwrap.data.caches import MANIFEST, WHAT, forget, names, survey
from wanwrap.data.config import load as load_config
from wanwrap.data.dataset import Entry
from wanwrap.data.folder import scan
from wanwrap.errors import DatasetError
from wanwrap.preset import load
from wanwrap.upstream.buckets import What

MARKS: dict[What, str] = {"latents": "vae", "text": "t5"}
EMPTY = struct.pack("<Q", 2) + b"{}"


def entry_of(folder: Path, cache: Path) -> Entry:
    (entry,) = scan(folder, load("t2v-style"), whole=True).sound().entries
    return replace(entry, cache=cache)


@pytest.fixture
def cats(tmp_path: Path) -> Path:
    """Three pictures."""
    for number in range(3):
        picture(tmp_path / "cats" / f"p{number}.png", (640 + 16 * number, 640), f"picture {number}")
    return tmp_path / "cats"


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are read without a child, which is quicker; test_check.py has the child."""
    monkeypatch.setattr(
        read, "_in_child", lambda files, whole: (read.read_file(path, kind, whole) for path, kind in files.items())
    )


def encode(entry: Entry) -> None:
    """What upstream would do with --skip_existing."""
    for path in (entry.cache / name for what in WHAT for name, _ in names(entry, what)):
        if not path.exists():
            path.write_bytes(EMPTY)


def pruned(folder: Path, cache: Path, marks: Mapping[What, str] = MARKS) -> tuple[int, int, int]:
    """How many latents and captions are to be encoded, and how many files went."""
    entry = entry_of(folder, cache)
    found = survey(entry, marks)
    found.prune()
    encode(entry)
    after = survey(entry, marks)
    assert after.complete
    latents, text = (len(found.missing(what)) for what in WHAT)
    assert found.complete == (latents == text == len(found.stale) == 0)
    return latents, text, len(found.stale)


def one_less(cats: Path, _: Path) -> None:
    for path in cats.glob("p2.*"):
        path.unlink()


CHANGES: dict[str, tuple[Callable[[Path, Path], object], tuple[int, int, int]]] = {
    "nothing": (lambda *_: None, (0, 0, 0)),
    "a caption": (lambda cats, _: captioned(cats / "p1.png", "other words"), (0, 1, 1)),
    "a caption's line end": (lambda cats, _: captioned(cats / "p1.png", "picture 1\r\n"), (0, 0, 0)),
    "a picture": (lambda cats, _: Image.new("RGB", (656, 640), "red").save(cats / "p1.png"), (1, 0, 1)),
    "a picture's time": (lambda cats, _: os.utime(cats / "p1.png"), (0, 0, 0)),
    "a new one": (lambda cats, _: picture(cats / "p3.png", (700, 640), "picture 3"), (1, 1, 0)),
    "one less": (one_less, (0, 0, 2)),
    "another name": (lambda cats, _: [p.rename(p.with_stem("q")) for p in cats.glob("p2.*")], (1, 1, 2)),
    "half a file": (lambda _, cache: (cache / "p0_wan_te.safetensors").write_bytes(EMPTY[:5]), (0, 1, 1)),
    "an empty file": (lambda _, cache: (cache / "p0_0640x0640_wan.safetensors").write_bytes(b""), (1, 0, 1)),
    "no manifest": (lambda _, cache: (cache / MANIFEST).unlink(), (3, 3, 6)),
    "a broken manifest": (lambda _, cache: (cache / MANIFEST).write_text("[1"), (3, 3, 6)),
    "a file of nobody's": (lambda _, cache: (cache / "x_0640x0640_wan.safetensors").write_bytes(EMPTY), (0, 0, 1)),
    "another file": (lambda _, cache: (cache / "x.safetensors").write_bytes(EMPTY), (0, 0, 0)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_a_change_costs(name: str, cats: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert pruned(cats, cache) == (3, 3, 0)
    change, expected = CHANGES[name]
    change(cats, cache)
    assert pruned(cats, cache) == expected
    assert pruned(cats, cache) == (0, 0, 0)


def test_two_that_exchange_their_names(cats: Path, tmp_path: Path) -> None:
    """They are of one size: what was made of the one is under the other's name."""
    for colours, expected in ((("blue", "red"), (3, 3, 0)), (("red", "blue"), (2, 0, 2))):
        for number, colour in enumerate(colours):
            Image.new("RGB", (640, 640), colour).save(cats / f"p{number}.png")
        assert pruned(cats, tmp_path / "cache") == expected


def test_another_encoder(cats: Path, tmp_path: Path) -> None:
    found = [pruned(cats, tmp_path / "cache", {"latents": vae, "text": t5}) for vae, t5 in ("ab", "cb", "cd")]
    assert found == [(3, 3, 0), (3, 0, 3), (0, 3, 3)]


def test_names_of_windows(tmp_path: Path) -> None:
    clip(tmp_path / "a.b.mp4", 150, 24, (320, 240))
    first, second = scan(tmp_path, load("t2v-vanilla"), whole=True).entries
    found = [name.removeprefix("a.b_") for entry in (first, second) for name, _ in names(entry, "latents")]
    assert found == [
        "00000-001_1104x0832_wan.safetensors",
        "00000-021_1104x0832_wan.safetensors",
        "00000-045_0832x0624_wan.safetensors",
        "00055-045_0832x0624_wan.safetensors",
    ]
    assert [name for name, _ in names(second, "text")] == ["a.b_wan_te.safetensors"]


def test_what_is_no_cache_is_left_alone(cats: Path, tmp_path: Path) -> None:
    """A LoRA of the user's own under upstream's ending, which upstream would delete."""
    (tmp_path / "cache").mkdir()
    mine = tmp_path / "cache" / "my_best_wan.safetensors"
    mine.write_bytes(EMPTY)
    with pytest.raises(DatasetError, match=mine.name):
        pruned(cats, tmp_path / "cache")
    assert mine.exists()


def test_prune_by_hand(cats: Path, tmp_path: Path, cli: Wanwrap) -> None:
    own, cache = tmp_path / "own.toml", tmp_path / "c"
    table = f'image_directory = "{cats.as_posix()}"\ncache_directory = "{cache.as_posix()}"\nresolution = 64\n'
    own.write_text(f'[general]\ncaption_extension = ".txt"\n[[datasets]]\n{table}')
    prune = ("prune", own, "--latents", "x", "--text", "y")
    whole = {"folder": str(cache), "latents": 3, "captions": 3, "removed": 0}
    assert json.loads(cli(*prune, "--json").stdout) == [{**whole, "new_latents": 3, "new_captions": 3}]
    encode(entry_of(cats, cache))
    assert "0 of 3 latents and 0 of 3 captions" in cli(*prune).stdout
    with reading([cache], "cats-low"):
        done = cli(*prune[:-1], "another")
        assert done.returncode == 11 and "cats-low" in done.stderr
    assert json.loads(cli(*prune[:-1], "another", "--json").stdout)[0]["removed"] == 3
    (cats / "p1.txt").unlink()
    assert cli(*prune).returncode == DatasetError.exit_code  # as a run stops at it


def test_runs_share_caches(cats: Path, tmp_path: Path, cli: Wanwrap, weights: list[str]) -> None:
    """A second run, the other expert and another preset with the same needs encode nothing; a caption costs a caption."""

    def run(preset: str, name: str, *more: object) -> list[str]:
        """The caching scripts that were started."""
        (tmp_path / "record.jsonl").unlink(missing_ok=True)
        words = ("--dataset", cats, *weights, "--any_upstream", "--epochs", 1, "--output_name", name, *more)
        done = cli("run", preset, *words)
        assert done.returncode == 0, done.stderr
        return [row["script"] for row in record(tmp_path) if "cache" in row["script"]]

    text = ["wan_cache_text_encoder_outputs.py"]
    assert run("t2v-vanilla", "a1", "--noise_level", "low") == ["wan_cache_latents.py", *text]
    assert run("t2v-vanilla", "a2", "--noise_level", "high") == []
    assert run("t2v-lightning", "a3", "--skip_lightning", "--noise_level", "low") == []
    (cats / "p0.txt").write_text("other words")
    assert run("t2v-vanilla", "a4", "--noise_level", "low") == text
    assert len([*(tmp_path / "home" / "local_training" / "cache" / "cats").iterdir()]) == 1


@pytest.fixture
def style(cats: Path, weights: list[str]) -> tuple[object, ...]:
    """The words of a short run."""
    return ("run", "t2v-style", "--dataset", cats, *weights, "--any_upstream", "--noise_level", "low", "--epochs", 1)


def test_a_kept_script_trains_no_caption_of_yesterday(cats: Path, tmp_path: Path, cli: Wanwrap, style: tuple[object, ...]) -> None:  # fmt: skip
    """Its list of files has the captions as they were; a user's own list says what is to be trained."""
    (cats / "p2.txt").unlink()
    assert cli(*style, "--skip_bad").returncode == 0
    (toml,) = (tmp_path / "home" / "local_training" / "outputs").rglob("dataset.toml")
    prune = ("prune", toml, "--latents", "x", "--text", "y")
    assert cli(*prune).returncode == 0
    captioned(cats / "p1.png", "other words")
    done = cli(*prune)
    assert done.returncode == 4 and "p1.png" in done.stderr and "p0.png" not in done.stderr
    text, rows = toml.read_text(), toml.with_name("images-1.jsonl").read_text()
    for own, name in ((text.partition("\n")[2], "images-1.jsonl"), (text, "my.jsonl")):
        (tmp_path / name).write_text(rows)
        (tmp_path / "dataset.toml").write_text(
            own.replace(toml.with_name("images-1.jsonl").as_posix(), (tmp_path / name).as_posix())
        )
        assert load_config(tmp_path / "dataset.toml").sound().train_items == 2


MEANWHILE = {  # name -> (what is done, what the run names, what of p1 is left)
    "another picture": ("import PIL.Image; PIL.Image.new('RGB', (656, 640), 'red').save(p1)", "p1.png", 0),
    "other words": ("p1.with_suffix('.txt').write_text('other words')", "p1.png", 0),
    "one more": (
        "import shutil; [shutil.copy(p1.with_suffix(e), p1.with_name('q' + e)) for e in ('.png', '.txt')]",
        "q_wan_te.safetensors",
        2,
    ),
    "nothing": ("import os; p1.touch(); p1.chmod(0o640); os.link(p1, p1.parent.parent / 'copy.png')", "", 2),
}


@pytest.mark.parametrize("name", MEANWHILE)
def test_what_changes_while_it_is_cached(name: str, cats: Path, tmp_path: Path, cli: Wanwrap, style: tuple[object, ...]) -> None:  # fmt: skip
    """What was made of it nobody knows: it goes, and the run stops before it trains. What is as it was costs no night."""
    code, named, left = MEANWHILE[name]
    done = cli(*style, STANDIN_DO=f"meanwhile:{code}", STANDIN_FILE=str(cats / "p1.png"))
    assert done.returncode == (10 if named else 0) and named in done.stderr, done.stderr
    (cache,) = (tmp_path / "home" / "local_training" / "cache" / "cats").iterdir()
    assert len([*cache.glob("p1*.safetensors")]) == left
    if name == "other words":  # it has not trained: it may begin otherwise
        again = cli(*style, "--lr", "1e-5")
        assert again.returncode == 0, again.stderr


def test_a_list_that_changes_while_it_is_cached(tmp_path: Path) -> None:
    """Its captions are read where upstream reads them: not beside the pictures."""
    path, rows, cache = picture(tmp_path / "a.png", caption=None), tmp_path / "list.jsonl", tmp_path / "cache"
    rows.write_text(json.dumps({"image_path": str(path), "caption": "a cat"}) + "\n")
    cache.mkdir()
    own = tmp_path / "own.toml"
    places = f'image_jsonl_file = "{rows.as_posix()}"\ncache_directory = "{cache.as_posix()}"'
    own.write_text(f"[[datasets]]\n{places}\nresolution = [64, 64]\n")
    (entry,) = load_config(own, whole=True).sound().entries
    encode(entry)
    assert forget([entry]) == []
    rows.write_text(json.dumps({"image_path": str(path), "caption": "a dog"}) + "\n")
    assert forget([entry]) == ["a.png"] and not [*cache.glob("*.safetensors")]
