"""Getting upstream: which torch build, which commands, and what is left when they fail or are killed.

nvidia-smi, git and pip are stand-ins, each a process of its own; no network, no GPU.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, STANDIN

from wanwrap.errors import GpuError, PackageError, UpstreamError, WanwrapError
from wanwrap.machine.driver import Driver, build, driver
from wanwrap.machine.install import Command, commands, install, question
from wanwrap.plan.preflight import ask
from wanwrap.plan.request import Request
from wanwrap.preset import load
from wanwrap.upstream.pin import COMMIT, URL, find

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the stand-ins are scripts with a #! line")

pytest.importorskip("torch")
TORCH = version("torch")  # what is installed where the tests run
INDEX = "https://wheels.test"
PROJECT = f"""
[project]
name = "musubi-tuner"
version = "0.3.4"
[project.optional-dependencies]
cu124 = ["torch>=2.5", "torchvision>=0.20"]
cu128 = ["torch>=2.7", "torchvision>=0.22"]
cu130 = ["torch>=2.9", "torchvision>=0.24"]
[[tool.uv.index]]
name = "pytorch-cu124"
url = "{INDEX}/124"
[[tool.uv.index]]
name = "pytorch-cu128"
url = "{INDEX}/128"
[[tool.uv.index]]
name = "pytorch-cu130"
url = "{INDEX}/130"
"""

SMI = """#!/bin/sh
case "$1" in
  *compute_cap*) cat {rows} ;;
  *) cat {banner} ;;
esac
"""

GIT = """#!{python}
import json, os, pathlib, shutil, signal, sys, time
with open({record!r}, "a") as file:
    print(json.dumps(["git", *sys.argv[1:]]), file=file)
mode = os.environ.get("GIT_DOES", "")
if mode == "no network":
    sys.exit("fatal: unable to access 'URL': Could not resolve host: github.com")
if sys.argv[1] == "clone":
    folder = pathlib.Path(sys.argv[3])
    if folder.exists():
        sys.exit("fatal: destination path already exists and is not an empty directory.")
    folder.mkdir(parents=True)
    if mode == "killed":
        os.kill(os.getppid(), signal.SIGKILL)
        sys.exit()
    if mode == "interrupted":
        os.kill(os.getppid(), signal.SIGINT)
        time.sleep(60)
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

    def script(self, name: str, text: str) -> Path:
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return path

    def smi(self, cuda: str, *rows: str) -> None:
        """A driver, as its nvidia-smi tells of it."""
        banner, gpus = self.folder / "banner", self.folder / "gpus"
        banner.write_text(f"Thu Oct  1 10:00:00 2026\n+-----+\n| NVIDIA-SMI 1.2.3   {cuda}  |\n|-----+\n")
        gpus.write_text("".join(f"{row}\n" for row in rows))
        self.script("nvidia-smi", SMI.format(rows=gpus, banner=banner))

    def python(self, *, bare: bool = False) -> str:
        """A Python whose pip only records; a bare one has no packages."""
        flags = ["-S"] if bare else []
        return str(self.script("python", PYTHON.format(python=sys.executable, record=str(self.record), flags=flags)))

    @property
    def record(self) -> Path:
        return self.folder / "record"

    def calls(self) -> list[list[str]]:
        """What reached git and pip."""
        return [json.loads(line) for line in self.record.read_text().splitlines()] if self.record.exists() else []

    def own(self, *lacking: str, cuda: bool = True) -> Path:
        """A checkout of the user's, with all that is needed but `lacking`."""
        folder = self.folder / "own"
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run(["git", "clone", URL, folder], check=True)
        self.record.unlink()
        for name in lacking:
            (folder / "src" / f"{name}.py").write_text("raise ImportError('made for another one')")
        if not cuda:
            (folder / "src" / "torch" / "_C.py").write_text("")
        return folder

    def plan(self, python: str, given: Path | None = None, *wanted: str, **options: Any) -> list[Command]:
        """What `commands` makes of what the Python answers."""
        request = self.request(python, given)
        seen = options.get("seen", Driver((12, 8), {"RTX 4090": (8, 9)}))
        return commands(request, ask(python, request.upstream, question(wanted)), seen, options.get("torch"))

    def request(self, python: str, given: Path | None = None) -> Request:
        preset = load("t2v-vanilla")
        return Request(preset=preset, base_dir=self.base, upstream=find(given, self.base), python=python)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench(tmp_path)
    git = GIT.format(python=sys.executable, record=str(made.record), standin=str(STANDIN), project=PROJECT)
    made.script("git", git)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return made


def short(listed: list[Command], bench: Bench) -> list[str]:
    """The command lines, with short names for places."""
    lines = [shlex.join(command.argv) for command in listed]
    names = {sys.executable: "PY", str(ROOT): "ROOT", str(bench.folder / "bin" / "python"): "TRAIN"}
    for place, name in {str(bench.base): "BASE", str(bench.folder): "TMP", **names}.items():
        lines = [re.sub(rf"'?{re.escape(place)}([\w./-]*)'?", rf"{name}\1", line) for line in lines]
    return [line.replace("TMP/bin/python", "TRAIN") for line in lines]


# which build

R535, R550, R560 = (
    f"Driver Version: {n}.1.2    CUDA Version: {c} " for n, c in ((535, 12.2), (550, 12.4), (560, 12.6))
)
R570, R580 = (f"Driver Version: {n}.1.2    CUDA Version: {c} " for n, c in ((570, 12.8), (580, "13.0")))
R610 = "KMD Version: 610.43.02     CUDA UMD Version: 13.3 "
ADA, BLACK, PASCAL = "NVIDIA GeForce RTX 4090, 8.9", "NVIDIA GeForce RTX 5090, 12.0", "NVIDIA GeForce GTX 1080 Ti, 6.1"
TURING = "NVIDIA GeForce RTX 2080 Ti, 7.5"


@pytest.mark.parametrize(
    ("banner", "gpus", "expected"),
    [
        (R550, [ADA], "cu124"),
        (R560, [ADA], "cu124"),
        (R570, [ADA], "cu128"),
        (R580, [ADA], "cu130"),
        (R610, [ADA], "cu130"),
        (R570, [BLACK], "cu128"),
        (R580, [BLACK, ADA], "cu130"),
        (R580, [TURING], "cu130"),
        (R580, [PASCAL], "cu124"),
        (R580, [ADA, PASCAL], "cu124"),
        (R580, [BLACK, PASCAL], "cu130"),
        (R580, ["Some Day's GPU, [N/A]"], "cu130"),
        (R570, [], "cu128"),
    ],
)
def test_the_newest_build_that_driver_and_gpus_can_run(
    bench: Bench, banner: str, gpus: list[str], expected: str
) -> None:
    bench.smi(banner, *gpus)
    assert build(driver()) == expected


@pytest.mark.parametrize(
    ("banner", "gpus", "words"),
    [
        (R535, [ADA], ["CUDA 12.2", "driver 550 or newer", "--torch cu124"]),
        ("CUDA Version: 11.8 ", [ADA], ["CUDA 11.8", "install driver 550 or newer."]),
        (R560, [ADA, BLACK], ["NVIDIA GeForce RTX 5090", "CUDA 12.8", "install driver 570 or newer."]),
        (R535, [BLACK], ["NVIDIA GeForce RTX 5090", "install driver 570 or newer."]),
        ("CUDA Version: N/A ", [ADA], ["no NVIDIA driver", "--torch (cpu, cu124, cu128, cu130)"]),
    ],
)
def test_a_driver_that_no_build_fits_is_told_what_to_do(
    bench: Bench, banner: str, gpus: list[str], words: list[str]
) -> None:
    bench.smi(banner, *gpus)
    with pytest.raises(GpuError) as caught:
        build(driver())
    assert [word for word in words if word not in str(caught.value)] == []


def test_a_driver_tells_its_gpus(bench: Bench) -> None:
    bench.smi(R570, ADA, PASCAL, "Some Day's GPU, [N/A]")
    assert driver() == Driver((12, 8), {"NVIDIA GeForce RTX 4090": (8, 9), "NVIDIA GeForce GTX 1080 Ti": (6, 1)})


def test_a_driver_that_knows_no_capabilities(bench: Bench) -> None:
    bench.smi("CUDA Version: 11.4", "GPU")
    smi = bench.folder / "bin" / "nvidia-smi"
    smi.write_text(smi.read_text().replace("*compute_cap*) cat", "*compute_cap*) exit 2; cat"))
    assert driver() == Driver((11, 4))


def test_a_driver_that_hangs_is_given_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.script("nvidia-smi", "#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr("wanwrap.machine.driver.PATIENCE", 0.5)
    begun = time.monotonic()
    assert driver() is None and time.monotonic() - begun < 20


def test_no_driver(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.script("nvidia-smi", "#!/bin/sh\necho 'CUDA Version: 12.8, but NVIDIA-SMI has failed'\nexit 9\n")
    assert driver() is None
    monkeypatch.setenv("PATH", str(bench.folder))
    assert driver() is None
    with pytest.raises(GpuError, match=r"install NVIDIA's driver, or .* --torch .* AMD"):
        build(None)


# which commands


def test_nothing_is_there(bench: Bench) -> None:
    part = "BASE/musubi-tuner.wanwrap-part"
    assert short(bench.plan(bench.python(bare=True), None, "xformers.ops", "tensorboard"), bench) == [
        f"git clone {URL} {part}",
        f"git -C {part} checkout --quiet --detach {COMMIT}",
        f"mv {part} BASE/musubi-tuner",
        "PY ROOT/wanwrap/machine/torch_index.py TRAIN BASE/musubi-tuner cu128 torch torchvision xformers",
        "TRAIN -m pip install -e BASE/musubi-tuner",
        "TRAIN -m pip install tensorboard",
    ]


def test_a_checkout_names_index_and_bounds(bench: Bench) -> None:
    install(bench.plan(bench.python(bare=True), None, torch="cu130")[:3])
    (bench.checkout / "src" / "torch" / "__init__.py").write_text("raise ImportError('libcudnn.so.9')")
    for named, expected in {
        "cu124": f"'torch>=2.5' 'torchvision>=0.20' --index-url {INDEX}/124",
        "cu128": f"'torch>=2.7' 'torchvision>=0.22' --index-url {INDEX}/128",
        "cpu": "'torch>=2.9' 'torchvision>=0.24'",
    }.items():
        torch, needs = bench.plan(bench.python(bare=True), None, torch=named)
        assert short([torch, needs], bench) == [
            f"TRAIN -m pip install {expected}",
            "TRAIN -m pip install -e BASE/musubi-tuner",
        ]


def test_a_torch_that_works_is_kept(bench: Bench) -> None:
    python, own = bench.python(), bench.own("cv2", "torchvision")
    kept = f"torch=={TORCH}"
    assert short(bench.plan(python, own, "tensorboard", torch="cu124"), bench) == [
        f"TRAIN -m pip install -e TMP/own {kept}",
        f"TRAIN -m pip install torchvision {kept}",
    ]


def test_nothing_to_do(bench: Bench) -> None:
    wanted = ("xformers.ops", "tensorboard", "bitsandbytes.optim:Lion")
    assert bench.plan(bench.python(), bench.own(), *wanted) == []


def test_a_package_that_nobody_named_is_not_installed(bench: Bench) -> None:
    assert bench.plan(bench.python(), bench.own(), "no_such_optimizer:Best") == []


def test_a_torch_for_the_cpu_is_replaced_where_a_gpu_is(bench: Bench) -> None:
    python, own = bench.python(), bench.own(cuda=False)
    anew, whole = bench.plan(python, own)
    assert anew.why == f"PyTorch for CUDA 12.8, in place of {TORCH}, which is a build for the CPU"
    both = f"'torch>=2.7' 'torchvision>=0.22' --index-url {INDEX}/128"
    assert short([anew, whole], bench) == [
        f"TRAIN -m pip install --force-reinstall --no-deps {both}",
        f"TRAIN -m pip install {both}",
    ]
    assert bench.plan(python, own, seen=None) == []
    assert bench.plan(python, own, torch="cpu") == []
    needs = bench.plan(python, bench.own("cv2", cuda=False))[2]
    assert short([needs], bench) == ["TRAIN -m pip install -e TMP/own"]  # the one that goes must not be kept


@pytest.mark.parametrize(
    ("module", "package"), [pytest.param("xformers.ops", "xformers"), ("torchvision", "torchvision")]
)
def test_what_fits_one_torch_comes_from_the_index_of_that_torch(bench: Bench, module: str, package: str) -> None:
    own = bench.own()
    request = bench.request("python", own)
    for there, index in {"2.9.1+cu130": f" --index-url {INDEX}/130", "2.9.1+cu126": "", "2.9.1": ""}.items():
        answer = {"missing": {module: "built for another"}, "packages": {"torch": there}}
        (only,) = commands(request, answer, None)
        assert shlex.join(only.argv) == f"python -m pip install {package} torch=={there}{index}"


def test_a_build_that_the_checkout_does_not_know(bench: Bench) -> None:
    own = bench.own(cuda=False)
    (own / "pyproject.toml").write_text(PROJECT.replace("cu130", "cu126"))
    for named in ("cu130", "cpu"):
        python = bench.python()
        (own / "src" / "torch" / "__init__.py").write_text("raise ImportError('gone')")
        with pytest.raises(UpstreamError, match=f"no PyTorch for {named}; give another --torch"):
            bench.plan(python, own, torch=named)


def test_no_driver_matters_only_where_torch_is_missing(bench: Bench) -> None:
    with pytest.raises(GpuError, match="no NVIDIA driver"):
        bench.plan(bench.python(bare=True), seen=None)
    assert bench.plan(bench.python(), bench.own(), seen=None) == []


def test_what_lies_where_upstream_goes_is_not_touched(bench: Bench) -> None:
    bench.checkout.mkdir(parents=True)
    (bench.checkout / "notes").touch()
    with pytest.raises(UpstreamError, match=r"no checkout of musubi-tuner; move it away, or .* --musubi_dir"):
        bench.plan(bench.python(bare=True))


# carrying them out


def test_all_of_it(bench: Bench, said: list[str]) -> None:
    install(bench.plan(bench.python(bare=True), None, "tensorboard"))
    assert find(None, bench.base).complaint() is None and not bench.part.exists()
    index = ["--index-url", f"{INDEX}/128"]
    assert bench.calls() == [
        ["git", "clone", URL, str(bench.part)],
        ["git", "-C", str(bench.part), "checkout", "--quiet", "--detach", COMMIT],
        ["pip", "install", "torch>=2.7", "torchvision>=0.22", *index],
        ["pip", "install", "-e", str(bench.checkout)],
        ["pip", "install", "tensorboard"],
    ]
    text = "".join(said)
    assert "PyTorch for CUDA 12.8 (some GB) (4 of 6)" in text and text.count("Collecting things") == 3


@pytest.mark.parametrize("left", [False, True])
def test_what_is_printed_can_be_pasted(bench: Bench, left: bool) -> None:
    if left:
        bench.part.mkdir(parents=True)
    printed = bench.plan(bench.python(bare=True), None, "tensorboard")
    subprocess.run(["sh", "-e"], input="\n".join(shlex.join(each.argv) for each in printed), text=True, check=True)
    by_hand = bench.calls()
    bench.record.unlink()
    bench.checkout.rename(bench.folder / "by hand")
    if left:
        bench.part.mkdir(parents=True)
    again = bench.plan(bench.python(bare=True), None, "tensorboard")
    install(again)
    assert [each.argv for each in again] == [each.argv for each in printed]
    assert bench.calls() == by_hand and len(by_hand) == 5
    assert (printed[0].argv == ("rm", "-rf", str(bench.part))) is left


@pytest.mark.parametrize(("how", "status"), [("killed", -9), ("interrupted", 130)])
def test_a_clone_that_is_stopped_leaves_no_checkout(bench: Bench, how: str, status: int) -> None:
    python = bench.python(bare=True)
    program = f"""if True:
        import sys
        from pathlib import Path
        from wanwrap.machine.install import commands, install
        from wanwrap.plan.request import Request
        from wanwrap.preset import load
        from wanwrap.upstream.pin import find
        base = Path({str(bench.base)!r})
        request = Request(preset=load("t2v-vanilla"), base_dir=base, upstream=find(None, base), python={python!r})
        answer = {{"missing": {{"musubi_tuner": "gone"}}, "packages": {{"torch": "2.9"}}}}
        try:
            install(commands(request, answer, None))
        except KeyboardInterrupt:
            sys.exit(130)
    """
    env = {**os.environ, "GIT_DOES": how, "PYTHONPATH": str(ROOT)}
    begun = time.monotonic()
    assert subprocess.run([sys.executable, "-c", program], env=env, capture_output=True).returncode == status
    assert time.monotonic() - begun < 20  # git, which sleeps for a minute, has been ended
    assert bench.part.is_dir() and not bench.checkout.exists()
    del env["GIT_DOES"]
    subprocess.run([sys.executable, "-c", program], env=env, check=True, capture_output=True)
    assert find(None, bench.base).complaint() is None and not bench.part.exists()
    assert bench.calls()[-1] == ["pip", "install", "-e", str(bench.checkout), "torch==2.9"]


@pytest.mark.parametrize(
    ("does", "words"),
    [
        ("no network", ["musubi-tuner 0.3.4", "the network failed", "Could not resolve host: github.com"]),
        ("no commit", ["its commit 30c658c", "unable to read tree"]),
    ],
)
def test_git_fails(bench: Bench, monkeypatch: pytest.MonkeyPatch, does: str, words: list[str]) -> None:
    monkeypatch.setenv("GIT_DOES", does)
    message = failure(bench.plan(bench.python(bare=True)), UpstreamError)
    assert [word for word in words if word not in message] == []
    assert not bench.checkout.exists() and "pip" not in [call[0] for call in bench.calls()]


def test_no_git(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = bench.plan(bench.python(bare=True))
    monkeypatch.setenv("PATH", str(bench.folder))
    assert "install git, or give your own checkout" in failure(listed, UpstreamError)


@pytest.mark.parametrize(
    ("says", "words"),
    [
        ("error: externally-managed-environment\n\n× This environment is externally managed", "-m venv FOLDER"),
        ("/usr/bin/python3: No module named pip", "-m ensurepip"),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "cache purge"),
        (
            "Retrying ... NewConnectionError('Failed to establish a new connection: [Errno -3] Temporary failure in name "
            "resolution')\nERROR: No matching distribution found for torch>=2.7",
            "HTTPS_PROXY",
        ),
        ("ERROR: No matching distribution found for torch>=2.7", "another --torch"),
        ("error: metadata-generation-failed", "mend what it says and try again"),
    ],
)
def test_pip_fails(bench: Bench, monkeypatch: pytest.MonkeyPatch, says: str, words: str) -> None:
    listed = bench.plan(bench.python(), bench.own("cv2"))
    monkeypatch.setenv("PIP_SAYS", says)
    first, *tail = failure(listed, PackageError).splitlines()
    assert "-m pip install ... failed (1)" in first and words in first and "{" not in first
    assert tail == ["Collecting things", *(line for line in says.splitlines() if line)]


def test_pip_is_killed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = bench.plan(bench.python(), bench.own("cv2"))
    monkeypatch.setenv("PIP_SAYS", "KILL")
    assert "failed (-9); usually the memory was full" in failure(listed, PackageError)


def test_a_place_that_is_taken_meanwhile(bench: Bench) -> None:
    listed = bench.plan(bench.python(bare=True))
    bench.checkout.mkdir(parents=True)
    (bench.checkout / "notes").touch()
    assert "look at what is there" in failure(listed, UpstreamError)
    assert [path.name for path in bench.checkout.iterdir()] == ["notes"]


def failure(listed: list[Command], kind: type[WanwrapError]) -> str:
    """What a user is told."""
    with pytest.raises(kind) as caught:
        install(listed)
    return str(caught.value)


def test_pip_fails_by_way_of_the_module(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_SAYS", "error: externally-managed-environment")
    message = failure(bench.plan(bench.python(bare=True)), PackageError)
    assert f"{bench.folder}/bin/python" in message and "-m venv" in message
    assert find(None, bench.base).complaint() is None  # the clone is whole, and is not made again
    assert bench.calls()[-1][:2] == ["pip", "install"]
