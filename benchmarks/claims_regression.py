"""Test error of kernel regression with the residual tangent kernel, against branch scale and depth.

    python benchmarks/claims_regression.py [--figure FILE.svg] [--write]

arXiv 2403.04545 says: with a constant branch scale the regression does not generalise as depth grows; with a scale
that falls fast with depth, stopped early, it is minimax for targets in the space of the kernel of infinite depth. The
kernel is that of infinite width, so this is how the network itself is trained in that limit: gradient flow on squares
from zero, f_t = K (1 - exp(-t K)) K^-1 y, stopped where the error on validation points is least. Two tasks:

- `digits`: the 8x8 digits of scikit-learn, less their mean, scaled to length 1; 500 to train, 297 to stop by, 1000 to
  test; ten targets of 0.9 and -0.1; the share of wrong largest outputs is the error.
- `sphere`: points on the sphere in three dimensions, 200, 200, 1000; the target is the sum of the Legendre polynomials
  P_1, P_2, P_3 of one coordinate, each scaled to variance 1/3, with noise of 0.3 where it is trained on; the mean
  square off the clean target is the error. The kernel of one hidden layer, the limit of small scales, cannot learn P_3.

Means and standard errors over five splits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from claims_page import main, picture, table
from numpy.polynomial.legendre import legval
from sklearn.datasets import load_digits
from torch import Tensor

from resnet_audit import rntk
from resnet_audit.measure.rntk import residual_time

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DEPTHS = (10, 100, 1000)
ALPHAS = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
POWERS = (0.0, 0.25, 0.5, 1.0)
"""Exponents g of alpha = L^-g for the table."""
SPLITS = 5
GRID = 20001
"""Angles at which the kernel is computed; between them it is a straight line, wrong by less than 1e-6."""
TIMES = torch.logspace(-4, 8, 121, dtype=torch.float64)
"""Stopping times to choose from, in units of 1 / the largest eigenvalue times the number of points."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Points of length 1, (n, d), and targets, (n, outputs), to train on, to stop by and to test with."""

    train: Tensor
    train_targets: Tensor
    stop: Tensor
    stop_targets: Tensor
    test: Tensor
    test_targets: Tensor


def digits(seed: int) -> Split:
    """A seeded split of the digits."""
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    x = torch.from_numpy(images).double()[order]
    x = x - x[:500].mean(0)
    y = torch.nn.functional.one_hot(torch.from_numpy(labels).long()[order], 10).double() - 0.1
    return _cut(x / x.norm(dim=1, keepdim=True), y, y, 500, 297)


def sphere(seed: int) -> Split:
    """Points drawn evenly, and the noisy target."""
    source = torch.Generator().manual_seed(seed)
    x = torch.randn(1400, 3, generator=source, dtype=torch.float64)
    x = x / x.norm(dim=1, keepdim=True)
    # P_k has the mean square 1 / (2 k + 1) on the sphere.
    parts = [0.0, *(math.sqrt((2 * k + 1) / 3.0) for k in (1, 2, 3))]
    y = torch.from_numpy(legval(x[:, 0].numpy(), parts))[:, None]
    noisy = y + 0.3 * torch.randn(y.shape, generator=source, dtype=torch.float64)
    return _cut(x, y, noisy, 200, 200)


def _cut(x: Tensor, clean: Tensor, seen: Tensor, train: int, stop: int) -> Split:
    first, second = train, train + stop
    return Split(
        train=x[:first],
        train_targets=seen[:first],
        stop=x[first:second],
        stop_targets=seen[first:second],
        test=x[second:],
        test_targets=clean[second:],
    )


def wrong(found: Tensor, targets: Tensor) -> float:
    """Share of rows whose largest output is another."""
    return float((found.argmax(1) != targets.argmax(1)).double().mean())


def off(found: Tensor, targets: Tensor) -> float:
    """Mean square of the difference."""
    return float(((found - targets) ** 2).mean())


# regression -----------------------------------------------------------------------------------------------------------


def kernel_of(alphas: Sequence[float]) -> Callable[[Tensor, Tensor], Tensor]:
    """The normalised kernel between rows of two matrices of unit rows."""
    angles = np.linspace(0.0, math.pi, GRID)
    found = rntk(alphas, np.cos(angles).tolist()).normalised
    if found is None:
        raise SystemExit("without branches there is no kernel")
    values = found.numpy()

    def kernel(one: Tensor, other: Tensor) -> Tensor:
        between = torch.arccos((one @ other.T).clamp(-1.0, 1.0)).numpy()
        return torch.from_numpy(np.interp(between, angles, values))

    return kernel


def regression_error(split: Split, kernel: Callable[[Tensor, Tensor], Tensor], error: Callable[..., float]) -> float:
    """Test error of gradient flow at the time at which the mean square on the validation points is least."""
    values, vectors = torch.linalg.eigh(kernel(split.train, split.train))
    values = values.clamp_min(values[-1] * 1e-14)
    # f_t = k(., X) V diag((1 - exp(-t v)) / v) V^T y
    passed = -torch.expm1(-TIMES[:, None] * values / values[-1] * len(values)) / values
    inside = vectors.T @ split.train_targets
    at_stop = kernel(split.stop, split.train) @ vectors
    losses = [off((at_stop * one) @ inside, split.stop_targets) for one in passed]
    best = passed[int(np.argmin(losses))]
    return error((kernel(split.test, split.train) @ vectors * best) @ inside, split.test_targets)


# measuring ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Mean test errors over splits, and their standard errors, of a network of `depth` blocks of scale `alpha`."""

    depth: int
    alpha: float
    power: float | None
    time: float
    digits: float
    digits_error: float
    sphere: float
    sphere_error: float


def measure() -> list[Point]:
    """All scales at all depths, and L^-g at all depths and one block."""
    splits = {"digits": [digits(seed) for seed in range(SPLITS)], "sphere": [sphere(seed) for seed in range(SPLITS)]}
    swept = [_point(splits, depth, alpha, None) for depth in DEPTHS for alpha in ALPHAS]
    return swept + [_point(splits, depth, depth**-power, power) for power in POWERS for depth in (1, *DEPTHS)]


def _point(splits: dict[str, list[Split]], depth: int, alpha: float, power: float | None) -> Point:
    kernel = kernel_of([alpha] * depth)
    wrongs = np.array([regression_error(split, kernel, wrong) for split in splits["digits"]])
    offs = np.array([regression_error(split, kernel, off) for split in splits["sphere"]])
    return Point(
        depth=depth,
        alpha=alpha,
        power=power,
        time=residual_time([alpha] * depth),
        digits=float(wrongs.mean()),
        digits_error=float(wrongs.std(ddof=1)) / math.sqrt(len(wrongs)),
        sphere=float(offs.mean()),
        sphere_error=float(offs.std(ddof=1)) / math.sqrt(len(offs)),
    )


# telling --------------------------------------------------------------------------------------------------------------

NAMES = {0.0: "1", 0.25: "L^-1/4", 0.5: "L^-1/2", 1.0: "1/L"}


def tell(points: Sequence[Point]) -> str:
    """Two tables: schemes by depth, and scales by depth."""
    by_scheme = {(point.power, point.depth): point for point in points if point.power is not None}
    by_scale = {(point.alpha, point.depth): point for point in points if point.power is None}
    depths = (1, *DEPTHS)
    header = ["alpha", *(f"digits, L = {depth}" for depth in depths), *(f"sphere, L = {depth}" for depth in depths)]
    schemes = [[NAMES[g], *_cells([by_scheme[g, depth] for depth in depths])] for g in POWERS]
    header_of_scales = ["alpha", *(f"digits, L = {d}" for d in DEPTHS), *(f"sphere, L = {d}" for d in DEPTHS)]
    scales = [[f"{alpha:g}", *_cells([by_scale[alpha, depth] for depth in DEPTHS])] for alpha in ALPHAS]
    return f"{table(header, schemes)}\n\n{table(header_of_scales, scales)}"


def _cells(points: Sequence[Point]) -> list[str]:
    return [
        *(f"{100 * point.digits:.1f} ± {100 * point.digits_error:.1f} %" for point in points),
        *(f"{point.sphere:.3f} ± {point.sphere_error:.3f}" for point in points),
    ]


def draw(points: Sequence[Point], path: str) -> None:
    """Errors against residual time: all scales and depths."""
    with picture(path, 2) as (left, right):
        for place, depth in enumerate(DEPTHS):
            own = sorted((point for point in points if point.depth == depth), key=lambda point: point.time)
            times = [point.time for point in own]
            look = {"fmt": "os^"[place] + "-", "color": f"C{place}"}
            percents, errors = (
                [100 * v for v in vs] for vs in zip(*((p.digits, p.digits_error) for p in own), strict=True)
            )
            left.errorbar(times, percents, errors, label=f"L = {depth}", **look)
            right.errorbar(times, [p.sphere for p in own], [p.sphere_error for p in own], **look)
        left.set(ylabel="wrong, %", title="digits")
        right.set(ylabel="mean square error", title="sphere")
        for axes in (left, right):
            axes.set(xscale="log", xlabel="residual time S")
        left.legend()


if __name__ == "__main__":
    main("regression", __doc__ or "", measure, tell, draw)
