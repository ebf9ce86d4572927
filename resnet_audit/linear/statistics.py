"""Statistics of all singular values of one operator.

Source     theory note `spectrum`, 4; definitions as in the JSON contract.
Formula    rms = ||T||_F / sqrt(N);  stable rank = ||T||_F^2 / sigma_max^2 / N;
           effective rank = exp(H(p)) / N, p_i = sigma_i^2 / ||T||_F^2, H(p) = -sum p_i ln p_i  (Roy, Vetterli 2007)
           rank = number of sigma_i > max(block shape) eps sigma_max;  near_one = share of sigma_i in [0.9, 1.1]
           mean deviation = mean of |sigma_i - 1|
Symbols    sigma_i  singular values, N  their number, T  the operator, eps  2^-52
Guarantee  exact functions of the values given. The rank is numerical: numpy's tolerance, for one frequency block.
"""

from __future__ import annotations

import math
import sys

import numpy as np
import torch
from torch import Tensor

from resnet_audit.linear.parallel import one_library_thread
from resnet_audit.results import Histogram, Quantiles, SpectrumNumbers

BINS = 32
LOG10_LOW, LOG10_HIGH = -3.0, 1.0
LOG10_EDGES = tuple(LOG10_LOW + (LOG10_HIGH - LOG10_LOW) * i / BINS for i in range(BINS + 1))


@one_library_thread()
def spectrum_numbers(values: Tensor, *, sigma_upper: float, block_shape: tuple[int, int]) -> SpectrumNumbers:
    """Statistics of `values`, all singular values of an operator in any order, with multiplicity.

    sigma_upper is passed through. block_shape: the shape of one frequency block, (c_out / groups, s1 s2 c_in / groups),
    or of the matrix of a linear layer. Stable and effective rank are None where all values are zero.
    Raises ValueError if there are no values.
    """
    if values.numel() == 0:
        raise ValueError("an operator without singular values has no statistics")
    ordered = torch.from_numpy(np.sort(values.to(torch.float64).flatten().numpy()))  # torch's takes 15 times as long
    count, sigma_min, sigma_max = ordered.numel(), float(ordered[0]), float(ordered[-1])
    rank = int((ordered > max(block_shape) * sys.float_info.epsilon * sigma_max).sum())
    relative = (ordered / sigma_max).square() if sigma_max > 0 else torch.zeros_like(ordered)
    energy = float(relative.sum())
    return SpectrumNumbers(
        count=count,
        sigma_max=sigma_max,
        sigma_min=sigma_min,
        sigma_upper=sigma_upper,
        condition=sigma_max / sigma_min if rank == count else None,
        rank=rank,
        rms=sigma_max * math.sqrt(energy / count),
        stable_rank=energy / count if energy > 0 else None,
        effective_rank=math.exp(float(torch.special.entr(relative / energy).sum())) / count if energy > 0 else None,
        near_one=int(((ordered >= 0.9) & (ordered <= 1.1)).sum()) / count,
        mean_deviation=float((ordered - 1.0).abs().mean()),
        quantiles=_quantiles(ordered),
        histogram=_histogram(ordered),
    )


def _quantiles(ordered: Tensor) -> Quantiles:
    """Linear interpolation between order statistics. `torch.quantile` refuses more than 16 million values."""

    def at(share: float) -> float:
        place = share * (ordered.numel() - 1)
        low = math.floor(place)
        high = min(low + 1, ordered.numel() - 1)
        return float(torch.lerp(ordered[low], ordered[high], place - low))

    return Quantiles(p01=at(0.01), p05=at(0.05), p25=at(0.25), p50=at(0.5), p75=at(0.75), p95=at(0.95), p99=at(0.99))


def _histogram(ordered: Tensor) -> Histogram:
    """Bins are closed below and open above. A zero has log10 -inf and falls into the first bin."""
    place = (ordered.log10() - LOG10_LOW) * (BINS / (LOG10_HIGH - LOG10_LOW))
    counts = torch.bincount(place.floor().clamp(0, BINS - 1).long(), minlength=BINS)
    return Histogram(log10_edges=LOG10_EDGES, share=tuple(int(c) / ordered.numel() for c in counts))
