"""The learning rate, so that it does what the options say, also when a training is taken up again.

Upstream builds a schedule from the steps that an attempt has before it, which after a resume are the rest only. So
every schedule that has a length is passed as the function that upstream itself would call, all lengths written out:
the same words give the same curve in each attempt. accelerate steps a schedule once for each GPU in an optimizer
step, so that lengths in a schedule are optimizer steps times GPUs.
"""

from __future__ import annotations

import re

from wanwrap.errors import OptionError, closest, listing
from wanwrap.upstream.options import Options, Value, arguments, called, number, share, texts, whole

RATIO, ARGS, WARM_UP = "lr_scheduler_min_lr_ratio", "lr_scheduler_args", "lr_warmup_steps"
DECAY, CYCLES, SCALE = "lr_decay_steps", "lr_scheduler_num_cycles", "lr_scheduler_timescale"
TYPE, POWER = "lr_scheduler_type", "lr_scheduler_power"
SETTINGS = (WARM_UP, RATIO, DECAY, CYCLES, SCALE)

# What upstream can build, and which of these settings it hands to each; it ignores or refuses the others.
TAKES = {
    "constant": set[str](),
    "piecewise_constant": set[str](),
    "constant_with_warmup": {WARM_UP},
    "linear": {WARM_UP},
    "cosine": {WARM_UP},
    "polynomial": {WARM_UP, RATIO},  # RATIO: as lr_end, which upstream itself does not set
    "inverse_sqrt": {WARM_UP, SCALE},
    "cosine_with_restarts": {WARM_UP, CYCLES},
    "cosine_with_min_lr": {WARM_UP, CYCLES, RATIO},
    "rex": {WARM_UP, RATIO},
    "warmup_stable_decay": {WARM_UP, CYCLES, RATIO, DECAY},
}
NEEDS = {"cosine_with_min_lr": RATIO, "warmup_stable_decay": DECAY, "piecewise_constant": ARGS}
OURS = {"num_training_steps", "total_iters", "num_steps", "max_lr"}  # by the run's steps and --lr

# What upstream builds each from; those without a length go by their name alone.
HUB = "transformers.optimization.get_"
BUILT_BY = {
    "constant_with_warmup": f"{HUB}constant_schedule_with_warmup",
    "linear": f"{HUB}linear_schedule_with_warmup",
    "cosine": f"{HUB}cosine_schedule_with_warmup",
    "polynomial": f"{HUB}polynomial_decay_schedule_with_warmup",
    "inverse_sqrt": f"{HUB}inverse_sqrt_schedule",
    "cosine_with_restarts": f"{HUB}cosine_with_hard_restarts_schedule_with_warmup",
    "cosine_with_min_lr": f"{HUB}cosine_with_min_lr_schedule_with_warmup",
    "rex": "musubi_tuner.modules.lr_schedulers.RexLR",
    "warmup_stable_decay": f"{HUB}wsd_schedule",
}


def free_of_schedule(options: Options) -> bool:
    """Whether the optimizer is one for which upstream steps no schedule at all."""
    return str(options["optimizer_type"]).lower().endswith("schedulefree")


def rewrite(options: Options, given: Options, steps: int, gpus: int = 1) -> dict[str, Value]:
    """Options whose schedule upstream will follow over `steps` optimizer steps, in however many attempts.

    `given` is what the user set of them. Upstream's own polynomial ends at 1e-7, torch's at 0; torch's is passed where
    nothing asks for more than a power. `lr_scheduler` stays beside what stands for it: upstream writes it into the LoRA.

    Raises:
        OptionError: no such scheduler, or a setting that it would ignore, refuse or fail without.
    """
    if free_of_schedule(options):
        if mine := [name for name in given if name.startswith("lr_")]:
            raise OptionError(
                f"upstream ignores {called(mine[0])} with {options['optimizer_type']}, which has no schedule."
            )
        return {name: value for name, value in options.items() if not name.startswith("lr_")}
    name = str(options.get(TYPE) or options.get("lr_scheduler"))
    if POWER in given and name != "polynomial":
        raise OptionError(f"--power goes with --scheduler polynomial; {name} takes none.")
    if options.get(TYPE):
        if "lr_scheduler" in given:
            raise OptionError(f"upstream ignores --scheduler beside --{TYPE}; give one of them.")
        _check_class(options, gpus)
        return {**options, "lr_scheduler": None, POWER: None}
    _check(name, options, steps)
    rest = {key: value for key, value in options.items() if key not in (*SETTINGS, POWER, TYPE)}
    if name == "piecewise_constant":
        return {**rest, ARGS: tuple(_longer(pair, gpus) for pair in texts(options, ARGS))}
    if name not in BUILT_BY:
        return rest
    if name == "polynomial" and not any(options.get(setting) for setting in (WARM_UP, RATIO, ARGS)):
        built, values = "PolynomialLR", {"total_iters": steps * gpus, "power": number(options, POWER, 1.0)}
    else:
        built, values = BUILT_BY[name], _values(name, options, steps, gpus)
    ours = OURS | {"power"} if POWER in given else OURS
    if twice := sorted(ours & values.keys() & arguments(options, ARGS).keys()):
        raise OptionError(f"--{ARGS} {twice[0]}: wanwrap sets that from its own options; leave it out.")
    return {**rest, TYPE: built, ARGS: (*(f"{key}={value}" for key, value in values.items()), *texts(options, ARGS))}


def _values(name: str, options: Options, steps: int, gpus: int) -> dict[str, float]:
    """What upstream itself would hand to a scheduler in a run that is never taken up again."""
    total, warm_up, decay = steps * gpus, length(options, WARM_UP, steps, gpus), length(options, DECAY, steps, gpus)
    rate, ratio = number(options, "learning_rate", 0.0), number(options, RATIO, 0.0)
    cycles, scale = whole(options, CYCLES, 1), whole(options, SCALE, 0) * gpus
    end = {} if options.get(RATIO) is None else {"lr_end": float(f"{rate * ratio:.6g}")}
    warm: dict[str, float] = {"num_warmup_steps": warm_up}
    both = {**warm, "num_training_steps": total}
    stable = {"num_stable_steps": total - warm_up - decay, "num_decay_steps": decay}
    taken = {
        "constant_with_warmup": warm,
        "polynomial": {**both, "power": number(options, POWER, 1.0), **end},
        "inverse_sqrt": {**warm, "timescale": scale or warm_up or 10_000 * gpus},
        "cosine_with_restarts": {**both, "num_cycles": cycles},
        "cosine_with_min_lr": {**both, "num_cycles": cycles / 2, "min_lr_rate": ratio},
        "rex": {"max_lr": rate, "min_lr": rate * number(options, RATIO, 0.01), "num_steps": total, **warm},
        "warmup_stable_decay": {**warm, **stable, "num_cycles": cycles / 2, "min_lr_ratio": ratio},
    }
    return taken.get(name, both)


def _longer(pair: str, gpus: int) -> str:
    """step_rules='1:10,0.1:20,0.01', its steps for so many GPUs."""
    return re.sub(r":\s*(\d+)", lambda found: f":{int(found[1]) * gpus}", pair)


def length(options: Options, name: str, steps: int, gpus: int = 1) -> int:
    """Steps of the schedule, as upstream counts them: a whole number is steps, any other a share of all."""
    value = share(str(options.get(name) or 0))
    if isinstance(value, int):
        return value * gpus
    return int((float(value[:-1]) / 100 if isinstance(value, str) else value) * (steps * gpus))


def _check(name: str, options: Options, steps: int) -> None:
    """A scheduler by its name, in a run of so many optimizer steps."""
    if name not in TAKES:
        raise OptionError(f"upstream has no scheduler {name!r}.{closest(name, TAKES)}")
    ignored = [setting for setting in SETTINGS if options.get(setting) and setting not in TAKES[name]]
    if ignored:
        others = ", ".join(sorted(other for other, taken in TAKES.items() if ignored[0] in taken))
        raise OptionError(f"upstream's {name} scheduler takes no {called(ignored[0])}; these do: {others}.")
    if name in NEEDS and options.get(NEEDS[name]) is None:
        raise OptionError(f"upstream's {name} scheduler fails without {called(NEEDS[name])}.")
    if "lr_end" in arguments(options, ARGS) and options.get(RATIO) is not None:
        raise OptionError(f"--min_lr and --{ARGS} lr_end are two words for the lowest rate; give one.")
    lengths = {setting: length(options, setting, steps) for setting in (WARM_UP, DECAY) if options.get(setting)}
    for setting, taken in lengths.items():
        if not 0 <= taken < steps:
            raise OptionError(
                f"--{setting} {options[setting]}: the run has {steps} steps, of which it must leave some."
            )
    if sum(lengths.values()) > steps:
        raise OptionError(
            f"{listing(f'--{each}' for each in lengths)} take more steps together than the run's {steps}."
        )


def _check_class(options: Options, gpus: int) -> None:
    """A class of torch's, or of another package: upstream hands it lr_scheduler_args and nothing else."""
    if ignored := [setting for setting in SETTINGS if options.get(setting)]:
        raise OptionError(f"upstream ignores {called(ignored[0])} beside --{TYPE}.")
    if gpus > 1:
        raise OptionError(
            f"--{TYPE} {options[TYPE]} would run {gpus} times as fast with --gpus {gpus}: accelerate steps it for each "
            f"GPU; choose a --scheduler ({', '.join(TAKES)}), whose lengths wanwrap sets."
        )
