"""What the tests of workflows share: those of the presets without a run, and what ComfyUI would say of one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from helpers import ROOT, golden_plan

from wanwrap.look.comfyui_nodes import NODES
from wanwrap.look.workflow import Uses, uses
from wanwrap.plan.plan import Plan
from wanwrap.run.record import Record, inference

COMFYUI: dict[str, Any] = json.loads((ROOT / "tests" / "comfyui_nodes.json").read_text(encoding="utf-8"))["nodes"]
WIDGETS: dict[str, Any] = {"INT": int, "FLOAT": (int, float), "STRING": str, "COMBO": str}
# What the page puts behind a widget or at a node's end, and its values.
PAGE = {"seed": ["fixed", "randomize"], "noise_seed": ["fixed", "randomize"], "image": ["image"]}
OF_THE_PAGE = {"control_after_generate", "upload"}  # such widgets; the server has none
# The folder below ComfyUI's models whose files a widget names.
FOLDERS = {
    ("UNETLoader", "unet_name"): "diffusion_models",
    ("CLIPLoader", "clip_name"): "text_encoders",
    ("CLIPVisionLoader", "clip_name"): "clip_vision",
    ("VAELoader", "vae_name"): "vae",
    ("LoraLoaderModelOnly", "lora_name"): "loras",
}
CAPTION = "mycat, a (grey) cat at 1/2 past {ten|eleven} // in the evening"


def records(plan: Plan, caption: str = CAPTION) -> list[Record]:
    """Of a plan's trainings, all done, as they are read from the disk."""
    told = json.loads(json.dumps(inference(plan.request)))
    shown, done = [{"caption": caption, "path": "/cats/1.png", "kind": "image"}], "done"
    return [
        Record(each.expert, each.lora.name, {}, each.steps, each.epochs, each.per_epoch, 5, state=done, epochs_done=each.epochs, inference=told, examples=shown, trigger="mycat")  # type: ignore[arg-type]
        for each in plan.trainings
    ]  # fmt: skip


def golden_uses(name: str, caption: str = CAPTION, **asked: Any) -> Uses:
    """How the LoRAs of a preset are used; `asked` are a Request's fields."""
    plan = golden_plan(name, **asked)
    found = uses(plan.name, records(plan, caption))
    assert found
    return found


def api(content: dict[str, Any]) -> dict[str, Any]:
    """A workflow as ComfyUI's page sends it to the server."""
    return {str(node["id"]): _sent(node, content["links"]) for node in content["nodes"] if node["type"] != "Note"}


def _sent(node: dict[str, Any], links: list[list[Any]]) -> dict[str, Any]:
    origins = {number: [str(origin), slot] for number, origin, slot, *_ in links}
    values = zip(NODES[node["type"]][1].split(), node["widgets_values"], strict=True)
    inputs = {name: value for name, value in values if name not in OF_THE_PAGE}
    inputs |= {each["name"]: origins[each["link"]] for each in node["inputs"] if each["link"]}
    return {"class_type": node["type"], "inputs": inputs, "_meta": {"title": node["title"]}}


def problems(content: dict[str, Any]) -> list[str]:
    """What is wrong with a workflow, by what is known of ComfyUI's nodes."""
    nodes = {node["id"]: node for node in content["nodes"]}
    found = [f"{key}: not the most" for key, rows in (("last_node_id", nodes), ("last_link_id", content["links"])) if content[key] != len(rows)]  # fmt: skip
    found += [f"{node['title']}: {why}" for node in nodes.values() if node["type"] != "Note" for why in _wrong(node)]
    for number, origin, slot, target, into, kind in content["links"]:
        source, there = nodes[origin]["outputs"][slot], nodes[target]["inputs"][into]
        if not (kind == source["type"] == there["type"] and there["link"] == number and number in source["links"]):
            found.append(f"link {number} from {nodes[origin]['title']} to {nodes[target]['title']}")
    ends = [node["title"] for node in nodes.values() if node["type"] != "Note" and not _used(node)]
    return found + [f"{title} leads nowhere" for title in ends]


def _used(node: dict[str, Any]) -> bool:
    return bool(COMFYUI[node["type"]]["saves"] or any(output["links"] for output in node["outputs"]))


def _wrong(node: dict[str, Any]) -> Iterator[str]:
    known = COMFYUI[node["type"]]
    sockets = [(name, row["type"]) for name, row in known["inputs"].items() if row["type"] not in WIDGETS]
    if sockets != [(each["name"], each["type"]) for each in node["inputs"]]:
        yield "other inputs"
    if known["outputs"] != [each["type"] for each in node["outputs"]]:
        yield "other outputs"
    yield from (f"nothing at {each['name']}" for each in node["inputs"] if each["link"] is None and known["inputs"][each["name"]]["required"])  # fmt: skip
    values = iter(node["widgets_values"])
    for name, row in known["inputs"].items():
        if row["type"] in WIDGETS:
            yield from _value(node, name, row, next(values, None))
            if name in PAGE and next(values, None) not in PAGE[name]:
                yield f"{name} without the page's own widget"
    yield from (f"a value too many: {value}" for value in values)


def _value(node: dict[str, Any], name: str, row: dict[str, Any], value: Any) -> Iterator[str]:
    if not isinstance(value, WIDGETS[row["type"]]):
        yield f"{name}: {value!r} is no {row['type']}"
    elif "min" in row and not row["min"] <= value <= row["max"]:
        yield f"{name}: {value} is out of bounds"
    elif folder := FOLDERS.get((node["type"], name)):
        for model in node["properties"].get("models", []):
            if (model["name"], model["directory"]) != (value, folder) or not model["url"].endswith(
                f"/{folder}/{value}"
            ):
                yield f"{name}: {value} is not {model}"
    elif value not in row.get("options", [value]):
        yield f"{name}: {value} is no choice"
