"""What a captioning model is asked, and what becomes of its answer."""

from __future__ import annotations

import re
from pathlib import Path

from wanwrap.data.media import led_by
from wanwrap.errors import OptionError
from wanwrap.paths import absolute, folder

TRIGGER = "{trigger}"  # a line with it is there only where there is a trigger
BEGIN = f"Begin the caption with these words: {TRIGGER}"
QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "`": "`"}


def prompt(kind: str | None, given: str | None, file: Path | None, trigger: str | None) -> str:
    """What the model is asked: the user's text or file, else the template of that kind, with the trigger in it.

    Raises:
        OptionError: a text that would not reach the model as it is.
    """
    if sum(each is not None for each in (kind, given, file)) > 1:
        raise OptionError("--kind, --prompt and --prompt_file are each a prompt; give one of them.")
    text = (folder("templates") / "captions" / f"{kind or 'general'}.txt").read_text(encoding="utf-8")
    if file is not None:
        text = _checked("--prompt_file", _read(absolute(file)))
    elif given is not None:
        text = given.replace("\\n", "\n")  # as upstream does, and says in its help
        _checked("--prompt", text)
    if trigger is not None:
        _checked("--trigger", trigger)
        text = text if TRIGGER in text else f"{text.rstrip()}\n{BEGIN}"
    asked = "\n".join(line for line in text.splitlines() if trigger or TRIGGER not in line).strip()
    if not asked:  # upstream would ask its own
        raise OptionError(
            f"the prompt has {TRIGGER} in each of its lines, which are left out without --trigger; give one."
        )
    return asked.replace(TRIGGER, trigger or "")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise OptionError(f"--prompt_file {path} can't be read: {error.strerror}; look at its path.") from error
    except UnicodeDecodeError as error:
        raise OptionError(f"--prompt_file {path} is not UTF-8; save it as UTF-8.") from error


def _checked(option: str, text: str) -> str:
    """Raises OptionError: upstream would get nothing, or something else."""
    why = None
    if not text.strip():
        why = "is empty"
    elif "\\n" in text:
        why = "holds a backslash before an n, which upstream turns into a line break; write it otherwise"
    elif option == "--trigger" and (text != text.strip() or len(text.splitlines()) > 1):
        why = "must be one line, without spaces around it"
    if why:
        raise OptionError(f"{option} {why}.")
    return text


def caption(answer: str, trigger: str | None) -> str:
    """The answer as one line, without the fence or the quotes around it, and with the trigger; "" where it says nothing."""
    lines = (line for line in answer.replace("\0", "").splitlines() if not line.lstrip().startswith("```"))
    text = " ".join(" ".join(lines).split())
    if len(text) > 1 and QUOTES.get(text[0]) == text[-1] and not {text[0], text[-1]} & {*text[1:-1]}:
        text = text[1:-1].strip()
    if not re.search(r"\w", text):
        return ""
    return led_by(trigger, text)
