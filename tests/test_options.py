"""What the user gives: taken as upstream would, or refused with a way out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import golden_plan
from hypothesis import given
from hypothesis import strategies as st
from wanwrap.upstream.timesteps import within

from wanwrap.errors import OptionError
from wanwrap.plan.request import check_name, order
from wanwrap.upstream.options import TRAIN, Value, overlay, parse, spell, table
from wanwrap.upstream.schedule import rewrite


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max_grad_nrom", "0"], "no option --max_grad_nrom. Did you mean max_grad_norm?"),
        (["--seed", "x"], "--seed takes a whole number; not 'x'"),
        (["--learning_rate"], "--learning_rate needs a value"),
        (["--min_timestep", "0.9"], "takes a whole number"),
        (["--timestep_sampling", "sigmod"], "Did you mean sigmoid?"),
        (["--compile=yes"], "--compile takes no value"),
        (["stray"], "'stray' is none"),
        (["--dit", "x"], "use wanwrap's own --dit"),
        (["--resume", "x"], "counts from 0 again"),
        (["--wandb_api_key", "x"], "WANDB_API_KEY"),
        (["--sage_attn"], "--attention sdpa"),
        (["--base_weights", "x"], "silently drops keys"),
        (["--timestep_boundary", "900"], "does nothing for one DiT"),
    ],
)
def test_refused(words: list[str], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        parse(words)


def test_hyphens_and_equals_signs() -> None:
    assert parse(["--max-grad-norm=0.5", "--network_args", "a=1"]) == {"max_grad_norm": 0.5, "network_args": ("a=1",)}


VALUES = {"int": st.integers(0, 9999), "float": st.floats(0, 1e6), "str": st.text("abc=., ()", min_size=1)}


@given(st.data())
def test_what_is_spelled_is_read_back(data: st.DataObject) -> None:
    """Any options that upstream has, in any number."""
    plain = {
        name: row for name, row in table(TRAIN).items() if "choices" not in row and row.get("type") in (None, *VALUES)
    }
    options: dict[str, object] = {}
    for name in data.draw(st.sets(st.sampled_from(sorted(plain)))):
        row = plain[name]
        one = VALUES[row.get("type", "str")]
        options[name] = (
            True
            if row["kind"] == "flag"
            else tuple(data.draw(st.lists(one, min_size=1)))
            if "nargs" in row
            else data.draw(one)
        )
    from wanwrap.upstream import options as module

    refused = module.REFUSED
    module.REFUSED = {}
    try:
        read = parse(list(spell(options)))  # type: ignore[arg-type]
    finally:
        module.REFUSED = refused
    assert {name: map_str(value) for name, value in read.items()} == {
        name: map_str(value) for name, value in options.items()
    }


def map_str(value: object) -> object:
    return [str(one) for one in value] if isinstance(value, tuple) else str(value)


def test_an_attention_that_is_given_replaces_the_presets() -> None:
    merged = overlay({"sdpa": True, "seed": 1}, {"xformers": True})
    assert list(spell(merged)) == ["--seed", "1", "--xformers"]


def test_steps_that_are_given_are_not_overridden_by_the_presets_epochs() -> None:
    (training,) = golden_plan("wan21-t2v-14b", given={"max_train_steps": 123}).trainings
    assert "--max_train_epochs" not in training.argv
    assert training.argv[training.argv.index("--max_train_steps") + 1] == "123"
    assert "total_iters=123" in training.argv


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"blocks_to_swap": 40}, "40 blocks, of which 39 at most"),
        ({"blocks_to_swap": -1}, "39 at most"),
        ({"mixed_precision": "bf16"}, "must be fp16 for a DiT in fp16"),
        ({"max_train_epochs": 0}, "must be 1 at least"),
        ({"timestep_sampling": "sigmoid", "discrete_flow_shift": 3.0}, "upstream ignores --flow_shift"),
        ({"timestep_sampling": "sigma"}, "turns the timestep window around"),
        ({"min_timestep": 990, "max_timestep": 1000, "discrete_flow_shift": 1.0}, "only 0.00% of the timesteps"),
        ({"min_timestep": 900, "max_timestep": 100}, "the smaller one first"),
        ({"network_args": ("a=b=c",)}, "with a single ="),
        (
            {"lr_scheduler": "cosine", "lr_scheduler_min_lr_ratio": 0.1},
            "upstream's cosine scheduler takes no --min_lr; these do: cosine_with_min_lr, polynomial",
        ),
        ({"lr_scheduler": "polinomial"}, "Did you mean polynomial?"),
        ({"lr_scheduler": "cosine_with_min_lr"}, "fails without --min_lr"),
        ({"lr_scheduler": "piecewise_constant"}, "fails without --lr_scheduler_args"),
        ({"lr_scheduler": "adafactor"}, "no scheduler 'adafactor'"),
        ({"lr_scheduler": "constant", "lr_warmup_steps": 10}, "takes no --lr_warmup_steps"),
        ({"lr_scheduler_min_lr_ratio": 1.0}, "from 0 to less than 1"),
        ({"lr_scheduler_type": "PolynomialLR"}, "ends after 5 steps unless"),
        ({"lr_scheduler_type": "CosineAnnealingLR", "lr_warmup_steps": 5}, "ignores --lr_warmup_steps"),
        ({"optimizer_type": "adafactor"}, "relative_step=False scale_parameter=False"),
        ({"optimizer_type": ""}, "--optimizer is empty"),
        ({"optimizer_args": ("weight_decay=abc",)}, "'abc' is no value"),
        ({"network_args": ("=b",)}, "name=value"),
        (
            {"network_args": ("excude_patterns=[]",)},
            "ignores --network_args excude_patterns. Did you mean exclude_patt",
        ),
        ({"lr_scheduler": "rex", "lr_scheduler_power": 3.0}, "--power goes with --scheduler polynomial"),
        ({"learning_rate": -1.0}, "above 0"),
        ({"network_alpha": 0.0}, "above 0"),
        ({"discrete_flow_shift": 0.0}, "above 0"),
        ({"seed": -1}, "from 0 to 4294967295"),
        ({"max_train_epochs": 10, "max_train_steps": 5}, "ignores --max_train_steps beside --max_train_epochs"),
        ({"sample_every_n_epochs": 1}, "samples need both"),
        ({"sample_prompts": "/p.txt"}, "samples need both"),
        ({"save_every_n_steps": 9}, "goes on from whole epochs; use --save_every"),
        ({"save_last_n_epochs": 0}, "1 at least"),
        ({"lr_warmup_steps": 5000}, "the run has 300 steps"),
        ({"lr_warmup_steps": 1.5}, "the run has 300 steps"),
        ({"lr_warmup_steps": -5}, "the run has 300 steps"),
        ({"lr_decay_steps": 5}, "polynomial scheduler takes no --lr_decay_steps; these do: warmup_stable_decay"),
        ({"lr_scheduler": "cosine", "lr_scheduler_num_cycles": 3}, "takes no --lr_scheduler_num_cycles"),
        ({"lr_scheduler_type": "CosineAnnealingLR", "lr_scheduler_power": 3.0}, "--power goes with"),
        ({"lr_scheduler_type": "CosineAnnealingLR"}, "fails unless --lr_scheduler_args has T_max;"),
        ({"lr_scheduler_type": "OneCycleLR"}, "fails unless --lr_scheduler_args has max_lr and total_steps;"),
        ({"lr_scheduler_type": "ReduceLROnPlateau"}, "needs the loss at each step"),
        ({"lr_scheduler_type": "torch.optim.lr_scheduler.SequentialLR"}, "needs other schedulers"),
        ({"lr_scheduler": "cosine", "lr_scheduler_args": ("last_epoch=5",)}, "the cosine scheduler takes num_cycles."),
        ({"lr_scheduler": "constant", "lr_scheduler_args": ("a=1",)}, "the constant scheduler takes none."),
        ({"lr_scheduler_min_lr_ratio": 0.1, "lr_scheduler_args": ("lr_end=1e-6",)}, "give one"),
        (
            {"lr_scheduler": "warmup_stable_decay", "lr_warmup_steps": "60%", "lr_decay_steps": 0.5},
            r"more steps together than the run has \(300\)",
        ),
        ({"optimizer_type": "schedulefree.AdamWScheduleFree", "lr_scheduler": "cosine"}, "which has no schedule"),
        ({"optimizer_type": "transformers.Adafactor"}, "adafactor takes no notice"),
        (
            {"optimizer_type": "adafactor", "optimizer_args": ("relative_step=False", "warmup_init=True")},
            "adafactor takes no notice",
        ),
    ],
)
def test_settings_that_fail_late_in_upstream(given: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        golden_plan("t2v-vanilla", given=given)  # type: ignore[arg-type]


def test_share_of_timesteps_within_a_window() -> None:
    """Upstream's own acceptance, measured over many draws (facts: 2.6, 19.8, 36.8 and 70.5 %)."""
    for shift, share in ((1.0, 0.026), (3.0, 0.198), (5.0, 0.368), (12.0, 0.705)):
        options: dict[str, Value] = {"timestep_sampling": "shift", "discrete_flow_shift": shift}
        assert within(options, 0.875, 1.0) == pytest.approx(share, abs=0.0006)
    assert within({"timestep_sampling": "sigmoid"}, 0.0, 1.0) == 1.0
    assert within({"timestep_sampling": "uniform"}, 0.25, 0.5) == 0.25
    assert within({"timestep_sampling": "logsnr"}, 0.0, 1.0) is None


def test_epochs_that_are_given_replace_a_presets_steps() -> None:
    assert overlay({"max_train_steps": 700}, {"max_train_epochs": 3}) == {
        "max_train_steps": None,
        "max_train_epochs": 3,
    }
    plan = golden_plan("wan21-t2v-14b", given={"max_train_steps": 5000})
    assert plan.notes == ()


def test_several_gpus() -> None:
    """Fewer steps, of which a schedule has one for each GPU; and what goes wrong on several only."""
    one, two = (golden_plan("wan21-t2v-14b", gpus=gpus).trainings[0] for gpus in (1, 2))
    assert "--multi_gpu" in two.argv and "--multi_gpu" not in one.argv
    assert two.argv[two.argv.index("--num_processes") + 1] == "2"
    assert one.recipe and two.recipe and one.recipe.steps == 2 * two.recipe.steps
    assert f"total_iters={one.recipe.steps}" in two.argv
    own = {"lr_scheduler_type": "StepLR", "lr_scheduler_args": ("step_size=4",)}
    assert golden_plan("wan21-t2v-14b", given=own)
    with pytest.raises(OptionError, match="2 times as fast with --gpus 2"):
        golden_plan("wan21-t2v-14b", given=own, gpus=2)
    with pytest.raises(OptionError, match="would draw a seed, and batches, of its own; give --seed"):
        golden_plan("wan21-t2v-14b", gpus=2, seed=None)


def test_1_3b_has_30_blocks() -> None:
    with pytest.raises(OptionError, match="30 blocks, of which 29 at most"):
        golden_plan("wan21-t2v-1.3b", given={"blocks_to_swap": 30})


HUB = "transformers.optimization.get_"


def test_the_schedules() -> None:
    """What reaches upstream; the curves themselves are compared with upstream's own (test_upstream.py)."""
    base: dict[str, Value] = {
        "optimizer_type": "adamw",
        "lr_scheduler": "polynomial",
        "lr_scheduler_power": 2.0,
        "learning_rate": 1e-4,
    }
    kept: dict[str, Value] = {"optimizer_type": "adamw", "lr_scheduler": "polynomial", "learning_rate": 1e-4}
    assert rewrite(base, 700) == {
        **kept,
        "lr_scheduler_type": "PolynomialLR",
        "lr_scheduler_args": ("total_iters=700", "power=2.0"),
    }
    assert rewrite({**base, "lr_scheduler_min_lr_ratio": 0.01}, 700) == {
        **kept,
        "lr_scheduler_type": f"{HUB}polynomial_decay_schedule_with_warmup",
        "lr_scheduler_args": ("num_warmup_steps=0", "num_training_steps=700", "power=2.0", "lr_end=1e-06"),
    }
    cosine = rewrite({**base, "lr_scheduler": "cosine", "lr_warmup_steps": "10%"}, 705, gpus=2)
    assert cosine["lr_scheduler_args"] == ("num_warmup_steps=141", "num_training_steps=1410")
    assert "lr_warmup_steps" not in cosine and "lr_scheduler_power" not in cosine
    assert rewrite({**base, "lr_scheduler": "constant"}, 9) == {**kept, "lr_scheduler": "constant"}
    pieces = {"lr_scheduler": "piecewise_constant", "lr_scheduler_args": ("step_rules='1:4,0.1:09,0.01'",)}
    assert rewrite({**base, **pieces}, 9, gpus=2)["lr_scheduler_args"] == ("step_rules='1:8,0.1:18,0.01'",)


def test_schedules_that_are_given_go_through() -> None:
    base: dict[str, Value] = {"optimizer_type": "adamw", "lr_scheduler": "polynomial", "learning_rate": 1e-4}
    assert rewrite({**base, "lr_scheduler_power": 0.0}, 9)["lr_scheduler_args"] == ("total_iters=9", "power=0.0")
    assert rewrite({**base, "lr_warmup_steps": 0}, 9)["lr_scheduler_type"] == "PolynomialLR"
    for warm_up, steps in (("10%", 0), (0.5, 4), (3, 3)):
        pairs = rewrite({**base, "lr_warmup_steps": warm_up}, 9)["lr_scheduler_args"]
        assert pairs == (f"num_warmup_steps={steps}", "num_training_steps=9", "power=1.0") or not steps
    given = rewrite({**base, "lr_scheduler_args": ("lr_end=1e-6",)}, 9)
    assert given["lr_scheduler_args"][-1] == "lr_end=1e-6"  # type: ignore[index]
    own: dict[str, Value] = {"lr_scheduler_type": "CosineAnnealingLR", "lr_scheduler_args": ("T_max=9",)}
    assert rewrite({**base, **own}, 9) == {**base, **own, "lr_scheduler": None, "lr_scheduler_power": None}
    free = rewrite({**base, "optimizer_type": "schedulefree.AdamWScheduleFree"}, 9)
    assert free == {"optimizer_type": "schedulefree.AdamWScheduleFree", "learning_rate": 1e-4}


def test_settings_that_hang_on_others() -> None:
    def options(preset: str, **given: Any) -> dict[str, Any]:
        (training, *_) = golden_plan(preset, given=given).trainings
        assert training.recipe
        return dict(training.recipe.options)

    assert options("t2v-vanilla", max_data_loader_n_workers=0)["persistent_data_loader_workers"] is None
    with pytest.raises(OptionError, match="needs --fp8_base"):
        options("wan21-t2v-1.3b", fp8_scaled=True)
    lion = options("wan21-t2v-1.3b-rtx3090", optimizer_type="bitsandbytes.optim.Lion")
    assert lion["optimizer_args"] is None
    assert options("t2v-vanilla", optimizer_type="adamw")["optimizer_args"] == ("weight_decay=0.01",)


def test_what_may_not_be_meant_is_said() -> None:
    plan = golden_plan("wan21-t2v-14b", given={"learning_rate": 3.0, "save_every_n_epochs": 99})
    assert plan.notes == (
        "--save_every is longer than the run: only its end is saved.",
        "--lr 3.0 is far above what any recipe uses (1e-5 to 1e-3).",
    )


def test_samples_bring_what_they_need(tmp_path: Path) -> None:
    prompts = str(tmp_path / "p.txt")
    given: dict[str, Value] = {"sample_prompts": prompts, "sample_every_n_epochs": 1}
    for name in ("t2v-vanilla", "wan21-t2v-1.3b-video", "wan21-i2v-480p"):
        argv = golden_plan(name, given=given).trainings[0].argv
        assert argv[argv.index("--sample_prompts") + 1] == prompts
        assert {"--vae", "--t5"} <= set(argv)
        assert ("--clip" in argv) == (name == "wan21-i2v-480p")


def test_values_that_begin_with_a_dash() -> None:
    assert list(spell({"logit_mean": -0.5, "training_comment": "--x"})) == [
        "--logit_mean=-0.5",
        "--training_comment=--x",
    ]
    assert parse(["--logit_mean", "-0.5"]) == {"logit_mean": -0.5}


@pytest.mark.parametrize("word", ["nan", "inf", "-inf"])
def test_numbers_that_are_none(word: str) -> None:
    with pytest.raises(OptionError, match="takes a number"):
        parse([f"--learning_rate={word}"])


def test_alpha_follows_dim_and_both_are_said() -> None:
    plan = golden_plan("t2v-vanilla", given={"network_dim": 32})
    for training in plan.trainings:
        assert training.argv[training.argv.index("--network_alpha") + 1] == "32"
    assert plan.notes[-1] == "--alpha follows --dim: 32."


@pytest.mark.parametrize("name", ["-cats", "a/b", "", ".x", 'a"b', "a\nb"])
def test_names_that_cant_be_files(name: str) -> None:
    with pytest.raises(OptionError, match="can't name files"):
        check_name(name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preset": "wan21-t2v-14b", "noise_level": "high"}, "without noise levels"),
        ({"preset": "wan21-t2v-14b", "noise_level": "both"}, "without noise levels"),
        ({"preset": "wan21-t2v-14b", "dit_high": Path("x")}, "give its DiT with --dit"),
        ({"preset": "t2v-vanilla", "dit": Path("x")}, "this one trains two: --dit_high and --dit_low"),
        ({"preset": "t2v-vanilla", "clip": Path("x")}, "uses no CLIP"),
        ({"preset": "t2v-vanilla", "resume_from": Path(__file__)}, "say which with --noise_level"),
        ({"preset": "t2v-vanilla", "dataset": "x", "dataset_config": Path("y")}, "two data sets"),
    ],
)
def test_orders_that_contradict_themselves(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        order(**arguments)  # type: ignore[arg-type]
