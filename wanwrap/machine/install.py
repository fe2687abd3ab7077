"""Upstream into the Python that trains: the pinned commit, the torch build that fits the driver, what presets import.

`missing` decides and touches nothing, `install_all` carries it out: what a dry run prints is what a setup runs.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from wanwrap.errors import PackageError, StepError, UpstreamError
from wanwrap.machine import torch_index
from wanwrap.machine.driver import BUILDS, Driver, build, driver
from wanwrap.plan import preflight
from wanwrap.plan.request import Request
from wanwrap.system import console, process
from wanwrap.system.files import PART, patiently
from wanwrap.system.shell import joined, native
from wanwrap.upstream import pin
from wanwrap.upstream.pin import BRINGS, BROUGHT, COMMIT, NEEDS, PIP, PYTHONS, URL, VERSION, Upstream

FITTING = {"torchvision", "xformers"}  # each of their builds fits one build of torch
REMOVE = {"bash": ("rm", "-rf"), "powershell": ("rm", "-Recurse", "-Force")}
CUDA_BUILD = "torch._C:_cuda_getDeviceCount"  # not in a build for the CPU (torch.cuda asks the same)

NETWORK = r"resolve host|name resolution|getaddrinfo|unreachable|timed out|connection ?error|new connection|early eof|"
NETWORK += r"connection (was )?(refused|reset|closed|aborted)|proxyerror|ssl ?error|ssl certificate|certificate_verify"
HINTS = {  # what users meet -> the way out; the first that is found in the output
    r"externally-managed-environment": "that Python belongs to the system: make an environment of your own (call it "
    "with -m venv FOLDER) and give the Python in there with --python",
    r"No module named '?pip\b": "that Python has no pip: call it with -m ensurepip, or, where uv made it, get pip "
    "with uv pip install --python PYTHON pip",
    r"No space left|disk full|Errno 28|not enough space": "the disk is full: make room "
    "(pip unpacks in the folder TMPDIR, and pip cache purge removes its downloads), then try again",
    NETWORK: "the network failed: check the connection (behind a proxy, set HTTPS_PROXY), then try again",
    r"No matching distribution|ResolutionImpossible": "there is none that fits this Python, this system and that build: "
    f"give another --torch, or another --python ({', '.join(PYTHONS)})",
}
KILLED = "usually the memory was full: close other programs, and set PIP_NO_CACHE_DIR=1"
NO_GIT = "git is not there, and musubi-tuner comes with it; install git, or give your own checkout with --musubi_dir."
KEEP = 8000  # bytes of output in which a hint is looked for


class Command(NamedTuple):
    """One command line, and what it brings."""

    why: str
    argv: tuple[str, ...]


def missing(request: Request, modules: Iterable[str], torch: str | None, packages: Sequence[str] = ()) -> list[Command]:
    """The commands that install what is missing, and the `packages` that the user names, as the build of `torch`. Nothing
    is changed.

    Raises:
        PackageError, GpuError, UpstreamError: it can't be installed.
    """
    answer = preflight.ask(request.python, request.upstream, question(modules))
    return commands(request, answer, driver(), torch, packages)


def install_all(request: Request, modules: Iterable[str], commands: Sequence[Command]) -> Upstream:
    """Install what is missing, and have it imported: the upstream that will train.

    Raises:
        PackageError, UpstreamError: it can't be installed, or can't be imported after all.
    """
    install(commands)
    upstream = request.upstream if request.upstream.folder else pin.find(None, request.base_dir)
    _, found = preflight.checked(request.python, upstream, question(modules) - {CUDA_BUILD}, any_upstream=True)
    return found


def question(wanted: Iterable[str]) -> set[str]:
    """What to `preflight.ask` of the training Python before `commands`; `wanted` is what the chosen presets import."""
    return {*wanted, "musubi_tuner", "torch", "torchvision", CUDA_BUILD, *NEEDS}


def commands(
    request: Request,
    answer: Mapping[str, Any],
    seen: Driver | None,
    torch: str | None = None,
    packages: Sequence[str] = (),
) -> list[Command]:
    """What is missing, in order; `answer` is to `question`, `torch` the build and `packages` those that the user named.

    A module that neither upstream brings nor `pin.PIP` names gets nothing installed: a package of its name may be
    anybody's. `preflight.check_packages` says so afterwards.

    Raises:
        GpuError: torch is missing, and no build fits.
        UpstreamError: what is there is no checkout, or does not know the build.
    """
    missing, there, python = answer["missing"], answer["packages"].get("torch"), request.python
    names = {re.split("[.:]", module)[0] for module in missing}
    # it can't be imported, or is a build for the CPU where a GPU is to train
    fresh = "torch" in missing or (CUDA_BUILD in missing and torch != "cpu" and bool(torch or seen))
    needs = bool(names & BROUGHT)
    checkout = request.upstream.folder or request.base_dir / "musubi-tuner"
    cloned = request.upstream.folder is None and (fresh or needs or "musubi_tuner" in names)
    listed, extras = _clone(checkout) if cloned else [], names & BRINGS - {"torch", *BROUGHT}
    # what keeps pip from changing the torch that is there: accelerate, bitsandbytes and xformers all want one
    kept = () if fresh or not there else (f"torch=={there}",)
    if fresh:
        wrong = "can't be imported" if "torch" in missing else "is a build for the CPU"
        replaced = f", in place of {there}, which {wrong}" if there else ""
        listed += _torch(python, checkout, torch or build(seen), replaced, sorted(extras & {"xformers"}))
        extras -= FITTING
    if cloned or needs:
        whole = (python, "-m", "pip", "install", "-e", str(checkout), *kept)
        listed.append(Command(f"what musubi-tuner {VERSION} needs", whole))
    listed += [_extra(name, python, checkout, kept) for name in sorted(extras)]
    named = (python, "-m", "pip", "install", *packages, *kept)
    return [*listed, *([Command("the packages that you name", named)] if packages else [])]


def _extra(module: str, python: str, checkout: Path, kept: Sequence[str]) -> Command:
    """One more package; what fits one build of torch only comes from that build's index."""
    words, tag = (*shlex.split(PIP.get(module, module)), *kept), "".join(kept).partition("+")[2]
    if module in FITTING and tag in BUILDS:
        return Command(module, torch_index.command(python, checkout, tag, *words))
    return Command(module, (python, "-m", "pip", "install", *words))


def _clone(checkout: Path) -> list[Command]:
    """The pinned commit, under its name only when it is whole."""
    if os.path.lexists(checkout):
        raise UpstreamError(
            f"{checkout} is there and is no checkout of musubi-tuner; move it away, or give one with --musubi_dir."
        )
    part = str(checkout.with_name(checkout.name + PART))
    listed = [
        Command("what a killed attempt left", (*REMOVE[native()], part)),
        Command(f"musubi-tuner {VERSION}", ("git", "clone", URL, part)),
        Command(f"its commit {COMMIT[:7]}", ("git", "-C", part, "checkout", "--quiet", "--detach", COMMIT)),
        Command("whole: under its name", ("mv", part, str(checkout))),
    ]
    return listed if os.path.lexists(part) else listed[1:]


def _torch(python: str, checkout: Path, build: str, replaced: str, joint: Sequence[str]) -> list[Command]:
    """torch and torchvision, and what has to fit them: pip chooses the newest torch for which there is all of it."""
    name = "the CPU" if build == "cpu" else "CUDA " + ".".join(map(str, BUILDS[build][0]))
    both, title = ("torch", "torchvision"), f"PyTorch for {name}"
    rows = {f"{title} (some GB)": (*both, *joint)}
    if replaced:  # a build for the CPU would satisfy pip; what it depends on must not be installed anew with it
        rows = {f"{title}{replaced}": ("--force-reinstall", "--no-deps", *both), **rows}
    return [Command(why, torch_index.command(python, checkout, build, *words)) for why, words in rows.items()]


def install(commands: Sequence[Command]) -> None:
    """All of them in order; what they print is shown as it comes.

    Raises:
        UpstreamError, PackageError: one failed, and a way out.
        KeyboardInterrupt: Ctrl-C; nothing is left running.
    """
    for number, command in enumerate(commands, 1):
        console.say(f"\n{command.why} ({number} of {len(commands)})\n+ {joined(command.argv)}")
        if command.argv[0] in ("mv", "rm"):
            _move_or_remove(command.argv)
        else:
            _run(command)


def _move_or_remove(argv: Sequence[str]) -> None:
    """What these two would do, which not every system has. Raises UpstreamError."""
    try:
        if argv[0] == "mv":
            patiently(lambda: Path(argv[1]).rename(argv[2]))
            return
        for path in Path(argv[-1]).rglob("*") if os.name == "nt" else ():
            path.chmod(stat.S_IWRITE)  # git's objects are read-only, and Windows removes no such file
        patiently(lambda: shutil.rmtree(argv[-1]))
    except OSError as error:
        raise UpstreamError(f"{joined(argv)}: {error}; look at what is there and try again.") from error


def _run(command: Command) -> None:
    """Messages of git in English: the hints are looked for in them."""
    tail, git = b"", command.argv[0] == "git"
    fails = UpstreamError if git else PackageError

    def listen(chunk: bytes) -> None:
        nonlocal tail
        tail = (tail + chunk)[-KEEP:]
        console.write(chunk)

    try:
        status = process.run(process.Command(command.argv, Path.cwd(), {"LANGUAGE": "en"}), listen)
    except StepError as error:
        raise fails(NO_GIT if git else str(error)) from error
    if not status:
        return
    found = (hint for pattern, hint in HINTS.items() if re.search(pattern, tail.decode("utf-8", "replace"), re.I))
    way = KILLED if status == -9 else next(found, "mend what it says and try again")
    what = f"{command.why}: {joined(command.argv[:4])} ... failed ({status})"
    raise fails(f"{what}; {way}.")  # what it printed stands above
