"""The printed script is what runs, whatever stands in the paths."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from helpers import STANDIN, Wanwrap, golden_plan, record
from hypothesis import example, given, settings
from hypothesis import strategies as st
from platforms import in_bash
from powershell import Reader, carry_out, read
from shells import NATIVE, POWERSHELLS, powershell_line, windows_argv

from wanwrap.plan.script import _broken, _native, script

ODD = 'my "cats" & dogs $HOME %PATH% `x` ü 猫 “it”s’ it\'s !'
COMMENT = 'say "a b" \\" c\td\\'
pytestmark = in_bash


def test_script_and_run_reach_upstream_alike(tmp_path: Path, cli: Wanwrap, weights: list[str], cats: Path) -> None:
    """A data set, weights, captions, comments and the LoRAs under names that a shell would take apart."""
    data = cats.rename(tmp_path / ODD)
    for picture in [*data.glob("images/*")]:
        picture.rename(picture.with_stem(f"{picture.stem} {ODD}")).with_suffix(".txt").write_text(f"{ODD}\\")
    for option, name in {"--vae": "-v'ae`x`\\ %PATH% !", "--dit_low": 'my "low" dit\\'}.items():
        place = weights.index(option) + 1
        path = Path(weights[place])
        weights[place] = str(path.rename(path.with_name(f"{name}.safetensors")))
    arguments = ["run", "t2v-vanilla", data, *weights, "--output_name", "it's [1] $HOME", "--epochs", 12]
    extra = ["--", "--network_dropout", "0.1", "--training_comment", COMMENT, "--metadata_title", "a b\\"]
    outputs = tmp_path / "home" / "local_training" / "outputs"

    def reached() -> tuple[list[dict[str, Any]], set[str]]:
        """What has reached upstream, and the LoRAs; then all that is made is gone."""
        found = record(tmp_path), {path.name for path in outputs.glob("*/*.safetensors")}
        (tmp_path / "record.jsonl").unlink()
        shutil.rmtree(tmp_path / "home" / "local_training")
        return found

    for shell in ("bash", "powershell"):
        done = cli(*arguments, "--dry_run", "--shell", shell, "--out", tmp_path / shell, *extra)
        assert done.returncode == 0, done.stderr
    env = {"PATH": "/usr/bin:/bin", "STANDIN_RECORD": str(tmp_path / "record.jsonl"), "HOME": str(tmp_path)}
    by_hand = subprocess.run([str(NATIVE), str(tmp_path / "bash")], env=env, capture_output=True, text=True)
    assert by_hand.returncode == 0, by_hand.stderr
    from_script, loras = reached()
    steps, others = (read((tmp_path / "powershell").read_bytes(), version) for version in POWERSHELLS)
    assert steps == others
    carry_out(steps, env)
    assert reached() == (from_script, loras)
    done = cli(*arguments, *extra)
    assert done.returncode == 0, done.stderr
    assert reached() == (from_script, loras)

    caching = ["wan_cache_latents.py", "wan_cache_text_encoder_outputs.py"]
    assert [call["script"] for call in from_script] == [*caching, "wan_train_network.py", "wan_train_network.py"]
    assert len(loras) == 2 * 3
    assert ODD.replace('"', '\\"') in from_script[0]["toml"]
    assert weights[weights.index("--vae") + 1] in from_script[0]["argv"]
    low = from_script[-1]["argv"]
    assert "a b\\" in low and json.loads(low[low.index("--training_comment") + 1])["comment"] == COMMENT
    assert from_script[0]["env"]["PYTHONPATH"] == str(STANDIN / "src")


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), min_size=1))
@settings(max_examples=40)
def test_bash_gives_back_every_word(words: list[str]) -> None:
    line = _broken(["printf", r"%s\0", *words], shlex.quote, " \\\n  ")
    done = subprocess.run([str(NATIVE), "-c", line], capture_output=True)
    assert done.stdout.decode().split("\0") == [*words, ""]


@given(st.lists(st.text(st.sampled_from("a \t\n\u3000\"\\'“”’‚$`%@;&(){}-./:,#ü猫"), min_size=0)))
@example(["", "--%", "a b\\", "\\", '"a b"', '\\" \\" ', '{"a": "C:\\\\my cats\\\\"}'])
@settings(max_examples=400)
def test_powershell_gives_back_every_word(words: list[str]) -> None:
    """By its own rules and those of Windows; there is no PowerShell where this runs."""
    for version in POWERSHELLS:
        parsed = [Reader(_native(word), version).word() for word in words]
        assert windows_argv(powershell_line(parsed, version)) == words


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (r'"ab\"c" "\\" d', ['ab"c', "\\", "d"]),
        (r'a\\\b d"e f"g h', [r"a\\\b", "de fg", "h"]),
        (r"a\\\" b c d".replace(" ", "", 1), [r"a\"b", "c", "d"]),
        (r'a\\\\"b c" d e', [r"a\\b c", "d", "e"]),
        ('a"b"" c d', ['ab" c d']),
    ],
)
def test_windows_splits_as_its_documentation_shows(line: str, words: list[str]) -> None:
    assert windows_argv(line) == words


def test_powershells_differ_where_words_are_not_made_for_them() -> None:
    """As was measured by others: in 5.1.19041, and in issues 4358 and 7400 of PowerShell."""
    given = {'{"title":"x y"}': ["{title:x y}"], 'a\\"b c': ['a"b', "c"], "C:\\Program Files\\": ['C:\\Program Files"']}
    for word, words in given.items():
        assert windows_argv(powershell_line([word], "5.1")) == words
    assert windows_argv(powershell_line(["C:\\Program Files\\", "", "x"], "7")) == ["C:\\Program Files\\", "x"]


@pytest.mark.parametrize("shell", ["bash", "powershell"])
def test_no_comment_becomes_a_command(shell: str) -> None:
    text = script(golden_plan("wan21-t2v-14b"), shell, ["a data set\ntouch /tmp/x #"])  # type: ignore[arg-type]
    assert "# a data set touch /tmp/x #" in text.splitlines()
