"""Wan 2.2 T2V A14B, both experts, for styles: AI_Characters' recipe for text to image.

Made for exactly 18 diverse pictures with captions of short, neutral sentences; its author tuned the numbers
for such sets and warns that other sets will want others. Pictures only.

Where the numbers come from: AI_Characters' article on Wan 2.2 (August 2025), both experts alike. Three things
differ. The article's minimum learning rate never had an effect in upstream; here the rate falls to 0. Its
fp8_base alone puts the whole 28.6 GB model on the GPU first (the author rents an H100); fp8_scaled lets it
load on a gaming GPU and loses less. And it saves one file, after the last epoch; one more every 25 epochs
costs nothing and is there if the night ends early.
"""

from dataclasses import replace

from wanwrap.preset import Expert, Pictures, Preset
from wanwrap.upstream.sampling import WAN

preset = Preset(
    summary="Wan 2.2 T2V A14B, both experts, styles from 18 pictures (AI_Characters, in scaled fp8)",
    task="t2v-A14B",
    experts=(
        Expert(noise_level="high", dit="wan2.2-t2v-high", train={"min_timestep": 875, "max_timestep": 1000}),
        Expert(noise_level="low", dit="wan2.2-t2v-low", train={"min_timestep": 0, "max_timestep": 875}),
    ),
    train={
        "xformers": True,
        "fp8_base": True,
        "fp8_scaled": True,
        "optimizer_type": "adamw",  # 32-bit
        "optimizer_args": ("weight_decay=0.1",),
        "max_grad_norm": 0.0,  # no clipping
        "learning_rate": 3e-4,
        "lr_scheduler": "polynomial",
        "lr_scheduler_power": 8.0,  # falls fast: half the steps run at less than 0.4 % of the rate
        "network_dim": 16,
        "network_alpha": 16,
        "timestep_sampling": "shift",
        "discrete_flow_shift": 1.0,
        "preserve_distribution_shape": True,
        "max_train_epochs": 100,
        "save_every_n_epochs": 25,
        "seed": 5,
    },
    pictures=Pictures(resolution=(960, 960)),
    inference=replace(WAN["t2v-A14B"], size=(960, 960), video_length=1),  # pictures; a LoRA of these serves clips, too
)
