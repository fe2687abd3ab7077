"""The verbs: whole files or none, whatever happens while they are written."""

from __future__ import annotations

import errno
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers import PYTHONPATH, ROOT, Wanwrap, grow
from platforms import flock, limits, linux, scripts, signals, symlinks
from runs import until
from trouble import file_limit

torch = pytest.importorskip("torch")
from safetensors.torch import load_file, save_file  # noqa: E402

from wanwrap.errors import OutputError, RoomError, WanwrapError, WeightsError  # noqa: E402
from wanwrap.rewrite import engine, start  # noqa: E402
from wanwrap.rewrite.child import carry_out  # noqa: E402
from wanwrap.system import console, disk, files  # noqa: E402
from wanwrap.system.log import JsonLines  # noqa: E402
from wanwrap.system.safetensors import open_source, sha256  # noqa: E402

KILLS = int(os.environ.get("WANWRAP_KILLS", "8"))
KEY = "blocks.0.cross_attn.k"


@pytest.fixture
def pair(tmp_path: Path) -> list[str]:
    """The options that name a DiT and a LoRA of a few MB, and a new file."""
    torch.manual_seed(0)
    dit = {f"blocks.{n}.cross_attn.k.weight": torch.randn(1024, 1024).half() for n in range(4)}
    save_file(dit, tmp_path / "dit.safetensors")
    delta = {f"{KEY}.lora_up.weight": torch.randn(1024, 4), f"{KEY}.lora_down.weight": torch.randn(4, 1024)}
    save_file(delta, tmp_path / "lora.safetensors")
    return [word for name in ("dit", "lora", "out") for word in (f"--{name}", str(tmp_path / f"{name}.safetensors"))]


def in_process(tmp_path: Path, **more: Any) -> None:
    """What the verb's child does."""
    sources = {name: str(tmp_path / f"{name}.safetensors") for name in ("dit", "lora")}
    carry_out("merge", str(tmp_path / "out.safetensors"), **{**sources, **more})


def judged(tmp_path: Path, **wish: Any) -> str:
    """What is said of a file that is there already; nothing where it is the one that is wanted. No child is started."""
    usual = {"strength": 1.0, "precision": None, "allow_partial": False, "dit_sha256": None, "lora_sha256": None}
    places = {name: tmp_path / f"{name}.safetensors" for name in ("dit", "lora", "out")}
    try:
        assert start.run_merge(**{**places, **usual, "python": "/nowhere", **wish}).reused
    except OutputError as error:
        return str(error)
    return ""


def test_a_merge_and_its_reuse(cli: Wanwrap, pair: list[str], tmp_path: Path) -> None:
    out = tmp_path / "deep" / "er" / "out.safetensors"
    done = cli("merge", *pair, "--out", out)
    assert done.returncode == 0 and "made" in done.stdout, done.stderr
    dit, lora = load_file(tmp_path / "dit.safetensors"), load_file(tmp_path / "lora.safetensors")
    change = lora[f"{KEY}.lora_up.weight"] @ lora[f"{KEY}.lora_down.weight"]
    assert torch.equal(load_file(out)[f"{KEY}.weight"], (dit[f"{KEY}.weight"].float() + change).half())
    before = out.stat()
    again = cli("merge", *pair, "--out", out, "--json")
    assert again.returncode == 0 and json.loads(again.stdout)["reused"] is True
    assert out.stat() == before
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_a_conversion_and_its_bar(cli: Wanwrap, pair: list[str], tmp_path: Path) -> None:
    bars, advanced = list[tuple[int, str]](), list[int]()

    class Bar(console.Console):
        @contextmanager
        def bar(self, _: str, total: int = 0, unit: str = "") -> Iterator[Callable[..., object]]:
            bars.append((total, unit))
            yield advanced.append

    source, out = Path(pair[1]), tmp_path / "out.safetensors"
    console.use(Bar())
    made = start.run_convert(file=source, out=out, python=sys.executable, precision="bf16", sha256=None).json()
    assert bars == [(open_source(source).bytes, "B")] and sum(advanced) == bars[0][0]
    heard = list[dict[str, int]]()
    listener = JsonLines(heard.append)
    for chunk in (b'{"done": 3}\n{"do', b'ne": 7}\nwords\n'):  # as a long one tells it
        listener(chunk)
    assert heard == [{"done": 3}, {"done": 7}] and listener.printed == ["words"]
    assert (made["bytes"], made["made"]["from"][0]["name"]) == (out.stat().st_size, source.name)
    content = load_file(source)
    assert all(torch.equal(tensor, content[name].bfloat16()) for name, tensor in load_file(out).items())
    assert "nothing to do" in cli("convert", source, "--precision", "bf16", "--out", out).stdout
    assert cli("convert", source, "--out", tmp_path / "c.safetensors").returncode == WeightsError.exit_code


@pytest.mark.usefixtures("pair")
def test_another_thing_under_the_same_name(tmp_path: Path) -> None:
    """Another strength, another DiT, other content of one size, a foreign file, a damaged one: none is reused."""
    in_process(tmp_path)
    dit, lora, out = (tmp_path / f"{name}.safetensors" for name in ("dit", "lora", "out"))
    assert judged(tmp_path) == ""
    assert "0.5" in judged(tmp_path, strength=0.5)
    assert "bf16" in judged(tmp_path, precision="bf16")
    assert "dit.safetensors" in judged(tmp_path, dit_sha256="a" * 64)
    about = dit.stat()
    save_file({name: tensor + 1 for name, tensor in load_file(dit).items()}, tmp_path / "low.safetensors")
    os.utime(tmp_path / "low.safetensors", ns=(about.st_atime_ns, about.st_mtime_ns))  # of one size and one time
    assert "low.safetensors" in judged(tmp_path, dit=tmp_path / "low.safetensors")
    save_file({name: tensor + 1 for name, tensor in load_file(lora).items()}, lora)
    assert "lora.safetensors" in judged(tmp_path)
    out.write_bytes(out.read_bytes()[:-1])
    assert "damaged" in judged(tmp_path)
    save_file(load_file(lora), out)
    assert "dit.safetensors" in judged(tmp_path)


@pytest.mark.usefixtures("pair")
def test_a_partial_merge_is_no_whole_one(tmp_path: Path) -> None:
    lora = tmp_path / "lora.safetensors"
    more = {f"blocks.9.ffn.0.{part}.weight": torch.ones(4, 4) for part in ("lora_up", "lora_down")}
    save_file(load_file(lora) | more, lora)
    in_process(tmp_path, allow_partial=True)
    assert judged(tmp_path, allow_partial=True) == "" and "ffn.0" in judged(tmp_path)


def test_a_made_file_needs_its_sources_no_more(cli: Wanwrap, pair: list[str], tmp_path: Path) -> None:
    """If it is known what they must have been, as in a run; a name alone tells nothing."""
    marks = {f"{name}_sha256": sha256(tmp_path / f"{name}.safetensors") for name in ("dit", "lora")}
    known = [f"--{name}={mark.upper()}" for name, mark in marks.items()]
    in_process(tmp_path, **marks)
    (tmp_path / "dit.safetensors").unlink()
    assert "nothing to do" in cli("merge", *pair, *known).stdout
    for more in ([], known):
        assert cli("merge", *pair, *more).returncode == WeightsError.exit_code
        (tmp_path / "out.safetensors").unlink(missing_ok=True)


def test_another_set_of_shards_beside_the_first(pair: list[str], tmp_path: Path) -> None:
    """High and low lie side by side under names of one form."""
    for name, change in (("a", 0), ("b", 1)):
        for number, (key, tensor) in enumerate(load_file(pair[1]).items(), 1):
            path = tmp_path / f"{name}-0000{number}-of-00004.safetensors"
            save_file({key: tensor + change}, path)
            os.utime(path, ns=(0, number))
    first = tmp_path / "a-00001-of-00004.safetensors"
    in_process(tmp_path, dit=str(first))
    assert judged(tmp_path, dit=first) == ""
    for number in (1, 2):
        assert "b-0000" in judged(tmp_path, dit=tmp_path / f"b-0000{number}-of-00004.safetensors")


@pytest.mark.parametrize("record", ["[1]", "x", '{"before": "y"}', '{"lora": [1]}', '{"lora": null, "from": [{}]}', '{"made": "merge", "strength": 1.0, "precision": null, "left": "", "from": [], "lora": {}}', "[" * 5000])  # fmt: skip
def test_records_of_other_programs(record: str, pair: list[str], tmp_path: Path) -> None:
    dit = load_file(pair[1])
    save_file(dit, pair[1], {"wanwrap": record})
    in_process(tmp_path)
    save_file(dit, tmp_path / "out.safetensors", {"wanwrap": record})
    assert "made" in judged(tmp_path)


@scripts
@pytest.mark.parametrize("stderr", ["2>&-", "2>/dev/full", "2>&1 | true"])
def test_a_terminal_that_is_gone(stderr: str, pair: list[str], tmp_path: Path) -> None:
    """The file is made all the same; what makes it needs no torch here."""
    in_process(tmp_path)
    out, copied = tmp_path / "new.safetensors", tmp_path / "out.safetensors"
    python = tmp_path / "python"
    told = ("""'{"device": "cpu"}'""", """'{"done": 8000}'""")
    python.write_text(f"#!/bin/sh\necho {told[0]}\ncp {shlex.quote(str(copied))} {out}\necho {told[1]}\n")
    python.chmod(0o755)
    words = [sys.executable, "-m", "wanwrap", "merge", *pair, "--out", str(out), "--python", str(python), "--json"]
    argv = ["bash", "-c", f"{shlex.join(words)} {stderr}"]
    done = subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert out.read_bytes() == copied.read_bytes()
    assert "|" in stderr or json.loads(done.stdout)["out"] == str(out)


REFUSED: list[Any] = [
    ("--out dit.safetensors", 11, "read"),
    ("--out lora.safetensors", 11, "read"),
    ("--out link.safetensors", 11, "read"),
    ("--out part.safetensors --dit part.safetensors.wanwrap-part", 11, "read"),
    ("--out o-00001-of-00002.safetensors", 11, "shards"),
    ("--out out.ckpt", 11, ".safetensors"),
    ("--out dit.safetensors/out.safetensors", 11, "dit.safetensors"),
    ("--dit lora.safetensors", 5, "LoRA"),
    ("--lora dit.safetensors", 5, "DiT"),
    ("--dit nowhere.safetensors", 5, "no file"),
    ("--dit model.pth", 5, "no file"),
    pytest.param("--python /bin/false", 10, "status 1", marks=linux),
    ("--python /nowhere/python", 10, "/nowhere/python"),
    ("--strength 0", 7, "--strength"),
    ("--strength much", 2, "float"),
    ("--out ''", 2, "empty"),
    ("--dit_sha256 ''", 2, "64"),
]


@symlinks
@pytest.mark.parametrize(("words", "code", "noun"), REFUSED)
def test_refused(words: str, code: int, noun: str, cli: Wanwrap, pair: list[str], tmp_path: Path) -> None:
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "dit.safetensors")
    shutil.copy(pair[1], tmp_path / "part.safetensors.wanwrap-part")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors*")}
    files = [str(tmp_path / word) if "." in word else word for word in shlex.split(words)]
    done = cli("merge", *pair, *files)
    assert done.returncode == code and noun in done.stderr, done.stderr
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors*")} == before


def test_a_python_without_torch(cli: Wanwrap, pair: list[str], tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('it is not here')")
    done = cli("merge", *pair, PYTHONPATH=f"{tmp_path}{os.pathsep}{PYTHONPATH}")
    assert done.returncode == 8 and "it is not here" in done.stderr


@limits
def test_the_disk_fills_up(pair: list[str], tmp_path: Path) -> None:
    """Here a limit on the size of files; `run` and both verbs ask for free room before."""
    done = subprocess.run(
        [sys.executable, "-m", "wanwrap", "merge", *pair],
        capture_output=True,
        text=True,
        cwd=ROOT,
        preexec_fn=file_limit(5_000_000),
    )
    assert done.returncode == 13 and "Traceback" not in done.stderr, done.stderr
    assert not list(tmp_path.glob("out*"))


def test_too_little_room(cli: Wanwrap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A DiT of 4 TB, none of which is on the disk."""
    rows = {f"model.diffusion_model.{KEY}.weight": {"dtype": "F16", "shape": [10**6, 2 * 10**6], "data_offsets": [0, 4 * 10**12]}}  # fmt: skip
    text = json.dumps(rows).encode()
    with (tmp_path / "huge.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
    grow(tmp_path / "huge.safetensors", 8 + len(text) + 4 * 10**12)
    done = cli("convert", tmp_path / "huge.safetensors", "--out", tmp_path / "new" / "out.safetensors")
    assert done.returncode == 13 and "4000.1 GB" in done.stderr
    assert not (tmp_path / "new").exists()
    (tmp_path / "o.safetensors.wanwrap-part").touch()
    grow(tmp_path / "o.safetensors.wanwrap-part", 5 * 10**12)  # what an earlier attempt has left is written over
    disk.check(tmp_path, 4 * 10**12, within=[tmp_path / "o.safetensors"])
    with pytest.raises(RoomError):
        disk.check(tmp_path, 4 * 10**12, within=[tmp_path / "another.safetensors"])
    monkeypatch.setattr(disk, "MEMORY", 10**15)
    with pytest.raises(RoomError, match="memory"):
        disk.check(tmp_path, 1)


def changed(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x01")


MEANWHILE: dict[str, tuple[Callable[[Path], object], type[WanwrapError], str]] = {
    "the DiT changes": (lambda folder: changed(folder / "dit.safetensors"), WeightsError, "dit.safetensors"),
    "the LoRA changes": (lambda folder: changed(folder / "lora.safetensors"), WeightsError, "lora.safetensors"),
    "the DiT becomes shorter": (lambda folder: os.truncate(folder / "dit.safetensors", 3_000_000), WeightsError, "shorter"),
    "another makes it": (lambda folder: (folder / "out.safetensors").write_bytes(b"precious"), OutputError, "another"),
}  # fmt: skip


@pytest.mark.usefixtures("pair")
@pytest.mark.parametrize("what", MEANWHILE)
def test_what_happens_meanwhile(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (happen, kind, noun), pump = MEANWHILE[what], engine._pump

    def late(*arguments: Any) -> None:
        happen(tmp_path)
        pump(*arguments)

    monkeypatch.setattr(engine, "_pump", late)
    with pytest.raises(kind, match=noun):
        in_process(tmp_path)
    left = [path.read_bytes() for path in tmp_path.glob("out*")]
    assert left == ([b"precious"] if kind is OutputError else [])


def test_an_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), files.atomic_file(out) as file:
        file.write(b"ne")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and out.read_bytes() == b"old"
    (tmp_path / "out.wanwrap-part").write_bytes(b"what a power cut left behind")
    with files.atomic_file(out) as file:
        file.write(b"new")
        with pytest.raises(OutputError), files.atomic_file(out):
            pass
        assert out.read_bytes() == b"old"
    assert out.read_bytes() == b"new" and [path.name for path in tmp_path.iterdir()] == ["out"]


@flock
@pytest.mark.parametrize(("error", "refused"), [(errno.ENOSYS, False), (errno.ENOLCK, False), (errno.EAGAIN, True)])
def test_a_drive_that_knows_no_locks(
    error: int, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr("fcntl.flock", flock)
    try:
        with files.atomic_file(tmp_path / "out") as file:
            file.write(b"new")
    except OutputError:
        assert refused
    assert (tmp_path / "out").exists() != refused


def big(tmp_path: Path) -> None:
    """A DiT that takes long enough to be stopped over, and its LoRA."""
    prefixed = {f"model.diffusion_model.blocks.{n}.cross_attn.k.weight": torch.ones(4096, 4096).half() for n in range(4)}  # fmt: skip
    save_file(prefixed, tmp_path / "dit.safetensors")
    delta = {f"{KEY}.lora_up.weight": torch.ones(4096, 64), f"{KEY}.lora_down.weight": torch.ones(64, 4096)}
    save_file(delta, tmp_path / "lora.safetensors")


# the engine at work, without torch
COPY = """
import sys
from pathlib import Path
from wanwrap.rewrite import convert, engine
source, out = map(Path, sys.argv[1:])
engine.rewrite(convert.job(file=source), out, work=lambda chunk, _: chunk.bytes, hashes={}, done=bool)
"""


def test_killed_at_any_moment(tmp_path: Path) -> None:
    """Never a half file under the final name, never more than one left-over, which does not grow."""
    big(tmp_path)
    source, folder = tmp_path / "dit.safetensors", tmp_path / "made"
    out, part = folder / "out.safetensors", folder / "out.safetensors.wanwrap-part"
    folder.mkdir()
    argv = [sys.executable, "-c", COPY, str(source), str(out)]
    subprocess.run(argv, cwd=ROOT, check=True)
    right, met = out.read_bytes(), 0
    assert sum(tensor.float().sum() for tensor in load_file(out).values()) == 4 * 4096**2
    for _ in range(KILLS):
        out.unlink(missing_ok=True)
        part.unlink(missing_ok=True)
        with subprocess.Popen(argv, cwd=ROOT) as process:
            until(lambda process=process: part.exists() or process.poll() is not None)  # type: ignore[misc]
            time.sleep(random.uniform(0, 0.1))
            process.kill()
        met += part.exists()
        assert {*folder.iterdir()} <= {out, part} and sum(path.stat().st_size for path in folder.iterdir()) <= len(
            right
        )
        assert not out.exists() or out.read_bytes() == right
    assert met, "no kill has met it while it wrote"
    out.unlink(missing_ok=True)
    part.write_bytes(right[: len(right) // 2])
    subprocess.run(argv, cwd=ROOT, check=True)
    assert [path.name for path in folder.iterdir()] == [out.name] and out.read_bytes() == right


@signals
@pytest.mark.parametrize(("how", "code"), [("SIGTERM", 130), ("SIGKILL", -9)])
def test_stopped_nothing_is_left(how: str, code: int, pair: list[str], tmp_path: Path) -> None:
    """Even the child of a wanwrap that was killed notices, and ends."""
    big(tmp_path)
    out = tmp_path / "made" / "out.safetensors"
    argv = [sys.executable, "-m", "wanwrap", "merge", *pair, "--out", str(out)]
    process = psutil.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: out.with_name(f"{out.name}.wanwrap-part").exists() or process.poll() is not None)
    children = process.children(recursive=True)
    assert len(children) >= 2, "it, and the watchdog"
    process.send_signal(getattr(signal, how))
    assert process.wait(30) in (0, code)
    assert not psutil.wait_procs(children, 30)[1]
    for path in out.parent.iterdir():  # the child may have come to its end just so
        assert path == out and open_source(out).rows
