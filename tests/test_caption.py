"""`wanwrap caption`, through real processes, with the stand-in for upstream's script: each caption lands beside what it tells."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import pytest
from helpers import PYTHONPATH, ROOT, STANDIN, Wanwrap, picture, record
from PIL import Image
from weightfiles import rows, scaled, sparse

from wanwrap.caption.captioning import Captioning
from wanwrap.caption.prompts import caption as cleaned
from wanwrap.caption.request import CaptionRequest

QWEN = rows("qwen2.5-vl-7b", "BF16")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Where a default workspace has it."""
    return sparse(tmp_path / "home" / "local_training" / "models" / "text" / "qwen_2.5_vl_7b.safetensors", QWEN)


def colour(path: Path, name: str, size: tuple[int, int] = (640, 384)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, name).save(path)
    return path


def film(path: Path, colours: list[str], size: tuple[int, int] = (320, 320)) -> Path:
    """A clip with ten frames of each colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=16)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for name in (each for each in colours for _ in range(10)):
            container.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", size, name))))  # type: ignore[no-untyped-call]
        container.mux(stream.encode())
    return path


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Pictures and clips in three folders; one has a caption, one an empty one."""
    folder = tmp_path / "mixed set"
    colour(folder / "-a b'c\".png", "#c00000")
    colour(folder / "two.JPG", "#00c000", (384, 640))
    picture(folder / "images" / "done.png", caption="by hand")
    colour(folder / "images" / "void.webp", "#0000c0", (512, 512))
    (folder / "images" / "void.txt").write_bytes(b"\xef\xbb\xbf \n")
    film(folder / "videos" / "clip.mp4", ["#c00000", "#00c000", "#0000c0"])
    colour(folder / "more" / "below.png", "#c00000")
    return folder


def media_of(folder: Path) -> dict[Path, tuple[bytes, int]]:
    found = [path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".txt", ".jsonl")]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


def texts(folder: Path) -> dict[str, str]:
    return {path.stem: path.read_text(encoding="utf-8-sig").strip() for path in folder.rglob("*.txt")}


EXPECTED = {
    "-a b'c\"": "red, 640x384",
    "two": "green, 384x640",
    "done": "by hand",
    "void": "blue, 512x512",
    "clip": "green, 320x320",  # of the middle
}


def test_each_caption_is_beside_what_it_tells(mixed: Path, model: Path, wanwrap: Wanwrap, tmp_path: Path) -> None:
    before = media_of(mixed)
    done = wanwrap("caption", mixed)
    assert done.returncode == 0, done.stderr
    assert texts(mixed) == EXPECTED
    assert media_of(mixed) == before
    assert "4 written; captions kept: 1." in done.stdout
    assert "two.JPG: green, 384x640" in done.stdout
    (call,) = record(tmp_path)
    assert call["env"]["PYTHONUTF8"] == "1" and str(model) in call["argv"]
    work = tmp_path / "home" / "local_training" / "captions" / "mixed_set"
    assert Path(call["cwd"]) == work and [path.name for path in work.iterdir()] == ["caption.log"]
    assert "Generating captions: 4/4" in (work / "caption.log").read_text()
    assert [path.name for path in work.parent.iterdir()] == ["mixed_set"]

    again = wanwrap("caption", mixed, standin=False)  # needs no upstream, for nothing is to be done
    assert (again.returncode, len(record(tmp_path))) == (0, 1)
    assert "nothing to do; captions kept: 5." in again.stdout


@pytest.mark.usefixtures("model")
def test_json_and_a_name_in_the_workspace(wanwrap: Wanwrap, tmp_path: Path) -> None:
    folder = tmp_path / "home" / "local_training" / "datasets" / "cats"
    colour(folder / "one.png", "#c00000")
    picture(folder / "two.png")
    (folder / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n no picture")
    colour(folder / "tiny.png", "#c00000", (43, 43))
    colour(folder / "line.png", "#c00000", (6000, 28))
    done = wanwrap("caption", "cats", "--json")
    assert done.returncode == 4
    found = json.loads(done.stdout)
    assert found["written"] == [{"path": str(folder / "one.png"), "caption": "red, 640x384"}]
    assert found["kept"] == 1
    failed = {Path(row["path"]).name: row["reason"] for row in found["failed"]}
    assert failed.keys() == {"bad.png", "tiny.png", "line.png"}
    assert "Truncated" in failed["bad.png"] and "43x43" in failed["tiny.png"]
    assert "3 got no caption" in done.stderr and not (folder / "bad.txt").exists()


@pytest.mark.usefixtures("model")
def test_overwriting_keeps_the_old_ones(mixed: Path, wanwrap: Wanwrap, tmp_path: Path) -> None:
    (mixed / "two.txt").write_bytes("größe, no UTF-8".encode("latin-1"))
    for _ in range(2):
        done = wanwrap("caption", mixed, "--overwrite")
        assert done.returncode == 0, done.stderr
    assert texts(mixed) == {**EXPECTED, "done": "blue, 640x384"}
    work = tmp_path / "home" / "local_training" / "captions" / "mixed_set"
    first, second = sorted(work.glob("replaced-*.jsonl"), key=lambda path: path.stat().st_mtime_ns)
    assert str(second) in done.stderr and "5 captions will be replaced" in done.stderr
    kept = {Path(row["path"]).name: row["caption"] for row in map(json.loads, first.read_text().splitlines())}
    assert kept.keys() == {"two.JPG", "done.png"} and kept["done.png"] == "by hand"
    assert kept["two.JPG"].encode("utf-8", "surrogateescape") == "größe, no UTF-8".encode("latin-1")


@pytest.mark.usefixtures("model")
def test_a_failure_keeps_what_was_written(mixed: Path, wanwrap: Wanwrap) -> None:
    done = wanwrap("caption", mixed, STANDIN_DO="fail:3")
    assert done.returncode == 10
    assert "told to fail" in done.stderr and "caption.log" in done.stderr and "3 written" in done.stdout
    assert len(texts(mixed)) == 4 and sum("x" in text for text in texts(mixed).values()) == 3
    done = wanwrap("caption", mixed)
    assert "1 written; captions kept: 4." in done.stdout and texts(mixed) == EXPECTED
    (mixed / "two.txt").unlink()
    done = wanwrap("caption", mixed, STANDIN_DO="kill")
    assert done.returncode == 10 and "was ended by SIGKILL (usually: out of RAM; close other programs)" in done.stderr
    done = wanwrap("caption", mixed, "--json", STANDIN_DO="oom")
    assert done.returncode == 10 and "--fp8 halves the model" in done.stderr and "blocks_to_swap" not in done.stderr
    assert json.loads(done.stdout) == {"written": [], "kept": 4, "failed": []}


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.usefixtures("model")
def test_ctrl_c_keeps_what_was_written(mixed: Path, wanwrap: Wanwrap, tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": PYTHONPATH, "WANWRAP_MUSUBI_DIR": str(STANDIN), "STANDIN_DO": "sleep:2"}
    env["STANDIN_RECORD"] = str(tmp_path / "record.jsonl")
    argv = [sys.executable, "-m", "wanwrap", "caption", str(mixed)]
    process = subprocess.Popen(
        argv, cwd=tmp_path / "home", env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "asleep").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    other = wanwrap("caption", mixed)
    assert other.returncode == 11 and "another wanwrap is writing captions" in other.stderr
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted" in error and "2 written" in out
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "asleep").read_text()), 0)
    assert wanwrap("caption", mixed).returncode == 0
    assert texts(mixed) == EXPECTED


def test_a_caption_written_meanwhile_stays(tmp_path: Path) -> None:
    path = picture(tmp_path / "one.png", caption=None)
    work = Captioning(CaptionRequest(dataset=str(tmp_path), base_dir=tmp_path / "base"))
    path.with_suffix(".txt").write_text("mine")
    work.put(path, "red")
    assert (work.kept, work.written, texts(tmp_path)) == (1, {}, {"one": "mine"})


@pytest.mark.usefixtures("model")
def test_answers_of_no_use(mixed: Path, wanwrap: Wanwrap) -> None:
    done = wanwrap("caption", mixed, STANDIN_SAYS=" \n``` \n")
    assert done.returncode == 4 and "the model answered nothing" in done.stderr and "0 written" in done.stdout
    assert texts(mixed)["void"] == "" and not (mixed / "two.txt").exists()
    done = wanwrap("caption", mixed, STANDIN_SAYS="the " * 1000)
    assert done.returncode == 4 and "two.JPG (the model ran on for 3,999 characters)" in done.stderr


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
        ("", "mycat", ""),
        ("猫がいる。", None, "猫がいる。"),
    ],
)
def test_what_becomes_of_an_answer(answer: str, trigger: str | None, text: str) -> None:
    assert cleaned(answer, trigger) == text


def asked(tmp_path: Path) -> str:
    """The last prompt that reached upstream."""
    argv = record(tmp_path)[-1]["argv"]
    return str(next(word.partition("=")[2] or after for word, after in zip(argv, [*argv[1:], ""], strict=True) if word.startswith("--prompt")))  # fmt: skip


@pytest.mark.parametrize("kind", sorted(path.stem for path in (ROOT / "templates" / "captions").iterdir()))
@pytest.mark.usefixtures("model")
def test_prompts_of_each_kind(kind: str, mixed: Path, wanwrap: Wanwrap, tmp_path: Path) -> None:
    assert wanwrap("caption", mixed, "--kind", kind).returncode == 0
    plain = asked(tmp_path)
    assert "{trigger}" not in plain and "caption" in plain and "\n" in plain
    (mixed / "two.txt").unlink()
    assert wanwrap("caption", mixed, "--kind", kind, "--trigger", "mycat").returncode == 0
    assert asked(tmp_path).startswith(plain) and asked(tmp_path).endswith(": mycat")
    assert texts(mixed)["two"] == "mycat, green, 384x640"


@pytest.mark.usefixtures("model")
def test_prompts_of_ones_own(mixed: Path, wanwrap: Wanwrap, tmp_path: Path) -> None:
    def again(*arguments: object) -> subprocess.CompletedProcess[str]:
        (mixed / "two.txt").unlink(missing_ok=True)
        return wanwrap("caption", mixed, *arguments)

    assert again("--prompt", "-say \"what\" 'is'\\nthere $HOME %PATH%").returncode == 0
    assert asked(tmp_path) == "-say \"what\" 'is'\nthere $HOME %PATH%"
    (tmp_path / "ask.txt").write_text("Tell {all}.\nCall it {trigger}.\n", encoding="utf-8-sig")
    assert again("--prompt_file", tmp_path / "ask.txt").returncode == 0
    assert asked(tmp_path) == "Tell {all}."
    assert again("--prompt_file", tmp_path / "ask.txt", "--trigger", "my cat").returncode == 0
    assert asked(tmp_path) == "Tell {all}.\nCall it my cat."
    assert again("--prompt", "Tell.", "--trigger", "mycat").returncode == 0
    assert asked(tmp_path) == "Tell.\nBegin the caption with these words: mycat"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", " "], "the prompt is empty"),
        (["--prompt", "{trigger}"], "has {trigger} in each of its lines"),
        (["--prompt", "a", "--kind", "style"], "are each a prompt"),
        (["--prompt_file", "gone.txt"], "can't be read: No such file"),
        (["--trigger", ""], "--trigger is empty"),
        (["--trigger", "a\nb"], "must be one line"),
    ],
)
@pytest.mark.usefixtures("model")
def test_options_that_upstream_would_mangle(arguments: list[str], message: str, mixed: Path, wanwrap: Wanwrap) -> None:
    done = wanwrap("caption", mixed, *arguments)
    assert done.returncode == 7 and message in done.stderr


def test_a_dry_run_starts_nothing(mixed: Path, model: Path, wanwrap: Wanwrap, tmp_path: Path) -> None:
    options = ["--trigger", "my cat", "--fp8", "--max_size", "640", "--max_new_tokens", "99", "--overwrite"]
    done = wanwrap("caption", mixed, "--dry_run", *options)
    assert done.returncode == 0, done.stderr
    assert "two.JPG\n" in done.stdout and "images/done.png (has a caption)" in done.stdout
    for words in ("--fp8_vl \\\n", "--max_size 640 \\\n", "--max_new_tokens 99 \\\n", f"--model_path {model} \\\n"):
        assert words in done.stdout
    assert not (tmp_path / "record.jsonl").exists() and not (tmp_path / "home" / "local_training" / "captions").exists()
    found = json.loads(wanwrap("caption", mixed, "--dry_run", "--json", *options).stdout)
    assert len(found["pending"]) == 5 and found["missing"] == [] and "--fp8_vl" in found["command"]
    model.unlink()
    done = wanwrap("caption", mixed, "--dry_run", standin=False)
    assert done.returncode == 0 and "there is no qwen_2.5_vl_7b.safetensors (16.6 GB)" in done.stderr


@pytest.mark.usefixtures("model")
def test_what_the_machine_lacks(mixed: Path, wanwrap: Wanwrap, tmp_path: Path) -> None:
    done = wanwrap("caption", mixed, HF_HOME=str(tmp_path / "empty"))
    assert done.returncode == 12 and "Qwen/Qwen2.5-VL-7B-Instruct" in done.stderr
    assert wanwrap("caption", mixed, standin=False).returncode == 6
    assert wanwrap("caption", mixed, "--python", "nonsense-python").returncode == 8
    assert wanwrap("caption", "nonsense").returncode == 4
    assert texts(mixed) == {"done": "by hand", "void": ""}


@pytest.mark.usefixtures("model")
def test_without_a_gpu(mixed: Path, wanwrap: Wanwrap, tmp_path: Path) -> None:
    done = wanwrap("caption", mixed, STANDIN_GPUS="0")
    assert done.returncode == 9 and "--cpu" in done.stderr, done.stderr
    done = wanwrap("caption", mixed, "--cpu", STANDIN_GPUS="0", HF_HOME=str(tmp_path / "empty"), HF_HUB_OFFLINE="0")
    assert done.returncode == 0, done.stderr
    assert texts(mixed) == EXPECTED


def test_the_model_of_a_comfyui(mixed: Path, model: Path, wanwrap: Wanwrap, tmp_path: Path) -> None:
    home, comfy = tmp_path / "home", tmp_path / "ComfyUI" / "models" / "text_encoders"
    model.unlink()
    sparse(comfy / "qwen_2.5_vl_7b_fp8_scaled.safetensors", scaled(QWEN, ".scale_weight"))
    (home / "local_training" / "wanwrap.toml").write_text(f"comfyui_dir = [{json.dumps(str(tmp_path / 'ComfyUI'))}]\n")
    done = wanwrap("caption", mixed)
    assert done.returncode == 5 and "scaled fp8" in done.stderr and "hf download Comfy-Org/" in done.stderr
    there = sparse(comfy / "qwen_2.5_vl_7b.safetensors", QWEN)
    assert wanwrap("caption", mixed).returncode == 0
    assert str(there) in record(tmp_path)[0]["argv"]


@pytest.mark.usefixtures("model")
def test_a_small_gpu(mixed: Path, wanwrap: Wanwrap) -> None:
    done = wanwrap("caption", mixed, STANDIN_FREE=str(12 * 10**9))
    assert done.returncode == 0 and "12 GB are free on the GPU, and about 19 are needed; --fp8" in done.stderr
    assert "are free on the GPU" not in wanwrap("caption", mixed, "--fp8", "--overwrite").stderr


NEWER = {name.replace("model.", "model.language_model."): row for name, row in QWEN.items()}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"blocks.0.cross_attn.k.weight": ("BF16", [4, 4])}, "is not Qwen2.5-VL 7B"),
        (scaled(QWEN, ".comfy_quant"), "is scaled fp8"),
        (NEWER, "under the names that upstream reads"),
        (
            {name: row for name, row in QWEN.items() if name != "lm_head.weight"},
            "is not Qwen2.5-VL 7B",
        ),
    ],
)
def test_models_that_upstream_would_refuse(
    content: dict[str, tuple[str, list[int]]], message: str, mixed: Path, wanwrap: Wanwrap, tmp_path: Path
) -> None:
    path = sparse(tmp_path / "m.safetensors", content)
    done = wanwrap("caption", mixed, "--model", path)
    assert done.returncode == 5 and message in done.stderr and not (tmp_path / "record.jsonl").exists()


def test_models_that_are_there(mixed: Path, wanwrap: Wanwrap, tmp_path: Path) -> None:
    assert "there is no file" in wanwrap("caption", mixed, "--model", "gone.safetensors").stderr
    path = sparse(tmp_path / "m.safetensors", rows("qwen2.5-vl-7b", "F8_E4M3"))
    assert wanwrap("caption", mixed, "--model", path).returncode == 0
    with path.open("r+b") as file:
        file.truncate(1_000_000)
    (mixed / "two.txt").unlink()
    done = wanwrap("caption", mixed, "--model", path)
    assert done.returncode == 5 and "is cut off" in done.stderr
    shard = path.rename(tmp_path / "m-00001-of-00002.safetensors")
    done = wanwrap("caption", mixed, "--model", shard)
    assert done.returncode == 5 and "there is no file" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="names that are no text")
@pytest.mark.usefixtures("model")
def test_odd_names(wanwrap: Wanwrap, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"d\xff [x] *")
    folder.mkdir()
    names = [b"\xff\xfe.png", b"new\nline.png", "ü 猫.png".encode(), b"x" * 251 + b".png", b"#000001.png"]
    for number, name in enumerate(names):
        colour(tmp_path / "one.png", "#c00000", (300 + number, 400))
        (tmp_path / "one.png").rename(folder / os.fsdecode(name))
    film(tmp_path / "clip.mp4", ["#00c000"]).rename(folder / os.fsdecode(b"\xfe.mp4"))
    done = wanwrap("caption", folder)
    assert done.returncode == 4 and "1 got no caption" in done.stderr and "File name too long" in done.stderr
    for number, name in enumerate(names):
        if number != 3:
            assert (folder / os.fsdecode(name)).with_suffix(".txt").read_text() == f"red, {300 + number}x400\n"
    assert (folder / os.fsdecode(b"\xfe.txt")).read_text() == "green, 320x320\n"


@pytest.mark.usefixtures("model")
def test_a_caption_that_is_a_folder(mixed: Path, wanwrap: Wanwrap) -> None:
    (mixed / "two.txt").mkdir()
    done = wanwrap("caption", mixed)
    assert done.returncode == 4 and "two.JPG (its caption two.txt is no file)" in done.stderr
