"""The learning rate, so that it does what the options say, also when a training is taken up again.

Upstream builds a schedule from the steps that an attempt has before it, which after a resume are the rest only. So
every schedule that has a length is passed as the function that upstream itself would call, all lengths written out:
the same words give the same curve in each attempt. accelerate steps a schedule once for each GPU in an optimizer
step, so that lengths in a schedule are optimizer steps times GPUs.
"""

from __future__ import annotations

from wanwrap.errors import OptionError, closest
from wanwrap.upstream.options import Options, Value, arguments, called, number, texts, whole

TYPE, ARGS = "lr_scheduler_type", "lr_scheduler_args"
POWER, RATIO = "lr_scheduler_power", "lr_scheduler_min_lr_ratio"
WARM_UP, CYCLES = "lr_warmup_steps", "lr_scheduler_num_cycles"
SETTINGS = (WARM_UP, RATIO, CYCLES, "lr_decay_steps", "lr_scheduler_timescale")

# What LoRAs are trained by of all that upstream can build: what it builds each from (one without a length goes by its
# name alone), and the settings that it hands to it; it ignores or refuses the others.
HUB = "transformers.optimization.get_"
SCHEDULERS: dict[str, tuple[str, set[str]]] = {
    "constant": ("", set()),
    "constant_with_warmup": (f"{HUB}constant_schedule_with_warmup", {WARM_UP}),
    "linear": (f"{HUB}linear_schedule_with_warmup", {WARM_UP}),
    "cosine": (f"{HUB}cosine_schedule_with_warmup", {WARM_UP}),
    # RATIO: as lr_end, which upstream itself does not set
    "polynomial": (f"{HUB}polynomial_decay_schedule_with_warmup", {WARM_UP, RATIO}),
    "cosine_with_restarts": (f"{HUB}cosine_with_hard_restarts_schedule_with_warmup", {WARM_UP, CYCLES}),
    "cosine_with_min_lr": (f"{HUB}cosine_with_min_lr_schedule_with_warmup", {WARM_UP, CYCLES, RATIO}),
    "rex": ("musubi_tuner.modules.lr_schedulers.RexLR", {WARM_UP, RATIO}),
}


def rewrite(options: Options, given: Options, steps: int, gpus: int = 1) -> dict[str, Value]:
    """Options whose schedule upstream will follow over `steps` optimizer steps, in however many attempts.

    `given` is what the user set of them. Upstream's own polynomial ends at 1e-7, torch's at 0; torch's is passed where
    nothing asks for more than a power. `lr_scheduler` stays beside what stands for it: upstream writes it into the LoRA.

    Raises:
        OptionError: no such scheduler, or a setting that it would ignore, refuse or fail without.
    """
    if str(options["optimizer_type"]).lower().endswith("schedulefree"):  # upstream steps no schedule at all
        if mine := [name for name in given if name.startswith("lr_")]:
            raise OptionError(
                f"upstream ignores {called(mine[0])} with {options['optimizer_type']}, which has no schedule."
            )
        return {name: value for name, value in options.items() if not name.startswith("lr_")}
    name = str(options.get(TYPE) or options.get("lr_scheduler"))
    if POWER in given and name != "polynomial":
        raise OptionError(f"--power goes with --scheduler polynomial; {name} takes none.")
    if options.get(TYPE):
        _check_class(options, given, gpus)
        return {**options, "lr_scheduler": None, POWER: None}
    _check(name, options, steps)
    rest = {key: value for key, value in options.items() if key not in (*SETTINGS, POWER, TYPE)}
    built, values = SCHEDULERS[name][0], _values(name, options, steps, gpus)
    if not built:
        return rest
    if name == "polynomial" and not any(options.get(setting) for setting in (WARM_UP, RATIO, ARGS)):
        built, values = "PolynomialLR", {"total_iters": steps * gpus, "power": values["power"]}
    if twice := sorted(values.keys() & arguments(options, ARGS).keys()):
        raise OptionError(f"--{ARGS} {twice[0]}: wanwrap sets that from its own options; leave it out.")
    return {**rest, TYPE: built, ARGS: (*(f"{key}={value}" for key, value in values.items()), *texts(options, ARGS))}


def _values(name: str, options: Options, steps: int, gpus: int) -> dict[str, float]:
    """What upstream itself would hand to a scheduler in a run that is never taken up again."""
    total, rate, cycles = steps * gpus, number(options, "learning_rate", 0.0), whole(options, CYCLES, 1)
    warm_up: dict[str, float] = {"num_warmup_steps": _warm_up(options, steps, gpus)}
    if name == "constant_with_warmup":
        return warm_up
    if name == "rex":
        return {"max_lr": rate, "min_lr": rate * number(options, RATIO, 0.01), "num_steps": total, **warm_up}
    values = {**warm_up, "num_training_steps": total}
    if name == "polynomial":
        values["power"] = number(options, POWER, 1.0)
        if options.get(RATIO) is not None:
            values["lr_end"] = float(f"{rate * number(options, RATIO, 0.0):.6g}")
    elif name == "cosine_with_restarts":
        values["num_cycles"] = cycles
    elif name == "cosine_with_min_lr":
        values |= {"num_cycles": cycles / 2, "min_lr_rate": number(options, RATIO, 0.0)}
    return values


def _warm_up(options: Options, steps: int, gpus: int = 1) -> int:
    """Steps of the schedule, as upstream counts them: a whole number is steps, any other a share of all."""
    word = str(options.get(WARM_UP) or 0)
    share = float(word[:-1]) / 100 if word.endswith("%") else float(word)
    if share.is_integer() and not word.endswith("%"):
        return int(share) * gpus
    return int(share * (steps * gpus))


def _check(name: str, options: Options, steps: int) -> None:
    """A scheduler by its name, in a run of so many optimizer steps."""
    if name not in SCHEDULERS:
        known = ", ".join(SCHEDULERS)
        raise OptionError(f"wanwrap knows no scheduler {name!r}.{closest(name, SCHEDULERS)} It takes {known}.")
    if ignored := [setting for setting in SETTINGS if options.get(setting) and setting not in SCHEDULERS[name][1]]:
        others = ", ".join(sorted(other for other, (_, taken) in SCHEDULERS.items() if ignored[0] in taken))
        raise OptionError(f"{name} takes no {called(ignored[0])}; these schedulers do: {others or 'none'}.")
    if name == "cosine_with_min_lr" and options.get(RATIO) is None:
        raise OptionError(f"upstream's {name} scheduler fails without {called(RATIO)}.")
    if options.get(WARM_UP) and not 0 <= _warm_up(options, steps) < steps:
        raise OptionError(f"--{WARM_UP} {options[WARM_UP]}: the run has {steps} steps, of which it must leave some.")


def _check_class(options: Options, given: Options, gpus: int) -> None:
    """A class of torch's, or of another package: upstream hands it lr_scheduler_args and nothing else."""
    settings = [setting for setting in SETTINGS if options.get(setting)]
    if ignored := [*(["lr_scheduler"] if "lr_scheduler" in given else []), *settings]:
        raise OptionError(f"upstream ignores {called(ignored[0])} beside --{TYPE}; leave one of them out.")
    if gpus > 1:
        raise OptionError(
            f"--{TYPE} {options[TYPE]} would run {gpus} times as fast with --gpus {gpus}: accelerate steps it for each "
            f"GPU; choose a --scheduler ({', '.join(SCHEDULERS)}), whose lengths wanwrap sets."
        )
