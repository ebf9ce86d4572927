"""The Gram matrix of a symbol, written down from the products of its taps: no symbol is formed, none is squared.

Source     derived (theory note `spectrum`, 2a.5).
Formula    G(w) = A(w) A(w)^H = R_0 + sum over lags d > 0 of (R_d exp(i w . d) + h.c.),
           R_d = sum over phases, and over their taps a, b with lag_a - lag_b = d, of K_a K_b^T
           for one phase and c_out > c_in the other one, A^H A, with K_a^T K_b and lag_b - lag_a
Symbols    as in `symbol.py`; p the side of G, the smaller side of a block
Guarantee  exact: its eigenvalues are the squared singular values, each within about 1e-15 times the largest.
Cost       45 real products p^3 for a 3x3 kernel and 13 lags, whatever the size of the image; 17 and 5 at stride 2.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from resnet_audit.linear.frequencies import Frequencies, in_parts

if TYPE_CHECKING:
    from resnet_audit.linear.symbol import Symbol

Lag = tuple[int, int]

TORCH_BELOW = 48
"""Rows below which torch's eigenvalues are faster than numpy's."""

ANGLE_COPIES = 3
"""Memory that angles take while they are computed, in complex numbers a lag: with small blocks it is the larger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gram:
    """G(w) of every group: its lower triangle, which is all that decompositions of Hermitian matrices read.

    side: p; lags: (L, 2), the first is zero; even, odd: (L, groups, p (p + 1) / 2), the lower triangles of R_d + R_d^T
    (of lag zero R_0) and of R_d - R_d^T, float64. With a symbol the products are taken from its blocks instead.
    """

    frequencies: Frequencies
    groups: int
    side: int
    lags: Tensor
    even: Tensor
    odd: Tensor
    symbol: Symbol | None

    def lower(self, points: Tensor) -> Tensor:
        """G at `points`, (F, groups, p, p), complex128; float64 if there is only the frequency zero.

        What stands above the diagonal is not to be read.
        """
        if self.symbol is not None:
            whole = self.symbol.blocks(points)
            return whole @ whole.mH if whole.shape[-2] == self.side else whole.mH @ whole
        real, imaginary = self.triangles(points)
        found = torch.zeros(len(points), self.groups, self.side, self.side, dtype=torch.complex128)
        rows, columns = torch.tril_indices(self.side, self.side)
        found[..., rows, columns] = torch.complex(real, imaginary)
        return found

    def triangles(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """The real and the imaginary part of the lower triangle of G at `points`, (F, groups, p (p + 1) / 2) each.

        Only without a symbol.
        """
        angle, shape = self.frequencies.angle(points, self.lags), (len(points), *self.even.shape[1:])
        real, imaginary = angle.cos() @ self.even.flatten(1), angle.sin() @ self.odd.flatten(1)
        return real.view(shape), imaginary.view(shape)

    def parts(self, points: Tensor) -> list[Tensor]:
        """`points` in parts whose matrices fit the memory budget."""
        return in_parts(points, max(self.groups * self.side * self.side, ANGLE_COPIES * len(self.lags)))


def gram_of(symbol: Symbol) -> Gram:
    """The Gram matrix, by products of taps where they are fewer than the products at the frequencies."""
    pairs = sum(len(lags) * (len(lags) + 1) // 2 for _, lags in symbol.taps)
    wide, side, groups = symbol.rows == symbol.smaller, symbol.smaller, symbol.groups
    few = symbol.frequencies.single or pairs >= 4 * len(symbol.points) * len(symbol.taps)
    direct = few or not (wide or len(symbol.taps) == 1)
    factors = {} if direct else _factors(symbol, wide=wide)
    lags = sorted(factors)  # lag zero comes first: of two opposite lags the positive one is kept
    size = (len(lags), groups, side * (side + 1) // 2)
    even, odd = torch.empty(size, dtype=torch.float64), torch.empty(size, dtype=torch.float64)
    rows, columns = torch.tril_indices(side, side)
    for index, lag in enumerate(lags):
        product = torch.zeros(groups, side, side, dtype=torch.float64)
        for one, other in factors[lag]:
            product.baddbmm_(one, other.mT)
        below, above = product[:, rows, columns], product[:, columns, rows]
        even[index] = below + above if index else below
        odd[index] = below - above
    return Gram(
        frequencies=symbol.frequencies,
        groups=groups,
        side=side,
        lags=torch.tensor(lags),
        even=even,
        odd=odd,
        symbol=symbol if direct else None,
    )


def _factors(symbol: Symbol, *, wide: bool) -> dict[Lag, list[tuple[Tensor, Tensor]]]:
    """By non-negative lag d the pairs whose products one other^T, each (groups, p, p), make up R_d."""
    found: dict[Lag, list[tuple[Tensor, Tensor]]] = defaultdict(list)
    for kernels, lags in symbol.taps:
        sides = kernels if wide else kernels.mT
        places = [(int(row), int(column)) for row, column in lags]
        for one, (row, column) in zip(sides, places, strict=True):
            for other, (other_row, other_column) in zip(sides, places, strict=True):
                lag = (row - other_row, column - other_column) if wide else (other_row - row, other_column - column)
                if lag >= (0, 0):
                    found[lag].append((one, other))
    return found


def eigenvalues(lower: Tensor) -> Tensor:
    """(..., p) ascending eigenvalues of Hermitian (..., p, p) matrices of which only the lower triangle is read.

    From 64 rows on by numpy, whose library was 1.1 to 1.4 times as fast there as torch's; that one is as much faster
    below 48 (measured).
    """
    if lower.shape[-1] < TORCH_BELOW:
        found: Tensor = torch.linalg.eigvalsh(lower)
        return found
    return torch.from_numpy(np.linalg.eigvalsh(lower.numpy(), UPLO="L"))
