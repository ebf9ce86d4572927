"""Certified upper bounds of operator norms.

Source     theory note `bound`, 2.1: a zero-padded convolution is a submatrix of a circular one on a larger torus.
Formula    ||T||_2 <= max over groups and frequencies w of sigma_max(A(w)),  A the symbol on `torus_size(...)`
Symbols    T  the convolution with zero padding at its real input size, A(w) its symbol (`symbol.py`)
Guarantee  certified upper bound, 0 to about 10 % above the norm on trained CIFAR layers; exact for 1x1 kernels at
           stride 1 and for linear layers. The factor 1 + 1e-12 covers the rounding of float64.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from resnet_audit.linear.conv import Pair, binary_scale, checked_kernel, finite, output_size, torus_size
from resnet_audit.linear.gram import Gram, eigenvalues, gram_of
from resnet_audit.linear.parallel import map_parts, one_library_thread
from resnet_audit.linear.symbol import symbol_of

INFLATION = 1.0 + 1e-12


@one_library_thread()
def conv_norm_upper(weight: Tensor, *, size: Pair, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> float:
    """An upper bound of the l2 operator norm of the zero-padded convolution of a `size` image.

    weight: (c_out, c_in / groups, kh, kw). Raises ValueError if it is not of that shape or not finite, or if the padded
    image is smaller than the kernel.

    Zero padding leaves 0.92 of the norm 1 of the mean over 3 x 3 pixels of an 8 x 8 image; what is certified is 1.

    >>> import torch
    >>> kernel, one = torch.full((1, 1, 3, 3), 1 / 9), (1, 1)
    >>> round(conv_norm_upper(kernel, size=(8, 8), stride=one, padding=one, dilation=one, groups=1), 3)
    1.0
    """
    kernel = checked_kernel(weight, groups)
    extent = (kernel.shape[2], kernel.shape[3])
    output_size(size, extent, stride, padding, dilation)
    torus = torus_size(size, extent, stride, padding, dilation)
    scale = binary_scale(kernel)
    return _norm(gram_of(symbol_of(kernel, torus, stride, groups, dilation, scale))) * scale * INFLATION


@one_library_thread()
def conv_norm_circular(weight: Tensor, size: Pair, stride: Pair, groups: int, dilation: Pair) -> float:
    """The largest singular value of the circular convolution on the grid `size`, which the stride divides: exact.

    Raises ValueError as `conv_norm_upper`.
    """
    kernel = checked_kernel(weight, groups)
    scale = binary_scale(kernel)
    return _norm(gram_of(symbol_of(kernel, size, stride, groups, dilation, scale))) * scale


@one_library_thread()
def matrix_norm_upper(weight: Tensor) -> float:
    """An upper bound of the l2 operator norm of a linear layer's (out, in) weight. Raises ValueError if not finite."""
    if weight.dim() != 2 or 0 in weight.shape:
        raise ValueError(f"a linear layer has a weight (out, in), not {tuple(weight.shape)}")
    matrix = finite(weight)
    scale = binary_scale(matrix)
    top = float(eigenvalues(_smaller_gram(matrix / scale))[-1])
    return math.sqrt(top) * scale * INFLATION


def _norm(gram: Gram) -> float:
    """The largest singular value of all blocks.

    Frequencies are looked at in rounds of 1, 3, 12, 48, ..., those first that may be the largest. Of a round only
    those count that are not certified to be below the largest so far, so few eigenvalues are ever computed.
    """
    points, most = gram.frequencies.points, _most(gram)
    shuffled = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))
    order = shuffled[most[shuffled].argsort(descending=True, stable=True)]
    best, start, stop = 0.0, 0, 1
    while start < int((most > best).sum()):
        found = map_parts(partial(_above, gram, best), gram.parts(points[order[start:stop]]))
        best, start, stop = max(best, *found), stop, 4 * stop
    return math.sqrt(best)


def _most(gram: Gram) -> Tensor:
    """(F,): no eigenvalue of G at a frequency is above it; infinite where that takes as long as to look closely.

    The largest of p real numbers with the mean m and the variance v is at most m + sqrt((p - 1) v) (Wolkowicz, Styan
    1980), and trace and Frobenius norm tell m and v. In a trained ResNet-56 it leaves one frequency of eight.
    """
    if gram.symbol is not None:
        return torch.full((len(gram.frequencies.points),), math.inf, dtype=torch.float64)
    slack = cholesky_slack(gram.side)

    def at(points: Tensor) -> Tensor:
        real, imaginary = (half.flatten(2) for half in gram.halves(points))
        mean = real[..., :: gram.side + 1].mean(dim=-1)  # of the diagonal
        whole = real.square().sum(dim=-1) + imaginary.square().sum(dim=-1)
        # The difference is wrong by no more than its rounding in units of what it is taken from.
        spread = whole - gram.side * mean.square() + slack * whole
        largest: Tensor = (mean + (spread * (1.0 - 1.0 / gram.side)).clamp(min=0.0).sqrt()).amax(dim=1)
        return largest * (1.0 + slack)

    return torch.cat(map_parts(at, gram.parts(gram.frequencies.points)))


def _above(gram: Gram, best: float, points: Tensor) -> float:
    """The largest eigenvalue at `points` if it is above `best`; otherwise any number that is not.

    If limit I - G has a Cholesky factor, all eigenvalues of G are below the limit and what `cholesky_slack` allows.
    """
    limit = (1.0 - cholesky_slack(gram.side)) * best
    rest = gram.at(points).flatten(0, 1).neg_()
    rest.diagonal(dim1=-2, dim2=-1).add_(limit)
    if best > 0.0:
        rest = rest[torch.linalg.cholesky_ex(rest).info != 0]
    return limit - float(eigenvalues(rest).min()) if len(rest) else 0.0


def cholesky_slack(side: int) -> float:
    """More than the factor of limit I - G, G >= 0 of `side` rows, is wrong by, in units of the limit.

    It is that of a matrix within c trace(limit I - G) <= c side limit of it, c the rounding of a sum of side products
    (Higham 2002, theorem 10.3) and of their division: in complex numbers no more than 4 (side + 4) 2^-53 (section 3.6).
    """
    return 4.0 * side * (side + 4.0) * 2.0**-53


def _smaller_gram(matrix: Tensor) -> Tensor:
    """The smaller of the two Gram matrices of a matrix."""
    return matrix @ matrix.mT if matrix.shape[0] <= matrix.shape[1] else matrix.mT @ matrix
