"""What fails on its way from the Hub or to it: what happened in words, and trying again where that helps."""

from __future__ import annotations

import errno
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from typing import TypeVar
from urllib.parse import urlsplit

from wanwrap.errors import FULL, DownloadError
from wanwrap.system import console

WAITS = (2.0, 5.0, 15.0, 30.0, 60.0)  # seconds before each further attempt, while no further byte comes
AWAY = {errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN}
NO_WAY = (socket.gaierror, ssl.SSLCertVerificationError)
CLIENTS = {"requests", "urllib3", "httpx", "httpx2", "httpcore", "httpcore2"}  # what they raise is the connection's
AGAIN = "run setup again: it goes on from there"
LICENCE = (
    "accept the licence at the repository's page if it asks for that, and give a token that may read it "
    f"(`hf auth login`, or HF_TOKEN), then {AGAIN}"
)
T = TypeVar("T")


class Fetching:
    """What is said where a file is fetched. `again` is how to go on."""

    again = AGAIN

    @staticmethod
    def refused(status: int, error: Exception) -> tuple[str, str]:
        """What the Hub has answered, which it will again, and what the user must do."""
        if status in (401, 403):
            return f"does not hand it out ({status})", LICENCE
        # the error's kind tells a missing repository, revision and file apart
        return f"does not have it ({status}, {type(error).__name__})", "update wanwrap, or look at HF_ENDPOINT"


def patiently(
    where: str, attempt: Callable[[], T], done: Callable[[], int] | None = None, doing: type[Fetching] = Fetching
) -> T:
    """The attempt's result; where another may help it is made, after longer waits as long as no byte comes.

    `done` counts the bytes that are there; where it is given the Hub has been reached before.

    Raises:
        DownloadError: no other attempt would help, or none has.
    """
    failures, have = 0, done() if done else 0
    while True:
        try:
            return attempt()
        except Exception as error:
            what, way_out = _trouble(error, doing, reached=done is not None)
            before, have = have, done() if done else 0
            failures = 0 if have > before else failures
            if way_out or failures == len(WAITS):
                way_out = way_out or doing.again.replace("again", "again later")
                raise DownloadError(f"{where}: {what}; {way_out}.") from error
        console.say(f"{where.rpartition('/')[2]}: {what}; trying again in {WAITS[failures]:g} s")
        time.sleep(WAITS[failures])
        failures += 1


def _trouble(error: Exception, doing: type[Fetching], reached: bool) -> tuple[str, str | None]:
    """What an error of the library or of its HTTP client means, and what the user must do; None: nothing but wait.

    Raises the error itself: it is not one of the connection's.
    """
    if getattr(error, "errno", None) in FULL:
        raise error
    from huggingface_hub import get_token

    at, status, chain = host(), status_of(error), list(causes(error))
    kinds = {base.__name__ for each in chain for base in type(each).__mro__}
    if status in (408, 429) or (status or 0) >= 500:
        return f"{at} answered {status}", None
    if status is not None:
        what, way_out = doing.refused(status, error)
        return f"{at} {what}", way_out
    if "OfflineModeIsEnabled" in kinds:
        return "HF_HUB_OFFLINE forbids it", f"unset it, then {doing.again}"
    if any(isinstance(each, UnicodeEncodeError) for each in chain) and not (get_token() or "").isascii():
        return (
            "the token holds a letter that none has",
            f"look at HF_TOKEN, or `hf auth login` anew, then {doing.again}",
        )
    if any(isinstance(each, NO_WAY) or getattr(each, "errno", 0) in AWAY for each in chain):
        way_out = f"look at the network and the proxy, or name a mirror in HF_ENDPOINT, then {doing.again}"
        return f"{at} can't be reached ({chain[-1]})", None if reached else way_out
    if any("imeout" in kind for kind in kinds):
        return f"{at} did not answer in time", None
    clients = any(type(each).__module__.split(".")[0] in CLIENTS for each in chain)
    if clients or "ConnectionError" in kinds:
        return "the connection was cut", None
    raise error


def settle_library() -> None:
    """Have huggingface_hub do without Xet, and say nothing itself: its warnings hold addresses that are signed."""
    from huggingface_hub import constants
    from huggingface_hub.utils.logging import set_verbosity_error

    vars(constants).update(HF_HUB_DISABLE_XET=True, HF_HUB_ENABLE_HF_TRANSFER=False)
    set_verbosity_error()  # type: ignore[no-untyped-call]


def host() -> str:
    """The Hub's name, without a password that HF_ENDPOINT may hold."""
    from huggingface_hub import constants

    return urlsplit(constants.ENDPOINT).netloc.rpartition("@")[2]


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from: the library wraps its client's errors, and the client those of the system."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def status_of(error: BaseException) -> int | None:
    """What the Hub answered, if it did."""
    found = (getattr(getattr(each, "response", None), "status_code", None) for each in causes(error))
    return next((status for status in found if isinstance(status, int)), None)
