"""Extremes and summary of one linear layer, without all its singular values.

Source     Golub, Van Loan: power iteration on A^T A; Frobenius norms from the entries; derived for the circular grid.
Formula    ||T||_F^2 = m1 m2 ||K||_F^2 for a circular convolution without wrapping, m = size / stride
           sigma_max(A) <= min(||A||_F, sqrt(||A||_1 ||A||_inf))
Guarantee  the largest singular value of a convolution is exact on the circular grid; that of a matrix is an estimate
           from below (steps until it moves by less than 1e-4, at most 100); upper bounds are certified, norms exact.
Memory     a matrix is read in slices of rows, in its stored dtype; nothing of its size is copied.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from resnet_audit.linear.conv import Pair, checked_kernel, circular_grid
from resnet_audit.linear.norm import INFLATION, conv_norm_circular, conv_norm_upper
from resnet_audit.linear.parallel import one_library_thread

if TYPE_CHECKING:
    from collections.abc import Iterator

SLICE_ENTRIES = 1 << 20
STEPS, TOLERANCE = 100, 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Extremes:
    """count singular values, the largest of them `sigma_max`; sigma_upper is certified, frobenius exact."""

    count: int
    sigma_max: float
    sigma_upper: float
    frobenius: float


@one_library_thread()
def matrix_extremes(weight: Tensor) -> Extremes:
    """Extremes of a linear layer's (out, in) weight. Raises ValueError if it is not finite."""
    squares, rows, columns = 0.0, 0.0, torch.zeros(weight.shape[1], dtype=torch.float64)
    for part in _slices(weight):
        squares += float(part.double().square().sum())
        magnitudes = part.abs()
        rows = max(rows, float(magnitudes.sum(dim=1, dtype=torch.float64).max()))
        columns += magnitudes.sum(dim=0, dtype=torch.float64)
    if not math.isfinite(squares):
        raise ValueError("some weights are NaN or infinite, so norms are not defined")
    upper = min(math.sqrt(squares), math.sqrt(rows * float(columns.max()))) * INFLATION
    top = min(_power_iteration(weight), upper)
    return Extremes(count=min(weight.shape), sigma_max=top, sigma_upper=upper, frobenius=math.sqrt(squares))


def conv_extremes(
    weight: Tensor, *, size: Pair, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Extremes | None:
    """Extremes of the circular convolution on `size`, rounded up to the stride; None where the kernel wraps around.

    Raises ValueError as `conv_norm_upper`.
    """
    kernel = checked_kernel(weight, groups)
    grid = circular_grid(size, stride)
    if any(grid[axis] < dilation[axis] * (kernel.shape[2 + axis] - 1) + 1 for axis in (0, 1)):
        return None
    places = (grid[0] // stride[0]) * (grid[1] // stride[1])
    smaller = min(kernel.shape[0] // groups, stride[0] * stride[1] * kernel.shape[1])
    upper = conv_norm_upper(weight, size=size, stride=stride, padding=padding, dilation=dilation, groups=groups)
    return Extremes(
        count=groups * places * smaller,
        sigma_max=conv_norm_circular(weight, grid, stride, groups, dilation),
        sigma_upper=upper,
        frobenius=math.sqrt(places) * float(kernel.norm()),
    )


@one_library_thread()
def nonfinite_entries(tensor: Tensor) -> int:
    """The number of NaN and infinite entries, counted slice by slice."""
    flat = tensor.detach().reshape(-1)
    # Eight-bit floats know no isfinite.
    wide = flat.itemsize > 1
    return sum(
        int((~torch.isfinite(part if wide else part.float())).sum()) for part in torch.split(flat, SLICE_ENTRIES)
    )


def _slices(weight: Tensor) -> Iterator[Tensor]:
    """The rows in slices of a bounded size, in float32 or wider."""
    rows = max(1, SLICE_ENTRIES // max(1, weight.shape[1]))
    for part in torch.split(weight, rows):
        yield part if part.dtype in {torch.float32, torch.float64} else part.float()


def _power_iteration(weight: Tensor) -> float:
    """An estimate of the largest singular value from below."""
    dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
    vector = torch.randn(weight.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    previous = top = 0.0
    for _ in range(STEPS):
        vector /= vector.norm().clamp(min=torch.finfo(dtype).tiny)
        image = torch.zeros_like(vector)
        square = 0.0
        for part in _slices(weight):
            forward = part @ vector
            square += float(forward.double().square().sum())
            image += part.T @ forward
        top = math.sqrt(square)
        if top - previous <= TOLERANCE * top:
            break
        previous, vector = top, image
    return top
