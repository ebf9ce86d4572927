"""Where weight decay lowers the covering bound: what each layer's norm costs, and which parameter carries that norm.

Source   after He, Liu, Tao 2019 (arXiv 1904.01367), whose advice is to control the norms of the weights; the numbers
         are derived.
Formula  sens_w = d ln sqrt(R) / d ln c, as layer w is scaled by c (sigma_w and b_w become c sigma_w and c b_w)
         change for a norm 10 % smaller = sens_w log10(0.9);   gain per unit of squared norm = sens_w / (2 ||W||_F^2)
Symbols  R  ln N(eps) <= R / eps^2 (`covering.py`), and the bound grows with sqrt(R);  W  folded weights of layer w
Reads    a chain has 1 for every layer, so only the gain per squared norm ranks them. A branch of a residual network
         with an identity shortcut has p_k + (1 - p_k) S_k / (1 + S_k): p_k its share of R^(1/3), S_k its product of
         norms. With a reference, b is a distance from it, and the number is that of shrinking this distance too.
Status   exact derivative; the change for 10 % is of first order. Advice about the bound, not about test error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from resnet_audit.graph.ir import Norm
from resnet_audit.theory.factors import is_factor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from resnet_audit.graph.ir import Node

SHRUNK = 0.9
"""The norm after a decay of 10 %, relative to before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What scaling one layer does to ln sqrt(R); gain_per_square is None for a layer of zeros."""

    sensitivity: float
    log10_change: float
    gain_per_square: float | None


def advice(sensitivity: float, frobenius: float) -> Advice:
    """The advice for a layer of this sensitivity (dimensionless) and norm of its folded weights."""
    square = frobenius * frobenius
    return Advice(
        sensitivity=sensitivity,
        log10_change=sensitivity * math.log10(SHRUNK),
        gain_per_square=sensitivity / (2.0 * square) if square > 0 else None,
    )


def actionable(nodes: tuple[Node, ...], renamed: Mapping[str, str]) -> dict[str, str | None]:
    """For every weight node of the folded graph, the parameter whose decay shrinks its folded norm.

    nodes: as found, before folding; renamed: the layer that each vanished norm went into. A norm divides by what it
    measures, so decay of the layer before it is undone: its own scale acts. None where that norm has no scale.
    """
    behind = {layer: norm for norm, layer in renamed.items()}
    ops = {node.name: node.op for node in nodes}
    found: dict[str, str | None] = {}
    for node in nodes:
        if is_factor(node) and node.name not in renamed:
            acting = behind.get(node.name, node.name)
            op = ops[acting]
            found[node.name] = None if isinstance(op, Norm) and op.weight is None else f"{acting}.weight"
    return found
