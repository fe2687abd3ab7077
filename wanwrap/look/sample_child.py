"""Makes samples in the training Python, which has upstream and need not have wanwrap; the DiTs are loaded once for all.

    python sample_child.py JOB.json

The job is {"load": arguments, "networks": {expert: [module, its arguments]}, "cells": [{"argv": arguments, "loras": {expert:
path}, "strength": number, "out": path}]}. All arguments are those of upstream's wan_generate_video, whose own parser reads them; but for the LoRAs of
`loras`, which are hooked onto the DiTs as in a training, and exchanged from cell to cell. What `load` names is merged.
Prints JSON lines: {"doing": ...}, and {"cell": its number} when its file is whole and in place.
"""

import importlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

PART = ".part"


def say(**words: Any) -> None:
    """One line to the parent, after whatever a progress bar has left open."""
    print(f"\n{json.dumps(words)}", flush=True)


class Hook:
    """The LoRA on one DiT: hooked where upstream's training hooks it, so that no weight changes."""

    def __init__(self, upstream: Any, model: Any, module: str = "", arguments: Any = None) -> None:
        self.upstream, self.model, self.module, self.arguments, self.path = upstream, model, module, arguments, ""
        self.network: Any = None

    def use(self, path: str | None, strength: float) -> None:
        """Raises RuntimeError: a file whose tensors are not this DiT's."""
        if path and path != self.path:
            self._load(path)
        if self.network:
            self.network.set_enabled(bool(path))
            self.network.set_multiplier(strength)

    def _load(self, path: str) -> None:
        weights = self.upstream.load_file(path)
        if self.network is None:
            module: Any = importlib.import_module(self.module)
            self.network = module.create_arch_network_from_weights(
                1.0, weights, unet=self.model, for_inference=True, **self.arguments
            )
            self.network.apply_to(None, self.model, False, True)
            tensor = next(value for name, value in weights.items() if not name.endswith(".alpha"))
            self.network.to(self.model.device, tensor.dtype)
            self.network.requires_grad_(False)  # else autocast would keep copies of it
        self.network.load_state_dict(weights, strict=True)
        self.path = path


class Sampler:
    """Upstream's generation with its models: text encoders first, which go again, then VAE and DiTs, which stay."""

    def __init__(self, upstream: Any, job: dict[str, Any]) -> None:
        self.upstream, self.device = upstream, torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.args = [self.parsed(cell["argv"]) for cell in job["cells"]]
        load = self.parsed(job["load"])
        settings = self.settings = upstream.get_generation_settings(load)
        i2v = "i2v" in load.task
        say(doing="encoding the prompts")
        with torch.no_grad():
            self.contexts = self.encode_texts(load)
            self.clips = self.encode_images(load) if i2v and not settings.cfg.v2_2 else {}
        self.vae = upstream.load_vae(load, settings.cfg, self.device, settings.vae_dtype)
        self.vae.to_device("cpu")
        say(doing="loading the DiTs" if load.dit_high_noise else "loading the DiT")
        self.models = upstream.load_dit_models(
            load, settings.cfg, self.device, settings.dit_dtype, settings.dit_weight_dtype, i2v
        )
        experts = ("high", "low") if len(self.models) > 1 else ("dit",)
        self.hooks = {
            expert: Hook(upstream, model, *job["networks"].get(expert, ()))
            for expert, model in zip(experts, self.models, strict=True)
        }

    def parsed(self, argv: list[str]) -> Any:
        """Upstream's arguments, with its own defaults."""
        sys.argv = ["wan_generate_video.py", *argv]
        args = self.upstream.setup_args(self.upstream.parse_args())
        args.device = self.device
        return args

    def negative(self, args: Any) -> str:
        return str(args.negative_prompt or self.settings.cfg.sample_neg_prompt)

    def encode_texts(self, load: Any) -> dict[str, Any]:
        """The embedding of each prompt and negative prompt, by its text."""
        cfg, device = self.settings.cfg, self.device
        encoder = self.upstream.load_text_encoder(load, cfg, device)
        encoder.model.to(device)
        texts = dict.fromkeys(text for args in self.args for text in (args.prompt, self.negative(args)))
        with torch.amp.autocast(device_type=device.type, dtype=cfg.t5_dtype, enabled=load.fp8_t5):
            found = {text: encoder([text], device) for text in texts}
        del encoder
        self.upstream.clean_memory_on_device(device)
        return found

    def encode_images(self, load: Any) -> dict[str, Any]:
        """CLIP's view of each first frame, by its path; Wan 2.1 alone takes it."""
        device = self.device
        clip = self.upstream.load_clip_model(load, self.settings.cfg, device)
        clip.model.to(device)
        found = {}
        for path in dict.fromkeys(args.image_path for args in self.args):
            picture = self.upstream.Image.open(path).convert("RGB")
            tensor = self.upstream.TF.to_tensor(picture).sub_(0.5).div_(0.5).to(device)
            with torch.amp.autocast(device_type=device.type, dtype=torch.float16):
                found[path] = clip.visual([tensor[:, None, :, :]])
        del clip
        self.upstream.clean_memory_on_device(device)
        return found

    def make(self, cell: dict[str, Any], args: Any) -> None:
        """One sample, in its place when it is whole."""
        for expert, hook in self.hooks.items():
            hook.use(cell["loras"].get(expert), cell["strength"])
        context = {
            "context": self.contexts[args.prompt],
            "context_null": self.contexts[self.negative(args)],
            "clip_context": self.clips.get(args.image_path),
        }
        shared = {"vae": self.vae, "models": self.models, "encoded_contexts": {args.prompt: context}}
        latent = self.upstream.generate(args, self.settings, shared)
        place = Path(cell["out"])
        args.save_path, args._vae = str(place) + PART, self.vae
        self.upstream.clean_memory_on_device(self.device)  # what is decoded lies beside the DiTs
        shutil.rmtree(args.save_path, ignore_errors=True)
        self.upstream.save_output(latent, args, self.settings.cfg, *args.video_size)
        self.vae.to_device("cpu")
        self.upstream.clean_memory_on_device(self.device)
        (made,) = Path(args.save_path).iterdir()
        made.replace(place)
        shutil.rmtree(args.save_path, ignore_errors=True)


def main(place: str) -> None:
    job = json.loads(Path(place).read_text(encoding="utf-8"))
    sampler = Sampler(importlib.import_module("musubi_tuner.wan_generate_video"), job)
    for number, (cell, args) in enumerate(zip(job["cells"], sampler.args, strict=True)):
        sampler.make(cell, args)
        say(cell=number)


if __name__ == "__main__":
    main(sys.argv[1])
