"""Downloads by the real huggingface_hub, from a hub that fails as it is told."""

from __future__ import annotations

import errno
import hashlib
import importlib
import io
import random
import re
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hub import COMMIT, Fault, Hub, hub
from huggingface_hub import constants
from platforms import full_disk, symlinks

from wanwrap.errors import DownloadError, OutputError, RoomError
from wanwrap.system.files import lock
from wanwrap.system.safetensors import sha256
from wanwrap.weights.catalogue import Tokenizer, Weight
from wanwrap.weights.download import _Part, cached, fetch, fetch_tokenizer
from wanwrap.weights.patience import WAITS, patiently

REPO, REVISION = "someone/weights", "a" * 40
PATH = "split_files/diffusion_models/dit.safetensors"
PIECES = "google/umt5/spiece.model"
CONFIG = "google/umt5/tokenizer_config.json"
LARGE = random.Random(1).randbytes(6_000_000)
MIB = 1 << 20
TOKENIZER = Tokenizer(
    REPO, "google/umt5", {"spiece.model": hashlib.sha256(b"pieces").hexdigest(), "tokenizer_config.json": None}
)
TOKEN = "hf_" + "SecretOfTheUser" * 2
FILES = {(REPO, PATH): LARGE, (REPO, PIECES): b"pieces", (REPO, CONFIG): b'{"model_max_length": 512}'}

Get = Callable[..., object]


@pytest.fixture(autouse=True)
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """The hub of which this process' huggingface_hub knows."""
    with hub(FILES) as made:
        online(monkeypatch, HF_HOME=tmp_path / "hf", HF_ENDPOINT=made.endpoint, HF_HUB_OFFLINE=0)
        yield made


def online(monkeypatch: pytest.MonkeyPatch, **env: object) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, str(value))
    importlib.reload(constants)


@pytest.fixture(autouse=True)
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that each further attempt would have been waited for."""
    waits = list[float]()
    monkeypatch.setattr("wanwrap.weights.patience.time", SimpleNamespace(sleep=waits.append))
    return waits


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def get(models: Path) -> Get:
    """Fetch the file, with what is another in its row of the catalogue; when it is there, nothing else is."""

    def call(**more: Any) -> object:
        row = {"role": "dit", "repo": REPO, "revision": REVISION, "path": PATH, "dtype": "fp16"}
        known = {"size": len(LARGE), "sha256": sha(LARGE)}
        assert fetch(Weight(**{**row, **known, **more}), models, sha256) == models / PATH
        assert (models / PATH).read_bytes() == LARGE
        return [path for path in models.rglob("*") if path.is_file() and path != models / PATH]

    return call


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def part(models: Path, content: bytes = b"") -> Path:
    """What an attempt that broke off has left."""
    path = models / ".downloads" / f"dit.safetensors.{sha(LARGE)[:12]}.part"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("size", [len(LARGE), None])
@pytest.mark.parametrize("revision", [REVISION, None])
def test_a_file_comes_whole_and_is_not_asked_for_twice(
    served: Hub, get: Get, monkeypatch: pytest.MonkeyPatch, size: int | None, revision: str | None
) -> None:
    assert not get(size=size, revision=revision)
    assert {each.revision for each in served.asked} == {revision or "main", revision or COMMIT}
    assert served.ranges(PATH) == [None]
    served.asked.clear()
    online(monkeypatch, HF_HUB_OFFLINE=1)
    get(size=size, revision=revision)
    assert served.asked == []


@pytest.mark.parametrize("reset", [False, True])
def test_a_cut_is_mended(served: Hub, get: Get, waited: list[float], said: list[str], reset: bool) -> None:
    """Waits get no longer while each attempt brings something; no signed address is shown."""
    served.faults[PATH] = Fault(cut=2_500_000, reset=reset, slow=0.2, times=2)
    assert not get()
    begun = [int(text.removeprefix("bytes=").rstrip("-")) if text else 0 for text in served.ranges(PATH)]
    assert len(begun) == 3 and begun == sorted(set(begun)) and begun[1] >= MIB, begun
    assert {*waited} <= {WAITS[0]} and "http" not in "".join(said)
    assert waited or not reset  # the library itself goes on after some cuts


def test_an_answer_that_ends_early_is_a_cut_too(served: Hub, get: Get) -> None:
    served.faults[PATH] = Fault(body=LARGE[:3_000_000], times=1)
    assert not get()
    assert served.ranges(PATH) == [None, "bytes=3000000-"]


def test_an_answer_that_begins_anew(served: Hub, get: Get, models: Path) -> None:
    """What is there stays as long as a login's page comes, with status 200; a proxy may know no ranges."""
    path = part(models, LARGE[:700_000])
    served.faults[PATH] = Fault(page=b"<!DOCTYPE html><p>Welcome to the hotel" * 9)
    with pytest.raises(DownloadError, match="page"):
        get()
    assert path.read_bytes() == LARGE[:700_000]
    served.faults[PATH] = Fault(page=LARGE)
    assert not get()
    assert served.ranges(PATH) == ["bytes=700000-"] * 2


def test_two_at_once_do_not_write_one_file(served: Hub, get: Get, models: Path) -> None:
    with lock(part(models), ""), pytest.raises(OutputError, match="another process"):
        get()
    assert served.ranges(PATH) == []


@pytest.mark.parametrize("spoilt", [b"\0" + LARGE[1:], LARGE[:-1], LARGE + b"\0"])
def test_wrong_bytes_are_put_aside(served: Hub, get: Get, models: Path, spoilt: bytes) -> None:
    """Under no name that the look for weights goes by."""
    served.faults[PATH] = Fault(body=spoilt)
    aside = models / "rejected" / "dit.safetensors.rejected"
    with pytest.raises(DownloadError, match=re.escape(str(aside))):
        get()
    assert aside.read_bytes() == spoilt and not [*models.rglob("dit.safetensors")]
    served.faults.clear()
    assert get() == [aside]
    assert served.ranges(PATH)[-1] is None


@pytest.mark.parametrize("other", [{"size": 5}, {"sha256": "0" * 64}])
def test_another_file_than_the_catalogues_is_not_downloaded(
    served: Hub, get: Get, models: Path, other: dict[str, Any]
) -> None:
    with pytest.raises(DownloadError, match="update wanwrap"):
        get(**other)
    assert served.ranges(PATH) == [] and not models.exists()


def test_what_was_put_there_by_hand_is_verified_too(served: Hub, get: Get, models: Path, said: list[str]) -> None:
    (models / PATH).parent.mkdir(parents=True)
    (models / PATH).write_bytes(bytes(len(LARGE)))
    assert get() == [models / "rejected" / "dit.safetensors.rejected"]
    assert "anew" in said[0] and served.ranges(PATH) == [None]


@symlinks
def test_a_wrong_file_that_lies_elsewhere_stays_there(get: Get, models: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "ComfyUI" / "dit.safetensors"
    theirs.parent.mkdir()
    theirs.write_bytes(b"theirs")
    (models / PATH).parent.parent.mkdir(parents=True)
    (models / PATH).parent.symlink_to(theirs.parent)
    with pytest.raises(DownloadError, match="elsewhere"):
        get()
    assert theirs.read_bytes() == b"theirs"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault(status=401, code="GatedRepo"), "401.*HF_TOKEN"),
        (Fault(status=401), "401.*HF_TOKEN"),
        (Fault(status=403, code="GatedRepo"), "403.*licence"),
        (Fault(status=403, method="GET"), "403.*licence"),
        (Fault(status=404, code="RepoNotFound"), "404.*RepositoryNotFound.*HF_ENDPOINT"),
        (Fault(status=404, code="RevisionNotFound"), "404.*RevisionNotFound"),
        (Fault(status=404, code="EntryNotFound"), "404.*EntryNotFound"),
    ],
)
@pytest.mark.parametrize("path", [PATH, CONFIG])
def test_what_no_waiting_mends_is_said_at_once(
    served: Hub, get: Get, models: Path, waited: list[float], fault: Fault, words: str, path: str
) -> None:
    served.faults[path] = fault
    with pytest.raises(DownloadError, match=words):
        get() if path == PATH else fetch_tokenizer(TOKENIZER)
    assert [each.path for each in served.asked if each.status == fault.status] == [path]
    assert not waited and not (models / PATH).exists()


@pytest.mark.parametrize("status", [429, 503])
def test_a_hub_that_is_overloaded_for_a_while(served: Hub, get: Get, waited: list[float], status: int) -> None:
    served.faults[PATH] = Fault(status=status, times=2)
    assert not get()
    assert waited == [*WAITS[:2]]


@pytest.mark.parametrize("method", ["", "GET"])
def test_a_hub_that_is_overloaded_for_ever(served: Hub, get: Get, waited: list[float], method: str) -> None:
    served.faults[PATH] = Fault(status=503, method=method)
    with pytest.raises(DownloadError, match="503"):
        get()
    assert waited == [*WAITS]
    served.faults.clear()
    assert not get()


def test_a_hub_that_does_not_answer_in_time(served: Hub, get: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    served.faults[PATH] = Fault(slow=1, times=1)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    assert not get()
    assert len(served.ranges(PATH)) > 1


@pytest.mark.parametrize(
    ("env", "noun"),
    [({"HF_ENDPOINT": "http://127.0.0.1:1"}, "127.0.0.1:1 .*HF_ENDPOINT"), ({"HF_HUB_OFFLINE": 1}, "HF_HUB_OFFLINE")],
)
def test_no_network(
    served: Hub, get: Get, monkeypatch: pytest.MonkeyPatch, waited: list[float], env: dict[str, object], noun: str
) -> None:
    online(monkeypatch, **env)
    for attempt in (get, partial(fetch_tokenizer, TOKENIZER)):
        with pytest.raises(DownloadError, match=noun):
            attempt()
    assert not waited and served.asked == []


@full_disk
@pytest.mark.parametrize("cut", [None, 0])
def test_a_full_disk(served: Hub, get: Get, models: Path, cut: int | None) -> None:
    served.faults[PATH] = Fault(cut=cut, times=1)
    path = part(models)
    path.unlink()
    path.symlink_to("/dev/full")
    with pytest.raises(RoomError, match=str(models)):
        get()
    assert len(served.ranges(PATH)) == (1 if cut is None else 2)
    path.unlink()
    assert not get()


def test_the_token_goes_to_the_hub_and_nowhere_else(
    served: Hub, get: Get, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    served.faults[PATH] = Fault(cut=2 * MIB, times=1)
    assert not get()
    fetch_tokenizer(TOKENIZER)
    assert {each.token for each in served.asked if not each.cdn} == {f"Bearer {TOKEN}"}
    assert {each.token for each in served.asked if each.cdn} == {None}
    shutil.rmtree(models)
    for status in (401, 403, 503):
        served.faults[PATH] = Fault(status=status)
        with pytest.raises(DownloadError) as caught:
            get()
        said.append(str(caught.value))
    assert len(said) > 3 and TOKEN not in "".join(said)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]


def test_a_tokenizer_is_had_offline_afterwards(served: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert not cached(TOKENIZER) and served.asked == []
    served.faults[PIECES] = Fault(cut=3, times=1)
    fetch_tokenizer(TOKENIZER)
    served.asked.clear()
    online(monkeypatch, HF_HUB_OFFLINE=1)
    assert cached(TOKENIZER)
    fetch_tokenizer(TOKENIZER)
    assert served.asked == []
    cache = tmp_path / "hf" / "hub" / "models--someone--weights"
    assert (cache / "refs" / "main").read_text(encoding="utf-8") == COMMIT
    assert (cache / "snapshots" / COMMIT / PIECES).read_bytes() == b"pieces"


def test_a_tokenizer_that_lacks_a_file_or_has_wrong_bytes_is_fetched_anew(served: Hub, tmp_path: Path) -> None:
    served.faults[PIECES] = Fault(body=b"PIECES", times=1)
    with pytest.raises(DownloadError, match=PIECES):
        fetch_tokenizer(TOKENIZER)
    assert not cached(TOKENIZER)
    fetch_tokenizer(TOKENIZER)
    assert cached(TOKENIZER)
    next((tmp_path / "hf").rglob(f"snapshots/*/{CONFIG}")).unlink()
    assert not cached(TOKENIZER)
    fetch_tokenizer(TOKENIZER)
    assert cached(TOKENIZER)


def test_a_full_disk_is_told_though_the_network_failed_before() -> None:
    def attempt() -> None:
        try:
            raise TimeoutError
        except TimeoutError:
            raise OSError(errno.ENOSPC, "No space left on device")  # noqa: B904  as huggingface_hub does

    with pytest.raises(OSError, match="space"):
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
