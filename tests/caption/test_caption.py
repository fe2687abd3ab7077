"""`wanwrap caption`, with the stand-in for upstream's script: each caption lands beside what it tells."""

from __future__ import annotations

import errno
import json
import os
import signal
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import click
import pytest
from captions import QWEN, colour, film, media_of, texts
from helpers import ROOT, Wanwrap, picture, record
from platforms import QUOTE, odd_names, posix_paths, signals
from runs import asleep, begin, ended, is_gone
from weightfiles import Rows, rows, scaled, sparse

from wanwrap.caption.captioning import Captioning, CaptionRequest
from wanwrap.caption.model import check as check_model
from wanwrap.caption.prompts import caption as cleaned
from wanwrap.caption.prompts import prompt
from wanwrap.cli.caption import caption
from wanwrap.cli.check import check
from wanwrap.errors import OptionError, WeightsError


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Where a default workspace has it."""
    return sparse(tmp_path / "home" / "local_training" / "models" / "text" / "qwen_2.5_vl_7b.safetensors", QWEN)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Pictures and clips in three folders; one has a caption, one an empty one."""
    folder = tmp_path / "mixed set"
    colour(folder / f"-a b'c{QUOTE}.png", "#c00000")
    colour(folder / "two.JPG", "#00c000", (384, 640))
    picture(folder / "images" / "done.png", caption="by hand")
    colour(folder / "images" / "void.webp", "#0000c0", (512, 512))
    (folder / "images" / "void.txt").write_bytes(b"\xef\xbb\xbf \n")
    film(folder / "videos" / "clip.mp4", ["#c00000", "#00c000", "#0000c0"])
    colour(folder / "more" / "below.png", "#c00000")
    return folder


EXPECTED = {
    f"-a b'c{QUOTE}": "red, 640x384",
    "two": "green, 384x640",
    "done": "by hand",
    "void": "blue, 512x512",
    "clip": "green, 320x320",  # of the middle
}


def test_each_caption_is_beside_what_it_tells(mixed: Path, model: Path, cli: Wanwrap, tmp_path: Path) -> None:
    before = media_of(mixed)
    done = cli("caption", mixed)
    assert done.returncode == 0, done.stderr
    assert texts(mixed) == EXPECTED and media_of(mixed) == before
    assert "4 written" in done.stdout and "two.JPG: green, 384x640" in done.stdout
    (call,) = record(tmp_path)
    assert call["env"]["PYTHONUTF8"] == "1" and str(model) in call["argv"]
    work = tmp_path / "home" / "local_training" / "captions" / "mixed_set"
    assert Path(call["cwd"]) == work and [*work.parent.iterdir()] == [work]
    assert [path.name for path in work.iterdir()] == ["caption.log"]
    assert "Generating captions: 4/4" in (work / "caption.log").read_text(encoding="utf-8")

    again = cli("caption", mixed, "--json", standin=False)  # needs no upstream, for nothing is to be done
    assert (again.returncode, len(record(tmp_path))) == (0, 1)
    assert json.loads(again.stdout) == {"written": [], "kept": 5, "failed": []}


@odd_names
@pytest.mark.usefixtures("model")
def test_what_gets_no_caption_is_named(cli: Wanwrap, tmp_path: Path) -> None:
    folder = tmp_path / "home" / "local_training" / "datasets" / "[x] *"
    good = [colour(folder / name, "#c00000") for name in ("new\nline.png", "ü 猫.png", "#000001.png")]
    good.append(film(folder / "a clip.mp4", ["#c00000"], (640, 384)))
    picture(folder / "two.png")
    (folder / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n no picture")
    colour(folder / "tiny.png", "#c00000", (43, 43))
    colour(folder / f"{'x' * 251}.png", "#c00000")
    colour(folder / "b.png", "#c00000").rename(folder / os.fsdecode(b"\xff.png"))
    colour(folder / "taken.png", "#c00000").with_suffix(".txt").mkdir()
    done = cli("caption", "[x] *", "--json")
    assert done.returncode == 4 and "5 got no caption" in done.stderr
    found = json.loads(done.stdout)
    assert {row["path"]: row["caption"] for row in found["written"]} == {str(path): "red, 640x384" for path in good}
    assert {path.with_suffix(".txt").read_text() for path in good} == {"red, 640x384\n"} and found["kept"] == 1
    failed = {Path(row["path"]).name[:4]: row["reason"] for row in found["failed"]}
    reasons = {"bad.": "Truncated", "tiny": "43x43", "xxxx": "too long", "\udcff.pn": "UTF-8", "take": "directory"}
    assert all(reason in failed[name[:4]] for name, reason in reasons.items()), failed


@pytest.mark.usefixtures("model")
def test_overwriting_keeps_the_old_ones(mixed: Path, cli: Wanwrap, tmp_path: Path) -> None:
    (mixed / "two.txt").write_bytes("größe, no UTF-8".encode("latin-1"))
    for _ in range(2):
        done = cli("caption", mixed, "--overwrite")
        assert done.returncode == 0, done.stderr
    assert texts(mixed) == {**EXPECTED, "done": "blue, 640x384"}
    work = tmp_path / "home" / "local_training" / "captions" / "mixed_set"
    first, second = sorted(work.glob("replaced-*.jsonl"), key=lambda path: path.stat().st_mtime_ns)
    assert str(second) in done.stderr and "5 captions" in done.stderr
    kept = {
        Path(row["path"]).name: row["caption"]
        for row in map(json.loads, first.read_text(encoding="utf-8").splitlines())
    }
    assert kept.keys() == {"two.JPG", "done.png"} and kept["done.png"] == "by hand"
    assert kept["two.JPG"].encode("utf-8", "surrogateescape") == "größe, no UTF-8".encode("latin-1")


@pytest.mark.usefixtures("model")
def test_a_failure_keeps_what_was_written(mixed: Path, cli: Wanwrap) -> None:
    done = cli("caption", mixed, STANDIN_DO="fail:3")
    assert done.returncode == 10 and "caption.log" in done.stderr and "3 written" in done.stdout
    assert len(texts(mixed)) == 4 and sum("x" in text for text in texts(mixed).values()) == 3
    done = cli("caption", mixed, "--json", STANDIN_DO="oom")
    assert done.returncode == 10 and "--fp8" in done.stderr and "blocks_to_swap" not in done.stderr
    assert json.loads(done.stdout) == {"written": [], "kept": 4, "failed": []}
    assert "1 written" in cli("caption", mixed).stdout and texts(mixed) == EXPECTED


@signals
@pytest.mark.usefixtures("model")
def test_ctrl_c_keeps_what_was_written(mixed: Path, cli: Wanwrap, tmp_path: Path) -> None:
    process = begin(tmp_path, "caption", mixed, STANDIN_DO="sleep:2")
    below = asleep(tmp_path, process)
    other = cli("caption", mixed)
    assert other.returncode == 11 and "another" in other.stderr
    process.send_signal(signal.SIGINT)
    text = ended(process, 130)
    assert "interrupted" in text and "2 written" in text
    assert is_gone(below)
    assert cli("caption", mixed).returncode == 0
    assert texts(mixed) == EXPECTED


def test_answers_that_are_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, three, four = (picture(tmp_path / f"{n}.png", caption=None) for n in range(4))
    work = Captioning(CaptionRequest(dataset=str(tmp_path), base_dir=tmp_path / "base"))
    work.put(one, " \n``` \n")
    work.put(two, "the " * 1000)
    assert work.failed.keys() == {one, two} and "3,999" in work.failed[two]
    three.with_suffix(".txt").write_text("mine")  # meanwhile
    work.put(three, "red")
    assert (work.kept, work.written, texts(tmp_path)) == (1, {}, {"2": "mine"})
    monkeypatch.setattr("wanwrap.system.files.sync", Mock(side_effect=OSError(errno.ENOSPC, "No space left")))
    with pytest.raises(OSError, match="space"):
        work.put(four, "red")
    assert four not in work.failed and {path.suffix for path in tmp_path.iterdir()} == {".png", ".txt"}


@pytest.mark.parametrize(
    ("answer", "trigger", "text"),
    [
        ('  "A cat.\n\nIt sits."  ', None, "A cat. It sits."),
        ("```text\nA cat.\n```", None, "A cat."),
        ('"A" and "B"', None, '"A" and "B"'),
        ("“A cat.”", "mycat", "mycat, A cat."),
        ("MyCat sits.", "mycat", "MyCat sits."),
        ("mycats sit.", "mycat", "mycat, mycats sit."),
        ("A c++ book.", "c++", "A c++ book."),
        ("...", "mycat", ""),
        ("A\0 cat.", None, "A cat."),
        ("猫がいる。", None, "猫がいる。"),
    ],
)
def test_what_becomes_of_an_answer(answer: str, trigger: str | None, text: str) -> None:
    assert cleaned(answer, trigger) == text


@pytest.mark.parametrize("kind", sorted(path.stem for path in (ROOT / "templates" / "captions").iterdir()))
def test_prompts_of_each_kind(kind: str) -> None:
    plain, named = prompt(kind, None, None, None), prompt(kind, None, None, "mycat")
    assert "{trigger}" not in plain and "caption" in plain and "\n" in plain
    assert named.startswith(plain) and named.endswith(": mycat")


def test_prompts_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "ask.txt").write_text("Tell {all}.\nCall it {trigger}.\n", encoding="utf-8-sig")
    assert prompt(None, None, tmp_path / "ask.txt", None) == "Tell {all}."
    assert prompt(None, None, tmp_path / "ask.txt", "my cat") == "Tell {all}.\nCall it my cat."


@pytest.mark.usefixtures("model")
def test_prompt_and_trigger_reach_upstream_and_the_captions(mixed: Path, cli: Wanwrap, tmp_path: Path) -> None:
    words = "-say \"what\" 'is'\\nthere $HOME %PATH%"
    assert cli("caption", mixed, "--prompt", words, "--trigger", "my cat").returncode == 0
    argv = record(tmp_path)[-1]["argv"]
    given = next(word for word in argv if word.startswith("--prompt"))
    assert given.partition("=")[2] == f"{words}\nBegin the caption with these words: my cat".replace("\\n", "\n")
    assert texts(mixed)["two"] == "my cat, green, 384x640"


@pytest.mark.parametrize(
    ("arguments", "noun"),
    [
        ((None, " ", None), "empty"),
        ((None, "{trigger}", None), "--trigger"),
        (("style", "a", None), "--kind"),
        ((None, None, Path("gone.txt")), r"gone\.txt"),
    ],
)
def test_prompts_that_say_nothing(arguments: tuple[Any, Any, Any], noun: str) -> None:
    with pytest.raises(OptionError, match=noun):
        prompt(*arguments, None)


@pytest.mark.parametrize("word", ["", " ", "a\nb"])
@pytest.mark.parametrize("verb", [caption, check])
def test_a_trigger_that_is_none(verb: click.Command, word: str) -> None:
    with pytest.raises(OptionError, match="--trigger"):
        verb.main(["cats", "--trigger", word], standalone_mode=False)


@posix_paths
def test_a_dry_run_starts_nothing(mixed: Path, model: Path, cli: Wanwrap, tmp_path: Path) -> None:
    options = ["--trigger", "my cat", "--fp8", "--max_size", "640", "--max_new_tokens", "99", "--overwrite"]
    film(mixed / "two.mp4", ["#c00000"])  # a phone's, of the same moment: it shares the picture's caption
    done = cli("caption", mixed, "--dry_run", *options)
    assert done.returncode == 0, done.stderr
    assert "two.JPG\n" in done.stdout and "images/done.png (has a caption)" in done.stdout
    for words in ("--fp8_vl \\\n", "--max_size 640 \\\n", "--max_new_tokens 99 \\\n", f"--model_path {model} \\\n"):
        assert words in done.stdout
    found = json.loads(cli("caption", mixed, "--dry_run", "--json", *options).stdout)
    assert len(found["pending"]) == 5 and found["missing"] == [] and "--fp8_vl" in found["command"]
    model.unlink()
    done = cli("caption", mixed, "--dry_run", standin=False)
    assert done.returncode == 0 and model.name in done.stderr
    assert not (tmp_path / "record.jsonl").exists() and not (tmp_path / "home" / "local_training" / "captions").exists()


@pytest.mark.usefixtures("model")
def test_what_the_machine_lacks(mixed: Path, cli: Wanwrap) -> None:
    assert cli("caption", mixed, standin=False).returncode == 6
    assert cli("caption", mixed, "--python", "nonsense-python").returncode == 8
    assert cli("caption", "nonsense").returncode == 4
    assert cli("caption", mixed, STANDIN_DO="offline").returncode == 12
    done = cli("caption", mixed, STANDIN_GPUS="0")
    assert done.returncode == 9 and "--cpu" in done.stderr, done.stderr
    assert texts(mixed) == {"done": "by hand", "void": ""}
    assert cli("caption", mixed, "--cpu", STANDIN_GPUS="0").returncode == 0
    assert texts(mixed) == EXPECTED
    small = ("caption", mixed, "--overwrite")
    assert "about 19 are" in cli(*small, STANDIN_FREE=str(12 * 10**9)).stderr
    assert "about" not in cli(*small, "--fp8", STANDIN_FREE=str(12 * 10**9)).stderr


def test_the_model_of_a_comfyui(mixed: Path, model: Path, cli: Wanwrap, tmp_path: Path) -> None:
    home, comfy = tmp_path / "home", tmp_path / "ComfyUI" / "models" / "text_encoders"
    model.unlink()
    sparse(comfy / "qwen_2.5_vl_7b_fp8_scaled.safetensors", scaled(QWEN, ".scale_weight"))
    places = json.dumps([str(tmp_path / "gone"), str(tmp_path / "ComfyUI")])
    (home / "local_training" / "wanwrap.toml").write_text(f"comfyui_dir = {places}\n")
    done = cli("caption", mixed)
    assert done.returncode == 5 and "Comfy-Org/" in done.stderr
    there = sparse(comfy / model.name, rows("qwen2.5-vl-7b", "F8_E4M3"))  # which upstream takes, too
    model.write_bytes(b"half a download")  # passed over
    assert str(there) in cli("caption", mixed, "--dry_run").stdout
    assert cli("caption", mixed, "--model", "gone.safetensors").returncode == 5


@pytest.mark.parametrize(
    ("content", "noun"),
    [
        ({name: row for name, row in QWEN.items() if name != "lm_head.weight"}, "Qwen2.5-VL"),
        (scaled(QWEN, ".comfy_quant"), "scaled"),
        ({name.replace("model.", "model.language_model."): row for name, row in QWEN.items()}, "names"),
    ],
)
def test_models_that_upstream_would_refuse(content: Rows, noun: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=noun):
        check_model(sparse(tmp_path / "m.safetensors", content))
