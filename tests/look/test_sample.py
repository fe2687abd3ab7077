"""`sample`: which cells there are, upstream's command for each, what is made once, and what is refused before."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import pytest
from helpers import STANDIN, Wanwrap, clip, dit, picture, record
from PIL import Image, ImageChops, ImageStat
from runs import NAME, calls, folder, option, told

from wanwrap.data.media import kind_of
from wanwrap.errors import GpuError, OptionError, OutputError, RoomError, StepError, WeightsError
from wanwrap.look import grid, samples
from wanwrap.look.prompts import Prompt, defaults
from wanwrap.look.sample_models import Models
from wanwrap.look.sample_plan import make_plan
from wanwrap.look.sample_request import SampleRequest
from wanwrap.run.record import Record, unknown
from wanwrap.run.status import find
from wanwrap.system.files import lock
from wanwrap.upstream.sampling import WAN
from wanwrap.weights.weight_file import WeightFile

SIZE = ("--size", "64x64", "--steps", 4)
TWO = (*SIZE, "--prompt", "a cat", "--prompt", "a dog")


@pytest.fixture
def trained(cli: Wanwrap, weights: list[str], cats: Path) -> Wanwrap:
    """A run of three epochs of both experts, each saved."""
    done = cli("run", "t2v-vanilla", cats, *weights, "--epochs", 3, "--save_every", 1)
    assert done.returncode == 0, done.stderr
    return cli


def rows(tmp_path: Path) -> list[dict[str, Any]]:
    """What stands in the list of samples."""
    place = folder(tmp_path) / samples.FILE
    found: list[dict[str, Any]] = json.loads(place.read_text(encoding="utf-8"))["samples"]
    return found


def made(tmp_path: Path) -> list[dict[str, Any]]:
    """What the stand-in says that it has made each sample of, in their order."""
    return [json.loads((folder(tmp_path) / row["file"]).read_text(encoding="utf-8")) for row in rows(tmp_path)]


def dry(cli: Wanwrap, *words: object) -> list[list[str]]:
    """Upstream's arguments of each cell."""
    done = cli("sample", NAME, *words, "--dry_run", "--json")
    assert done.returncode == 0, done.stderr
    return [row["argv"] for row in json.loads(done.stdout)]


def change(tmp_path: Path, expert: str, **changes: Any) -> None:
    """Other values in an expert's record."""
    place = folder(tmp_path) / expert / "record.json"
    place.write_text(json.dumps(told(tmp_path, expert) | changes), encoding="utf-8")


def test_both_experts_with_the_same_noise_and_a_column_without(tmp_path: Path, trained: Wanwrap) -> None:
    done = trained("sample", NAME, *TWO, "--epochs", "1,last", "--strength", "0.6,1", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == rows(tmp_path) and "--prompt" in rows(tmp_path)[0]["argv"]
    columns = [(row["epoch"], row["strength"], row["prompt"]) for row in rows(tmp_path)]
    pairs = [(None, 0.0), (1, 0.6), (1, 1.0), (3, 0.6), (3, 1.0)]
    assert columns == [(*pair, prompt) for pair in pairs for prompt in ("a cat", "a dog")]
    assert {row["seed"] for row in rows(tmp_path)} == {42}
    for row, what in zip(rows(tmp_path), made(tmp_path), strict=True):
        suffix = "" if row["epoch"] == 3 else "-000001"
        loras = [f"{NAME}-{expert}{suffix}.safetensors" for expert in ("high", "low")] if row["epoch"] else []
        assert what["loras"] == [[name, row["strength"]] for name in loras] and what["prompt"] == row["prompt"]
        assert [row["loras"][expert] for expert in row["loras"]] == loras
    assert len(calls(tmp_path, "wan_generate_video.py")) == 1  # the DiTs are loaded once


def test_the_same_command_goes_on(tmp_path: Path, trained: Wanwrap) -> None:
    """Out of memory after three of six; what is there stays as it is, and more is added to it."""
    died = trained("sample", NAME, *TWO, "--epochs", "1,2", STANDIN_SAMPLES="3")
    assert died.returncode == 9 or died.returncode == StepError.exit_code, died.stderr
    assert "--size" in died.stderr and len(rows(tmp_path)) == 3
    before = {row["file"]: (folder(tmp_path) / row["file"]).stat().st_mtime_ns for row in rows(tmp_path)}
    done = trained("sample", NAME, *TWO, "--epochs", "1,2")
    page = folder(tmp_path) / "report.html"
    assert done.returncode == 0 and len(rows(tmp_path)) == 6
    (line,) = done.stdout.splitlines()
    assert "6 samples" in line and str(folder(tmp_path) / "samples") in line and line.endswith(str(page))
    assert all(Path(row["file"]).name in page.read_text(encoding="utf-8") for row in rows(tmp_path))
    assert all((folder(tmp_path) / name).stat().st_mtime_ns == time for name, time in before.items())
    again = trained("sample", NAME, *TWO, "--epochs", "1,2", "--python", "/bin/false", STANDIN_GPUS="0")
    assert again.returncode == 0 and "6 of them are there" in again.stderr
    (folder(tmp_path) / rows(tmp_path)[0]["file"]).unlink()
    assert trained("sample", NAME, *TWO, "--seed", 1, "--epochs", "2").returncode == 0
    assert [row["seed"] for row in rows(tmp_path)] == [42] * 5 + [1] * 4
    names = {path.name for path in (folder(tmp_path) / "samples").iterdir()}
    assert names == {"samples.json", "sample.log"} | {Path(row["file"]).name for row in rows(tmp_path)}


def test_defaults(tmp_path: Path, trained: Wanwrap) -> None:
    """Four prompts: two captions, the trigger elsewhere, and something without it; all epochs where they are few."""
    found = dry(trained)
    prompts = list(dict.fromkeys(option(argv, "prompt") for argv in found))
    examples = told(tmp_path)["examples"]
    assert prompts[:2] == [row["caption"] for row in examples[:2]] and len(found) == 4 * len(prompts)
    assert {option(argv, "infer_steps") for argv in found} == {"20"}
    triggered = dry(trained, "--trigger", "mycat")
    assert sum("mycat" in str(option(argv, "prompt")) for argv in triggered) == len(triggered) / 4
    cell = found[-1]
    at = cell.index("--video_size")
    assert cell[at + 1 : at + 3] == ["480", "832"] and option(cell, "timestep_boundary") == "0.875"
    assert Path(str(option(cell, "dit"))).name == "low.safetensors"
    assert Path(str(option(cell, "dit_high_noise"))).name == "high.safetensors"
    assert option(cell, "lora_weight") == str(folder(tmp_path) / f"{NAME}-low.safetensors")
    assert option(cell, "lora_weight_high_noise") == str(folder(tmp_path) / f"{NAME}-high.safetensors")
    assert "--lora_weight" not in found[0] and "--cfg_skip_mode" not in cell


def test_the_script_has_the_same_commands(trained: Wanwrap) -> None:
    done = trained("sample", NAME, *TWO, "--epochs", "last", "--dry_run")
    words = re.findall(r"--prompt '(.*?)'", done.stdout)
    assert done.returncode == 0 and words == ["a cat", "a dog"] * 2 and str(STANDIN / "src") in done.stdout


def test_clips_and_a_file_of_prompts(tmp_path: Path, trained: Wanwrap) -> None:
    assert {option(argv, "video_length") for argv in dry(trained, "--clips")} == {"33"}
    file = tmp_path / "prompts.txt"
    file.write_bytes("\ufeff# mine\n猫 says hi --d 7 --w 96 --h 32 --n ugly --fs 3 --l 1.5\n".encode())
    argv = dry(trained, "--prompts", file, "--epochs", "last")[-1]
    at = argv.index("--video_size")
    assert argv[at + 1 : at + 3] == ["32", "96"] and option(argv, "prompt") == "猫 says hi"
    values = ["7", "ugly", "3.0", "1.5", "4.0"]
    names = ["seed", "negative_prompt", "flow_shift", "guidance_scale", "guidance_scale_high_noise"]
    assert [option(argv, name) for name in names] == values
    assert trained("sample", NAME, "--prompts", file, "--epochs", "last").returncode == 0
    (row, _) = rows(tmp_path)
    assert (row["negative_prompt"], row["flow_shift"], row["guidance_scale"]) == ("ugly", 3, 1.5)


@pytest.mark.parametrize(
    ("words", "noun"),
    [
        (("--size", "72x96"), "multiples of 16"),
        (("--frames", 6), "4N+1"),
        (("--epochs", "7"), "1, 2, 3, last"),
        (("--image", "/x.png"), "--image"),
        (("--prompt", " "), "empty"),
        (("--prompt", "caf\udce9"), "UTF-8"),
        (("--clips", "--frames", 5), "--clips"),
        (("--prompts", "/none.txt"), "/none.txt"),
    ],
)
def test_what_upstream_would_do_in_silence_is_refused(words: Sequence[object], noun: str, trained: Wanwrap) -> None:
    done = trained("sample", NAME, *words)
    assert done.returncode == OptionError.exit_code and noun in done.stderr


@pytest.mark.parametrize(
    "line", ["a cat --zz 7", "a cat --d 5 there", "a cat --w wide", "--w 64", "# nothing", "he -- it"]
)
def test_a_line_that_upstream_would_misread(line: str, tmp_path: Path, trained: Wanwrap) -> None:
    (tmp_path / "prompts.txt").write_text(line + "\n", encoding="utf-8")
    done = trained("sample", NAME, "--prompts", tmp_path / "prompts.txt")
    assert done.returncode == OptionError.exit_code, done.stderr


def test_loras_that_are_exchanged_or_foreign(tmp_path: Path, trained: Wanwrap) -> None:
    high, low = (folder(tmp_path) / f"{NAME}-{expert}.safetensors" for expert in ("high", "low"))
    mine = high.read_bytes()
    high.write_bytes(low.read_bytes())
    done = trained("sample", NAME, "--epochs", "last", *TWO)
    assert done.returncode == WeightsError.exit_code and "low-noise expert's" in done.stderr
    high.write_bytes(mine.replace(b"lora_unet_", b"diffusion_"))
    done = trained("sample", NAME, "--epochs", "last", *TWO)
    assert done.returncode == WeightsError.exit_code and "musubi-tuner's format" in done.stderr


def test_what_is_needed_and_not_there(tmp_path: Path, trained: Wanwrap, weights: list[str]) -> None:
    assert trained("sample", "dogs").returncode == OutputError.exit_code
    assert trained("sample", NAME, *TWO, STANDIN_GPUS="0").returncode == GpuError.exit_code
    Path(weights[weights.index("--vae") + 1]).rename(tmp_path / "elsewhere")
    done = trained("sample", NAME, *TWO)
    assert done.returncode == WeightsError.exit_code and "wan_2.1_vae" in done.stderr


def test_a_gpu_that_trains_is_left_alone(tmp_path: Path, trained: Wanwrap, monkeypatch: pytest.MonkeyPatch) -> None:
    running = told(tmp_path, "low") | {"state": "running", "doing": "train low"}
    place = folder(tmp_path, "dogs") / "low"
    place.mkdir(parents=True)
    (place / "record.json").write_text(json.dumps(running), encoding="utf-8")
    monkeypatch.setattr("wanwrap.run.status.is_locked", lambda path: path == place)
    done = trained("sample", NAME, *TWO)
    assert done.returncode == GpuError.exit_code and "wanwrap stop dogs" in done.stderr
    assert trained("sample", NAME, *TWO, STANDIN_GPUS="2").returncode == 0
    (call,) = [call for call in record(tmp_path) if call["script"] == "wan_generate_video.py"]
    assert call["env"]["CUDA_VISIBLE_DEVICES"].startswith("GPU-")


def test_one_expert_alone(tmp_path: Path, cli: Wanwrap, weights: list[str], cats: Path) -> None:
    """The other's DiT is taken as it is; setup's or the workspace's, since the run has not read it."""
    high = weights[weights.index("--dit_high") + 1]
    words = [*weights[: weights.index("--dit_high")], *weights[weights.index("--dit_high") + 2 :]]
    done = cli("run", "t2v-vanilla", cats, *words, "--epochs", 1, "--noise_level", "low")
    assert done.returncode == 0, done.stderr
    assert cli("sample", NAME, *TWO).returncode == WeightsError.exit_code
    place = tmp_path / "home" / "local_training" / "wanwrap.toml"
    place.write_text(f"[weights.'wan2.2-t2v-high']\npath = {json.dumps(high)}\n", encoding="utf-8")
    argv = dry(cli, *TWO)[-1]
    assert option(argv, "dit_high_noise") == high and "--lora_weight_high_noise" not in argv and "--lora_weight" in argv


def test_a_record_of_an_earlier_wanwrap(tmp_path: Path, trained: Wanwrap) -> None:
    for expert in ("high", "low"):
        change(tmp_path, expert, inference={})
    done = trained("sample", NAME)
    assert done.returncode == OutputError.exit_code and "earlier wanwrap" in done.stderr


def test_a_run_that_samples_at_its_end(tmp_path: Path, cli: Wanwrap, weights: list[str], cats: Path) -> None:
    words = ("run", "t2v-vanilla", cats, *weights, "--epochs", 1, "--sample")
    script = cli(*words, "--dry_run").stdout
    assert "sample" in script.splitlines()[-10:][0] or " sample " in script
    done = cli(*words)
    assert done.returncode == 0, done.stderr
    assert len(rows(tmp_path)) == 2 * len({row["prompt"] for row in rows(tmp_path)})
    (folder(tmp_path) / rows(tmp_path)[0]["file"]).unlink()
    assert cli(*words).returncode == 0  # nothing is left to train, and one sample to make
    assert sum(call["script"] == "wan_generate_video.py" for call in record(tmp_path)) == 2
    refused = cli(*words, "--noise_level", "low")
    assert refused.returncode == OptionError.exit_code and "wanwrap sample" in refused.stderr
    assert cli(*words[:-1], "--restart").returncode == 0 and not (folder(tmp_path) / "samples").exists()


# ---- image to video, and Lightning


def i2v(tmp_path: Path, *examples: tuple[Path, str], trigger: str = "") -> Record:
    """The record of a run of Wan 2.2 I2V."""
    rows = [{"caption": caption, "path": str(path), "kind": str(kind_of(path))} for path, caption in examples]
    told = {"task": "i2v-A14B", "boundary": 0.9, "lightning": None, "dits": {"high": "wan2.2-i2v-high"}}
    return replace(unknown(tmp_path / "high"), inference=told, examples=rows, trigger=trigger)


def test_image_to_video_begins_with_what_was_trained(tmp_path: Path) -> None:
    """A picture as it is, of a clip its first frame; another scene would be at odds with it."""
    still = picture(tmp_path / "still.png", (160, 100))
    moving = clip(tmp_path / "moving.mp4", 9)
    rows = defaults(i2v(tmp_path, (moving, "mycat, it runs"), (still, "mycat, it sits")), "mycat", tmp_path / "inputs")
    assert [each.text for each in rows] == ["mycat, it runs", "mycat, it sits", "it runs"]
    assert rows[1].image == still and rows[0].image == rows[2].image
    assert rows[0].image and rows[0].image.parent == tmp_path / "inputs"
    with Image.open(rows[0].image) as frame:
        assert ImageStat.Stat(ImageChops.difference(frame.convert("RGB"), first_frame(moving))).mean < [2.0] * 3
    still.unlink()
    (gone,) = defaults(i2v(tmp_path, (still, "it sits")), "", tmp_path)
    with pytest.raises(OptionError, match="--image"):
        [*grid.cells(MODELS, WAN["i2v-A14B"], 1, [gone], [])]


DITS = {"high": Path("/h.safetensors"), "low": Path("/l.safetensors")}
MODELS = Models(task="i2v-A14B", boundary=0.9, dits=DITS, encoders={"vae": "/vae"})


def test_image_to_video_keeps_the_pictures_aspect(tmp_path: Path) -> None:
    """The area alone counts, as upstream has it (160x100 asked as 96x64 comes out as 96x48)."""
    still = picture(tmp_path / "still.png", (160, 100))
    use = replace(WAN["i2v-A14B"], size=(96, 64), video_length=5)
    (cell,) = grid.cells(MODELS, use, 1, [Prompt("it sits", still)], [])
    assert (cell.sample.width, cell.sample.height, cell.sample.frames, cell.sample.clip) == (96, 48, 5, True)
    assert cell.options["image_path"] == str(still) and cell.options["output_type"] == "video"
    with pytest.raises(OptionError, match="takes no pictures"):
        [*grid.cells(replace(MODELS, task="t2v-A14B"), use, 1, [Prompt("it sits", still)], [])]


def first_frame(path: Path) -> Image.Image:
    with av.open(str(path)) as container:
        picture: Image.Image = next(container.decode(video=0)).to_image()
        return picture


@pytest.mark.parametrize("missing", [False, True])
def test_lightning_beside_the_loras(
    missing: bool, tmp_path: Path, trained: Wanwrap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In upstream's own format, which a conversion makes of it once."""
    files = {each: tmp_path / f"lightning-{each}.safetensors" for each in ("high", "low")}
    for path in () if missing else files.values():
        path.write_bytes(b"lightning")

    def locate(name: str, *_: object) -> WeightFile:
        path = files[name.rpartition("-")[2]]
        return WeightFile(path=path, usable=path.is_file(), reason=f"{path.name} is not there.")

    monkeypatch.setattr("wanwrap.look.sample_models.locate", locate)
    done = trained("sample", NAME, *TWO, "--epochs", "last", "--lightning", "--json")
    if missing:
        assert done.returncode == WeightsError.exit_code and "lightning-high" in done.stderr
        return
    assert done.returncode == 0 and "t2v-v1.1" in done.stderr, done.stderr
    assert {row["lightning"] for row in rows(tmp_path)} == {"t2v-v1.1"}
    assert {row["infer_steps"] for row in rows(tmp_path)} == {4}
    argv = rows(tmp_path)[-1]["argv"]
    at = argv.index("--lora_weight")
    made = tmp_path / "home" / "local_training" / "models" / "converted" / "lightning-t2v-v1.1-low-musubi.safetensors"
    assert argv[at + 1 : at + 3] == [str(made), str(folder(tmp_path) / f"{NAME}-low.safetensors")]
    assert option(argv, "guidance_scale") == "1.0" and option(argv, "cfg_skip_mode") == "late"
    assert option(argv, "flow_shift") == "5.0" and option(argv, "sample_solver") == "vanilla"
    assert made.read_bytes() == b"lightning" and len(calls(tmp_path, "convert_lora.py")) == 2
    assert trained("sample", NAME, *TWO, "--epochs", "1", "--lightning").returncode == 0
    assert len(calls(tmp_path, "convert_lora.py")) == 2


def test_a_merged_dit_that_is_gone(tmp_path: Path, trained: Wanwrap, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning is loaded beside the base model then, as strong as it was merged; and --lightning says nothing new."""
    for expert in ("high", "low"):
        row = told(tmp_path, expert)
        use = row["inference"] | {"lightning": {"release": "t2v-v2.0", "strength": 0.5}, "infer_steps": 4}
        gone = [{"name": name, "path": "/x/l.safetensors", "bytes": 0} for name in use["dits"].values()]
        change(tmp_path, expert, inference=use, weights=[*gone, *row["weights"]], dit="/gone")
    file = tmp_path / "l.safetensors"
    file.write_bytes(b"lightning")
    monkeypatch.setattr("wanwrap.look.sample_models.locate", lambda *_: WeightFile(path=file, usable=True))
    monkeypatch.setattr("wanwrap.look.sample_models.read_header", lambda _: {})
    argv = dry(trained, *TWO)[-1]
    at = argv.index("--lora_multiplier")
    assert argv[at + 1 : at + 3] == ["0.5", "1"]
    assert trained("sample", NAME, "--lightning").returncode == OptionError.exit_code


def test_another_dit_than_it_was_trained_on_is_not_taken(tmp_path: Path, trained: Wanwrap, weights: list[str]) -> None:
    """Of one's own, which is gone: the published one that setup knows would show something else."""
    high, other = Path(weights[weights.index("--dit_high") + 1]), tmp_path / "other.safetensors"
    dit(other, metadata={"another": "one"})
    high.unlink()
    place = tmp_path / "home" / "local_training" / "wanwrap.toml"
    place.write_text(f"[weights]\n'wan2.2-t2v-high' = {json.dumps(str(other))}\n", encoding="utf-8")
    done = trained("sample", NAME, *TWO)
    assert done.returncode == WeightsError.exit_code and str(high) in done.stderr


def test_experts_that_have_come_to_different_epochs(tmp_path: Path, trained: Wanwrap) -> None:
    """A column is of one epoch; of both ends there is one more, where both have ended."""
    files = told(tmp_path)["files"]
    change(tmp_path, "low", files=files[:1], state="stopped")
    (folder(tmp_path) / f"{NAME}-low.safetensors").unlink()
    epochs = {option(argv, "lora_weight") for argv in dry(trained, *TWO)} - {None}
    assert [Path(str(each)).name for each in epochs] == files[:1]
    assert trained("sample", NAME, *TWO, "--epochs", 3).returncode == OptionError.exit_code
    change(tmp_path, "low", files=files[:1], state="done", epochs_planned=1, lora=f"{NAME}-low.safetensors")
    both = dry(trained, *TWO, "--epochs", "last")[-1]
    assert option(both, "lora_weight_high_noise") == str(folder(tmp_path) / f"{NAME}-high.safetensors")
    assert option(both, "lora_weight") == str(folder(tmp_path) / files[0])
    change(tmp_path, "low", files=[])
    change(tmp_path, "high", files=[])
    assert trained("sample", NAME).returncode == OutputError.exit_code


def test_a_lora_that_was_made_anew_has_no_sample(tmp_path: Path, trained: Wanwrap) -> None:
    assert trained("sample", NAME, *TWO, "--epochs", "2").returncode == 0
    path = folder(tmp_path) / f"{NAME}-low-000002.safetensors"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"lora_unet", b"lora_UNET"))
    assert [row.epoch for row in samples.read(folder(tmp_path))] == [None, None]
    path.write_bytes(content)
    assert len(samples.read(folder(tmp_path))) == 4


def test_a_first_frame_that_has_changed_is_another(tmp_path: Path) -> None:
    still = picture(tmp_path / "still.png", (160, 100))
    use = replace(WAN["i2v-A14B"], size=(96, 64))
    (one,) = grid.cells(MODELS, use, 1, [Prompt("it sits", still)], [])
    Image.new("RGB", (160, 100), "red").save(still)
    (other,) = grid.cells(MODELS, use, 1, [Prompt("it sits", still)], [])
    moved = still.rename(tmp_path / "elsewhere.png")
    (same,) = grid.cells(MODELS, use, 1, [Prompt("it sits", moved)], [])
    assert one.sample.file != other.sample.file == same.sample.file
    (tmp_path / "broken.mp4").write_bytes(b"no clip")
    broken = i2v(tmp_path, (tmp_path / "broken.mp4", "it runs"))
    with pytest.raises(OptionError, match="first frame"):
        defaults(broken, "", tmp_path / "inputs")
    assert defaults(broken, "", tmp_path / "inputs", moved) == [Prompt("it runs", moved)]
    assert not (tmp_path / "inputs").exists()


@pytest.mark.parametrize(
    ("given", "network"),
    [
        ({}, ["musubi_tuner.networks.lora_wan", {}]),
        (
            {"network_module": "networks.lokr", "network_args": ["factor=4"]},
            ["musubi_tuner.networks.lokr", {"factor": "4"}],
        ),
        ({"network_module": "lycoris.kohya"}, None),
    ],
)
def test_each_experts_own_network(given: dict[str, Any], network: Any, tmp_path: Path, trained: Wanwrap) -> None:
    change(tmp_path, "low", settings=told(tmp_path, "low")["settings"] | given)
    run = find(NAME, tmp_path / "home" / "local_training")
    if network is None:
        assert trained("sample", NAME).returncode == OptionError.exit_code
        return
    plan = make_plan(SampleRequest(run=run, base_dir=tmp_path, prompt=("a cat",)))
    assert [list(each) for each in plan.networks.values()] == [["musubi_tuner.networks.lora_wan", {}], network]


def test_keys_for_which_upstream_merges_nothing(trained: Wanwrap, weights: list[str]) -> None:
    low = Path(weights[weights.index("--dit_low") + 1])
    assert "convert" not in trained("sample", NAME, *TWO, "--dry_run").stderr
    dit(low, prefix="model.diffusion_model.")
    assert "wanwrap convert" in trained("sample", NAME, *TWO, "--dry_run").stderr


def test_it_fits_the_card_or_says_so(trained: Wanwrap) -> None:
    """What is chosen changes no sample, and so no file's name."""
    large, small = (trained("sample", NAME, "--vram", gb, "--dry_run", "--json") for gb in (80, 16))
    rows, others = (json.loads(done.stdout) for done in (large, small))
    assert [row["file"] for row in rows] == [row["file"] for row in others]
    assert "--blocks_to_swap" not in rows[0]["argv"] and int(str(option(others[0]["argv"], "blocks_to_swap"))) > 5
    assert "--fp8_scaled" in rows[0]["argv"] and "--fp8_scaled" in others[0]["argv"]
    assert {option(argv, "blocks_to_swap") for argv in dry(trained, "--vram", 80, "--blocks_to_swap", 12)} == {"12"}
    done = trained("sample", NAME, "--vram", 8, "--size", "1280x720", "--frames", 81)
    assert done.returncode == RoomError.exit_code and "--size" in done.stderr
    done = trained("sample", NAME, *TWO, STANDIN_FREE=str(5 * 2**30))
    assert done.returncode == RoomError.exit_code and "other programs" in done.stderr


def test_what_a_dry_run_prints_is_done(tmp_path: Path, trained: Wanwrap) -> None:
    """On the card that is named, too: another one than torch sees, which may be too small for it."""
    words = (*TWO, "--epochs", "last", "--vram", 16)
    printed = dry(trained, *words)
    assert "--blocks_to_swap" in printed[0]
    done = trained("sample", NAME, *words)
    assert done.returncode == 0 and [row["argv"] for row in rows(tmp_path)] == printed, done.stderr
    assert "out of memory" not in done.stderr
    done = trained("sample", NAME, "--size", "1280x720", "--frames", 321, "--epochs", "last", "--vram", 320)
    assert done.returncode == 0 and "out of memory" in done.stderr, done.stderr


def test_no_restart_while_samples_are_made(tmp_path: Path, trained: Wanwrap, weights: list[str], cats: Path) -> None:
    """They would show LoRAs that were put aside."""
    assert trained("sample", NAME, *TWO, "--epochs", "1").returncode == 0
    words = ("run", "t2v-vanilla", cats, *weights, "--epochs", 3, "--save_every", 1, "--restart")
    with lock(folder(tmp_path) / "samples", "busy"):
        done = trained(*words)
    assert done.returncode == OutputError.exit_code and "sample" in done.stderr
    assert trained(*words).returncode == 0 and samples.read(folder(tmp_path)) == []
    assert (folder(tmp_path) / "before-1" / "samples" / "samples.json").is_file()
