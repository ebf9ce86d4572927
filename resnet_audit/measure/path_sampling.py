"""Veit's statistic: number of paths of a depth, times the mean gradient norm of single paths of that depth.

Source   Veit, Wilber, Belongie 2016 (arXiv 1605.06431), section 5, as others describe it.
Formula  share_k = C(L, k) * mean_S ||g_S|| / sum_j (...),   S uniform among the k-subsets of the L blocks
Symbols  g_S  the gradient that came back through the branches of the blocks in S and the shortcuts of all others
Reads    An upper bound on ||c_k|| in shape: norms are added as if all paths of a depth pointed the same way.
Status   an estimate from sampled paths; every sample has paths of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from resnet_audit.graph.backward import Polynomial
from resnet_audit.measure.decomposition import backward, chunks, require_finite

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from resnet_audit.graph.backward import Edge, Mark
    from resnet_audit.graph.blocks import Block
    from resnet_audit.measure import Subject

PATHS = 64
"""Paths of each depth, at least, over all samples. Norms scatter by 1.5 to 2 times their mean: 20 % error in each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PathNorms:
    """Norms of sampled paths: `norms[k]` those of depth k, one for each path and sample."""

    norms: NDArray[np.float64]

    @property
    def log_weights(self) -> NDArray[np.float64]:
        """ln of the number of paths times their mean norm, by depth; -inf where no gradient comes back."""
        length = len(self.norms) - 1
        counts = [math.log(math.comb(length, k)) for k in range(length + 1)]
        with np.errstate(divide="ignore"):
            return np.asarray(counts + np.log(self.norms.mean(1)))

    @property
    def relative_errors(self) -> NDArray[np.float64]:
        """Standard error of each depth's mean norm, relative to it; 0 where that is 0."""
        means, count = self.norms.mean(1), self.norms.shape[1]
        errors = self.norms.std(1, ddof=1) / math.sqrt(count)
        return np.asarray(np.divide(errors, means, out=np.zeros_like(means), where=means > 0))


def sample_paths(subject: Subject, paths: int = PATHS) -> PathNorms:
    """Norms of `paths` random paths of every depth, or of one for each sample if these are more.

    Every path must pass every block (`in_series`). Raises NotRunnable, NonFinite, NoRule.
    """
    blocks, n = subject.blocks, subject.recording.inputs.n
    length, repeats = len(blocks), -(-paths // n)
    generator = torch.Generator().manual_seed(subject.settings.seed + 4)
    dtype = subject.recording.value.dtype
    chosen = [_subsets(length, k, (repeats, n), generator).to(dtype) for k in range(length + 1)]
    norms = np.zeros((length + 1, repeats, n))
    for chunk in chunks(subject, repeats, "sampled paths"):
        for depth, gates in enumerate(chosen):
            marks = path_marks(blocks, gates[:, chunk.rows])
            back = backward(subject, chunk, marks, copies=repeats).coefficients
            norms[depth, :, chunk.rows] = back.double().flatten(2).norm(dim=2).numpy()
    require_finite(subject, norms)
    return PathNorms(norms=norms.reshape(length + 1, -1))


def path_marks(blocks: tuple[Block, ...], gates: Tensor) -> dict[Edge, Mark]:
    """Gates (K, N, L) of 0 and 1 on the way back: 1 opens the branch and closes the shortcut of that block."""
    marks: dict[Edge, Mark] = {}
    for index, block in enumerate(blocks):
        gate = gates[..., index]
        marks |= dict.fromkeys(block.branch_edges, _gated(gate))
        marks[block.skip_edge] = _gated(1.0 - gate)
    return marks


def _gated(gate: Tensor) -> Mark:
    def mark(cotangent: Polynomial) -> Polynomial:
        factors = gate.view(*gate.shape, *(1,) * (cotangent.coefficients.ndim - 2))
        return Polynomial(cotangent.low, cotangent.coefficients * factors)

    return mark


def _subsets(length: int, size: int, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Uniformly random subsets of `size` of `length` blocks, as (*shape, length) of 0 and 1."""
    ranks = torch.rand(*shape, length, generator=generator).argsort(-1).argsort(-1)
    return (ranks < size).double()
