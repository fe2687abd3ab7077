"""Downloads that fail: what happened in words, and trying again where that helps."""

from __future__ import annotations

import errno
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlsplit

from wanwrap.errors import FULL, DownloadError
from wanwrap.system import console

WAITS = (2.0, 5.0, 15.0, 30.0, 60.0)  # seconds before each further attempt, while no further byte comes
AWAY = {errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN}
NO_WAY = (socket.gaierror, ssl.SSLCertVerificationError)
CLIENTS = {"requests", "urllib3", "httpx", "httpx2", "httpcore", "httpcore2"}  # what they raise is the connection's
AGAIN = "run setup again: it goes on from there"
T = TypeVar("T")


def patiently(where: str, attempt: Callable[[], T], done: Callable[[], int] | None = None) -> T:
    """The attempt's result; where another may help it is made, after longer waits as long as no byte comes.

    `done` counts the bytes that are there; where it is given the Hub has been reached before.

    Raises:
        DownloadError: no other attempt would help, or none has.
    """
    name = where.rpartition("/")[2]
    failures, have = 0, done() if done else 0
    while True:
        try:
            return attempt()
        except Exception as error:
            trouble = _trouble(error, reached=done is not None)
            if trouble is None:
                raise
            before, have = have, done() if done else 0
            failures = 0 if have > before else failures
            if not trouble.passes or failures == len(WAITS):
                raise DownloadError(f"{where}: {trouble.what}; {trouble.way_out}.") from error
        console.say(f"{name}: {trouble.what}; trying again in {WAITS[failures]:g} s")
        time.sleep(WAITS[failures])
        failures += 1


@dataclass(frozen=True)
class _Trouble:
    """What went wrong, and what the user can do; `passes`: perhaps nothing but wait."""

    what: str
    way_out: str = AGAIN.replace("again", "again later")
    passes: bool = True


def _trouble(error: BaseException, reached: bool) -> _Trouble | None:
    """What an error of the library or of its HTTP client means; None: it is not one of the connection's."""
    at, status, chain = host(), status_of(error), list(_chain(error))
    if getattr(error, "errno", None) in FULL:
        return None
    if status is not None:
        return _refusal(at, status, type(error).__name__)
    if any(type(each).__name__ == "OfflineModeIsEnabled" for each in chain):
        return _Trouble("HF_HUB_OFFLINE forbids to download it", f"unset it, then {AGAIN}", passes=False)
    if any(isinstance(each, NO_WAY) or getattr(each, "errno", 0) in AWAY for each in chain):
        way_out = f"look at the network and the proxy, or name a mirror in HF_ENDPOINT, then {AGAIN}"
        return _Trouble(f"{at} can't be reached ({chain[-1]})", way_out, passes=reached)
    if any("imeout" in base.__name__ for each in chain for base in type(each).__mro__):
        return _Trouble(f"{at} did not answer in time")
    if any(isinstance(each, ConnectionError) or type(each).__module__.split(".")[0] in CLIENTS for each in chain):
        return _Trouble("the connection was cut")
    return None


def _refusal(host: str, status: int, kind: str) -> _Trouble:
    """What an answer means that is none; `kind` tells a missing repository, revision and file apart."""
    if status in (408, 429) or status >= 500:
        return _Trouble(f"{host} answered {status}")
    if status in (401, 403):
        way_out = (
            "accept the licence at the repository's page if it asks for that, and give a token that may read it "
            f"(`hf auth login`, or HF_TOKEN), then {AGAIN}"
        )
        return _Trouble(f"{host} does not hand it out ({status})", way_out, passes=False)
    return _Trouble(
        f"{host} does not have it ({status}, {kind})", "update wanwrap, or look at HF_ENDPOINT", passes=False
    )


def host() -> str:
    """The Hub's name, without a password that HF_ENDPOINT may hold."""
    from huggingface_hub import constants

    return urlsplit(constants.ENDPOINT).netloc.rpartition("@")[2]


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from: the library wraps its client's errors, and the client those of the system."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def status_of(error: BaseException) -> int | None:
    """What the Hub answered, if it did."""
    found = (getattr(getattr(each, "response", None), "status_code", None) for each in _chain(error))
    return next((status for status in found if isinstance(status, int)), None)
