"""The command line itself: help, listings, start-up, and the wheel that users install."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import click
import pytest
from helpers import ROOT, Wanwrap, picture

from wanwrap.cli.main import VERBS, main
from wanwrap.preset import shipped

HEAVY = ["torch", "tqdm", "accelerate", "transformers", "huggingface_hub", "av", "PIL", "tomlkit", "psutil", "numpy"]


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_an_example(verb: str, wanwrap: Wanwrap) -> None:
    done = wanwrap(verb, "--help")
    assert done.returncode == 0
    assert f"\nExample: wanwrap {verb}" in done.stdout


def test_help_lists_options_alone(wanwrap: Wanwrap) -> None:
    head, _, options = wanwrap("check", "--help").stdout.partition("Options:")
    assert "[DATASET]" in head and "--preset" in options and "[DATASET]" not in options


def test_help_tells_of_all_verbs(wanwrap: Wanwrap) -> None:
    text = wanwrap("--help").stdout
    assert {verb for verb in VERBS if f"\n  {verb} " not in text} <= {"prune"}  # a step of `run`


@pytest.mark.parametrize("verb", ["run", "rehearse"])
def test_a_long_help_is_grouped(verb: str, wanwrap: Wanwrap) -> None:
    """What most need comes first."""
    groups = ("Options", "Training", "Data", "Weights", "Environment", "Control")
    head, *lists = re.split(f"\n(?:{'|'.join(groups)}):\n", text := wanwrap(verb, "--help").stdout)
    assert re.findall(f"\n({'|'.join(groups)}):\n", text) == [*groups]
    first = {"--noise_level": 0, "--epochs": 0, "--scheduler": 1, "--skip_bad": 2, "--vae": 3, "--gpus": 4, "-h": 5}
    assert {name: [f"\n  {name}" in f"\n{each}" for each in lists].index(True) for name in first} == first
    assert "-- UPSTREAM OPTIONS" in head


@pytest.mark.parametrize("words", [("check",), ("caption", "--dry_run"), ("run", "t2v-vanilla", "--dry_run")])
def test_a_data_set_is_an_argument(words: tuple[str, ...], wanwrap: Wanwrap, tmp_path: Path) -> None:
    """Or an option, as the guides have it; not two of them."""
    picture(tmp_path / "home" / "local_training" / "datasets" / "cats" / "a.png", (960, 960))
    picture(tmp_path / "home" / "local_training" / "datasets" / "dogs" / "a.png", (960, 960))
    done, same = wanwrap(*words, "cats"), wanwrap(*words, "--dataset", "cats")
    assert done.returncode == same.returncode == 0, done.stderr
    assert done.stdout == same.stdout and "cats" in done.stdout and "dogs" not in done.stdout
    both = wanwrap(*words, "cats", "--dataset", "dogs")
    assert both.returncode == 2 and "two data sets" in both.stderr
    assert wanwrap(*words, "").returncode == 2
    assert wanwrap(*words, "own.toml").returncode == 4  # no such file, or caption takes none


def test_the_training_python_is_named_where_upstream_is() -> None:
    """WANWRAP_PYTHON counts wherever WANWRAP_MUSUBI_DIR does."""
    commands = {verb: main.get_command(click.Context(main), verb) for verb in VERBS}
    found = {verb: {param.envvar for param in command.params} - {None} for verb, command in commands.items() if command}
    both, alone = {"WANWRAP_PYTHON", "WANWRAP_MUSUBI_DIR"}, {"WANWRAP_PYTHON"}
    expected = {
        **dict.fromkeys(("setup", "doctor", "caption", "run", "rehearse"), both),
        "merge": alone,
        "convert": alone,
    }
    assert {verb: names for verb, names in found.items() if names} == expected


@pytest.mark.parametrize(
    "words",
    [
        ("setup", "t2v-vanilla", "--dry_run"),
        ("doctor", "t2v-vanilla"),
        ("run", "t2v-vanilla", "sample", "--dry_run"),
        ("merge", "--dit", "a.safetensors", "--lora", "b.safetensors", "--out", "c.safetensors"),
    ],
)
def test_the_training_python_of_the_environment(words: tuple[str, ...], wanwrap: Wanwrap) -> None:
    done = wanwrap(*words, WANWRAP_PYTHON="no-such-python")
    assert done.returncode == 8 and "no-such-python" in done.stderr
    given = wanwrap(*words, "--python", sys.executable, WANWRAP_PYTHON="no-such-python")
    assert "no-such-python" not in given.stderr


def test_a_name_that_is_no_text(wanwrap: Wanwrap) -> None:
    done = wanwrap("run", "t2v-vanilla", "sample", "--dry_run", "--output_name", os.fsdecode(b"a\xff"))
    assert done.returncode == 7 and "--output_name" in done.stderr and "Traceback" not in done.stderr


def test_presets(wanwrap: Wanwrap) -> None:
    assert [line.split()[0] for line in wanwrap("presets").stdout.splitlines()] == list(shipped())
    assert {row["name"] for row in json.loads(wanwrap("presets", "--json").stdout)} == set(shipped())


def test_show(wanwrap: Wanwrap, tmp_path: Path) -> None:
    text = wanwrap("show", "t2v-lightning").stdout
    for words in (
        "Where the numbers come from",
        "train high:",
        "train low:",
        "total_iters=",
        "show t2v-lightning --script",
    ):
        assert words in text
    assert "wan_train_network" not in text and len(text.splitlines()) < 80
    script = wanwrap("show", "t2v-lightning", "--script").stdout
    assert "__main__.py merge" in script and "wan_train_network" in script
    source = wanwrap("show", "t2v-vanilla", "--source").stdout
    (tmp_path / "home" / "mine.py").write_text(source, encoding="utf-8")
    again = wanwrap("run", "./mine.py", "--dataset", "sample", "--dry_run")
    assert again.returncode == 0, again.stderr
    assert "sample-mine-high" in again.stdout
    assert json.loads(wanwrap("show", "wan21-t2v-14b", "--json").stdout)["preset"] == "wan21-t2v-14b"


def test_usage_errors_exit_with_2(wanwrap: Wanwrap) -> None:
    done = wanwrap("rnu")
    assert done.returncode == 2 and "Did you mean run?" in done.stderr
    assert wanwrap("run", "t2v-vanilla", "--noise_level", "middle").returncode == 2


def test_upstreams_options_in_the_wrong_place(wanwrap: Wanwrap) -> None:
    done = wanwrap("run", "t2v-vanilla", "--learning_rate", "1e-4")
    assert done.returncode == 2 and "wanwrap calls it --lr." in done.stderr
    assert "put it behind `--`" in wanwrap("run", "t2v-vanilla", "--max_grad_norm", "0").stderr
    assert "No such option" in wanwrap("run", "t2v-vanilla", "--nonsense", "0").stderr


def test_a_reader_that_has_seen_enough(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-m", "wanwrap", "show", "t2v-style"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path, env=env) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""


def test_help_imports_nothing_heavy() -> None:
    code = f"import sys, wanwrap.cli.main; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_dry_run_never_imports_what_trains(tmp_path: Path) -> None:
    code = (
        "import sys; from wanwrap.cli.main import main\n"
        "try: main(['run', 't2v-vanilla', '--dataset', 'sample', '--dry_run'])\n"
        "except SystemExit: pass\n"
        "print([n for n in ('torch', 'accelerate', 'transformers', 'huggingface_hub', 'numpy') if n in sys.modules])"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", cwd=tmp_path, env=env)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel, unpacked as pip would."""
    out = tmp_path_factory.mktemp("wheel")
    argv = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(argv, check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    site = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(built).extractall(site)
    return site


def test_the_wheel_runs_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """With the sample data set, presets, templates and upstream's flags that are inside it."""
    env = {**os.environ, "PYTHONPATH": str(wheel)}
    code = "import wanwrap; print(wanwrap.__file__)"
    place = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=env)
    assert Path(place.stdout.strip()).is_relative_to(wheel)
    argv = [sys.executable, "-m", "wanwrap"]
    for arguments in (["presets"], ["show", "t2v-style"], ["run", "t2v-lightning", "--dataset", "sample", "--dry_run"]):
        done = subprocess.run([*argv, *arguments], capture_output=True, encoding="utf-8", cwd=tmp_path, env=env)
        assert done.returncode == 0, done.stderr
    assert f'image_directory = "{wheel.as_posix()}/wanwrap/templates/sample"' in done.stdout
    assert not (wheel / "presets").exists()


@pytest.mark.parametrize(
    ("words", "expected"), [("wanwrap ch", "plain,check"), ("wanwrap check --base_dir x", "file,x")]
)
def test_completion(words: str, expected: str) -> None:
    env = {**os.environ, "_WANWRAP_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    code = "import sys; sys.argv[0] = 'wanwrap'; from wanwrap.cli.main import main; main(prog_name='wanwrap')"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert expected in done.stdout, done
