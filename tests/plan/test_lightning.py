"""Lightning presets from the command to what upstream is given: merged, reused, cast, or left out and said so."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers import PYTHONPATH, ROOT, STANDIN, Wanwrap, dit, golden_plan, published, record

torch = pytest.importorskip("torch")
from safetensors.torch import load_file, save_file  # noqa: E402

from wanwrap.errors import PresetError, WeightsError  # noqa: E402
from wanwrap.preset import load  # noqa: E402
from wanwrap.system.safetensors import sha256  # noqa: E402
from wanwrap.weights.catalogue import CATALOGUE  # noqa: E402

KEY = "blocks.0.cross_attn.k.weight"
RUN = ("run", "t2v-lightning", "--epochs", "2")


@pytest.fixture
def loras(tmp_path: Path) -> dict[str, str]:
    """Lightning's files for the toy DiTs, where wanwrap looks for them; the environment that takes them for real."""
    models, rows = tmp_path / "home" / "local_training" / "models", {}
    for name, value in (("lightning-t2v-v1.1-high", 1.0), ("lightning-t2v-v1.1-low", 2.0)):
        path = models / CATALOGUE[name].path
        path.parent.mkdir(parents=True, exist_ok=True)
        module = "diffusion_model.blocks.0.cross_attn.k"
        up, down = torch.full((4, 2), value), torch.ones(2, 4)
        save_file(
            {f"{module}.lora_up.weight": up, f"{module}.lora_down.weight": down, f"{module}.alpha": torch.tensor(1)},
            path,
        )
        rows[name] = {"size": path.stat().st_size, "sha256": sha256(path)}
    return published(tmp_path, rows)


def trained_on(tmp_path: Path) -> list[Path]:
    """The DiTs that reached upstream's training."""
    calls = [call["argv"] for call in record(tmp_path) if "--network_dim" in call["argv"]]
    return [Path(argv[argv.index("--dit") + 1]) for argv in calls]


def logged(tmp_path: Path, expert: str) -> str:
    return (tmp_path / "home" / "local_training" / "outputs" / expert / "run.log").read_text()


def test_each_expert_trains_on_its_own_merge(
    tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path, loras: dict[str, str]
) -> None:
    done = wanwrap(*RUN, "--dataset", cats, *weights, **loras)
    assert done.returncode == 0, done.stderr
    high, low = trained_on(tmp_path)
    assert high.parent.name == low.parent.name == "merged_dits"
    for path, value in ((high, 1.0), (low, 2.0)):
        assert torch.equal(load_file(path)[KEY], torch.full((4, 4), value, dtype=torch.float16))  # 1/2 * 2 * value
    assert high.name.startswith("high-wan2.2") and "high_noise" in high.name and "low_noise" in low.name
    before = {path: path.stat() for path in high.parent.iterdir()}
    again = wanwrap(*RUN, "--dataset", cats, *weights, "--output_name", "again", **loras)
    assert again.returncode == 0 and logged(tmp_path, "again/high").count("nothing to do") == 2
    assert {path: path.stat() for path in high.parent.iterdir()} == before


def test_what_was_merged_is_needed_no_more(
    tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path, loras: dict[str, str]
) -> None:
    one = (*RUN, "--dataset", cats, *weights, "--noise_level", "low")
    assert wanwrap(*one, **loras).returncode == 0
    for path in (tmp_path / "home/local_training/models").rglob("*low_noise.safetensors"):
        path.unlink()
    again = wanwrap(*one, "--output_name", "again", **loras)
    assert again.returncode == 0, again.stderr
    assert wanwrap(*one, "--output_name", "c", "--precision", "bf16", **loras).returncode == 5


def test_loras_that_lie_elsewhere(
    tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path, loras: dict[str, str]
) -> None:
    """Under lightx2v's names, which are those of all its releases: the content decides."""
    high, low = sorted((tmp_path / "home" / "local_training" / "models").rglob("*noise.safetensors"))
    mine = [
        path.rename(tmp_path / f"{level}_noise_model.safetensors") for path, level in ((high, "high"), (low, "low"))
    ]
    one = (*RUN, "--dataset", cats, *weights)
    done = wanwrap(*one, "--lightning_high", mine[0], "--lightning_low", mine[1], **loras)
    assert done.returncode == 0, done.stderr
    assert [float(load_file(path)[KEY].max()) for path in trained_on(tmp_path)] == [1.0, 2.0]
    mine[1].write_bytes(mine[0].read_bytes())
    done = wanwrap(*one, "--lightning_high", mine[0], "--lightning_low", mine[1], "--output_name", "b", **loras)
    assert done.returncode == 10 and "low_noise_model.safetensors" in done.stderr
    done = wanwrap("run", "t2v-vanilla", "--epochs", 2, "--dataset", cats, *weights, "--lightning_high", mine[0])
    assert done.returncode == 7 and "--lightning_high" in done.stderr


def test_another_dit_lora_or_precision_is_another_merge(
    tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path, loras: dict[str, str]
) -> None:
    one = (*RUN, "--dataset", cats, *weights, "--noise_level", "low")
    other = dit(tmp_path / "other.safetensors")
    wishes: list[list[object]] = [[], ["--precision", "bf16"], ["--dit_low", other]]
    for number, more in enumerate(wishes):
        done = wanwrap(*one, *more, "--output_name", str(number), **loras)
        assert done.returncode == 0, done.stderr
    assert len(set(trained_on(tmp_path))) == 3
    assert load_file(trained_on(tmp_path)[1])[KEY].dtype == torch.bfloat16
    assert "_bf16-" in trained_on(tmp_path)[1].name
    assert " ".join(record(tmp_path)[3]["argv"]).count("_precision bf16") == 2
    assert [call["script"] for call in record(tmp_path)].count("wan_cache_latents.py") == 1  # nothing is encoded twice


def test_a_lora_under_anothers_name_stops_the_run(
    tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path, loras: dict[str, str]
) -> None:
    """Of one size and one shape, as lightx2v's four files are: only the content tells."""
    models = tmp_path / "home" / "local_training" / "models"
    high, low = sorted(models.rglob("*noise.safetensors"))
    low.write_bytes(high.read_bytes())
    done = wanwrap(*RUN, "--dataset", cats, *weights, **loras)
    assert done.returncode == 10 and "low_noise.safetensors" in done.stderr, done.stderr
    assert not (tmp_path / "record.jsonl").exists()


def test_the_printed_script_merges_too(
    tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path, loras: dict[str, str]
) -> None:
    printed = wanwrap(*RUN, "--dataset", cats, *weights, "--dry_run", **loras)
    assert printed.returncode == 0, printed.stderr
    env = {**os.environ, "STANDIN_RECORD": str(tmp_path / "record.jsonl"), "WANWRAP_MUSUBI_DIR": str(STANDIN)}
    for _ in range(2):  # the second time the merges are there
        done = subprocess.run(["bash"], input=printed.stdout, capture_output=True, encoding="utf-8", env=env)
        assert done.returncode == 0, done.stderr
    high, low = trained_on(tmp_path)[:2]
    assert float(load_file(high)[KEY].max()) == 1.0 and float(load_file(low)[KEY].max()) == 2.0


def test_skipped_it_is_not_called_lightning(tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path) -> None:
    done = wanwrap(*RUN, "--dataset", cats, *weights, "--skip_lightning")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in trained_on(tmp_path)] == ["high.safetensors", "low.safetensors"]
    assert not list((tmp_path / "home").rglob("*lightning*"))
    assert "t2v-lightning without Lightning on cats" in done.stderr
    assert "it was trained without Lightning" in done.stdout
    done = wanwrap("run", "t2v-vanilla", "--epochs", 2, "--dataset", cats, *weights, "--skip_lightning")
    assert done.returncode == 7 and "--skip_lightning" in done.stderr


@pytest.mark.parametrize(("stored", "precision", "cast"), [("F16", "bf16", True), ("F16", "fp16", False), ("F32", "bf16", True), ("F8_E4M3", "fp16", False)])  # fmt: skip
def test_precision_casts_where_it_must(
    stored: str, precision: str, cast: bool, tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path
) -> None:
    """Upstream refuses a 16-bit DiT in the other type; fp8 is computed with in either."""
    mine = dit(tmp_path / "mine.safetensors", stored)
    one = ["--noise_level", "low", "--dit_low", mine, "--precision", precision]
    done = wanwrap("run", "t2v-vanilla", "--epochs", 2, "--dataset", cats, *weights, *one)
    assert done.returncode == 0, done.stderr
    (found,) = trained_on(tmp_path)
    assert (found.parent.name == "converted") == cast and (found == mine) != cast
    assert " ".join(record(tmp_path)[-1]["argv"]).count(f"_precision {precision}") == 2
    if cast:
        assert load_file(found)[KEY].dtype == torch.bfloat16


def test_a_cast_of_what_is_not_the_published_file(
    tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path, loras: dict[str, str]
) -> None:
    """High noise under low noise's name, of one size: the cast finds out, and is not reused."""
    models = tmp_path / "home" / "local_training" / "models"
    low = dit(models / CATALOGUE["wan2.2-t2v-low"].path)
    right = low.read_bytes()
    rows = json.loads((custom := tmp_path / "custom" / "rows.json").read_text())
    custom.write_text(json.dumps({**rows, "wan2.2-t2v-low": {"size": len(right), "sha256": sha256(low)}}))
    rest = weights[weights.index("--vae") :]
    one = ("run", "t2v-vanilla", "--epochs", 2, "--dataset", cats, *rest, "--noise_level", "low", "--precision", "bf16")
    low.write_bytes(right[:-1] + b"\x01")
    done = wanwrap(*one, **loras)
    assert done.returncode == 10 and "published" in done.stderr
    assert not list(models.rglob("converted/*"))
    low.write_bytes(right)
    assert wanwrap(*one, **loras).returncode == 0
    os.utime(low)  # fetched again
    again = wanwrap(*one, "--output_name", "again", **loras)
    assert again.returncode == 0 and "nothing to do" in logged(tmp_path, "again/low")


def test_too_little_disk_for_all_merges_together(
    tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path
) -> None:
    for name in ("high", "low"):
        rows = {KEY: {"dtype": "F16", "shape": [10**6, 2 * 10**6], "data_offsets": [0, 4 * 10**12]}}
        text = json.dumps(rows).encode()
        with (tmp_path / "weights" / f"{name}.safetensors").open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + 4 * 10**12)
    done = wanwrap("run", "t2v-vanilla", "--epochs", 2, "--dataset", cats, *weights, "--precision", "bf16")
    assert done.returncode == 13 and "8000.0 GB for DiTs" in done.stderr
    assert not (tmp_path / "home" / "local_training").exists()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_run_stopped_while_it_casts(how: int, tmp_path: Path, weights: list[str], cats: Path) -> None:
    """Two processes below `run`, each in a group of its own."""
    large = {f"blocks.{n}.cross_attn.k.weight": torch.ones(4096, 4096).half() for n in range(16)}
    save_file(large, tmp_path / "low.safetensors")
    one = ["--noise_level", "low", "--dit_low", str(tmp_path / "low.safetensors"), "--precision", "bf16"]
    argv = [sys.executable, "-m", "wanwrap", "run", "t2v-vanilla", "--dataset", str(cats), *weights, *one]
    env = {**os.environ, "WANWRAP_MUSUBI_DIR": str(STANDIN), "PYTHONPATH": PYTHONPATH}
    process = psutil.Popen(argv, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while not list(tmp_path.rglob("converted/*-part")) and process.poll() is None:
        time.sleep(0.01)
    below = process.children(recursive=True)
    beside = ("watchdog.py", "resource_tracker")
    assert len([each for each in below if not any(word in " ".join(each.cmdline()) for word in beside)]) == 2
    process.send_signal(how)
    text = process.communicate(timeout=60)[0].decode()
    assert process.returncode == 130 and "the same command goes on" in text, text
    (found,) = tmp_path.rglob("record.json")
    assert json.loads(found.read_text())["state"] == "interrupted"
    assert not psutil.wait_procs(below, 5)[1]
    assert not list(tmp_path.rglob("*-part"))  # the whole file may be there, if it came to its end just so


def test_no_merge_into_fp8(tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path) -> None:
    eight = dit(tmp_path / "eight.safetensors", "F8_E4M3")
    done = wanwrap(*RUN, "--dataset", cats, *weights, "--noise_level", "low", "--dit_low", eight)
    assert done.returncode == WeightsError.exit_code and "fp8" in done.stderr


@pytest.mark.parametrize("release", ["i2v-v1", "t2v-v9", "v1.1"])
def test_a_release_for_another_model(release: str, tmp_path: Path) -> None:
    """T2V's and I2V's have the same shapes: they would merge without a word."""
    mine = tmp_path / "mine.py"
    source = (ROOT / "presets" / "t2v_lightning.py").read_text()
    mine.write_text(source.replace('release="t2v-v1.1"', f'release="{release}"'))
    with pytest.raises(PresetError, match=r"is not for t2v-A14B: its releases are t2v-v1.1, t2v-v2.0"):
        load(str(mine))


@pytest.mark.parametrize(("name", "release"), [("t2v-lightning", "t2v-v1.1"), ("i2v-lightning", "i2v-v1")])
def test_the_release_is_one_line(name: str, release: str, tmp_path: Path) -> None:
    preset = load(name)
    assert preset.lightning and preset.lightning.release == release
    plan: Any = golden_plan(name)
    assert [step.name for step in plan.rewrites] == ["merge Lightning, high", "merge Lightning, low"]
    source = (ROOT / "presets" / f"{name.replace('-', '_')}.py").read_text()
    assert source.count("release=") == 1 and "is debated" in source
    if name == "t2v-lightning":
        mine = tmp_path / "mine.py"
        mine.write_text(source.replace('release="t2v-v1.1"', 'release="t2v-v2.0"'))
        second = load(str(mine))
        assert second.lightning
        loras = [CATALOGUE[second.lightning.lora(expert)] for expert in second.experts]
        assert [lora.tail.split("/")[1] for lora in loras] == [
            "high_noise_model.safetensors",
            "low_noise_model.safetensors",
        ]


def test_setup_takes_no_other_file_for_a_release(tmp_path: Path, wanwrap: Wanwrap, loras: dict[str, str]) -> None:
    """A name, or the user's word, doesn't make a LoRA Lightning; nor the other expert's."""
    models = tmp_path / "home" / "local_training" / "models"
    low, plain = models / CATALOGUE["lightning-t2v-v1.1-low"].path, tmp_path / "plain.safetensors"
    plain.write_bytes(low.read_bytes())
    junk = tmp_path / "junk.safetensors"
    junk.write_text("hello")
    for file in (plain, junk):
        done = wanwrap("setup", "t2v-lightning", "--weights_only", "--dry_run", "--lightning_high", file, **loras)
        assert done.returncode == WeightsError.exit_code and "is not lightning-t2v-v1.1-high" in done.stderr, (
            done.stderr
        )
