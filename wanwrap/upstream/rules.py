"""Training settings that upstream would refuse late, ignore, or take for something else.

Only what needs no torch stands here; what upstream itself makes of the rest, probe.py finds out before a run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from wanwrap.errors import OptionError, closest
from wanwrap.upstream import dit
from wanwrap.upstream.options import Options, arguments, called, number, texts, whole

Window = tuple[int, int]  # timesteps
ALL: Window = (0, 1000)

# An optimizer's name is upstream's own, in any case, or one of torch.optim's; all others are given by their whole path.
OWN_OPTIMIZERS = {
    "adamw": "torch.optim:AdamW",
    "adamw8bit": "bitsandbytes.optim:AdamW8bit",
    "adafactor": "transformers.optimization:Adafactor",
}
# LBFGS and SparseAdam can't train a LoRA: one wants a closure, the other sparse gradients.
TORCH_OPTIMIZERS = "ASGD Adadelta Adafactor Adagrad Adam AdamW Adamax Muon NAdam RAdam RMSprop Rprop SGD"
# What upstream wants for a DiT of each type. It refuses the other one for fp16 and bf16; fp8 and fp32 take both.
PRECISION = {"fp16": "fp16", "bf16": "bf16", "fp32": "bf16", "fp8": "bf16"}
ATTENTION_MODULES = {"xformers": "xformers.ops", "flash_attn": "flash_attn", "flash3": "flash_attn_interface"}

# The least and, excluded, the most that makes sense: upstream takes any number.
WHOLE, POSITIVE, SHARE = (1.0, math.inf), (math.ulp(0.0), math.inf), (0.0, 1.0)
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("max_train_epochs", "max_train_steps", "gradient_accumulation_steps", "network_dim"), WHOLE),
    **dict.fromkeys(("save_every_n_epochs", "save_last_n_epochs", "sample_every_n_epochs"), WHOLE),
    **dict.fromkeys(("sample_every_n_steps", "lr_scheduler_num_cycles", "block_swap_ring_size"), WHOLE),
    **dict.fromkeys(("learning_rate", "network_alpha", "discrete_flow_shift", "sigmoid_scale"), POSITIVE),
    **dict.fromkeys(("scale_weight_norms", "logit_std"), POSITIVE),
    "network_dropout": SHARE,
    "lr_scheduler_min_lr_ratio": SHARE,
    **dict.fromkeys(("max_data_loader_n_workers", "lr_scheduler_power"), (0.0, math.inf)),
    "max_grad_norm": (0.0, math.inf),  # 0 is off; a negative one multiplies the gradients by a negative number
    "seed": (0.0, 2.0**32),
}
# All that upstream's networks read for Wan (networks/lora.py, lokr.py), with the range of each that is a number; others
# they ignore, and conv_dim and conv_alpha do nothing: no trained block of Wan's has a convolution.
NETWORK_ARGS: dict[str, tuple[float, float] | None] = {
    **dict.fromkeys(("rank_dropout", "module_dropout"), SHARE),
    **dict.fromkeys(("verbose", "exclude_patterns", "include_patterns"), None),
}
NETWORKS = {"lora_wan": {"loraplus_lr_ratio": POSITIVE}, "loha": {}, "lokr": {"factor": (-1.0, math.inf)}}  # own ones
# Options that do nothing, or fail, without another one.
IDLE_WITHOUT = {
    "fp8_scaled": "fp8_base",
    **dict.fromkeys(("fp8_t5", "vae_cache_cpu", "vae_dtype", "one_frame"), "sample_prompts"),  # caching has its own
    "block_swap_ring_size": "block_swap_h2d_only",
    **dict.fromkeys(("compile_backend", "compile_mode", "compile_dynamic", "compile_fullgraph"), "compile"),
    **dict.fromkeys(("dynamo_mode", "dynamo_fullgraph", "dynamo_dynamic"), "dynamo_backend"),
}
SAMPLING = {"sample_every_n_epochs", "sample_every_n_steps", "sample_at_first"}
# Upstream draws up to 1000 times for a timestep within the window, then takes one outside of it without a word.
# At 0.5 % a draw that happens to 7 steps in 1000; the rarest window of a preset is at 1.4 %.
RAREST = 0.005
HIGHEST_RATE = 1e-3  # of published recipes, which use 1e-5 and more; Prodigy finds its own rate from about 1


def check(options: Options, dtype: str, *, samples: bool) -> None:
    """Raises OptionError: what upstream finds only after the caching, or never.

    `dtype` is the DiT's, `samples` whether there are prompts for some.
    """
    for name, limits in RANGES.items():
        if options.get(name) is not None:
            _check_range(f"{called(name)} {options[name]}", str(options[name]), limits)
    blocks, swap = dit.blocks(str(options["task"])), whole(options, "blocks_to_swap", 0)
    said = f"--blocks_to_swap {swap} (this model has {blocks} blocks, of which {blocks - 1} at most can be swapped)"
    _check_range(said, str(swap), (0.0, blocks))
    _check_network(options)
    _check_optimizer(options)
    _check_together(options, dtype, samples=samples)
    _check_timesteps(options)


def _check_range(said: str, word: str, limits: tuple[float, float]) -> None:
    least, most = limits
    try:
        fits = least <= float(word) < most
    except ValueError:
        fits = False
    if not fits:
        low = "above 0" if limits is POSITIVE else f"{least:g} at least"
        raise OptionError(f"{said}: it must be a number, {low}{f' and less than {most:g}' if most < math.inf else ''}.")


def _check_network(options: Options) -> None:
    """Raises OptionError: a network of upstream's for another model, or arguments that its own would ignore."""
    home, _, name = str(options["network_module"]).removeprefix("musubi_tuner.").rpartition(".")
    if home != "networks":
        return  # somebody's own
    if name not in NETWORKS:
        raise OptionError(f"--network_module {name} is for another model than Wan; take one of {', '.join(NETWORKS)}.")
    known = {**NETWORK_ARGS, **NETWORKS[name]}
    for key, value in arguments(options, "network_args").items():
        if key not in known:
            raise OptionError(f"upstream ignores --network_args {key}.{closest(key, known)}")
        if limits := known[key]:
            _check_range(f"--network_args {key}={value}", value, limits)


def _check_optimizer(options: Options) -> None:
    """Raises OptionError: neither upstream nor torch.optim has one of that name, or it would take no notice of --lr."""
    name, known = str(options["optimizer_type"]), [*OWN_OPTIMIZERS, *TORCH_OPTIMIZERS.split()]
    if "." not in name and name.lower() not in OWN_OPTIMIZERS and name not in known:
        raise OptionError(
            f"--optimizer {name!r} is unknown: take {', '.join(OWN_OPTIMIZERS)}, one of torch.optim's, or the whole path "
            f"of a class (prodigyopt.Prodigy).{closest(name, known) if name else ''}"
        )
    home, _, optimizer = optimizer_class(name).partition(":")
    given = texts(options, "optimizer_args")
    ignores = optimizer == "Adafactor" and home.startswith("transformers")  # torch's own takes --lr
    if ignores and ("relative_step=False" not in given or "warmup_init=True" in given):
        raise OptionError(
            "adafactor takes no notice of --lr and --scheduler unless it is told to: add -- --optimizer_args "
            "relative_step=False scale_parameter=False warmup_init=False."
        )


def optimizer_class(name: str) -> str:
    """`module:class` of an optimizer, where upstream looks for it."""
    module, _, attribute = name.rpartition(".")
    return OWN_OPTIMIZERS.get(name.lower()) or f"{module or 'torch.optim'}:{attribute}"


def late_imports(options: Options) -> list[str]:
    """What upstream imports only when it trains, as `module` or `module:attribute`."""
    found = [module for name, module in ATTENTION_MODULES.items() if options.get(name)]
    found += [name for name in ("tensorboard", "wandb") if options.get("log_with") in (name, "all")]
    return [*found, optimizer_class(str(options["optimizer_type"]))]


def _check_together(options: Options, dtype: str, *, samples: bool) -> None:
    """Options that contradict each other or the DiT, or of which one needs the other."""
    allowed = [dtype] if dtype in ("fp16", "bf16") else ["bf16", "fp16"]
    if options["mixed_precision"] not in allowed:
        raise OptionError(
            f"--mixed_precision must be {' or '.join(allowed)} for a DiT in {dtype}; with others upstream fails "
            "(--precision casts the DiT)."
        )
    if None not in (options.get("max_train_epochs"), options.get("max_train_steps")):
        raise OptionError("upstream ignores --max_train_steps beside --max_train_epochs (--epochs); give one of them.")
    sampling, scheme = options.get("timestep_sampling"), options.get("weighting_scheme")
    if sampling != "sigma" and scheme in ("logit_normal", "mode"):
        raise OptionError(f"upstream ignores --weighting_scheme {scheme} with timestep_sampling {sampling}.")
    if sampling != "shift" and options.get("discrete_flow_shift") is not None:
        raise OptionError(f"upstream ignores --flow_shift with timestep_sampling {sampling}.")
    prompts = bool(samples or options.get("sample_prompts"))
    if prompts != any(options.get(name) for name in SAMPLING):
        raise OptionError("samples need both --sample_prompts FILE and how often: --sample_every_n_epochs 5.")
    for name, other in IDLE_WITHOUT.items():
        if options.get(name) and not (options.get(other) or (prompts and other == "sample_prompts")):
            raise OptionError(f"--{name} needs --{other} beside it; give both, or neither.")


def window(options: Options) -> Window:
    """The timesteps that are trained."""
    return whole(options, "min_timestep", ALL[0]), whole(options, "max_timestep", ALL[1])


def _check_timesteps(options: Options) -> None:
    """Raises OptionError: upstream would train other timesteps than the options say."""
    (low, high), how = window(options), options.get("timestep_sampling")
    if not 0 <= low < high <= 1000:
        raise OptionError(
            f"--min_timestep {low} and --max_timestep {high}: they must lie within 0 to 1000, the smaller one first."
        )
    if how == "sigma" and (low, high) != ALL:
        raise OptionError("--timestep_sampling sigma turns the timestep window around; take shift, sigmoid or uniform.")
    share = drawn_within(options, low / 1000, high / 1000)
    if options.get("preserve_distribution_shape") and share is not None and share < RAREST:
        raise OptionError(
            f"only {share:.2%} of the timesteps that {how} draws lie within {low} to {high}, too few for upstream to find; "
            f"widen the window, or leave it out{', or raise --flow_shift' if how == 'shift' and high == ALL[1] else ''}."
        )


def compare_windows(own: Window, trained: Window, expert: str) -> Iterator[str]:
    """A remark on timesteps that are not the expert's own, or not all of them.

    Raises:
        OptionError: none of them is.
    """
    if trained[1] <= own[0] or own[1] <= trained[0]:
        raise OptionError(
            f"--min_timestep {trained[0]} and --max_timestep {trained[1]} hold none of the {expert}-noise expert's "
            f"timesteps ({own[0]} to {own[1]}); train the other expert on them (--noise_level), or leave them out."
        )
    if own != trained:
        yield (
            f"the {expert}-noise expert is trained on timesteps {trained[0]} to {trained[1]}; at inference it is used "
            f"from {own[0]} to {own[1]}."
        )


def drawn_within(options: Options, low: float, high: float) -> float | None:
    """The share of draws between `low` and `high` (0 to 1); None for a sampling whose shape is not known here."""
    how, scale = options.get("timestep_sampling"), number(options, "sigmoid_scale", 1.0)
    if how == "uniform":
        return high - low
    if how not in ("sigmoid", "shift"):
        return None
    shift = number(options, "discrete_flow_shift", 1.0) if how == "shift" else 1.0

    def below(t: float) -> float:
        """P(T < t) for T = s / (1 + (shift - 1) s) * shift with s = sigmoid(scale * normal)."""
        if t <= 0 or t >= 1:
            return float(t >= 1)
        s = t / (shift - (shift - 1) * t)
        return (1 + math.erf(math.log(s / (1 - s)) / scale / math.sqrt(2))) / 2

    return below(high) - below(low)


def remarks(options: Options, gpus: int) -> Iterator[str]:
    """What is allowed and may not be meant."""
    rate, prodigy = number(options, "learning_rate", 0.0), "prodigy" in str(options["optimizer_type"]).lower()
    if prodigy and rate < 0.1:
        yield f"--lr {rate:g} holds Prodigy back: it finds the rate itself, and wants --lr 1."
    elif rate > HIGHEST_RATE and not prodigy:
        yield f"--lr {rate:g} is above what published recipes use (1e-5 to 1e-3)."
    if gpus > 1 and whole(options, "blocks_to_swap", 0):
        yield "users report trouble with --blocks_to_swap on several GPUs (musubi-tuner #74); rehearse it first."
    if options.get("no_metadata"):
        yield "--no_metadata: the LoRA won't tell what it was trained on, not to wanwrap either."
    if options.get("log_with") in ("wandb", "all"):
        yield "W&B: what goes on after a stop is a run of its own there, in the same group: upstream counts its steps anew."
