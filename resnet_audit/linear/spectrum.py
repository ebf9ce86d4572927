"""All singular values of one linear layer.

Source     Sedghi, Gupta, Long (arXiv 1805.10408); strides, groups and dilation by the symbol of `symbol.py`.
Formula    sigma(T) = union over groups and frequencies w of sigma(A(w)), with multiplicity
Symbols    T  the circular convolution on an n1 x n2 torus, m = n / stride, A(w) its symbol
Guarantee  exact for circular padding: within 1e-12 of the largest value. For zero padding at the same size they are
           those of a nearby operator; `norm.py` has the certified bound.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from resnet_audit.linear.conv import Pair, binary_scale, checked_kernel, finite
from resnet_audit.linear.gram import Gram, eigenvalues, gram_of
from resnet_audit.linear.parallel import map_parts, one_library_thread
from resnet_audit.linear.symbol import Symbol, symbol_of

GRAM_FROM = 12
"""Side of a block from which eigenvalues of the Gram matrix are faster than its SVD (measured)."""
PROMISE = 1e-12
"""Largest error of a singular value, in units of the largest."""
EIGENVALUE_ERROR = 10 * 2.0**-53
"""Largest error of an eigenvalue, in units of the norm of all: 8 u seen where half of 512 values are equal and large,
0.2 u where the squares are spread as those of random weights."""

PROBE_EVERY = 32
NARROW_SHARE = 0.3
"""Of one in PROBE_EVERY frequencies: an SVD takes 1.3 to 1.6 times as long as eigenvalues, so above it SVDs alone."""


@one_library_thread()
def conv_singular_values(
    weight: Tensor, size: Pair, stride: Pair = (1, 1), groups: int = 1, dilation: Pair = (1, 1)
) -> Tensor:
    """All singular values of the circular convolution on the grid `size`: float64, descending, with multiplicity.

    weight: (c_out, c_in / groups, kh, kw), any kernel size. There are groups m1 m2 min(c_out / groups,
    s1 s2 c_in / groups) of them, m = size / stride. Raises ValueError if the stride does not divide the size (round it
    up with `circular_grid` and say so), or if the weight is not of that shape or not finite.
    """
    kernel = checked_kernel(weight, groups)
    if min(size) < 1 or size[0] % stride[0] or size[1] % stride[1]:
        raise ValueError(
            f"the stride {stride} does not divide the grid {size}: the operator is not block circulant; "
            f"round the grid up to a multiple of the stride"
        )
    scale = binary_scale(kernel)
    symbol = symbol_of(kernel, size, stride, groups, dilation, scale)
    gram = None if symbol.smaller < GRAM_FROM else gram_of(symbol)
    if gram is None or _mostly_narrow(gram):
        parts = map_parts(lambda points: _values(symbol.blocks(points)), symbol.parts())
    else:
        parts = map_parts(partial(_of_gram, symbol, gram), symbol.parts())
    found = torch.cat(parts).flatten(1)
    zeros = torch.zeros(int(symbol.counts.sum()) * groups * symbol.absent, dtype=torch.float64)
    values = torch.cat([found.repeat_interleave(symbol.counts, 0).flatten(), zeros])
    return values.sort(descending=True).values.mul_(scale)


@one_library_thread()
def matrix_singular_values(weight: Tensor) -> Tensor:
    """All min(m, n) singular values of a linear layer's (m, n) weight: float64, descending. Raises ValueError."""
    if weight.dim() != 2 or 0 in weight.shape:
        raise ValueError(f"a linear layer has a weight (out, in), not {tuple(weight.shape)}")
    matrix = finite(weight)
    scale = binary_scale(matrix)
    values: Tensor = _values(matrix / scale).mul_(scale)
    return values


def _of_gram(symbol: Symbol, gram: Gram, points: Tensor) -> Tensor:
    """(F, groups, p) singular values at `points` from eigenvalues; by SVD where those do not carry 1e-12."""
    squares = eigenvalues(gram.lower(points))
    values: Tensor = squares.clamp(min=0.0).sqrt()
    narrow = _narrow(squares)
    if bool(narrow.any()):
        values[narrow] = _values(symbol.blocks(points[narrow]))
    return values


def _narrow(squares: Tensor) -> Tensor:
    """(F,): whether eigenvalues (F, groups, p), ascending, lose digits of the smallest singular value of a group.

    An eigenvalue that is wrong by e makes its root wrong by e / (2 sigma).
    """
    error = EIGENVALUE_ERROR * torch.linalg.vector_norm(squares, dim=-1)
    smallest, largest = squares[..., 0].clamp(min=0.0).sqrt(), squares[..., -1].sqrt()
    narrow: Tensor = error > 2 * PROMISE * smallest * largest
    return narrow.any(dim=1)


def _mostly_narrow(gram: Gram) -> bool:
    """Whether a sample of the frequencies says that eigenvalues would mostly be followed by an SVD."""
    sample = gram.parts(gram.frequencies.points[::PROBE_EVERY])[0]
    return float(_narrow(eigenvalues(gram.lower(sample))).double().mean()) > NARROW_SHARE


def _values(blocks: Tensor) -> Tensor:
    """(..., min(m, n)) singular values of (..., m, n) blocks. A block with one row or column has its norm."""
    for side in (-1, -2):
        if blocks.shape[side] == 1:
            norms: Tensor = torch.linalg.vector_norm(blocks.squeeze(side), dim=-1, keepdim=True)
            return norms
    return torch.from_numpy(np.linalg.svd(blocks.numpy(), compute_uv=False))
