"""Average pooling as two small matrices, one for each axis: the pooled map of a channel is rows @ map @ columns^T.

Source   derived from the definition of the windows; that of torch's own pools.
Formula  A[i, x] = 1 / divisor_i for the pixels x of window i, else 0
         window i is [i t - p, i t - p + k), cut at n + p, and of it only [0, n) is read
         divisor_i counts the cut window with its padding, or the pixels alone
         adaptive windows are [floor(i n / m), ceil((i + 1) n / m)) and divide by their own length
Symbols  n pixels, m windows, k kernel, t stride, p padding of one axis
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from resnet_audit.graph.ir import AdaptivePool, Pool
from resnet_audit.graph.shapes import pooled_along

if TYPE_CHECKING:
    from torch import Tensor


def averages(op: Pool | AdaptivePool, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The matrices (windows, pixels), float64, of rows and of columns for maps of `size` pixels.

    Raises ValueError for a pool of maxima, which is no matrix.
    """
    return _along(op, size[0], 0), _along(op, size[1], 1)


def _along(op: Pool | AdaptivePool, size: int, axis: int) -> Tensor:
    if isinstance(op, AdaptivePool):
        window = torch.arange(op.cells[axis])
        start, stop = window * size // op.cells[axis], -(-(window + 1) * size // op.cells[axis])
        return _matrix(start, stop, stop - start, size)
    if op.kind == "max":
        raise ValueError("a pool of maxima has no matrix")
    if op.kernel is None:
        return torch.full((1, size), 1.0 / size, dtype=torch.float64)
    kernel, padding = op.kernel[axis], op.padding[axis]
    start = torch.arange(pooled_along(op, kernel, size, axis)) * op.stride[axis] - padding
    stop = (start + kernel).clamp(max=size + padding)
    first, last = start.clamp(min=0), stop.clamp(max=size)
    return _matrix(first, last, stop - start if op.count_padding else last - first, size)


def _matrix(first: Tensor, last: Tensor, divisor: Tensor, size: int) -> Tensor:
    """A window that reads no pixel at all is a row of zeros."""
    pixel = torch.arange(size)
    reads = (pixel >= first[:, None]) & (pixel < last[:, None])
    return reads.double() / divisor.clamp(min=1)[:, None]
