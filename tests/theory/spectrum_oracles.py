"""Singular values of convolutions by numpy alone, and what is said of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Array = NDArray[np.float64]
    Pair = tuple[int, int]


def fourier_values(weight: Tensor, grid: Pair, stride: Pair = (1, 1), groups: int = 1) -> Array:
    """All singular values on the circular grid: numpy's FFT of the kernel, the frequencies that a stride folds onto one
    another side by side, numpy's SVD of every block."""
    found = [_one_group(part.double().numpy(), grid, stride) for part in weight.chunk(groups)]
    return np.sort(np.concatenate(found))[::-1]


def _one_group(kernel: Array, grid: Pair, stride: Pair) -> Array:
    c_out, c_in = kernel.shape[:2]
    transform = np.fft.fft2(kernel, grid, axes=(2, 3))  # the grid is no smaller than the kernel here
    rows, columns = grid[0] // stride[0], grid[1] // stride[1]
    aliased = transform.reshape(c_out, c_in, stride[0], rows, stride[1], columns)
    blocks = aliased.transpose(3, 5, 0, 1, 2, 4).reshape(rows, columns, c_out, -1) / math.sqrt(math.prod(stride))
    return np.linalg.svd(blocks, compute_uv=False).ravel()


def dense_values(weight: Tensor, grid: Pair, stride: Pair = (1, 1), groups: int = 1) -> Array:
    """All singular values of the circular convolution as one matrix, filled in entry by entry."""
    kernel = weight.double().numpy()
    c_out, c_in, height, width = kernel.shape
    rows, columns = grid[0] // stride[0], grid[1] // stride[1]
    matrix = np.zeros((c_out, rows, columns, c_in * groups, *grid))
    for o, i, j, c, a, b in np.ndindex(c_out, rows, columns, c_in, height, width):
        source = o // (c_out // groups) * c_in + c
        matrix[o, i, j, source, (i * stride[0] + a) % grid[0], (j * stride[1] + b) % grid[1]] += kernel[o, c, a, b]
    flat = matrix.reshape(c_out * rows * columns, -1)
    each = (flat.shape[0] // groups, flat.shape[1] // groups)  # groups are blocks of their own
    found = [flat[g * each[0] : (g + 1) * each[0], g * each[1] : (g + 1) * each[1]] for g in range(groups)]
    return np.sort(np.concatenate([np.linalg.svd(part, compute_uv=False) for part in found]))[::-1]


def folded_weight(weight: Tensor, gamma: Tensor, var: Tensor) -> Tensor:
    scale = gamma.double() / (var.double() + 1e-5).sqrt()
    return weight.double() * scale.reshape(-1, 1, 1, 1)


def statistics(values: Array, block: Pair) -> dict[str, float | None]:
    """What is said of an operator's singular values, from the definitions."""
    top = values.max()
    share = values**2 / (values**2).sum()
    rank = int((values > max(block) * 2.0**-52 * top).sum())
    entropy = -sum(float(p) * math.log(p) for p in share if p > 0)
    return {
        "count": values.size,
        "sigma_max": float(top),
        "sigma_min": float(values.min()),
        "rank": rank,
        "condition": float(top / values.min()) if rank == values.size else None,
        "rms": math.sqrt(float((values**2).mean())),
        "stable_rank": float((values**2).sum() / top**2 / values.size),
        "effective_rank": math.exp(entropy) / values.size,
        "near_one": float(((values >= 0.9) & (values <= 1.1)).mean()),
        "mean_deviation": float(np.abs(values - 1.0).mean()),
    }


def quantiles(values: Array) -> dict[str, float]:
    return {f"p{p:02d}": float(np.quantile(values, p / 100)) for p in (1, 5, 25, 50, 75, 95, 99)}


def histogram(values: Array) -> list[float]:
    logs = np.log10(np.maximum(values, 1e-300)).clip(-3, 1 - 1e-9)
    return (np.histogram(logs, bins=32, range=(-3, 1))[0] / values.size).tolist()
