"""Wan 2.1 T2V 14B for styles: AI_Characters' recipe for text to image.

Made for exactly 18 diverse pictures with captions of short, neutral sentences; its author tuned the numbers
for such sets and warns that other sets will want others. Pictures only.

Where the numbers come from: AI_Characters' article on Wan 2.1. It trains on the plain fp8_e4m3fn file, with
fp8_base and without fp8_scaled, which upstream refuses for a file that is fp8 already. The article's minimum
learning rate never had an effect in upstream; here the rate falls to 0. It saves one file, after the last
epoch; one more every 25 epochs costs nothing and is there if the night ends early.
"""

from dataclasses import replace

from wanwrap.preset import Expert, Pictures, Preset
from wanwrap.upstream.sampling import WAN

preset = Preset(
    summary="Wan 2.1 T2V 14B, styles from 18 pictures (AI_Characters)",
    task="t2v-14B",
    experts=(Expert(dit="wan2.1-t2v-14b-fp8"),),
    train={
        "xformers": True,
        "fp8_base": True,
        "optimizer_type": "adamw",  # 32-bit
        "optimizer_args": ("weight_decay=0.1",),
        "max_grad_norm": 0.0,  # no clipping
        "learning_rate": 3e-4,
        "lr_scheduler": "polynomial",
        "lr_scheduler_power": 4.0,
        "network_dim": 32,
        "network_alpha": 32,
        "timestep_sampling": "shift",
        "discrete_flow_shift": 1.0,
        "max_train_epochs": 100,
        "save_every_n_epochs": 25,
        "seed": 5,
    },
    pictures=Pictures(resolution=(960, 960)),
    inference=replace(WAN["t2v-14B"], size=(960, 960), video_length=1),  # pictures; a LoRA of these serves clips, too
)
