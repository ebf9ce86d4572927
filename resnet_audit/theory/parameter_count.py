"""The parameter-count bound: weights covered as balls, so that norms enter through logarithms only.

Source   derived (theory note `bound`, 3.3), in the style of Long, Sedghi 2019 (arXiv 1905.12600).
Formula  ln N_v <= n_v ln(1 + 2 f_v beta_v / eps_v),   g_v eps_v = (margin / lip) eps n_v / n,
         error <= margin risk + min over eps of 2 eps + sqrt((sum_v ln N_v + ln(1/delta)) / (2N))
Symbols  v       a weight node; n_v its weights and biases, n their sum; f_v the Frobenius norm of both together
         beta_v  how far one input moves at the output of v per unit of change in its weights: sqrt(mu_v) B_u for one
                 input of norm R_x, sqrt(mu_v B_u^2 + P_v) with biases (windows mu_v, magnitude B_u, positions P_v)
         g_v     how much an error made at v can grow until the output
         lip     sqrt 2, the Lipschitz constant of margin times ramp
Reads    about sqrt(n ln(norms) / 2N): it grows with the number of weights and hardly with their size.
Status   certified for radii and norms fixed in advance; norms taken from the trained net need a union over them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

RAMP_LIPSCHITZ = math.sqrt(2.0)
LARGEST_EXPONENT = 700.0
"""The resolution is sought between exp of minus and plus this."""
HALVINGS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class BallFactor:
    """What the ball of one weight node's parameters needs: n_v, f_v, ln beta_v and ln g_v."""

    count: int
    radius: float
    log_beta: float
    log_growth: float


def parameter_count_bound(factors: Sequence[BallFactor], *, n_train: int, margin: float, delta: float) -> float:
    """What the bound adds to the margin risk at its best resolution; at 1 or more it says nothing.

    margin: in units of the logits; delta: the probability that the bound may fail. Weight nodes whose change cannot
    reach the output, or that may only be 0, cost nothing.
    """
    total = sum(factor.count for factor in factors)
    live = [f for f in factors if f.count and f.radius > 0.0 and min(f.log_beta, f.log_growth) > -math.inf]
    counts = np.array([factor.count for factor in live], dtype=np.float64)
    reach = np.array([_log_reach(factor, total, margin) for factor in live], dtype=np.float64)
    if not live:
        return math.sqrt(-math.log(delta) / (2.0 * n_train))
    # Convex in eps (each ln(1 + A / eps) has 2 u u'' >= u'^2), so that the slope changes its sign once.
    low, high = -LARGEST_EXPONENT, LARGEST_EXPONENT
    for _ in range(HALVINGS):
        middle = (low + high) / 2.0
        low, high = (low, middle) if _slope(middle, counts, reach, n_train, delta) > 0.0 else (middle, high)
    return 2.0 * math.exp(high) + _deviation(high, counts, reach, n_train, delta)


def _log_reach(factor: BallFactor, total: int, margin: float) -> float:
    """ln A_v of ln N_v = n_v ln(1 + A_v / eps)."""
    scale = math.log(2.0 * RAMP_LIPSCHITZ * total / (margin * factor.count))
    return scale + math.log(factor.radius) + factor.log_beta + factor.log_growth


def _deviation(
    log_eps: float, counts: NDArray[np.float64], reach: NDArray[np.float64], n_train: int, delta: float
) -> float:
    """sqrt((sum_v ln N_v + ln(1/delta)) / (2N))."""
    covering = float(counts @ np.logaddexp(0.0, reach - log_eps))
    return math.sqrt((covering - math.log(delta)) / (2.0 * n_train))


def _slope(
    log_eps: float, counts: NDArray[np.float64], reach: NDArray[np.float64], n_train: int, delta: float
) -> float:
    """The derivative of 2 eps + deviation with respect to ln eps."""
    shares = np.exp(-np.logaddexp(0.0, log_eps - reach))
    falling = float(counts @ shares) / (4.0 * n_train * _deviation(log_eps, counts, reach, n_train, delta))
    return 2.0 * math.exp(log_eps) - falling
