"""The verbs as processes: whole files or none, whatever happens while they are written."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from helpers import ROOT, Wanwrap

torch = pytest.importorskip("torch")
from safetensors.torch import load_file, save_file  # noqa: E402

from wanwrap.errors import OutputError, RoomError, WeightsError  # noqa: E402
from wanwrap.rewrite import engine, start  # noqa: E402
from wanwrap.rewrite.child import carry_out  # noqa: E402
from wanwrap.rewrite.tensors import Worker  # noqa: E402
from wanwrap.system import disk, files  # noqa: E402
from wanwrap.system.safetensors import open_source, sha256  # noqa: E402

KILLS = int(os.environ.get("WANWRAP_KILLS", "8"))
KEY = "blocks.0.cross_attn.k"


@pytest.fixture
def pair(tmp_path: Path) -> list[str]:
    """The options that name a DiT and a LoRA of a few MB."""
    torch.manual_seed(0)
    dit = {f"blocks.{n}.cross_attn.k.weight": torch.randn(1024, 1024).half() for n in range(4)}
    save_file(dit, tmp_path / "dit.safetensors")
    delta = {f"{KEY}.lora_up.weight": torch.randn(1024, 4), f"{KEY}.lora_down.weight": torch.randn(4, 1024)}
    save_file(delta, tmp_path / "lora.safetensors")
    return ["--dit", str(tmp_path / "dit.safetensors"), "--lora", str(tmp_path / "lora.safetensors")]


def test_a_merge_and_its_reuse(wanwrap: Wanwrap, pair: list[str], tmp_path: Path) -> None:
    out = tmp_path / "deep" / "er" / "out.safetensors"
    done = wanwrap("merge", *pair, "--out", out)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"made {out} (0.01 GB in ") and done.stdout.endswith(" s, on the cpu)\n")
    dit, lora = load_file(tmp_path / "dit.safetensors"), load_file(tmp_path / "lora.safetensors")
    change = lora[f"{KEY}.lora_up.weight"] @ lora[f"{KEY}.lora_down.weight"]
    assert torch.equal(load_file(out)[f"{KEY}.weight"], (dit[f"{KEY}.weight"].float() + change).half())
    before = out.stat()
    again = wanwrap("merge", *pair, "--out", out, "--json")
    assert again.returncode == 0 and json.loads(again.stdout)["reused"] is True
    assert out.stat() == before
    assert sorted(path.name for path in out.parent.iterdir()) == [out.name]


def test_the_bar_comes_to_its_end(pair: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bars, advanced = list[tuple[int, str]](), list[int]()

    @contextmanager
    def bar(_: str, total: int, unit: str) -> Iterator[Callable[[int], object]]:
        bars.append((total, unit))
        yield advanced.append

    monkeypatch.setattr(start, "console", SimpleNamespace(bar=bar))
    file = Path(pair[1])
    start.run_convert(file=file, out=tmp_path / "o.safetensors", python=sys.executable, precision="bf16", sha256=None)
    assert bars == [(open_source(file).bytes, "B")] and sum(advanced) == bars[0][0]


def made(tmp_path: Path, **wish: Any) -> start.Made:
    """The merge of the pair; what is there already is judged before a child is started."""
    usual = {"strength": 1.0, "precision": None, "allow_partial": False, "dit_sha256": None, "lora_sha256": None}
    files = {name: tmp_path / f"{name}.safetensors" for name in ("dit", "lora", "out")}
    return start.run_merge(**{**files, **usual, "python": sys.executable, **wish})


@pytest.mark.usefixtures("pair")
def test_another_thing_under_the_same_name(tmp_path: Path) -> None:
    """Another strength, another DiT, other content of one size, a foreign file, a damaged one: none is reused."""
    in_process(tmp_path)
    out = tmp_path / "out.safetensors"

    def refused(**wish: Any) -> str:
        with pytest.raises(OutputError) as caught:
            made(tmp_path, **wish)
        return str(caught.value)

    assert "made with strength 1.0, not 0.5" in refused(strength=0.5)
    assert "made with precision None, not 'bf16'" in refused(precision="bf16")
    assert "as it is now" in refused(dit_sha256="a" * 64)
    times = (tmp_path / "dit.safetensors").stat()
    other = {name: tensor + 1 for name, tensor in load_file(tmp_path / "dit.safetensors").items()}
    save_file(other, tmp_path / "low.safetensors")
    os.utime(tmp_path / "low.safetensors", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert "as it is now" in refused(dit=tmp_path / "low.safetensors")  # of one size and one time
    assert made(tmp_path).reused
    lora = load_file(tmp_path / "lora.safetensors")
    save_file({name: tensor + 1 for name, tensor in lora.items()}, tmp_path / "lora.safetensors")
    assert "as it is now" in refused()
    out.write_bytes(out.read_bytes()[:-1])
    assert "damaged" in refused()
    save_file(lora, out)
    assert "as it is now" in refused()


def test_a_made_file_needs_its_sources_no_more(wanwrap: Wanwrap, pair: list[str], tmp_path: Path) -> None:
    """If it is known what they must have been, as in a run; a name alone tells nothing."""
    out = tmp_path / "out.safetensors"
    known = [f"--{name}_sha256={sha256(tmp_path / f'{name}.safetensors').upper()}" for name in ("dit", "lora")]
    assert wanwrap("merge", *pair, *known, "--out", out).returncode == 0
    (tmp_path / "dit.safetensors").unlink()
    assert "nothing to do" in wanwrap("merge", *pair, *known, "--out", out).stdout
    for more in ([], known):
        done = wanwrap("merge", *pair, *more, "--out", out)
        assert done.returncode == 5 and "there is no file" in done.stderr
        out.unlink(missing_ok=True)
    assert wanwrap("merge", *pair, "--dit_sha256", "", "--out", out).returncode == 2


def test_another_set_of_shards_beside_the_first(wanwrap: Wanwrap, pair: list[str], tmp_path: Path) -> None:
    """High and low lie side by side, or in two folders under the same names."""
    weights = load_file(tmp_path / "dit.safetensors")
    for name, change in (("a", 0), ("b", 1), ("deep/a", 2)):
        for number, key in enumerate(weights, 1):
            path = tmp_path / f"{name}-0000{number}-of-00004.safetensors"
            path.parent.mkdir(exist_ok=True)
            save_file({key: weights[key] + change}, path)
            os.utime(path, ns=(0, number))
    out = tmp_path / "out.safetensors"
    first = ["--dit", tmp_path / "a-00001-of-00004.safetensors"]
    assert wanwrap("merge", *pair, *first, "--out", out).returncode == 0
    assert "nothing to do" in wanwrap("merge", *pair, *first, "--out", out).stdout
    for number, name in ((1, "b"), (2, "b")):
        other = ["--dit", tmp_path / f"{name}-0000{number}-of-00004.safetensors"]
        assert "as it is now" in wanwrap("merge", *pair, *other, "--out", out).stderr


@pytest.mark.parametrize("record", ["[1]", "1", "x", '{"before": "y"}', '{"lora": [1]}', '{"lora": null, "from": [{}]}', '{"made": "merge", "strength": 1.0, "precision": null, "left": "", "from": [], "lora": {}}', "[" * 5000])  # fmt: skip
def test_records_of_other_programs(record: str, pair: list[str], tmp_path: Path) -> None:
    dit = load_file(pair[1])
    save_file(dit, pair[1], {"wanwrap": record})
    in_process(tmp_path)
    save_file(dit, tmp_path / "out.safetensors", {"wanwrap": record})
    with pytest.raises(OutputError, match="is there already, made "):
        made(tmp_path)


@pytest.mark.parametrize("stderr", ["2>&-", "2>/dev/full", "2>&1 | true"])
def test_a_terminal_that_is_gone(stderr: str, pair: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    words = shlex.join([sys.executable, "-m", "wanwrap", "merge", *pair, "--out", str(out)])
    subprocess.run(["bash", "-c", f"{words} {stderr}"], cwd=ROOT, capture_output=True)
    assert len(load_file(out)) == 4


def test_made_by_another_process_meanwhile(pair: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, work = tmp_path / "out.safetensors", Worker.__call__

    def appear(self: Worker, *arguments: Any) -> int:
        out.write_bytes(b"precious")
        return work(self, *arguments)

    monkeypatch.setattr(Worker, "__call__", appear)
    with pytest.raises(OutputError, match="made by another process meanwhile"):
        in_process(tmp_path)
    assert out.read_bytes() == b"precious" and pair


def test_a_conversion(wanwrap: Wanwrap, pair: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    done = wanwrap("convert", pair[1], "--precision", "bf16", "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["bytes"], found["made"]["from"][0]["name"]) == (out.stat().st_size, "dit.safetensors")
    content = load_file(tmp_path / "dit.safetensors")
    assert all(torch.equal(tensor, content[name].bfloat16()) for name, tensor in load_file(out).items())
    assert "nothing to do" in wanwrap("convert", pair[1], "--precision", "bf16", "--out", out).stdout
    done = wanwrap("convert", pair[1], "--out", tmp_path / "c.safetensors")
    assert done.returncode == 5 and "--precision fp16 or bf16 casts it" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--out", "dit.safetensors"], 11, "is a file that is read"),
        (["--out", "lora.safetensors"], 11, "is a file that is read"),
        (["--out", "link.safetensors"], 11, "is a file that is read"),
        (["--out", "o-00001-of-00002.safetensors"], 11, "none of a set of shards"),
        (["--out", "o.safetensors", "--dit", "lora.safetensors"], 5, "is a LoRA, no DiT; have --dit and --lora"),
        (["--out", "o.safetensors", "--lora", "dit.safetensors"], 5, "is a DiT, no LoRA; have --dit and --lora"),
        (["--out", "out.ckpt"], 11, "give a name that ends in .safetensors"),
        (["--out", "dit.safetensors/out.safetensors"], 11, "dit.safetensors can't be written to"),
        (["--out", "o.safetensors", "--python", "/bin/false"], 10, "merge failed with exit status 1"),
        (["--out", "o.safetensors", "--python", "/nowhere/python"], 10, "can't be started"),
        (["--out", "o.safetensors", "--dit", "nowhere.safetensors"], 5, "there is no file"),
        (["--out", "o.safetensors", "--dit", "model.pth"], 5, "no file"),
        (["--out", "o.safetensors", "--strength", "0"], 7, "merges nothing"),
        (["--out", "o.safetensors", "--strength", "much"], 2, "not a valid float"),
        (["--out", ""], 2, "it is empty"),
    ],
)
def test_refused(
    arguments: list[str], code: int, message: str, wanwrap: Wanwrap, pair: list[str], tmp_path: Path
) -> None:
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "dit.safetensors")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")}
    words = [str(tmp_path / word) if word.endswith((".safetensors", ".pth")) else word for word in arguments]
    done = wanwrap("merge", *pair, *words)
    assert done.returncode == code and message in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors*")} == before


def test_a_python_without_torch(wanwrap: Wanwrap, pair: list[str], tmp_path: Path) -> None:
    (tmp_path / "none" / "torch.py").parent.mkdir()
    (tmp_path / "none" / "torch.py").write_text("raise ImportError('it is not here')")
    done = wanwrap("merge", *pair, "--out", tmp_path / "o.safetensors", PYTHONPATH=f"{tmp_path / 'none'}:{ROOT}")
    assert done.returncode == 8 and "can't import torch (it is not here)" in done.stderr


def test_the_disk_fills_up(pair: list[str], tmp_path: Path) -> None:
    """Here a limit on the size of files; `run` and both verbs ask for free room before."""
    argv = [sys.executable, "-m", "wanwrap", "merge", *pair, "--out", str(tmp_path / "out.safetensors")]
    limit = (5_000_000, resource.RLIM_INFINITY)
    done = subprocess.run(
        argv,
        capture_output=True,
        text=True,
        cwd=ROOT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
    )
    assert done.returncode == 13 and "make room" in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.glob("out*"))


def test_too_little_room(wanwrap: Wanwrap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A DiT of 4 TB, none of which is on the disk."""
    rows = {"model.diffusion_model." + KEY + ".weight": {"dtype": "F16", "shape": [10**6, 2 * 10**6], "data_offsets": [0, 4 * 10**12]}}  # fmt: skip
    text = json.dumps(rows).encode()
    with (tmp_path / "huge.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + 4 * 10**12)
    done = wanwrap("convert", tmp_path / "huge.safetensors", "--out", tmp_path / "new" / "out.safetensors")
    assert done.returncode == 13 and "4000.1 GB are to be written; make room" in done.stderr
    assert not (tmp_path / "new").exists()
    left = tmp_path / "o.safetensors.wanwrap-part"
    with left.open("wb") as file:
        file.truncate(5 * 10**12)  # what an earlier attempt has left is written over
    disk.check(tmp_path, 4 * 10**12, within=[tmp_path / "o.safetensors"])
    with pytest.raises(RoomError, match="make room"):
        disk.check(tmp_path, 4 * 10**12, within=[tmp_path / "another.safetensors"])
    monkeypatch.setattr(disk, "MEMORY", 10**15)
    with pytest.raises(RoomError, match="GB of memory are free"):
        disk.check(tmp_path, 1)


def in_process(tmp_path: Path) -> None:
    files = {name: str(tmp_path / f"{name}.safetensors") for name in ("dit", "lora")}
    carry_out("merge", str(tmp_path / "out.safetensors"), **files)


@pytest.mark.usefixtures("pair")
@pytest.mark.parametrize("changed", ["dit", "lora"])
def test_a_source_that_changes_while_it_is_read(changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = Worker.__call__

    def touch(self: Worker, *arguments: Any) -> int:
        with (tmp_path / f"{changed}.safetensors").open("r+b") as file:
            file.seek(-1, 2)
            file.write(b"\x01")
        return work(self, *arguments)

    monkeypatch.setattr(Worker, "__call__", touch)
    with pytest.raises(WeightsError, match=f"{changed}.safetensors has changed while it was read"):
        in_process(tmp_path)
    assert not list(tmp_path.glob("out*"))


@pytest.mark.usefixtures("pair")
def test_a_source_that_becomes_shorter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = engine._chunks

    def cut(*arguments: Any) -> Any:
        os.truncate(tmp_path / "dit.safetensors", 3_000_000)
        return chunks(*arguments)

    monkeypatch.setattr(engine, "_chunks", cut)
    with pytest.raises(WeightsError, match="has become shorter while it was read"):
        in_process(tmp_path)
    assert not list(tmp_path.glob("out*"))


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
        with pytest.raises(OutputError, match="another process is writing"), files.atomic_file(out):
            pass
        assert out.read_bytes() == b"old"
    assert out.read_bytes() == b"new" and [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(("error", "refused"), [(errno.ENOSYS, False), (errno.ENOLCK, False), (errno.EAGAIN, True)])
def test_a_drive_that_knows_no_locks(
    error: int, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr("fcntl.flock", flock)
    if refused:
        with pytest.raises(OutputError), files.atomic_file(tmp_path / "out"):
            pass
        return
    with files.atomic_file(tmp_path / "out") as file:
        file.write(b"new")
    assert (tmp_path / "out").read_bytes() == b"new"


def begin(pair: list[str], out: Path) -> tuple[psutil.Popen, list[psutil.Process]]:
    """A merge that has got as far as its child."""
    argv = [sys.executable, "-m", "wanwrap", "merge", *pair, "--out", str(out)]
    process = psutil.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(children := process.children(recursive=True)) < 2 and process.poll() is None:  # it, and the watchdog
        time.sleep(0.01)
    return process, children


def big(tmp_path: Path) -> None:
    """A DiT that takes long enough to be killed over."""
    weights = {f"blocks.{n}.cross_attn.k.weight": torch.ones(4096, 4096).half() for n in range(8)}
    save_file(weights, tmp_path / "dit.safetensors")
    delta = {f"{KEY}.lora_up.weight": torch.ones(4096, 64), f"{KEY}.lora_down.weight": torch.ones(64, 4096)}
    save_file(delta, tmp_path / "lora.safetensors")


def test_killed_at_any_moment(pair: list[str], tmp_path: Path) -> None:
    """Never a half file under the final name, never more than one left-over, which does not grow."""
    big(tmp_path)
    out, folder = tmp_path / "made" / "out.safetensors", tmp_path / "made"
    folder.mkdir()
    process, _ = begin(pair, out)
    assert process.wait() == 0
    right = out.read_bytes()
    out.unlink()
    seen = set()
    for number in range(KILLS):
        process, children = begin(pair, out)
        while number % 2 and not list(folder.iterdir()) and process.poll() is None:
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.1 if number % 2 else 2.5))
        for each in (*children, process):
            if each.is_running():
                each.kill()
        process.wait()
        psutil.wait_procs(children, 10)
        names = {path.name for path in folder.iterdir()}
        seen |= names
        assert names <= {"out.safetensors", "out.safetensors.wanwrap-part"}
        assert sum(path.stat().st_size for path in folder.iterdir()) <= len(right)
        if out.exists():
            assert out.read_bytes() == right
            out.unlink()
    assert "out.safetensors.wanwrap-part" in seen, "no kill has met it while it wrote"
    process, _ = begin(pair, out)
    assert process.wait() == 0 and out.read_bytes() == right
    assert [path.name for path in folder.iterdir()] == ["out.safetensors"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_nothing_is_left(how: int, pair: list[str], tmp_path: Path) -> None:
    """Even the child of a wanwrap that was killed notices, and ends."""
    big(tmp_path)
    out = tmp_path / "made" / "out.safetensors"
    process, children = begin(pair, out)
    while not out.with_name("out.safetensors.wanwrap-part").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(how)
    status = process.wait(30)
    psutil.wait_procs(children, 30)
    assert not children[0].is_running()
    assert status in (0, 130, -how)
    for path in out.parent.iterdir():  # the child may have come to its end just so
        assert path == out and open_source(out).rows
