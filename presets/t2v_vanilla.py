"""Wan 2.2 T2V A14B, both experts (text to video).

Trains on the published weights, for workflows of 30 to 50 steps. With a Lightning LoRA loaded beside it the
result works too. Takes pictures, clips, or both.

Where the numbers come from: lora-gym's recipe, the one that the local training guide describes. The
high-noise expert decides composition and motion, the low-noise expert identity and texture, so the guide
gives the high one a small rank (8) that can't override motion and the low one a large rank (42). The guide's
minimum learning rate never had an effect in upstream; here the rate falls to 0 over the planned steps.
"""

from wanwrap.preset import Clips, Expert, Pictures, Preset

preset = Preset(
    summary="Wan 2.2 T2V A14B, both experts: for 30 to 50 step workflows",
    task="t2v-A14B",
    experts=(
        Expert(
            noise_level="high",
            dit="wan2.2-t2v-high",
            train={
                "min_timestep": 875,  # upstream's own boundary between the experts of this task
                "max_timestep": 1000,
                "learning_rate": 1e-4,
                "network_dim": 8,
                "network_alpha": 8,
            },
        ),
        Expert(
            noise_level="low",
            dit="wan2.2-t2v-low",
            train={
                "min_timestep": 0,
                "max_timestep": 875,
                "learning_rate": 8e-5,
                "network_dim": 42,
                "network_alpha": 42,
            },
        ),
    ),
    train={
        "sdpa": True,
        "fp8_base": True,
        "fp8_scaled": True,  # quantises tensor by tensor: the fp16 model never lies on the GPU as a whole
        "optimizer_type": "adamw8bit",
        "optimizer_args": ("weight_decay=0.01",),
        "lr_scheduler": "polynomial",
        "lr_scheduler_power": 2.0,
        "timestep_sampling": "shift",
        "discrete_flow_shift": 3.0,
        "preserve_distribution_shape": True,  # draws again instead of squeezing the shape into the window
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
