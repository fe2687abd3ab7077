"""What is printed to be typed is quoted for this system's shell."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import pytest
from helpers import Wanwrap, picture
from hypothesis import example, given
from hypothesis import strategies as st
from powershell import LITERAL, QUOTE
from shells import powershell_line, windows_argv

from wanwrap.plan.script import start
from wanwrap.system import shell
from wanwrap.system.shell import joined, quote

ODD = "my $cats's & 猫"


@pytest.fixture
def powershell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows' own, wherever a module asks for it."""
    for module in [each for each in sys.modules.values() if getattr(each, "native", None) is shell.native]:
        monkeypatch.setattr(module, "native", lambda: "powershell")


# to PowerShell: bare, between double quotes with nothing that it would look into, or a literal
BARE = "(?!-[^ ]*[.:])[^\\s\u201c-\u201e\u2018-\u201b\"'$`(){};,|&<>@#%~*?\\[\\]!]+"
TYPED = re.compile(f'({BARE})|"([^"\u201c-\u201e$`]*)"|{LITERAL}')


def typed(line: str) -> list[str]:
    """The words that PowerShell reads from a line."""
    assert re.fullmatch(f"(?:{TYPED.pattern})(?: (?:{TYPED.pattern}))*", line), line
    found = [(bare or double, single) for bare, double, single in TYPED.findall(line)]
    return [word or re.sub(f"{QUOTE}({QUOTE})", r"\1", single) for word, single in found]


WORDS = st.text(st.sampled_from("a -.:=\\/'’”$`%@,;&(){}[]#~!ü猫"), min_size=1).filter(
    lambda word: word[-1] != "\\" and word != "--%"
)


@given(st.lists(WORDS, min_size=1))
@example(["run", ODD, "-a.b", "-a:b", "--x", "@a", "a,b", "~", "5e-05", r"C:\cats\x.toml"])
def test_powershell_reads_words_as_they_are(words: list[str]) -> None:
    """All but those with a double quote within: PowerShell 7.3 passes words on as they are, 5.1 as Legacy does."""
    assert typed(" ".join(quote(word, "powershell") for word in words)) == words
    assert windows_argv(powershell_line(words, "5.1")) == words


def test_plain_words_stay_plain_and_cmd_reads_most_others() -> None:
    assert [quote(word, "powershell") for word in (r"C:\x\a-1.toml", "a b", "it's", "a$b")] == [r"C:\x\a-1.toml", '"a b"', '"it\'s"', "'a$b'"]  # fmt: skip
    assert start(Path("a$b c.ps1"), "powershell").endswith("-File 'a$b c.ps1'")


@pytest.mark.usefixtures("powershell")
def test_a_quoted_program_is_called() -> None:
    assert joined(("git", "a b")) == 'git "a b"' and joined(("my git", "a")) == '& "my git" a'


def test_elsewhere_for_posix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "native", lambda: "bash")
    assert shlex.split(joined(("my git", ODD))) == ["my git", ODD]


@pytest.mark.usefixtures("powershell")
def test_an_error_names_a_command_that_can_be_typed(tmp_path: Path, cli: Wanwrap) -> None:
    data = tmp_path / ODD
    for number in range(7):
        picture(data / f"{number}.png").with_suffix(".txt").write_text("")
    done = cli("run", "t2v-vanilla", data, "--dry_run")
    assert done.returncode == 4
    assert typed(done.stderr.rpartition("`wanwrap ")[2].partition("` lists")[0]) == ["check", str(data)]


@pytest.mark.usefixtures("powershell")
def test_status_tells_how_to_go_on(tmp_path: Path, cli: Wanwrap, low: tuple[object, ...]) -> None:
    """The run's own command, and the folder that it was started in."""
    base, name = tmp_path / ODD, "it's [1] $HOME"
    words = [*map(str, (*low, "--base_dir", base, "--output_name", name))]
    assert cli(*words, STANDIN_DO="nan:31").returncode == 10
    path = base / "outputs" / name / "low" / "record.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), "cwd": str(base)}), encoding="utf-8")
    there, _, again = cli("status", base / "outputs" / name).stdout.partition("  again   ")
    assert there.endswith(f"  in      {base}\n")
    assert typed(again.partition("\n")[0]) == ["wanwrap", *words]
