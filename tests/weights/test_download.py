"""Downloads by the real huggingface_hub, in processes of their own, from a hub that fails as it is told."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import io
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hub import COMMIT, Fault, Hub, hub

from wanwrap.errors import DownloadError, OutputError, RoomError
from wanwrap.weights.catalogue import Tokenizer, Weight
from wanwrap.weights.download import _Part
from wanwrap.weights.patience import patiently

REPO, REVISION = "someone/weights", "a" * 40
PATH = "split_files/diffusion_models/dit.safetensors"
LARGE = random.Random(1).randbytes(6_000_000)
MIB = 1 << 20
TOKENIZER = Tokenizer(
    REPO, "google/umt5", {"spiece.model": hashlib.sha256(b"pieces").hexdigest(), "tokenizer_config.json": None}
)
TOKEN = "hf_" + "SecretOfTheUser" * 2
FILES = {
    (REPO, PATH): LARGE,
    (REPO, "google/umt5/spiece.model"): b"pieces",
    (REPO, "google/umt5/tokenizer_config.json"): b'{"model_max_length": 512}',
}

# what `wanwrap setup` does with it, without its look for what is there
CHILD = """
import json, sys, time
from pathlib import Path
from wanwrap.errors import WanwrapError
from wanwrap.system import console
from wanwrap.system.safetensors import sha256
from wanwrap.weights import download, patience
from wanwrap.weights.catalogue import Tokenizer, Weight

asked = json.load(sys.stdin)
patience.WAITS = tuple(asked["waits"])
say = lambda text: print(text, file=sys.stderr, flush=True)
console.use(type("Console", (console.Console,), {"say": staticmethod(say)})())
try:
    if asked["what"] == "fetch":
        path = download.fetch(Weight(**asked["file"]), Path(asked["models"]), sha256)
        print(json.dumps(str(path)))
    elif asked["what"] == "fetch_tokenizer":
        download.fetch_tokenizer(Tokenizer(**asked["file"]))
    else:
        print(json.dumps(download.cached(Tokenizer(**asked["file"]))))
except WanwrapError as error:
    say(f"Error: {error}")
    sys.exit(error.exit_code)
"""

Child = Callable[..., "subprocess.Popen[str]"]
Done = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(autouse=True)
def _empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


@pytest.fixture
def served() -> Iterator[Hub]:
    with hub(FILES) as made:
        yield made


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def begin(served: Hub, models: Path) -> Child:
    """Begin a call in a process of its own."""

    def start(
        file: Weight | Tokenizer, what: str = "fetch", waits: Sequence[float] = (0.01, 0.02), **env: str
    ) -> subprocess.Popen[str]:
        asked = {"what": what, "file": dataclasses.asdict(file), "models": str(models), "waits": waits}
        ours = {**os.environ, "HF_ENDPOINT": served.endpoint, "HF_HUB_OFFLINE": "0", **env}
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD],
            env=ours,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert child.stdin
        child.stdin.write(json.dumps(asked))
        child.stdin.close()
        child.stdin = None
        return child

    return start


@pytest.fixture
def call(begin: Child) -> Done:
    """The same to its end."""

    def run(file: Weight | Tokenizer, what: str = "fetch", **more: Any) -> subprocess.CompletedProcess[str]:
        with begin(file, what, **more) as child:
            out, err = child.communicate(timeout=60)
        return subprocess.CompletedProcess(child.args, child.returncode, out, err)

    return run


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def weight(**more: Any) -> Weight:
    """A row of the catalogue."""
    known = {"size": len(LARGE), "sha256": sha(LARGE), **more}
    return Weight(**{"role": "dit", "repo": REPO, "revision": REVISION, "path": PATH, "dtype": "fp16", **known})


def refused(done: subprocess.CompletedProcess[str], kind: type[Any], *words: str) -> None:
    """It ended with one sentence that says these words, and no traceback."""
    assert done.returncode == kind.exit_code, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: ") and last.endswith("."), done.stderr
    assert [word for word in words if word not in last] == [], last
    assert "Traceback" not in done.stderr


def whole(done: subprocess.CompletedProcess[str], models: Path) -> None:
    """The file is in its place, and nothing is beside it."""
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == str(models / PATH)
    assert (models / PATH).read_bytes() == LARGE
    assert [path for path in models.rglob("*") if path.is_file() and path != models / PATH] == []


def part(models: Path) -> Path:
    return models / ".downloads" / f"dit.safetensors.{sha(LARGE)[:12]}.part"


def starts(ranges: list[str | None]) -> list[int]:
    """Where each answer began."""
    return [int(text.removeprefix("bytes=").rstrip("-")) if text else 0 for text in ranges]


@pytest.mark.parametrize("size", [len(LARGE), None])
@pytest.mark.parametrize("revision", [REVISION, None])
def test_a_file_comes_whole_and_is_not_asked_for_twice(
    served: Hub, call: Done, models: Path, size: int | None, revision: str | None
) -> None:
    file = weight(size=size, revision=revision)
    whole(call(file), models)
    assert {each.revision for each in served.asked} == {revision or "main", revision or COMMIT}
    assert served.ranges(PATH) == [None]
    served.asked.clear()
    whole(call(file, HF_HUB_OFFLINE="1"), models)
    assert served.asked == []


@pytest.mark.parametrize("reset", [False, True])
def test_a_cut_is_mended_by_the_same_process(served: Hub, call: Done, models: Path, reset: bool) -> None:
    served.faults[PATH] = Fault(cut=2_500_000, reset=reset, slow=0.005, times=2)
    done = call(weight(), waits=[0.01])  # more cuts than waits: each has brought something
    whole(done, models)
    begun = starts(served.ranges(PATH))
    assert len(begun) == 3 and begun == sorted(set(begun)) and begun[1] >= MIB, begun
    assert "http" not in done.stderr, done.stderr


def test_an_answer_that_ends_early_is_a_cut_too(served: Hub, call: Done, models: Path) -> None:
    served.faults[PATH] = Fault(body=LARGE[:3_000_000], times=1)
    whole(call(weight()), models)
    assert served.ranges(PATH) == [None, "bytes=3000000-"]


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_an_answer_that_begins_anew(served: Hub, call: Done, models: Path) -> None:
    """Of a proxy that knows no ranges: what was there is not in front of it."""
    part(models).parent.mkdir(parents=True)
    part(models).write_bytes(LARGE[:700_000])
    served.faults[PATH] = Fault(page=LARGE)
    whole(call(weight()), models)
    assert served.ranges(PATH) == ["bytes=700000-"]


def test_after_a_kill_a_new_process_fetches_what_is_missing(
    served: Hub, begin: Child, call: Done, models: Path
) -> None:
    served.faults[PATH] = Fault(slow=0.02)
    with begin(weight()) as child:
        until = time.monotonic() + 30
        while not (part(models).exists() and part(models).stat().st_size >= 2 * MIB) and time.monotonic() < until:
            time.sleep(0.01)
        assert not (models / PATH).exists()
        child.send_signal(signal.SIGKILL)
    left = part(models).stat().st_size
    assert 2 * MIB <= left < len(LARGE) and not (models / PATH).exists()
    served.faults.clear()
    whole(call(weight()), models)
    assert served.ranges(PATH) == [None, f"bytes={left}-"]


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_two_at_once_do_not_write_one_file(served: Hub, begin: Child, call: Done, models: Path) -> None:
    served.faults[PATH] = Fault(slow=0.02)
    with begin(weight()) as first:
        while not (part(models).exists() and part(models).stat().st_size):
            time.sleep(0.01)
        refused(call(weight()), OutputError, "another process")
        served.faults.clear()
        out, err = first.communicate(timeout=60)
    whole(subprocess.CompletedProcess([], first.returncode, out, err), models)


def test_wrong_bytes_are_put_aside_and_named(served: Hub, call: Done, models: Path) -> None:
    spoilt = b"\0" + LARGE[1:]
    served.faults[PATH] = Fault(body=spoilt, times=1)
    aside = models / "rejected" / "dit.safetensors.rejected"
    refused(call(weight()), DownloadError, str(aside), sha(spoilt), sha(LARGE))
    assert aside.read_bytes() == spoilt and not (models / PATH).exists()
    assert list(models.rglob("dit.safetensors")) == []  # the look for weights goes by that name
    aside.unlink()
    whole(call(weight()), models)
    assert served.ranges(PATH) == [None, None]


@pytest.mark.parametrize("spoilt", [LARGE[:-1], LARGE + b"\0"])
def test_a_file_of_another_size_is_put_aside(served: Hub, call: Done, models: Path, spoilt: bytes) -> None:
    served.faults[PATH] = Fault(body=spoilt)
    aside = models / "rejected" / "dit.safetensors.rejected"
    refused(call(weight()), DownloadError, str(aside), "instead of 6,000,000")
    assert aside.is_file() and not (models / PATH).exists()
    aside.unlink()
    served.faults.clear()
    whole(call(weight()), models)


@pytest.mark.parametrize("other", [{"size": 5}, {"sha256": "0" * 64}])
def test_another_file_than_the_catalogue_s_is_not_downloaded(
    served: Hub, call: Done, models: Path, other: dict[str, Any]
) -> None:
    refused(call(weight(**other)), DownloadError, "not the file that wanwrap knows")
    assert served.ranges(PATH) == [] and not models.exists()


def test_what_was_put_there_by_hand_is_verified_too(served: Hub, call: Done, models: Path) -> None:
    (models / PATH).parent.mkdir(parents=True)
    (models / PATH).write_bytes(bytes(len(LARGE)))
    done = call(weight())
    assert done.returncode == 0 and "rejected, which can be deleted; it is downloaded anew" in done.stderr
    assert (models / PATH).read_bytes() == LARGE and served.ranges(PATH) == [None]


def test_a_wrong_file_that_lies_elsewhere_stays_there(call: Done, models: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "ComfyUI" / "dit.safetensors"
    theirs.parent.mkdir()
    theirs.write_bytes(b"theirs")
    (models / PATH).parent.parent.mkdir(parents=True)
    (models / PATH).parent.symlink_to(theirs.parent)
    refused(call(weight()), DownloadError, "lies elsewhere; take it away")
    assert theirs.read_bytes() == b"theirs"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault(status=401, code="GatedRepo"), ("401", "HF_TOKEN", "hf auth login", "licence")),
        (Fault(status=401), ("401", "HF_TOKEN")),
        (Fault(status=403, code="GatedRepo"), ("403", "licence")),
        (Fault(status=404, code="RepoNotFound"), ("404", "RepositoryNotFound", "HF_ENDPOINT")),
        (Fault(status=404, code="RevisionNotFound"), ("404", "RevisionNotFound")),
        (Fault(status=404, code="EntryNotFound"), ("404", "EntryNotFound")),
    ],
)
@pytest.mark.parametrize("what", ["fetch", "fetch_tokenizer"])
def test_what_no_waiting_mends_is_said_at_once(
    served: Hub, call: Done, models: Path, fault: Fault, words: tuple[str, ...], what: str
) -> None:
    path = PATH if what == "fetch" else "google/umt5/spiece.model"
    served.faults[path] = dataclasses.replace(fault)
    refused(call(weight() if what == "fetch" else TOKENIZER, what, waits=[60.0]), DownloadError, *words)
    assert len([each for each in served.asked if each.path == path and each.status == fault.status]) == 1
    assert not (models / PATH).exists()


def test_a_refusal_of_the_bytes_alone(served: Hub, call: Done, models: Path) -> None:
    served.faults[PATH] = Fault(status=403, method="GET")
    refused(call(weight(), waits=[60.0]), DownloadError, "403", "licence")
    assert not (models / PATH).exists()


def test_a_hub_that_is_overloaded_for_a_while(served: Hub, call: Done, models: Path) -> None:
    served.faults[PATH] = Fault(status=503, times=2)
    done = call(weight())
    whole(done, models)
    assert len(re.findall("^dit.safetensors: .* answered 503; trying again in", done.stderr, re.M)) == 2


@pytest.mark.parametrize("method", ["", "GET"])
def test_a_hub_that_is_overloaded_for_ever(served: Hub, call: Done, models: Path, method: str) -> None:
    served.faults[PATH] = Fault(status=503, method=method)
    refused(call(weight()), DownloadError, "503", "run setup again")
    assert len([each for each in served.asked if each.status == 503]) == 3
    served.faults.clear()
    whole(call(weight()), models)


def test_too_many_requests_are_tried_again(served: Hub, call: Done, models: Path) -> None:
    served.faults[PATH] = Fault(status=429, times=1)
    done = call(weight())
    whole(done, models)
    assert served.endpoint not in done.stderr


def test_a_hub_that_does_not_answer_in_time(served: Hub, call: Done, models: Path) -> None:
    served.faults[PATH] = Fault(slow=2.5, times=1)
    done = call(weight(), HF_HUB_DOWNLOAD_TIMEOUT="1")
    whole(done, models)
    assert len(served.ranges(PATH)) == 2


@pytest.mark.parametrize("what", ["fetch", "fetch_tokenizer"])
def test_no_network(call: Done, what: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}"
    before = time.monotonic()
    done = call(weight() if what == "fetch" else TOKENIZER, what, waits=[60.0], HF_ENDPOINT=closed)
    refused(done, DownloadError, "can't be reached", "HF_ENDPOINT", closed.removeprefix("http://"))
    assert time.monotonic() - before < 20


@pytest.mark.parametrize("what", ["fetch", "fetch_tokenizer"])
def test_offline(served: Hub, call: Done, what: str) -> None:
    done = call(weight() if what == "fetch" else TOKENIZER, what, waits=[60.0], HF_HUB_OFFLINE="1")
    refused(done, DownloadError, "HF_HUB_OFFLINE")
    assert served.asked == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full")
@pytest.mark.parametrize("cut", [None, 0])
def test_a_full_disk(served: Hub, call: Done, models: Path, cut: int | None) -> None:
    served.faults[PATH] = Fault(cut=cut, times=1)
    part(models).parent.mkdir(parents=True)
    part(models).symlink_to("/dev/full")
    refused(call(weight(), waits=[0.01]), RoomError, str(models), "No space left on device")
    assert len(served.ranges(PATH)) == (1 if cut is None else 2)
    part(models).unlink()
    whole(call(weight()), models)


def test_the_token_goes_to_the_hub_and_nowhere_else(served: Hub, call: Done, models: Path, tmp_path: Path) -> None:
    served.faults[PATH] = Fault(cut=2 * MIB, times=1)
    outputs = []
    done = call(weight(), HF_TOKEN=TOKEN)
    whole(done, models)
    outputs += [done, call(TOKENIZER, "fetch_tokenizer", HF_TOKEN=TOKEN)]
    assert {each.token for each in served.asked if not each.cdn} == {f"Bearer {TOKEN}"}
    assert {each.token for each in served.asked if each.cdn} == {None}
    shutil.rmtree(models)
    for status in (401, 403, 503):
        served.faults[PATH] = Fault(status=status)
        outputs.append(call(weight(), HF_TOKEN=TOKEN))
    assert [done.returncode for done in outputs] == [0, 0, 12, 12, 12]
    assert [done for done in outputs if TOKEN in done.stdout + done.stderr] == []
    assert [path for path in tmp_path.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()] == []


def test_hf_transfer_is_not_used_for_it_can_t_go_on(call: Done, models: Path) -> None:
    whole(call(weight(), HF_HUB_ENABLE_HF_TRANSFER="1", PYTHONWARNINGS="ignore"), models)


def test_a_tokenizer_is_had_offline_afterwards(served: Hub, call: Done, tmp_path: Path) -> None:
    assert json.loads(call(TOKENIZER, "cached", HF_HUB_OFFLINE="1").stdout) is False
    assert served.asked == []
    served.faults["google/umt5/spiece.model"] = Fault(cut=3, times=1)
    done = call(TOKENIZER, "fetch_tokenizer")
    assert done.returncode == 0, done.stderr
    served.asked.clear()
    assert json.loads(call(TOKENIZER, "cached", HF_HUB_OFFLINE="1").stdout) is True
    again = call(TOKENIZER, "fetch_tokenizer", HF_HUB_OFFLINE="1")
    assert again.returncode == 0 and served.asked == []
    cache = tmp_path / "hf" / "hub" / "models--someone--weights"
    assert (cache / "refs" / "main").read_text(encoding="utf-8") == COMMIT
    assert (cache / "snapshots" / COMMIT / "google/umt5/spiece.model").read_bytes() == b"pieces"


def test_a_tokenizer_of_which_a_file_is_missing_is_not_cached(call: Done, tmp_path: Path) -> None:
    assert call(TOKENIZER, "fetch_tokenizer").returncode == 0
    next((tmp_path / "hf").rglob("snapshots/*/google/umt5/tokenizer_config.json")).unlink()
    assert json.loads(call(TOKENIZER, "cached").stdout) is False
    assert call(TOKENIZER, "fetch_tokenizer").returncode == 0
    assert json.loads(call(TOKENIZER, "cached").stdout) is True


def test_a_tokenizer_of_wrong_bytes_is_not_taken(served: Hub, call: Done) -> None:
    served.faults["google/umt5/spiece.model"] = Fault(body=b"PIECES", times=1)
    refused(call(TOKENIZER, "fetch_tokenizer"), DownloadError, "google/umt5/spiece.model", "not what was published")
    assert json.loads(call(TOKENIZER, "cached").stdout) is False
    assert call(TOKENIZER, "fetch_tokenizer").returncode == 0
    assert json.loads(call(TOKENIZER, "cached").stdout) is True


def test_a_full_disk_is_told_though_the_network_failed_before() -> None:
    def attempt() -> None:
        try:
            raise TimeoutError
        except TimeoutError:
            raise OSError(errno.ENOSPC, "No space left on device")  # noqa: B904  as huggingface_hub does

    with pytest.raises(OSError, match="No space left"):
        patiently("a/b", attempt)


def test_a_short_write_is_gone_on_with(tmp_path: Path) -> None:
    class Disk(io.FileIO):
        def write(self, data: Any) -> int:
            return super().write(bytes(data[:3]))

    class Part(_Part, Disk):
        pass

    with Part(str(tmp_path / "x.part"), "wb") as file:
        assert file.write(b"0123456789") == 10
    assert (tmp_path / "x.part").read_bytes() == b"0123456789"
