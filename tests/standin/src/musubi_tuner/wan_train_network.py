import os
import signal
import sys
import time
from pathlib import Path

from musubi_tuner.standin import datasets, header, parse, save

MISCHIEF = os.environ.get("STANDIN_DO", "")


def refuse(args):
    """What upstream refuses before, or finds missing while, it trains."""
    assert args.dataset_config and args.dit, "dataset_config and dit are required"
    assert not args.fp8_scaled or args.fp8_base, "fp8_scaled requires fp8_base"
    assert not args.sage_attn, "SageAttention doesn't support training"
    rows = header(args.dit)
    row = rows.get("blocks.0.cross_attn.k.weight") or rows["model.diffusion_model.blocks.0.cross_attn.k.weight"]
    wanted = {"F16": ["fp16", "no"], "BF16": ["bf16", "no"]}.get(row["dtype"], ["fp16", "bf16"])
    assert args.mixed_precision in wanted, f"mixed precision must be {wanted}"
    assert row["dtype"] != "F8_E4M3" or not args.fp8_scaled, "DiT weights is already in fp8 format"
    assert args.sdpa or args.xformers or args.flash_attn or args.flash3, "no attention"
    assert (args.blocks_to_swap or 0) <= (29 if "1.3B" in args.task else 39), "Cannot swap more"
    assert args.optimizer_type, "module 'torch.optim' has no attribute ''"
    assert args.network_module and args.output_name and args.output_dir
    assert not args.log_with or args.logging_dir, "logging_dir is required"
    for entry in datasets(args.dataset_config):
        cached = sorted(Path(entry["cache_directory"]).glob("*_wan.safetensors"))
        assert cached, "No training items found in the dataset"
        assert list(Path(entry["cache_directory"]).glob("*_wan_te.safetensors")), "No training items found"
        keys = header(cached[0])
        assert not args.task.startswith("i2v") or "latents_image" in keys, "KeyError: 'latents_image'"
        assert args.task != "i2v-14B" or "clip" in keys, "KeyError: 'clip'"


if __name__ == "__main__":
    args = parse("wan_train_network.py")
    refuse(args)
    arguments = dict(pair.split("=") for pair in args.lr_scheduler_args or [])
    planned = arguments.get("total_iters") or arguments.get("num_training_steps") or arguments.get("num_steps")
    steps = int(planned or 4) // int(os.environ.get("WORLD_SIZE", 1)) + (MISCHIEF == "disagree")
    if planned:
        print(f"  total optimization steps / 学習ステップ数: {steps}", flush=True)
    if MISCHIEF == "fail":
        sys.exit("RuntimeError: the stand-in was told to fail")
    if MISCHIEF == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if MISCHIEF == "deaf":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if MISCHIEF in ("sleep", "deaf", "disagree"):
        (Path(os.environ["STANDIN_RECORD"]).parent / "asleep").write_text(str(os.getpid()))
        time.sleep(60)
    for done in range(1, steps + 1):
        print(
            f"\rsteps: {100 * done // steps:3d}%|#####| {done}/{steps} [00:01<00:01,  1.00s/it, avr_loss=0.05]",
            end="",
            file=sys.stderr,
        )
    save(Path(args.output_dir) / f"{args.output_name}.safetensors", args.network_dim)
