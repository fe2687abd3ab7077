"""Upstream in the Python that will train, as setup makes it ready."""

from __future__ import annotations

from dataclasses import dataclass

from wanwrap.errors import GpuError, PackageError, UpstreamError, WanwrapError
from wanwrap.machine import install
from wanwrap.machine.driver import check, driver
from wanwrap.machine.wish import Wish
from wanwrap.plan import preflight
from wanwrap.upstream import pin
from wanwrap.upstream.pin import Upstream


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """Upstream in the Python that will train: what has to be installed for it, or why that can't be."""

    commands: tuple[install.Command, ...] = ()
    problem: WanwrapError | None = None


def trainer(wish: Wish, torch: str | None) -> Trainer:
    """What is missing; nothing has been installed yet."""
    try:
        seen = driver()
        check(seen, torch)
        answer = preflight.ask(wish.python, wish.upstream, install.question(wish.modules))
        return Trainer(commands=tuple(install.commands(wish, answer, seen, torch)))
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
    install.install(found.commands)
    upstream = pin.find(None, wish.base_dir) if wish.upstream.folder is None else wish.upstream
    answer = preflight.ask(wish.python, upstream, install.question(wish.modules) - {install.CUDA_BUILD})
    found_upstream = preflight.check_upstream(answer, wish.python, upstream, any_upstream=True)
    preflight.check_packages(answer, wish.python)
    return found_upstream
