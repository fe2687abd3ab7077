"""How upstream's wan_generate_video is told to sample, and the settings that Wan's makers give for each task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wanwrap.errors import OptionError
from wanwrap.upstream.options import Options, Value

Size = tuple[int, int]
FPS = 16  # of all that Wan makes, and of what it is trained on


@dataclass(frozen=True, kw_only=True)
class Inference:
    """How a LoRA is used: what is said at a run's end, its samples and its workflow for ComfyUI are all made of this.

    By upstream's names; `size` is (width, height) in pixels, `video_length` in frames of 1/16 s. A guidance scale of 1 is
    none: no negative prompt is computed.
    """

    infer_steps: int
    guidance_scale: float
    guidance_scale_high_noise: float | None = None  # of the high-noise expert; None where there is but one DiT
    flow_shift: float
    sample_solver: str = "unipc"  # or vanilla, which is Euler's
    size: Size = (832, 480)
    video_length: int = 81

    def words(self) -> str:
        """`40 steps, cfg 4 on the high-noise and 3 on the low-noise model, shift 12`."""
        high, low = self.guidance_scale_high_noise, self.guidance_scale
        cfg = f"{low:g}" if high in (None, low) else f"{high:g} on the high-noise and {low:g} on the low-noise model"
        return f"{self.infer_steps} steps, cfg {cfg}, shift {self.flow_shift:g}"


# wan/configs/*.py: sample_steps, sample_guide_scale, sample_shift (3 for I2V 2.1 at exactly 832x480, wan_generate_video.py:
# get_task_defaults); sizes of Wan's makers
WAN = {
    "t2v-A14B": Inference(infer_steps=40, guidance_scale=3.0, guidance_scale_high_noise=4.0, flow_shift=12.0),
    "i2v-A14B": Inference(infer_steps=40, guidance_scale=3.5, guidance_scale_high_noise=3.5, flow_shift=5.0),
    "t2v-14B": Inference(infer_steps=50, guidance_scale=5.0, flow_shift=5.0),
    "t2i-14B": Inference(infer_steps=50, guidance_scale=5.0, flow_shift=5.0, size=(1024, 1024), video_length=1),
    "t2v-1.3B": Inference(infer_steps=50, guidance_scale=5.0, flow_shift=5.0),
    "i2v-14B": Inference(infer_steps=40, guidance_scale=5.0, flow_shift=3.0),
}
# Lightning is distilled for these four steps: two above and two below the boundary of either task at shift 5, and no others
LIGHTNING = Inference(
    infer_steps=4, guidance_scale=1.0, guidance_scale_high_noise=1.0, flow_shift=5.0, sample_solver="vanilla"
)
# wan/configs: the share of the noise from which on the high-noise expert denoises
BOUNDARY = {"t2v-A14B": 0.875, "i2v-A14B": 0.9}
# wan/configs/shared_config.py, sample_neg_prompt: Wan's own for each task (Alibaba, Apache-2.0)
NEGATIVE = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，丑陋的，残缺的，"
    "多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
)
SCALE = 16  # pixels: a side that is no multiple ends upstream with an assertion, for some after all steps
SUFFIX = {"high": "_high_noise", "low": "", "dit": ""}  # of its options for an expert's DiT and LoRAs
SOLVERS = ("unipc", "dpm++", "vanilla")
Loras = Mapping[str, Sequence[tuple[Path, float]]]  # files and their strengths, by expert


def models(task: str, dits: Mapping[str, Path], boundary: float | None) -> Options:
    """The DiTs of one task, by expert; from the boundary on, a share of the noise, the high-noise one denoises."""
    files = {f"dit{SUFFIX[expert]}": str(path) for expert, path in dits.items()}
    return {"task": task, **files, "timestep_boundary": boundary if len(dits) > 1 else None}


def loras(by_expert: Loras) -> Options:
    """What is merged into the DiTs when they are loaded."""
    options = dict[str, Value]()
    for expert, files in by_expert.items():
        options[f"lora_weight{SUFFIX[expert]}"] = tuple(str(path) for path, _ in files) or None
        options[f"lora_multiplier{SUFFIX[expert]}"] = tuple(f"{strength:g}" for _, strength in files) or None
    return options


def settings(task: str, use: Inference, seed: int) -> Options:
    """How a picture (of one frame) or a clip is made; the noise is the same on each machine, and ComfyUI's.

    But for Wan 2.1 I2V: of one prompt upstream draws it from torch's own generator after CLIP was built by that, so that it
    would be another one than of several. At a guidance scale of 1 upstream would compute the negative prompt's pass all the
    same, unless it is told to skip it.
    """
    width, height = use.size
    unguided = {use.guidance_scale, use.guidance_scale_high_noise} <= {1.0, None}
    return {
        "video_size": (str(height), str(width)),
        "video_length": use.video_length,
        "fps": FPS,
        "infer_steps": use.infer_steps,
        "sample_solver": use.sample_solver,
        "flow_shift": use.flow_shift,
        "guidance_scale": use.guidance_scale,
        "guidance_scale_high_noise": use.guidance_scale_high_noise,
        "cfg_skip_mode": "late" if unguided else None,
        "cfg_apply_ratio": 0 if unguided else None,
        "seed": seed,
        "cpu_noise": task != "i2v-14B",
        "vae_dtype": "bfloat16",
        "attn_mode": "torch",
        "output_type": "video" if use.video_length > 1 else "images",
    }


def check(use: Inference) -> None:
    """Raises OptionError: upstream has no such solver, would break at such a size, or round the frames."""
    if use.sample_solver not in SOLVERS:
        raise OptionError(f"sample_solver {use.sample_solver!r} is none of upstream's {', '.join(SOLVERS)}.")
    width, height = use.size
    if width % SCALE or height % SCALE or min(use.size) < 2 * SCALE:
        raise OptionError(f"{width}x{height}: both sides must be multiples of {SCALE}, {2 * SCALE} at least.")
    if use.video_length < 1 or use.video_length % 4 != 1:
        raise OptionError(f"{use.video_length} frames: upstream makes 4N+1 of them (1, 5, 9 ... 81).")
    if use.infer_steps < 1:
        raise OptionError("give 1 step at least.")


def shape(use: Inference, picture: Size | None) -> Size:
    """The (width, height) that comes out: of I2V the picture's aspect, and of what was asked for the area alone."""
    if picture is None:
        return use.size
    area, ratio = use.size[0] * use.size[1], picture[1] / picture[0]
    height, width = (round(math.sqrt(area * each) // 8 // 2 * 2) * 8 for each in (ratio, 1 / ratio))
    return width, height
