"""Certified upper bounds of operator norms.

Source     theory note `bound`, 2.1: a zero-padded convolution is a submatrix of a circular one on a larger torus.
Formula    ||T||_2 <= max over groups and frequencies w of sigma_max(A(w)),  A the symbol on `torus_size(...)`
Symbols    T  the convolution with zero padding at its real input size, A(w) its symbol (`symbol.py`)
Guarantee  certified upper bound, 0 to about 10 % above the norm on trained CIFAR layers; exact for 1x1 kernels at
           stride 1 and for linear layers. The factor 1 + 1e-12 covers the rounding of float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from resnet_audit.linear.conv import Pair, binary_scale, checked_kernel, finite, output_size, torus_size
from resnet_audit.linear.parallel import one_library_thread
from resnet_audit.linear.symbol import Symbol, symbol_of

INFLATION = 1.0 + 1e-12
RANKING_MARGIN = 1e-3
"""Share of the top eigenvalue that float32 may be wrong by, thousands of times its rounding: not to be tightened."""


@one_library_thread()
def conv_norm_upper(weight: Tensor, *, size: Pair, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> float:
    """An upper bound of the l2 operator norm of the zero-padded convolution of a `size` image.

    weight: (c_out, c_in / groups, kh, kw). Raises ValueError if it is not of that shape or not finite, or if the padded
    image is smaller than the kernel.
    """
    kernel = checked_kernel(weight, groups)
    extent = (kernel.shape[2], kernel.shape[3])
    output_size(size, extent, stride, padding, dilation)
    torus = torus_size(size, extent, stride, padding, dilation)
    scale = binary_scale(kernel)
    symbol = symbol_of(kernel / scale, torus, stride, groups, dilation)
    return _norm(symbol) * scale * INFLATION


@one_library_thread()
def conv_norm_circular(weight: Tensor, size: Pair, stride: Pair, groups: int, dilation: Pair) -> float:
    """The largest singular value of the circular convolution on the grid `size`, which the stride divides: exact.

    Raises ValueError as `conv_norm_upper`.
    """
    kernel = checked_kernel(weight, groups)
    scale = binary_scale(kernel)
    return _norm(symbol_of(kernel / scale, size, stride, groups, dilation)) * scale


@one_library_thread()
def matrix_norm_upper(weight: Tensor) -> float:
    """An upper bound of the l2 operator norm of a linear layer's (out, in) weight. Raises ValueError if not finite."""
    if weight.dim() != 2 or 0 in weight.shape:
        raise ValueError(f"a linear layer has a weight (out, in), not {tuple(weight.shape)}")
    matrix = finite(weight)
    scale = binary_scale(matrix)
    return float(_top(matrix / scale).sqrt()) * scale * INFLATION


def _norm(symbol: Symbol) -> float:
    """The largest singular value of all blocks: float32 ranks the frequencies, float64 decides among the first."""
    points = symbol.points
    if len(points) > 1:
        ranks = _ranks(symbol, points, torch.float32)
        points = points[ranks >= (1.0 - RANKING_MARGIN) * ranks.max()]
    return float(_ranks(symbol, points, torch.float64).max().sqrt())


def _ranks(symbol: Symbol, points: Tensor, dtype: torch.dtype) -> Tensor:
    """(F,): the largest eigenvalue over the groups at each of `points`."""
    parts = [_top(symbol.blocks(points[part], dtype)).amax(dim=1) for part in symbol.chunks(points)]
    return torch.cat(parts)


def _top(blocks: Tensor) -> Tensor:
    """The largest eigenvalue of the smaller Gram matrix of each (..., m, n) block."""
    if min(blocks.shape[-2:]) == 1:
        return blocks.abs().square().sum(dim=(-2, -1))
    gram = blocks @ blocks.mH if blocks.shape[-2] <= blocks.shape[-1] else blocks.mH @ blocks
    eigenvalues: Tensor = torch.linalg.eigvalsh(gram)
    return eigenvalues[..., -1]
