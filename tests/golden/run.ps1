# wanwrap 0.2.0: wan21-t2v-1.3b-rtx3090 on cats: 3 items, 3 batches an epoch
# train: 100 steps in 100 epochs, rank 64
# folder: /training/outputs/cats-wan21-t2v-1.3b-rtx3090
$ErrorActionPreference = 'Stop'
$PSNativeCommandArgumentPassing = 'Legacy'  # quote arguments alike in PowerShell 5 and 7

[void][IO.Directory]::CreateDirectory('/training/outputs/cats-wan21-t2v-1.3b-rtx3090/dit')
[IO.File]::WriteAllText('/training/outputs/cats-wan21-t2v-1.3b-rtx3090/dit/accelerate.yaml', '# Read instead of the accelerate config that this account may have, so that nothing set there
# (several GPUs, DeepSpeed, CPU, another precision) changes this run.
compute_environment: LOCAL_MACHINE
distributed_type: ''NO''
use_cpu: false
debug: false
')

[IO.File]::WriteAllText('/training/outputs/cats-wan21-t2v-1.3b-rtx3090/dit/dataset.toml', '# The data set as musubi-tuner reads it. wanwrap fills in what is yours; every key is upstream''s own
# (docs/dataset_config.md there). [general] holds for all entries that don''t say otherwise.

[general]
caption_extension = ".txt"  # captions lie beside their picture or clip, under the same name
enable_bucket = true  # each item keeps about its own aspect ratio
bucket_no_upscale = false  # true: smaller pictures keep their size instead of being blown up

[[datasets]]
# Pictures. Each entry has its own cache: entries that share one would delete each other''s files.
image_directory = "/datasets/cats/images"
cache_directory = "/training/cache/cats/images-512x512-t2v-2b4dfce4"
resolution = [512, 512]  # [width, height]; only the area counts, the buckets follow the items
batch_size = 1
num_repeats = 1  # how often each item is seen in an epoch

[[datasets]]
# Clips, target_frames 33, resolution 832x480.
video_directory = "/datasets/cats/videos"
cache_directory = "/training/cache/cats/videos-832x480-t2v-1a8b88b2"
resolution = [832, 480]
batch_size = 1
num_repeats = 1
source_fps = 24.0  # the clips'' own rate, with a decimal point; upstream drops frames to reach 16
target_frames = [33]  # 4N+1; a clip with fewer frames than this is passed over
frame_extraction = "head"  # head: from the start; uniform: frame_sample windows spread over the clip
')

Set-Location -LiteralPath '/training/outputs/cats-wan21-t2v-1.3b-rtx3090'
$ErrorActionPreference = 'Continue'  # PowerShell 5 takes a line on stderr, as of a progress bar, for an error
$env:PYTHONPATH = '/musubi-tuner/src'
$env:PYTHONUTF8 = '1'
$env:PYTHONIOENCODING = 'utf-8'
$env:PYTHONUNBUFFERED = '1'
$env:NCCL_P2P_DISABLE = '1'
$env:NCCL_IB_DISABLE = '1'
$env:PYTORCH_CUDA_ALLOC_CONF = 'expandable_segments:True'

# check caches
$global:LASTEXITCODE = 1
& 'python' '-m' 'wanwrap' 'prune' '/training/outputs/cats-wan21-t2v-1.3b-rtx3090/dit/dataset.toml' `
  '--latents' 'cd5f44ba' `
  '--text' '01ba76e1'
if ($LASTEXITCODE) { exit $LASTEXITCODE }

# cache latents
$global:LASTEXITCODE = 1
& 'python' '-m' 'musubi_tuner.wan_cache_latents' `
  '--dataset_config' '/training/outputs/cats-wan21-t2v-1.3b-rtx3090/dit/dataset.toml' `
  '--vae' '/training/models/split_files/vae/wan_2.1_vae.safetensors' `
  '--skip_existing'
if ($LASTEXITCODE) { exit $LASTEXITCODE }

# cache text
$global:LASTEXITCODE = 1
& 'python' '-m' 'musubi_tuner.wan_cache_text_encoder_outputs' `
  '--dataset_config' '/training/outputs/cats-wan21-t2v-1.3b-rtx3090/dit/dataset.toml' `
  '--t5' '/training/models/models_t5_umt5-xxl-enc-bf16.pth' `
  '--fp8_t5' `
  '--skip_existing'
if ($LASTEXITCODE) { exit $LASTEXITCODE }

# train
$global:LASTEXITCODE = 1
& 'python' '-m' 'accelerate.commands.launch' `
  '--config_file' '/training/outputs/cats-wan21-t2v-1.3b-rtx3090/dit/accelerate.yaml' `
  '--num_processes' '1' `
  '--num_machines' '1' `
  '--gpu_ids' 'all' `
  '--num_cpu_threads_per_process' '1' `
  '--mixed_precision' 'bf16' `
  '--dynamo_backend' 'no' `
  '-m' 'musubi_tuner.wan_train_network' `
  '--task' 't2v-1.3B' `
  '--mixed_precision' 'bf16' `
  '--save_precision' 'bf16' `
  '--network_module' 'musubi_tuner.networks.lora_wan' `
  '--gradient_checkpointing' `
  '--gradient_accumulation_steps' '4' `
  '--max_grad_norm' '1.0' `
  '--max_data_loader_n_workers' '2' `
  '--persistent_data_loader_workers' `
  '--log_with' 'tensorboard' `
  '--sdpa' `
  '--optimizer_type' 'adamw8bit' `
  '--optimizer_args' 'betas=(0.9,0.99)' 'weight_decay=0.01' `
  '--learning_rate' '5e-05' `
  '--lr_scheduler' 'constant' `
  '--network_dim' '64' `
  '--network_alpha' '64' `
  '--timestep_sampling' 'sigmoid' `
  '--sigmoid_scale' '1.0' `
  '--blocks_to_swap' '2' `
  '--max_train_epochs' '100' `
  '--save_every_n_epochs' '10' `
  '--seed' '42' `
  '--save_state' `
  '--save_last_n_epochs_state' '2' `
  '--dit' '/training/models/split_files/diffusion_models/wan2.1_t2v_1.3B_bf16.safetensors' `
  '--dataset_config' '/training/outputs/cats-wan21-t2v-1.3b-rtx3090/dit/dataset.toml' `
  '--output_name' 'cats-wan21-t2v-1.3b-rtx3090' `
  '--output_dir' '/training/outputs/cats-wan21-t2v-1.3b-rtx3090/dit/attempt-1' `
  '--logging_dir' '/training/outputs/cats-wan21-t2v-1.3b-rtx3090/dit/logs/attempt-1' `
  '--training_comment' '{\"wanwrap\":\"0.2.0\",\"upstream\":{\"version\":\"0.3.4\",\"commit\":\"30c658c4f4b0bf05038b3346eff9670259b10fc7\"},\"preset\":\"wan21-t2v-1.3b-rtx3090\",\"task\":\"t2v-1.3B\",\"timesteps\":[0,1000],\"base\":{\"name\":\"wan2.1_t2v_1.3B_bf16.safetensors\",\"dtype\":\"bf16\",\"sha256\":\"6f999b0d6cb9a72b3d98ac386ed96f57f8cecae13994a69232514ea4974ad5fd\"}}'
if ($LASTEXITCODE) { exit $LASTEXITCODE }
Move-Item -ErrorAction Stop -Force -Destination . -LiteralPath `
  'dit/attempt-1/cats-wan21-t2v-1.3b-rtx3090-000010.safetensors', `
  'dit/attempt-1/cats-wan21-t2v-1.3b-rtx3090-000020.safetensors', `
  'dit/attempt-1/cats-wan21-t2v-1.3b-rtx3090-000030.safetensors', `
  'dit/attempt-1/cats-wan21-t2v-1.3b-rtx3090-000040.safetensors', `
  'dit/attempt-1/cats-wan21-t2v-1.3b-rtx3090-000050.safetensors', `
  'dit/attempt-1/cats-wan21-t2v-1.3b-rtx3090-000060.safetensors', `
  'dit/attempt-1/cats-wan21-t2v-1.3b-rtx3090-000070.safetensors', `
  'dit/attempt-1/cats-wan21-t2v-1.3b-rtx3090-000080.safetensors', `
  'dit/attempt-1/cats-wan21-t2v-1.3b-rtx3090-000090.safetensors', `
  'dit/attempt-1/cats-wan21-t2v-1.3b-rtx3090.safetensors'
