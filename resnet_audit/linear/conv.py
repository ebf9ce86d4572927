"""Geometry of a zero-padded 2-D convolution, and the norms that follow from geometry and kernel alone.

Source     theory note `bound`, 2.1 (torus), 2.2 (row norms, windows). Per axis, then both axes together.
Formula    output i reads input t i - p + d a for taps a = 0 .. k-1; k_e = (k - 1) d + 1
           torus    m a multiple of t, m >= n + min(p, k_e - 1)
           windows  mu = max over pixels of the number of (i, a) that read it
           rows     b_operator = sum over (o, i) of sqrt(sum of K[o, :, a]^2 over the taps a visible at i)
           kernels  b_patch = sum over o of the l2 norm of K[o]
Symbols    n  input size, k  kernel size, t  stride, p  padding, d  dilation
Guarantee  all exact. On such a torus the zero-padded operator is a submatrix of the circular one: no tap that reads
           padding wraps onto a pixel, and outputs that read only padding are zero rows.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from resnet_audit.linear.parallel import one_library_thread

Pair = tuple[int, int]


def output_size(size: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Pair:
    """Rows and columns of the output. Raises ValueError if the padded image is smaller than the kernel."""
    rows, columns = (
        (n + 2 * p - d * (k - 1) - 1) // t + 1
        for n, k, t, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
    )
    if rows < 1 or columns < 1:
        raise ValueError(f"a {kernel} kernel with dilation {dilation} does not fit {size} padded by {padding}")
    return rows, columns


def circular_grid(size: Pair, stride: Pair) -> Pair:
    """The size rounded up to a multiple of the stride: the smallest grid with a strided circular convolution."""
    return _round_up(size[0], stride[0]), _round_up(size[1], stride[1])


def torus_size(size: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Pair:
    """The smallest torus whose circular convolution contains the zero-padded one as a submatrix."""
    rows, columns = (
        _round_up(n + min(p, d * (k - 1)), t)
        for n, k, t, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
    )
    return rows, columns


def windows(size: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> int:
    """The largest number of windows that cover one pixel (mu); ||im2col(X)||^2 <= mu ||X||^2."""
    outputs = output_size(size, kernel, stride, padding, dilation)
    counts = []
    for axis in (0, 1):
        position, seen = _reads(size[axis], outputs[axis], kernel[axis], stride[axis], padding[axis], dilation[axis])
        counts.append(int(torch.bincount(position[seen], minlength=1).max()))
    return math.prod(counts)


@one_library_thread()
def row_norm_sum(  # noqa: PLR0913 - the geometry of a convolution
    weight: Tensor,
    *,
    size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    bias: Tensor | None = None,
) -> float:
    """Sum over output units of the l2 norm of the operator's row, with zero padding (b_operator).

    weight: (c_out, c_in / groups, kh, kw); size: input rows and columns. A bias (c_out,) is one more entry of every
    row. Raises ValueError as `checked_kernel`.
    """
    kernel = checked_kernel(weight, groups)
    extent = (kernel.shape[2], kernel.shape[3])
    outputs = output_size(size, extent, stride, padding, dilation)
    rows, columns = (
        _reads(size[axis], outputs[axis], extent[axis], stride[axis], padding[axis], dilation[axis])[1].double()
        for axis in (0, 1)
    )
    shift = kernel.new_zeros(len(kernel)) if bias is None else finite(bias)
    scale = binary_scale(torch.cat([kernel.flatten(), shift]))
    energy = (kernel / scale).square().sum(dim=1)
    per_row = torch.einsum("pa,oab,qb->opq", rows, energy, columns) + (shift / scale).square()[:, None, None]
    return float(per_row.sqrt().sum()) * scale


@one_library_thread()
def kernel_norm_sum(weight: Tensor, bias: Tensor | None = None) -> float:
    """Sum over output channels of the l2 norm of their kernels (b_patch).

    weight: (c_out, ...): of a linear layer too, where it is b_operator as well. A bias (c_out,) is one more entry of
    every kernel. Raises ValueError if not finite.
    """
    kernel = finite(weight).flatten(1)
    if bias is not None:
        kernel = torch.cat([kernel, finite(bias)[:, None]], dim=1)
    scale = binary_scale(kernel)
    return float(torch.linalg.vector_norm(kernel / scale, dim=1).sum()) * scale


def checked_kernel(weight: Tensor, groups: int) -> Tensor:
    """The weight in float64. Raises ValueError if it is not (c_out, c_in / groups, kh, kw), or not finite."""
    if weight.dim() != 4 or 0 in weight.shape:
        raise ValueError(f"a 2-D convolution has a weight (c_out, c_in / groups, kh, kw), not {tuple(weight.shape)}")
    if groups < 1 or weight.shape[0] % groups:
        raise ValueError(f"{weight.shape[0]} output channels cannot be split into {groups} groups")
    return finite(weight)


def finite(weight: Tensor) -> Tensor:
    """The weight in float64. Raises ValueError if an entry is NaN or infinite: no norm is defined then."""
    values = weight.detach().to(device="cpu", dtype=torch.float64)
    if not math.isfinite(_largest(values)):
        bad = int((~values.isfinite()).sum())
        raise ValueError(f"{bad} of {values.numel()} weights are NaN or infinite, so norms are not defined")
    return values


def binary_scale(values: Tensor) -> float:
    """The power of two just above the largest entry, 1 if all are zero: dividing by it is exact and stops overflow."""
    largest = _largest(values)
    return math.ldexp(1.0, min(math.frexp(largest)[1], 1023)) if largest > 0 else 1.0


def _largest(values: Tensor) -> float:
    """The largest absolute value, without a copy of the tensor; not finite if an entry is not."""
    if not values.numel():
        return 0.0
    low, high = (float(end) for end in values.aminmax())
    return low if math.isnan(low) else max(-low, high)


def _round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _reads(n: int, outputs: int, k: int, t: int, p: int, d: int) -> tuple[Tensor, Tensor]:
    """(outputs, k): the position that each output reads with each tap, and whether it is a pixel and not padding."""
    position = t * torch.arange(outputs)[:, None] + d * torch.arange(k) - p
    return position, (position >= 0) & (position < n)
