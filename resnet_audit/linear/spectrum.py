"""All singular values of one linear layer.

Source     Sedghi, Gupta, Long (arXiv 1805.10408); strides, groups and dilation by the symbol of `symbol.py`.
Formula    sigma(T) = union over groups and frequencies w of sigma(A(w)), with multiplicity
Symbols    T  the circular convolution on an n1 x n2 torus, m = n / stride, A(w) its symbol
Guarantee  exact for circular padding: within 1e-12 of the largest value. For zero padding at the same size they are
           those of a nearby operator; `norm.py` has the certified bound.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from resnet_audit.linear.conv import Pair, binary_scale, checked_kernel, finite
from resnet_audit.linear.gram import Gram, eigenvalues, gram_of
from resnet_audit.linear.guard import kept, lost, of_blocks, of_matrices
from resnet_audit.linear.parallel import map_parts, one_library_thread
from resnet_audit.linear.symbol import Symbol, symbol_of

GRAM_FROM = 12
"""Side of a block from which eigenvalues of the Gram matrix are faster than its SVD (measured)."""
PROBE_EVERY, PROBES = 32, 6
"""The frequencies tried first: one in so many, and at least so many: zero alone is real and has smaller values."""
NARROW_SHARE = 0.3
"""Of those tried: an SVD takes 1.3 to 1.6 times as long as eigenvalues, so above it SVDs alone."""


@one_library_thread()
def conv_singular_values(
    weight: Tensor, size: Pair, stride: Pair = (1, 1), groups: int = 1, dilation: Pair = (1, 1)
) -> Tensor:
    """All singular values of the circular convolution on the grid `size`: float64, descending, with multiplicity.

    weight: (c_out, c_in / groups, kh, kw), any kernel size. There are groups m1 m2 min(c_out / groups,
    s1 s2 c_in / groups) of them, m = size / stride. Raises ValueError if the stride does not divide the size (round it
    up with `circular_grid` and say so), or if the weight is not of that shape or not finite.

    The mean over 3 x 3 pixels has the values |1 + 2 cos u| |1 + 2 cos v| / 9 at the frequencies u, v of the grid:

    >>> import torch
    >>> values = conv_singular_values(torch.full((1, 1, 3, 3), 1 / 9), (4, 4))
    >>> [round(float(value), 3) for value in values[[0, 1, 7]]], len(values)
    ([1.0, 0.333, 0.111], 16)
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
    squares = None if gram is None else _squares(symbol, gram)
    found = of_blocks(symbol, symbol.points) if squares is None else kept(symbol, squares)
    zeros = torch.zeros(int(symbol.counts.sum()) * groups * symbol.absent, dtype=torch.float64)
    values = torch.cat([found.flatten(1).repeat_interleave(symbol.counts, 0).flatten(), zeros])
    return torch.from_numpy(np.sort(values.numpy())).flip(0).mul_(scale)  # torch's sort takes 15 times as long


@one_library_thread()
def matrix_singular_values(weight: Tensor) -> Tensor:
    """All min(m, n) singular values of a linear layer's (m, n) weight: float64, descending. Raises ValueError."""
    if weight.dim() != 2 or 0 in weight.shape:
        raise ValueError(f"a linear layer has a weight (out, in), not {tuple(weight.shape)}")
    matrix = finite(weight)
    scale = binary_scale(matrix)
    values: Tensor = of_matrices(matrix / scale).mul_(scale)
    return values


def _squares(symbol: Symbol, gram: Gram) -> Tensor | None:
    """(F, groups, p) eigenvalues at all points, ascending; None if many of those tried would be followed by an SVD."""
    points = symbol.points
    step = min(PROBE_EVERY, max(1, len(points) // PROBES))
    first = torch.arange(len(points)) % step == 0
    squares = torch.empty(len(points), gram.groups, gram.side, dtype=torch.float64)
    for where in (first, ~first):
        found = map_parts(lambda part: eigenvalues(gram.at(part)), gram.parts(points[where]))
        squares[where] = torch.cat(found)
        if where is first and float(lost(symbol, squares[first]).several.double().mean()) > NARROW_SHARE:
            return None
        if step == 1:
            break
    return squares
