"""Where roots of eigenvalues lose digits of small singular values, and how those are found again.

Source     derived; errors of eigenvalues and of triangular factors as in Higham 2002, Accuracy and Stability.
Formula    an eigenvalue that is wrong by e makes its root sigma wrong by e / (2 sigma);
           the least of a square block alone:  sigma_p = |det A| / product of the others,
           wrong by sigma_p sum over the others of e / (2 sigma_i^2), and by what an SVD is wrong by
Symbols    A  a block of the symbol, p x p;  e  the largest error of its squared singular values, as computed
Guarantee  within 1e-12 of the layer's largest value, by errors e that were observed and not proven (below).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from resnet_audit.linear.gram import TORCH_BELOW
from resnet_audit.linear.parallel import map_parts

if TYPE_CHECKING:
    from resnet_audit.linear.symbol import Symbol

PROMISE = 1e-12
"""Largest error of a singular value, in units of the largest."""
EIGENVALUE_ERROR, GROWS_FROM = 4 * 2.0**-53, 64
"""Largest error of a small eigenvalue, in units of the largest of the layer, up to so many rows; beyond, it grows with
the square root of their number. Chosen, not proven: seen were at most 1.7 u in 54 layers of a trained network, 4.2 u at
256 rows and 5.6 u at 512 of random ones. The products of the taps round at the layer's scale."""
CROWD_ERROR, CROWDED = 10 * 2.0**-53, 1e-4
"""What nearly equal eigenvalues add, in units of their norm: 5 u seen where half of them are equal and large. Counted
where the next one below is closer than this part of the largest. Spread over a tenth: at most 2.8 u in all."""


@dataclass(frozen=True, slots=True)
class Lost:
    """Of eigenvalues (F, groups, p), ascending, with errors (F, groups): which roots are further off than promised.

    least: (F, groups), the smallest is; several: (F,), more than the smallest of a group are, or A is not square.
    """

    errors: Tensor
    least: Tensor
    several: Tensor


def lost(symbol: Symbol, squares: Tensor) -> Lost:
    """What eigenvalues do not tell. The promise is in units of the layer's largest value.

    That is several times the largest at most frequencies.
    """
    top = squares.max()
    crowded = squares.diff(dim=-1) < CROWDED * squares[..., -1:]
    crowd = torch.linalg.vector_norm(squares[..., 1:] * crowded, dim=-1)
    grown = math.sqrt(max(1.0, squares.shape[-1] / GROWS_FROM))
    errors = EIGENVALUE_ERROR * grown * top + CROWD_ERROR * crowd
    narrow = errors[..., None] > 2 * PROMISE * squares[..., :2].clamp(min=0.0).sqrt() * top.sqrt()
    several = (narrow[..., -1] if symbol.square else narrow[..., 0]).any(dim=1)
    return Lost(errors=errors, least=narrow[..., 0], several=several)


def kept(symbol: Symbol, squares: Tensor) -> Tensor:
    """(F, groups, p) singular values at all points from their squares, ascending but for the first; all as promised."""
    found = lost(symbol, squares)
    values: Tensor = squares.clamp(min=0.0).sqrt_()
    again = found.several.clone()
    alone = found.least.any(dim=1) & ~again
    if bool(alone.any()):
        least, errors = _by_determinant(symbol, symbol.points[alone], squares[alone], found.errors[alone])
        wanted = found.least[alone]
        values[alone, :, 0] = torch.where(wanted, least, values[alone, :, 0])
        again[alone] = (wanted & (errors > PROMISE * squares.max().sqrt())).any(dim=1)
    if bool(again.any()):
        values[again] = of_blocks(symbol, symbol.points[again])
    return values


def of_blocks(symbol: Symbol, points: Tensor) -> Tensor:
    """(F, groups, p) singular values at `points` by SVD."""
    return torch.cat(map_parts(lambda part: of_matrices(symbol.blocks(part)), symbol.parts(points)))


def of_matrices(blocks: Tensor) -> Tensor:
    """(..., min(m, n)) singular values of (..., m, n) blocks. A block with one row or column has its norm."""
    for side in (-1, -2):
        if blocks.shape[side] == 1:
            norms: Tensor = torch.linalg.vector_norm(blocks.squeeze(side), dim=-1, keepdim=True)
            return norms
    if max(blocks.shape[-2:]) < TORCH_BELOW:
        values: Tensor = torch.linalg.svdvals(blocks)
        return values
    return torch.from_numpy(np.linalg.svd(blocks.numpy(), compute_uv=False))


def _by_determinant(symbol: Symbol, points: Tensor, squares: Tensor, errors: Tensor) -> tuple[Tensor, Tensor]:
    """The least singular values (F, groups) of square blocks at `points`, and how far they may be off."""
    others = squares[..., 1:]
    volume = torch.cat(
        map_parts(lambda part: torch.linalg.slogdet(symbol.blocks(part)).logabsdet, symbol.parts(points))
    )
    least = (volume - others.log().sum(dim=-1) / 2).exp()
    return least, least * errors * others.reciprocal().sum(dim=-1) / 2
