#!/usr/bin/env bash
# wanwrap 0.2.0: t2v-style on cats: 2 items, 2 batches an epoch
# train high: 200 steps in 100 epochs, rank 16
# train low: 200 steps in 100 epochs, rank 16
# folder: /training/outputs/cats-t2v-style
set -euo pipefail

mkdir -p /training/outputs/cats-t2v-style/high /training/outputs/cats-t2v-style/low
cat > /training/outputs/cats-t2v-style/high/accelerate.yaml <<'END'
# Read instead of the accelerate config that this account may have, so that nothing set there
# (several GPUs, DeepSpeed, CPU, another precision) changes this run.
compute_environment: LOCAL_MACHINE
distributed_type: 'NO'
use_cpu: false
debug: false
END

cat > /training/outputs/cats-t2v-style/high/dataset.toml <<'END'
# The data set as musubi-tuner reads it. wanwrap fills in what is yours; every key is upstream's own
# (docs/dataset_config.md there). [general] holds for all entries that don't say otherwise.

[general]
caption_extension = ".txt"  # captions lie beside their picture or clip, under the same name
enable_bucket = true  # each item keeps about its own aspect ratio
bucket_no_upscale = false  # true: smaller pictures keep their size instead of being blown up

[[datasets]]
# Pictures. Each entry has its own cache: entries that share one would delete each other's files.
image_directory = "/datasets/cats/images"
cache_directory = "/training/cache/cats/images-960x960-t2v-11aee4fd"
resolution = [960, 960]  # [width, height]; only the area counts, the buckets follow the items
batch_size = 1
num_repeats = 1  # how often each item is seen in an epoch
END

cp /training/outputs/cats-t2v-style/high/accelerate.yaml /training/outputs/cats-t2v-style/low/accelerate.yaml
cp /training/outputs/cats-t2v-style/high/dataset.toml /training/outputs/cats-t2v-style/low/dataset.toml
cd /training/outputs/cats-t2v-style
export PYTHONPATH=/musubi-tuner/src
export PYTHONUTF8=1
export PYTHONIOENCODING=utf-8
export PYTHONUNBUFFERED=1

# check caches
python -m wanwrap prune /training/outputs/cats-t2v-style/high/dataset.toml \
  --latents cd5f44ba \
  --text 9e019d56

# cache latents
python -m musubi_tuner.wan_cache_latents \
  --dataset_config /training/outputs/cats-t2v-style/high/dataset.toml \
  --vae /training/models/split_files/vae/wan_2.1_vae.safetensors \
  --skip_existing

# cache text
python -m musubi_tuner.wan_cache_text_encoder_outputs \
  --dataset_config /training/outputs/cats-t2v-style/high/dataset.toml \
  --t5 /training/models/models_t5_umt5-xxl-enc-bf16.pth \
  --skip_existing

# train high
# --lr_scheduler_type decides on the learning rate; upstream only notes --lr_scheduler in the LoRA.
python -m accelerate.commands.launch \
  --config_file /training/outputs/cats-t2v-style/high/accelerate.yaml \
  --num_processes 1 \
  --num_machines 1 \
  --gpu_ids all \
  --num_cpu_threads_per_process 1 \
  --mixed_precision fp16 \
  --dynamo_backend no \
  -m musubi_tuner.wan_train_network \
  --task t2v-A14B \
  --mixed_precision fp16 \
  --save_precision fp16 \
  --network_module musubi_tuner.networks.lora_wan \
  --gradient_checkpointing \
  --gradient_accumulation_steps 1 \
  --max_grad_norm 0.0 \
  --max_data_loader_n_workers 2 \
  --persistent_data_loader_workers \
  --log_with tensorboard \
  --xformers \
  --fp8_base \
  --fp8_scaled \
  --optimizer_type adamw \
  --optimizer_args weight_decay=0.1 \
  --learning_rate 0.0003 \
  --lr_scheduler polynomial \
  --network_dim 16 \
  --network_alpha 16 \
  --timestep_sampling shift \
  --discrete_flow_shift 1.0 \
  --preserve_distribution_shape \
  --max_train_epochs 100 \
  --save_every_n_epochs 25 \
  --seed 5 \
  --min_timestep 875 \
  --max_timestep 1000 \
  --lr_scheduler_type PolynomialLR \
  --lr_scheduler_args total_iters=200 power=8.0 \
  --save_state \
  --save_last_n_epochs_state 2 \
  --dit /training/models/split_files/diffusion_models/wan2.2_t2v_high_noise_14B_fp16.safetensors \
  --dataset_config /training/outputs/cats-t2v-style/high/dataset.toml \
  --output_name cats-t2v-style-high \
  --output_dir /training/outputs/cats-t2v-style/high/attempt-1 \
  --logging_dir /training/outputs/cats-t2v-style/high/logs/attempt-1 \
  --training_comment '{"wanwrap":"0.2.0","upstream":{"version":"0.3.4","commit":"30c658c4f4b0bf05038b3346eff9670259b10fc7"},"preset":"t2v-style","task":"t2v-A14B","expert":"high","boundary":875,"timesteps":[875,1000],"preserve_distribution_shape":true,"fp8":"scaled","base":{"name":"wan2.2_t2v_high_noise_14B_fp16.safetensors","dtype":"fp16","bytes":28577095592,"sha256":"c793e1515320fc8883ac8f97e2a45270c35edd8c4e334a6d42d3e95455bd8da2"}}'
mv high/attempt-1/cats-t2v-style-high-000025.safetensors \
  high/attempt-1/cats-t2v-style-high-000050.safetensors \
  high/attempt-1/cats-t2v-style-high-000075.safetensors \
  high/attempt-1/cats-t2v-style-high.safetensors \
  .

# train low
# --lr_scheduler_type decides on the learning rate; upstream only notes --lr_scheduler in the LoRA.
python -m accelerate.commands.launch \
  --config_file /training/outputs/cats-t2v-style/low/accelerate.yaml \
  --num_processes 1 \
  --num_machines 1 \
  --gpu_ids all \
  --num_cpu_threads_per_process 1 \
  --mixed_precision fp16 \
  --dynamo_backend no \
  -m musubi_tuner.wan_train_network \
  --task t2v-A14B \
  --mixed_precision fp16 \
  --save_precision fp16 \
  --network_module musubi_tuner.networks.lora_wan \
  --gradient_checkpointing \
  --gradient_accumulation_steps 1 \
  --max_grad_norm 0.0 \
  --max_data_loader_n_workers 2 \
  --persistent_data_loader_workers \
  --log_with tensorboard \
  --xformers \
  --fp8_base \
  --fp8_scaled \
  --optimizer_type adamw \
  --optimizer_args weight_decay=0.1 \
  --learning_rate 0.0003 \
  --lr_scheduler polynomial \
  --network_dim 16 \
  --network_alpha 16 \
  --timestep_sampling shift \
  --discrete_flow_shift 1.0 \
  --preserve_distribution_shape \
  --max_train_epochs 100 \
  --save_every_n_epochs 25 \
  --seed 5 \
  --min_timestep 0 \
  --max_timestep 875 \
  --lr_scheduler_type PolynomialLR \
  --lr_scheduler_args total_iters=200 power=8.0 \
  --save_state \
  --save_last_n_epochs_state 2 \
  --dit /training/models/split_files/diffusion_models/wan2.2_t2v_low_noise_14B_fp16.safetensors \
  --dataset_config /training/outputs/cats-t2v-style/low/dataset.toml \
  --output_name cats-t2v-style-low \
  --output_dir /training/outputs/cats-t2v-style/low/attempt-1 \
  --logging_dir /training/outputs/cats-t2v-style/low/logs/attempt-1 \
  --training_comment '{"wanwrap":"0.2.0","upstream":{"version":"0.3.4","commit":"30c658c4f4b0bf05038b3346eff9670259b10fc7"},"preset":"t2v-style","task":"t2v-A14B","expert":"low","boundary":875,"timesteps":[0,875],"preserve_distribution_shape":true,"fp8":"scaled","base":{"name":"wan2.2_t2v_low_noise_14B_fp16.safetensors","dtype":"fp16","bytes":28577095592,"sha256":"431d1613ffa809ae1f735b661a01788c6d74991f51efd01f45d5aee955ccd224"}}'
mv low/attempt-1/cats-t2v-style-low-000025.safetensors \
  low/attempt-1/cats-t2v-style-low-000050.safetensors \
  low/attempt-1/cats-t2v-style-low-000075.safetensors \
  low/attempt-1/cats-t2v-style-low.safetensors \
  .
