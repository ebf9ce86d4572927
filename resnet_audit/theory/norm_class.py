"""The class of networks that a bound is of: every network whose norms are at most these.

Source   derived (theory note `bound`, 1.6): a class must be fixed before the data, so it is chosen from a grid that is;
         the grid and its price are those of `norm_grid.py`.
Formula  class = {sigma_v <= s_v, b_v <= b'_v, ||c_v|| <= beta_v for all v} with one margin
Symbols  sigma_v certified operator norm, b_v covered (2,1) norm, c_v bias of weight node v;  s, b', beta its limits
Reads    `paper` takes the limits to be the norms of the trained net, as if they had been known before the data;
         `strict` takes the next limits on the grid and pays for having chosen among them.
Status   certified for the cover that is paid for, patches with biases: three numbers a node and the margin. All four
         covers are of rounded limits; one without biases has two numbers a node, so the price is enough for it too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from resnet_audit.theory.factors import PATCH_BIASES, Factor
from resnet_audit.theory.norm_grid import Rounded, round_down, round_up, union_nats

if TYPE_CHECKING:
    from collections.abc import Mapping

    from resnet_audit.settings import Preset


@dataclass(frozen=True, slots=True, kw_only=True)
class NormClass:
    """The limits of a class by weight node, and its margin.

    nats: what the tail pays for choosing it, the sum of -ln weight of all cells; None where nothing is paid.
    """

    factors: Mapping[str, Factor]
    margin: float
    nats: float | None


def norm_class(factors: Mapping[str, Factor], margin: float, preset: Preset) -> NormClass:
    """The class of a network with these factors, by the rule of the preset. margin: in units of the logits."""
    if preset == "paper" or not factors:
        return NormClass(factors=factors, margin=margin, nats=None)
    at_most = round_down(margin, len(factors))
    limits, cells = {}, [at_most]
    for name, factor in factors.items():
        limits[name], chosen = _limits(factor, len(factors))
        cells += chosen
    return NormClass(factors=limits, margin=at_most.value, nats=union_nats(cells))


def _limits(factor: Factor, layers: int) -> tuple[Factor, list[Rounded]]:
    """The factor with its norms rounded up, and the cells of the three numbers that the paid cover uses."""
    sigma, bias = round_up(factor.sigma, layers), round_up(factor.bias_norm, layers)
    b = {variant: round_up(value, layers) for variant, value in factor.b.items()}
    limits = replace(
        factor, sigma=sigma.value, bias_norm=bias.value, b={variant: cell.value for variant, cell in b.items()}
    )
    return limits, [sigma, b[PATCH_BIASES], bias]
