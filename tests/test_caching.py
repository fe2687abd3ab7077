"""Nothing is encoded twice and nothing stale is trained: with the stand-in, in CI. (test_upstream_data.py: the real one.)"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import Wanwrap, captioned, clip, picture, record
from PIL import Image

from wanwrap.data.caches import MANIFEST, Pruned, What, missing, names, prune, strangers
from wanwrap.data.dataset import Entry
from wanwrap.data.folder import scan
from wanwrap.errors import DatasetError
from wanwrap.preset import load
from wanwrap.system.files import lock

MARKS = {"latents": "vae", "text": "t5"}
EMPTY = struct.pack("<Q", 2) + b"{}"


def entry_of(folder: Path) -> Entry:
    (entry,) = scan(folder, load("t2v-style"), whole=True).sound().entries
    return entry


@pytest.fixture
def cats(tmp_path: Path) -> Path:
    """Three pictures."""
    for number in range(3):
        picture(tmp_path / "cats" / f"p{number}.png", (640 + 16 * number, 640), f"picture {number}")
    return tmp_path / "cats"


def encode(entry: Entry, cache: Path) -> None:
    """What upstream would do with --skip_existing."""
    kinds: tuple[What, ...] = ("latents", "text")
    for what in kinds:
        for path in missing([entry], [cache], what):
            path.write_bytes(EMPTY)


def pruned(folder: Path, cache: Path, **marks: str) -> tuple[int, int, int]:
    """How many latents and captions are to be encoded, and how many files went."""
    entry = entry_of(folder)
    found: Pruned = prune(entry, cache, {**MARKS, **marks})  # type: ignore[dict-item]
    assert found.new_latents == len(missing([entry], [cache], "latents"))
    assert found.new_captions == len(missing([entry], [cache], "text"))
    encode(entry, cache)
    return found.new_latents, found.new_captions, found.removed


def swap(cats: Path, _: Path) -> None:
    """Two pictures of one size exchange their names: what was made of the one is under the other's."""
    for name in ("p0.png", "p1.png"):
        Image.new("RGB", (640, 640), "red" if name == "p0.png" else "blue").save(cats / name)


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
    "a file that is no cache": (lambda _, cache: (cache / "x.safetensors").write_bytes(EMPTY), (0, 0, 0)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_a_change_costs(name: str, cats: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert pruned(cats, cache) == (3, 3, 0)
    assert pruned(cats, cache) == (0, 0, 0)
    change, expected = CHANGES[name]
    change(cats, cache)
    assert pruned(cats, cache) == expected
    assert pruned(cats, cache) == (0, 0, 0)


def test_two_that_exchange_their_names(cats: Path, tmp_path: Path) -> None:
    for name, colour in {"p0.png": "blue", "p1.png": "red"}.items():
        Image.new("RGB", (640, 640), colour).save(cats / name)
    assert pruned(cats, tmp_path / "cache") == (3, 3, 0)
    swap(cats, tmp_path)
    assert pruned(cats, tmp_path / "cache") == (2, 0, 2)


@pytest.mark.parametrize(("mark", "expected"), [("latents", (3, 0, 3)), ("text", (0, 3, 3))])
def test_another_encoder(mark: str, expected: tuple[int, int, int], cats: Path, tmp_path: Path) -> None:
    assert pruned(cats, tmp_path / "cache") == (3, 3, 0)
    assert pruned(cats, tmp_path / "cache", **{mark: "other"}) == expected


def test_names_of_windows(tmp_path: Path) -> None:
    clip(tmp_path / "a.b.mp4", 150, 24, (320, 240))
    first, second = scan(tmp_path, load("t2v-vanilla"), whole=True).entries
    assert [name for name, _ in names(first, "latents")] == [
        "a.b_00000-001_1104x0832_wan.safetensors", "a.b_00000-021_1104x0832_wan.safetensors",
    ]  # fmt: skip
    assert [name for name, _ in names(second, "latents")] == [
        "a.b_00000-045_0832x0624_wan.safetensors", "a.b_00055-045_0832x0624_wan.safetensors",
    ]  # fmt: skip
    assert [name for name, _ in names(second, "text")] == ["a.b_wan_te.safetensors"]


def scripts(tmp_path: Path) -> list[str]:
    """The caching scripts that were started since."""
    found = [row["script"] for row in record(tmp_path) if "cache" in row["script"]]
    (tmp_path / "record.jsonl").write_text("")
    return found


def test_runs_share_caches(cats: Path, tmp_path: Path, wanwrap: Wanwrap, weights: list[str]) -> None:
    """A second run, the other expert and another preset with the same needs encode nothing; a caption costs a caption."""
    words = ("--dataset", cats, *weights, "--any_upstream", "--epochs", 1)
    both, text = ["wan_cache_latents.py", "wan_cache_text_encoder_outputs.py"], ["wan_cache_text_encoder_outputs.py"]

    def run(preset: str, name: str, *more: object) -> list[str]:
        done = wanwrap("run", preset, *words, "--output_name", name, *more)
        assert done.returncode == 0, done.stderr
        assert ("nothing to encode" in done.stderr) == ("b" in name)
        return scripts(tmp_path)

    assert run("t2v-vanilla", "a1", "--noise_level", "low") == both
    assert run("t2v-vanilla", "b1", "--noise_level", "high") == []
    assert run("t2v-lightning", "b2", "--skip_lightning") == []
    (cats / "p0.txt").write_text("other words")
    assert run("t2v-vanilla", "b3") == text
    caches = sorted((tmp_path / "home" / "local_training" / "cache" / "cats").iterdir())
    assert len(caches) == 1
    kept = json.loads((tmp_path / "home/local_training/outputs/b2/run.json").read_text())
    assert [step["state"] for step in kept["steps"]] == ["done", "not needed", "not needed", "done", "done"]


def test_prune_by_hand(cats: Path, tmp_path: Path, wanwrap: Wanwrap) -> None:
    own = tmp_path / "own.toml"
    own.write_text(f'[general]\ncaption_extension = ".txt"\nresolution = 64\n[[datasets]]\nimage_directory = "{cats.as_posix()}"\ncache_directory = "{tmp_path.as_posix()}/c"\n')  # fmt: skip
    words = (own, "--latents", "x", "--text", "y")
    done = wanwrap("prune", *words, standin=False)
    assert done.stdout == "c: to encode are 3 of 3 latents and 3 of 3 captions\n"
    (found,) = json.loads(wanwrap("prune", *words, "--json", standin=False).stdout)
    assert found == {"folder": str(tmp_path / "c"), "latents": 3, "new_latents": 3, "captions": 3, "new_captions": 3, "removed": 0}  # fmt: skip
    assert wanwrap("prune", own, standin=False).returncode == 2
    (cats / "p1.txt").unlink()
    done = wanwrap("prune", *words, standin=False)  # as a run stops at it
    assert done.returncode == 4 and "it has no caption" in done.stderr
    assert wanwrap("prune", tmp_path / "none.toml", *words[1:], standin=False).returncode == 4


def test_no_cache_goes_while_another_run_reads_it(cats: Path, tmp_path: Path, wanwrap: Wanwrap) -> None:
    run = tmp_path / "outputs" / "mine"
    run.mkdir(parents=True)
    (run / "dataset.toml").write_text(f'[general]\ncaption_extension = ".txt"\nresolution = 64\n[[datasets]]\nimage_directory = "{cats.as_posix()}"\ncache_directory = "{tmp_path.as_posix()}/c"\n')  # fmt: skip
    other = tmp_path / "outputs" / "other"
    other.mkdir()
    (other / "run.json").write_text(json.dumps({"state": "running", "process": 7, "caches": [f"{tmp_path}/c"]}))
    (other / "run-broken.json").write_text("[")
    with lock(other / "run", "mine"):
        done = wanwrap("prune", run / "dataset.toml", "--latents", "x", "--text", "y", standin=False)
    assert done.returncode == 11 and "another wanwrap (process 7) trains from these caches" in done.stderr


def test_what_is_no_cache_is_left_alone(cats: Path, tmp_path: Path) -> None:
    """A LoRA of the user's own under upstream's ending, which upstream would delete."""
    (tmp_path / "cache").mkdir()
    mine = tmp_path / "cache" / "my_best_wan.safetensors"
    mine.write_bytes(EMPTY)
    with pytest.raises(DatasetError, match=r"my_best_wan\.safetensors in .* is none"):
        pruned(cats, tmp_path / "cache")
    assert mine.exists()


MEANWHILE = {
    "another picture": ("import PIL.Image; PIL.Image.new('RGB', (656, 640), 'red').save(p1)", "p1.png: changed while"),
    "other words": ("p1.with_suffix('.txt').write_text('other words')", "p1.png: changed while"),
    "one more": (
        "import shutil; [shutil.copy(p1.with_suffix(e), p1.with_name('q' + e)) for e in ('.png', '.txt')]",
        "q_wan_te.safetensors: cached of files that came",
    ),
    "touched": ("p1.touch(); p1.chmod(0o640); p1.with_suffix('.txt').touch()", ""),
    "linked": ("import os; os.link(p1, p1.parent.parent / 'copy.png')", ""),
}


@pytest.mark.parametrize("name", MEANWHILE)
def test_what_changes_while_it_is_cached(name: str, cats: Path, tmp_path: Path, wanwrap: Wanwrap, weights: list[str]) -> None:  # fmt: skip
    """What was made of it nobody knows: it goes, and the run stops before it trains. What is as it was costs no night."""
    code, message = MEANWHILE[name]
    words = ("t2v-style", "--dataset", cats, *weights, "--any_upstream", "--noise_level", "low", "--epochs", 1)
    done = wanwrap("run", *words, STANDIN_DO=f"meanwhile:{code}", STANDIN_FILE=str(cats / "p1.png"))
    assert done.returncode == (10 if message else 0), done.stderr
    assert message in done.stderr
    (cache,) = (tmp_path / "home" / "local_training" / "cache" / "cats").iterdir()
    left = {path.name for path in cache.glob("p1*.safetensors")}
    gone = {"another picture": "p1_0656x0640_wan.safetensors", "other words": "p1_wan_te.safetensors"}.get(name)
    assert gone not in left and ("p1_0656x0640_wan.safetensors" in left or name == "another picture")
    if message:
        assert wanwrap("run", *words).returncode == 0


def test_a_file_that_comes_while_others_are_cached(cats: Path, tmp_path: Path) -> None:
    entry = entry_of(cats)
    prune(entry, tmp_path / "cache", MARKS)  # type: ignore[arg-type]
    encode(entry, tmp_path / "cache")
    assert strangers([entry], [tmp_path / "cache"]) == []
    (tmp_path / "cache" / "q_0640x0640_wan.safetensors").write_bytes(EMPTY)
    assert strangers([entry], [tmp_path / "cache"]) == ["q_0640x0640_wan.safetensors"]
