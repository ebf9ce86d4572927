"""Mean depth of the gradient and its spread, without the parts of each depth: derivatives of their polynomial at z = 1.

Source   derived (theory note `gradient-ensemble`, B3).
Formula  g(z) = sum_k z^k c_k:   <g', g> = sum_k k <c_k, g>,   <g'', g> = sum_k k (k - 1) <c_k, g>   at z = 1
Idea     With z = 1 + e and e^3 = 0 a polynomial is three numbers, g(1), g'(1), g''(1) / 2, and multiplying by z adds
         each to the next: dual numbers of second order.
Cost     Three cotangents whatever the depth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from resnet_audit.graph.backward import Polynomial
from resnet_audit.measure.decomposition import backward, chunks, counted_groups, require_finite
from resnet_audit.measure.passes import autograd_gradient

if TYPE_CHECKING:
    from resnet_audit.measure import Subject

ORDER = 3
"""Coefficients of a power series in e that are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DualMoments:
    """Sums over samples: ||g||^2, <g', g>, <g'', g>, ||g - h||^2 and ||h||^2 with h autograd's gradient."""

    total_square: float
    first: float
    second: float
    residual_square: float
    reference_square: float


def dual_moments(subject: Subject) -> DualMoments:
    """The moments at the first block's input. Raises NotRunnable, NonFinite, NoRule."""
    reference = autograd_gradient(subject.graph, subject.recording, subject.cotangent)
    marks = {edge: times_one_plus_e for group in counted_groups(subject) for edge in group}
    sums = np.zeros(5)
    for chunk in chunks(subject, ORDER, "dual numbers"):
        series = backward(subject, chunk, marks).coefficients.double()
        total, expected = series[0], reference[chunk.rows].double()
        slopes = [float((part * total).sum()) for part in series[1:]] + [0.0] * (ORDER - len(series))
        residual, square = float((total - expected).square().sum()), float(expected.square().sum())
        # The third coefficient is half of the second derivative.
        sums += (float(total.square().sum()), slopes[0], 2.0 * slopes[1], residual, square)
    require_finite(subject, sums)
    total_square, first, second, residual_square, reference_square = sums.tolist()
    return DualMoments(
        total_square=total_square,
        first=first,
        second=second,
        residual_square=residual_square,
        reference_square=reference_square,
    )


def times_one_plus_e(series: Polynomial) -> Polynomial:
    """The product with 1 + e of a power series in e, of which ORDER coefficients are kept."""
    given = series.coefficients
    kept = min(len(given) + 1, ORDER)
    product = torch.cat([given, torch.zeros_like(given[:1])])[:kept]
    product[1:] += given[: kept - 1]
    return Polynomial(series.low, product)
