"""Which schedules of the learning rate upstream can follow, and what each of them takes."""

from __future__ import annotations

from wanwrap.errors import OptionError, closest, listing
from wanwrap.upstream.options import Options, convert, number

RATIO, ARGS, WARM_UP = "lr_scheduler_min_lr_ratio", "lr_scheduler_args", "lr_warmup_steps"
DECAY, CYCLES, SCALE = "lr_decay_steps", "lr_scheduler_num_cycles", "lr_scheduler_timescale"
TYPE = "lr_scheduler_type"

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
SETTINGS = (WARM_UP, RATIO, DECAY, CYCLES, SCALE)
NEEDS = {"cosine_with_min_lr": RATIO, "warmup_stable_decay": DECAY, "piecewise_constant": ARGS}

# What each takes besides in lr_scheduler_args; upstream fails on any other, when the DiT has been loaded.
BESIDES = {
    "piecewise_constant": {"step_rules"},
    "cosine": {"num_cycles"},
    "polynomial": {"lr_end"},
    "rex": {"rex_alpha", "rex_beta"},
    "warmup_stable_decay": {"warmup_type", "decay_type"},
}

# torch's own: what they fail, or end after 5 steps, without; and those that can't be had from upstream at all.
ASKS = {
    **dict.fromkeys(("PolynomialLR", "LinearLR", "ConstantLR"), ("total_iters",)),
    "CosineAnnealingLR": ("T_max",),
    "CosineAnnealingWarmRestarts": ("T_0",),
    "CyclicLR": ("base_lr", "max_lr"),
    "ExponentialLR": ("gamma",),
    "MultiStepLR": ("milestones",),
    "OneCycleLR": ("max_lr", "total_steps"),
    "StepLR": ("step_size",),
}
UNFIT = {
    **dict.fromkeys(("LambdaLR", "MultiplicativeLR"), "needs a function, which no option can hold"),
    **dict.fromkeys(("SequentialLR", "ChainedScheduler"), "needs other schedulers, which no option can hold"),
    "ReduceLROnPlateau": "needs the loss at each step, which upstream does not give it",
    "get_reduce_on_plateau_schedule": "needs the loss at each step, which upstream does not give it",
}


def check(name: str, options: Options, steps: int) -> None:
    """A scheduler by its name, in a run of so many optimizer steps.

    Raises:
        OptionError: there is no such one, or a setting that it would ignore, refuse or fail without.
    """
    if name not in TAKES:
        raise OptionError(f"upstream has no scheduler {name!r}.{closest(name, TAKES)}")
    ignored = [setting for setting in SETTINGS if options.get(setting) and setting not in TAKES[name]]
    if ignored:
        others = ", ".join(sorted(other for other, taken in TAKES.items() if ignored[0] in taken))
        raise OptionError(f"upstream's {name} scheduler takes no {_said(ignored[0])}; these do: {others}.")
    if name in NEEDS and options.get(NEEDS[name]) is None:
        raise OptionError(f"upstream's {name} scheduler fails without {_said(NEEDS[name])}.")
    if not 0 <= number(options, RATIO, 0.0) < 1:
        raise OptionError(f"--min_lr {options[RATIO]} is a part of --lr: from 0 to less than 1.")
    _arguments(name, options)
    _lengths(options, steps)


def _arguments(name: str, options: Options) -> None:
    """What stands in lr_scheduler_args beside what has an option of its own."""
    taken = BESIDES.get(name, set[str]())
    if unknown := [each for each in _names(options) if each not in taken]:
        what = listing(sorted(taken)) if taken else "none"
        raise OptionError(f"--{ARGS} {unknown[0]}: of those that have no option, the {name} scheduler takes {what}.")
    if "lr_end" in _names(options) and options.get(RATIO) is not None:
        raise OptionError(f"--min_lr and --{ARGS} lr_end are two words for the lowest rate; give one.")


def _lengths(options: Options, steps: int) -> None:
    lengths = {setting: length(options, setting, steps) for setting in (WARM_UP, DECAY) if options.get(setting)}
    for setting, taken in lengths.items():
        if not 0 <= taken < steps:
            raise OptionError(
                f"--{setting} {options[setting]}: the run has {steps} steps, of which it must leave some."
            )
    if sum(lengths.values()) > steps:
        raise OptionError(f"--{WARM_UP} and --{DECAY} take more steps together than the run has ({steps}).")


def _said(option: str) -> str:
    """An option as wanwrap's users know it."""
    return "--min_lr" if option == RATIO else f"--{option}"


def check_class(options: Options, gpus: int) -> None:
    """A class of torch's, or of another package: upstream hands it lr_scheduler_args and nothing else.

    Raises:
        OptionError: upstream would ignore a setting, fail with the class, or run it at another pace.
    """
    ignored = [setting for setting in SETTINGS if options.get(setting)]
    if ignored:
        raise OptionError(f"upstream ignores {_said(ignored[0])} beside --{TYPE}.")
    place, _, name = str(options[TYPE]).rpartition(".")
    if name in UNFIT:
        raise OptionError(f"{name} {UNFIT[name]}; choose another one, or --scheduler ({', '.join(TAKES)}).")
    asked = ASKS.get(name, ()) if place in ("", "torch.optim.lr_scheduler") else ()
    if lacking := [each for each in asked if each not in _names(options)]:
        after = "ends after 5 steps" if lacking == ["total_iters"] else "fails"
        raise OptionError(f"{name} {after} unless --{ARGS} has {' and '.join(lacking)}; see --scheduler for others.")
    if gpus > 1:
        raise OptionError(
            f"--{TYPE} {name} would run {gpus} times as fast with --gpus {gpus}: accelerate steps it for each GPU; "
            f"choose a --scheduler ({', '.join(TAKES)}), whose lengths wanwrap sets."
        )


def length(options: Options, name: str, steps: int, gpus: int = 1) -> int:
    """Steps of the schedule, as upstream counts them: a whole number is steps, any other a share of all."""
    value = convert(name, str(options.get(name) or 0), {"type": "_int_or_float"})
    if isinstance(value, int):
        return value * gpus
    return int((float(value[:-1]) / 100 if isinstance(value, str) else value) * (steps * gpus))


def pairs(options: Options) -> tuple[str, ...]:
    """The arguments of a scheduler that have no option of their own, as name=value."""
    return tuple(str(pair) for pair in options.get(ARGS) or ())  # type: ignore[union-attr]


def _names(options: Options) -> list[str]:
    """The arguments that the user gives a scheduler."""
    return [pair.partition("=")[0] for pair in pairs(options)]
