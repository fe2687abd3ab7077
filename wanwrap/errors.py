"""Every error that a user can mend: one sentence saying what happened and a way out, one exit code a kind.

2 is click's own (a usage error) and 130 is Ctrl-C, so neither is used here.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # what a full disk is told by


class WanwrapError(Exception):
    """Base of all errors that are printed without a traceback."""

    exit_code = 1

    def __init_subclass__(cls, exit_code: int) -> None:
        cls.exit_code = exit_code


class PresetError(WanwrapError, exit_code=3):
    """No such preset, or a preset file that does not hold together."""


class DatasetError(WanwrapError, exit_code=4):
    """Pictures, clips, captions or a data set TOML that would not train, or not as they say."""


class WeightsError(WanwrapError, exit_code=5):
    """A weight file is missing or is not one that upstream can train on."""


class UpstreamError(WanwrapError, exit_code=6):
    """musubi-tuner is missing, or is not the commit that wanwrap is checked against."""


class OptionError(WanwrapError, exit_code=7):
    """An option that upstream would refuse, ignore, or take for something else."""


class PackageError(WanwrapError, exit_code=8):
    """The training Python lacks a package that the plan needs."""


class GpuError(WanwrapError, exit_code=9):
    """The training Python sees no CUDA GPU."""


class StepError(WanwrapError, exit_code=10):
    """A step of the plan ended with an error, or was ended by a signal."""


class OutputError(WanwrapError, exit_code=11):
    """The run's folder can't be used: it holds another run's files, or can't be written."""


class LaunchError(WanwrapError, exit_code=14):
    """An engine that runs things elsewhere is not installed, knows no account, or has refused something."""


class DownloadError(WanwrapError, exit_code=12):
    """A file could not be had from the Hub, or brought there: no network, no permission, or not what was published."""


class RoomError(WanwrapError, exit_code=13):
    """Too little free disk or memory for what is to be written."""


def of_system(error: OSError, place: object, way_out: str) -> WanwrapError:
    """What a full disk, or a place that can't be read or written, has ended; `place` where the system names none."""
    kind = RoomError if error.errno in FULL else OutputError
    return kind(f"{error.filename or place}: {error.strerror or error}; {way_out}")


def first_line(error: BaseException | None) -> str:
    """What happened, without what was printed; nothing where all is well."""
    return str(error or "").partition("\n")[0]


BACKSLASHES = " In double quotes \\ means more than itself: write paths with /, or in 'single quotes'."


def of_toml(error: Exception) -> str:
    """What to do about a TOML that can't be read, where it is Windows' backslashes; else nothing."""
    return BACKSLASHES if type(error).__name__ in ("InvalidCharInStringError", "InvalidUnicodeValueError") else ""


def closest(word: str, known: Iterable[str]) -> str:
    """` Did you mean X?`, or nothing where nothing known is like `word`."""
    names = {name.lower(): name for name in known}
    match = difflib.get_close_matches(word.lower(), names, n=1)
    return f" Did you mean {names[match[0]]}?" if match else ""


def listing(things: Iterable[object], most: int = 5) -> str:
    """`a, b, c and 4 more`: enough to act on, never a screenful."""
    words = list(map(str, things))
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more
