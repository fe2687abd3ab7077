"""ComfyUI's nodes, as far as a run's workflow needs them, and a graph of them in both of its formats.

`tests/comfyui_nodes.json` is what ComfyUI itself says of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

SAMPLING = "model:MODEL positive:CONDITIONING negative:CONDITIONING latent_image:LATENT"
HOW = "steps cfg sampler_name scheduler"
# What comes in by links, widgets in the order in which their values stand in a file, what goes out.
NODES = {
    "UNETLoader": ("", "unet_name weight_dtype", "MODEL:MODEL"),
    "CLIPLoader": ("", "clip_name type device", "CLIP:CLIP"),
    "VAELoader": ("", "vae_name", "VAE:VAE"),
    "CLIPVisionLoader": ("", "clip_name", "CLIP_VISION:CLIP_VISION"),
    "LoadImage": ("", "image upload", "IMAGE:IMAGE MASK:MASK"),
    "CLIPVisionEncode": ("clip_vision:CLIP_VISION image:IMAGE", "crop", "CLIP_VISION_OUTPUT:CLIP_VISION_OUTPUT"),
    "CLIPTextEncode": ("clip:CLIP", "text", "CONDITIONING:CONDITIONING"),
    "LoraLoaderModelOnly": ("model:MODEL", "lora_name strength_model", "MODEL:MODEL"),
    "ModelSamplingSD3": ("model:MODEL", "shift", "MODEL:MODEL"),
    "EmptyHunyuanLatentVideo": ("", "width height length batch_size", "LATENT:LATENT"),
    "WanImageToVideo": (
        "positive:CONDITIONING negative:CONDITIONING vae:VAE clip_vision_output:CLIP_VISION_OUTPUT start_image:IMAGE",
        "width height length batch_size",
        "positive:CONDITIONING negative:CONDITIONING latent:LATENT",
    ),
    "KSampler": (SAMPLING, f"seed control_after_generate {HOW} denoise", "LATENT:LATENT"),
    "KSamplerAdvanced": (
        SAMPLING,
        f"add_noise noise_seed control_after_generate {HOW} start_at_step end_at_step return_with_leftover_noise",
        "LATENT:LATENT",
    ),
    "VAEDecode": ("samples:LATENT vae:VAE", "", "IMAGE:IMAGE"),
    "CreateVideo": ("images:IMAGE audio:AUDIO", "fps", "VIDEO:VIDEO"),
    "SaveVideo": ("video:VIDEO", "filename_prefix format codec", ""),
    "SaveImage": ("images:IMAGE", "filename_prefix", ""),
    "Note": ("", "text", ""),
}
OF_THE_PAGE = {"control_after_generate", "upload"}  # widgets that the page in the browser makes; the server has none
# The canvas, in pixels.
WIDTH, ROW, GAP = 400, 26, 70
TALL = {"CLIPTextEncode": 170, "Note": 380, "LoadImage": 300, "SaveVideo": 400, "SaveImage": 400}  # besides their rows
GREEN, YELLOW = {"color": "#232", "bgcolor": "#353"}, {"color": "#432", "bgcolor": "#653"}  # two of the page's own


@dataclass(frozen=True)
class File:
    """A widget's value: a file that lies in this folder below ComfyUI's models, and where it is had."""

    name: str
    directory: str
    url: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Node:
    """One node. `given` are its widgets' values, and for each link the node that it comes from, or that and which output."""

    id: int
    kind: str
    title: str
    column: int
    colours: Mapping[str, str]
    given: Mapping[str, Any]

    @property
    def height(self) -> int:
        """On the canvas, without its title."""
        into, widgets, out = (len(words.split()) for words in NODES[self.kind])
        return ROW * (max(into, out) + widgets) + TALL.get(self.kind, 10)


class Graph:
    """Nodes and their links."""

    def __init__(self) -> None:
        self.nodes = list[Node]()

    def add(self, kind: str, title: str, column: int, colours: Mapping[str, str] = {}, **given: Any) -> Node:
        """One more node, below the last one of its column."""
        number = len(self.nodes) + 1
        self.nodes.append(Node(id=number, kind=kind, title=title, column=column, colours=colours, given=given))
        return self.nodes[-1]

    def api(self) -> dict[str, Any]:
        """As the page sends it to the server."""
        return {
            str(node.id): {
                "class_type": node.kind,
                "inputs": {name: _sent(value) for name, value in node.given.items() if name not in OF_THE_PAGE},
                "_meta": {"title": node.title},
            }
            for node in self.nodes
            if node.kind != "Note"
        }

    def ui(self) -> dict[str, Any]:
        """As the page saves it: version 0.4, which old pages read as well as new ones."""
        links, bottom, nodes = self._links(), dict[int, int](), list[dict[str, Any]]()
        for node in self.nodes:
            top = bottom.get(node.column, 0)
            bottom[node.column] = top + node.height + GAP
            nodes.append(_ui(node, top, links))
        ids = {"last_node_id": len(nodes), "last_link_id": len(links)}
        return {**ids, "nodes": nodes, "links": links, "groups": [], "config": {}, "extra": {}, "version": 0.4}

    def _links(self) -> list[list[Any]]:
        """Of each link its id, its origin and which output, its target and which input, and its type."""
        rows = list[list[Any]]()
        for node in self.nodes:
            for slot, (name, type_) in enumerate(_pairs(NODES[node.kind][0])):
                if link := _link(node.given.get(name)):
                    rows.append([len(rows) + 1, link[0].id, link[1], node.id, slot, type_])
        return rows


def _pairs(words: str) -> list[list[str]]:
    return [word.split(":") for word in words.split()]


def _sent(value: Any) -> Any:
    link = _link(value)
    return [str(link[0].id), link[1]] if link else _told(value)


def _told(value: Any) -> Any:
    return value.name if isinstance(value, File) else value


def _link(value: Any) -> tuple[Node, int] | None:
    return (value, 0) if isinstance(value, Node) else value if isinstance(value, tuple) else None


def _ui(node: Node, top: int, links: list[list[Any]]) -> dict[str, Any]:
    into, widgets, out = NODES[node.kind]
    comes = {slot: id for id, _, _, target, slot, _ in links if target == node.id}
    inputs = [{"name": name, "type": kind, "link": comes.get(slot)} for slot, (name, kind) in enumerate(_pairs(into))]
    goes = [[row[0] for row in links if row[1:3] == [node.id, slot]] for slot in range(len(out.split()))]
    outputs = [{"name": name, "type": kind, "links": goes[slot]} for slot, (name, kind) in enumerate(_pairs(out))]
    files = [asdict(value) for value in node.given.values() if isinstance(value, File)]
    return {
        "id": node.id,
        "type": node.kind,
        "title": node.title,
        "pos": [node.column * (WIDTH + GAP), top],
        "size": [WIDTH, node.height],
        "flags": {},
        "order": node.id - 1,
        "mode": 0,
        "inputs": inputs,
        "outputs": outputs,
        "properties": {"models": files} if files else {},
        "widgets_values": [_told(node.given[name]) for name in widgets.split()],
        **node.colours,
    }
