"""Upstream into the Python that trains: the pinned commit, the torch build that fits the driver, what presets import.

`trainer` decides and touches nothing, `install_all` carries it out: what a dry run prints is what a setup runs.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from wanwrap.errors import GpuError, PackageError, StepError, UpstreamError, WanwrapError
from wanwrap.machine import torch_index
from wanwrap.machine.driver import BUILDS, Driver, build, driver
from wanwrap.machine.wish import Wish
from wanwrap.plan import preflight
from wanwrap.system import console, process
from wanwrap.system.files import PART
from wanwrap.upstream import pin
from wanwrap.upstream.pin import COMMIT, PIP, PYTHONS, URL, VERSION, Upstream

# what upstream's Wan scripts import at their start (facts read from upstream's code), and what comes with upstream
NEEDS = ("accelerate", "av", "cv2", "diffusers", "easydict", "einops", "ftfy", "toml", "transformers", "voluptuous")
BROUGHT = {*NEEDS, "bitsandbytes"}
CUDA_BUILD = "torch._C:_cuda_getDeviceCount"  # not in a build for the CPU (torch.cuda asks the same)

NETWORK = r"resolve host|name resolution|getaddrinfo|unreachable|timed out|connection ?error|new connection|early eof|"
NETWORK += r"connection (was )?(refused|reset|closed|aborted)|proxyerror|ssl ?error|ssl certificate|certificate_verify"
HINTS = {  # what users meet -> the way out; the first that is found in the output
    r"externally-managed-environment": "{python} belongs to the system: make an environment of your own "
    "({python} -m venv FOLDER) and give its Python with --python",
    r"No module named '?pip\b": "that Python has no pip: get it with {python} -m ensurepip, or, where uv made it, "
    "with uv pip install --python {python} pip",
    r"No space left|disk full|Errno 28|not enough space": "the disk is full: make room "
    "(pip unpacks in the folder TMPDIR and keeps its downloads: {python} -m pip cache purge), then try again",
    NETWORK: "the network failed: check the connection (behind a proxy, set HTTPS_PROXY), then try again",
    r"No matching distribution|ResolutionImpossible": "there is none that fits this Python, this system and that build: "
    f"give another --torch, or another --python ({', '.join(PYTHONS)})",
}
NO_GIT = "git is not there, and musubi-tuner comes with it; install git, or give your own checkout with --musubi_dir."
KEEP = 8000  # bytes of output in which a hint is looked for


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command line, and the Python it installs into.

    With `does`, wanwrap does by itself what the line says, for not every system has that program.
    """

    argv: tuple[str, ...]
    why: str
    python: str = ""
    fails: type[WanwrapError] = PackageError
    does: Callable[[], object] | None = None


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """Upstream in the Python that will train: what has to be installed for it, or why that can't be."""

    commands: tuple[Command, ...] = ()
    problem: WanwrapError | None = None


def trainer(wish: Wish, torch: str | None) -> Trainer:
    """What is missing; `torch` is the build that the user names. Nothing has been installed yet."""
    try:
        seen = driver()
        answer = preflight.ask(wish.python, wish.upstream, question(wish.modules))
        return Trainer(commands=tuple(commands(wish, answer, seen, torch)))
    except (PackageError, GpuError, UpstreamError) as error:
        return Trainer(problem=error)


def install_all(wish: Wish, found: Trainer) -> Upstream:
    """Install what is missing, and have it imported: the upstream that will train.

    Raises:
        PackageError, GpuError, UpstreamError: it can't be installed, or can't be imported after all.
    """
    if found.problem:
        raise found.problem
    wish.base_dir.mkdir(parents=True, exist_ok=True)
    install(found.commands)
    upstream = pin.find(None, wish.base_dir) if wish.upstream.folder is None else wish.upstream
    answer = preflight.ask(wish.python, upstream, question(wish.modules) - {CUDA_BUILD})
    found_upstream = preflight.check_upstream(answer, wish.python, upstream, any_upstream=True)
    preflight.check_packages(answer, wish.python)
    return found_upstream


def question(wanted: Iterable[str]) -> set[str]:
    """What to `preflight.ask` of the training Python before `commands`; `wanted` is what the chosen presets import."""
    return {*wanted, "musubi_tuner", "torch", "torchvision", CUDA_BUILD, *NEEDS}


def commands(wish: Wish, answer: Mapping[str, Any], seen: Driver | None, torch: str | None = None) -> list[Command]:
    """What is missing, in order; `answer` is to `question`, `torch` the build that the user named.

    A module that neither upstream brings nor `pin.PIP` names gets nothing installed: a package of its name may be
    anybody's. `preflight.check_packages` says so afterwards.

    Raises:
        GpuError: torch is missing, and no build fits.
        UpstreamError: what is there is no checkout, or does not know the build.
    """
    modules = {module.partition(":")[0] for module in answer["missing"]}
    names = {module.partition(".")[0] for module in modules}
    brought, fresh, python = bool(names & BROUGHT), _wants_torch(answer["missing"], seen, torch), wish.python
    checkout = wish.upstream.folder or wish.base_dir / "musubi-tuner"
    clone = []
    if wish.upstream.folder is None and (fresh or brought or "musubi_tuner" in names):
        clone = _clone(checkout)
    extras, version, first = sorted(names & PIP.keys() - {"torch", *BROUGHT}), answer["packages"].get("torch"), []
    # what keeps pip from changing the torch that is there: accelerate, bitsandbytes and xformers all want one
    kept = [f"torch=={version}"] if version and not fresh else []
    if fresh:
        joint = [PIP[name] for name in extras if name == "xformers"]
        first = _torch(python, checkout, torch or build(seen), _replaced(answer), joint)
        extras = [name for name in extras if name != "xformers"]
    elif "torchvision" in names:
        extras.insert(0, "torchvision")
    needs = []
    if clone or brought:
        needs = [_pip(f"what musubi-tuner {VERSION} needs", python, "-e", str(checkout), *kept)]
    return [*clone, *first, *needs, *(_extra(name, python, checkout, kept) for name in extras)]


def _wants_torch(missing: Mapping[str, str], seen: Driver | None, torch: str | None) -> bool:
    """Whether torch can't be imported, or is a build for the CPU where a GPU is to train."""
    gpu = torch != "cpu" and (torch is not None or seen is not None)
    return "torch" in missing or (gpu and CUDA_BUILD in missing)


def _replaced(answer: Mapping[str, Any]) -> str:
    """What is said of a torch that has to go; nothing where there is none."""
    version, broken = answer["packages"].get("torch"), "torch" in answer["missing"]
    why = "can't be imported" if broken else "is a build for the CPU"
    return f", in place of {version or 'the one there'}, which {why}" if version or not broken else ""


def _clone(checkout: Path) -> list[Command]:
    """The pinned commit, under its name only when it is whole."""
    if os.path.lexists(checkout):
        raise UpstreamError(
            f"{checkout} is there and is no checkout of musubi-tuner; move it away, or give one with --musubi_dir."
        )
    part = checkout.with_name(checkout.name + PART)
    rows: list[tuple[str, tuple[str, ...], Callable[[], object] | None]] = [
        (f"musubi-tuner {VERSION}", ("git", "clone", URL, str(part)), None),
        (f"its commit {COMMIT[:7]}", ("git", "-C", str(part), "checkout", "--quiet", "--detach", COMMIT), None),
        ("whole: under its name", ("mv", str(part), str(checkout)), partial(part.rename, checkout)),
    ]
    if os.path.lexists(part):
        rows.insert(0, ("what a killed attempt left", ("rm", "-rf", str(part)), partial(_remove, part)))
    return [Command(why=why, argv=argv, fails=UpstreamError, does=does) for why, argv, does in rows]


def _remove(folder: Path) -> None:
    if os.name == "nt":  # git's objects are read-only, and Windows removes no such file
        for path in folder.rglob("*"):
            path.chmod(stat.S_IWRITE)
    shutil.rmtree(folder)


def _torch(python: str, checkout: Path, build: str, replaced: str, joint: Sequence[str]) -> list[Command]:
    """torch and torchvision, and what has to fit them: pip chooses the newest torch for which there is all of it."""
    name = "the CPU" if build == "cpu" else "CUDA " + ".".join(map(str, BUILDS[build][0]))
    both = ("torch", "torchvision")
    rows = {f"PyTorch for {name} (some GB)": (*both, *joint)}
    if replaced:  # a build for the CPU would satisfy pip; what it depends on must not be installed anew with it
        rows = {f"PyTorch for {name}{replaced}": ("--force-reinstall", "--no-deps", *both), **rows}
    return [
        Command(why=why, argv=torch_index.command(python, checkout, build, *words), python=python)
        for why, words in rows.items()
    ]


def _extra(module: str, python: str, checkout: Path, kept: Sequence[str]) -> Command:
    """One more package; what fits one build of torch only comes from that build's index."""
    words, tag = (*shlex.split(PIP.get(module, module)), *kept), "".join(kept).partition("+")[2]
    if module in ("torchvision", "xformers") and tag in BUILDS:
        return Command(why=module, argv=torch_index.command(python, checkout, tag, *words), python=python)
    return _pip(module, python, *words)


def _pip(why: str, python: str, *words: str) -> Command:
    return Command(why=why, argv=(python, "-m", "pip", "install", *words), python=python)


def install(commands: Sequence[Command]) -> None:
    """All of them in order; what they print is shown as it comes.

    Raises:
        UpstreamError, PackageError: one failed; what it printed at the end, and a way out.
        KeyboardInterrupt: Ctrl-C; nothing is left running.
    """
    for number, command in enumerate(commands, 1):
        console.say(f"\n{command.why} ({number} of {len(commands)})\n+ {shlex.join(command.argv)}")
        if command.does is None:
            _run(command)
            continue
        try:
            command.does()
        except OSError as error:
            raise command.fails(f"{shlex.join(command.argv)}: {error}; look at what is there and try again.") from error


def _run(command: Command) -> None:
    """Messages of git in English: the hints are looked for in them."""
    tail = b""

    def listen(chunk: bytes) -> None:
        nonlocal tail
        tail = (tail + chunk)[-KEEP:]
        console.write(chunk)

    try:
        status = process.run(process.Command(command.argv, Path.cwd(), {"LANGUAGE": "en"}), listen)
    except StepError as error:
        raise command.fails(NO_GIT if command.argv[0] == "git" else str(error)) from error
    if status:
        raise command.fails(_failed(command, status, tail.decode("utf-8", "replace")))


def _failed(command: Command, status: int, text: str) -> str:
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", text) if line.strip()][-12:]
    found = (hint for pattern, hint in HINTS.items() if re.search(pattern, text, re.I))
    hint = next(found, "mend what it says and try again")
    if status == -9:
        hint = "usually the memory was full: close other programs, and set PIP_NO_CACHE_DIR=1"
    way = hint.format(python=shlex.quote(command.python))
    return "\n".join([f"{command.why}: {shlex.join(command.argv[:4])} ... failed ({status}); {way}.", *lines])
