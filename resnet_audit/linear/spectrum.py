"""All singular values of one linear layer.

Source     Sedghi, Gupta, Long (arXiv 1805.10408); strides, groups and dilation by the symbol of `symbol.py`.
Formula    sigma(T) = union over groups and frequencies w of sigma(A(w)), with multiplicity
Symbols    T  the circular convolution on an n1 x n2 torus, m = n / stride, A(w) its symbol
Guarantee  exact for circular padding: within 1e-12 of the largest value. For zero padding at the same size they are
           those of a nearby operator; `norm.py` has the certified bound.
"""

from __future__ import annotations

import torch
from torch import Tensor

from resnet_audit.linear.conv import Pair, binary_scale, checked_kernel, finite
from resnet_audit.linear.parallel import one_library_thread
from resnet_audit.linear.symbol import symbol_of


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
    symbol = symbol_of(kernel / scale, size, stride, groups, dilation)
    found = [
        _values(symbol.blocks(symbol.points[part], torch.float64)).flatten(1).repeat_interleave(symbol.counts[part], 0)
        for part in symbol.chunks(symbol.points)
    ]
    zeros = torch.zeros(int(symbol.counts.sum()) * groups * symbol.absent, dtype=torch.float64)
    values = torch.cat([*(part.flatten() for part in found), zeros])
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


def _values(blocks: Tensor) -> Tensor:
    """(..., min(m, n)) singular values of (..., m, n) blocks. A block with one row or column has its norm."""
    for side in (-1, -2):
        if blocks.shape[side] == 1:
            norms: Tensor = torch.linalg.vector_norm(blocks.squeeze(side), dim=-1, keepdim=True)
            return norms
    values: Tensor = torch.linalg.svdvals(blocks)
    return values
