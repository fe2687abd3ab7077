"""The printed script is what runs, whatever stands in the paths."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from helpers import STANDIN, Wanwrap, golden_plan, record
from hypothesis import given, settings
from hypothesis import strategies as st
from shells import NATIVE, legacy, windows_argv

from wanwrap.plan.script import _broken, _native, script

ODD = 'my "cats" & dogs $HOME ü'
pytestmark = pytest.mark.skipif(NATIVE is None, reason="needs bash")


def test_script_and_run_reach_upstream_alike(tmp_path: Path, cli: Wanwrap, weights: list[str], cats: Path) -> None:
    """A data set, a weight and the LoRAs under names that a shell would take apart."""
    data = cats.rename(tmp_path / ODD)
    vae = Path(weights[weights.index("--vae") + 1])
    odd_vae = vae.rename(vae.with_name("-v'ae`x`\\ %PATH% !.safetensors"))
    named = ("--vae", odd_vae, "--output_name", "it's [1] $HOME", "--epochs", 12)
    arguments, extra = ["run", "t2v-vanilla", data, *weights, *named], ["--", "--network_dropout", "0.1"]
    outputs = tmp_path / "home" / "local_training" / "outputs"

    printed = cli(*arguments, "--dry_run", "--shell", "bash", *extra)
    assert printed.returncode == 0, printed.stderr
    (tmp_path / "script.sh").write_text(printed.stdout, encoding="utf-8")
    env = {"PATH": "/usr/bin:/bin", "STANDIN_RECORD": str(tmp_path / "record.jsonl"), "HOME": str(tmp_path)}
    by_hand = subprocess.run([str(NATIVE), str(tmp_path / "script.sh")], env=env, capture_output=True, text=True)
    assert by_hand.returncode == 0, by_hand.stderr
    from_script, loras = record(tmp_path), {path.name for path in outputs.glob("*/*.safetensors")}

    (tmp_path / "record.jsonl").unlink()
    shutil.rmtree(tmp_path / "home" / "local_training")
    done = cli(*arguments, *extra)
    assert done.returncode == 0, done.stderr
    caching = ["wan_cache_latents.py", "wan_cache_text_encoder_outputs.py"]
    assert [call["script"] for call in from_script] == [*caching, "wan_train_network.py", "wan_train_network.py"]
    assert record(tmp_path) == from_script
    assert loras == {path.name for path in outputs.glob("*/*.safetensors")} and len(loras) == 2 * 3
    assert ODD.replace('"', '\\"') in from_script[0]["toml"]
    assert str(odd_vae) in from_script[0]["argv"]
    assert from_script[0]["env"]["PYTHONPATH"] == str(STANDIN / "src")


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), min_size=1))
@settings(max_examples=40)
def test_bash_gives_back_every_word(words: list[str]) -> None:
    line = _broken(["printf", r"%s\0", *words], shlex.quote, " \\\n  ")
    done = subprocess.run([str(NATIVE), "-c", line], capture_output=True)
    assert done.stdout.decode().split("\0") == [*words, ""]


@given(st.lists(st.text(st.sampled_from("ab \"'\\$`&%ü\u2019;(){}"), min_size=0)))
def test_powershell_gives_back_every_word(words: list[str]) -> None:
    """By the documented rules of PowerShell and Windows; there is no PowerShell where this runs."""
    inner = list[str]()
    for literal in map(_native, words):
        assert literal[0] == literal[-1] == "'"
        text = literal[1:-1]
        for quote in "'\u2018\u2019\u201a\u201b":
            assert quote not in text.replace(quote * 2, "")
            text = text.replace(quote * 2, quote)
        inner.append(text)
    assert windows_argv(" ".join(map(legacy, inner))) == words


@pytest.mark.parametrize("shell", ["bash", "powershell"])
def test_no_comment_becomes_a_command(shell: str) -> None:
    text = script(golden_plan("wan21-t2v-14b"), shell, ["a data set\ntouch /tmp/x #"])  # type: ignore[arg-type]
    assert "# a data set touch /tmp/x #" in text.splitlines()
