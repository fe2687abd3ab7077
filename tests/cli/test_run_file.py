"""A run file: what --save writes is the same run, what one can't mean is refused with its name, what is typed wins."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from helpers import Wanwrap, picture, safetensors, small_dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wanwrap.cli.rehearse import rehearse
from wanwrap.cli.run import run
from wanwrap.cli.run_file import OF_A_START

WRITTEN = "written: "
DRY = "--dry_run"
TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters='/\\:*?"<>|'), min_size=1, max_size=9)
# of each option some values, as they are typed
VALUES: dict[str, st.SearchStrategy[list[Any]]] = {
    "--epochs": st.integers(1, 99).map(lambda n: [n]),
    "--lr": st.floats(1e-7, 1e-3).map(lambda n: [n]),
    "--dim": st.integers(1, 128).map(lambda n: [n]),
    "--alpha": st.floats(0.5, 64).map(lambda n: [n]),
    "--seed": st.integers(0, 2**32 - 1).map(lambda n: [n]),
    "--save-every": st.just([3]),
    "--noise_level": st.sampled_from(["high", "low", "both"]).map(lambda word: [word]),
    "--output_name": TEXTS.map(lambda name: [f"a{name}z"]),
    "--attention": st.sampled_from(["sdpa", "xformers"]).map(lambda word: [word]),
    "--network_args": st.sampled_from([["loraplus_lr_ratio=4"], ["loraplus_lr_ratio=4", "rank_dropout=0.1"]]),
    "--skip_bad": st.just([]),
    "--skip_lightning": st.just([]),
    "--precision": st.sampled_from(["bf16", "FP16"]).map(lambda word: [word]),
    "--vram": st.sampled_from([16, 24.5, 80]).map(lambda size: [size]),
    "--gpus": st.just([2]),
    "--vae": st.just(["../the vae's.safetensors"]),
    "--base_dir": st.just(["other place"]),
    "--python": st.just(["./python's"]),
}
AFTER: dict[str, st.SearchStrategy[list[Any]]] = {
    "--max_grad_norm": st.floats(0, 9).map(lambda n: [n]),
    "--optimizer_args": st.sampled_from([["weight_decay=0.1"], ["weight_decay=0.1", "betas=0.9,0.99"]]),
    "--training_comment": TEXTS.map(lambda text: [f"it's {text}"]),
    "--compile": st.just([]),
    "--max-data-loader-n-workers": st.just([0]),
}


def words(options: dict[str, list[Any]]) -> list[Any]:
    return [word for name, values in options.items() for word in (name, *values)]


def sets(values: dict[str, st.SearchStrategy[list[Any]]]) -> st.SearchStrategy[list[Any]]:
    return st.fixed_dictionaries({}, optional=values).map(words)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(typed=sets(VALUES), after=sets(AFTER))
def test_a_saved_file_is_the_same_run(typed: list[Any], after: list[Any], tmp_path: Path, cli: Wanwrap) -> None:
    """To the letter of the script, from another folder's file, in any environment."""
    safetensors(
        tmp_path / "the vae's.safetensors", {"decoder.conv1.weight": ("F16", [1]), "conv2.weight": ("F16", [16])}
    )
    line = ("run", "t2v-lightning", "sample", *typed)
    path = tmp_path / "files" / "a run.toml"
    path.unlink(missing_ok=True)
    plain = cli(*line, DRY, "--", *after)
    assert plain.returncode == 0, plain.stderr
    assert cli(*line, "--save", path, "--", *after).stdout == f"{WRITTEN}{path}\n"
    again = cli("run", path, DRY, WANWRAP_PYTHON="/elsewhere" if "--python" in typed else "")
    assert again.stdout == plain.stdout and again.stderr == plain.stderr


def test_every_option_of_a_run_stands_in_it(tmp_path: Path, cli: Wanwrap) -> None:
    """Those that were not given as comments, which hold when they are made lines."""
    path = tmp_path / "cats.toml"
    assert cli("run", "t2v-vanilla", "sample", "--epochs", 7, "--save", path).returncode == 0
    text = path.read_text()
    there = set(re.findall(r"^#?(\w+) = ", text, re.M))
    assert there == {param.name for param in run.params} - OF_A_START
    assert "\nepochs = 7 " in text and "\n#seed = 42 " in text and "  # How often the data set is seen." in text
    before = cli("run", path, DRY)
    path.write_text(re.sub(r"^#(\w+ = (?!.*\.\.\.|.* or |.*safetensors|.*\.pth))", r"\1", text, flags=re.M))
    after = cli("run", path, DRY)
    assert path.read_text() != text and after.stdout == before.stdout, after.stderr


def test_what_is_typed_wins(tmp_path: Path, cli: Wanwrap) -> None:
    cats, dogs = (small_dataset(tmp_path / name) for name in ("cats", "dogs"))
    (tmp_path / "r.toml").write_text(
        'preset = "t2v-vanilla"\ndataset = "./cats"\nepochs = 3\nnetwork_args = ["rank_dropout=0.1"]\n[upstream]\nmax_grad_norm = 2\n'
    )
    line = ("run", tmp_path / "r.toml", DRY, "--json")
    whole = json.dumps(json.loads(cli(*line).stdout))
    assert '"--max_train_epochs", "3"' in whole and str(cats) in whole and '"--max_grad_norm", "2' in whole
    more = ("--epochs", 4, "--network_args", "rank_dropout=0.2", "--", "--max_grad_norm", 5)
    for data in ([dogs], ["--dataset", dogs]):
        done = cli(*line, *data, *more)
        assert done.returncode == 0, done.stderr
        whole = json.dumps(json.loads(done.stdout))
        assert '"--max_train_epochs", "4"' in whole and str(cats) not in whole and str(dogs) in whole
        assert "rank_dropout=0.1" not in whole and '"--max_grad_norm", "5' in whole


@pytest.mark.parametrize(
    ("text", "noun"),
    [
        ("epoch = 3", "Did you mean epochs"),
        ("epochs = 3.5", "epochs: .*3.5"),
        ("epochs = true", "epochs must be"),
        ("lr = [1]", "lr must be"),
        ('skip_bad = "yes"', "skip_bad must be true"),
        ('network_args = "rank_dropout=0.1"', "network_args must be a list"),
        ('noise_level = "middle"', "noise_level: .*middle"),
        ("restart = true", "restart"),
        ("max_grad_norm = 0", r"below \[upstream\]"),
        ("[upstream]\nmax_gradnorm = 0", "Did you mean max_grad_norm"),
        ("[upstream]\nmax_grad_norm = [1]", "max_grad_norm"),
        ("[upstream]\ntask = 't2v-14B'", "--task"),
        ("upstream = 3", r"\[upstream\]"),
        ("epochs = ...", "r.toml"),
        ('vae = "C:\\models"', "single quotes"),
    ],
)
def test_what_it_cant_mean(text: str, noun: str, tmp_path: Path, cli: Wanwrap) -> None:
    (tmp_path / "r.toml").write_text(f'preset = "t2v-vanilla"\ndataset = "sample"\n{text}\n')
    done = cli("run", tmp_path / "r.toml", DRY)
    assert done.returncode == 7 and "r.toml" in done.stderr and re.search(noun, done.stderr), done.stderr


def test_tomls_that_are_no_run_file(tmp_path: Path, cli: Wanwrap) -> None:
    own = tmp_path / "own.toml"
    own.write_text("[general]\nresolution = [64, 64]\n[[datasets]]\n")
    done = cli("run", own)
    assert done.returncode == 7 and "wanwrap run PRESET own.toml" in done.stderr
    own.write_text("epochs = 3\n")
    assert "names no preset" in cli("run", own).stderr
    assert cli("run", tmp_path / "nowhere.toml").returncode == 7


def test_ones_own_data_set_and_preset_beside_it(tmp_path: Path, cli: Wanwrap) -> None:
    """Relative paths begin at the file's folder; what is saved is found from anywhere."""
    place = tmp_path / "files"
    picture(place / "media" / "a.png")
    toml = f'[[datasets]]\nimage_directory = "{(place / "media").as_posix()}"\ncache_directory = "{(place / "c").as_posix()}"\n'
    (place / "own.toml").write_text(f'{toml}resolution = [64, 64]\ncaption_extension = ".txt"\n')
    (place / "p.txt").write_text("a cat")
    assert cli("show", "wan21-t2v-1.3b", "--out", place / "mine.py").returncode == 0
    mine = (
        'preset = "./mine.py"\ndataset = "own.toml"\n[upstream]\nsample_every_n_epochs = 1\nsample_prompts = "p.txt"\n'
    )
    (place / "r.toml").write_text(mine)
    done = cli("run", place / "r.toml", DRY)
    assert done.returncode == 0 and str(place / "own.toml") in done.stdout and "a cat --w" in done.stdout, done.stderr
    assert cli("run", "../files/r.toml", "--save", "saved.toml").returncode == 0
    assert cli("run", "saved.toml", DRY).stdout == done.stdout
    (tmp_path / "home" / "saved.toml").rename(tmp_path / "saved.toml")
    assert cli("run", "../saved.toml", DRY).stdout == done.stdout


def test_a_file_that_is_there_is_kept(tmp_path: Path, cli: Wanwrap) -> None:
    path, line = tmp_path / "r.toml", ("run", "t2v-vanilla", "sample")
    path.write_text("mine")
    assert cli(*line, "--save", path).returncode == 11 and path.read_text() == "mine"
    assert cli(*line, "--save", tmp_path / "r.txt").returncode == 7
    assert cli(*line, "--save", tmp_path / "new.toml", DRY).returncode == 7
    assert cli(*line, "--epochs", 0, "--save", tmp_path / "new.toml").returncode == 7
    assert [*tmp_path.glob("new*")] == []


def test_other_verbs_read_it_too(tmp_path: Path, cli: Wanwrap) -> None:
    """And pass over what is `run`'s alone."""
    (tmp_path / "r.toml").write_text(
        'preset = "wan21-t2v-1.3b"\ndataset = "sample"\nepochs = 3\nto_comfyui = true\nvram = 24\n[upstream]\ncompile = true\n'
    )
    done = cli("fit", tmp_path / "r.toml", "--json")
    assert done.returncode == 0 and len(json.loads(done.stdout)) == 1, done.stderr
    ctx = rehearse.make_context("rehearse", [str(tmp_path / "r.toml")])
    assert (ctx.params["preset"], ctx.params["epochs"]) == ("wan21-t2v-1.3b", 3)
    assert ctx.params["upstream_options"] == ("--compile",) and "to_comfyui" not in ctx.params


def test_a_run_goes_on_by_its_file(tmp_path: Path, cli: Wanwrap, weights: list[str], cats: Path) -> None:
    files = "\n".join(
        f"{name.removeprefix('--')} = '{path}'" for name, path in zip(weights[::2], weights[1::2], strict=True)
    )
    run = f"preset = 't2v-vanilla'\ndataset = '{cats}'\nnoise_level = 'low'\nepochs = 4\nsave_every = 2\n{files}\n"
    (tmp_path / "home" / "r.toml").write_text(run)
    assert cli("run", "r.toml", STANDIN_DO="after:10").returncode == 10
    done = cli("run", "r.toml")
    assert done.returncode == 0 and "going on from" in done.stderr, done.stderr
    (record,) = json.loads(cli("status", "--json").stdout)[0]["experts"].values()
    assert record["command"] == "wanwrap run r.toml"
