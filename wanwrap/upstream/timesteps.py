"""Which timesteps upstream will really train, and which settings of theirs it would ignore or turn around."""

from __future__ import annotations

import math
from statistics import NormalDist

from wanwrap.errors import OptionError
from wanwrap.upstream.options import Options, number, whole

# Upstream draws up to 1000 times for a timestep within the window, then takes one outside of it without a word.
# At 0.5 % a draw that happens to 7 steps in 1000; the rarest window of a preset is at 1.4 %.
RAREST = 0.005


def check_timesteps(options: Options) -> None:
    """Raises OptionError: upstream would train other timesteps than the options say."""
    low, high = whole(options, "min_timestep", 0), whole(options, "max_timestep", 1000)
    if not 0 <= low < high <= 1000:
        raise OptionError(
            f"--min_timestep {low} and --max_timestep {high}: they must lie within 0 to 1000, the smaller one first."
        )
    how = options.get("timestep_sampling")
    if how == "sigma" and (low, high) != (0, 1000):
        raise OptionError("--timestep_sampling sigma turns the timestep window around; take shift, sigmoid or uniform.")
    share = within(options, low / 1000, high / 1000)
    if options.get("preserve_distribution_shape") and share is not None and share < RAREST:
        raise OptionError(
            f"only {share:.2%} of the timesteps that {how} draws lie within {low} to {high}, too few for upstream to find; "
            "raise --flow_shift, or leave out the window."
        )


def within(options: Options, low: float, high: float) -> float | None:
    """The share of draws between `low` and `high` (0 to 1); None for a sampling whose shape is not known here."""
    how, scale = options.get("timestep_sampling"), number(options, "sigmoid_scale", 1.0)
    if how == "uniform":
        return high - low
    if how not in ("sigmoid", "shift"):
        return None
    shift = number(options, "discrete_flow_shift", 1.0) if how == "shift" else 1.0
    return _below(high, shift, scale) - _below(low, shift, scale)


def _below(t: float, shift: float, scale: float) -> float:
    """P(T < t) for T = s / (1 + (shift - 1) s) * shift with s = sigmoid(scale * normal)."""
    if t <= 0 or t >= 1:
        return float(t >= 1)
    s = t / (shift - (shift - 1) * t)
    return NormalDist().cdf(math.log(s / (1 - s)) / scale)
