"""Lightning presets from the command to what upstream is given: merged, reused, cast, or left out and said so."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers import STANDIN, Wanwrap, dit, published, record
from platforms import in_bash, signals
from runs import begin, ended, option, until
from shells import NATIVE
from weightfiles import sparse

torch = pytest.importorskip("torch")
from safetensors.torch import load_file, save_file  # noqa: E402

from wanwrap.errors import PresetError, WeightsError  # noqa: E402
from wanwrap.preset import load, path_of  # noqa: E402
from wanwrap.system.safetensors import sha256  # noqa: E402
from wanwrap.weights.catalogue import CATALOGUE  # noqa: E402

KEY = "blocks.0.cross_attn.k.weight"
LORAS = {"lightning-t2v-v1.1-high": 1.0, "lightning-t2v-v1.1-low": 2.0}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """With Lightning's files for the toy DiTs, where wanwrap looks for them."""
    folder = tmp_path / "home" / "local_training" / "models"
    for name, value in LORAS.items():
        path, module = folder / CATALOGUE[name].path, "diffusion_model.blocks.0.cross_attn.k"
        path.parent.mkdir(parents=True, exist_ok=True)
        up, down = torch.full((4, 2), value), torch.ones(2, 4)
        rows = {"lora_up.weight": up, "lora_down.weight": down, "alpha": torch.tensor(1)}
        save_file({f"{module}.{part}": tensor for part, tensor in rows.items()}, path)
    return folder


@pytest.fixture
def lightning(
    tmp_path: Path, models: Path, cli: Wanwrap, weights: list[str], cats: Path, monkeypatch: pytest.MonkeyPatch
) -> Wanwrap:
    """A run of two epochs, where these files are the published ones."""
    rows = dict[str, dict[str, Any]]()
    for name in LORAS:
        path = models / CATALOGUE[name].path
        rows[name] = {"size": path.stat().st_size, "sha256": sha256(path)}
        monkeypatch.setitem(CATALOGUE, name, replace(CATALOGUE[name], **rows[name]))
    env = published(tmp_path, rows)
    return lambda *words: cli("run", "t2v-lightning", cats, *weights, "--epochs", 2, *words, **env)


def trained_on(tmp_path: Path) -> list[Path]:
    """The DiTs that reached upstream's training."""
    calls = [call["argv"] for call in record(tmp_path) if call["script"] == "wan_train_network.py"]
    return [Path(str(option(argv, "dit"))) for argv in calls]


def logged(tmp_path: Path, expert: str) -> str:
    return (tmp_path / "home" / "local_training" / "outputs" / expert / "run.log").read_text(encoding="utf-8")


def values(paths: Iterable[Path]) -> list[float]:
    """What a DiT of zeros has become."""
    return [float(load_file(path)[KEY].max()) for path in paths]


@in_bash
def test_each_expert_trains_on_its_own_merge_which_is_made_once(
    tmp_path: Path, lightning: Wanwrap, models: Path
) -> None:
    """By the printed script, twice, then by `run`, which needs its LoRAs no more."""
    env = {**os.environ, "STANDIN_RECORD": str(tmp_path / "record.jsonl"), "WANWRAP_MUSUBI_DIR": str(STANDIN)}
    printed = lightning("--dry_run", "--shell", "bash").stdout
    for _ in range(2):
        done = subprocess.run([str(NATIVE)], input=printed, capture_output=True, encoding="utf-8", env=env)
        assert done.returncode == 0, done.stderr
    high, low, *_ = made = trained_on(tmp_path)
    assert made == [high, low] * 2 and high.parent.name == low.parent.name == "merged_dits"
    assert high.name.startswith("high-wan2.2") and "high_noise" in high.name and "low_noise" in low.name
    for path, value in ((high, 1.0), (low, 2.0)):
        assert torch.equal(load_file(path)[KEY], torch.full((4, 4), value, dtype=torch.float16))  # 1/2 * 2 * value
    before = {path: path.stat() for path in high.parent.iterdir()}
    for path in models.rglob("*noise.safetensors"):
        path.unlink()
    done = lightning("--output_name", "again")
    assert done.returncode == 0, done.stderr
    assert trained_on(tmp_path)[4:] == [high, low] and logged(tmp_path, "again/high").count("nothing to do") == 2
    assert {path: path.stat() for path in high.parent.iterdir()} == before
    assert lightning("--output_name", "c", "--precision", "bf16").returncode == 5


def test_another_dit_or_precision_is_another_merge(tmp_path: Path, lightning: Wanwrap, models: Path) -> None:
    """And a LoRA may lie elsewhere, under lightx2v's name, which is that of all its releases."""
    low = next(models.rglob("*low_noise.safetensors")).rename(tmp_path / "low_noise_model.safetensors")
    mine = ("--noise_level", "low", "--lightning_low", low)
    for name, words in (("a", ()), ("b", ("--precision", "bf16"))):
        done = lightning("--output_name", name, *mine, *words)
        assert done.returncode == 0, done.stderr
    merged, cast = made = trained_on(tmp_path)
    assert values(made) == [2.0, 2.0] and load_file(cast)[KEY].dtype == torch.bfloat16 and "_bf16-" in cast.name
    assert " ".join(record(tmp_path)[-1]["argv"]).count("_precision bf16") == 2
    assert [call["script"] for call in record(tmp_path)].count("wan_cache_latents.py") == 1  # nothing is encoded twice
    other = lightning(*mine, "--dit_low", dit(tmp_path / "other" / "low.safetensors"), "--dry_run").stdout
    assert "merge Lightning, low" in other and merged.name not in other


def test_a_lora_under_anothers_name_stops_the_run(tmp_path: Path, lightning: Wanwrap, models: Path) -> None:
    """Of one size and one shape, as lightx2v's four files are: only the content tells; wherever it lies."""
    high, low = sorted(models.rglob("*noise.safetensors"))
    low.write_bytes(high.read_bytes())
    done = lightning("--noise_level", "low")
    assert done.returncode == 10 and low.name in done.stderr, done.stderr
    assert not (tmp_path / "record.jsonl").exists()
    mine = low.rename(tmp_path / "low_noise_model.safetensors")
    steps = json.loads(lightning("--lightning_low", mine, "--dry_run", "--json").stdout)["steps"]
    (merge,) = (step["argv"] for step in steps if step["name"] == "merge Lightning, low")
    assert option(merge, "lora") == str(mine)
    assert option(merge, "lora_sha256") == CATALOGUE["lightning-t2v-v1.1-low"].sha256


def test_skipped_it_is_not_called_lightning(tmp_path: Path, cli: Wanwrap, weights: list[str], cats: Path) -> None:
    done = cli("run", "t2v-lightning", cats, *weights, "--epochs", 2, "--skip_lightning")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in trained_on(tmp_path)] == ["high.safetensors", "low.safetensors"]
    assert not list((tmp_path / "home").rglob("*lightning*"))
    assert "without Lightning" in done.stderr and "40 steps" in done.stdout


@pytest.mark.parametrize(("stored", "precision", "cast"), [("F16", "bf16", True), ("F16", "fp16", False), ("F32", "bf16", True), ("F8_E4M3", "fp16", False)])  # fmt: skip
def test_precision_casts_where_it_must(
    stored: str, precision: str, cast: bool, tmp_path: Path, cli: Wanwrap, weights: list[str], cats: Path
) -> None:
    """Upstream refuses a 16-bit DiT in the other type; fp8 is computed with in either."""
    mine = dit(tmp_path / "mine.safetensors", stored)
    one = ("--noise_level", "low", "--dit_low", mine, "--precision", precision)
    done = cli("run", "t2v-vanilla", cats, *weights, *one, "--dry_run", "--json")
    steps = {step["name"]: step["argv"] for step in json.loads(done.stdout)["steps"]}
    assert (f"cast to {precision}, low" in steps) == cast
    trained = Path(str(option(steps["train low"], "dit")))
    assert trained.parent.name == "converted" if cast else trained == mine
    assert " ".join(steps["train low"]).count(f"_precision {precision}") == 3


def test_a_cast_of_what_is_not_the_published_file(
    tmp_path: Path, models: Path, cli: Wanwrap, weights: list[str], cats: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """High noise under low noise's name, of one size: the cast finds out, and is not reused."""
    low = dit(models / CATALOGUE["wan2.2-t2v-low"].path)
    right = low.read_bytes()
    row: dict[str, Any] = {"size": len(right), "sha256": sha256(low)}
    monkeypatch.setitem(CATALOGUE, "wan2.2-t2v-low", replace(CATALOGUE["wan2.2-t2v-low"], **row))
    env = published(tmp_path, {"wan2.2-t2v-low": row})
    rest = weights[weights.index("--vae") :]
    one = ("run", "t2v-vanilla", "--epochs", 2, cats, *rest, "--noise_level", "low", "--precision", "bf16")
    low.write_bytes(right[:-1] + b"\x01")
    done = cli(*one, **env)
    assert done.returncode == 10 and "published" in done.stderr
    assert not list(models.rglob("converted/*"))
    low.write_bytes(right)
    assert cli(*one, **env).returncode == 0
    (cast,) = trained_on(tmp_path)
    assert load_file(cast)[KEY].dtype == torch.bfloat16
    os.utime(low)  # fetched again
    again = cli(*one, "--output_name", "again", **env)
    assert again.returncode == 0 and "nothing to do" in logged(tmp_path, "again/low")


@signals
def test_a_run_stopped_while_it_casts(tmp_path: Path, weights: list[str], cats: Path) -> None:
    """Two processes below `run`, each in a group of its own."""
    large = sparse(
        tmp_path / "low.safetensors", {f"blocks.{n}.cross_attn.k.weight": ("F16", [4096] * 2) for n in range(16)}
    )
    one = ("--noise_level", "low", "--dit_low", large, "--precision", "bf16")
    process = begin(tmp_path, "run", "t2v-vanilla", cats, *weights, *one)
    until(lambda: list(tmp_path.rglob("converted/*-part")) or process.poll() is not None)
    below = psutil.Process(process.pid).children(recursive=True)
    beside = ("watchdog.py", "resource_tracker")
    assert len([each for each in below if not any(word in " ".join(each.cmdline()) for word in beside)]) == 2
    process.send_signal(signal.SIGTERM)
    ended(process, 130)
    (found,) = tmp_path.rglob("record.json")
    assert json.loads(found.read_text())["state"] == "interrupted"
    assert not psutil.wait_procs(below, 5)[1]
    assert not list(tmp_path.rglob("*-part"))  # the whole file may be there, if it came to its end just so


def test_no_merge_into_fp8(tmp_path: Path, lightning: Wanwrap) -> None:
    done = lightning("--noise_level", "low", "--dit_low", dit(tmp_path / "eight.safetensors", "F8_E4M3"))
    assert done.returncode == WeightsError.exit_code and "fp8" in done.stderr


def test_the_release_is_one_line(tmp_path: Path) -> None:
    """T2V's and I2V's have the same shapes: they would merge without a word."""
    source, mine = path_of("t2v-lightning").read_text(encoding="utf-8"), tmp_path / "mine.py"
    mine.write_text(source.replace('release="t2v-v1.1"', 'release="t2v-v2.0"'), encoding="utf-8")
    preset = load(str(mine))
    assert preset.lightning
    loras = [CATALOGUE[preset.lightning.lora(expert)].tail.split("/")[1] for expert in preset.experts]
    assert loras == ["high_noise_model.safetensors", "low_noise_model.safetensors"]
    for other in ("i2v-v1", "v1.1"):
        mine.write_text(source.replace('release="t2v-v1.1"', f'release="{other}"'), encoding="utf-8")
        with pytest.raises(PresetError, match=r"t2v-v1\.1, t2v-v2\.0"):
            load(str(mine))


@pytest.mark.parametrize("lora", ["low_noise", "junk"])
@pytest.mark.usefixtures("lightning")
def test_setup_takes_no_other_file_for_a_release(lora: str, tmp_path: Path, cli: Wanwrap) -> None:
    """A name, or the user's word, doesn't make a LoRA Lightning; nor the other expert's."""
    (tmp_path / "junk.safetensors").write_text("hello")
    file = next(tmp_path.rglob(f"*{lora}.safetensors"))
    done = cli("setup", "t2v-lightning", "--weights_only", "--dry_run", "--lightning_high", file)
    assert done.returncode == WeightsError.exit_code and "lightning-t2v-v1.1-high" in done.stderr, done.stderr
