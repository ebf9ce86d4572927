"""How the branch scale of a family of networks falls with depth.

Source   ordinary least squares in logarithms, as in theory note `shortcut-scaling`, B4; Student's interval at 95 %.
Formula  ln(rms alpha) = ln a - gamma ln L
Symbols  rms alpha  root mean square of the branch scales of a network;  L  its residual blocks;  a  prefactor
Reads    S ~ a^2 L^(1 - 2 gamma): above 1/2 (fast) the residual time stays bounded as the family grows deeper, below 1/2
         (slow) it grows and the kernel degenerates. An interval that holds 1/2 says neither.
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

    from resnet_audit.results import AlphaMethod, FamilyVerdict

LEVEL = 0.95
FEWEST_DEPTHS = 3
CRITICAL = 0.5
BOUNDARY = (0.45, 0.55)
"""So near 1/2, finite depths cannot tell which limit is approached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyPoint:
    """One network: its residual blocks, the RMS of its branch scales, and how these were had."""

    blocks: int
    rms_alpha: float
    method: AlphaMethod


def family_fit(points: Sequence[FamilyPoint]) -> FamilyFit | None:
    """gamma with its interval and verdict; None where `why_no_family_fit` says why."""
    if why_no_family_fit(points) is not None:
        return None
    from scipy.stats import linregress, t  # noqa: PLC0415 - slow to import, and only a comparison needs it

    line = linregress([math.log(p.blocks) for p in points], [math.log(p.rms_alpha) for p in points])
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
        return f"a fit over depths needs {FEWEST_DEPTHS} different depths, and there are {len(depths)}"
    if len({point.method for point in points}) > 1:
        return "some branch scales are measured and some from weights; --method weights makes them alike"
    if any(point.blocks < 1 or not 0.0 < point.rms_alpha < math.inf for point in points):
        return "a network without blocks, or whose branches are 0, has no place on a logarithmic line"
    return None
