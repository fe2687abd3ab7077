"""Files of prompts for samples, in the form that upstream's training/sampling_prompts.py reads while it trains.

A line is cut at each ` --`. Upstream passes over a part that it doesn't know, without a word, and completes what is left
out with 256x256 pixels, one frame and a flow shift of 14.5 (training/trainer_base.py). So wanwrap gives it lines that
say all, in the preset's own terms.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wanwrap.errors import OptionError, closest
from wanwrap.paths import absolute
from wanwrap.system.files import decode
from wanwrap.upstream.sampling import FPS, Inference

Prompts = Mapping[str, str]  # where each stands, and its line
TRAINING_FPS = 24  # of clips that are sampled while training: hv_generate_video.py: save_videos_grid
LONGEST_STEPS = 1000  # upstream takes more for so many
WHOLE, NUMBER, TEXT = r"\d+", r"\d+\.?\d*|\.\d+", ".+"
# what upstream reads at the beginning of each part, of the prompt too
READ = r"(?i)(?:([whfds]) \d|(g|fs|l) [\d.]|(n|i|ei|cn|ci|of) .)"


@dataclass(frozen=True)
class _Option:
    """One of a line's: its name in a TOML or JSON, and what it must be."""

    name: str
    form: str
    what: str
    holds: Callable[[float], bool] = lambda _: True


_SIZE = "a multiple of 16, in pixels; any other ends the training when the first sample comes"
OPTIONS = {
    "w": _Option("width", WHOLE, _SIZE, lambda n: n > 0 and n % 16 == 0),
    "h": _Option("height", WHOLE, _SIZE, lambda n: n > 0 and n % 16 == 0),
    "f": _Option("frame_count", WHOLE, "4N+1 frames (1, 5, 9 ... 81)", lambda n: n % 4 == 1),
    "s": _Option("sample_steps", WHOLE, f"1 to {LONGEST_STEPS} steps", lambda n: 1 <= n <= LONGEST_STEPS),
    "l": _Option("cfg_scale", NUMBER, "a number, the guidance; 1 is none"),
    "fs": _Option("discrete_flow_shift", NUMBER, "a number above 0, the flow shift", lambda n: n > 0),
    "d": _Option("seed", WHOLE, "a whole number, the seed", lambda n: n < 2**63),
    "n": _Option("negative_prompt", TEXT, "a text"),
    "i": _Option("image_path", TEXT, "the path of a picture"),
}
LETTERS = {option.name: letter for letter, option in OPTIONS.items()}


def load(path: Path, option: str = "--sample_prompts") -> Prompts:
    """The prompts of a file, each as a line. Raises OptionError: upstream could not read it, or would find none."""
    read = READERS.get(path.suffix.lower())
    if read is None:
        raise OptionError(f"{option} {path} must end in .txt, .toml or .json, by which upstream reads it.")
    try:
        rows = read(decode(path.read_bytes()))
        found = rows if isinstance(rows, dict) else {f"prompt {n}": _line(row) for n, row in enumerate(rows, 1)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise OptionError(f"{option} {path} can't be read: {type(error).__name__}: {error}.") from error
    if not found:
        raise OptionError(f"{option} {path} holds no prompt.")
    return {f"{path}, {where}": line for where, line in found.items()}


def _lines(text: str) -> dict[str, str]:
    rows = enumerate(re.split(r"\r\n|\r|\n", text), 1)
    return {f"line {number}": row.strip() for number, row in rows if row.strip() and row[0] != "#"}


def _toml(text: str) -> Sequence[Any]:
    """[prompt] and each of [[prompt.subset]]."""
    import tomlkit

    common: dict[str, Any] = tomlkit.parse(text).unwrap()["prompt"]
    subsets = common.pop("subset")
    return [{**common, **each} for each in subsets]


READERS: Mapping[str, Callable[[str], Any]] = {".txt": _lines, ".toml": _toml, ".json": json.loads}


def _line(row: Any) -> str:
    """A prompt of a TOML or JSON: a line already, or a table."""
    if isinstance(row, str):
        return _one_line(row)
    words = [str(row.get("prompt", "")).strip()]
    words += [f"--{LETTERS.get(name, name)} {value}" for name, value in row.items() if name != "prompt"]
    return _one_line(" ".join(words))


def _one_line(text: str) -> str:
    """Without breaks: upstream would read what is behind one as a prompt of its own."""
    return re.sub(r"[\r\n]+", " ", text).strip()


def completed(prompts: Prompts, inference: Inference, folder: Path, *, pictures: bool) -> tuple[str, ...]:
    """The lines with all their options; `pictures` says whether each begins with one, which lies in or below `folder`.

    Raises:
        OptionError: upstream would end at one, leave it out, or draw something else.
    """
    width, height = inference.size
    own = {"w": width, "h": height, "f": inference.video_length, "s": inference.infer_steps}
    preset = {**own, "l": f"{inference.guidance_scale:g}", "fs": f"{inference.flow_shift:g}"}
    found = list[str]()
    for where, line in prompts.items():
        try:
            prompt, given = parsed(_one_line(line))
            if match := re.match(READ, prompt):
                name = next(filter(None, match.groups())).lower()
                raise ValueError(
                    f"upstream would take {prompt[:20]!r} for its option --{name}; begin with another word"
                )
            if pictures or "i" in given:
                given["i"] = _picture(given.get("i"), folder, pictures=pictures)
        except ValueError as error:
            raise OptionError(f"{where}: {error}.") from error
        options = {**preset, **given}
        found.append(" ".join([prompt, *(f"--{name} {options[name]}" for name in OPTIONS if name in options)]))
    return tuple(found)


def parsed(line: str) -> tuple[str, dict[str, str]]:
    """A line's prompt and options. Raises ValueError: upstream would read something else, or pass over a part."""
    prompt, *parts = line.split(" --")
    if not prompt.strip() or prompt.startswith(("--", "#")):
        raise ValueError(f"a line begins with its prompt, not with {line[:20]!r}")
    return prompt.strip(), dict(map(_option, parts))


def _option(part: str) -> tuple[str, str]:
    """One option of a line and its value. Raises ValueError: upstream would pass over it, or end at it."""
    word, _, value = part.partition(" ")
    name, value = word.lower(), value.strip()
    if name == "g":
        raise ValueError("upstream ignores --g for Wan; the guidance is --l")
    if name not in OPTIONS:
        hint = closest(name, LETTERS) or f" It knows --{' --'.join(OPTIONS)}"
        raise ValueError(f"upstream cuts a line at ` --`, and would pass over --{part[:20]}.{hint}")
    option = OPTIONS[name]
    if not re.fullmatch(option.form, value) or (option.form != TEXT and not option.holds(float(value))):
        raise ValueError(f"--{part} must be {option.what}")
    return name, value


def _picture(given: str | None, folder: Path, *, pictures: bool) -> str:
    """The whole path of a first frame: upstream runs in another folder. Raises ValueError: there is none, or none is used."""
    if not pictures:
        raise ValueError("--i is for I2V; this preset's samples have no first frame")
    if given is None:
        raise ValueError("it lacks the first frame: --i PICTURE")
    path = absolute(given if given.startswith("~") else folder / given)
    if not path.is_file():
        raise ValueError(f"--i: there is no file {path}")
    if " --" in str(path) or _one_line(str(path)) != str(path):
        raise ValueError(f"--i: upstream would cut {str(path)!r} at its ` --` or line break; move it elsewhere")
    return str(path)


def remarks(lines: Sequence[str]) -> Iterator[str]:
    """What is to be known of samples: how long they hold up the training, and how clips play."""
    options = [parsed(line)[1] for line in lines]
    runs = sum(int(each.get("s", 0)) * (1 if float(each.get("l", 1)) == 1 else 2) for each in options)
    if runs:
        yield (
            f"each time samples are made the model runs {runs} times, twice a step with guidance, and the training waits; fewer "
            "steps (--s) and frames (--f) make it short."
        )
    if any(int(each.get("f", 1)) > 1 for each in options):
        yield (
            f"sample clips are written at {TRAINING_FPS} frames a second, by upstream; Wan's have {FPS}, so they play "
            f"{TRAINING_FPS / FPS:g} times too fast."
        )
