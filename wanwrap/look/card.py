"""The model card of LoRAs that are published: what they were trained on and with, and how they are used.

Nothing in it names a file or a folder of the machine that has trained them.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from wanwrap.look import template
from wanwrap.look.samples import Sample
from wanwrap.look.workflow import MODELS
from wanwrap.preset import shipped
from wanwrap.run.record import Record
from wanwrap.upstream import sampling
from wanwrap.upstream.options import spell
from wanwrap.upstream.sampling import Inference
from wanwrap.weights import provenance

MARK = "wanwrap"  # the key in the front matter by which a repository is known again
# Wan's repositories, by the beginning of the DiTs' names in weights/catalogue.py; each has a sister for diffusers
BASES = {
    "wan2.2-t2v": "Wan-AI/Wan2.2-T2V-A14B",
    "wan2.2-i2v": "Wan-AI/Wan2.2-I2V-A14B",
    "wan2.1-t2v-14b": "Wan-AI/Wan2.1-T2V-14B",
    "wan2.1-t2v-1.3b": "Wan-AI/Wan2.1-T2V-1.3B",
    "wan2.1-i2v-480p": "Wan-AI/Wan2.1-I2V-14B-480P",
    "wan2.1-i2v-720p": "Wan-AI/Wan2.1-I2V-14B-720P",
}
TASKS = {"t2v": "text-to-video", "i2v": "image-to-video", "t2i": "text-to-image"}
# of a record, by upstream's names; nothing else of it goes on the card, for the rest holds paths
SETTINGS = (
    "network_dim network_alpha epochs steps learning_rate lr_scheduler optimizer_type min_timestep max_timestep "
    "timestep_sampling discrete_flow_shift mixed_precision seed"
)


@dataclass(frozen=True)
class Lora:
    """A file that is published: of which expert, and what its own metadata tell."""

    path: Path
    expert: str
    metadata: Mapping[str, str]

    @property
    def name(self) -> str:
        """In the repository."""
        return self.path.name

    @property
    def trained(self) -> dict[str, Any]:
        """Its `epoch` and `steps` among others, where upstream has written them down."""
        return provenance.trained(self.metadata)

    @property
    def sizes(self) -> str:
        """`1280x720 (1, 21 frames), 960x544 (45 frames)`, as upstream has written it down; pictures have no frames."""
        found = []
        for row in json.loads(self.metadata.get("ss_datasets", "[]")):
            frames = ", ".join(map(str, row.get("target_frames") or ()))
            found.append("x".join(map(str, row["resolution"])) + (f" ({frames} frames)" if frames else ""))
        return ", ".join(dict.fromkeys(found))


@dataclass(frozen=True, kw_only=True)
class Card:
    """What the card is made of; `records` by expert, of `loras` the youngest last. `mark` tells the run from others.

    `record` is the one that tells how the LoRAs are used; a record of wanwrap 0.2.0 does not.
    """

    title: str
    repo: str
    license: str
    mark: str
    records: Mapping[str, Record]
    record: Record
    use: Inference
    loras: Sequence[Lora]
    samples: Sequence[Sample] = ()
    workflow: bool = False

    @property
    def base(self) -> str:
        """Wan's own repository."""
        dit = next(iter(self.record.inference["dits"].values()))
        return next(repo for begin, repo in BASES.items() if dit.startswith(begin))

    @property
    def task(self) -> str:
        """Upstream's name of it."""
        return str(self.record.inference["task"])

    @property
    def newest(self) -> dict[str, str]:
        """The file to use, by expert."""
        return {lora.expert: lora.name for lora in self.loras}


def text(card: Card) -> str:
    """The whole card."""
    pipeline, preset = _pipeline(card), card.record.preset
    pieces = template.render(
        "model_card.md",
        card=card,
        front=_front(card, pipeline),
        models=MODELS,
        pipeline=pipeline,
        command=_command(card),
        version=card.record.machine.get("upstream", {}).get("version"),
        preset=preset if preset in shipped() else "",  # else it is a file of the user's
        columns=["", *(MODELS[expert] for expert in card.records)],
        rows=_settings(card),
    )
    return "".join(pieces)


def _front(card: Card, pipeline: str) -> str:
    """What the Hub reads."""
    rows = {
        "license": card.license,
        "base_model": card.base,
        "base_model_relation": "adapter",
        "pipeline_tag": TASKS[card.task[:3]],
        "library_name": "diffusers" if pipeline else None,
        "tags": ["lora", "wan", "musubi-tuner", "comfyui"],
        "instance_prompt": card.record.trigger,
        "widget": [{"text": each.prompt, "output": {"url": each.file}} for each in card.samples],
        MARK: card.mark,
    }
    told = {name: value for name, value in rows.items() if value}
    front: str = yaml.safe_dump(told, sort_keys=False, allow_unicode=True, width=1000)
    return front


def _pipeline(card: Card) -> str:
    """Of diffusers; "" where none was tried: with Lightning, which must be loaded beside, and of other layers than all."""
    settings = [each.settings for each in card.records.values()]
    whole = all(each["network_module"].endswith(".lora_wan") and "network_args" not in each for each in settings)
    if card.record.inference["lightning"] or not whole:
        return ""
    return "WanImageToVideoPipeline" if card.task.startswith("i2v") else "WanPipeline"


def _command(card: Card) -> str:
    """Upstream's, an option a line."""
    merged, boundary = (
        "_WITH_LIGHTNING" if card.record.inference["lightning"] else "",
        card.record.inference["boundary"],
    )
    pair = {expert: Path(f"{expert.upper()}_NOISE_DIT{merged}") for expert in ("high", "low")}
    options: dict[str, Any] = {
        **sampling.models(card.task, pair if boundary else {"dit": Path("DIT")}, boundary),
        "vae": "VAE",
        "t5": "T5",
        "clip": "CLIP" if card.task == "i2v-14B" else None,
        **sampling.loras({expert: [(Path(name), 1.0)] for expert, name in card.newest.items()}),
        **sampling.settings(card.task, card.use, seed=42),
        "image_path": "FIRST_FRAME" if card.task.startswith("i2v") else None,
        "prompt": next((each.prompt for each in card.samples), f"{card.record.trigger}, ...".removeprefix(", ")),
        "save_path": "samples",
    }
    lines = [shlex.join(spell({name: value})) for name, value in options.items()]
    return " \\\n  ".join(["python -m musubi_tuner.wan_generate_video", *filter(None, lines)])


def _settings(card: Card) -> list[list[object]]:
    """Those of the training, of each expert; what none has is left out."""
    rows = [[name, *(each.settings.get(name, "") for each in card.records.values())] for name in SETTINGS.split()]
    rows.append(["items", *(each.dataset.get("items", "") for each in card.records.values())])
    sizes = {lora.expert: lora.sizes for lora in card.loras}
    rows.append(["resolution", *(sizes.get(expert, "") for expert in card.records)])
    return [row for row in rows if any(row[1:])]
