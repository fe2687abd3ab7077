"""The command line itself: help, listings, start-up, and the wheel that users install."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import click
import pytest
from helpers import ROOT, Wanwrap, golden_plan, picture
from platforms import full_disk, pipes

from wanwrap.cli.main import VERBS, main
from wanwrap.cli.words import heading
from wanwrap.preset import shipped

TRAINS = ["torch", "accelerate", "transformers", "huggingface_hub", "numpy"]
HEAVY = [*TRAINS, "tqdm", "av", "PIL", "tomlkit", "psutil", "jinja2"]
COMMANDS = {verb: main.get_command(click.Context(main), verb) for verb in VERBS}


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_an_example_in_one_piece_in_the_narrowest_terminal(verb: str) -> None:
    command = COMMANDS[verb]
    assert command and command.epilog and command.epilog.startswith(f"Example: wanwrap {verb}")
    context = click.Context(command, info_name=verb, terminal_width=40, help_option_names=["-h", "--help"])
    assert f"\n{command.epilog}\n" in f"{command.get_help(context)}\n"


def test_help_tells_of_all_verbs_and_lists_options_alone(cli: Wanwrap) -> None:
    text = cli("--help").stdout
    assert {verb for verb in VERBS if f"\n  {verb} " not in text} <= {"prune"}  # a step of `run`
    head, _, options = cli("check", "--help").stdout.partition("Options:")
    assert "[DATASET]" in head and "--preset" in options and "[DATASET]" not in options


@pytest.mark.parametrize("verb", ["run", "rehearse"])
def test_a_long_help_is_grouped(verb: str, cli: Wanwrap) -> None:
    """What most need comes first."""
    text = cli(verb, "--help").stdout
    told = "Options: --epochs Training: --scheduler Data: --skip_bad Weights: --vae Environment: --gpus Control: -h,"
    places = [text.index(f"\n{word}" if word.endswith(":") else f"\n  {word}") for word in told.split()]
    assert places == sorted(places)
    assert "UPSTREAM" in text


@pytest.mark.parametrize("words", [("check",), ("caption", "--dry_run"), ("run", "t2v-vanilla", "--dry_run")])
def test_a_data_set_is_an_argument(words: tuple[str, ...], cli: Wanwrap, tmp_path: Path) -> None:
    """Or an option, as the guides have it; not two of them."""
    for name in ("cats", "dogs"):
        picture(tmp_path / "home" / "local_training" / "datasets" / name / "a.png", (960, 960))
    done, same = cli(*words, "cats"), cli(*words, "--dataset", "cats")
    assert done.returncode == same.returncode == 0, done.stderr
    assert done.stdout == same.stdout and "cats" in done.stdout and "dogs" not in done.stdout
    assert cli(*words, "cats", "--dataset", "dogs").returncode == 2
    assert cli(*words, "").returncode == 2
    assert cli(*words, "own.toml").returncode == 4  # no such file, or caption takes none


def test_the_training_python_of_the_environment(cli: Wanwrap) -> None:
    """WANWRAP_PYTHON counts wherever WANWRAP_MUSUBI_DIR does, where no other is given."""
    found = {verb: {param.envvar for param in command.params} for verb, command in COMMANDS.items() if command}
    asked = {verb for verb, names in found.items() if "WANWRAP_PYTHON" in names}
    assert asked == {"setup", "doctor", "caption", "fit", "run", "launch", "rehearse", "sample", "merge", "convert"}
    assert {verb for verb, names in found.items() if "WANWRAP_MUSUBI_DIR" in names} == asked - {"merge", "convert"}
    for words in (
        ("setup", "t2v-vanilla", "--dry_run"),
        ("doctor", "t2v-vanilla"),
        ("run", "t2v-vanilla", "sample", "--dry_run"),
        ("merge", "--dit", "a.safetensors", "--lora", "b.safetensors", "--out", "c.safetensors"),
    ):
        done = cli(*words, WANWRAP_PYTHON="no-such-python")
        assert done.returncode == 8 and "no-such-python" in done.stderr
        given = cli(*words, "--python", sys.executable, WANWRAP_PYTHON="no-such-python")
        assert "no-such-python" not in given.stderr


def test_presets(cli: Wanwrap) -> None:
    assert [line.split()[0] for line in cli("presets").stdout.splitlines()] == list(shipped())
    assert {row["name"] for row in json.loads(cli("presets", "--json").stdout)} == set(shipped())


def test_show(cli: Wanwrap, tmp_path: Path) -> None:
    text = cli("show", "t2v-lightning").stdout
    for words in ("Where the numbers come from", "train high:", "train low:", "total_iters=", "--script"):
        assert words in text
    assert "wan_train_network" not in text and len(text.splitlines()) < 80
    script = cli("show", "t2v-lightning", "--script").stdout
    assert "__main__.py" in script and "wan_train_network" in script and "merge" in script
    source = cli("show", "t2v-vanilla", "--source").stdout
    (tmp_path / "home" / "mine.py").write_text(source, encoding="utf-8")
    again = cli("run", "./mine.py", "--dataset", "sample", "--dry_run")
    assert again.returncode == 0 and "sample-mine-high" in again.stdout, again.stderr
    assert json.loads(cli("show", "wan21-t2v-14b", "--json").stdout)["preset"] == "wan21-t2v-14b"


def test_one_is_no_plural() -> None:
    text = "\n".join(heading(golden_plan("wan21-t2v-14b", given={"max_train_steps": 1})))
    assert "1 step," in text and "1 steps" not in text


@pytest.mark.parametrize(
    ("words", "noun"),
    [
        (("rnu",), "run?"),
        (("run", "t2v-vanilla", "--noise_level", "middle"), "middle"),
        (("run", "t2v-vanilla", "--learning_rate", "1e-4"), "--lr"),  # as wanwrap calls it
        (("run", "t2v-vanilla", "--max_grad_norm", "0"), "`--`"),  # it goes behind that
        (("run", "t2v-vanilla", "--nonsense", "0"), "--nonsense"),
    ],
)
def test_usage_errors(words: tuple[str, ...], noun: str, cli: Wanwrap) -> None:
    done = cli(*words)
    assert done.returncode == 2 and noun in done.stderr


def start(*words: str, cwd: Path, code: str = "", path: Path = ROOT, **how: int) -> subprocess.CompletedProcess[str]:
    """`python -m wanwrap`, or a program of one line, from its start."""
    argv = [sys.executable, *(("-c", code) if code else ("-m", "wanwrap")), *words]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how}
    env = {**os.environ, "PYTHONPATH": str(path)}
    return subprocess.run(argv, cwd=cwd, env=env, encoding="utf-8", check=False, **streams)  # type: ignore[call-overload, no-any-return]


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    words = ("run", "t2v-vanilla", "sample", "--dry_run", "--output_name", "a\udcff")
    done = start(*words, cwd=tmp_path)
    assert done.returncode == 7 and "--output_name" in done.stderr and "Traceback" not in done.stderr


@pipes
def test_a_reader_that_has_seen_enough(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert start("show", "t2v-style", cwd=tmp_path, stdout=writer).stderr == ""
    finally:
        os.close(writer)


@full_disk
@pytest.mark.parametrize("words", [["run", "--help"], ["presets"], ["presets", "--json"]])
def test_a_full_disk_behind_a_redirection(words: list[str], tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = start(*words, cwd=tmp_path, stdout=full.fileno())
    assert done.returncode == 13 and done.stderr.startswith("Error: standard output"), done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "heavy"), [("--help", HEAVY), ("run t2v-vanilla sample --dry_run", [*TRAINS, "jinja2"])]
)
def test_what_trains_is_not_imported_before_it_is_needed(words: str, heavy: list[str], tmp_path: Path) -> None:
    code = (
        "import sys; from wanwrap.cli.main import main\n"
        f"try: main({words.split()})\n"
        f"except SystemExit: print([name for name in {heavy} if name in sys.modules])"
    )
    assert start(cwd=tmp_path, code=code).stdout.splitlines()[-1] == "[]"


def test_the_wheel_runs_outside_the_checkout(tmp_path: Path) -> None:
    """With the sample data set, presets, templates and upstream's flags that are inside it."""
    argv = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(argv, check=True, capture_output=True)
    (built,), site = tmp_path.glob("*.whl"), tmp_path / "site"
    zipfile.ZipFile(built).extractall(site)  # as pip would
    sheet, dry = ["check", "sample", "--contact_sheet", "sample.html"], ["run", "t2v-lightning", "sample", "--dry_run"]
    for words in (["presets"], ["show", "t2v-style"], sheet, dry):
        done = start(*words, cwd=tmp_path, path=site)
        assert done.returncode == 0, done.stderr
    assert f'image_directory = "{site.as_posix()}/wanwrap/templates/sample"' in done.stdout
    assert str(site / "wanwrap" / "__main__.py") in done.stdout and not (site / "presets").exists()


@pytest.mark.parametrize(
    ("words", "expected"), [("wanwrap ch", "plain,check"), ("wanwrap check --base_dir x", "file,x")]
)
def test_completion(words: str, expected: str, cli: Wanwrap) -> None:
    env = {"_WANWRAP_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    assert expected in cli(**env).stdout
