"""Captions as they are carried along: decoded, with the trigger word, or made from a template."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from pathlib import Path

from wanwrap.data.media import led_by
from wanwrap.errors import OptionError

BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
FIELDS = ("trigger", "name", "folder", "kind")


@dataclass(frozen=True, kw_only=True)
class Wording:
    """What is made of captions, and of those that are missing."""

    trigger: str | None = None
    template: str | None = None

    def caption(self, caption: Path | None, source: Path, kind: str) -> str | None:
        """The caption of `source`, a "photo" or "video"; None where there is neither caption nor template.

        Raises:
            OSError: the caption's file can't be read.
        """
        text = decoded(caption.read_bytes()) if caption else ""
        if not text.strip():
            if self.template is None:
                return None
            name = re.sub(r"[_\-\s]+", " ", source.stem).strip()
            text = self.template.format(trigger=self.trigger, name=name, folder=source.parent.name, kind=kind)
        return led_by(self.trigger, text.lstrip())


def wording(trigger: str | None, template: str | None) -> Wording:
    """The two options, checked. Raises OptionError: what can't be filled in, or says nothing."""
    trigger = trigger.strip() if trigger is not None else None
    if trigger == "":
        raise OptionError("--trigger is empty; give the word, or leave the option out.")
    if template is not None:
        known = FIELDS if trigger else FIELDS[1:]
        placeholders = f"its placeholders are {', '.join(f'{{{name}}}' for name in FIELDS)}, the first with --trigger"
        try:
            template.format(**dict.fromkeys(known, ""))
        except (ValueError, LookupError, AttributeError) as error:
            raise OptionError(f"--template {template!r} can't be filled in ({error}); {placeholders}.") from error
        if not template.strip():
            raise OptionError(f"--template is empty; {placeholders}.")
    return Wording(trigger=trigger, template=template)


def decoded(data: bytes) -> str:
    """A text in whatever an editor wrote: UTF-8, UTF-16, else Windows' own; `\\n` alone between lines."""
    return _decoded(data).replace("\r\n", "\n").replace("\r", "\n")


def _decoded(data: bytes) -> str:
    for bom, encoding in BOMS:
        if data.startswith(bom):
            return data.decode(encoding, "replace")
    if b"\0" in data:  # UTF-16 without its mark: in Western text every other byte is 0
        return data.decode("utf-16-le" if data[1:2] == b"\0" else "utf-16-be", "replace").replace("\0", "")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")
