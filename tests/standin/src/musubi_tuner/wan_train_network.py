import json
import math
import os
import shutil
import signal
import sys
import time
import zipfile
from pathlib import Path

from musubi_tuner.standin import batches, cached, datasets, header, parse, parser_of, save

if __name__ != "__main__":  # the check before a run builds
    from musubi_tuner.building import WAN_CONFIGS, WanModel, WanNetworkTrainer  # noqa: F401

MISCHIEF, _, AT = os.environ.get("STANDIN_DO", "").partition(":")
AT = int(AT) if AT.isdecimal() else 0


def setup_parser_common():
    return None


def wan_setup_parser(_):
    return parser_of("wan_train_network.py")


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
        latents = cached(entry)
        assert latents, "No training items found in the dataset"
        assert list(Path(entry["cache_directory"]).glob("*_wan_te.safetensors")), "No training items found"
        keys = header(latents[0])
        assert not args.task.startswith("i2v") or "latents_image" in keys, "KeyError: 'latents_image'"
        assert args.task != "i2v-14B" or "clip" in keys, "KeyError: 'clip'"


def steps_of(args):
    """Optimizer steps of an epoch and of all, as upstream counts them."""
    processes = int(os.environ.get("WORLD_SIZE", 1))
    per_epoch = math.ceil(batches(args.dataset_config) / (args.gradient_accumulation_steps * processes))
    total = per_epoch * args.max_train_epochs if args.max_train_epochs else args.max_train_steps
    return per_epoch, total


def state(args, name, done):
    """What accelerate leaves, in its order; the network's numbers tell its steps, or that it broke."""
    folder = Path(args.output_dir) / name
    folder.mkdir(parents=True, exist_ok=True)
    learned = math.nan if MISCHIEF == "nan" and done > AT else float(done)
    save(folder / "model.safetensors", args.network_dim, learned=learned)
    for file in ("optimizer.bin", "scheduler.bin", "random_states_0.pkl"):
        with zipfile.ZipFile(folder / file, "w") as archive:
            archive.writestr("data.pkl", json.dumps({"steps": done}))


def lora(args, name, steps, epoch):
    told = {"ss_steps": steps, "ss_epoch": epoch, "ss_seed": args.seed, "ss_network_alpha": args.network_alpha}
    told |= {"ss_training_comment": args.training_comment, "ss_network_dim": args.network_dim}
    print(f"\nsaving checkpoint: {name}.safetensors", flush=True)
    Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    save(Path(args.output_dir) / f"{name}.safetensors", args.network_dim, {k: str(v) for k, v in told.items()})


def sample(args, epoch):
    if args.sample_prompts and args.sample_every_n_epochs and epoch % args.sample_every_n_epochs == 0:
        folder = Path(args.output_dir) / "sample"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{args.output_name}_e{epoch:06d}_00_20261120120000_42.png").touch()


class Curves:
    """What upstream's tensorboard writes, where STANDIN_CURVES asks for it."""

    def __init__(self, args):
        self.file = None
        if os.environ.get("STANDIN_CURVES"):
            sys.path.append(str(Path(__file__).resolve().parents[3]))
            folder = Path(args.logging_dir) / "20261120120000" / "network_train"
            folder.mkdir(parents=True)
            self.file = (folder / "events.out.tfevents.1").open("wb")

    def add(self, step, loss):
        if self.file:
            from tfevents import record, scalar

            self.file.write(record(scalar("loss/current", step, loss)))
            self.file.flush()


def draw(done, steps, loss):
    bar = f"{100 * done // steps:3d}%|#####| {done}/{steps} [00:01<00:01,  1.00s/it, avr_loss={loss}]"
    print(f"\rsteps: {bar}", end="", file=sys.stderr, flush=True)
    time.sleep(float(os.environ.get("STANDIN_PACE", "0")))


def train(args):
    per_epoch, steps = steps_of(args)
    steps += MISCHIEF == "disagree"
    print(f"  total optimization steps / 学習ステップ数: {steps}", flush=True)
    before = 0
    if args.resume:
        with zipfile.ZipFile(Path(args.resume) / "optimizer.bin") as archive:
            before = json.loads(archive.read("data.pkl"))["steps"]
    misbehave(args)
    epochs = math.ceil(steps / per_epoch)
    curves = Curves(args)
    for epoch in range(1, epochs + 1):
        print(f"\nepoch {epoch}/{epochs}", flush=True)
        for done in range((epoch - 1) * per_epoch + 1, min(epoch * per_epoch, steps) + 1):
            broken = MISCHIEF == "nan" and before + done > AT
            hiccup = MISCHIEF == "hiccup" and before + done >= AT  # one loss, and so the mean for good
            curves.add(done, float("nan") if broken or (before + done == AT and hiccup) else 0.05)
            draw(done, steps, "nan" if broken or hiccup else "0.05")
            if before + done == AT + 8 and (broken or hiccup):  # all of it is seen before it ends
                time.sleep(60 if broken else 1.5)
        sample(args, epoch)
        if epoch < epochs and args.save_every_n_epochs and epoch % args.save_every_n_epochs == 0:
            number = f"{args.output_name}-{epoch:06d}"
            lora(args, number, epoch * per_epoch, epoch)
            if MISCHIEF == "full":
                (Path(args.output_dir) / f"{number}.safetensors").write_bytes(b"half")
                sys.exit("OSError: [Errno 28] No space left on device")
            state(args, f"{number}-state", before + epoch * per_epoch)
            old = epoch - args.save_every_n_epochs * args.save_last_n_epochs_state
            shutil.rmtree(Path(args.output_dir) / f"{args.output_name}-{old:06d}-state", ignore_errors=True)
        if MISCHIEF == "after" and before + epoch * per_epoch >= AT:
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
    state(args, f"{args.output_name}-state", before + steps)
    if MISCHIEF == "last":  # no record can be written any more
        (Path(args.output_dir).parent / "record.json.wanwrap-part").mkdir()
    lora(args, args.output_name, steps, epochs)


def misbehave(args):
    """What goes wrong before the first step."""
    if MISCHIEF == "fail":
        sys.exit("RuntimeError: the stand-in was told to fail")
    if MISCHIEF == "oom" and (args.blocks_to_swap or 0) < AT:
        sys.exit("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.")
    if MISCHIEF == "kill":
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
    if MISCHIEF == "deaf":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if MISCHIEF in ("sleep", "deaf", "disagree"):
        (Path(os.environ["STANDIN_RECORD"]).parent / "asleep").write_text(str(os.getpid()))
        time.sleep(60)


if __name__ == "__main__":
    args = parse("wan_train_network.py")
    if os.environ.get("STANDIN_ONLY", "") not in args.output_name:
        MISCHIEF = ""
    refuse(args)
    train(args)
