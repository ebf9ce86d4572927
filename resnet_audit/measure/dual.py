"""Mean depth of the gradient and its spread, without the parts of each depth: derivatives of their polynomial at z = 1.

Source   derived (theory note `gradient-ensemble`, B3).
Formula  g(z) = sum_k z^k c_k:   <g', g> = sum_k k <c_k, g>,   <g'', g> = sum_k k (k - 1) <c_k, g>   at z = 1
Idea     With z = 1 + e and e^3 = 0 a polynomial is three numbers, g(1), g'(1), g''(1) / 2, and multiplying by z adds
         each to the next: dual numbers of second order. The first of them is the gradient itself, which shows on its
         way what each block does to it.
Cost     Three cotangents whatever the depth.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np
import torch

from resnet_audit.graph.backward import Polynomial
from resnet_audit.measure.decomposition import backward, chunks, counted_groups, require_finite
from resnet_audit.measure.passages import shares_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from resnet_audit.graph.backward import Part
    from resnet_audit.graph.blocks import Block
    from resnet_audit.measure import Subject

ORDER = 3
"""Coefficients of a power series in e that are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DualMoments:
    """Sums over samples: ||g||^2, <g', g>, <g'', g>, ||g - h||^2 and ||h||^2 with h autograd's gradient.

    blocks: (L, 3), of each block the squares of the gradient at its sum, and of what branch and shortcut make of it.
    """

    total_square: float
    first: float
    second: float
    residual_square: float
    reference_square: float
    blocks: NDArray[np.float64]


def dual_moments(subject: Subject) -> DualMoments:
    """The moments at the first block's input. Raises NotRunnable, NonFinite, NoRule."""
    reference = subject.torch_gradient
    marks = {edge: times_one_plus_e for group in counted_groups(subject) for edge in group}
    sums, seen = np.zeros(5), _Squares(subject.blocks)
    for chunk in chunks(subject, ORDER, "dual numbers"):
        series = backward(subject, chunk, marks, visit=seen.visit).coefficients.double()
        total, expected = series[0], reference[chunk.rows].double()
        slopes = [float((part * total).sum()) for part in series[1:]] + [0.0] * (ORDER - len(series))
        residual, square = float((total - expected).square().sum()), float(expected.square().sum())
        # The third coefficient is half of the second derivative.
        sums += (float(total.square().sum()), slopes[0], 2.0 * slopes[1], residual, square)
    require_finite(subject, [*sums, *seen.sums.flat])
    total_square, first, second, residual_square, reference_square = sums.tolist()
    return DualMoments(
        total_square=total_square,
        first=first,
        second=second,
        residual_square=residual_square,
        reference_square=reference_square,
        blocks=seen.sums,
    )


class _Squares:
    """Sums over samples of the squares in DualMoments.blocks, gathered as the gradient comes by."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self.sums = np.zeros((len(blocks), 3))
        self.joins: dict[str, list[int]] = {}
        self.forks: dict[str, list[tuple[int, Block]]] = {}
        for index, block in enumerate(blocks):
            self.joins.setdefault(block.join, []).append(index)
            self.forks.setdefault(block.fork, []).append((index, block))

    def visit(self, name: str, cotangent: Polynomial, parts: Sequence[Part]) -> None:
        """Add what a node shows: as the sum of some blocks, and as the input of others."""
        for index in self.joins.get(name, ()):
            self.sums[index, 0] += _square([cotangent])
        for index, block in self.forks.get(name, ()):
            branch, skip = shares_of(block, parts)
            self.sums[index, 1:] += _square(branch), _square(skip)


def _square(terms: Sequence[Polynomial]) -> float:
    """The square of the sum of the gradients, the coefficients of e^0."""
    if not terms:
        return 0.0
    whole = reduce(torch.add, [term.coefficients[0] for term in terms])
    return float(torch.linalg.vector_norm(whole, dtype=torch.float64)) ** 2


def times_one_plus_e(series: Polynomial) -> Polynomial:
    """The product with 1 + e of a power series in e, of which ORDER coefficients are kept."""
    given = series.coefficients
    if len(given) < ORDER:
        given = torch.cat([given, torch.zeros_like(given[:1])])
    # Laid out in memory as what is given, which a concatenation is not: convolutions of maps then take thrice the time.
    product = torch.empty_like(given)
    product[0] = given[0]
    torch.add(given[1:], given[:-1], out=product[1:])
    return Polynomial(series.low, product)
