"""What the user gives: taken as upstream would, or refused with a way out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import golden_plan
from hypothesis import given
from hypothesis import strategies as st

from wanwrap.errors import OptionError, PresetError, WeightsError
from wanwrap.plan.request import check_name, read
from wanwrap.upstream import options as module
from wanwrap.upstream.options import REFUSED, TRAIN, Value, called, overlay, parse, spell, table
from wanwrap.upstream.rules import drawn_within
from wanwrap.upstream.schedule import HUB, rewrite

HERE = Path(__file__)


@pytest.mark.parametrize(
    ("words", "noun"),
    [
        (["--max_grad_nrom", "0"], "max_grad_norm"),
        (["--learning_rate", "x"], "number"),  # not the name of a function
        (["--learning_rate=nan"], "nan"),
        (["--timestep_sampling", "sigmod"], "sigmoid"),
        (["--compile=yes"], "--compile"),
        (["stray"], "stray"),
        (["--restart"], "before"),  # wanwrap's own
    ],
)
def test_refused(words: list[str], noun: str) -> None:
    with pytest.raises(OptionError, match=noun):
        parse(words, own={"restart"})


@pytest.mark.parametrize(
    "name", ["dit", "resume", "wandb_api_key", "sage_attn", "base_weights", "timestep_boundary", "save_every_n_steps"]
)
def test_what_would_train_something_else(name: str) -> None:
    with pytest.raises(OptionError, match=f"--{name} "):
        parse([f"--{name}"] if table(TRAIN)[name]["kind"] == "flag" else [f"--{name}", "1"])


def test_words_are_read_as_upstream_reads_them() -> None:
    assert {*REFUSED} <= {*table(TRAIN)}
    words = ["--max_grad_norm=0.5", "--optimizer_args", "a=1", "b=2", "--compile", "--logit-mean", "-0.5"]
    read_ = {"max_grad_norm": 0.5, "optimizer_args": ("a=1", "b=2"), "compile": True, "logit_mean": -0.5}
    assert parse(words) == read_
    assert [*spell({"logit_mean": -0.5, "training_comment": "--x"})] == ["--logit_mean=-0.5", "--training_comment=--x"]


VALUES = {"int": st.integers(0, 9999), "float": st.floats(0, 1e6), "str": st.text("abc=., ()", min_size=1)}
PLAIN = {name: row for name, row in table(TRAIN).items() if "choices" not in row and row.get("type") in (None, *VALUES)}


@given(st.data())
def test_what_is_spelled_is_read_back(data: st.DataObject) -> None:
    """Any options that upstream has, in any number."""
    options = dict[str, Any]()
    for name in data.draw(st.sets(st.sampled_from(sorted(PLAIN)))):
        one = VALUES[PLAIN[name].get("type", "str")]
        value = st.lists(one, min_size=1).map(tuple) if "nargs" in PLAIN[name] else one
        options[name] = True if PLAIN[name]["kind"] == "flag" else data.draw(value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "REFUSED", {})
        read_ = parse([*spell(options)])
    assert {name: _text(value) for name, value in read_.items()} == {n: _text(value) for n, value in options.items()}


def _text(value: object) -> object:
    return [str(one) for one in value] if isinstance(value, tuple) else str(value)


def test_what_is_given_replaces_the_presets() -> None:
    assert [*spell(overlay({"sdpa": True, "seed": 1}, {"xformers": True}))] == ["--seed", "1", "--xformers"]
    epochs = overlay({"max_train_steps": 700}, {"max_train_epochs": 3})
    assert epochs == {"max_train_steps": None, "max_train_epochs": 3}
    (training,) = golden_plan("wan21-t2v-14b", given={"max_train_steps": 123}).trainings
    assert "--max_train_epochs" not in training.argv and "total_iters=123" in training.argv
    assert training.argv[training.argv.index("--max_train_steps") + 1] == "123"


ADAFACTOR = {"optimizer_type": "adafactor", "optimizer_args": ("relative_step=False", "warmup_init=True")}


@pytest.mark.parametrize(
    ("given", "noun"),
    [
        ({"blocks_to_swap": 40}, "40 blocks"),
        ({"mixed_precision": "bf16"}, "fp16"),
        ({"timestep_sampling": "sigmoid", "discrete_flow_shift": 3.0}, "--flow_shift"),
        ({"timestep_sampling": "sigma"}, "window"),
        ({"min_timestep": 990, "max_timestep": 1000, "discrete_flow_shift": 1.0}, "0.00%"),
        ({"min_timestep": 900, "max_timestep": 100}, "--max_timestep 100"),
        ({"network_args": ("conv_dim=8",)}, "conv_dim"),
        ({"network_module": "networks.lokr", "network_args": ("faktor=4",)}, " factor"),
        ({"network_module": "musubi_tuner.networks.lora_flux"}, "lora_wan"),
        ({"optimizer_type": "adamw8bits"}, "adamw8bit"),
        ({"optimizer_type": "LBFGS"}, "--optimizer"),  # can't train a LoRA
        ({"optimizer_type": "adafactor"}, "relative_step=False"),
        ({"optimizer_type": "transformers.Adafactor"}, "relative_step=False"),
        (ADAFACTOR, "warmup_init=False"),
        ({"max_train_epochs": 10, "max_train_steps": 5}, "--max_train_steps"),
        ({"sample_every_n_epochs": 1}, "--sample_prompts"),
        ({"sample_prompts": "/p.txt"}, "--sample_every_n_epochs"),
        ({"lr_scheduler": "polinomial"}, "polynomial"),
        ({"lr_scheduler": "cosine", "lr_scheduler_min_lr_ratio": 0.1}, "--min_lr; .*cosine_with_min_lr"),
        ({"lr_scheduler": "cosine", "lr_scheduler_num_cycles": 3}, "--lr_scheduler_num_cycles"),
        ({"lr_scheduler": "cosine_with_min_lr"}, "--min_lr"),
        ({"lr_scheduler_type": "CosineAnnealingLR", "lr_scheduler_power": 3.0}, "--power"),
        ({"lr_scheduler_type": "CosineAnnealingLR", "lr_warmup_steps": 5}, "--lr_warmup_steps"),
        ({"lr_scheduler": "cosine", "lr_scheduler_type": "CosineAnnealingLR"}, "--scheduler"),
        ({"lr_warmup_steps": 5000}, "300 steps"),
        ({"lr_warmup_steps": -5}, "300 steps"),
        ({"lr_scheduler": "linear", "lr_scheduler_args": ("num_training_steps=5",)}, "num_training_steps"),
        ({"lr_scheduler_args": ("power=5",)}, "power"),
        ({"optimizer_type": "schedulefree.AdamWScheduleFree", "lr_scheduler": "cosine"}, "--scheduler"),
        ({"fp8_t5": True}, "--sample_prompts"),
        ({"block_swap_ring_size": 4}, "--block_swap_h2d_only"),
        ({"weighting_scheme": "logit_normal"}, "--weighting_scheme"),
    ],
)
def test_settings_that_fail_late_in_upstream(given: dict[str, Value], noun: str) -> None:
    with pytest.raises(OptionError, match=noun):
        golden_plan("t2v-vanilla", given=given, sample_with_one_expert=True)


def test_the_1_3b_model_is_smaller() -> None:
    with pytest.raises(OptionError, match="30 blocks"):
        golden_plan("wan21-t2v-1.3b", given={"blocks_to_swap": 30})
    with pytest.raises(OptionError, match="--fp8_base"):
        golden_plan("wan21-t2v-1.3b", given={"fp8_scaled": True})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_grad_norm", -1.0),  # upstream would train uphill
        ("scale_weight_norms", -1.0),
        ("network_dropout", 1.0),
        ("lr_scheduler_min_lr_ratio", 1.0),
        ("learning_rate", 0.0),
        ("network_alpha", 0.0),
        ("discrete_flow_shift", 0.0),
        ("seed", -1),
        ("max_train_epochs", 0),
        ("network_args", ("loraplus_lr_ratio=nan",)),
        ("network_args", ("module_dropout=2",)),
    ],
)
def test_numbers_out_of_range(name: str, value: Value) -> None:
    """Given on the command line, or in a preset."""
    for how in ({"given": {name: value}}, {"train": {name: value}}):
        with pytest.raises((OptionError, PresetError), match=f"{called(name)}|{name}"):
            golden_plan("wan21-t2v-14b", **how)


def test_timesteps_of_the_other_expert() -> None:
    with pytest.raises(OptionError, match="high-noise"):
        golden_plan("t2v-vanilla", noise_level="high", given={"min_timestep": 0, "max_timestep": 875})
    with pytest.raises(OptionError, match="low-noise"):
        golden_plan("t2v-vanilla", noise_level="low", given={"min_timestep": 875, "max_timestep": 1000})
    assert len(golden_plan("t2v-vanilla", given={"min_timestep": 0}).notes) == 1  # the high one is widened
    assert len(golden_plan("t2v-vanilla", given={"min_timestep": 500}).notes) == 2  # and the low one narrowed


def test_share_of_timesteps_within_a_window() -> None:
    """Upstream's own acceptance, measured over many draws (facts: 2.6, 19.8, 36.8 and 70.5 %)."""
    for shift, share in ((1.0, 0.026), (3.0, 0.198), (5.0, 0.368), (12.0, 0.705)):
        options: dict[str, Value] = {"timestep_sampling": "shift", "discrete_flow_shift": shift}
        assert drawn_within(options, 0.875, 1.0) == pytest.approx(share, abs=0.0006)
    assert drawn_within({"timestep_sampling": "sigmoid"}, 0.0, 1.0) == 1.0
    assert drawn_within({"timestep_sampling": "uniform"}, 0.25, 0.5) == 0.25
    assert drawn_within({"timestep_sampling": "logsnr"}, 0.0, 1.0) is None


def test_several_gpus() -> None:
    """Fewer steps, of which a schedule has one for each GPU; and what goes wrong on several only."""
    one, two = (golden_plan("wan21-t2v-14b", gpus=gpus).trainings[0] for gpus in (1, 2))
    assert "--multi_gpu" in two.argv and "--multi_gpu" not in one.argv
    assert two.argv[two.argv.index("--num_processes") + 1] == "2"
    assert one.steps == 2 * two.steps and f"total_iters={one.steps}" in two.argv
    own: dict[str, Value] = {"lr_scheduler_type": "StepLR", "lr_scheduler_args": ("step_size=4",)}
    assert golden_plan("wan21-t2v-14b", given=own)
    with pytest.raises(OptionError, match="--gpus 2"):
        golden_plan("wan21-t2v-14b", given=own, gpus=2)
    with pytest.raises(OptionError, match="--seed"):
        golden_plan("wan21-t2v-14b", train={"seed": None}, gpus=2)


KEPT: dict[str, Value] = {"optimizer_type": "adamw", "lr_scheduler": "polynomial", "learning_rate": 1e-4}
FREE = "schedulefree.AdamWScheduleFree"


def test_the_schedules() -> None:
    """What reaches upstream; the curves themselves are compared with upstream's own (upstream/test_real_curves.py)."""
    base: dict[str, Value] = {**KEPT, "lr_scheduler_power": 2.0}
    torchs = {"lr_scheduler_type": "PolynomialLR", "lr_scheduler_args": ("total_iters=700", "power=2.0")}
    assert rewrite({**base, "lr_warmup_steps": 0}, {}, 700) == {**KEPT, **torchs}
    assert rewrite({**base, "lr_scheduler_min_lr_ratio": 0.01}, {}, 700) == {
        **KEPT,
        "lr_scheduler_type": f"{HUB}polynomial_decay_schedule_with_warmup",
        "lr_scheduler_args": ("num_warmup_steps=0", "num_training_steps=700", "power=2.0", "lr_end=1e-06"),
    }
    cosine = rewrite({**base, "lr_scheduler": "cosine", "lr_warmup_steps": "10%"}, {}, 705, gpus=2)
    assert cosine["lr_scheduler_args"] == ("num_warmup_steps=141", "num_training_steps=1410")
    assert "lr_warmup_steps" not in cosine and "lr_scheduler_power" not in cosine
    steps_given = rewrite({**base, "lr_scheduler": "cosine", "lr_warmup_steps": 7}, {}, 705, gpus=2)
    assert steps_given["lr_scheduler_args"] == ("num_warmup_steps=14", "num_training_steps=1410")
    for warm_up, steps in ((0.5, 4), (3, 3)):
        pairs = rewrite({**KEPT, "lr_warmup_steps": warm_up}, {}, 9)["lr_scheduler_args"]
        assert pairs == (f"num_warmup_steps={steps}", "num_training_steps=9", "power=1.0")
    given = rewrite({**KEPT, "lr_scheduler_args": ("lr_end=1e-6",)}, {}, 9)
    assert given["lr_scheduler_args"][-1] == "lr_end=1e-6"  # type: ignore[index]
    assert rewrite({**base, "lr_scheduler": "constant"}, {}, 9) == {**KEPT, "lr_scheduler": "constant"}
    own: dict[str, Value] = {"lr_scheduler_type": "CosineAnnealingLR", "lr_scheduler_args": ("T_max=9",)}
    assert rewrite({**KEPT, **own}, {}, 9) == {**KEPT, **own, "lr_scheduler": None, "lr_scheduler_power": None}
    free = rewrite({**KEPT, "optimizer_type": FREE}, {}, 9)
    assert free == {"optimizer_type": FREE, "learning_rate": 1e-4}


@pytest.mark.parametrize(
    ("preset", "given", "name", "value"),
    [
        ("t2v-vanilla", {"max_data_loader_n_workers": 0}, "persistent_data_loader_workers", None),
        ("wan21-t2v-1.3b-rtx3090", {"optimizer_type": "bitsandbytes.optim.Lion"}, "optimizer_args", None),
        ("t2v-vanilla", {"optimizer_type": "adamw"}, "optimizer_args", ("weight_decay=0.01",)),
        ("t2v-vanilla", {"network_dim": 32}, "network_alpha", 32),
        ("wan21-t2v-style", {"fp8_scaled": True}, "fp8_scaled", None),  # its DiT is fp8 already
    ],
)
def test_settings_that_hang_on_others(preset: str, given: dict[str, Value], name: str, value: Value) -> None:
    assert {train.options.get(name) for train in golden_plan(preset, given=given).trainings} == {value}


PRODIGY = {"optimizer_type": "prodigyopt.Prodigy", "optimizer_args": None}


@pytest.mark.parametrize(
    ("asked", "noun"),
    [
        ({"given": {"network_dim": 32}}, "--alpha"),
        ({"given": {"learning_rate": 5e-3}}, "--lr 0.005"),
        ({"given": {**PRODIGY, "learning_rate": 1e-4}}, "Prodigy"),
        ({"given": {"blocks_to_swap": 20}, "gpus": 2}, "--blocks_to_swap"),
        ({"given": {**PRODIGY, "learning_rate": 1.0}}, None),
        ({"given": {"max_train_steps": 5000}, "gpus": 2}, None),
        ({"given": {"max_grad_norm": 0.0, "network_dropout": 0.0, "seed": 0}}, None),  # off, none, nothing
    ],
)
def test_what_may_not_be_meant_is_said(asked: dict[str, Any], noun: str | None) -> None:
    notes = golden_plan("wan21-t2v-14b", **asked).notes
    assert len(notes) == (noun is not None) and (noun or "") in " ".join(notes)


@pytest.mark.parametrize("name", ["t2v-vanilla", "wan21-t2v-1.3b-video", "wan21-i2v-480p"])
def test_samples_bring_what_they_need(name: str) -> None:
    given: dict[str, Value] = {"sample_prompts": "/p.txt", "sample_every_n_epochs": 1}
    plan = golden_plan(name, given=given, samples=("a cat", "a dog"))
    (train, *_), argv = plan.trainings, plan.trainings[0].argv
    prompts = train.folder / "sample_prompts.txt"
    assert argv[argv.index("--sample_prompts") + 1] == str(prompts) and plan.files[prompts] == "a cat\na dog\n"
    assert {"--vae", "--t5"} <= {*argv}
    assert ("--clip" in argv) == (name == "wan21-i2v-480p")


@pytest.mark.parametrize("name", ["-cats", "a/b", "", ".x", 'a"b', "a\nb", "a\udcff"])
def test_names_that_cant_be_files(name: str) -> None:
    with pytest.raises(OptionError, match="--output_name"):
        check_name(name)


@pytest.mark.parametrize(
    ("preset", "options", "noun"),
    [
        ("wan21-t2v-14b", {"noise_level": "both"}, "--noise_level"),
        ("t2v-vanilla", {"dit": Path("x")}, "--dit_high, --dit_low"),
        ("t2v-vanilla", {"noise_level": "low", "dit": HERE, "dit_low": HERE.with_name("test_script.py")}, "same"),
        ("t2v-vanilla", {"clip": Path("x")}, "--clip"),
        ("t2v-vanilla", {"skip_lightning": True}, "--skip_lightning"),
        ("t2v-vanilla", {"base_dir": Path("a\udcff")}, "--base_dir"),
        ("t2v-vanilla", {"resume_from": HERE}, "--noise_level"),
        ("t2v-vanilla", {"resume_from": Path("/nope")}, "--resume_from.*nope"),
        ("t2v-vanilla", {"dataset": "x", "dataset_config": Path("y")}, "two"),
        ("t2v-vanilla", {"attention": "sdpa", "upstream_options": ["--xformers"]}, "--sdpa and --xformers"),
    ],
)
def test_requests_that_contradict_themselves(preset: str, options: dict[str, Any], noun: str) -> None:
    with pytest.raises(OptionError, match=noun):
        read(preset=preset, **options)


def test_what_is_given_is_looked_for_and_taken_once() -> None:
    with pytest.raises(WeightsError, match=r"--dit_high.*nope"):
        read(preset="t2v-vanilla", dit_high=Path("/nope"))
    once = read(preset="t2v-vanilla", attention="sdpa", upstream_options=["--sdpa"])
    assert once.given == {"sdpa": True}
