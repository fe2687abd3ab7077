"""Getting upstream: which torch build, which commands, and what is left when they fail or are killed.

nvidia-smi, git and pip are stand-ins; no network, no GPU.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest
from helpers import ROOT, STANDIN
from platforms import scripts

from wanwrap.errors import GpuError, PackageError, UpstreamError, WanwrapError
from wanwrap.machine.driver import Driver, build, driver
from wanwrap.machine.install import CUDA_BUILD, Command, commands, install, question
from wanwrap.plan.preflight import ask
from wanwrap.plan.request import Request
from wanwrap.preset import load
from wanwrap.upstream.pin import COMMIT, URL, Upstream, find

pytestmark = scripts

pytest.importorskip("torch")
INDEX = "https://wheels.test"
BUILDS = {"cu124": "torch>=2.5 torchvision>=0.20", "cu128": "torch>=2.7 torchvision>=0.22", "cu130": "torch>=2.9"}
PROJECT = "\n".join(
    [
        '[project]\nname = "musubi-tuner"\nversion = "0.3.4"\n[project.optional-dependencies]',
        *(f"{name} = {json.dumps(bounds.split())}" for name, bounds in BUILDS.items()),
        *(f'[[tool.uv.index]]\nname = "pytorch-{name}"\nurl = "{INDEX}/{name}"' for name in BUILDS),
    ]
)

GIT = """#!{python}
import json, os, pathlib, shutil, signal, sys, time
with open({record!r}, "a") as file:
    print(json.dumps(["git", *sys.argv[1:]]), file=file)
mode = os.environ.get("GIT_DOES", "")
if mode == "no network":
    sys.exit("fatal: unable to access 'URL': Could not resolve host: github.com")
if sys.argv[1] == "clone":
    folder = pathlib.Path(sys.argv[3])
    folder.mkdir(parents=True)
    if mode.startswith("SIG"):
        os.kill(os.getppid(), getattr(signal, mode))
        time.sleep(60 if mode == "SIGINT" else 0)
        sys.exit()
    shutil.copytree({standin!r}, folder, dirs_exist_ok=True)
    (folder / "pyproject.toml").write_text({project!r})
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("ref: refs/heads/main")
elif mode == "no commit":
    sys.exit("fatal: unable to read tree (" + sys.argv[-1] + ")")
else:
    pathlib.Path(sys.argv[2], ".git", "HEAD").write_text(sys.argv[-1])
"""

PYTHON = """#!{python}
import json, os, sys
if sys.argv[1:3] != ["-m", "pip"]:
    os.execv(sys.executable, [sys.executable, *{flags!r}, *sys.argv[1:]])
with open({record!r}, "a") as file:
    print(json.dumps(["pip", *sys.argv[3:]]), file=file)
print("Collecting things", flush=True)
if os.environ.get("PIP_SAYS") == "KILL":
    os.kill(os.getpid(), 9)
sys.exit(os.environ.get("PIP_SAYS"))
"""


@dataclass
class Bench:
    """The stand-ins, and what reached them."""

    folder: Path

    @property
    def base(self) -> Path:
        return self.folder / "a base"

    @property
    def checkout(self) -> Path:
        return self.base / "musubi-tuner"

    @property
    def part(self) -> Path:
        return self.base / "musubi-tuner.wanwrap-part"

    @property
    def record(self) -> Path:
        return self.folder / "record"

    def script(self, name: str, text: str, **names: object) -> str:
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text.format(python=sys.executable, record=str(self.record), **names))
        path.chmod(0o755)
        return str(path)

    def python(self, *, bare: bool = True) -> str:
        """A Python whose pip only records; a bare one has no packages."""
        return self.script("python", PYTHON, flags=["-S"] if bare else [])

    def calls(self) -> list[list[str]]:
        """What reached git and pip."""
        return [json.loads(line) for line in self.record.read_text().splitlines()] if self.record.exists() else []

    def request(self, python: str, given: Path | None = None) -> Request:
        upstream = Upstream(folder=given) if given else find(None, self.base)
        return Request(preset=load("t2v-vanilla"), base_dir=self.base, upstream=upstream, python=python)

    def plan(self, python: str, given: Path | None = None, wanted: Iterable[str] = ()) -> list[Command]:
        """What `commands` makes of what the Python answers."""
        request = self.request(python, given)
        return commands(request, ask(python, request.upstream, question(wanted)), SEEN)

    def planned(
        self, missing: str, torch: str | None = None, there: str = "2.9", seen: Driver | None = None, packages: str = ""
    ) -> str:
        """The commands for an answer of the training Python, TRAIN, with a checkout of the user's, OWN."""
        answer = {"missing": dict.fromkeys(missing.split(), "why"), "packages": {"torch": there} if there else {}}
        found = commands(self.request("TRAIN", self.folder), answer, seen, torch, packages.split())
        return "\n".join(" ".join(each.argv) for each in found).replace(str(self.folder), "OWN")


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench(tmp_path)
    made.script("git", GIT, standin=str(STANDIN), project=PROJECT)
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return made


# which build

SEEN = Driver((12, 8), {"RTX 4090": (8, 9)})
R610 = "KMD Version: 610.43.02     CUDA UMD Version: 13.3 "
ADA, BLACK, PASCAL = "NVIDIA GeForce RTX 4090, 8.9", "NVIDIA GeForce RTX 5090, 12.0", "NVIDIA GeForce GTX 1080 Ti, 6.1"
TURING, VOLTA = "NVIDIA GeForce RTX 2080 Ti, 7.5", "Tesla V100, 7.0"


def smi(monkeypatch: pytest.MonkeyPatch, cuda: str, rows: Sequence[str]) -> None:
    """A driver, as its nvidia-smi tells of it."""
    banner = (
        f"Thu Oct  1 10:00:00 2026\n+-----+\n| NVIDIA-SMI 1.2.3   {cuda if ':' in cuda else f'CUDA Version: {cuda}'} |"
    )

    def capture(argv: Sequence[str], *_: object) -> str:
        return "\n".join(rows) if len(argv) > 1 else banner

    monkeypatch.setattr("wanwrap.system.gpu.capture", capture)


@pytest.mark.parametrize(
    ("cuda", "gpus", "expected"),
    [
        ("12.4", [ADA], "cu124"),
        ("12.6", [ADA], "cu124"),
        ("12.8", [ADA], "cu128"),
        ("13.0", [ADA], "cu130"),
        (R610, [ADA], "cu130"),
        ("12.8", [BLACK], "cu128"),
        ("13.0", [TURING], "cu130"),
        ("13.0", [VOLTA], "cu124"),
        ("13.0", [ADA, PASCAL], "cu124"),
        ("13.0", [BLACK, PASCAL], "cu130"),
        ("13.0", ["Some Day's GPU, [N/A]"], "cu130"),
        ("12.8", [], "cu128"),
    ],
)
def test_the_newest_build_that_driver_and_gpus_can_run(
    monkeypatch: pytest.MonkeyPatch, cuda: str, gpus: list[str], expected: str
) -> None:
    smi(monkeypatch, cuda, gpus)
    assert build(driver()) == expected


@pytest.mark.parametrize(
    ("cuda", "gpus", "nouns"),
    [
        ("12.2", [ADA], "12.2.* 550 .*--torch cu124"),
        ("11.8", [ADA], r"11.8.* 550 or newer\."),
        ("12.6", [ADA, BLACK], r"RTX 5090.*12.8.* 570 or newer\."),
        ("12.2", [BLACK], r"RTX 5090.* 570 or newer\."),
        ("N/A", [ADA], "no NVIDIA driver.*--torch.*AMD"),
    ],
)
def test_a_driver_that_no_build_fits_is_told_what_to_do(
    monkeypatch: pytest.MonkeyPatch, cuda: str, gpus: list[str], nouns: str
) -> None:
    smi(monkeypatch, cuda, gpus)
    with pytest.raises(GpuError, match=nouns):
        build(driver())


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("[ $# = 0 ] || exit 2; echo 'CUDA Version: 11.4'", Driver((11, 4))),
        ("echo 'CUDA Version: 12.8'; echo 'RTX 4090, 8.9'; echo 'Some Day, [N/A]'", SEEN),
        ("exec sleep 60", None),
        ("echo 'CUDA Version: 12.8, but NVIDIA-SMI has failed'; exit 9", None),
        ("", None),
    ],
)
def test_what_nvidia_smi_does(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, script: str, expected: Driver | None
) -> None:
    """It knows no capabilities, it tells all, it hangs, it fails, it is not there."""
    if script:
        bench.script("nvidia-smi", f"#!/bin/sh\n{script}\n")
    monkeypatch.setenv("PATH", f"{bench.folder / 'bin'}:/usr/bin:/bin" if script else "")
    monkeypatch.setattr("wanwrap.system.gpu.PATIENCE", 0.5)
    assert driver() == expected


# which commands


def test_a_torch_that_works_is_kept(bench: Bench) -> None:
    kept = "TRAIN -m pip install -e OWN torch==2.9\nTRAIN -m pip install torchvision torch==2.9"
    assert bench.planned("cv2 torchvision", torch="cu124") == kept


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ("cu124", BUILDS["cu124"]),
        ("cu128", BUILDS["cu128"]),
        ("cpu", "torch>=2.9 torchvision"),
        (None, BUILDS["cu128"]),
    ],
)
def test_a_checkout_names_index_and_bounds(bench: Bench, named: str | None, expected: str) -> None:
    index = "" if named == "cpu" else f" --index-url {INDEX}/{named or 'cu128'}"
    fresh = f"TRAIN -m pip install {expected}{index}\nTRAIN -m pip install -e OWN"
    assert bench.planned("torch torchvision musubi_tuner cv2", named, there="", seen=SEEN) == fresh


def test_a_torch_that_is_broken_or_for_the_cpu_is_replaced_where_a_gpu_is(bench: Bench) -> None:
    """In the end the one that goes is not kept."""
    both = f"{BUILDS['cu128']} --index-url {INDEX}/cu128"
    anew = f"TRAIN -m pip install --force-reinstall --no-deps {both}\nTRAIN -m pip install {both}"
    assert bench.planned(CUDA_BUILD, seen=SEEN) == bench.planned("torch", seen=SEEN) == anew
    assert bench.planned(f"{CUDA_BUILD} cv2", seen=SEEN) == f"{anew}\nTRAIN -m pip install -e OWN"
    assert bench.planned(CUDA_BUILD) == bench.planned(CUDA_BUILD, "cpu", seen=SEEN) == bench.planned("") == ""
    with pytest.raises(GpuError, match="driver"):
        bench.planned("torch")


def test_packages_that_are_named_come_last(bench: Bench) -> None:
    """When torch is there, which they must not change."""
    named = "TRAIN -m pip install prodigyopt wandb==0.20"
    assert bench.planned("", packages="prodigyopt wandb==0.20") == f"{named} torch==2.9"
    fresh = bench.planned("torch", seen=SEEN)
    assert bench.planned("torch", seen=SEEN, packages="prodigyopt wandb==0.20") == f"{fresh}\n{named}"


@pytest.mark.parametrize("package", ["xformers", "torchvision"])
@pytest.mark.parametrize(
    ("there", "index"), [("2.9.1+cu130", f" --index-url {INDEX}/cu130"), ("2.9.1+cu126", ""), ("2.9.1", "")]
)
def test_what_fits_one_torch_comes_from_its_index(bench: Bench, package: str, there: str, index: str) -> None:
    assert bench.planned(package, there=there) == f"TRAIN -m pip install {package} torch=={there}{index}"


@pytest.mark.parametrize("named", ["cu130", "cpu"])
def test_a_build_that_the_checkout_does_not_know(bench: Bench, named: str) -> None:
    (bench.folder / "pyproject.toml").write_text(PROJECT.replace("cu130", "cu126"))
    with pytest.raises(UpstreamError, match=named):
        bench.planned("torch", torch=named)


def test_what_lies_where_upstream_goes_is_not_touched(bench: Bench) -> None:
    listed = bench.plan(bench.python())
    bench.checkout.mkdir(parents=True)
    (bench.checkout / "notes").touch()
    with pytest.raises(UpstreamError, match="--musubi_dir"):
        bench.plan(bench.python())
    assert str(bench.checkout) in failure(listed, UpstreamError)
    assert [path.name for path in bench.checkout.iterdir()] == ["notes"]


# carrying them out


@pytest.mark.parametrize("left", [False, True])
def test_what_is_printed_can_be_pasted(bench: Bench, left: bool, said: list[str]) -> None:
    """It is what an install runs, too: of nothing all is made, of what a killed attempt left nothing stays."""
    if left:
        bench.part.mkdir(parents=True)
    printed = bench.plan(bench.python(), None, ["tensorboard", "xformers.ops"])
    text = "\n".join(shlex.join(each.argv) for each in printed)
    subprocess.run(["sh", "-e"], input=text, text=True, check=True, capture_output=True)
    by_hand = bench.calls()
    bench.record.unlink()
    bench.checkout.rename(bench.folder / "by hand")
    if left:
        bench.part.mkdir(parents=True)
    install(printed)
    index = ["--index-url", f"{INDEX}/cu128"]
    assert by_hand == [
        ["git", "clone", URL, str(bench.part)],
        ["git", "-C", str(bench.part), "checkout", "--quiet", "--detach", COMMIT],
        ["pip", "install", *BUILDS["cu128"].split(), "xformers", *index],
        ["pip", "install", "-e", str(bench.checkout)],
        ["pip", "install", "tensorboard"],
    ]
    assert bench.calls() == by_hand and (printed[0].argv[0] == "rm") is left
    assert find(None, bench.base).complaint() is None and not bench.part.exists()
    assert "".join(said).count("Collecting things") == 3


def test_what_a_python_answers(bench: Bench) -> None:
    """With all of it nothing is to be done: of a package that nobody named anybody's may have the name."""
    shutil.copytree(STANDIN / "src", bench.folder / "src")
    wanted = ["xformers.ops", "bitsandbytes.optim:Lion", "no_such_optimizer:Best"]
    assert bench.plan(bench.python(bare=False), bench.folder, wanted) == []
    (bench.folder / "src" / "cv2.py").write_text("raise ImportError('made for another one')")
    answer = ask(bench.python(bare=False), Upstream(folder=bench.folder), ["cv2", "torch"])
    assert answer["missing"].keys() == {"cv2"} and answer["packages"]["torch"] == version("torch")


INSTALL = """
import json, sys
from wanwrap.machine.install import Command, install
install([Command("", tuple(argv)) for argv in json.loads(sys.argv[1])])
"""


@pytest.mark.parametrize("how", ["SIGKILL", "SIGINT"])
def test_a_clone_that_is_stopped_leaves_no_checkout(bench: Bench, how: str) -> None:
    listed = json.dumps([each.argv for each in bench.plan(bench.python())])
    env = {**os.environ, "PYTHONPATH": str(ROOT), "GIT_DOES": how}
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-c", INSTALL, listed], env=env, capture_output=True)
    assert done.returncode == -getattr(signal, how)
    assert time.monotonic() - begun < 20  # git, which sleeps for a minute, has been ended
    assert bench.part.is_dir() and not bench.checkout.exists()
    install(bench.plan(bench.python()))
    assert find(None, bench.base).complaint() is None and not bench.part.exists()


def failure(listed: list[Command], kind: type[WanwrapError]) -> str:
    """What a user is told."""
    with pytest.raises(kind) as caught:
        install(listed)
    return str(caught.value)


@pytest.mark.parametrize(
    ("does", "nouns"),
    [("no network", "0.3.4.*network"), ("no commit", "30c658c"), ("", "install git.*--musubi_dir")],
)
def test_git_fails(bench: Bench, monkeypatch: pytest.MonkeyPatch, does: str, nouns: str) -> None:
    listed = bench.plan(bench.python())
    monkeypatch.setenv("GIT_DOES", does)
    if not does:
        monkeypatch.setenv("PATH", str(bench.folder))
    assert re.search(nouns, failure(listed, UpstreamError), re.S)
    assert not bench.checkout.exists() and "pip" not in [call[0] for call in bench.calls()]


@pytest.mark.parametrize(
    ("says", "noun"),
    [
        ("error: externally-managed-environment\n\n× This environment is externally managed", "-m venv"),
        ("/usr/bin/python3: No module named pip", "ensurepip"),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "cache purge"),
        ("Retrying ... Temporary failure in name resolution\nERROR: No matching distribution found", "HTTPS_PROXY"),
        ("ERROR: No matching distribution found for torch>=2.7", "--torch"),
        ("error: metadata-generation-failed", "mend"),
        ("KILL", "(-9); usually the memory"),
    ],
)
def test_pip_fails(bench: Bench, monkeypatch: pytest.MonkeyPatch, says: str, noun: str, said: list[str]) -> None:
    """What it printed stands on the screen, and is not told again."""
    listed = [Command("what is needed", (bench.python(), "-m", "pip", "install", "av"))]
    monkeypatch.setenv("PIP_SAYS", says)
    told = failure(listed, PackageError)
    assert "-m pip install ... failed" in told and noun in told and "{" not in told and "Collecting" not in told
    assert "Collecting things" in "".join(said) and (says == "KILL" or says in "".join(said))


def test_pip_fails_by_way_of_the_module(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = bench.plan(bench.python())
    monkeypatch.setenv("PIP_SAYS", "error: externally-managed-environment")
    message = failure(listed, PackageError)
    assert f"{bench.folder}/bin/python" in message and "venv" in message
    assert find(None, bench.base).complaint() is None  # the clone is whole, and is not made again
