"""The result of `compare`: what is beside the checkpoints, not in any one of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from resnet_audit.results.common import Note
from resnet_audit.results.scaling import FamilyFit

TrendOf = Literal["epoch", "number", "blocks", "position"]
"""What x is: an epoch or another number in the paths, the number of blocks, or the place in the order."""

Direction = Literal["rises", "falls", "no clear trend"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonRow:
    """The headline numbers of one checkpoint, each None where its analysis has no answer.

    log10_spectral_complexity: of the operator cover, as published; log10_spectral_complexity_patch: of the patch cover.
    branch_gamma: mean |gamma| of the last normalisation inside a branch.
    residual_time: S by the method of the checkpoint's `scaling`: measured where the network runs, else from weights.
    """

    path: str
    x: float
    block_count: int | None
    parameters: int | None
    log10_spectral_complexity: float | None
    log10_spectral_complexity_patch: float | None
    log10_lipschitz: float | None
    log10_path_norm_l1: float | None
    sigma_max: float | None
    ratio_median: float | None
    ratio_worst: float | None
    c_hat: float | None
    depth_mean: float | None
    projection_mean: float | None
    cancellation: float | None
    branch_gamma: float | None
    identity_residual: float | None
    residual_time: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """A straight line through one metric of the rows, with a 95 % interval of its slope per unit of x.

    n: rows that have a value. Below three of them there is no interval, and slope, low, high, direction are None.
    """

    metric: str
    slope: float | None
    low: float | None
    high: float | None
    n: int
    direction: Direction | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Rows in natural order of their paths, the trends along x, and how branch scales fall with depth in a family.

    family_fit: of scales from weights, which hang on no inputs; family_fit_measured: of those measured on the inputs.
    """

    trend_of: TrendOf
    rows: tuple[ComparisonRow, ...]
    trends: tuple[Trend, ...]
    family_fit: FamilyFit | None
    family_fit_measured: FamilyFit | None
    notes: tuple[Note, ...] = ()
