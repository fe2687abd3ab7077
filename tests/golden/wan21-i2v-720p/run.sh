#!/usr/bin/env bash
# wanwrap 0.2.0: wan21-i2v-720p on cats: 6 items, 6 batches an epoch
# train: 300 steps in 50 epochs, rank 24
# folder: /training/outputs/cats-wan21-i2v-720p
set -euo pipefail

mkdir -p /training/outputs/cats-wan21-i2v-720p/dit
cat > /training/outputs/cats-wan21-i2v-720p/dit/accelerate.yaml <<'END'
# Read instead of the accelerate config that this account may have, so that nothing set there
# (several GPUs, DeepSpeed, CPU, another precision) changes this run.
compute_environment: LOCAL_MACHINE
distributed_type: 'NO'
use_cpu: false
debug: false
END

cat > /training/outputs/cats-wan21-i2v-720p/dit/dataset.toml <<'END'
# The data set as musubi-tuner reads it. wanwrap fills in what is yours; every key is upstream's own
# (docs/dataset_config.md there). [general] holds for all entries that don't say otherwise.

[general]
caption_extension = ".txt"  # captions lie beside their picture or clip, under the same name
enable_bucket = true  # each item keeps about its own aspect ratio
bucket_no_upscale = true  # true: smaller pictures keep their size instead of being blown up

[[datasets]]
# Pictures. Each entry has its own cache: entries that share one would delete each other's files.
image_directory = "/datasets/cats/images"
cache_directory = "/training/cache/cats/images-720x1280-i2v-clip-2a40ccfb"
resolution = [720, 1280]  # [width, height]; only the area counts, the buckets follow the items
batch_size = 1
num_repeats = 1  # how often each item is seen in an epoch

[[datasets]]
# Clips, target_frames 1, 21, resolution 1280x720.
video_directory = "/datasets/cats/videos"
cache_directory = "/training/cache/cats/videos-1280x720-i2v-clip-2e69efb9"
resolution = [1280, 720]
batch_size = 1
num_repeats = 1
source_fps = 24.0  # the clips' own rate, with a decimal point; upstream drops frames to reach 16
target_frames = [1, 21]  # 4N+1; a clip with fewer frames than this is passed over
frame_extraction = "head"  # head: from the start; uniform: frame_sample windows spread over the clip

[[datasets]]
# Clips, target_frames 45, resolution 960x544.
video_directory = "/datasets/cats/videos"
cache_directory = "/training/cache/cats/videos-960x544-i2v-clip-a79023c2"
resolution = [960, 544]
batch_size = 1
num_repeats = 1
source_fps = 24.0  # the clips' own rate, with a decimal point; upstream drops frames to reach 16
target_frames = [45]  # 4N+1; a clip with fewer frames than this is passed over
frame_extraction = "uniform"  # head: from the start; uniform: frame_sample windows spread over the clip
frame_sample = 2
END

cd /training/outputs/cats-wan21-i2v-720p
export PYTHONPATH=/musubi-tuner/src
export PYTHONUTF8=1
export PYTHONIOENCODING=utf-8
export PYTHONUNBUFFERED=1

# check caches
python -m wanwrap prune /training/outputs/cats-wan21-i2v-720p/dit/dataset.toml \
  --latents 6a166a24 \
  --text 01ba76e1

# cache latents
python -m musubi_tuner.wan_cache_latents \
  --dataset_config /training/outputs/cats-wan21-i2v-720p/dit/dataset.toml \
  --vae /training/models/split_files/vae/wan_2.1_vae.safetensors \
  --i2v \
  --clip /training/models/models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth \
  --vae_cache_cpu \
  --skip_existing

# cache text
python -m musubi_tuner.wan_cache_text_encoder_outputs \
  --dataset_config /training/outputs/cats-wan21-i2v-720p/dit/dataset.toml \
  --t5 /training/models/models_t5_umt5-xxl-enc-bf16.pth \
  --fp8_t5 \
  --skip_existing

# train
# --lr_scheduler_type decides on the learning rate; upstream only notes --lr_scheduler in the LoRA.
python -m accelerate.commands.launch \
  --config_file /training/outputs/cats-wan21-i2v-720p/dit/accelerate.yaml \
  --num_processes 1 \
  --num_machines 1 \
  --gpu_ids all \
  --num_cpu_threads_per_process 1 \
  --mixed_precision bf16 \
  --dynamo_backend no \
  -m musubi_tuner.wan_train_network \
  --task i2v-14B \
  --mixed_precision bf16 \
  --save_precision bf16 \
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
  --learning_rate 8e-05 \
  --lr_scheduler polynomial \
  --network_dim 24 \
  --network_alpha 24 \
  --timestep_sampling shift \
  --discrete_flow_shift 5.0 \
  --max_train_epochs 50 \
  --save_every_n_epochs 5 \
  --seed 42 \
  --lr_scheduler_type PolynomialLR \
  --lr_scheduler_args total_iters=300 power=2.0 \
  --save_state \
  --save_last_n_epochs_state 2 \
  --dit /training/models/split_files/diffusion_models/wan2.1_i2v_720p_14B_bf16.safetensors \
  --dataset_config /training/outputs/cats-wan21-i2v-720p/dit/dataset.toml \
  --output_name cats-wan21-i2v-720p \
  --output_dir /training/outputs/cats-wan21-i2v-720p/dit/attempt-1 \
  --logging_dir /training/outputs/cats-wan21-i2v-720p/dit/logs/attempt-1 \
  --training_comment '{"wanwrap":"0.2.0","upstream":{"version":"0.3.4","commit":"30c658c4f4b0bf05038b3346eff9670259b10fc7"},"preset":"wan21-i2v-720p","task":"i2v-14B","timesteps":[0,1000],"fp8":"scaled","base":{"name":"wan2.1_i2v_720p_14B_bf16.safetensors","dtype":"bf16","sha256":"8ef7ea5bf9eea636b9b3ebd84c40671b4a18ae2704cb4c8595cb5b25c1d8e8b9"}}'
mv dit/attempt-1/cats-wan21-i2v-720p-000005.safetensors \
  dit/attempt-1/cats-wan21-i2v-720p-000010.safetensors \
  dit/attempt-1/cats-wan21-i2v-720p-000015.safetensors \
  dit/attempt-1/cats-wan21-i2v-720p-000020.safetensors \
  dit/attempt-1/cats-wan21-i2v-720p-000025.safetensors \
  dit/attempt-1/cats-wan21-i2v-720p-000030.safetensors \
  dit/attempt-1/cats-wan21-i2v-720p-000035.safetensors \
  dit/attempt-1/cats-wan21-i2v-720p-000040.safetensors \
  dit/attempt-1/cats-wan21-i2v-720p-000045.safetensors \
  dit/attempt-1/cats-wan21-i2v-720p.safetensors \
  .
