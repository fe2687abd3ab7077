"""Wan 2.1 T2V 14B (text to video), full quality.

One model, one LoRA. Takes pictures, clips, or both.

Where the numbers come from: lora-gym's recipe for Wan 2.1. The guide's minimum learning rate never had an
effect in upstream; here the rate falls to 0 over the planned steps.
"""

from wanwrap.preset import Clips, Expert, Pictures, Preset

preset = Preset(
    summary="Wan 2.1 T2V 14B: one LoRA, full quality",
    task="t2v-14B",
    experts=(Expert(dit="wan2.1-t2v-14b"),),
    train={
        "sdpa": True,
        "fp8_base": True,
        # lora-gym leaves this out for Wan 2.1 ("2.2 only"), which is a mistake: without it the whole 16-bit
        # model (28 GB and more) must first fit on the GPU, and quantising without scales costs quality.
        "fp8_scaled": True,
        "optimizer_type": "adamw8bit",
        "optimizer_args": ("weight_decay=0.01",),
        "learning_rate": 8e-5,
        "lr_scheduler": "polynomial",
        "lr_scheduler_power": 2.0,
        "network_dim": 24,
        "network_alpha": 24,
        "timestep_sampling": "shift",
        "discrete_flow_shift": 3.0,
        "max_train_epochs": 50,
        "save_every_n_epochs": 5,
        "seed": 42,
    },
    pictures=Pictures(resolution=(720, 1280)),
    clips=(
        # Each clip's first 21 frames (1.3 s) at 720p, and its first frame alone as a picture.
        Clips(resolution=(1280, 720), target_frames=(1, 21)),
        # Two windows of 45 frames (2.8 s) from each clip, smaller. 24,480 tokens: the
        # largest batch, which decides on the memory (`wanwrap fit` tells what a card takes).
        Clips(resolution=(960, 544), target_frames=(45,), frame_extraction="uniform", frame_sample=2),
    ),
    bucket_no_upscale=True,
    cache_latents={"vae_cache_cpu": True},
    cache_text={"fp8_t5": True},
)
