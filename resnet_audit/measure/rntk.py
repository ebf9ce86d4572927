"""The neural tangent kernel of an infinitely wide residual network, for any scales of its branches.

Network  z_0 = A x / sqrt m,  z_l = z_(l-1) + (a_l / sqrt m) V_l relu(sqrt(2 / m) U_l z_(l-1)),  f = v . z_L
         x on the unit sphere; A, U, V, v standard normal; U and V are trained, A and v if asked for; m -> infinity
Formula  g_l = a_l^2 / (1 + a_l^2),  S = sum_l g_l
         rho_l = (1 - g_l) rho_(l-1) + g_l k1(rho_(l-1))
         t_l = (1 - g_l + g_l k0(rho_(l-1))) t_(l-1) + g_l (k1(rho_(l-1)) + rho_(l-1) k0(rho_(l-1))),  t_0 = 0
         k0(cos h) = (pi - h) / pi,  k1(cos h) = (sin h + (pi - h) cos h) / pi
Symbols  a_l  branch scale;  q_l = prod (1 + a^2)  variance of an entry of z_l;  rho_l  its correlation between inputs
         t_l = Theta_l / q_l  the tangent kernel in units of that variance: nothing overflows, and t_L(x, x) = 2 S
Source   derived (theory note `shortcut-scaling`, B1 and B2); the divisor q_l is ours.
Status   a prediction: infinite width, initialisation, fully connected, no normalisation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray
    from torch import Tensor

    Array = NDArray[np.float64]

NEAR = 0.5
"""Angle below which sin h - h cos h is taken from its series: the difference itself loses digits there."""

SERIES = tuple((-1) ** (k + 1) * 2 * k / math.factorial(2 * k + 1) for k in range(1, 9))
"""sin h - h cos h = sum_k SERIES[k - 1] h^(2k + 1)."""

ANGLES = np.linspace(math.acos(0.95), math.pi, 41)
"""Where the spread is taken. The kernel does not fall steadily, so the spread belongs to this grid."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Kernel:
    """The kernel at a number of cosines between two inputs; every tensor is (cosines,), float64.

    normalised: Theta(x, x') / Theta(x, x), None where nothing is trained (every branch has the scale 0).
    tangent: Theta / q; correlation: of the outputs, K / q; log_variance: ln q, the variance of an entry at the end.
    """

    normalised: Tensor | None
    tangent: Tensor
    correlation: Tensor
    log_variance: float


def rntk(
    alphas: Iterable[float], cosines: Iterable[float], *, train_embedding: bool = False, train_readout: bool = False
) -> Kernel:
    """The residual neural tangent kernel for branch scales `alphas` at cosines in [-1, 1] between two inputs.

    Raises ValueError for a scale that is negative or not finite, or a cosine outside [-1, 1].

    One branch of scale 1 between equal, orthogonal and opposite inputs: 1, 1 / (2 pi) and 0.

    >>> [round(float(value), 4) for value in rntk([1.0], [1.0, 0.0, -1.0]).normalised]
    [1.0, 0.1592, 0.0]
    """
    scales = _scales(alphas)
    rho = np.array(list(cosines), dtype=np.float64)
    if not bool(np.all(np.abs(rho) <= 1.0)):
        raise ValueError("a cosine lies outside [-1, 1]")
    return _kernel(scales, 1.0 - rho, embedding=train_embedding, readout=train_readout)


def residual_time(alphas: Iterable[float]) -> float:
    """S = sum a^2 / (1 + a^2), dimensionless: the one number that the kernel depends on, up to O(max a^2).

    Raises ValueError for a scale that is negative or not finite.
    """
    scales = _scales(alphas)
    return math.fsum(np.square(scales / np.hypot(1.0, scales)))


def kernel_spread(alphas: Iterable[float]) -> float | None:
    """Largest minus smallest normalised kernel over `ANGLES`; None where every scale is 0 and the kernel is 0 / 0.

    Raises ValueError for a scale that is negative or not finite.
    """
    distance = 2.0 * np.sin(ANGLES / 2.0) ** 2
    found = _kernel(_scales(alphas), distance, embedding=False, readout=False).normalised
    return None if found is None else float(found.max() - found.min())


def _scales(alphas: Iterable[float]) -> Array:
    scales = np.array(list(alphas), dtype=np.float64)
    if not bool(np.all(np.isfinite(scales) & (scales >= 0.0))):
        raise ValueError("a branch scale is negative or not finite")
    return scales


def _kernel(scales: Array, distance: Array, *, embedding: bool, readout: bool) -> Kernel:
    """The recursion in `distance` u = 1 - rho, which keeps its digits where rho is all but 1."""
    sines = scales / np.hypot(1.0, scales)
    shares = np.square(sines)
    alive = embedding or readout or bool(scales.any())
    # Where only branches are trained, Theta is measured in units of the largest share: it cannot underflow then.
    largest = 1.0 if embedding or readout else float(sines.max(initial=0.0)) or 1.0
    u, parts = distance, np.square(sines / largest)
    tangent = (1.0 - u) * embedding
    for share, part in zip(shares, parts, strict=True):
        angle = 2.0 * np.arcsin(np.sqrt(np.minimum(u, 2.0) / 2.0))
        rise = _rise(angle)
        k0 = 1.0 - angle / math.pi
        tangent = (1.0 - share + share * k0) * tangent + part * ((1.0 - u) * (1.0 + k0) + rise)
        u = u - share * rise
    tangent = tangent + (1.0 - u) * readout
    diagonal = 2.0 * math.fsum(parts) + embedding + readout
    return Kernel(
        normalised=torch.from_numpy(tangent / diagonal) if alive else None,
        tangent=torch.from_numpy(tangent * largest**2),
        correlation=torch.from_numpy(1.0 - u),
        log_variance=2.0 * math.fsum(np.log(np.hypot(1.0, scales))),
    )


def _rise(angle: Array) -> Array:
    """k1(rho) - rho = (sin h - h cos h) / pi at the angle h = arccos rho, to full relative precision."""
    square = np.square(angle)
    small = angle * square * np.polynomial.polynomial.polyval(square, SERIES)
    return np.where(angle < NEAR, small, np.sin(angle) - angle * np.cos(angle)) / math.pi
