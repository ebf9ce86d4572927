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
    blocks = _aliased(_transform(weight, size), stride)
    transformed = time.perf_counter()
    total = len(blocks)
    if half:
        rows, columns = (size[axis] // stride[axis] for axis in (0, 1))
        index = np.arange(total)
        mirror = (-(index // columns) % rows) * columns + -(index % columns) % columns
        blocks = blocks[index <= mirror]
    needed = len(blocks)
    if sample is not None and sample < needed:
        blocks = blocks[:: -(-needed // sample)]
    with one_library_thread(), ThreadPoolExecutor(threads) as pool:
        chunks = np.array_split(blocks, min(len(blocks), 8 * threads))
        found = list(pool.map(lambda chunk: np.linalg.svd(chunk, compute_uv=False), chunks))
    seconds = transformed - begun + (time.perf_counter() - transformed) * needed / len(blocks)
    return Naive(np.concatenate([part.ravel() for part in found]), seconds, len(blocks) / needed)


def _transform(weight: np.ndarray, size: Pair) -> np.ndarray:
    """(n1, n2, c_out, c_in)."""
    c_out, c_in, *kernel = weight.shape
    folded = weight
    if kernel[0] > size[0] or kernel[1] > size[1]:
        raise ValueError("the kernel is larger than the grid: fft2 would cut it off")
    found = np.empty((*size, c_out, c_in), dtype=np.complex128)
    step = max(1, SLICE_BYTES // (16 * size[0] * size[1] * c_in))
    for start in range(0, c_out, step):
        part = folded[start : start + step].transpose(2, 3, 0, 1)
        found[:, :, start : start + step] = np.fft.fft2(part, size, axes=(0, 1))
    return found


def _aliased(transform: np.ndarray, stride: Pair) -> np.ndarray:
    """(frequencies, c_out, aliases c_in): the blocks of the strided operator, scaled to be unitary."""
    (s, t), (n1, n2, c_out, c_in) = stride, transform.shape
    if (s, t) == (1, 1):
        return transform.reshape(n1 * n2, c_out, c_in)
    grid = transform.reshape(s, n1 // s, t, n2 // t, c_out, c_in).transpose(1, 3, 4, 0, 2, 5)
    return grid.reshape(n1 * n2 // (s * t), c_out, s * t * c_in) / np.sqrt(s * t)
