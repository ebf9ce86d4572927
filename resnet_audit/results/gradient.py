"""The result of `gradient`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from resnet_audit.results.common import InputsUsed, Note


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientBlock:
    """Gradient-norm ratio, input side over output side, of a block or of what lies between two blocks.

    ratio^2 / mask_factor^2 = skip_gain^2 + branch_gain^2 + 2 skip_gain branch_gain cosine (pooled over samples).
    upper, interval: what `ratio` cannot leave for any input, certified from the weights alone.
    """

    name: str
    kind: Literal["block", "between"]
    transition: bool
    ratio: float | None
    ratio_rms: float | None
    p05: float | None
    p50: float | None
    p95: float | None
    mask_factor: float | None
    residual_factor: float | None
    branch_gain: float | None
    skip_gain: float | None
    cosine: float | None
    upper: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientResult:
    """Norm preservation: one boundary norm more than there are rows, whose ratios multiply to the total.

    telescoping_residual: how far they miss torch's own gradient norm at the first block's input, relative to it.
    """

    objective: str
    inputs: InputsUsed
    norms: tuple[float, ...]
    ratio_median: float | None
    c_hat: float | None
    ratio_worst: float | None
    ratio_product: float | None
    telescoping_residual: float | None
    blocks: tuple[GradientBlock, ...]
    notes: tuple[Note, ...] = ()
