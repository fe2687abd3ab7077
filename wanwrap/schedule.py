"""The learning rate, so that it does what the options say."""

from __future__ import annotations

from wanwrap.errors import OptionError, closest
from wanwrap.options import Options, Value

# Those that upstream can build (its two others fail when the DiT is loaded).
SCHEDULERS = {
    "constant",
    "constant_with_warmup",
    "linear",
    "cosine",
    "cosine_with_restarts",
    "cosine_with_min_lr",
    "polynomial",
    "inverse_sqrt",
    "warmup_stable_decay",
    "rex",
    "adafactor",
    "piecewise_constant",
}
# Upstream hands --lr_scheduler_min_lr_ratio to these alone.
TAKES_RATIO = {"cosine_with_min_lr", "warmup_stable_decay", "rex"}


def rewrite(options: Options, steps: int) -> dict[str, Value]:
    """Options whose schedule upstream will follow over `steps` optimizer steps, also across a resume.

    Upstream's own polynomial starts again when a run is resumed and ends at 1e-7. torch's PolynomialLR
    goes to 0 and goes on exactly; it is what is passed where nothing asks for more than a power.

    Raises:
        OptionError: no such scheduler, or a minimum rate or warm-up that it would ignore or refuse.
    """
    changed = dict(options)
    name, ratio = options.get("lr_scheduler"), options.get("lr_scheduler_min_lr_ratio")
    if options.get("lr_scheduler_type"):
        return {**changed, "lr_scheduler": None, "lr_scheduler_power": None}
    if name not in SCHEDULERS:
        raise OptionError(f"upstream has no scheduler {name!r}.{closest(str(name), SCHEDULERS)}")
    if name == "constant" and options.get("lr_warmup_steps"):
        raise OptionError("upstream refuses a warm-up with --scheduler constant; constant_with_warmup takes one.")
    if name != "polynomial":
        if ratio is not None and name not in TAKES_RATIO:
            raise OptionError(
                f"upstream ignores --min_lr with --scheduler {name}; polynomial or cosine_with_min_lr take it."
            )
        return {**changed, "lr_scheduler_power": None}
    if ratio is not None:
        lowest = float(str(ratio)) * float(str(options["learning_rate"]))
        return {**changed, "lr_scheduler_min_lr_ratio": None, "lr_scheduler_args": (f"lr_end={lowest:.6g}",)}
    if options.get("lr_warmup_steps") or options.get("lr_scheduler_args"):
        return changed
    power = float(str(options.get("lr_scheduler_power") or 1.0))
    return {
        **{key: value for key, value in changed.items() if key not in ("lr_scheduler", "lr_scheduler_power")},
        "lr_scheduler_type": "PolynomialLR",
        "lr_scheduler_args": (f"total_iters={steps}", f"power={power}"),
    }
