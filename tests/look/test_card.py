"""The model cards of three presets, as a reviewer can read them."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import yaml
from helpers import golden_plan
from runs import finished_record, sample

from wanwrap.look.card import Card, Lora, text
from wanwrap.plan.plan import Plan
from wanwrap.run.record import Record

GOLDEN = Path(__file__).parents[1] / "golden"
PRESETS = ("t2v-vanilla", "i2v-lightning", "wan21-t2v-1.3b")
SIZES = [{"resolution": [960, 544]}, {"resolution": [960, 544], "target_frames": [45]}]


def card_of(plan: Plan) -> Card:
    """Of a run that has ended, with a sample."""
    records: dict[str, Record] = {train.expert: finished_record(plan, train) for train in plan.trainings}
    counted = {"ss_epoch": "50", "ss_steps": "300", "ss_datasets": json.dumps(SIZES)}
    prompt = 'mycat says: "hi" | in a garden'
    return Card(
        title=plan.name,
        repo="joe/cats",
        license="apache-2.0",
        mark=f"{plan.name} 2026-01-02T03:04:05+00:00",
        records=records,
        record=next(iter(records.values())),
        use=plan.request.inference,
        loras=[Lora(train.lora.name, train.expert, counted) for train in plan.trainings],
        samples=[sample(file="samples/one.mp4", prompt=prompt)],
        workflow=True,
    )


@pytest.mark.parametrize("name", PRESETS)
def test_golden(name: str, request: pytest.FixtureRequest) -> None:
    found, place = text(card_of(golden_plan(name))), GOLDEN / name / "model_card.md"
    if request.config.getoption("--update-golden"):
        place.write_text(found, encoding="utf-8")
    assert place.read_text(encoding="utf-8") == found


@pytest.mark.parametrize("name", PRESETS)
def test_what_the_hub_and_upstream_read(name: str) -> None:
    """The front matter is YAML, whatever a prompt holds; upstream has each option of the command."""
    found = (GOLDEN / name / "model_card.md").read_text(encoding="utf-8")
    front = yaml.safe_load(found.split("---\n")[1])
    assert front["pipeline_tag"] == ("image-to-video" if name.startswith("i2v") else "text-to-video")
    assert front["instance_prompt"] == "mycat" and front["base_model"].startswith("Wan-AI/Wan2.")
    assert front["widget"][0]["text"].startswith('mycat says: "hi"')
    command = found.split("```\npython")[1].split("```")[0].replace("\\\n", " ")
    assert "mycat says" in command and {"lora_weight", "prompt"} <= {word[2:] for word in shlex.split(command)}
    assert "/datasets" not in found and "/training" not in found  # where the plan's files lie
    assert ("load_into_transformer_2" in found) == (name == "t2v-vanilla")


def test_one_expert_alone() -> None:
    """And layers that diffusers' loader would not find."""
    card = card_of(golden_plan("t2v-vanilla", noise_level="low", given={"network_args": ("loraplus_lr_ratio=4",)}))
    found = text(card)
    assert "--lora_weight_high_noise" not in found and "--dit_high_noise" in found and "diffusers" not in found
    assert "A LoRA for" in found and "comfyui_workflow.json" in found
