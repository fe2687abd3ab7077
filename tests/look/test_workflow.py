"""A run's workflow for ComfyUI: that each preset's is whole by ComfyUI's own table of nodes, and says what was trained."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import GOLDEN, compare, golden_plan
from hypothesis import given
from hypothesis import strategies as st
from workflows import CAPTION, api, golden_uses, problems, records

from wanwrap.look.workflow import SAMPLERS, literal, rendered, split, uses, workflow, write
from wanwrap.preset import load, shipped
from wanwrap.upstream.sampling import NEGATIVE, SOLVERS

PAIRS = [name for name in shipped() if len(load(name).experts) == 2]
COMMENT = r"/\*[\s\S]*?\*/|//.*"  # what the page takes out of a prompt


@pytest.mark.parametrize("name", shipped())
def test_each_preset(name: str, update: bool) -> None:
    content = workflow(golden_uses(name))
    compare(GOLDEN / name / "comfyui_workflow.json", rendered(content), update)
    assert json.loads(rendered(content)) == content and problems(content) == []


def test_what_the_table_of_nodes_refuses() -> None:
    """Values in another order, a link to another type, a file in another folder."""
    changes: list[tuple[Callable[[dict[str, Any]], object], str]] = [
        (lambda nodes: nodes["Prompt"]["widgets_values"].append(1), "too many"),
        (lambda nodes: nodes["Steps of the high-noise model"]["widgets_values"].reverse(), "is no"),
        (lambda nodes: nodes["Decode"]["inputs"].reverse(), "inputs"),
        (lambda nodes: nodes["VAE"]["properties"]["models"][0].update(directory="loras"), "vae_name"),
        (lambda nodes: nodes["Decode"]["inputs"][0].update(link=None), "nothing at samples"),
        (lambda nodes: nodes["Save"].update(type="SaveImage"), "inputs"),
    ]
    for change, noun in changes:
        content = workflow(golden_uses("t2v-lightning"))
        change({node["title"]: node for node in content["nodes"]})
        assert noun in " ".join(problems(content))


def test_the_steps_are_split_at_the_boundary() -> None:
    """The table of ComfyUI's own scheduler (tests/comfyui asks it)."""
    settings = [(5, 4), (5, 8), (5, 20), (8, 20), (8, 30), (5, 40), (12, 40)]
    assert [split(0.875, *row) for row in settings] == [2, 4, 9, 11, 17, 17, 26]
    assert split(0.875, 1, 8) == 2  # the second begins just there
    assert [split(0.9, *row) for row in settings] == [2, 3, 8, 10, 15, 15, 23]
    for name, steps, cfg in (
        ("t2v-lightning", 2, (1, 1)),
        ("t2v-vanilla", 26, (4, 3)),
        ("i2v-vanilla", 15, (3.5, 3.5)),
    ):
        first, then = samplers(api(workflow(golden_uses(name))))
        assert (first["start_at_step"], first["end_at_step"], then["start_at_step"]) == (0, steps, steps)
        assert (first["cfg"], then["cfg"]) == cfg and first["steps"] == then["steps"] < then["end_at_step"]
        assert (first["add_noise"], first["return_with_leftover_noise"]) == ("enable", "enable")
        assert (then["add_noise"], then["return_with_leftover_noise"]) == ("disable", "disable")


def test_another_boundary_is_the_presets_own() -> None:
    assert workflow(replace(golden_uses("t2v-vanilla"), boundary=0.5)) != workflow(golden_uses("t2v-vanilla"))
    plan = golden_plan("t2v-vanilla")
    told = [replace(row, inference={**row.inference, "boundary": 0.5}) for row in records(plan)]
    found = uses("cats", told)
    assert found and samplers(api(workflow(found)))[0]["end_at_step"] == split(0.5, 12, 40) == 37


def samplers(prompt: dict[str, Any]) -> list[dict[str, Any]]:
    """What goes into each, in their order."""
    found = [node["inputs"] for node in prompt.values() if node["class_type"] == "KSamplerAdvanced"]
    return sorted(found, key=lambda inputs: int(inputs["start_at_step"]))


def chain(prompt: dict[str, Any], origin: list[Any]) -> Iterator[tuple[str, Any]]:
    """The files and strengths of a model, from the DiT on."""
    node = prompt[origin[0]]["inputs"]
    if "model" in node:
        yield from chain(prompt, node["model"])
    yield from ((node[name], node.get("strength_model")) for name in ("unet_name", "lora_name") if name in node)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("only", [None, "high", "low"])
def test_each_expert_has_its_own(name: str, only: str | None) -> None:
    """High and low exchanged would be fine for ComfyUI: keys and shapes are the same."""
    asked = {"noise_level": only} if only else {}
    prompt, word = api(workflow(golden_uses(name, **asked))), name[:3]
    release = {"t2v": "t2v_lightx2v_4steps_lora_v1.1", "i2v": "i2v_lightx2v_4steps_lora_v1"}[word]
    for expert, inputs in zip(("high", "low"), samplers(prompt), strict=True):
        files: list[tuple[str, float | None]] = [(f"wan2.2_{word}_{expert}_noise_14B_fp8_scaled.safetensors", None)]
        files += [(f"wan2.2_{release}_{expert}_noise.safetensors", 1.0)] if name.endswith("lightning") else []
        files += [(f"cats-{name}-{expert}.safetensors", 1.0)] if only in (None, expert) else []
        assert [*chain(prompt, inputs["model"])] == files


def test_lightning_is_loaded_as_it_was_merged() -> None:
    own = api(workflow(replace(golden_uses("t2v-lightning"), strength=0.8)))
    assert [strength for _, strength in chain(own, samplers(own)[0]["model"])] == [None, 0.8, 1.0]
    without = api(workflow(golden_uses("t2v-lightning", skip_lightning=True)))
    assert (
        len([*chain(without, samplers(without)[1]["model"])]) == 2 and samplers(without)[0]["sampler_name"] == "uni_pc"
    )


def test_a_release_without_a_name_of_its_own() -> None:
    """Its files are called alike in every release: a note tells what to fetch, and as what to keep it."""
    content = workflow(replace(golden_uses("t2v-lightning"), release="t2v-v2.0"))
    assert problems(content) == []
    titles = {node["title"]: node for node in content["nodes"]}
    for expert in ("high", "low"):
        loader, address = (
            titles[f"Lightning for the {expert}-noise model"],
            f"Seko-V2.0/{expert}_noise_model.safetensors",
        )
        (note,) = titles["Files to fetch"]["widgets_values"]
        assert "models" not in loader["properties"] and loader["widgets_values"][0] in note and address in note


def test_pictures_are_saved_as_pictures() -> None:
    kinds = [node["type"] for node in workflow(golden_uses("t2v-style"))["nodes"]]
    assert "SaveImage" in kinds and "SaveVideo" not in kinds and "CreateVideo" not in kinds


PIECES = [*'(){}|\\/*: \n"', "/*", "*/", "//", "embedding:", "a cat", "(b:1.2)", "字"]


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=3)).map("".join))
def test_a_caption_is_taken_literally(caption: str) -> None:
    """No weight, choice, comment or embedding, and no word is lost."""
    prompt = literal(caption)
    assert "{" not in prompt and "embedding:" not in prompt and not re.search(COMMENT, prompt)
    assert not re.search(r"(?<!\\)[()]|\\(?![()])", prompt)
    assert re.sub(r"[ \\/(){}]", "", prompt) == re.sub(r"[ \\/(){}]", "", caption)


@pytest.mark.parametrize(
    "caption",
    [CAPTION, "", '"}]},', "a\nb\t\x1b[2J\u202e😀", "<script>alert(1)</script>", "embedding:x", "\\", "%date%"],
)
def test_hostile_captions(caption: str) -> None:
    content = json.loads(rendered(workflow(golden_uses("i2v-lightning", caption))))
    texts = [node["widgets_values"] for node in content["nodes"] if node["type"] == "CLIPTextEncode"]
    assert problems(content) == [] and texts == [[literal(caption)], [NEGATIVE]]


# ---- of a run's folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of which the low-noise expert is done; the folder."""
    for record in records(golden_plan("t2v-vanilla")):
        (tmp_path / "cats" / record.expert).mkdir(parents=True)
        record.write(tmp_path / "cats" / record.expert, state="done" if record.expert == "low" else "running")
    return tmp_path / "cats"


def loaded(run: Path) -> set[str]:
    """The user's LoRAs in its workflow."""
    nodes = json.loads((run / "comfyui_workflow.json").read_text(encoding="utf-8"))["nodes"]
    return {node["widgets_values"][0] for node in nodes if node["title"].startswith("Your LoRA")}


def test_it_has_the_loras_that_are_done(run: Path) -> None:
    (line,) = write(run)
    assert str(run / "comfyui_workflow.json") in line and loaded(run) == {"cats-t2v-vanilla-low.safetensors"}
    high = next(record for record in records(golden_plan("t2v-vanilla")) if record.expert == "high")
    high.write(run / "high", state="done")
    write(run)
    assert loaded(run) == {f"cats-t2v-vanilla-{expert}.safetensors" for expert in ("high", "low")}


def test_an_older_record_tells_too_little(run: Path) -> None:
    """wanwrap 0.2.0's."""
    for path in run.glob("*/record.json"):
        row = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(
            json.dumps({name: row[name] for name in row if name not in ("inference", "examples", "trigger")})
        )
    (line,) = write(run)
    assert "older" in line and not (run / "comfyui_workflow.json").exists()


def test_experts_that_are_not_used_together(run: Path) -> None:
    """With Lightning and without: no workflow would serve both."""
    for name, expert in (("t2v-lightning", "high"), ("t2v-vanilla", "low")):
        next(each for each in records(golden_plan(name)) if each.expert == expert).write(run / expert)
    (line,) = write(run)
    assert "different" in line and not (run / "comfyui_workflow.json").exists()


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("remix.safetensors", True),
        ("wan2.2_t2v_low_noise_14B_fp16.safetensors", False),
        ("diffusion_pytorch_model-00001-of-00006.safetensors", False),
        ("wan2.1_t2v_14B_bf16.safetensors", True),
    ],
)
def test_a_dit_of_ones_own_is_named(file: str, told: bool) -> None:
    """With Lightning too, where the training reads what was merged of it."""
    weights = [{"name": "wan2.2-t2v-low", "path": f"/models/{file}", "bytes": 1}]
    plan = golden_plan("t2v-lightning", noise_level="low")
    found = uses("cats", [replace(each, weights=weights, dit="/merged_dits/x") for each in records(plan)])
    assert found and (f"trained on {file}: load that" in rendered(workflow(found))) == told


def test_each_of_upstreams_solvers_has_its_sampler() -> None:
    assert {*SAMPLERS} == {*SOLVERS}


def test_a_run_that_is_done_does_not_fail_for_it(run: Path) -> None:
    (run / "comfyui_workflow.json").mkdir()
    (line,) = write(run)
    assert "could not be written" in line
