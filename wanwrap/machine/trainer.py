"""Upstream in the Python that will train, as setup makes it ready."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from wanwrap.errors import GpuError, PackageError, UpstreamError, WanwrapError
from wanwrap.machine import install
from wanwrap.machine.driver import check, driver
from wanwrap.machine.wish import Wish
from wanwrap.plan import preflight
from wanwrap.system.process import Listener
from wanwrap.upstream import pin as upstreams
from wanwrap.upstream.pin import Upstream

Say = Callable[[str], object]


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
        answer = preflight.ask(wish.places.python, wish.places.upstream, install.question(wish.modules))
        return Trainer(commands=tuple(install.commands(wish.places, answer, seen, torch)))
    except (PackageError, GpuError, UpstreamError) as error:
        return Trainer(problem=error)


def install_all(wish: Wish, found: Trainer, screen: Listener, say: Say) -> Upstream:
    """Install what is missing, and have it imported: the upstream that will train.

    Raises:
        PackageError, GpuError, UpstreamError: it can't be installed, or can't be imported after all.
    """
    if found.problem:
        raise found.problem
    wish.places.base.mkdir(parents=True, exist_ok=True)
    install.install(found.commands, screen, say)
    places = wish.places
    if places.upstream.folder is None:
        places = replace(places, upstream=upstreams.find(None, places.base))
    answer = preflight.ask(places.python, places.upstream, install.question(wish.modules) - {install.CUDA_BUILD})
    return preflight.check_answer(answer, places, any_upstream=True, gpus=0)
