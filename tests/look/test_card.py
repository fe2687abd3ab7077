"""The model cards of three presets, as a reviewer can read them."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

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


def front(card: str) -> Any:
    """What the Hub's own library reads at its top."""
    from huggingface_hub import ModelCard

    return ModelCard(card).data


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
        loras=[Lora(train.lora, train.expert, counted) for train in plan.trainings],
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


def test_a_preset_of_one_expert() -> None:
    """Both models make a clip all the same: upstream takes a single one without a word."""
    card = card_of(golden_plan("t2v-vanilla", noise_level="low"))
    used = {**card.record.inference, "dits": {"low": "wan2.2-t2v-low"}}
    found = text(replace(card, record=replace(card.record, inference=used)))
    assert "--dit_high_noise HIGH_NOISE_DIT" in found and "--dit LOW_NOISE_DIT" in found and "_boundary 0.875" in found


def spans(markdown: str) -> list[str]:
    """What a reader of Markdown shows as code within a line; in a table it takes a | alone as the end of a cell."""
    found = [words for _, words in re.findall(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", markdown)]
    return [words[1:-1] if words[0] == words[-1] == " " else words for words in found]


@pytest.mark.parametrize(
    "words",
    [
        "my`cat",
        "``",
        "`a` ``b``",
        "a | b",
        "{{ 7 * 7 }} {% raw %} {# none #}",
        "<script>alert(1)</script> [x](y) **b**",
        "\\",
        "caf\xe9 \u732b",
        "a\n\n# b",
    ],
)
def test_names_and_triggers_that_are_markdown(words: str) -> None:
    """Or a template's. They are shown as they are."""
    card, path = card_of(golden_plan("t2v-vanilla")), Path(f"{' '.join(words.split())}.safetensors")
    card = replace(card, loras=[Lora(path, "low", {})], record=replace(card.record, trigger=words))
    found = text(card)
    table, shown = found.split("## Files")[1].split("##")[0], " ".join(words.split())
    assert shown in spans(found.split("## Files")[0].split("Begin")[1])
    cells = re.split(r"(?<!\\)\|", table.strip().splitlines()[-1])
    assert len(cells) == 6 and spans(cells[1].replace(r"\|", "|")) == [path.name]
    assert path.name in spans(found.split("## In ComfyUI")[1].split("##")[0])
    assert front(found).get("instance_prompt") == words


@pytest.mark.parametrize(
    "prompt",
    [
        "a cat --seed 1 --fast",
        "a\n```\n# A heading\n````\n---\n",
        "it's {{ 7 * 7 }} $HOME \\",
        "--- ---",
        "- a: [b, {c",
        "a\x85b\u2028c\x1b[2J",
    ],
)
def test_a_sample_of_any_prompt(prompt: str) -> None:
    """It ends neither the front matter nor the block of the command, and is one word of that."""
    found = text(replace(card_of(golden_plan("t2v-vanilla")), samples=[sample(prompt=prompt)]))
    assert front(found).get("widget")[0]["text"] == prompt
    ((_, command),) = re.findall(r"^(`{3,})\n(python -m .*?)\n\1$", found, re.M | re.S)
    assert command.endswith("--save_path samples") and found.count("\n## ") == 5
    words = shlex.split(command.replace(" \\\n  --", " --"))
    assert prompt in words or f"--prompt={prompt}" in words


def test_a_title_is_no_markdown() -> None:
    found = text(replace(card_of(golden_plan("t2v-vanilla")), title="_my_ [cat](s) `*<b>&lt;"))
    assert r"# \_my\_ \[cat](s) \`\*\<b>\&lt;" in found.splitlines()
