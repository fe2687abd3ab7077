"""Upstream into the Python that trains: the pinned commit, the torch build that fits the driver, what presets import.

`commands` decides and touches nothing, `install` carries it out: what a dry run prints is what a setup runs.
Run by its path, this module is pip with the index that a checkout names for a torch build: before the checkout is there,
nobody knows that index.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import stat
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

from wanwrap.errors import PackageError, StepError, UpstreamError, WanwrapError
from wanwrap.machine.driver import BUILDS, Driver, build
from wanwrap.machine.wish import Wish
from wanwrap.paths import PACKAGE
from wanwrap.plan.preflight import PIP
from wanwrap.system import console, process
from wanwrap.system.files import PART
from wanwrap.upstream.pin import COMMIT, PYTHONS, URL, VERSION

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
    r"permission denied|Read-only file system": "it may not write there: give a --base_dir and a --python of your own",
    r"not a tree|read tree|did not match any": f"{URL} gave no commit {COMMIT[:7]}: see whether git is told to use a copy of it "
    "(git config --get-regexp insteadOf)",
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


def question(wanted: Iterable[str]) -> set[str]:
    """What to `preflight.ask` of the training Python before `commands`; `wanted` is what the chosen presets import."""
    return {*wanted, "musubi_tuner", "torch", "torchvision", CUDA_BUILD, *NEEDS}


def commands(wish: Wish, answer: Mapping[str, Any], seen: Driver | None, torch: str | None = None) -> list[Command]:
    """What is missing, in order; `answer` is to `question`, `torch` the build that the user named.

    A module that neither upstream brings nor `preflight.PIP` names gets nothing installed: a package of its name may be
    anybody's. `preflight.check_answer` says so afterwards.

    Raises:
        GpuError: torch is missing, and no build fits.
        UpstreamError: what is there is no checkout, or does not know the build.
    """
    names = {module.partition(":")[0] for module in answer["missing"]}
    brought = any(name.partition(".")[0] in BROUGHT for name in names)
    fresh, folder, python = _wants_torch(answer["missing"], seen, torch), wish.upstream.folder, wish.python
    checkout = folder or wish.base_dir / "musubi-tuner"
    clone = _clone(checkout) if folder is None and (fresh or brought or "musubi_tuner" in names) else []
    extras = sorted({name.partition(".")[0] for name in names} & PIP.keys() - {"torch", *BROUGHT})
    kept, first = _kept(answer), list[Command]()
    if fresh:
        joint = [name for name in extras if name == "xformers"]
        first = _torch(python, checkout, torch or build(seen), _replaced(answer), *(PIP[name] for name in joint))
        kept, extras = [], [name for name in extras if name not in joint]
    elif "torchvision" in names:
        extras.insert(0, "torchvision")
    needs = [_pip(f"what musubi-tuner {VERSION} needs", python, "-e", str(checkout), *kept)] if clone or brought else []
    return [*clone, *first, *needs, *(_extra(name, python, checkout, kept) for name in extras)]


def _wants_torch(missing: Mapping[str, str], seen: Driver | None, torch: str | None) -> bool:
    """Whether torch can't be imported, or is a build for the CPU where a GPU is to train."""
    gpu = torch != "cpu" and (torch is not None or seen is not None)
    return "torch" in missing or (gpu and CUDA_BUILD in missing)


def _kept(answer: Mapping[str, Any]) -> list[str]:
    """What keeps pip from changing the torch that is there: accelerate, bitsandbytes and xformers all want one."""
    version = answer["packages"].get("torch")
    return [f"torch=={version}"] if version else []


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
    left = _own("what a killed attempt left", partial(_remove, part), "rm", "-rf", str(part))
    return [
        *([left] if os.path.lexists(part) else []),
        Command(why=f"musubi-tuner {VERSION}", argv=("git", "clone", URL, str(part)), fails=UpstreamError),
        Command(
            why=f"its commit {COMMIT[:7]}",
            argv=("git", "-C", str(part), "checkout", "--quiet", "--detach", COMMIT),
            fails=UpstreamError,
        ),
        _own("whole: under its name", partial(part.rename, checkout), "mv", str(part), str(checkout)),
    ]


def _own(why: str, does: Callable[[], object], *argv: str) -> Command:
    return Command(why=why, argv=argv, fails=UpstreamError, does=does)


def _remove(folder: Path) -> None:
    if os.name == "nt":  # git's objects are read-only, and Windows removes no such file
        for path in folder.rglob("*"):
            path.chmod(stat.S_IWRITE)
    shutil.rmtree(folder)


def _torch(python: str, checkout: Path, build: str, replaced: str, *more: str) -> list[Command]:
    """torch and torchvision, and what has to fit them: pip chooses the newest torch for which there is all of it."""
    name = "the CPU" if build == "cpu" else "CUDA " + ".".join(map(str, BUILDS[build][0]))
    both = ("torch", "torchvision")
    # a build for the CPU would satisfy pip; what it depends on must not be installed anew with it
    anew = _indexed(python, checkout, build, "--force-reinstall", "--no-deps", *both)
    return [
        *([Command(why=f"PyTorch for {name}{replaced}", argv=anew, python=python)] if replaced else []),
        Command(
            why=f"PyTorch for {name} (some GB)", argv=_indexed(python, checkout, build, *both, *more), python=python
        ),
    ]


def _extra(module: str, python: str, checkout: Path, kept: Sequence[str]) -> Command:
    """One more package; what fits one build of torch only comes from that build's index."""
    words, tag = (*shlex.split(PIP.get(module, module)), *kept), "".join(kept).partition("+")[2]
    if module in ("torchvision", "xformers") and tag in BUILDS:
        return Command(why=module, argv=_indexed(python, checkout, tag, *words), python=python)
    return _pip(module, python, *words)


def _pip(why: str, python: str, *words: str) -> Command:
    return Command(why=why, argv=(python, "-m", "pip", "install", *words), python=python)


def _indexed(python: str, checkout: Path, build: str, *words: str) -> tuple[str, ...]:
    """pip with a build's index; by way of this module where there is no checkout yet that names it."""
    if (checkout / "pyproject.toml").is_file():
        return from_index(python, checkout, build, *words)
    return (sys.executable, str(PACKAGE / "machine" / "install.py"), python, str(checkout), build, *words)


def from_index(python: str, checkout: Path, build: str, *words: str) -> tuple[str, ...]:
    """`pip install` of `words` with the index of upstream's extra; a bare `torch` gets the extra's bounds.

    Raises:
        UpstreamError: the checkout has no such extra.
    """
    import tomlkit

    try:
        project: Any = tomlkit.parse((checkout / "pyproject.toml").read_text(encoding="utf-8")).unwrap()
        extra = project["project"]["optional-dependencies"]["cu130" if build == "cpu" else build]
        urls = {index["name"]: index["url"] for index in project["tool"]["uv"]["index"]} if build != "cpu" else {}
        index = [] if build == "cpu" else ["--index-url", urls[f"pytorch-{build}"]]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UpstreamError(
            f"the pyproject.toml in {checkout} names no PyTorch for {build}; give another --torch, "
            f"or install torch and torchvision into {python} yourself."
        ) from error
    bounds = {re.split(r"[^\w.-]", each)[0]: each for each in extra} if "torch" in words else {}
    return (python, "-m", "pip", "install", *(bounds.get(word, word) for word in words), *index)


def install(commands: Sequence[Command]) -> None:
    """All of them in order; what they print is shown as it comes.

    Raises:
        UpstreamError, PackageError: one failed; what it printed at the end, and a way out.
        KeyboardInterrupt: Ctrl-C; nothing is left running.
    """
    for number, command in enumerate(commands, 1):
        console.say(f"\n{command.why} ({number} of {len(commands)})\n+ {shlex.join(command.argv)}")
        failed = _own_work(command) if command.does else _run(command)
        if failed:
            raise command.fails(failed)


def _own_work(command: Command) -> str | None:
    """How it failed, or None."""
    assert command.does
    try:
        command.does()
    except OSError as error:
        return f"{shlex.join(command.argv)}: {error}; look at what is there and try again."
    return None


def _run(command: Command) -> str | None:
    """How it failed, or None. Messages of git in English: the hints are looked for in them."""
    tail = b""

    def listen(chunk: bytes) -> None:
        nonlocal tail
        tail = (tail + chunk)[-KEEP:]
        console.write(chunk)

    try:
        status = process.run(process.Command(command.argv, Path.cwd(), {"LANGUAGE": "en"}), listen)
    except StepError as error:
        return NO_GIT if command.argv[0] == "git" else str(error)
    return _failed(command, status, tail.decode("utf-8", "replace")) if status else None


def _failed(command: Command, status: int, text: str) -> str:
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", text) if line.strip()][-12:]
    hint = next(
        (hint for pattern, hint in HINTS.items() if re.search(pattern, text, re.I)), "mend what it says and try again"
    )
    if status == -9:
        hint = "usually the memory was full: close other programs, and set PIP_NO_CACHE_DIR=1"
    way = hint.format(python=shlex.quote(command.python))
    return "\n".join([f"{command.why}: {shlex.join(command.argv[:4])} ... failed ({status}); {way}.", *lines])


def main(python: str, checkout: str, build: str, *words: str) -> None:
    """Be pip, with the index that the checkout names."""
    argv = from_index(python, Path(checkout), build, *words)
    print("+", shlex.join(argv), flush=True)
    if os.name == "posix":
        os.execvp(argv[0], argv)
    sys.exit(process.run(process.Command(argv, Path.cwd()), sys.stdout.buffer.write))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except WanwrapError as error:
        sys.exit(f"Error: {error}")
