"""What a captioning model is asked, and what becomes of its answer."""

from __future__ import annotations

import re
from pathlib import Path

from wanwrap.data.media import led_by
from wanwrap.errors import OptionError
from wanwrap.paths import folder

TRIGGER = "{trigger}"  # a line with it is there only where there is a trigger
BEGIN = f"Begin the caption with these words: {TRIGGER}"
QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "`": "`"}


def prompt(kind: str | None, text: str | None, file: Path | None, trigger: str | None) -> str:
    """What the model is asked: the user's text or file, else the template of that kind, with the trigger in it.

    Raises:
        OptionError: several texts, or one that says nothing.
    """
    if sum(each is not None for each in (kind, text, file)) > 1:
        raise OptionError("--kind, --prompt and --prompt_file are each a prompt; give one of them.")
    if text is None:
        text = _read(file or folder("templates") / "captions" / f"{kind or 'general'}.txt")
    else:
        text = text.replace("\\n", "\n")  # as upstream does, and says in its help
    if trigger and TRIGGER not in text:
        text = f"{text.rstrip()}\n{BEGIN}"
    lines = (line for line in text.splitlines() if trigger or TRIGGER not in line)
    if not (told := "\n".join(lines).strip()):  # upstream would ask its own
        raise OptionError(
            f"the prompt is empty, or has {TRIGGER} in each of its lines, which are left out without --trigger; give one."
        )
    return told.replace(TRIGGER, trigger or "")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", "it is not UTF-8")
        raise OptionError(f"--prompt_file {path} can't be read: {why}; look at it.") from error


def caption(answer: str, trigger: str | None) -> str:
    """The answer as one line, without the fence or the quotes around it, and with the trigger; "" where it says nothing."""
    lines = (line for line in answer.replace("\0", "").splitlines() if not line.lstrip().startswith("```"))
    text = " ".join(" ".join(lines).split())
    if len(text) > 1 and QUOTES.get(text[0]) == text[-1] and not {text[0], text[-1]} & {*text[1:-1]}:
        text = text[1:-1].strip()
    if not re.search(r"\w", text):
        return ""
    return led_by(trigger, text)
