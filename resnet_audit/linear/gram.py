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
    """G(w) of every group.

    side: p; lags: (L, 2), the first is zero; products: (L, groups, p, p), R_d, of lag zero half of it, float64. With a
    symbol they are taken from its blocks instead.
    """

    frequencies: Frequencies
    groups: int
    side: int
    lags: Tensor
    products: Tensor
    symbol: Symbol | None

    def at(self, points: Tensor) -> Tensor:
        """G at `points`, (F, groups, p, p), complex128; float64 if there is only the frequency zero."""
        if self.symbol is None:
            return torch.complex(*self.halves(points))
        whole = self.symbol.blocks(points)
        return whole @ whole.mH if whole.shape[-2] == self.side else whole.mH @ whole

    def halves(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """The real and the imaginary part of G at `points`, (F, groups, p, p) each; only without a symbol."""
        angle, flat = self.frequencies.angle(points, self.lags), self.products.flatten(1)
        real, imaginary = ((part @ flat).view(-1, *self.products.shape[1:]) for part in (angle.cos(), angle.sin()))
        return real + real.mT, imaginary - imaginary.mT

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
    lags = sorted(factors)  # zero comes first
    products = torch.zeros(len(lags), groups, side, side, dtype=torch.float64)
    for product, lag in zip(products, lags, strict=True):
        for one, other in factors[lag]:
            product.baddbmm_(one, other)
    products[:1] /= 2  # it stands for both of its signs
    return Gram(
        frequencies=symbol.frequencies,
        groups=groups,
        side=side,
        lags=torch.tensor(lags),
        products=products,
        symbol=symbol if direct else None,
    )


def _factors(symbol: Symbol, *, wide: bool) -> dict[Lag, list[tuple[Tensor, Tensor]]]:
    """By non-negative lag d the pairs of matrices whose products, each (groups, p, p), make up R_d."""
    found: dict[Lag, list[tuple[Tensor, Tensor]]] = defaultdict(list)
    for kernels, lags in symbol.taps:
        places = [(int(row), int(column)) for row, column in lags]  # in order: those before are not ahead
        for index, (row, column) in enumerate(places):
            for before, (other_row, other_column) in enumerate(places[: index + 1]):
                ahead, behind = kernels[index], kernels[before].mT
                pair = (ahead, behind) if wide else (behind, ahead)
                found[row - other_row, column - other_column].append(pair)
    return found


def eigenvalues(matrices: Tensor) -> Tensor:
    """(..., p) ascending eigenvalues of Hermitian (..., p, p) matrices.

    From 64 rows on by numpy, whose library was 1.1 to 1.4 times as fast there as torch's; that one is as much faster
    below 48 (measured).
    """
    if matrices.shape[-1] < TORCH_BELOW:
        found: Tensor = torch.linalg.eigvalsh(matrices)
        return found
    return torch.from_numpy(np.linalg.eigvalsh(matrices.numpy()))
