"""Energies of path depths without interference between paths, by random signs.

Source   derived (theory note `gradient-ensemble`, B3).
Formula  E ||[z^k] prod_l (S_l + s_l z B_l) D_l g_out||^2 = sum_{|S| = k} ||g_S||^2,   s_l = -1 or 1, independent
Symbols  g_S  the part of the gradient that passed exactly the branches (or weight layers) in S
Reads    The energy of depth k if all its paths were uncorrelated; coherence is ||c_k||^2 over it: above 1 paths of this
         depth add up, below 1 they cancel.
Status   an unbiased estimate; every sample and every draw has signs of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from resnet_audit.graph.backward import Polynomial
from resnet_audit.measure.decomposition import backward, chunks, counted_groups, require_finite

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from resnet_audit.graph.backward import Mark
    from resnet_audit.measure import Subject

DRAWS = 8
"""Draws of signs. Each costs as much as the exact decomposition; those of 32 samples make 256 independent ones."""


def incoherent_energies(subject: Subject, draws: int = DRAWS) -> NDArray[np.float64]:
    """The energies (draws, depths) of each draw, summed over samples. Raises NotRunnable, NonFinite, NoRule."""
    groups = counted_groups(subject)
    generator = torch.Generator().manual_seed(subject.settings.seed + 3)
    shape = (draws, len(groups), subject.recording.inputs.n)
    signs = torch.randint(2, shape, generator=generator).to(subject.recording.value.dtype) * 2.0 - 1.0
    found = np.zeros((draws, 0))
    for chunk in chunks(subject, len(groups) + 1, "random signs"):
        for draw, drawn in enumerate(signs[:, :, chunk.rows]):
            marks = {edge: signed(sign) for group, sign in zip(groups, drawn, strict=True) for edge in group}
            parts = backward(subject, chunk, marks)
            squares = [0.0] * parts.low + [float(part.double().square().sum()) for part in parts.coefficients]
            if found.shape[1] == 0:
                found = np.zeros((draws, len(squares)))
            found[draw] += squares
    require_finite(subject, found)
    return found


def signed(sign: Tensor) -> Mark:
    """Multiplication by z and by a sign (N,) of each sample."""

    def mark(cotangent: Polynomial) -> Polynomial:
        signs = sign.view(1, -1, *(1,) * (cotangent.coefficients.ndim - 2))
        return Polynomial(cotangent.low + 1, cotangent.coefficients * signs)

    return mark


def mean_and_error(energies: NDArray[np.float64]) -> tuple[float, float | None]:
    """Mean depth of the pooled energies (draws, depths), and the standard error of that ratio; None for one draw."""
    draws, count = energies.shape
    totals, moments = energies.sum(1), energies @ np.arange(count)
    mean = float(moments.sum() / totals.sum())
    if draws < 2:
        return mean, None
    scatter = np.square(moments - mean * totals).sum() * draws / (draws - 1)
    return mean, float(np.sqrt(scatter) / totals.sum())
