"""A workflow for ComfyUI: what a run has trained, loaded as it was trained, beside its LoRAs as `comfyui_workflow.json`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from wanwrap.errors import OutputError
from wanwrap.look.comfyui_nodes import GREEN, YELLOW, File, Graph, Output
from wanwrap.run import comfyui
from wanwrap.run.comfyui import WORKFLOW
from wanwrap.run.record import Record, trained_as
from wanwrap.run.status import look
from wanwrap.system.files import write_atomic
from wanwrap.upstream.sampling import FPS, NEGATIVE, Inference
from wanwrap.weights.catalogue import ALSO, CATALOGUE, LIGHTX2V

SAMPLERS = {"unipc": "uni_pc", "vanilla": "euler", "dpm++": "dpmpp_2m"}  # upstream's solvers, as ComfyUI calls them
SCHEDULER = "simple"  # the one that upstream's sigmas are those of, and that `split` reckons with
MODELS = {"high": "high-noise model", "low": "low-noise model", "dit": "model"}
SEED = 42
WAN_2_1 = "Comfy-Org/Wan_2.1_ComfyUI_repackaged"
WAN_AI = "diffusion_pytorch_model"  # how all DiTs in Wan-AI's own repositories begin
HUB = "https://huggingface.co/{}/resolve/main/{}"


@dataclass(frozen=True, kw_only=True)
class Uses:
    """How the LoRAs of a run are used, as its records tell.

    `dits` and `loras` go by expert: a DiT's name in the catalogue, a LoRA's file and the epoch that it was saved after; who
    was not trained has none. `boundary` is the share of the noise above which the high-noise expert denoises, None for a
    single model. `release` is that of the Lightning that was merged in, "" where there was none. `own` are DiTs' files, by
    expert, that aren't published ones.
    """

    run: str
    task: str
    boundary: float | None
    inference: Inference
    dits: Mapping[str, str]
    loras: Mapping[str, tuple[str, int]]
    release: str = ""
    strength: float = 1.0
    prompt: str = ""
    prompt_is: str = "a caption of the data set"
    trigger: str = ""
    own: Mapping[str, str] = field(default_factory=dict)

    @property
    def experts(self) -> tuple[str, ...]:
        """Those that make a clip, trained or not."""
        return ("high", "low") if self.boundary else ("dit",)

    def dit(self, expert: str) -> str:
        """The catalogue's name of an expert's DiT."""
        return self.dits.get(expert, f"wan2.2-{self.task[:3]}-{expert}").removesuffix("-fp8")

    @property
    def lightning(self) -> dict[str, str]:
        """The catalogue's names of each expert's Lightning LoRA."""
        return {expert: f"lightning-{self.release}-{expert}" for expert in self.experts} if self.release else {}


def uses(run: str, records: Iterable[Record]) -> Uses | None:
    """How the LoRAs are used that are trained to their end; None where no record tells, as of 0.2.0, or they differ."""
    done = [record for record in records if record.state == "done"]
    told = next((record for record in done if record.inference), None)
    if not told or len({trained_as(record.inference) for record in done if record.inference}) > 1:
        return None
    row, inference = told.inference, told.use
    assert inference
    lightning = row["lightning"] or {"release": "", "strength": 1.0}
    return Uses(
        run=run,
        task=row["task"],
        boundary=row["boundary"],
        inference=inference,
        dits=row["dits"],
        loras={record.expert: (record.lora, record.epochs_done) for record in done if record.lora},
        release=lightning["release"],
        strength=lightning["strength"],
        prompt=next((example["caption"] for example in told.examples), ""),
        trigger=told.trigger,
        own={record.expert: name for record in done if (name := _own(record))},
    )


def _own(record: Record) -> str:
    """The DiT of the user's own that was trained on, Lightning and conversions apart; "" where it is a published one."""
    name = record.inference.get("dits", {}).get(record.expert, "")
    file = next((Path(row["path"]).name for row in record.weights if row["name"] == name), "")
    model = name.removesuffix("-fp8")
    published = {row.name for each, row in (*CATALOGUE.items(), *ALSO) if each.removesuffix("-fp8") == model}
    return "" if file in published or file.startswith(WAN_AI) else file


def split(boundary: float, shift: float, steps: int) -> int:
    """How many steps are the high-noise expert's: those of ComfyUI's `simple` scheduler that begin above the boundary."""
    edge, s = Fraction(str(boundary)), Fraction(str(shift))
    times = (
        Fraction(1000 - step * 1000 // steps, 1000) for step in range(steps)
    )  # simple_scheduler, comfy/samplers.py
    return sum(s * t / (1 + (s - 1) * t) >= edge for t in times)


def literal(caption: str) -> str:
    """A caption as a prompt that means these words: ComfyUI reads weights, choices, comments and embeddings in others."""
    text = caption.replace("\\", "/").replace("{", "(").replace("}", ")").replace("embedding:", "embedding :")
    return re.sub(r"([()])", r"\\\1", re.sub(r"/(?=[/*])", "/ ", text))


def workflow(uses: Uses) -> dict[str, Any]:
    """What ComfyUI opens."""
    graph = Graph()
    _notes(graph, uses)
    models = {expert: _model(graph, uses, expert) for expert in uses.experts}
    vae = graph.add("VAELoader", "VAE", 0, vae_name=_file(WAN_2_1, "split_files/vae/wan_2.1_vae.safetensors"))
    conditions = _conditions(graph, uses, vae)
    latent = _steps(graph, uses, models, conditions)
    images = graph.add("VAEDecode", "Decode", 4, samples=latent, vae=vae)
    if uses.inference.video_length > 1:
        video = graph.add("CreateVideo", "Video", 4, images=images, fps=float(FPS))
        graph.add("SaveVideo", "Save", 4, video=video, filename_prefix=uses.run, format="auto", codec="auto")
    else:
        graph.add("SaveImage", "Save", 4, images=images, filename_prefix=uses.run)
    return graph.content()


def _file(repo: str, path: str) -> File:
    """One that ComfyUI's own repositories have."""
    *_, directory, name = path.split("/")
    return File(name, directory, HUB.format(repo, path))


def _model(graph: Graph, uses: Uses, expert: str) -> Output:
    """A DiT with Lightning, where it was trained with that, then with the user's LoRA."""
    words, row = MODELS[expert], CATALOGUE[uses.dit(expert)]
    # scaled fp8, which can't be trained on, is what ComfyUI's own templates run; of the small model fp16
    path = re.sub(r"14B_\w+", "14B_fp8_scaled", row.path.replace("1.3B_bf16", "1.3B_fp16"))
    model = graph.add("UNETLoader", words.capitalize(), 0, unet_name=_file(row.repo, path), weight_dtype="default")
    if name := uses.lightning.get(expert):
        lora, title = _lightning(name), f"Lightning for the {words}"
        model = graph.add("LoraLoaderModelOnly", title, 1, model=model, lora_name=lora, strength_model=uses.strength)
    if expert in uses.loras:
        name, title = uses.loras[expert][0], f"Your LoRA for the {words}"
        model = graph.add("LoraLoaderModelOnly", title, 1, GREEN, model=model, lora_name=name, strength_model=1.0)
    shift = uses.inference.flow_shift
    return graph.add("ModelSamplingSD3", f"Shift of the {words}", 2, model=model, shift=shift)


def _lightning(name: str) -> File | str:
    """A release's file; lightx2v calls those of all releases alike, so one that is there alone needs a name."""
    row = CATALOGUE[name]
    return f"{name}.safetensors" if row.repo == LIGHTX2V else _file(row.repo, row.path)


def _conditions(graph: Graph, uses: Uses, vae: Output) -> dict[str, Any]:
    """What the samplers begin with: both prompts and an empty latent, for I2V with a first picture."""
    (width, height), length = uses.inference.size, uses.inference.video_length
    size: dict[str, Any] = {"width": width, "height": height, "length": length, "batch_size": 1}
    encoder = _file(WAN_2_1, "split_files/text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors")
    clip = graph.add("CLIPLoader", "Text encoder", 0, clip_name=encoder, type="wan", device="default")
    positive = graph.add("CLIPTextEncode", "Prompt", 2, clip=clip, text=literal(uses.prompt))
    negative = graph.add("CLIPTextEncode", "Negative prompt", 2, clip=clip, text=NEGATIVE)
    if not uses.task.startswith("i2v"):
        latent = graph.add("EmptyHunyuanLatentVideo", "Size and length", 2, **size)
        return {"positive": positive, "negative": negative, "latent_image": latent}
    picture = graph.add("LoadImage", "First picture", 0, image="example.png", upload="image")
    given: dict[str, Any] = {"positive": positive, "negative": negative, "vae": vae, "start_image": picture}
    if not uses.boundary:  # Wan 2.1 sees the picture by CLIP, too
        tower = _file(WAN_2_1, "split_files/clip_vision/clip_vision_h.safetensors")
        vision = graph.add("CLIPVisionLoader", "CLIP vision", 0, clip_name=tower)
        seen = graph.add("CLIPVisionEncode", "CLIP's view", 1, clip_vision=vision, image=picture, crop="none")
        given["clip_vision_output"] = seen
    start = graph.add("WanImageToVideo", "Size and length", 2, **given, **size)
    return {"positive": start, "negative": start._replace(slot=1), "latent_image": start._replace(slot=2)}


def _steps(graph: Graph, uses: Uses, models: Mapping[str, Output], conditions: Mapping[str, Any]) -> Output:
    """All steps by the one model, or the first ones by the high-noise and the rest by the low-noise one."""
    how, cfg = uses.inference, uses.inference.guidance_scale
    common = {
        "steps": how.infer_steps,
        "sampler_name": SAMPLERS[how.sample_solver],
        "scheduler": SCHEDULER,
        "control_after_generate": "fixed",
        **conditions,
    }
    if not uses.boundary:
        return graph.add("KSampler", "Steps", 3, model=models["dit"], seed=SEED, cfg=cfg, denoise=1.0, **common)
    edge = split(uses.boundary, how.flow_shift, how.infer_steps)
    first = cfg if how.guidance_scale_high_noise is None else how.guidance_scale_high_noise
    for expert, scale, begin, end, noisy in (("high", first, 0, edge, "enable"), ("low", cfg, edge, 10000, "disable")):
        common["latent_image"] = latent = graph.add(
            "KSamplerAdvanced",
            f"Steps of the {MODELS[expert]}",
            3,
            **common,
            model=models[expert],
            add_noise=noisy,
            noise_seed=SEED,
            cfg=scale,
            start_at_step=begin,
            end_at_step=end,
            return_with_leftover_noise=noisy,
        )
    return latent


def _notes(graph: Graph, uses: Uses) -> None:
    """What this is, and what may be changed."""
    how, loras = uses.inference, [f"{name} (epoch {epoch})" for name, epoch in uses.loras.values()]
    lines = [
        f"The run {uses.run}, by wanwrap, with its LoRAs in models/loras: {', '.join(loras)}.",
        f"The settings are those that they were trained for: {how.words()}.",
        f"The prompt is {uses.prompt_is}. Write another one{f', and keep {uses.trigger}' if uses.trigger else ''}.",
        "Change size, length (4n+1 frames, 16 a second) and seed as you like.",
        "Other files of the same models do as well, fp16 for instance.",
    ]
    lines += [f"The {MODELS[expert]}'s LoRA was trained on {name}: load that." for expert, name in uses.own.items()]
    if uses.task.startswith("i2v"):
        lines.append("A clip begins with the first picture; load one of yours.")
    if uses.boundary:
        lines.append(
            f"The steps that begin above {uses.boundary:g} of the noise are the high-noise model's. With another number of "
            "steps or another shift these are others: set the end of the first sampler and the start of the second."
        )
    if uses.release:
        lines.append(
            f"Lightning {uses.release} was merged in while they were trained, so it is loaded first, at {uses.strength:g}. "
            f"{how.infer_steps} steps are what it is made for."
        )
    graph.add("Note", "About this workflow", 0, colours=YELLOW, text="\n\n".join(lines))
    own = [(name, row) for name in uses.lightning.values() if (row := CATALOGUE[name]).repo == LIGHTX2V]
    if own:
        files = [f"{HUB.format(row.repo, row.path)}\nas models/loras/{name}.safetensors" for name, row in own]
        graph.add("Note", "Files to fetch", 0, colours=YELLOW, text="\n\n".join(files))


def write(folder: Path, out: Path | None = None) -> list[str]:
    """Put the workflow of the run in `folder` beside its LoRAs, and into ComfyUI as `out`; what was done, a line each.

    A run that is done does not fail for it: where it can't be written, the line tells.
    """
    found = uses(folder.name, [expert.record for expert in look(folder).experts])
    if not found:
        return [
            "no workflow for ComfyUI: the records of this run are of an older wanwrap and don't tell how it is used, or "
            "its experts were trained for different uses"
        ]
    text, place = rendered(workflow(found)), folder / WORKFLOW
    lines = [comfyui.place_workflow(text, place, out)] if out else []
    try:
        write_atomic(place, text)
    except (OSError, OutputError) as error:
        return [*lines, f"{place} could not be written: {error}"]
    return [*lines, f"{place}: a workflow with these LoRAs; drop it on ComfyUI's canvas"]


def rendered(content: Mapping[str, Any]) -> str:
    """As JSON with a line for each node and each link."""

    def value(part: Any) -> str:
        rows = [json.dumps(row, ensure_ascii=False) for row in part] if isinstance(part, list) else []
        return "[\n" + ",\n".join(rows) + "\n]" if rows else json.dumps(part)

    return "{\n" + ",\n".join(f'"{name}": {value(part)}' for name, part in content.items()) + "\n}\n"
