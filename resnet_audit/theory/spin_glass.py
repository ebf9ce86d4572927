"""The spin glass whose loss has the network's path depths: a model quantity, in units of blocks.

Source   Littwin, Wolf 2016 (arXiv 1611.02525), eq. 14 to 16, theorems 1, 2 and 5; layers of unequal beta are derived
         (theory note `gradient-ensemble`, B4).
Formula  eps_r ~ [z^r] z prod_l (1 + beta_l z),  r = 1 .. p = L + 1;   sum_r eps_r^2 = 1
         v' = sum_{r>1} r eps_r^2,  v'' = sum_{r>1} r (r - 1) eps_r^2
         theta = ln(v'' / v') / 2 - (v'' - v') / (v'' + v')
Symbols  beta_l  gain of the branch over that of the shortcut, b_l / s_l, from the weights
         z       alone: the stem, which no shortcut skips;  r  layers of the model that a path passes, blocks + 1
         theta   complexity of critical points of any finite index: ln of their number, over the dimension
Reads    Equal beta: the mode lies at min(p, floor(beta p / (1 + beta)) + 1). theta grows with depth, at most
         ln(p - 1) / 2 - (p - 2) / p, that of a pure p-spin model.
Status   a model quantity: random weights, independent paths and an infinite width are assumed; real nets have none.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from resnet_audit.measure.log_polynomial import log_product
from resnet_audit.results import SpinGlass

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from resnet_audit.measure.weight_gains import BlockGains

LARGEST_LOG = 709.0
"""ln of about the largest float64."""


def of_gains(gains: Sequence[BlockGains | None]) -> SpinGlass:
    """The model with the gains of every block; null where one has no rule, or nothing passes its shortcut."""
    logs = [None if found is None else found.log_beta for found in gains]
    betas = tuple(None if value is None or value > LARGEST_LOG else math.exp(value) for value in logs)
    known = [value for value in logs if value is not None]
    if len(known) < len(logs):
        return SpinGlass(beta=betas, mode=None, mean=None, theta=None)
    weights = log_weights(known)
    return SpinGlass(beta=betas, mode=mode(weights), mean=mean(weights), theta=theta(weights))


def log_weights(log_betas: Sequence[float]) -> NDArray[np.float64]:
    """ln eps_r for r = 1 .. p, with sum eps_r^2 = 1, by elementary symmetric polynomials of the betas."""
    logs = log_product([{0: 0.0, 1: value} for value in log_betas])
    found: NDArray[np.float64] = logs - 0.5 * np.logaddexp.reduce(2.0 * logs)
    return found


def mode(weights: NDArray[np.float64]) -> int:
    """The r with the largest eps_r; the smaller of two."""
    return int(np.argmax(weights)) + 1


def mean(weights: NDArray[np.float64]) -> float:
    """The mean of r under eps_r / sum eps_r."""
    shares = np.exp(weights - np.logaddexp.reduce(weights))
    return float(shares @ np.arange(1, len(weights) + 1))


def theta(weights: NDArray[np.float64]) -> float | None:
    """The complexity of critical points; None if all weight lies at r = 1, where the model has no interaction."""
    r = np.arange(2, len(weights) + 1)
    logs = 2.0 * weights[1:]
    first, second = (np.logaddexp.reduce(logs + np.log(factor)) for factor in (r, r * (r - 1)))
    if len(r) == 0 or first == -math.inf:
        return None
    quotient = float(second - first)
    # (v'' - v') / (v'' + v') with v'' / v' = exp(quotient).
    return 0.5 * quotient - math.tanh(0.5 * quotient)
