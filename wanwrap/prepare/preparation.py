"""A `prepare` as it was asked for on one command line, and the captions that it makes."""

from __future__ import annotations

import codecs
import re
import shutil
import threading
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from wanwrap.data.media import led_by
from wanwrap.errors import OptionError
from wanwrap.system.files import atomic_file

RECIPE = "1"  # another number when clips come out otherwise
SETTINGS = ("keep_fps", "area", "max_seconds", "min_seconds", "scenes", "background")
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
PLACEHOLDERS = ("{trigger}", "{name}", "{folder}", "{kind}")


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """Options by their names, but for `area`, which is --max_size in pixels; lengths are in seconds."""

    out: Path
    keep_fps: bool
    area: int
    max_seconds: Fraction
    min_seconds: Fraction
    scenes: bool
    background: str  # "#rrggbb"
    trigger: str | None
    template: str | None
    again: bool
    dry_run: bool
    threads: int = 1  # of each decoder and encoder
    stop: threading.Event = field(default_factory=threading.Event)  # all is being ended

    def check(self) -> None:
        """Raises OptionError: options that leave every piece out, or captions that can't be made."""
        if self.min_seconds > self.max_seconds or not self.max_seconds:
            raise OptionError(
                f"--max_seconds {float(self.max_seconds):g} is less than --min_seconds {float(self.min_seconds):g}, "
                "so that every piece would be left out; change one of them."
            )
        ways = f"its placeholders are {', '.join(PLACEHOLDERS)}, the first with --trigger"
        try:
            if self.template is not None and not self._from_template(self.out, "photo").strip():
                raise OptionError(f"--template is empty; {ways}.")
        except (ValueError, LookupError, AttributeError) as error:
            raise OptionError(f"--template {self.template!r} can't be filled in ({error}); {ways}.") from error

    def settings(self) -> dict[str, str]:
        """What decides on outputs, as the manifest keeps it."""
        return {"recipe": RECIPE, **{name: str(getattr(self, name)) for name in SETTINGS}}

    def caption(self, caption: Path | None, source: Path, kind: str) -> str | None:
        """The caption of `source`, a "photo" or "video"; None where there is neither caption nor template.

        Raises:
            OSError: the caption's file can't be read.
        """
        text = decoded(caption.read_bytes()) if caption else ""
        if not text.strip():
            if self.template is None:
                return None
            text = self._from_template(source, kind)
        return led_by(self.trigger, text.lstrip())

    def _from_template(self, source: Path, kind: str) -> str:
        name = re.sub(r"[_\-\s]+", " ", source.stem).strip()
        words = {"name": name, "folder": source.parent.name, "kind": kind}
        return (self.template or "").format(**words, **({"trigger": self.trigger} if self.trigger else {}))

    def copy(self, path: Path, name: str) -> None:
        """A file as it is, whole, under a name in the data set."""
        with path.open("rb") as source, atomic_file(self.out / name) as file:
            shutil.copyfileobj(source, file, 1 << 20)


def decoded(data: bytes) -> str:
    """A text in whatever an editor wrote: UTF-8, UTF-16, else Windows' own; `\\n` alone between lines."""
    try:
        text = data.decode("utf-16" if data[:2] in UTF_16 or b"\0" in data else "utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252", "replace")
    return text.replace("\r\n", "\n").replace("\r", "\n")
