"""The published way: the Fourier transform of the kernel on the whole grid, and the SVD of every frequency.

Sedghi, Gupta, Long (arXiv 1805.10408), in numpy and double precision, for stride 1. For strides the frequencies that
alias are put side by side, the form of the same method that has the values of the strided operator. A 1x1 kernel is a
grid like any other. The frequencies are split over Python threads with one BLAS thread each, which is never slower here
than numpy's own threads on such small matrices; the transform is taken in slices of channels, so that it fits memory.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from resnet_audit.linear import one_library_thread

Pair = tuple[int, int]
SLICE_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Naive:
    """values: all that were computed, unsorted; seconds: of the whole computation; share: of the frequencies done."""

    values: np.ndarray
    seconds: float
    share: float


def naive_values(
    weight: np.ndarray, size: Pair, stride: Pair, *, threads: int, sample: int | None = None, half: bool = False
) -> Naive:
    """Singular values of the circular convolution on `size`, which the stride divides.

    With `sample`, only about that many frequencies are decomposed and the time of the decompositions is scaled up.
    With `half`, one of each two conjugate frequencies is left out (and its values are not repeated).
    """
    begun = time.perf_counter()
    grid = _aliased(_transform(weight, size), stride)
    transformed = time.perf_counter()
    rows, columns, c_out = grid.shape[:3]
    index = np.arange(rows * columns)
    if half:
        index = index[index <= (-(index // columns) % rows) * columns + -(index % columns) % columns]
    needed = len(index)
    if sample is not None and sample < needed:
        index = index[:: -(-needed // sample)]

    def decompose(part: np.ndarray) -> np.ndarray:
        blocks = grid[part // columns, part % columns].reshape(len(part), c_out, -1)
        return np.linalg.svd(blocks, compute_uv=False).ravel()

    with one_library_thread(), ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(decompose, np.array_split(index, min(len(index), 8 * threads))))
    seconds = transformed - begun + (time.perf_counter() - transformed) * needed / len(index)
    values = np.concatenate(found) / np.sqrt(stride[0] * stride[1])  # the aliases side by side are a unitary transform
    return Naive(values, seconds, len(index) / needed)


def _transform(weight: np.ndarray, size: Pair) -> np.ndarray:
    """(n1, n2, c_out, c_in)."""
    c_out, c_in, *kernel = weight.shape
    if kernel[0] > size[0] or kernel[1] > size[1]:
        raise ValueError("the kernel is larger than the grid: fft2 would cut it off")
    found = np.empty((*size, c_out, c_in), dtype=np.complex128)
    step = max(1, SLICE_BYTES // (16 * size[0] * size[1] * c_in))
    for start in range(0, c_out, step):
        part = weight[start : start + step].transpose(2, 3, 0, 1)
        found[:, :, start : start + step] = np.fft.fft2(part, size, axes=(0, 1))
    return found


def _aliased(transform: np.ndarray, stride: Pair) -> np.ndarray:
    """(m1, m2, c_out, s1, s2, c_in): the aliases of every frequency of the strided operator, not copied."""
    (s, t), (n1, n2, c_out, c_in) = stride, transform.shape
    return transform.reshape(s, n1 // s, t, n2 // t, c_out, c_in).transpose(1, 3, 4, 0, 2, 5)
