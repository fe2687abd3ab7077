"""Prompts of samples while training: what upstream would misread is refused, what it would leave out is completed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import Wanwrap, picture

from wanwrap.errors import OptionError
from wanwrap.plan.request import read
from wanwrap.preset import shipped
from wanwrap.upstream.sample_prompts import completed, load, remarks
from wanwrap.upstream.sampling import WAN

OWN = "--w 832 --h 480 --f 81 --s 50 --l 5 --fs 5"
EVERY = ("--", "--sample_every_n_epochs", 2, "--sample_prompts")


def lines(path: Path, text: str, *, pictures: bool = False, coding: str = "utf-8") -> tuple[str, ...]:
    path.write_text(text, encoding=coding)
    return completed(load(path), WAN["t2v-14B"], path.parent, pictures=pictures)


@pytest.mark.parametrize(
    ("line", "whole"),
    [
        ("a cat", f"a cat {OWN}"),
        ("  a cat --W 480  ", "a cat --w 480 --h 480 --f 81 --s 50 --l 5 --fs 5"),
        ("a cat --fs 3.5 --l 1. --d 7 --f 1", "a cat --w 832 --h 480 --f 1 --s 50 --l 1. --fs 3.5 --d 7"),
        ("a cat --n blurry, 5 legs", f"a cat {OWN} --n blurry, 5 legs"),
        ("a cat - and a dog--maybe", f"a cat - and a dog--maybe {OWN}"),
    ],
)
def test_what_upstream_would_choose_is_the_presets(line: str, whole: str, tmp_path: Path) -> None:
    assert lines(tmp_path / "p.txt", f"# animals\n\n{line}\r\n", coding="utf-8-sig") == (whole,)


@pytest.mark.parametrize(
    ("line", "noun"),
    [
        ("a cat --w 840", "line 2: --w 840 .*16"),
        ("a cat --h 72", "--h 72"),
        ("a cat --h 0", "--h 0"),
        ("a cat --f 6", r"4N\+1"),
        ("a cat --f 81 frames", "--f 81 frames"),
        ("a cat --s 0", "--s 0"),
        ("a cat --fs 1.2.3", "--fs"),
        ("a cat --fs 0", "--fs"),
        ("a cat --l -1", "--l"),
        ("a cat --d 1e3", "--d"),
        ("a cat --n", "--n"),
        ("a cat --zz 7", "--zz"),
        ("a cat --with 7", "width"),
        ("a cat --g 5", "--l"),
        ("she says -- hi", "` --`"),
        ("--w 832 --h 480", "begins"),
        (" # a cat", "begins"),
        ("I walk home", "--i"),
        ("n a cat", "--n"),
        ("S 5 people", "--s"),
        ("of mice and men", "--of"),
        ("a cat --i a.png", "--i"),  # of T2V
    ],
)
def test_what_upstream_would_misread_is_refused(line: str, noun: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=noun):
        lines(tmp_path / "p.txt", f"a dog\n{line}\n")


def test_the_first_frame(tmp_path: Path) -> None:
    """By its whole path, as upstream runs elsewhere."""
    path, prompts = picture(tmp_path / "first frame.png"), tmp_path / "p.txt"
    assert lines(prompts, "a cat --i first frame.png", pictures=True) == (f"a cat {OWN} --i {path}",)
    for line in ("a cat", "a cat --i other.png"):
        with pytest.raises(OptionError, match="--i"):
            lines(prompts, line, pictures=True)


def test_a_break_within_a_prompt_makes_no_second_one(tmp_path: Path) -> None:
    """As upstream reads a JSON; and a lone carriage return ends a line for it, too."""
    assert lines(tmp_path / "p.json", json.dumps(["a cat\nsits --f 1"])) == (
        f"a cat sits {OWN.replace('--f 81', '--f 1')}",
    )
    assert completed({"the preset": "a cat\r\nsits"}, WAN["t2v-14B"], tmp_path, pictures=False) == (
        f"a cat sits {OWN}",
    )
    assert lines(tmp_path / "p.txt", "a cat\rsits") == (f"a cat {OWN}", f"sits {OWN}")
    place = picture(tmp_path / "my --pictures" / "a.png")
    with pytest.raises(OptionError, match="cut"):
        lines(place.with_name("i.txt"), "a cat --i a.png", pictures=True)


def test_toml_and_json_become_such_lines_too(tmp_path: Path) -> None:
    whole = (
        "a cat --w 832 --h 480 --f 5 --s 50 --l 5 --fs 5",
        "a dog --w 64 --h 480 --f 5 --s 50 --l 5 --fs 5 --n no cat",
    )
    toml = '[prompt]\nframe_count = 5\n[[prompt.subset]]\nprompt = "a cat"\n[[prompt.subset]]\nprompt = "a dog"\nwidth = 64\nnegative_prompt = "no\\ncat"\n'
    assert lines(tmp_path / "p.toml", toml) == whole
    rows = ["a cat --f 5", {"prompt": "a dog", "width": 64, "frame_count": 5, "negative_prompt": "no cat"}]
    assert lines(tmp_path / "p.json", json.dumps(rows)) == whole


@pytest.mark.parametrize(
    ("name", "text", "noun"),
    [
        ("p.md", "a cat", "ending|end in"),
        ("p.txt", "# a cat", "no prompt"),
        ("p.json", "{", "JSONDecodeError"),
        ("p.json", "[1]", "can't be read"),
        ("p.json", '[{"prompt": "a cat", "frames": 5}]', "prompt 1: .*--frames"),
        ("p.toml", "[prompt]\n", "subset"),
    ],
)
def test_files_that_upstream_could_not_read(name: str, text: str, noun: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=noun):
        lines(tmp_path / name, text)


def test_clips_play_too_fast() -> None:
    assert "1.5 times" in " ".join(remarks([f"a cat {OWN}"])) and not [*remarks(["a cat --f 1"])]


def test_the_training_waits_for_samples() -> None:
    """Guidance runs the model twice a step."""
    assert "140 times" in " ".join(remarks(["a cat --s 50 --l 5", "a dog --s 40 --l 1"]))


@pytest.mark.parametrize("name", shipped())
def test_a_presets_own_are_complete(name: str) -> None:
    request = read(preset=name)
    assert len(request.samples) == len(request.preset.sample_prompts)
    assert all(" --fs " in line for line in request.samples)


def test_what_is_written_is_what_is_given_to_upstream(tmp_path: Path, cli: Wanwrap) -> None:
    (tmp_path / "p.txt").write_text("a cat --f 5")
    done = cli("run", "wan21-t2v-14b", "sample", "--dry_run", *EVERY, tmp_path / "p.txt")
    assert done.returncode == 0 and "a cat --w 832 --h 480 --f 5 --s 50 --l 5 --fs 5\nEND" in done.stdout, done.stderr
    assert f"--sample_prompts {tmp_path}/p.txt" not in done.stdout and "24 frames a second" in done.stderr


def test_one_expert_alone_shows_nothing(tmp_path: Path, cli: Wanwrap) -> None:
    (tmp_path / "p.txt").write_text("a cat")
    run = ("run", "t2v-lightning", "sample", "--dry_run")
    done = cli(*run, *EVERY, tmp_path / "p.txt")
    assert done.returncode == 7 and "wanwrap sample" in done.stderr
    done = cli(*run, "--sample_with_one_expert", *EVERY, tmp_path / "p.txt")
    assert done.returncode == 0 and "a cat --w 832 --h 480 --f 81 --s 4 --l 1 --fs 5\n" in done.stdout, done.stderr
    assert cli("run", "wan21-t2v-14b", "sample", "--dry_run", "--sample_with_one_expert").returncode == 7
