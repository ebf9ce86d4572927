"""What it costs that norms and margin were read off a trained network: a union over a grid fixed in advance.

Source   derived (theory note `bound`, 1.6); a weighted union bound over all cells of the grid.
Formula  grid (1 + 1/L)^k, k in Z;   weight of a cell (3 / pi^2) (|k| + 1)^(-2);   a zero norm is a cell of its own
         ln(2 / delta) becomes ln(2 / delta) + sum_j ln((pi^2 / 3) (|k_j| + 1)^2), one j for each number
Symbols  L    weight nodes; every one has three numbers: sigma, b and the norm of its bias. The margin is one more
         k_j  the index of number j; the cell of zero counts as k = 0
Reads    norms are rounded up and the margin down, so the network lies in the class of its cell; then the bound for that
         class holds, and sqrt(R) has grown by at most (1 + 1/L)^(L + 2) <= e^(1 + 2/L).
Status   certified. The weights of one number sum to exactly 1, those of its powers alone to 1 - 3 / pi^2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

WEIGHT = 3.0 / math.pi**2
"""The weight of the cells k = 0 and zero: 1 / (2 zeta(2)), so that all cells together have weight 1."""

LARGEST_EXPONENT = math.log(1.7976931348623157e308)
"""ln of the largest float64: powers beyond are infinite, and so is the bound that they enter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounded:
    """A number moved onto the grid: `value` is (1 + 1/L)^index, or zero with index None."""

    value: float
    index: int | None

    @property
    def weight(self) -> float:
        """The share of delta that this cell has."""
        return math.exp(-self.nats)

    @property
    def nats(self) -> float:
        """-ln of the weight: what the cell adds to ln(2 / delta)."""
        return index_nats(self.index or 0)


def index_nats(index: int) -> float:
    """-ln of the weight of the cell (1 + 1/L)^index: ln((pi^2 / 3) (|index| + 1)^2)."""
    return 2.0 * math.log(abs(index) + 1.0) - math.log(WEIGHT)


def power(index: int, layers: int) -> float:
    """The grid value (1 + 1/layers)^index; infinite beyond float64. Raises ValueError for fewer than one layer.

    The grid consists of these floats: they are fixed in advance as much as the exact powers, which they meet to 1e-12.
    """
    exponent = index * _step(layers)
    return math.exp(exponent) if exponent <= LARGEST_EXPONENT else math.inf


def round_up(value: float, layers: int) -> Rounded:
    """The least grid value that is not below `value` >= 0. Raises ValueError for what is negative or not finite."""
    if not 0.0 <= value < math.inf:
        raise ValueError(f"a norm of {value} has no cell: it must be finite and not negative")
    if value == 0.0:
        return Rounded(value=0.0, index=None)
    index = math.ceil(math.log(value) / _step(layers))
    # The logarithm is off by an ulp at grid values themselves; the cell is decided by the values.
    while power(index, layers) < value:
        index += 1
    while power(index - 1, layers) >= value:
        index -= 1
    return Rounded(value=power(index, layers), index=index)


def round_down(value: float, layers: int) -> Rounded:
    """The largest grid value that is not above `value` > 0. Raises ValueError for what is not positive and finite."""
    if not 0.0 < value < math.inf:
        raise ValueError(f"a margin of {value} has no cell: it must be positive and finite")
    above = round_up(value, layers)
    index = above.index or 0
    return above if above.value == value else Rounded(value=power(index - 1, layers), index=index - 1)


def union_nats(cells: Iterable[Rounded]) -> float:
    """What all cells together add to ln(2 / delta)."""
    return math.fsum(cell.nats for cell in cells)


def largest_log_growth(layers: int) -> float:
    """The most that rounding adds to ln(sqrt(R) / margin): (L + 2) ln(1 + 1/L) <= 1 + 2 / L.

    Every term of sqrt(R) is a product of at most L - 1 norms sigma, one b, and in part a bias norm in place of the
    sigma before it; with the margin these are at most L + 1 factors, each of which grows by at most 1 + 1/L.
    """
    return (layers + 2) * _step(layers)


def _step(layers: int) -> float:
    if layers < 1:
        raise ValueError("a grid needs at least one weight node")
    return math.log1p(1.0 / layers)
