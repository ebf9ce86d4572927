"""Both ends of a symmetric map's spectrum, its trace and its density, from products with vectors.

Source     Lanczos 1950 with full reorthogonalisation; quadrature: Golub, Meurant 2010; Lin, Saad, Yang 2016; trace:
           Meyer, Musco, Musco, Woodruff 2021 (Hutch++), with the Krylov basis for the sketch.
Formula    H Q = Q T + beta q e^T,   T = U diag(theta) U^T tridiagonal, m x m,   residual_i = beta |U[m, i]|
           mean of f(lambda) = sum_i U[1, i]^2 f(theta_i), in expectation over a start uniform on the sphere
           tr H = tr T + E z^T P H P z,   P = I - Q Q^T,   z of random signs, independent of Q
Symbols    H  n x n symmetric; Q  n x m orthonormal; theta  Ritz values
Guarantee  Within `residual_i` of theta_i lies an eigenvalue, and theta_m is no larger than the largest. An eigenvalue
           that occurs more than once is seen once. The trace is unbiased for any Q. The share of eigenvalues in a set
           varies over starts with variance 2 p (1 - p) / (n + 2), that of a Beta distribution, p the share.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from resnet_audit.settings import no_progress

if TYPE_CHECKING:
    from resnet_audit.settings import Progress

Product = Callable[[Tensor], Tensor]

ENOUGH = 0.7
"""A vector that keeps this share of its length in a projection is orthogonal after it (Daniel et al. 1976)."""

NOTHING = 2 / 3
"""Power of the rounding, times the largest entry of T, below which a vector is nothing: the Krylov space is full.

What rounding leaves there is far above one rounding: it grows with the spread of the eigenvalues.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Krylov:
    """What m steps know. basis: (m, n), None if it was not kept; diagonal: (m,); off: (m,), the last the beta.

    rounding: eps of the products.
    """

    basis: Tensor | None
    diagonal: np.ndarray
    off: np.ndarray
    rounding: float

    @property
    def steps(self) -> int:
        """m."""
        return len(self.diagonal)

    def after(self, steps: int) -> Krylov:
        """What the first `steps` steps knew."""
        basis = None if self.basis is None else self.basis[:steps]
        return replace(self, basis=basis, diagonal=self.diagonal[:steps], off=self.off[:steps])

    def decomposed(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ritz values ascending, their residuals over the largest |value|, and the squares of first components."""
        from scipy.linalg import eigh_tridiagonal  # noqa: PLC0415 - a third of a second, which few commands need

        values, vectors = eigh_tridiagonal(self.diagonal, self.off[:-1])
        largest = float(np.abs(values).max())
        residuals = self.off[-1] * np.abs(vectors[-1])
        relative = residuals / largest if largest > 0 else residuals
        return values, np.maximum(relative, self.rounding), vectors[0] ** 2

    @property
    def trace(self) -> float:
        """tr T = tr Q^T H Q."""
        return math.fsum(self.diagonal)


@dataclass(frozen=True, slots=True, kw_only=True)
class Until:
    """Take at most `steps` steps; stop when the `top` largest values and the least have residuals of `tolerance`."""

    steps: int
    top: int = 1
    tolerance: float = 0.0

    def reached(self, found: Krylov) -> bool:
        """Whether enough is known."""
        if self.tolerance <= 0.0 or len(found.diagonal) <= self.top:
            return False
        _, residuals, _ = found.decomposed()
        return bool(residuals[0] <= self.tolerance and (residuals[-self.top :] <= self.tolerance).all())


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """The largest eigenvalues, descending, and the least, with residuals over the largest |eigenvalue|.

    basis: (k, n) orthonormal vectors that hold the large eigenvectors; within: the trace of H on their span.
    """

    top: tuple[float, ...]
    residuals: tuple[float, ...]
    lowest: float
    lowest_residual: float
    basis: Tensor
    within: float


def on_sphere(size: int, seed: int, dtype: torch.dtype) -> Tensor:
    """A start (size,), uniform on the unit sphere."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(size, generator=generator, dtype=dtype)
    unit: Tensor = start / start.norm()
    return unit


def lanczos(
    product: Product, start: Tensor, until: Until, *, keep: bool = True, progress: Progress = no_progress
) -> Krylov:
    """Lanczos steps from the unit vector `start` (n,), at most n, and fewer where the Krylov space is full.

    Without `keep` there is no reorthogonalisation: the quadrature then has copies of converged values, and the ends are
    not to be used. Raises FloatingPointError if a product is not finite.
    """
    size, rounding = len(start), torch.finfo(start.dtype).eps
    steps = min(until.steps, size)
    basis = start.new_empty((steps if keep else 2, size))
    diagonal: list[float] = []
    off: list[float] = []
    vector = start
    for step in range(steps):
        basis[step if keep else step % 2] = vector
        image = product(vector)
        alpha = float(image.double() @ vector.double())
        image = image - alpha * vector
        if step:
            image -= off[-1] * basis[step - 1 if keep else (step - 1) % 2]
        if keep:
            _project_out(image, basis[: step + 1])
        beta = float(torch.linalg.vector_norm(image, dtype=torch.float64))
        if not math.isfinite(alpha + beta):
            raise FloatingPointError("a product of the map with a vector is not finite")
        diagonal.append(alpha)
        off.append(beta)
        full = beta <= rounding**NOTHING * max(map(abs, (*diagonal, *off[:-1])))
        found = Krylov(
            basis=basis[: step + 1] if keep else None,
            diagonal=np.array(diagonal),
            off=np.array(off),
            rounding=rounding,
        )
        progress("Lanczos steps", step + 1, steps)
        if full or until.reached(found):
            break
        vector = image / beta
    return found


def _project_out(vector: Tensor, basis: Tensor) -> None:
    """Remove in place what the vector (n,) has along the orthonormal rows of the basis (k, n)."""
    length = float(vector.norm())
    for _ in range(2):
        vector.addmv_(basis.T, basis @ vector, alpha=-1)
        before, length = length, float(vector.norm())
        if length > ENOUGH * before:
            break


def ends(found: Krylov, top: int) -> Ends:
    """The `top` largest eigenvalues (all if there are fewer) and the least. `found` must have kept its basis."""
    if found.basis is None:
        raise ValueError("without a basis there are copies of eigenvalues")
    values, residuals, _ = found.decomposed()
    order = range(len(values) - 1, max(-1, len(values) - 1 - top), -1)
    return Ends(
        top=tuple(float(values[i]) for i in order),
        residuals=tuple(float(residuals[i]) for i in order),
        lowest=float(values[0]),
        lowest_residual=float(residuals[0]),
        basis=found.basis,
        within=found.trace,
    )


def restarted_ends(product: Product, start: Tensor, *, top: int, tolerance: float, vectors: int) -> Ends:
    """The same by ARPACK's restarts, which hold no more than `vectors` vectors; for what is too large for `lanczos`.

    `vectors` is at least top + 2. Raises FloatingPointError where 100 restarts are not enough.
    """
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh  # noqa: PLC0415 - as above

    size, begin = len(start), start.numpy()

    def multiply(vector: np.ndarray) -> np.ndarray:
        return product(torch.from_numpy(np.ascontiguousarray(vector.reshape(-1)))).numpy()

    operator = LinearOperator((size, size), matvec=multiply, dtype=begin.dtype)
    kept = min(size, vectors)
    try:
        high, above = eigsh(operator, top, which="LA", v0=begin, ncv=kept, tol=tolerance, maxiter=100)
        low, below = eigsh(operator, 1, which="SA", v0=begin, ncv=kept, tol=tolerance, maxiter=100)
    except ArpackNoConvergence:
        raise FloatingPointError("the ends of the spectrum did not converge in 100 restarts") from None
    values = [*map(float, high[::-1]), float(low[0])]
    vectors_found = torch.from_numpy(np.concatenate([above[:, ::-1], below], axis=1))
    images = torch.stack([product(vector) for vector in vectors_found.T.contiguous()], dim=1)
    largest = max(map(abs, values)) or 1.0
    residuals = (images - vectors_found * images.new_tensor(values)).norm(dim=0) / largest
    # Vectors from two runs are orthogonal only as far as both have converged.
    basis, mixed = torch.linalg.qr(vectors_found)
    on_basis = torch.linalg.solve_triangular(mixed, images, upper=True, left=False)
    return Ends(
        top=tuple(values[:-1]),
        residuals=tuple(residuals[:-1].tolist()),
        lowest=values[-1],
        lowest_residual=float(residuals[-1]),
        basis=basis.T.contiguous(),
        within=float((basis.double() * on_basis.double()).sum()),
    )


def trace(product: Product, basis: Tensor, within: float, *, probes: int, seed: int) -> tuple[float, float]:
    """The trace and its standard error: `within` on the span of the orthonormal `basis` (k, n), random signs off it.

    The basis may have no row; with n rows the trace is exact and takes no product. `probes` is at least 2.
    """
    generator = torch.Generator().manual_seed(seed)
    rows, size = basis.shape
    if rows == size:
        return within, 0.0
    samples = []
    for _ in range(probes):
        signs = torch.randint(2, (size,), generator=generator).mul_(2).sub_(1).to(basis.dtype)
        probe = signs - basis.T @ (basis @ signs)
        samples.append(float(probe.double() @ product(probe).double()))
    mean, spread = math.fsum(samples) / probes, float(np.std(samples, ddof=1))
    return within + mean, spread / math.sqrt(probes)


def share(found: Krylov, size: int, low: float, high: float) -> tuple[float, float]:
    """The share of the `size` eigenvalues in [low, high], and its error.

    That is the standard error over starts on the sphere and, for want of a bound, the change since three quarters of
    the steps: too few nodes near an end of the interval blur what lies on which side of it.
    """
    part, before = (_inside(krylov, low, high) for krylov in (found, found.after(math.ceil(3 * found.steps / 4))))
    return part, math.hypot(math.sqrt(2.0 * part * (1.0 - part) / (size + 2)), part - before)


def _inside(found: Krylov, low: float, high: float) -> float:
    values, _, weights = found.decomposed()
    return min(1.0, float(weights[(values >= low) & (values <= high)].sum()))
