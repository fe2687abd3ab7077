"""The learning rate, so that it does what the options say."""

from __future__ import annotations

from wanwrap.errors import OptionError, closest
from wanwrap.options import Options, Value, number

RATIO, ARGS, DECAY = "lr_scheduler_min_lr_ratio", "lr_scheduler_args", "lr_decay_steps"
WARM_UP = "lr_warmup_steps"

# What upstream can build: scheduler -> what it fails without, and what of these it ignores or refuses.
NEEDS = {"cosine_with_min_lr": RATIO, "warmup_stable_decay": DECAY, "piecewise_constant": ARGS}
IGNORES = {
    "constant": {RATIO, WARM_UP},
    "piecewise_constant": {RATIO, WARM_UP},
    "constant_with_warmup": {RATIO},
    "linear": {RATIO},
    "cosine": {RATIO},
    "cosine_with_restarts": {RATIO},
    "inverse_sqrt": {RATIO},
    "cosine_with_min_lr": set[str](),
    "warmup_stable_decay": set[str](),
    "rex": set[str](),
    "polynomial": set[str](),
}


def rewrite(options: Options, steps: int) -> dict[str, Value]:
    """Options whose schedule upstream will follow over `steps` optimizer steps, also across a resume.

    Upstream's own polynomial starts again when a run is resumed and ends at 1e-7. torch's PolynomialLR
    goes to 0 and goes on exactly; it is what is passed where nothing asks for more than a power.

    Raises:
        OptionError: no such scheduler, or a setting that it would ignore, refuse or fail without.
    """
    if str(options["optimizer_type"]).lower().endswith("schedulefree"):  # upstream then steps no schedule at all
        return {name: value for name, value in options.items() if not name.startswith("lr_")}
    if options.get("lr_scheduler_type"):
        _check_class(options)
        return {**options, "lr_scheduler": None, "lr_scheduler_power": None}
    name = str(options.get("lr_scheduler"))
    _check(name, options)
    return _polynomial(options, steps) if name == "polynomial" else {**options, "lr_scheduler_power": None}


def _check(name: str, options: Options) -> None:
    if name not in IGNORES:
        raise OptionError(f"upstream has no scheduler {name!r}.{closest(name, IGNORES)}")
    ignored = [option for option in sorted(IGNORES[name]) if options.get(option)]
    if ignored:
        others = ", ".join(sorted(other for other, without in IGNORES.items() if ignored[0] not in without))
        raise OptionError(f"upstream's {name} scheduler takes no {_said(ignored[0])}; these do: {others}.")
    if name in NEEDS and options.get(NEEDS[name]) is None:
        raise OptionError(f"upstream's {name} scheduler fails without {_said(NEEDS[name])}.")
    if not 0 <= number(options, RATIO, 0.0) < 1:
        raise OptionError(f"--min_lr {options[RATIO]} is a part of --lr: from 0 to less than 1.")


def _said(option: str) -> str:
    """An option as wanwrap's users know it."""
    return "--min_lr" if option == RATIO else f"--{option}"


def _check_class(options: Options) -> None:
    """A class of torch's, or of another package: upstream hands it lr_scheduler_args and nothing else."""
    ignored = [option for option in (RATIO, WARM_UP, DECAY) if options.get(option)]
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
