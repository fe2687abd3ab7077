"""The learning rate, so that it does what the options say."""

from __future__ import annotations

from wanwrap.errors import OptionError, closest
from wanwrap.options import Options, Value, number

RATIO, ARGS, WARM_UP = "lr_scheduler_min_lr_ratio", "lr_scheduler_args", "lr_warmup_steps"
DECAY, CYCLES, SCALE = "lr_decay_steps", "lr_scheduler_num_cycles", "lr_scheduler_timescale"

# What upstream can build, and which of these settings it hands to each; it ignores or refuses the others.
TAKES = {
    "constant": set[str](),
    "piecewise_constant": set[str](),
    "constant_with_warmup": {WARM_UP},
    "linear": {WARM_UP},
    "cosine": {WARM_UP},
    "polynomial": {WARM_UP, RATIO},  # RATIO: see _polynomial
    "inverse_sqrt": {WARM_UP, SCALE},
    "cosine_with_restarts": {WARM_UP, CYCLES},
    "cosine_with_min_lr": {WARM_UP, CYCLES, RATIO},
    "rex": {WARM_UP, RATIO},
    "warmup_stable_decay": {WARM_UP, CYCLES, RATIO, DECAY},
}
SETTINGS = (WARM_UP, RATIO, DECAY, CYCLES, SCALE)
NEEDS = {"cosine_with_min_lr": RATIO, "warmup_stable_decay": DECAY, "piecewise_constant": ARGS}


def free_of_schedule(options: Options) -> bool:
    """Whether the optimizer is one for which upstream steps no schedule at all."""
    return str(options["optimizer_type"]).lower().endswith("schedulefree")


def rewrite(options: Options, steps: int) -> dict[str, Value]:
    """Options whose schedule upstream will follow over `steps` optimizer steps, also across a resume.

    Upstream's own polynomial starts again when a run is resumed and ends at 1e-7. torch's PolynomialLR
    goes to 0 and goes on exactly; it is what is passed where nothing asks for more than a power.

    Raises:
        OptionError: no such scheduler, or a setting that it would ignore, refuse or fail without.
    """
    if free_of_schedule(options):
        return {name: value for name, value in options.items() if not name.startswith("lr_")}
    if options.get("lr_scheduler_type"):
        _check_class(options)
        return {**options, "lr_scheduler": None, "lr_scheduler_power": None}
    name = str(options.get("lr_scheduler"))
    _check(name, options, steps)
    return _polynomial(options, steps) if name == "polynomial" else {**options, "lr_scheduler_power": None}


def _check(name: str, options: Options, steps: int) -> None:
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
    for setting in (WARM_UP, DECAY):
        if not 0 <= _steps(options, setting, steps) < steps:
            raise OptionError(
                f"--{setting} {options[setting]}: the run has {steps} steps, of which it must leave some."
            )


def _steps(options: Options, name: str, steps: int) -> float:
    """Steps as upstream counts them: a whole number is steps, any other a share of all."""
    value = options.get(name) or 0
    if isinstance(value, str):
        return float(value.rstrip("%")) / 100 * steps
    return value * steps if isinstance(value, float) else number(options, name, 0.0)


def _said(option: str) -> str:
    """An option as wanwrap's users know it."""
    return "--min_lr" if option == RATIO else f"--{option}"


def _check_class(options: Options) -> None:
    """A class of torch's, or of another package: upstream hands it lr_scheduler_args and nothing else."""
    ignored = [setting for setting in SETTINGS if options.get(setting)]
    if ignored:
        raise OptionError(f"upstream ignores {_said(ignored[0])} beside --lr_scheduler_type.")
    given = [str(pair).partition("=")[0] for pair in options.get(ARGS) or ()]  # type: ignore[union-attr]
    if options["lr_scheduler_type"] in ("PolynomialLR", "LinearLR", "ConstantLR") and "total_iters" not in given:
        raise OptionError(
            f"{options['lr_scheduler_type']} ends after 5 steps unless --{ARGS} has total_iters=STEPS; "
            "--scheduler polynomial sets it by itself."
        )


def _polynomial(options: Options, steps: int) -> dict[str, Value]:
    power = number(options, "lr_scheduler_power", 1.0)
    given = tuple(options.get(ARGS) or ())  # type: ignore[arg-type]
    lowest = number(options, RATIO, 0.0) * number(options, "learning_rate", 0.0)
    if lowest:
        given = (*given, f"lr_end={lowest:.6g}")
    if given or options.get(WARM_UP):
        return {**options, RATIO: None, ARGS: given or None, "lr_scheduler_power": power}
    rest = {key: value for key, value in options.items() if key not in ("lr_scheduler", "lr_scheduler_power", RATIO)}
    arguments = (f"total_iters={steps}", f"power={power}")
    return {**rest, "lr_scheduler_type": "PolynomialLR", ARGS: arguments}
