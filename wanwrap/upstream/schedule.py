"""The learning rate, so that it does what the options say, also when a run is taken up again.

Upstream builds a schedule from the steps that an attempt has before it, which after a resume are the rest only. So
every schedule that has a length is passed as the function that upstream itself would call, all lengths written out:
the same words give the same curve in each attempt. accelerate steps a schedule once for each GPU in an optimizer
step, so that lengths in a schedule are optimizer steps times GPUs.
"""

from __future__ import annotations

import re

from wanwrap.upstream.options import Options, Value, number, whole
from wanwrap.upstream.schedule_checks import (
    ARGS,
    CYCLES,
    DECAY,
    RATIO,
    SCALE,
    SETTINGS,
    TYPE,
    WARM_UP,
    check,
    check_class,
    length,
    pairs,
)

POWER = "lr_scheduler_power"

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


def rewrite(options: Options, steps: int, gpus: int = 1) -> dict[str, Value]:
    """Options whose schedule upstream will follow over `steps` optimizer steps, in however many attempts.

    Upstream's own polynomial ends at 1e-7. torch's goes to 0; it is what is passed where nothing asks for more than
    a power. `lr_scheduler` stays beside what stands for it: upstream writes it into the LoRA.

    Raises:
        OptionError: no such scheduler, or a setting that it would ignore, refuse or fail without.
    """
    if free_of_schedule(options):
        return {name: value for name, value in options.items() if not name.startswith("lr_")}
    if options.get(TYPE):
        check_class(options, gpus)
        return {**options, "lr_scheduler": None, POWER: None}
    name = str(options.get("lr_scheduler"))
    check(name, options, steps)
    rest = {key: value for key, value in options.items() if key not in (*SETTINGS, POWER, TYPE)}
    if name == "piecewise_constant":
        return {**rest, ARGS: tuple(_longer(pair, gpus) for pair in pairs(options))}
    if name not in BUILT_BY:
        return rest
    if name == "polynomial" and not any(options.get(setting) for setting in (WARM_UP, RATIO, ARGS)):
        built, arguments = "PolynomialLR", {"total_iters": steps * gpus, "power": number(options, POWER, 1.0)}
    else:
        built, arguments = BUILT_BY[name], _arguments(name, options, steps, gpus)
    return {**rest, TYPE: built, ARGS: (*(f"{key}={value}" for key, value in arguments.items()), *pairs(options))}


def _arguments(name: str, options: Options, steps: int, gpus: int) -> dict[str, float]:
    """What upstream itself would hand to a scheduler in a run that is never taken up again."""
    total, warm_up, decay = steps * gpus, length(options, WARM_UP, steps, gpus), length(options, DECAY, steps, gpus)
    rate, ratio = number(options, "learning_rate", 0.0), number(options, RATIO, 0.0)
    cycles, scale = whole(options, CYCLES, 1), whole(options, SCALE, 0) * gpus
    lowest = rate * number(options, RATIO, 0.01)  # rex's by default
    end = {} if options.get(RATIO) is None else {"lr_end": float(f"{rate * ratio:.6g}")}
    warm: dict[str, float] = {"num_warmup_steps": warm_up}
    both = {**warm, "num_training_steps": total}
    taken = {
        "constant_with_warmup": warm,
        "polynomial": {**both, "power": number(options, POWER, 1.0), **end},
        "inverse_sqrt": {**warm, "timescale": scale or warm_up or 10_000 * gpus},
        "cosine_with_restarts": {**both, "num_cycles": cycles},
        "cosine_with_min_lr": {**both, "num_cycles": cycles / 2, "min_lr_rate": ratio},
        "rex": {"max_lr": rate, "min_lr": lowest, "num_steps": total, **warm},
        "warmup_stable_decay": {
            **warm,
            "num_stable_steps": total - warm_up - decay,
            "num_decay_steps": decay,
            "num_cycles": cycles / 2,
            "min_lr_ratio": ratio,
        },
    }
    return taken.get(name, both)


def _longer(pair: str, gpus: int) -> str:
    """step_rules='1:10,0.1:20,0.01', its steps for so many GPUs."""
    return re.sub(r":\s*(\d+)", lambda found: f":{int(found[1]) * gpus}", pair)
