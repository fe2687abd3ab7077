"""How upstream's wan_generate_video is told to sample, and the settings that Wan's makers give for each task."""

from __future__ import annotations

from dataclasses import dataclass

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
