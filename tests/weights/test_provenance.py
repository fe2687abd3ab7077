"""What a LoRA tells of its own making: written for upstream, read back from whatever stands there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from helpers import Wanwrap, dit, golden_plan, lora
from hypothesis import given, settings
from hypothesis import strategies as st

from wanwrap import __version__
from wanwrap.plan.expert_options import provenance
from wanwrap.plan.plan import Plan, Step
from wanwrap.plan.request import Request
from wanwrap.preset import load
from wanwrap.run.attempt import Attempt
from wanwrap.run.record import Record
from wanwrap.upstream.options import parse
from wanwrap.weights import provenance as reading
from wanwrap.weights.locate import locate

COMMENT = "--training_comment"
ODD = 'it\'s "mine", 50% `ü` $HOME \\ é\n!'


def comment(step: Step) -> str:
    return step.argv[step.argv.index(COMMENT) + 1]


def written(plan: Plan) -> list[dict[str, Any]]:
    return [json.loads(comment(step)) for step in plan.trainings]


def test_what_upstream_leaves_out_is_in_it() -> None:
    high, low = written(golden_plan("t2v-lightning"))
    for name, value in {
        "preset": "t2v-lightning",
        "task": "t2v-A14B",
        "expert": "low",
        "boundary": 875,
        "timesteps": [0, 875],
        "fp8": "scaled",
        "preserve_distribution_shape": True,
    }.items():
        assert low[name] == value, name
    assert low["upstream"]["commit"].startswith("30c658c") and low["wanwrap"]
    assert low["base"]["sha256"].startswith("431d1613") and low["base"]["bytes"] == 28577095592
    assert low["lightning"]["strength"] == 1.0 and low["lightning"]["sha256"].startswith("ec95216e")
    assert (high["expert"], high["timesteps"], high["boundary"]) == ("high", [875, 1000], 875)
    assert list(high) == list(low)  # in one order


WINDOW = {"noise_level": "low", "given": parse(["--max_timestep", "700"])}


@pytest.mark.parametrize(
    ("preset", "asked", "expected"),
    [
        ("i2v-vanilla", {}, {"boundary": 900}),
        ("wan21-t2v-14b", {}, {"boundary": None}),
        ("t2v-lightning", {"skip_lightning": True}, {"preset": "t2v-vanilla", "lightning": None}),
        ("t2v-vanilla", WINDOW, {"timesteps": [0, 700], "boundary": 875}),  # which moves no boundary
    ],
)
def test_what_another_plan_writes(preset: str, asked: dict[str, Any], expected: dict[str, Any]) -> None:
    for row in written(golden_plan(preset, **asked)):
        assert {name: row.get(name) for name in expected} == expected


def test_a_file_of_ones_own_by_its_header(tmp_path: Path) -> None:
    mine, other = dit(tmp_path / "mine.safetensors"), dit(tmp_path / "other.safetensors", "BF16")
    rows = []
    for path in (mine, other):
        request = Request(preset=load("t2v-vanilla"), base_dir=tmp_path)
        weights = {"wan2.2-t2v-low": locate("wan2.2-t2v-low", tmp_path, path)}
        rows.append(provenance(request, request.experts[1], {}, weights)["base"])
    assert rows[0]["name"] == "mine.safetensors" and rows[0]["bytes"] == mine.stat().st_size
    assert "sha256" not in rows[0] and rows[0]["header_sha256"] not in (None, rows[1]["header_sha256"])


def test_a_comment_of_ones_own_is_kept_within() -> None:
    plan = golden_plan("t2v-vanilla", noise_level="low", given=parse([f"{COMMENT}={ODD}"]))
    (step,) = plan.trainings
    assert step.argv.count(COMMENT) == 1 and comment(step).isascii() and "\n" not in comment(step)
    found = reading.read({reading.KEY: comment(step)})
    assert found and found["comment"] == ODD


def test_no_metadata_is_no_record_and_a_note() -> None:
    plan = golden_plan("t2v-vanilla", given=parse(["--no_metadata"]))
    assert not any(COMMENT in step.argv for step in plan.trainings)
    assert any("--no_metadata" in note for note in plan.notes)
    assert not any("--no_metadata" in note for note in golden_plan("t2v-vanilla").notes)


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from([*reading.FIELDS]), inner),
)
NAMES = st.sampled_from([reading.KEY, reading.WINDOW, "ss_epoch", "ss_steps", "ss_num_epochs"])


@settings(max_examples=50)
@given(st.dictionaries(NAMES, st.text()), ANY)
def test_anything_may_stand_there(metadata: dict[str, str], content: Any) -> None:
    for each in (metadata, {**metadata, reading.KEY: json.dumps(content)}):
        assert isinstance(reading.told(reading.trained(each)), str)
    if isinstance(content, dict):
        mine = {"wanwrap": "1", "preset": "p", **{k: v for k, v in content.items() if k not in ("wanwrap", "preset")}}
        facts = reading.trained({**metadata, reading.KEY: json.dumps(mine)})
        assert facts["record"]["preset"] == "p" and "p" in reading.told(facts)


@pytest.mark.parametrize("text", ["", "None", "{", "[]", "{}", '{"wanwrap": 1, "preset": "x"}', "[" * 99999, "a cat"])
def test_what_is_no_record(text: str) -> None:
    assert reading.read({reading.KEY: text}) is None
    assert reading.read({}) is None


def test_inspect_tells_it_in_words(tmp_path: Path, cli: Wanwrap) -> None:
    counts = {"ss_epoch": "20", "ss_num_epochs": "50", "ss_steps": "1000", "ss_max_train_steps": "2500"}
    text = comment(golden_plan("t2v-lightning").trainings[1])
    mine = lora(tmp_path / "a.safetensors", metadata={**counts, reading.WINDOW: "0,875", reading.KEY: text})
    theirs = lora(tmp_path / "c.safetensors", metadata={"ss_epoch": "7", reading.KEY: "None"})
    bare = lora(tmp_path / "b.safetensors")
    done = cli("inspect", mine, bare, theirs)
    assert done.returncode == 0, done.stderr
    first, second = re.findall("trained: (.*)", done.stdout)
    facts = (
        "low-noise",
        "t2v-lightning",
        "20 of 50",
        "1000 of 2500",
        "0 to 875",
        "boundary 875",
        "scaled",
        __version__,
    )
    names = ("wan2.2_t2v_low_noise_14B_fp16", "wan2.2_t2v_lightx2v_4steps_lora_v1.1_low_noise.safetensors at 1.0")
    assert [fact for fact in (*facts, *names) if fact not in first] == [] and second == "epoch 7"
    assert "rank 8, alpha 8" in done.stdout
    found = json.loads(cli("inspect", "--json", mine, bare).stdout)
    assert found[0]["trained"]["record"]["boundary"] == 875 and found[0]["trained"]["steps"] == 1000
    assert found[1]["trained"] is None and found[1]["lora"]["alpha"] == 8


def test_epochs_before_an_interruption_count() -> None:
    """Upstream counts from 0 again in each start; the second one is told what came before."""
    train = golden_plan("t2v-vanilla").trainings[1]
    step = 20 * train.per_epoch
    attempts = [{"number": 2, "epoch": 20, "step": step}]
    argv = Attempt(train, Record("low", "", {}, 100, 10, 10, 5, attempts=attempts)).argv()
    text = argv[argv.index(COMMENT) + 1]
    assert json.loads(text) == {**json.loads(comment(train)), "done": [20, step]}
    left = {"ss_epoch": "3", "ss_steps": str(3 * train.per_epoch), "ss_max_train_steps": str(train.steps - step)}
    told = reading.told(reading.trained({reading.KEY: text, **left}))
    assert f"epoch 23, {23 * train.per_epoch} of {train.steps} steps" in told
