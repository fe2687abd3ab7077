"""The command line itself: help, listings, start-up, and the wheel that users install."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from helpers import ROOT, Wanwrap

from wanwrap.preset import shipped

HEAVY = ["torch", "tqdm", "accelerate", "transformers", "huggingface_hub", "av", "PIL", "tomlkit", "psutil", "numpy"]


@pytest.mark.parametrize(
    "verb",
    [
        [],
        *(
            [verb]
            for verb in [
                "presets",
                "show",
                "run",
                "rehearse",
                "merge",
                "convert",
                "prepare",
                "caption",
                "check",
                "prune",
                "setup",
                "doctor",
                "inspect",
            ]
        ),
    ],
)
def test_help_has_an_example(verb: list[str], wanwrap: Wanwrap) -> None:
    done = wanwrap(*verb, "--help")
    assert done.returncode == 0
    assert "wanwrap" in done.stdout
    assert "Example: wanwrap" in done.stdout or not verb


def test_presets(wanwrap: Wanwrap) -> None:
    assert [line.split()[0] for line in wanwrap("presets").stdout.splitlines()] == list(shipped())
    assert {row["name"] for row in json.loads(wanwrap("presets", "--json").stdout)} == set(shipped())


def test_show(wanwrap: Wanwrap, tmp_path: Path) -> None:
    text = wanwrap("show", "t2v-lightning").stdout
    for words in ("Where the numbers come from", "train high:", "train low:", "total_iters=", "__main__.py merge"):
        assert words in text
    source = wanwrap("show", "t2v-vanilla", "--source").stdout
    (tmp_path / "home" / "mine.py").write_text(source, encoding="utf-8")
    again = wanwrap("run", "./mine.py", "--dataset", "sample", "--dry_run")
    assert again.returncode == 0, again.stderr
    assert "sample-mine-high" in again.stdout
    assert json.loads(wanwrap("show", "wan21-t2v-14b", "--json").stdout)["preset"] == "wan21-t2v-14b"


def test_usage_errors_exit_with_2(wanwrap: Wanwrap) -> None:
    assert wanwrap("rnu").returncode == 2
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
