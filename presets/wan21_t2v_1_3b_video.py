"""Wan 2.1 T2V 1.3B on clips: SimpleTuner's Disney quick start in upstream's terms.

Clips of 5 seconds (73 frames at 16 fps are 4.6 s) at 832x480, with sample videos while it trains. Write long,
descriptive captions: the text encoder has no other information.

Where the numbers come from: the quick start's config.json. Its settings without a counterpart in upstream:
caption_dropout_probability 0.1; the EMA of the weights (afterwards: upstream's lora_post_hoc_ema.py);
clipping each gradient value at 0.01 (upstream clips the norm, for which 0.01 would stop the training; its
usual 1.0 stands here); skip-layer guidance in the samples; SageAttention (upstream can't train with it; sdpa
stands here); keeping the last 5 checkpoints only (give `-- --save_last_n_epochs 50` for that); a sample every 100
steps (one takes minutes, so here they come with the checkpoints); 400,000 steps of warm-up in 400,000 steps
at most (a run that the guide ends by hand: here a cosine over 100 epochs without warm-up). Its 75 frames at
15 fps become 73, since upstream takes 4N+1. Its optimi-lion is bitsandbytes' Lion: the same algorithm and
defaults.
"""

from dataclasses import replace

from wanwrap.preset import Clips, Expert, Pictures, Preset
from wanwrap.upstream.sampling import WAN

preset = Preset(
    summary="Wan 2.1 T2V 1.3B on clips of 5 seconds, with samples (the SimpleTuner quick start)",
    task="t2v-1.3B",
    experts=(Expert(dit="wan2.1-t2v-1.3b"),),
    train={
        "sdpa": True,
        "optimizer_type": "bitsandbytes.optim.Lion",
        "learning_rate": 5e-5,
        "lr_scheduler": "cosine",
        "network_dim": 16,
        "network_alpha": 16,
        "timestep_sampling": "shift",
        "discrete_flow_shift": 3.0,
        "max_train_epochs": 100,
        "save_every_n_epochs": 10,
        "seed": 42,
        "sample_every_n_epochs": 10,
    },
    pictures=Pictures(resolution=(832, 480), batch_size=2),
    clips=(Clips(resolution=(832, 480), target_frames=(73,), batch_size=2),),
    sample_prompts=(  # size, frames, steps and shift are those of `inference`; upstream adds Wan's usual negative prompt
        "两只拟人化的猫咪身穿舒适的拳击装备，戴着鲜艳的手套，在聚光灯照射的舞台上激烈对战 --d 42",
        "a lifelike and intimate video portrait of a man, captured through nuanced movement and expression --d 42",
    ),
    inference=replace(
        WAN["t2v-1.3B"], infer_steps=40, guidance_scale=5.2, flow_shift=3.0
    ),  # as the quick start samples
)
