"""ComfyUI's nodes, as far as a run's workflow needs them, and a graph of them as its page saves it.

`tests/comfyui_nodes.json` is what ComfyUI itself says of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

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


class Output(NamedTuple):
    """A node's, by the node's id: what another node's input is linked to."""

    node: int
    slot: int = 0


class Graph:
    """Nodes and their links. Of each link its id, its origin and which output, its target and which input, and its type."""

    def __init__(self) -> None:
        self.nodes = list[dict[str, Any]]()
        self.links = list[list[Any]]()
        self.bottoms = Counter[int]()  # of the columns

    def add(self, kind: str, title: str, column: int, colours: Mapping[str, str] = {}, **given: Any) -> Output:
        """One more node, below the last one of its column; its first output.

        `given` are its widgets' values, and the outputs that its inputs are linked to.
        """
        into, widgets, out = ([word.split(":") for word in words.split()] for words in NODES[kind])
        values = [given[name] for (name,) in widgets]
        files = [asdict(value) for value in values if isinstance(value, File)]
        id, height = len(self.nodes) + 1, ROW * (max(len(into), len(out)) + len(values)) + TALL.get(kind, 10)
        node = {
            "id": id,
            "type": kind,
            "title": title,
            "pos": [column * (WIDTH + GAP), self.bottoms[column]],
            "size": [WIDTH, height],
            "flags": {},
            "order": id - 1,
            "mode": 0,
            "inputs": [
                {"name": name, "type": type_, "link": self._link(given.get(name), id, slot, type_)}
                for slot, (name, type_) in enumerate(into)
            ],
            "outputs": [{"name": name, "type": type_, "links": []} for name, type_ in out],
            "properties": {"models": files} if files else {},
            "widgets_values": [value.name if isinstance(value, File) else value for value in values],
            **colours,
        }
        self.nodes.append(node)
        self.bottoms[column] += height + GAP
        return Output(id)

    def _link(self, origin: Output | None, *target: object) -> int | None:
        """To a node's input of a type; the link's id."""
        if not origin:
            return None
        self.links.append([len(self.links) + 1, *origin, *target])
        self.nodes[origin.node - 1]["outputs"][origin.slot]["links"].append(len(self.links))
        return len(self.links)

    def content(self) -> dict[str, Any]:
        """The file: version 0.4, which old pages read as well as new ones."""
        return {
            "last_node_id": len(self.nodes),
            "last_link_id": len(self.links),
            "nodes": self.nodes,
            "links": self.links,
            "groups": [],
            "config": {},
            "extra": {},
            "version": 0.4,
        }
