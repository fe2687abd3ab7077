"""The real musubi-tuner 0.3.4, on a CPU: it takes every command and TOML, counts alike, and trains the toys."""

from __future__ import annotations

import json
import math
import os
import random
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, clip, comfy_names, golden_plan, lora, picture
from hub import hub
from real import FOLDER, PYTHON, ask, lora_of, rehearse
from weightfiles import rows, sparse

from wanwrap.data.config import load as load_config
from wanwrap.data.dataset import Dataset, render
from wanwrap.data.folder import scan
from wanwrap.errors import OptionError, WeightsError
from wanwrap.plan import preflight, warm_start
from wanwrap.plan.plan import Plan, Train
from wanwrap.preset import Clips, Pictures, load, shipped
from wanwrap.system.safetensors import open_source, read_header
from wanwrap.upstream.dit import PREFIX
from wanwrap.upstream.options import TRAIN, spell
from wanwrap.upstream.pin import find
from wanwrap.upstream.sample_prompts import completed
from wanwrap.upstream.sample_prompts import load as load_prompts
from wanwrap.upstream.sampling import WAN
from wanwrap.upstream.schedule import SCHEDULERS, WARM_UP, rewrite
from wanwrap.weights import provenance
from wanwrap.weights.models import MODELS, SHAPES, structure

pytestmark = pytest.mark.upstream


def test_the_table_of_options_is_upstreams() -> None:
    argv = [sys.executable, str(ROOT / "scripts" / "upstream_flags.py"), FOLDER, "--check"]
    assert subprocess.run(argv, capture_output=True, text=True).stderr == ""


def test_upstreams_parsers_take_every_command(tmp_path: Path) -> None:
    calls, steps = [], []
    for name in shipped():
        for step in golden_plan(name).steps:
            script = next((word for word in step.argv if word.startswith("musubi_tuner.wan_")), None)
            if script:
                calls.append({"script": script.partition(".")[2], "argv": step.argv[step.argv.index(script) + 1 :]})
                steps.append(step)
    assert len(calls) == 2 * 12 + 12 + 5
    for call, step, taken in zip(calls, steps, ask("parse", calls, tmp_path), strict=True):
        assert (call["script"] == TRAIN) == isinstance(step, Train)
        for option, value in (step.options if isinstance(step, Train) else {}).items():
            if value is not None:
                assert taken[option] == (list(value) if isinstance(value, tuple) else value), (step.name, option)


def cached(data: Dataset, folder: Path) -> Dataset:
    """With a cache folder for each entry."""
    entries = (replace(entry, cache=folder / "cache" / str(i)) for i, entry in enumerate(data.entries))
    return replace(data, entries=tuple(entries))


def test_upstreams_sanitizer_takes_every_toml(tmp_path: Path) -> None:
    odd = Path("/data/my \"cats\" & dogs $HOME ü # [x] = 'y' \\t C:\\Users\\new")
    paths, expected = [], []
    for name in shipped():
        plan = golden_plan(name)
        entries = tuple(replace(entry, directory=odd / str(i)) for i, entry in enumerate(plan.dataset.entries))
        data = cached(replace(plan.dataset, entries=entries), odd)
        path = tmp_path / f"{name}.toml"
        path.write_text(render(data), encoding="utf-8")
        paths.append(str(path))
        expected.append(data)
    for data, taken in zip(expected, ask("sanitize", paths, tmp_path), strict=True):
        for index, (entry, params) in enumerate(zip(data.entries, taken, strict=True)):
            assert params[f"{entry.kind}_directory"] == str(odd / str(index))
            assert params["cache_directory"] == str(odd / "cache" / str(index))
            for option, value in entry.options.items():
                assert params[option] == (list(value) if isinstance(value, tuple) else value)


def test_items_and_batches_are_counted_alike(tmp_path: Path) -> None:
    """Random data sets with buckets, repeats, batches and every way to take windows of clips."""
    rng = random.Random(2)
    paths, predicted = [], []
    for index in range(12):
        folder = tmp_path / str(index)
        for number in range(rng.randint(1, 9)):
            picture(folder / f"p{number}.png", (rng.randint(40, 500), rng.randint(40, 500)))
        fps = rng.choice([16, 24, 25, 30, 60])
        for number in range(rng.randint(1, 4)):
            size = (rng.randint(20, 200) * 2, rng.randint(20, 200) * 2)
            clip(folder / f"c{number}.mp4", rng.randint(fps * 2, fps * 4), fps, size)
        preset = replace(
            load("t2v-vanilla"),
            bucket_no_upscale=rng.random() < 0.5,
            pictures=Pictures(resolution=size_of(rng), batch_size=rng.randint(1, 4), num_repeats=rng.randint(1, 3)),
            clips=tuple(clips_of(rng, how) for how in ("head", "chunk", "uniform")),
        )
        data = scan(folder, preset)
        assert len(data.entries) == 4
        path = tmp_path / f"{index}.toml"
        path.write_text(render(cached(data, folder)), encoding="utf-8")
        paths.append(str(path))
        predicted.append({"items": data.train_items, "batches": data.batches})
        own = load_config(path)
        assert (own.train_items, own.batches) == (data.train_items, data.batches)
    assert predicted == ask("count", paths, tmp_path)


def test_own_tomls_are_counted_alike_too(tmp_path: Path) -> None:
    """What presets never write: no buckets, every frame, sliding windows, an area given by one number."""
    for number, frames in enumerate((30, 47, 81)):
        clip(tmp_path / "m" / f"c{number}.mp4", frames, 16, (160, 96))
        picture(tmp_path / "m" / f"p{number}.png", (100 + 60 * number, 90))
    general = '[general]\ncaption_extension = ".txt"\nresolution = 96\nbatch_size = 2\n'
    tables = [
        'image_directory = "M"\n',
        'image_directory = "M"\nenable_bucket = true\nbucket_no_upscale = true\nnum_repeats = 3\n',
        'video_directory = "M"\nframe_extraction = "full"\nmax_frames = 50\n',
        'video_directory = "M"\nframe_extraction = "slide"\nframe_stride = 7\ntarget_frames = [9, 21]\n',
        'video_directory = "M"\nframe_extraction = "chunk"\ntarget_frames = [13]\nsource_fps = 24.0\n',
        'video_directory = "M"\nframe_extraction = "uniform"\nframe_sample = 4\ntarget_frames = [29]\nenable_bucket = true\n',
    ]
    paths, predicted = [], []
    for index, table in enumerate(tables):
        path = tmp_path / f"{index}.toml"
        entry = f'[[datasets]]\ncache_directory = "{tmp_path}/c{index}"\n{table}'
        path.write_text(general + entry.replace('"M"', f'"{tmp_path}/m"'), encoding="utf-8")
        data = load_config(path)
        paths.append(str(path))
        predicted.append({"items": data.train_items, "batches": data.batches})
    assert all(each["items"] for each in predicted)
    assert predicted == ask("count", paths, tmp_path)


RATE = 1e-3
ADAFACTOR = {
    "optimizer_type": "adafactor",
    "optimizer_args": ("relative_step=False", "scale_parameter=False", "warmup_init=False"),
}
# Every scheduler that wanwrap lets through, with all that it takes.
SCHEDULES: dict[str, dict[str, Any]] = {
    **{name: {"lr_scheduler": name} for name in SCHEDULERS if name != "cosine_with_min_lr"},
    **{
        f"{name}, warm-up {length}": {"lr_scheduler": name, "lr_warmup_steps": length}
        for name in SCHEDULERS
        if WARM_UP in SCHEDULERS[name][1] and name != "cosine_with_min_lr"
        for length in (1, 3, "20%", 0.35)
    },
    "squared": {"lr_scheduler": "polynomial", "lr_scheduler_power": 2.0},
    "style": {"lr_scheduler": "polynomial", "lr_scheduler_power": 8.0, "optimizer_args": ("weight_decay=0.1",)},
    "adafactor": {"lr_scheduler": "polynomial", **ADAFACTOR},
    "polynomial, ends": {
        "lr_scheduler": "polynomial",
        "lr_scheduler_power": 2.0,
        "lr_scheduler_args": ("lr_end=1e-5",),
    },
    "polynomial, floor": {"lr_scheduler": "polynomial", "lr_scheduler_power": 2.0, "lr_scheduler_min_lr_ratio": 0.1},
    "cosine, waves": {"lr_scheduler": "cosine", "lr_scheduler_args": ("num_cycles=1.5",)},
    "cosine, floor": {"lr_scheduler": "cosine_with_min_lr", "lr_scheduler_min_lr_ratio": 0.1, "lr_warmup_steps": 2},
    "cosine, waves and floor": {
        "lr_scheduler": "cosine_with_min_lr",
        "lr_scheduler_min_lr_ratio": 0.1,
        "lr_scheduler_num_cycles": 3,
    },
    "restarts": {"lr_scheduler": "cosine_with_restarts", "lr_scheduler_num_cycles": 3, "lr_warmup_steps": "10%"},
    "rex, floor": {"lr_scheduler": "rex", "lr_scheduler_min_lr_ratio": 0.1, "lr_warmup_steps": 3},
    "rex, shaped": {"lr_scheduler": "rex", "lr_scheduler_args": ("rex_alpha=0.2", "rex_beta=0.8")},
}
# torch's own, which the user may name; each with what it can't do without.
CLASSES = {
    "PolynomialLR": ("total_iters=12", "power=2.0"),
    "LinearLR": ("total_iters=12",),
    "ConstantLR": ("total_iters=7",),
    "CosineAnnealingLR": ("T_max=12", "eta_min=1e-5"),
    "CosineAnnealingWarmRestarts": ("T_0=5", "T_mult=2"),
    "CyclicLR": ("base_lr=1e-4", "max_lr=1e-3", "step_size_up=3"),
    "ExponentialLR": ("gamma=0.9",),
    "MultiStepLR": ("milestones=[3,8]",),
    "OneCycleLR": ("max_lr=1e-3", "total_steps=12"),
    "StepLR": ("step_size=4",),
    "torch.optim.lr_scheduler.StepLR": ("step_size=4",),
    "transformers.get_cosine_schedule_with_warmup": ("num_warmup_steps=2", "num_training_steps=12"),
}


def of_scheduler(given: dict[str, Any]) -> dict[str, Any]:
    """All options of a run that have to do with its rate."""
    return {"optimizer_type": "adamw", "learning_rate": RATE, **given}


def words(given: dict[str, Any], steps: int, gpus: int = 1) -> list[str]:
    return list(spell(rewrite(of_scheduler(given), {}, steps, gpus)))


def test_learning_rates_are_what_the_options_say(tmp_path: Path) -> None:
    """Each schedule as upstream's own flags give it, on one GPU and on three; and those that upstream lacks."""
    steps = 20
    ours = [{"argv": words(given, steps), "steps": steps} for given in SCHEDULES.values()]
    theirs = [{"argv": list(spell(of_scheduler(given))), "steps": steps} for given in SCHEDULES.values()]
    many = [{"argv": words(given, steps, 3), "steps": 3 * steps} for given in SCHEDULES.values()]
    found = ask("schedule", [*ours, *theirs, *many], tmp_path)
    assert [rates for rates in found if isinstance(rates, str)] == []
    for index, (name, given) in enumerate(SCHEDULES.items()):
        own, native, thrice = (found[index + part * len(SCHEDULES)] for part in range(3))
        plain = given["lr_scheduler"] == "polynomial" and not given.keys() & {"lr_warmup_steps", "lr_scheduler_args"}
        if plain:
            power, low = given.get("lr_scheduler_power", 1.0), given.get("lr_scheduler_min_lr_ratio", 0.0)
            falling = [(low + (1 - low) * (1 - step / steps) ** power) * RATE for step in range(steps + 1)]
            assert own == pytest.approx(falling, abs=1e-12), name
        else:
            assert own == native, name
        if given["lr_scheduler"] != "rex" or "lr_warmup_steps" not in given:  # rex warms up from its step 1 to N - 1
            assert thrice[::3] == pytest.approx(own, rel=1e-9, abs=1e-12), name
    assert found[0] == [RATE] * (steps + 1)


def test_learning_rates_go_on_over_a_resume(tmp_path: Path) -> None:
    """Through accelerate, with upstream's own optimizer and scheduler built for the rest, and the state loaded."""
    steps, at = 12, [1, 5, 11]
    classes = [{"lr_scheduler_type": name, "lr_scheduler_args": pairs} for name, pairs in CLASSES.items()]
    every = [*SCHEDULES.values(), *classes]
    runs = [
        {"argv": words(given, steps), "steps": steps, "accumulation": number, "at": at}
        for given in every
        for number in (1, 2)
    ]
    plain = ask("schedule", [{"argv": run["argv"], "steps": steps} for run in runs], tmp_path)
    for run, found, rates in zip(runs, ask("resume", runs, tmp_path), plain, strict=True):
        assert isinstance(found, dict), (run, found)
        assert found["whole"] == rates, run
        for there in found["resumed"]:
            assert there == found["whole"], run
        assert max(found["weights"]) < 1e-7, run


def test_schedule_free_optimizers_go_on_over_a_resume(tmp_path: Path) -> None:
    """They have no scheduler.bin: all that they need is in the optimizer's state."""
    names = ("schedulefree.AdamWScheduleFree", "prodigyplus.ProdigyPlusScheduleFree")
    runs = [
        {"argv": words({"optimizer_type": name}, 12), "steps": 12, "accumulation": number, "at": [1, 5]}
        for name in names
        for number in (1, 2)
    ]
    asked = [
        (run, found)
        for run, found in zip(runs, ask("resume", runs, tmp_path), strict=True)
        if "ModuleNotFound" not in str(found)
    ]
    if not asked:
        pytest.skip("neither schedulefree nor prodigy-plus-schedule-free is installed beside upstream")
    for run, found in asked:
        assert isinstance(found, dict), (run, found)
        assert found["weights"] == [0.0, 0.0], run


def size_of(rng: random.Random) -> tuple[int, int]:
    return rng.randint(4, 20) * 16, rng.randint(4, 20) * 16


def clips_of(rng: random.Random, how: Any) -> Clips:
    frames = tuple(sorted({rng.choice([1, 5, 9, 13, 17, 21, 25]) for _ in range(rng.randint(1, 3))}))
    return Clips(
        resolution=size_of(rng),
        target_frames=frames,
        frame_extraction=how,
        frame_sample=rng.randint(1, 5),
        batch_size=rng.randint(1, 4),
        num_repeats=rng.randint(1, 3),
    )


def test_upstreams_loaders_read_what_merge_and_convert_make(tmp_path: Path) -> None:
    """A merge, a cast, a prefix that is gone, ComfyUI's text encoder; and the merge is upstream's own."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    roles = {"dit": ("dit", "fp16", ""), "prefixed": ("dit", "bf16", PREFIX), "lora": ("lightning", "fp32", ""), "t5": ("t5", "fp16", "")}  # fmt: skip
    paths = {name: str(tmp_path / f"{name}.safetensors") for name in roles}
    files = {
        paths[name]: {"role": role, "dtype": dtype, "prefix": prefix} for name, (role, dtype, prefix) in roles.items()
    }
    child = ROOT / "wanwrap" / "rehearsal" / "child.py"
    spec = json.dumps({"task": "t2v-A14B", "files": files})
    env = {**os.environ, "PYTHONPATH": f"{FOLDER}/src", "PYTHONUTF8": "1"}
    subprocess.run([PYTHON, str(child), "make", spec], check=True, capture_output=True, env=env)

    theirs = {native: name for name, native in comfy_names(range(1)).items()}
    small = load_file(paths["t5"])
    comfy = {theirs[name]: tensor for name, tensor in small.items()}
    shapes = {name: [*tensor.shape] for name, tensor in small.items()}
    (tmp_path / "sitecustomize.py").write_text(
        "from wanwrap.weights.models import MODELS, Model, structure\n"
        f"MODELS[structure({shapes})] = Model(role='t5', what='a toy', names=('t5',))\n"
    )
    save_file({**comfy, "spiece_model": torch.zeros(9, dtype=torch.uint8)}, tmp_path / "umt5.safetensors")
    lora = {
        "lora_unet_" + re.sub(r"\.(?=.*\.(lora_|alpha))", "_", name.removeprefix("diffusion_model.")): tensor
        for name, tensor in load_file(paths["lora"]).items()
    }
    save_file(lora, tmp_path / "theirs.safetensors")

    def wanwrap(*arguments: str) -> str:
        out = str(tmp_path / f"out{len(list(tmp_path.glob('out*')))}.safetensors")
        argv = [sys.executable, "-m", "wanwrap", *arguments, "--out", out, "--python", PYTHON]
        known = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
        subprocess.run(argv, check=True, capture_output=True, cwd=ROOT, env=known)
        return out

    merged = wanwrap("merge", "--dit", paths["dit"], "--lora", paths["lora"], "--strength", "0.8")
    cast = wanwrap("convert", paths["dit"], "--precision", "bf16")
    stripped = wanwrap("convert", paths["prefixed"])
    both = wanwrap("merge", "--dit", paths["prefixed"], "--lora", paths["lora"], "--precision", "fp16")
    encoder = wanwrap("convert", str(tmp_path / "umt5.safetensors"))
    asked = {
        "task": "t2v-A14B",
        "dits": [merged, cast, stripped, both],
        "t5": encoder,
        "dit": paths["dit"],
        "lora": str(tmp_path / "theirs.safetensors"),
        "strength": 0.8,
        "merged": merged,
    }
    answers = ask("load", asked, tmp_path)
    assert answers.pop("distance") <= 1.01
    assert answers == dict.fromkeys([merged, cast, stripped, both, encoder], True)


def test_structures_are_those_of_upstreams_models(tmp_path: Path) -> None:
    """What a header must hold for upstream's strict loaders, and what the tests' weight files are made of."""
    found = ask("structures", sorted(SHAPES), tmp_path)
    for name, shapes in found.items():
        model = MODELS[structure(shapes)]
        assert name in model.tasks or name == model.role
    made = {"t5": "t5", "vae": "vae", "clip": "clip", "t2v-14B": "t2v-14B", "i2v-A14B": "i2v-A14B", "i2v-14B": "i2v-14B", "t2v-1.3B": "t2v-1.3B"}  # fmt: skip
    for name, ours in made.items():
        assert {key: shape for key, (_, shape) in rows(ours).items()} == found[name]


TOKENIZERS = """
import json, sys
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import T5TokenizerFast, XLMRobertaTokenizerFast
for kind, folder in ((T5TokenizerFast, sys.argv[1]), (XLMRobertaTokenizerFast, sys.argv[2])):
    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "a", "red", "balloon"]
    words += [f"<extra_id_{n}>" for n in range(100)]
    model = Tokenizer(models.Unigram([(word, -1.0) for word in words], unk_id=3))
    model.pre_tokenizer = pre_tokenizers.Whitespace()
    kind(tokenizer_object=model).save_pretrained(folder)
"""


def test_tokenizers_that_setup_fetches_load_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real ones of eight words, through the hub on the loopback, by upstream's own class."""
    from wanwrap.weights import catalogue

    folders = {name: tmp_path / name for name in ("t5", "clip")}
    subprocess.run([PYTHON, "-c", TOKENIZERS, *map(str, folders.values())], check=True, capture_output=True)
    files = {}
    for name, tokenizer in catalogue.TOKENIZERS.items():
        for file in tokenizer.files:
            path = folders[name] / file
            files[tokenizer.repo, f"{tokenizer.folder}/{file}"] = path.read_bytes() if path.is_file() else b"pieces"
    code = (
        "from wanwrap.weights import catalogue, download\n"
        "for each in catalogue.TOKENIZERS.values():\n"
        "    vars(each)['files'].update(dict.fromkeys(each.files))\n"
        "    download.fetch_tokenizer(each)"
    )
    with hub(files) as served:
        online = {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": served.endpoint}
        subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, **online, "PYTHONPATH": str(ROOT)})
        asked = len(served.asked)
        monkeypatch.setenv("HF_HOME", online["HF_HOME"])
        ids = ask("tokenize", ["a red balloon"], tmp_path)
        assert ids["t5"][0][:3] == ids["clip"][0][:3] and len(set(ids["t5"][0][:3])) == 3
        assert len(served.asked) == asked


@pytest.mark.parametrize("name", shipped())
def test_every_preset_rehearses(name: str, tmp_path: Path) -> None:
    """A step count other than upstream's would have stopped it."""
    experts = rehearse(tmp_path, name, "sample")
    assert [*experts] == [expert.key for expert in load(name).experts]
    for level, expert in experts.items():
        assert expert["state"] == "done" and expert["steps_done"] == expert["steps_planned"]
        rows = read_header(lora_of(expert))
        modules = [key for key in rows if key.endswith(".lora_down.weight")]
        assert len(modules) == 4 * (12 if load(name).needs_clip else 10)  # the toy has 4 blocks
        assert rows["__metadata__"]["ss_steps"] == str(expert["steps_planned"])
        told = provenance.trained(rows["__metadata__"])
        assert (told["record"]["preset"], told["epoch"], told["record"]["toy"]) == (name, 2, True)
        assert told["record"].get("expert", "dit") == level


def shapes(path: Path) -> dict[str, list[int]]:
    return {name: row["shape"] for name, row in read_header(path).items() if name != "__metadata__"}


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("lora_wan", ["exclude_patterns=['.*ffn.*','.*cross.*']", r"include_patterns=[r'.*\.1\.cross_attn\.q']"]),
        ("loha", ["exclude_patterns=['.*attn.*']"]),
        ("lokr", ["factor=8"]),
    ],
)
def test_the_network_that_is_built_before_a_run_is_the_one_that_is_trained(
    module: str, arguments: list[str], tmp_path: Path
) -> None:
    """Tensor by tensor, as upstream saves it: so is it told whether it would load a file whole."""
    given = {"network_module": f"musubi_tuner.networks.{module}", "network_args": tuple(arguments)}
    experts = rehearse(tmp_path, "t2v-vanilla", "sample", "--noise_level", "high", "--", *spell(given))
    (train,) = golden_plan("t2v-vanilla", noise_level="high", given=given).trainings
    built = ask("tensors", {"toy": True, "argv": [*spell(train.options)]}, tmp_path)
    assert shapes(lora_of(experts["high"])) == built


def test_a_list_of_captions_rehearses(tmp_path: Path) -> None:
    """Its words are those of the list, whatever lies beside the pictures."""
    rows = list[str]()
    for name in ("a", "b"):
        picture(tmp_path / "pictures" / f"{name}.png")
        rows.append(json.dumps({"image_path": str(tmp_path / "pictures" / f"{name}.png"), "caption": f"words {name}"}))
    (tmp_path / "list.jsonl").write_text("\n".join(rows) + "\n")
    toml = tmp_path / "own.toml"
    toml.write_text(
        f'[general]\nresolution = [256, 256]\n[[datasets]]\nimage_jsonl_file = "{tmp_path}/list.jsonl"\n'
        f'cache_directory = "{tmp_path}/cache"\n'
    )
    assert rehearse(tmp_path, "wan21-t2v-1.3b", toml)["dit"]["state"] == "done"


BUILDS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "loha": {"network_module": "networks.loha"},
    "lokr": {"network_module": "networks.lokr"},
    "scheduler": {"lr_scheduler": "cosine_with_min_lr", "lr_scheduler_min_lr_ratio": 0.1, "lr_warmup_steps": 10},
    "class": {"lr_scheduler_type": "CosineAnnealingLR", "lr_scheduler_args": ("T_max=300",)},
}
# What only upstream itself can tell, and would after all has been cached: at which stage, and a noun of why.
FAILS: list[tuple[dict[str, Any], str]] = [
    ({"optimizer_args": ("lr=5",)}, "optimizer.*lr"),
    ({"optimizer_args": ("weight_decay=abc",)}, "optimizer.*ValueError"),
    ({"optimizer_type": "torch.optim.Bogus"}, "optimizer.*Bogus"),
    ({"network_module": "os"}, "network.*create_network"),
    ({"network_args": ("exclude_patterns=['.*']",)}, "network.*modules"),
    ({"network_args": ("exclude_patterns=ffn",)}, "network"),
    ({"network_args": ("verbose",)}, "network"),
    ({"lr_scheduler_args": ("lr_end=99",)}, "learning rate.*lr_end"),
    ({"lr_scheduler": "cosine", "lr_scheduler_args": ("last_epoch=5",)}, "learning rate"),
    ({"lr_scheduler": "constant", "lr_scheduler_args": ("a=1",)}, "learning rate.*'a'"),
    ({"lr_scheduler_type": "os.system"}, "learning rate"),
    ({"lr_scheduler_type": "PolynomialLR"}, "learning rate.*step 6"),
    ({"lr_scheduler_type": "StepLR", "lr_scheduler_args": ("step_size=0",)}, "learning rate.*ZeroDivisionError"),
    ({"lr_scheduler_type": "CosineAnnealingLR"}, "learning rate.*T_max"),
    ({"lr_scheduler_type": "OneCycleLR", "lr_scheduler_args": ("max_lr=1e-3", "total_steps=9")}, "learning rate"),
    ({"lr_scheduler_type": "ReduceLROnPlateau"}, "learning rate.*metrics"),
    ({"lr_scheduler_type": "torch.optim.lr_scheduler.SequentialLR"}, "learning rate.*schedulers"),
    ({"sample_prompts": "/p.txt", "sample_every_n_epochs": 1, "vae_dtype": "foo"}, "samples.*foo"),
]


@pytest.fixture(scope="module")
def built() -> dict[str, Any]:
    """The answer of the training Python, which builds all of these trainings once."""
    sets = {**BUILDS, **{str(number): given for number, (given, _) in enumerate(FAILS)}}
    plans = {
        name: golden_plan("wan21-t2v-1.3b", given={"optimizer_type": "adamw", **given}) for name, given in sets.items()
    }
    trainings = {name: _asked(plan) for name, plan in plans.items()}
    return preflight.ask(PYTHON, find(Path(FOLDER), Path()), ["musubi_tuner"], trainings)


def _asked(plan: Plan) -> dict[str, Any]:
    (train,) = plan.trainings
    return {"argv": [*spell(train.options)], "steps": train.steps}


@pytest.mark.parametrize("number", range(len(FAILS)), ids=[str(given) for given, _ in FAILS])
def test_what_upstream_cant_build_is_refused_before_anything_is_cached(number: int, built: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=FAILS[number][1]):
        preflight.check_trial({"problems": {"dit": built["problems"][str(number)]}})


def test_what_upstream_can_build_is_not(built: dict[str, Any]) -> None:
    assert not built["problems"].keys() & BUILDS.keys()


def test_prompts_are_read_by_upstream_as_they_are_written(tmp_path: Path) -> None:
    """Of all that they are completed with; and those that are refused it does take for an option."""
    path, first = tmp_path / "p.txt", picture(tmp_path / "first frame.png")
    path.write_text(
        "a cat - on a sofa --i first frame.png\n# a dog\na dog --W 64 --d 7 --n 5 legs --i first frame.png --fs 2.5"
    )
    read = completed(load_prompts(path), WAN["i2v-14B"], tmp_path, pictures=True)
    given = {"sample_prompts": str(path), "sample_every_n_epochs": 1}
    written = golden_plan("wan21-i2v-480p", given=given, samples=read)
    (text,) = (text for place, text in written.files.items() if place.name == "sample_prompts.txt")
    path.write_text(text, encoding="utf-8")
    size = {"width": 832, "height": 480, "frame_count": 81}
    own = {**size, "sample_steps": 40, "cfg_scale": 5.0, "discrete_flow_shift": 3.0, "image_path": str(first)}
    dog = {"width": 64, "seed": 7, "negative_prompt": "5 legs", "discrete_flow_shift": 2.5}
    assert ask("prompts", str(path), tmp_path) == [
        {"enum": 0, "prompt": "a cat - on a sofa", **own},
        {"enum": 1, "prompt": "a dog", **own, **dog},
    ]
    odd = [
        f"{name.upper()} 5 people"
        for name in ["w", "h", "f", "d", "s", "g", "fs", "l", "n", "i", "ei", "cn", "ci", "of"]
    ]
    path.write_text("\n".join(odd))
    for line, taken in zip(odd, ask("prompts", str(path), tmp_path), strict=True):
        assert len(taken) == 3, taken
        (tmp_path / "one.txt").write_text(line)
        with pytest.raises(OptionError, match=f"--{line.split()[0].lower()};"):
            completed(load_prompts(tmp_path / "one.txt"), WAN["t2v-14B"], tmp_path, pictures=False)


@pytest.mark.parametrize(
    ("name", "words"), [("wan21-i2v-480p", []), ("i2v-vanilla", ["--sample_with_one_expert", "--noise_level", "low"])]
)
def test_samples_are_rehearsed(name: str, words: list[str], tmp_path: Path) -> None:
    picture(tmp_path / "first.png")
    (tmp_path / "p.json").write_text('[{"prompt": "a cat", "image_path": "first.png"}]')
    given = ("--", "--sample_prompts", tmp_path / "p.json", "--sample_every_n_epochs", 5)
    (expert,) = rehearse(tmp_path, name, "sample", *words, *given).values()
    assert [path.name.partition("_e0")[2][:5] for path in (Path(expert["folder"]) / "samples").iterdir()] == ["00002"]


def test_a_lora_is_taken_where_upstream_would_load_all_of_it(tmp_path: Path) -> None:
    """One of T2V's for Wan 2.1 I2V: upstream would leave its image matrices untrained, and say nothing."""
    given = {"network_dim": 8, "network_alpha": 8}
    wanted = ask("tensors", {"toy": False, **_asked(golden_plan("wan21-i2v-480p", given=given))}, tmp_path)
    assert len(wanted) == 3 * 480
    paths = {"whole": wanted, "without": {name: shape for name, shape in wanted.items() if "_img" not in name}}
    trainings = dict[str, dict[str, Any]]()
    for name, tensors in paths.items():
        path = sparse(tmp_path / f"{name}.safetensors", {key: ("F32", shape) for key, shape in tensors.items()})
        trainings[name] = _asked(
            golden_plan("wan21-i2v-480p", given={**given, "network_weights": str(path), "optimizer_type": "adamw"})
        )
    answer = preflight.ask(PYTHON, find(Path(FOLDER), Path()), ["musubi_tuner"], trainings)
    assert [*answer["problems"]] == ["without"]
    with pytest.raises(WeightsError, match="_img"):
        preflight.check_trial(answer)


def test_a_lora_of_comfyuis_is_converted_by_the_command_that_is_said(tmp_path: Path) -> None:
    path = lora(tmp_path / "it's a LoRA.safetensors", key="diffusion_model.{}".format)
    given = {"network_dim": 8, "network_alpha": 8, "network_weights": str(path)}
    plan = golden_plan("t2v-vanilla", noise_level="low", given=given)
    (train,) = plan.trainings
    steps = (replace(train, argv=(PYTHON, *train.argv[1:])),)
    with pytest.raises(WeightsError) as caught:
        warm_start.remarks(replace(plan, env={"PYTHONPATH": str(Path(FOLDER, "src"))}, steps=steps))
    command = str(caught.value).partition("diffusers:\n")[2]
    subprocess.run(["bash", "-c", command], check=True, capture_output=True)
    made, wanted = tmp_path / "it's a LoRA-musubi.safetensors", lora(tmp_path / "wanted.safetensors")
    assert shapes(made) == shapes(wanted)
    assert warm_start._rank_alpha(open_source(made)) == ({8}, {8.0})


def test_two_processes_train_the_steps_and_rates_that_are_planned(tmp_path: Path) -> None:
    """As on two GPUs, by accelerate's own launcher; the state that the first of them saves keeps no other waiting."""
    extra = ["--", "--gradient_accumulation_steps", "2"]
    (expert,) = rehearse(tmp_path, "wan21-t2v-1.3b", "sample", "--gpus", 2, "--scheduler", "cosine", *extra).values()
    assert expert["steps_planned"] == expert["steps_done"] == 2 * 2  # 7 batches: 4 each, in 2s
    rates = ask("logged", str(Path(expert["folder"]) / "logs"), tmp_path)
    expected = [8e-5 * (1 + math.cos(math.pi * step / 4)) / 2 for step in range(1, 5)]
    assert [rates[str(step)] for step in range(1, 5)] == pytest.approx(expected, abs=1e-11)


def test_the_users_accelerate_config_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With accelerate itself: a config for two GPUs with DeepSpeed and another precision, as `accelerate config` writes it."""
    config = tmp_path / "hf" / "accelerate" / "default_config.yaml"
    config.parent.mkdir(parents=True)
    config.write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: DEEPSPEED\ndeepspeed_config: {zero_stage: 2}\n"
        "mixed_precision: fp16\nnum_processes: 2\nnum_machines: 1\ngpu_ids: '7'\nuse_cpu: true\n"
    )
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    assert rehearse(tmp_path / "base", "wan21-t2v-1.3b", "sample")["dit"]["state"] == "done"


def test_ones_own_toml_and_options_rehearse(tmp_path: Path) -> None:
    """No buckets, a list of clips, repeats, accumulation; a folder that upstream's globs would misread."""
    media = tmp_path / 'my "cats" [v2] & $HOME ü'
    for number in range(3):
        picture(media / f"p{number}.png", (100 + 40 * number, 120))
    path = clip(tmp_path / "clips" / "a.mp4", 40, 24, caption=None)
    (tmp_path / "list.jsonl").write_text(json.dumps({"video_path": str(path), "caption": "it flies"}) + "\n")
    own = tmp_path / "own.toml"
    own.write_text(
        f'[general]\ncaption_extension = ".txt"\nresolution = 256\n'
        f"[[datasets]]\nimage_directory = {json.dumps(str(media), ensure_ascii=False)}\n"
        f'cache_directory = "{tmp_path}/c1"\nnum_repeats = 5\n'
        f'[[datasets]]\nvideo_jsonl_file = "{tmp_path}/list.jsonl"\ncache_directory = "{tmp_path}/c2"\n'
        f'target_frames = [1, 9]\nsource_fps = 24.0\nenable_bucket = true\nframe_extraction = "chunk"\n',
        encoding="utf-8",
    )
    options = ["--noise_level", "low", "--optimizer", "adamw", "--min_lr", "0.1", "--dim", 4, "--blocks_to_swap", 30]
    extra = ["--", "--gradient_accumulation_steps", "3", "--network_dropout", "0.1", "--max_data_loader_n_workers", "0"]
    expert = rehearse(tmp_path / "base", "t2v-vanilla", own, *options, *extra)["low"]
    assert expert["steps_done"] == 2 * 3  # 3 pictures twice and 2 windows: 8 batches, 3 steps an epoch
    assert warm_start._rank_alpha(open_source(lora_of(expert))) == ({4}, {4.0})
