"""The real ComfyUI, on a CPU and without weights: it takes every preset's workflow, and reads it as it is meant.

Its folder is WANWRAP_COMFYUI_DIR, the Python that runs it WANWRAP_COMFYUI_PYTHON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT
from platforms import BROWSER, in_browser
from workflows import CAPTION, FOLDERS, api, golden_uses

from wanwrap.look.workflow import literal, rendered, split, workflow
from wanwrap.preset import shipped

FOLDER, PYTHON = (
    os.environ.get("WANWRAP_COMFYUI_DIR", ""),
    os.environ.get("WANWRAP_COMFYUI_PYTHON", sys.executable),
)
STEPS = [(edge, shift, steps) for edge in (0.875, 0.9) for shift in (1, 3, 5, 8, 12) for steps in range(1, 61)]
pytestmark = pytest.mark.comfyui


def comfyui(*argv: object) -> str:
    done = subprocess.run([PYTHON, *map(str, argv)], capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return done.stdout


def files(prompt: dict[str, Any]) -> set[tuple[str, str]]:
    """The files that a workflow loads, with their folders."""
    rows = [(node["class_type"], name, value) for node in prompt.values() for name, value in node["inputs"].items()]
    return {(FOLDERS[kind, name], value) for kind, name, value in rows if (kind, name) in FOLDERS}


def test_the_table_of_nodes_is_comfyuis() -> None:
    comfyui(ROOT / "scripts" / "comfyui_nodes.py", FOLDER, "--check")


@in_browser
def test_its_page_reads_what_it_is_given(tmp_path: Path) -> None:
    """Dropped on the canvas, each workflow is sent to the server with these values in these places."""
    contents = {name: workflow(golden_uses(name)) for name in shipped()}
    (tmp_path / "asked.json").write_text(json.dumps({name: rendered(content) for name, content in contents.items()}))
    said = comfyui(Path(__file__).with_name("canvas_child.py"), FOLDER, BROWSER, tmp_path / "asked.json")
    for name, sent in json.loads(said.splitlines()[-1]).items():
        assert sent == api(contents[name]), name


def test_it_takes_every_workflow_and_reads_it_as_meant(tmp_path: Path) -> None:
    prompts = {name: api(workflow(golden_uses(name))) for name in shipped()}
    broken = json.loads(json.dumps(prompts["t2v-lightning"]))
    next(node for node in broken.values() if node["class_type"] == "UNETLoader")["inputs"]["unet_name"] = (
        "gone.safetensors"
    )
    texts = [CAPTION, ":) (a) ((b:2)) \\(c\\) embedding:d", "a:1.5)"]
    asked = {
        "files": sorted(set.union(*map(files, prompts.values()))),
        "prompts": {**prompts, "broken": broken},
        "texts": [literal(text) for text in texts],
        "steps": STEPS,
    }
    (tmp_path / "asked.json").write_text(json.dumps(asked), encoding="utf-8")
    answer = json.loads(
        comfyui(Path(__file__).with_name("comfyui_child.py"), FOLDER, tmp_path / "asked.json").splitlines()[-1]
    )
    said = answer["refused"].pop("broken")
    assert "gone.safetensors" in str(said) and not any(answer["refused"].values())
    assert all(weight == 1.0 for parts in answer["read"] for _, weight in parts)
    assert ["".join(words for words, _ in parts) for parts in answer["read"]] == [
        "mycat, a (grey) cat at 1/2 past (ten|eleven) / / in the evening",
        ":) (a) ((b:2)) /(c/) embedding :d",
        "a:1.5)",
    ]
    for (edge, shift, steps), (high, near) in zip(STEPS, answer["steps"], strict=True):
        assert split(edge, shift, steps) == high or near < 1e-6  # where one is the boundary, floats may fall either way
