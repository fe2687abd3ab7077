"""Wan 2.1 T2V 1.3B on an RTX 3090: the diffusion-pipe guide's settings in upstream's terms.

For 15 to 30 pictures, or clips of 2 to 5 seconds. The guide reports 2.5 hours for 3500 steps of 14 pictures
at 512 pixels, about 12 GB of memory, and losses around 0.02.

Where the numbers come from: the guide's TOML. Its settings without a counterpart in upstream: AdamW8bitKahan
(Kahan summation mends 16-bit LoRA weights; upstream trains them in fp32, so plain adamw8bit), DeepSpeed
(upstream does not support it), the adapter's bfloat16 (upstream saves in the DiT's type). diffusion-pipe's
logit_normal timesteps are upstream's `sigmoid` sampling, to which a flow shift does not apply. The guide
names no scheduler, alpha, seed or number of frames: here the rate is constant, alpha is the rank (the LoRA at
its full scale), the seed 42, and clips give 33 frames, 2 s at 16 fps.
"""

from wanwrap.preset import Clips, Expert, Pictures, Preset

preset = Preset(
    summary="Wan 2.1 T2V 1.3B on an RTX 3090 (the diffusion-pipe guide): rank 64",
    task="t2v-1.3B",
    experts=(Expert(dit="wan2.1-t2v-1.3b"),),
    train={
        "sdpa": True,
        "optimizer_type": "adamw8bit",
        "optimizer_args": ("betas=(0.9,0.99)", "weight_decay=0.01"),
        "learning_rate": 5e-5,
        "lr_scheduler": "constant",
        "network_dim": 64,
        "network_alpha": 64,
        "gradient_accumulation_steps": 4,
        "timestep_sampling": "sigmoid",
        "sigmoid_scale": 1.0,
        "blocks_to_swap": 2,
        "max_train_epochs": 100,
        "save_every_n_epochs": 10,
        "seed": 42,
    },
    pictures=Pictures(resolution=(512, 512)),
    clips=(Clips(resolution=(832, 480), target_frames=(33,)),),
    cache_text={"fp8_t5": True},  # the guide's text encoder is an fp8 file
    env={
        # The guide's variables. NCCL is what several GPUs talk through; with one card these do nothing.
        "NCCL_P2P_DISABLE": "1",
        "NCCL_IB_DISABLE": "1",
        # Long runs with several bucket sizes fragment the memory otherwise.
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    },
)
