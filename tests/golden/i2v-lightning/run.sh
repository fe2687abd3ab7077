#!/usr/bin/env bash
# wanwrap 0.2.0: i2v-lightning on cats: 6 items, 6 batches an epoch
# train high: 300 steps in 50 epochs, rank 8
# train low: 300 steps in 50 epochs, rank 42
# folder: /training/outputs/cats-i2v-lightning
set -euo pipefail

mkdir -p /training/outputs/cats-i2v-lightning/high /training/outputs/cats-i2v-lightning/low
cat > /training/outputs/cats-i2v-lightning/high/accelerate.yaml <<'END'
# Read instead of the accelerate config that this account may have, so that nothing set there
# (several GPUs, DeepSpeed, CPU, another precision) changes this run.
compute_environment: LOCAL_MACHINE
distributed_type: 'NO'
use_cpu: false
debug: false
END

cat > /training/outputs/cats-i2v-lightning/high/dataset.toml <<'END'
# The data set as musubi-tuner reads it. wanwrap fills in what is yours; every key is upstream's own
# (docs/dataset_config.md there). [general] holds for all entries that don't say otherwise.

[general]
caption_extension = ".txt"  # captions lie beside their picture or clip, under the same name
enable_bucket = true  # each item keeps about its own aspect ratio
bucket_no_upscale = true  # true: smaller pictures keep their size instead of being blown up

[[datasets]]
# Pictures. Each entry has its own cache: entries that share one would delete each other's files.
image_directory = "/datasets/cats/images"
cache_directory = "/training/cache/cats/images-720x1280-i2v-fc2f8d1e"
resolution = [720, 1280]  # [width, height]; only the area counts, the buckets follow the items
batch_size = 1
num_repeats = 1  # how often each item is seen in an epoch

[[datasets]]
# Clips, target_frames 1, 21, resolution 1280x720.
video_directory = "/datasets/cats/videos"
cache_directory = "/training/cache/cats/videos-1280x720-i2v-835dc461"
resolution = [1280, 720]
batch_size = 1
num_repeats = 1
source_fps = 24.0  # the clips' own rate, with a decimal point; upstream drops frames to reach 16
target_frames = [1, 21]  # 4N+1; a clip with fewer frames than this is passed over
frame_extraction = "head"  # head: from the start; uniform: frame_sample windows spread over the clip

[[datasets]]
# Clips, target_frames 45, resolution 960x544.
video_directory = "/datasets/cats/videos"
cache_directory = "/training/cache/cats/videos-960x544-i2v-e1436729"
resolution = [960, 544]
batch_size = 1
num_repeats = 1
source_fps = 24.0  # the clips' own rate, with a decimal point; upstream drops frames to reach 16
target_frames = [45]  # 4N+1; a clip with fewer frames than this is passed over
frame_extraction = "uniform"  # head: from the start; uniform: frame_sample windows spread over the clip
frame_sample = 2
END

cp /training/outputs/cats-i2v-lightning/high/accelerate.yaml /training/outputs/cats-i2v-lightning/low/accelerate.yaml
cp /training/outputs/cats-i2v-lightning/high/dataset.toml /training/outputs/cats-i2v-lightning/low/dataset.toml
cd /training/outputs/cats-i2v-lightning
export PYTHONPATH=/musubi-tuner/src
export PYTHONUTF8=1
export PYTHONIOENCODING=utf-8
export PYTHONUNBUFFERED=1

# merge Lightning, high
python -m wanwrap merge \
  --dit /training/models/split_files/diffusion_models/wan2.2_i2v_high_noise_14B_fp16.safetensors \
  --lora /training/models/split_files/loras/wan2.2_i2v_lightx2v_4steps_lora_v1_high_noise.safetensors \
  --strength 1.0 \
  --out /training/merged_dits/wan2.2_i2v_high_noise_14B_fp16-wan2.2_i2v_lightx2v_4steps_lora_v1_high_noise-2281512d.safetensors \
  --python python \
  --dit_sha256 c21c21efa368d529a982a7d89dd11d86608b5937cae9a125d0ffe5491918a100 \
  --lora_sha256 d176c808d6fc461999b68e321efcb7501b20b8c3797523ed0df14f7d1deff11e

# merge Lightning, low
python -m wanwrap merge \
  --dit /training/models/split_files/diffusion_models/wan2.2_i2v_low_noise_14B_fp16.safetensors \
  --lora /training/models/split_files/loras/wan2.2_i2v_lightx2v_4steps_lora_v1_low_noise.safetensors \
  --strength 1.0 \
  --out /training/merged_dits/wan2.2_i2v_low_noise_14B_fp16-wan2.2_i2v_lightx2v_4steps_lora_v1_low_noise-873d8731.safetensors \
  --python python \
  --dit_sha256 edb89340c8a6fbf1a70e76a839ae01eaf7d289f05ea1ebd6b1a3fc6f533826e9 \
  --lora_sha256 024f21de095bc8fad9809ded3e9e49a2e170dcf27075da8145ba7d60d8aab7f9

# check caches
python -m wanwrap prune /training/outputs/cats-i2v-lightning/high/dataset.toml \
  --latents 0b78a178 \
  --text 01ba76e1

# cache latents
python -m musubi_tuner.wan_cache_latents \
  --dataset_config /training/outputs/cats-i2v-lightning/high/dataset.toml \
  --vae /training/models/split_files/vae/wan_2.1_vae.safetensors \
  --i2v \
  --vae_cache_cpu \
  --skip_existing

# cache text
python -m musubi_tuner.wan_cache_text_encoder_outputs \
  --dataset_config /training/outputs/cats-i2v-lightning/high/dataset.toml \
  --t5 /training/models/models_t5_umt5-xxl-enc-bf16.pth \
  --fp8_t5 \
  --skip_existing

# train high
# --lr_scheduler_type decides on the learning rate; upstream only notes --lr_scheduler in the LoRA.
python -m accelerate.commands.launch \
  --config_file /training/outputs/cats-i2v-lightning/high/accelerate.yaml \
  --num_processes 1 \
  --num_machines 1 \
  --gpu_ids all \
  --num_cpu_threads_per_process 1 \
  --mixed_precision fp16 \
  --dynamo_backend no \
  -m musubi_tuner.wan_train_network \
  --task i2v-A14B \
  --mixed_precision fp16 \
  --save_precision fp16 \
  --network_module musubi_tuner.networks.lora_wan \
  --gradient_checkpointing \
  --gradient_accumulation_steps 1 \
  --max_grad_norm 1.0 \
  --max_data_loader_n_workers 2 \
  --persistent_data_loader_workers \
  --log_with tensorboard \
  --sdpa \
  --fp8_base \
  --fp8_scaled \
  --optimizer_type adamw8bit \
  --optimizer_args weight_decay=0.01 \
  --lr_scheduler polynomial \
  --timestep_sampling shift \
  --discrete_flow_shift 5.0 \
  --preserve_distribution_shape \
  --max_train_epochs 50 \
  --save_every_n_epochs 5 \
  --seed 42 \
  --min_timestep 900 \
  --max_timestep 1000 \
  --learning_rate 0.0001 \
  --network_dim 8 \
  --network_alpha 8 \
  --lr_scheduler_type PolynomialLR \
  --lr_scheduler_args total_iters=300 power=2.0 \
  --save_state \
  --save_last_n_epochs_state 2 \
  --dit /training/merged_dits/wan2.2_i2v_high_noise_14B_fp16-wan2.2_i2v_lightx2v_4steps_lora_v1_high_noise-2281512d.safetensors \
  --dataset_config /training/outputs/cats-i2v-lightning/high/dataset.toml \
  --output_name cats-i2v-lightning-high \
  --output_dir /training/outputs/cats-i2v-lightning/high/attempt-1 \
  --logging_dir /training/outputs/cats-i2v-lightning/high/logs/attempt-1 \
  --training_comment '{"wanwrap":"0.2.0","upstream":{"version":"0.3.4","commit":"30c658c4f4b0bf05038b3346eff9670259b10fc7"},"preset":"i2v-lightning","task":"i2v-A14B","expert":"high","boundary":900,"timesteps":[900,1000],"preserve_distribution_shape":true,"fp8":"scaled","base":{"name":"wan2.2_i2v_high_noise_14B_fp16.safetensors","dtype":"fp16","bytes":28577914792,"sha256":"c21c21efa368d529a982a7d89dd11d86608b5937cae9a125d0ffe5491918a100"},"lightning":{"name":"wan2.2_i2v_lightx2v_4steps_lora_v1_high_noise.safetensors","dtype":"fp32","bytes":1226977424,"sha256":"d176c808d6fc461999b68e321efcb7501b20b8c3797523ed0df14f7d1deff11e","strength":1.0}}'
mv high/attempt-1/cats-i2v-lightning-high-000005.safetensors \
  high/attempt-1/cats-i2v-lightning-high-000010.safetensors \
  high/attempt-1/cats-i2v-lightning-high-000015.safetensors \
  high/attempt-1/cats-i2v-lightning-high-000020.safetensors \
  high/attempt-1/cats-i2v-lightning-high-000025.safetensors \
  high/attempt-1/cats-i2v-lightning-high-000030.safetensors \
  high/attempt-1/cats-i2v-lightning-high-000035.safetensors \
  high/attempt-1/cats-i2v-lightning-high-000040.safetensors \
  high/attempt-1/cats-i2v-lightning-high-000045.safetensors \
  high/attempt-1/cats-i2v-lightning-high.safetensors \
  .

# train low
# --lr_scheduler_type decides on the learning rate; upstream only notes --lr_scheduler in the LoRA.
python -m accelerate.commands.launch \
  --config_file /training/outputs/cats-i2v-lightning/low/accelerate.yaml \
  --num_processes 1 \
  --num_machines 1 \
  --gpu_ids all \
  --num_cpu_threads_per_process 1 \
  --mixed_precision fp16 \
  --dynamo_backend no \
  -m musubi_tuner.wan_train_network \
  --task i2v-A14B \
  --mixed_precision fp16 \
  --save_precision fp16 \
  --network_module musubi_tuner.networks.lora_wan \
  --gradient_checkpointing \
  --gradient_accumulation_steps 1 \
  --max_grad_norm 1.0 \
  --max_data_loader_n_workers 2 \
  --persistent_data_loader_workers \
  --log_with tensorboard \
  --sdpa \
  --fp8_base \
  --fp8_scaled \
  --optimizer_type adamw8bit \
  --optimizer_args weight_decay=0.01 \
  --lr_scheduler polynomial \
  --timestep_sampling shift \
  --discrete_flow_shift 5.0 \
  --preserve_distribution_shape \
  --max_train_epochs 50 \
  --save_every_n_epochs 5 \
  --seed 42 \
  --min_timestep 0 \
  --max_timestep 900 \
  --learning_rate 8e-05 \
  --network_dim 42 \
  --network_alpha 42 \
  --lr_scheduler_type PolynomialLR \
  --lr_scheduler_args total_iters=300 power=2.0 \
  --save_state \
  --save_last_n_epochs_state 2 \
  --dit /training/merged_dits/wan2.2_i2v_low_noise_14B_fp16-wan2.2_i2v_lightx2v_4steps_lora_v1_low_noise-873d8731.safetensors \
  --dataset_config /training/outputs/cats-i2v-lightning/low/dataset.toml \
  --output_name cats-i2v-lightning-low \
  --output_dir /training/outputs/cats-i2v-lightning/low/attempt-1 \
  --logging_dir /training/outputs/cats-i2v-lightning/low/logs/attempt-1 \
  --training_comment '{"wanwrap":"0.2.0","upstream":{"version":"0.3.4","commit":"30c658c4f4b0bf05038b3346eff9670259b10fc7"},"preset":"i2v-lightning","task":"i2v-A14B","expert":"low","boundary":900,"timesteps":[0,900],"preserve_distribution_shape":true,"fp8":"scaled","base":{"name":"wan2.2_i2v_low_noise_14B_fp16.safetensors","dtype":"fp16","bytes":28577914792,"sha256":"edb89340c8a6fbf1a70e76a839ae01eaf7d289f05ea1ebd6b1a3fc6f533826e9"},"lightning":{"name":"wan2.2_i2v_lightx2v_4steps_lora_v1_low_noise.safetensors","dtype":"fp32","bytes":1226977424,"sha256":"024f21de095bc8fad9809ded3e9e49a2e170dcf27075da8145ba7d60d8aab7f9","strength":1.0}}'
mv low/attempt-1/cats-i2v-lightning-low-000005.safetensors \
  low/attempt-1/cats-i2v-lightning-low-000010.safetensors \
  low/attempt-1/cats-i2v-lightning-low-000015.safetensors \
  low/attempt-1/cats-i2v-lightning-low-000020.safetensors \
  low/attempt-1/cats-i2v-lightning-low-000025.safetensors \
  low/attempt-1/cats-i2v-lightning-low-000030.safetensors \
  low/attempt-1/cats-i2v-lightning-low-000035.safetensors \
  low/attempt-1/cats-i2v-lightning-low-000040.safetensors \
  low/attempt-1/cats-i2v-lightning-low-000045.safetensors \
  low/attempt-1/cats-i2v-lightning-low.safetensors \
  .
