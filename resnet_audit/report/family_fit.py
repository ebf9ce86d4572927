"""How the branch scale of a family of networks falls with depth.

Source   ordinary least squares in logarithms, as in theory note `shortcut-scaling`, B4; Student's interval at 95 %.
Formula  ln(rms alpha) = ln a - gamma ln L
Symbols  rms alpha  root mean square of the branch scales of a network;  L  its residual blocks;  a  prefactor
Reads    S ~ a^2 L^(1 - 2 gamma): above 1/2 (fast) the residual time stays bounded as the family grows deeper, below 1/2
         (slow) it grows and the kernel degenerates. An interval that holds 1/2 says neither.
Family   networks that repeat the same blocks a different number of times: the sets of their blocks, kernels and all,
         are equal. Where width or kind changes with depth as well, depth is not what alpha follows.
Status   an estimate from a handful of networks, one seed each. Never quote gamma without its interval and method:
         scales from weights and measured ones have pointed to opposite sides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from resnet_audit.results import FamilyFit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resnet_audit.results import AlphaMethod, FamilyVerdict, ScalingBlock

LEVEL = 0.95
FEWEST_DEPTHS = 3
CRITICAL = 0.5
BOUNDARY = (0.45, 0.55)
"""So near 1/2, finite depths cannot tell which limit is approached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyPoint:
    """One network: its residual blocks, the RMS of its branch scales (None if a block has none), how these were had.

    kinds: those of its blocks, each once; equal in a deeper network of the same family.
    """

    blocks: int
    rms_alpha: float | None
    method: AlphaMethod
    kinds: frozenset[object]


def family_points(rows: Sequence[ScalingBlock], kinds: frozenset[object]) -> dict[AlphaMethod, FamilyPoint]:
    """A network by either method; `rows`: the branch scales of all its blocks."""
    scales: dict[AlphaMethod, list[float | None]] = {
        "weights": [row.alpha_weights for row in rows],
        "measured": [row.alpha_measured for row in rows],
    }
    return {
        method: FamilyPoint(blocks=len(rows), rms_alpha=_rms(alphas), method=method, kinds=kinds)
        for method, alphas in scales.items()
    }


def _rms(scales: Sequence[float | None]) -> float | None:
    known = [scale for scale in scales if scale is not None]
    return math.hypot(*known) / math.sqrt(len(known)) if known and len(known) == len(scales) else None


def family_fit(points: Sequence[FamilyPoint]) -> FamilyFit | None:
    """gamma with its interval and verdict; None where `why_no_family_fit` says why."""
    if why_no_family_fit(points) is not None:
        return None
    from scipy.stats import linregress, t  # noqa: PLC0415 - slow to import, and only a comparison needs it

    alphas = [point.rms_alpha for point in points if point.rms_alpha is not None]
    line = linregress([math.log(point.blocks) for point in points], [math.log(alpha) for alpha in alphas])
    gamma = -float(line.slope)
    half = float(line.stderr) * float(t.ppf(0.5 + LEVEL / 2, len(points) - 2))
    low, high = gamma - half, gamma + half
    verdict: FamilyVerdict = "fast" if low > CRITICAL else "slow" if high < CRITICAL else "inconclusive"
    return FamilyFit(
        gamma=gamma,
        low=low,
        high=high,
        prefactor=math.exp(float(line.intercept)),
        n=len(points),
        method=points[0].method,
        verdict=verdict,
        boundary=BOUNDARY[0] <= gamma <= BOUNDARY[1],
    )


def why_no_family_fit(points: Sequence[FamilyPoint]) -> str | None:
    """Why these networks give no fit, for a note; None if they do."""
    depths = {point.blocks for point in points}
    if len(depths) < FEWEST_DEPTHS:
        return f"a fit over depths needs networks of {FEWEST_DEPTHS} depths or more, not {len(depths)}"
    if len({point.kinds for point in points}) > 1:
        return "the networks do not repeat the same blocks: they differ in more than depth"
    if len({point.method for point in points}) > 1:
        return "some branch scales are measured and some from weights, and the two are not alike"
    if any(point.rms_alpha is None for point in points):
        return f"a block has no scale {'from weights' if points[0].method == 'weights' else 'that was measured'}"
    if any(point.blocks < 1 or not point.rms_alpha or point.rms_alpha == math.inf for point in points):
        return "a network without blocks, or whose branches are 0, has no place on a logarithmic line"
    return None
