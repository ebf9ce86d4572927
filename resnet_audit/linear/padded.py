"""The zero-padded convolution itself: its largest singular value from its products, its matrix where that is small.

Source     Golub, Kahan 1965 (`lanczos.py`); products by torch's convolution and its transpose.
Formula    sigma_max(T) >= theta, T the zero-padded convolution of a `size` image
Guarantee  with a matrix of at most 2^20 entries exact (an SVD); else an estimate from below with its residual.
           `conv_norm_upper` bounds the same number from above.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from resnet_audit.linear.conv import Pair, binary_scale, checked_kernel, output_size
from resnet_audit.linear.lanczos import golub_kahan
from resnet_audit.linear.parallel import one_library_thread

DENSE_ENTRIES = 1 << 20
STEPS, TOLERANCE = 300, 1e-8


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A value from below, with the residual and the number of Lanczos steps; both are 0 where the value is exact."""

    value: float
    residual: float
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PaddedConv:
    """One zero-padded convolution of a (c_in, *size) image as a map of vectors; weight: (c_out, c_in / groups, kh, kw).

    Its vectors are images in torch's order, of `columns` numbers at the input and `rows` at the output.
    """

    weight: Tensor
    size: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    batch: int = 1

    @property
    def outputs(self) -> Pair:
        """Rows and columns of the output image."""
        extent = (self.weight.shape[2], self.weight.shape[3])
        return output_size(self.size, extent, self.stride, self.padding, self.dilation)

    @property
    def columns(self) -> int:
        """Numbers in the input image."""
        return self.weight.shape[1] * self.groups * math.prod(self.size)

    @property
    def rows(self) -> int:
        """Numbers in the output image."""
        return len(self.weight) * math.prod(self.outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, rows) of the vectors (N, columns)."""
        images = x.view(len(x), -1, *self.size)
        return F.conv2d(images, self.weight, None, self.stride, self.padding, self.dilation, self.groups).flatten(1)

    def adjoint(self, y: Tensor) -> Tensor:
        """Images (N, columns) of the vectors (N, rows) under the transposed map."""
        images = y.view(len(y), -1, *self.outputs)
        # Rows and columns at the end that no window of a strided convolution reached.
        missed = [
            n - ((m - 1) * t - 2 * p + d * (k - 1) + 1)
            for n, m, k, t, p, d in zip(
                self.size, self.outputs, self.weight.shape[2:], self.stride, self.padding, self.dilation, strict=True
            )
        ]
        return F.conv_transpose2d(
            images, self.weight, None, self.stride, self.padding, missed, self.groups, self.dilation
        ).flatten(1)


@one_library_thread()
def conv_norm_lanczos(  # noqa: PLR0913 - the geometry of a convolution
    weight: Tensor,
    *,
    size: Pair,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    tolerance: float = TOLERANCE,
    steps: int = STEPS,
    seed: int = 0,
) -> Estimate:
    """The l2 operator norm of the zero-padded convolution of a `size` image, from below; exact where it is small.

    weight: (c_out, c_in / groups, kh, kw). It stops once the residual is below `tolerance` of the value, or after
    `steps` steps. Raises ValueError if the weight is not of that shape or not finite, or if the padded image is smaller
    than the kernel.
    """
    kernel = checked_kernel(weight, groups)
    scale = binary_scale(kernel)
    maps = PaddedConv(
        weight=kernel / scale, size=size, stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    if maps.rows * maps.columns <= DENSE_ENTRIES:
        matrix = maps.forward(torch.eye(maps.columns, dtype=torch.float64))
        return Estimate(value=float(torch.linalg.matrix_norm(matrix, 2)) * scale, residual=0.0, steps=0)
    found = golub_kahan(maps, steps=steps, tolerance=tolerance, seed=seed)
    values, residuals = found.largest()
    return Estimate(value=float(values[0]) * scale, residual=float(residuals[0]) * scale, steps=found.steps)
