"""Largest singular values, and the density of all, of linear maps that are known only by what they do to vectors.

Source     Golub, Kahan 1965; full reorthogonalisation of the side that is kept, Simon, Zha 2000; densities by the
           quadrature of Golub, Meurant 2010 from random starts, as in Lin, Saad, Yang 2016 (arXiv 1308.5467).
Formula    T V = U B,   T^T U = V B^T + beta v e^T,   B = P diag(theta) Q^T upper bidiagonal, k x k
           sigma_max >= theta_1;   residual = |T^T u - theta_1 v| = beta |P[k, 1]|
           mean of f(sigma) = sum_i Q[1, i]^2 f(theta_i), in expectation over a start that is uniform on the sphere
Symbols    T  one of a batch of maps of one shape; k  steps; theta  Ritz values, descending; u, v  those of theta_1
Guarantee  theta_1 is an estimate from below, up to the rounding of the dtype: it is |T v| for a unit vector v. Some
           singular value lies within the residual of it, nearly always the largest. Means are estimates: exact for
           polynomials of sigma^2 up to degree 2k - 1 but for the random start, poor for steps. Small Ritz values say
           nothing of the least singular value.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from resnet_audit.linear.parallel import one_library_thread

if TYPE_CHECKING:
    from collections.abc import Callable

ENOUGH = 0.7
"""A vector that keeps this share of its length in a projection is orthogonal after it (Daniel et al. 1976)."""

EVERY = 3
"""Steps between two looks at the residuals."""

NOTHING = 10
"""Roundings, of the largest diagonal entry, below which a vector is nothing: the maps show no more to this start."""

SQUARES = (1e-12, 1e18)
"""Lengths of vectors of float32 whose entries can be squared in float32, but for those that do not count."""


class Maps(Protocol):
    """`batch` linear maps from `columns` to `rows` numbers, each applied to a vector of its own."""

    @property
    def batch(self) -> int:
        """The number of maps."""
        ...

    @property
    def rows(self) -> int:
        """The length of an image."""
        ...

    @property
    def columns(self) -> int:
        """The length of a vector."""
        ...

    def forward(self, x: Tensor) -> Tensor:
        """Images (batch, rows) of the vectors (batch, columns)."""
        ...

    def adjoint(self, y: Tensor) -> Tensor:
        """Images (batch, columns) of the vectors (batch, rows) under the transposed maps."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Bidiagonal:
    """What k steps know of every map.

    diagonal, right: (batch, k), of B, and what stands right of it, the last the beta; rounding: eps of the products.
    """

    diagonal: Tensor
    right: Tensor
    rounding: float

    @property
    def steps(self) -> int:
        """k."""
        return self.diagonal.shape[1]

    def after(self, steps: int) -> Bidiagonal:
        """What the first `steps` steps knew."""
        return replace(self, diagonal=self.diagonal[:, :steps], right=self.right[:, :steps])

    def decomposed(self) -> tuple[Tensor, Tensor, Tensor]:
        """Last row of P, Ritz values, first row of Q: each (batch, k), the values descending."""
        left, values, right = torch.linalg.svd(
            torch.diag_embed(self.diagonal) + torch.diag_embed(self.right[:, :-1], 1)
        )
        return left[:, -1], values, right[:, :, 0]

    def largest(self) -> tuple[Tensor, Tensor]:
        """The largest Ritz value of every map and its residual, each (batch,); no residual is below the rounding."""
        last, values, _ = self.decomposed()
        residuals = self.right[:, -1] * last[:, 0].abs()
        return values[:, 0], torch.maximum(residuals, self.rounding * values[:, 0])

    def mean(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Estimates (batch,) of the mean of `function` over the min(rows, columns) singular values of every map.

        Of several functions at once, (F, batch), if it gives (F, batch, k) for the (batch, k) values.
        """
        _, values, first = self.decomposed()
        return (first.square() * function(values)).sum(dim=-1)


@one_library_thread()
def golub_kahan(
    maps: Maps, *, steps: int, tolerance: float, least: int = 1, seed: int = 0, dtype: torch.dtype = torch.float64
) -> Bidiagonal:
    """Lanczos bidiagonalisation from random starts, until all residuals are below `tolerance` of their values.

    It takes at least `least` and at most `steps` steps, and no more than min(rows, columns); it starts on the smaller
    side and looks at the residuals at every third step. The maps work in `dtype`, the small matrices in float64.
    Raises FloatingPointError if a product overflows.
    """
    turned = maps.rows < maps.columns
    there, back = (maps.adjoint, maps.forward) if turned else (maps.forward, maps.adjoint)
    size = min(maps.rows, maps.columns)
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(maps.batch, size, generator=generator, dtype=torch.float64)
    v = (start / start.norm(dim=1, keepdim=True)).to(dtype)
    steps = max(1, min(steps, size))
    # Small numbers and products of a matrix with one vector: numpy takes a third of torch's time for them (measured).
    basis = v.new_empty(maps.batch, steps, size).numpy()
    diagonal, right = np.zeros((2, maps.batch, steps))
    left = v.new_zeros(maps.batch, max(maps.rows, maps.columns))
    largest = np.zeros(maps.batch)
    for step in range(steps):
        basis[:, step] = v.numpy()
        # Of the last step there is nothing at the first: `right` ends with a zero, and so `left` begins.
        left = torch.addcmul(there(v), _column(right[:, step - 1], v), left, value=-1)
        alpha = _to_unit(left, _lengths(left), largest)
        largest = np.maximum(largest, alpha)
        v, length = _outside(back(left), v, basis[:, : step + 1], _column(alpha, v))
        diagonal[:, step], right[:, step] = alpha, _to_unit(v, length, largest)
        looking = step + 1 >= least and step % EVERY == 0
        if not (looking or step + 1 == steps):
            continue
        if not bool(np.isfinite((diagonal + right)[:, : step + 1]).all()):
            raise FloatingPointError("a product of the map with a vector is not finite")
        found = Bidiagonal(
            diagonal=torch.from_numpy(diagonal[:, : step + 1]),
            right=torch.from_numpy(right[:, : step + 1]),
            rounding=torch.finfo(dtype).eps,
        )
        values, residuals = found.largest()
        if bool((residuals <= tolerance * values).all()):
            break
    return found


def _outside(images: Tensor, last: Tensor, bases: np.ndarray, along_last: Tensor) -> tuple[Tensor, np.ndarray]:
    """What the images (batch, n) have outside the spans of the orthonormal bases (batch, k, n), and its lengths.

    last: (batch, n), where the bases end; along_last: (batch, 1), what the images have along it by the recurrence.
    """
    rest = torch.addcmul(images, along_last, last, value=-1)
    length = _lengths(rest)
    for _ in range(2):
        for part, vectors in zip(rest.numpy(), bases, strict=True):
            np.subtract(part, (vectors @ part) @ vectors, out=part)
        before, length = length, _lengths(rest)
        if bool((length > ENOUGH * before).all()):
            break
    return rest, length


def _lengths(vectors: Tensor) -> np.ndarray:
    """(batch,), float64. In the dtype of the vectors, a sixth of the time, where no square can leave its range."""
    lengths: np.ndarray = torch.linalg.vector_norm(vectors, dim=1).numpy()
    if not bool(((lengths > SQUARES[0]) & (lengths < SQUARES[1])).all()):
        lengths = torch.linalg.vector_norm(vectors, dim=1, dtype=torch.float64).numpy()
    return lengths.astype(np.float64)


def _to_unit(vectors: Tensor, lengths: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Bring the vectors to length 1, or to zero where only rounding of size `scale` is left; the lengths they had."""
    nothing = lengths <= NOTHING * torch.finfo(vectors.dtype).eps * scale
    vectors.mul_(_column(np.divide(1.0, lengths, out=np.zeros_like(lengths), where=~nothing), vectors))
    return np.where(nothing, 0.0, lengths)


def _column(numbers: np.ndarray, like: Tensor) -> Tensor:
    """One number a vector, to be multiplied with it: (batch, 1)."""
    return torch.from_numpy(numbers[:, None]).to(like.dtype)
