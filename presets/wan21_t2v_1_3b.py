"""Wan 2.1 T2V 1.3B (text to video), light: for trying out a data set.

Needs about 12 GB and no fp8. Its LoRAs don't fit the 14B models.

Where the numbers come from: lora-gym's recipe for Wan 2.1. lora-gym trains this model at 720p like the
others; here it is 832x480 (upstream lists no other size for it). The guide's minimum learning rate never had
an effect in upstream; here the rate falls to 0 over the planned steps.
"""

from wanwrap.preset import Clips, Expert, Pictures, Preset

preset = Preset(
    summary="Wan 2.1 T2V 1.3B: light, for trying out a data set",
    task="t2v-1.3B",
    experts=(Expert(dit="wan2.1-t2v-1.3b"),),
    train={
        "sdpa": True,
        "optimizer_type": "adamw8bit",
        "optimizer_args": ("weight_decay=0.01",),
        "learning_rate": 8e-5,
        "lr_scheduler": "polynomial",
        "lr_scheduler_power": 2.0,
        "network_dim": 16,
        "network_alpha": 16,
        "timestep_sampling": "shift",
        "discrete_flow_shift": 3.0,
        "max_train_epochs": 50,
        "save_every_n_epochs": 5,
        "seed": 42,
    },
    pictures=Pictures(resolution=(832, 480)),
    clips=(
        # Each clip's first 21 frames (1.3 s), and its first frame alone as a picture.
        Clips(resolution=(832, 480), target_frames=(1, 21)),
        # Two windows of 45 frames (2.8 s) from each clip.
        Clips(resolution=(832, 480), target_frames=(45,), frame_extraction="uniform", frame_sample=2),
    ),
    bucket_no_upscale=True,
    cache_latents={"vae_cache_cpu": True},
    cache_text={"fp8_t5": True},
)
