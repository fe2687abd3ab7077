"""The whole script and TOML of every preset, as a reviewer can read them, and their contract with upstream."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from helpers import golden_plan

from wanwrap.cli.words import heading
from wanwrap.plan.script import script
from wanwrap.preset import load, shipped
from wanwrap.upstream.options import CACHE_LATENTS, CACHE_TEXT, REFUSED, TRAIN, parse, table

GOLDEN = Path(__file__).parents[1] / "golden"
TABLE = json.loads((Path(__file__).parents[1] / "upstream_flags.json").read_text(encoding="utf-8"))["scripts"]

WRITTEN_OUT = (
    "task mixed_precision save_precision timestep_sampling optimizer_type learning_rate max_grad_norm seed network_module "
    "network_dim network_alpha output_dir output_name logging_dir"
)


def compare(path: Path, text: str, update: bool) -> None:
    if update:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("name", shipped())
def test_script_and_toml(name: str, request: pytest.FixtureRequest) -> None:
    plan, update = golden_plan(name), bool(request.config.getoption("--update-golden"))
    compare(GOLDEN / name / "run.sh", script(plan, "bash", heading(plan)), update)
    (toml, *_) = {text for path, text in plan.files.items() if path.name == "dataset.toml"}
    compare(GOLDEN / name / "dataset.toml", toml, update)


def test_powershell(request: pytest.FixtureRequest) -> None:
    plan = golden_plan("wan21-t2v-1.3b-rtx3090")
    update = bool(request.config.getoption("--update-golden"))
    compare(GOLDEN / "run.ps1", script(plan, "powershell", heading(plan)), update)


def test_every_preset_has_its_golden_folder() -> None:
    assert {path.name for path in GOLDEN.iterdir() if path.is_dir()} == set(shipped())


@pytest.mark.parametrize("name", shipped())
def test_every_flag_and_choice_is_upstreams(name: str) -> None:
    """Read back from the golden text, not from the plan: what is printed is what is checked."""
    commands = (GOLDEN / name / "run.sh").read_text(encoding="utf-8").partition("\ncd ")[2].replace("\\\n", " ")
    seen = []
    for line in commands.splitlines():
        words = shlex.split(line, comments=True)
        script_name = next((word.rpartition(".")[2] for word in words if word.startswith("musubi_tuner.wan_")), None)
        if script_name:
            seen.append(script_name)
            _check(words[words.index(f"musubi_tuner.{script_name}") + 1 :], TABLE[f"{script_name}.py"])
    experts = len(load(name).experts)
    assert seen == [CACHE_LATENTS, CACHE_TEXT, *[TRAIN] * experts]


def _check(words: list[str], known: dict[str, dict[str, object]]) -> None:
    for position, word in enumerate(words):
        if word.startswith("--"):
            row = known[word]
            value = words[position + 1] if position + 1 < len(words) else "--"
            assert (row["kind"] == "flag") == value.startswith("--"), (word, value)
            assert value in row.get("choices", [value]), (word, value)  # type: ignore[operator]


@pytest.mark.parametrize("name", shipped())
def test_what_upstream_gets_wrong_by_itself_is_written_out(name: str) -> None:
    for step in golden_plan(name).trainings:
        words = step.argv[step.argv.index("musubi_tuner.wan_train_network") :]
        assert {f"--{flag}" for flag in WRITTEN_OUT.split()} <= {*words}, step.name
        if "shift" in words:
            assert "--discrete_flow_shift" in words
        assert "--lr_scheduler_min_lr_ratio" not in words  # no preset's scheduler obeys it


def test_numbers_of_the_recipes() -> None:
    """The figures that make a recipe, from the published recipes and not from the presets."""

    def options(name: str) -> list[dict[str, object]]:
        return [dict(step.options) for step in golden_plan(name).trainings]

    for name, boundary, shift in (("t2v-lightning", 875, 3.0), ("i2v-vanilla", 900, 5.0)):
        high, low = options(name)
        assert (high["learning_rate"], high["network_dim"], high["network_alpha"]) == (1e-4, 8, 8)
        assert (low["learning_rate"], low["network_dim"], low["network_alpha"]) == (8e-5, 42, 42)
        assert (high["min_timestep"], high["max_timestep"], low["min_timestep"], low["max_timestep"]) == (
            boundary,
            1000,
            0,
            boundary,
        )
        assert high["discrete_flow_shift"] == low["discrete_flow_shift"] == shift
        assert high["mixed_precision"] == "fp16"
    for name, rank, power in (("t2v-style", 16, 8.0), ("wan21-t2v-style", 32, 4.0)):
        for style in options(name):
            assert (style["network_dim"], style["network_alpha"], style["learning_rate"]) == (rank, rank, 3e-4)
            assert (style["optimizer_type"], style["optimizer_args"]) == ("adamw", ("weight_decay=0.1",))
            assert (style["max_grad_norm"], style["xformers"], style["seed"]) == (0.0, True, 5)
            assert style["lr_scheduler_args"] == ("total_iters=200", f"power={power}")
    for name, rank, shift, task in (
        ("wan21-t2v-14b", 24, 3.0, "t2v-14B"),
        ("wan21-t2v-1.3b", 16, 3.0, "t2v-1.3B"),
        ("wan21-i2v-480p", 24, 5.0, "i2v-14B"),
        ("wan21-i2v-720p", 24, 5.0, "i2v-14B"),
    ):
        (wan21,) = options(name)
        assert (wan21["network_dim"], wan21["network_alpha"], wan21["learning_rate"]) == (rank, rank, 8e-5)
        assert (wan21["discrete_flow_shift"], wan21["task"], wan21["mixed_precision"]) == (shift, task, "bf16")
        assert wan21.get("fp8_base") is (None if "1.3" in name else True)
    for name in ("t2v-vanilla", "i2v-lightning", "wan21-t2v-14b", "wan21-t2v-1.3b", "wan21-i2v-720p"):
        for each in options(name):
            assert (each["optimizer_type"], each["optimizer_args"]) == ("adamw8bit", ("weight_decay=0.01",))
            assert (each["max_train_epochs"], each["save_every_n_epochs"], each["seed"]) == (50, 5, 42)
            assert str(each["lr_scheduler_args"]).endswith("'power=2.0')")
            assert (each["sdpa"], each["gradient_checkpointing"], each["timestep_sampling"]) == (True, True, "shift")
    (video,) = options("wan21-t2v-1.3b-video")
    assert (video["network_dim"], video["learning_rate"], video["discrete_flow_shift"]) == (16, 5e-5, 3.0)
    assert (video["optimizer_type"], video["lr_scheduler"]) == ("bitsandbytes.optim.Lion", "cosine")
    clips = load("wan21-t2v-1.3b-video").clips[0]
    assert (clips.resolution, clips.target_frames, clips.batch_size) == ((832, 480), (73,), 2)
    (guide,) = options("wan21-t2v-1.3b-rtx3090")
    assert (guide["network_alpha"], guide["blocks_to_swap"], guide["max_train_epochs"]) == (64, 2, 100)
    assert guide["optimizer_args"] == ("betas=(0.9,0.99)", "weight_decay=0.01")
    assert load("wan21-t2v-1.3b-rtx3090").env["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
    assert (guide["network_dim"], guide["learning_rate"], guide["gradient_accumulation_steps"]) == (64, 5e-5, 4)
    assert (guide["timestep_sampling"], guide["lr_scheduler"]) == ("sigmoid", "constant")


def test_fp8_files_are_never_scaled_again() -> None:
    (training,) = golden_plan("wan21-t2v-style").trainings
    assert "--fp8_base" in training.argv
    assert "--fp8_scaled" not in training.argv


def test_image_to_video_is_cached_as_such() -> None:
    def latents(name: str) -> tuple[str, ...]:
        return next(step.argv for step in golden_plan(name).steps if step.name == "cache latents")

    assert "--i2v" in latents("i2v-vanilla") and "--clip" not in latents("i2v-vanilla")
    assert "--i2v" in latents("wan21-i2v-480p") and "--clip" in latents("wan21-i2v-480p")
    assert "--i2v" not in latents("t2v-vanilla")


def test_merge_comes_first_and_its_file_is_trained() -> None:
    plan = golden_plan("t2v-lightning")
    assert [step.name for step in plan.steps] == [
        "merge Lightning, high",
        "merge Lightning, low",
        "check caches",
        "cache latents",
        "cache text",
        "train high",
        "train low",
    ]
    for merge, training in zip(plan.rewrites, plan.trainings, strict=True):
        assert str(merge.out) in training.argv
    skipped = golden_plan("t2v-lightning", skip_lightning=True)
    assert not skipped.rewrites
    assert "lightning" not in script(skipped, "bash")


def test_where_both_say_it_the_script_tells_which_scheduler_wins() -> None:
    for name, both in (("t2v-vanilla", True), ("wan21-t2v-1.3b-rtx3090", False)):
        plan = golden_plan(name)
        argv = plan.trainings[0].argv
        assert ("--lr_scheduler" in argv and "--lr_scheduler_type" in argv) == both
        comments = [line for line in script(plan, "bash").splitlines() if line.startswith("# --lr_scheduler_type")]
        assert len(comments) == both * len(plan.trainings)


def test_a_script_moves_the_loras_that_a_run_keeps() -> None:
    plan = golden_plan("t2v-vanilla", given={"save_last_n_epochs": 2})
    high, low = plan.trainings
    assert high.loras == [f"{high.label}-{epoch}.safetensors" for epoch in ("000040", "000045")] + [high.lora.name]
    moved = script(plan, "bash").partition("\nmv ")[2].partition("\n\n")[0].replace("\\\n", "").split()
    assert moved == [*(f"high/attempt-1/{name}" for name in high.loras), "."]
    assert not {*high.loras} & {*low.loras}


def test_both_experts_share_the_caches_of_vanilla_and_lightning() -> None:
    tomls = {name: golden_plan(name).files for name in ("t2v-vanilla", "t2v-lightning", "i2v-vanilla")}
    caches = {
        name: [line for text in files.values() for line in text.splitlines() if line.startswith("cache_directory")]
        for name, files in tomls.items()
    }
    assert caches["t2v-vanilla"] == caches["t2v-lightning"]
    assert not set(caches["t2v-vanilla"]) & set(caches["i2v-vanilla"])
    assert len(set(caches["t2v-vanilla"])) == 3


def test_refused_options_exist() -> None:
    assert set(REFUSED) <= set(table(TRAIN)), "a refusal of an option that upstream does not have"
    assert parse(["--seed", "7", "--optimizer_args", "a=1", "b=2", "--compile"]) == {
        "seed": 7,
        "optimizer_args": ("a=1", "b=2"),
        "compile": True,
    }
