"""The result of `spectrum`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from resnet_audit.results.common import InputsUsed, Note


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantiles:
    """Quantiles of all singular values of one operator."""

    p01: float
    p05: float
    p25: float
    p50: float
    p75: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Shares of singular values in equal bins of log10 sigma; what lies outside is in the first or last bin."""

    log10_edges: tuple[float, ...]
    share: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpectrumNumbers:
    """Statistics of all singular values of one linear operator.

    count: number of singular values; rms: Frobenius norm / sqrt(count); stable_rank and effective_rank are divided by
    count; near_one: share in [0.9, 1.1]; mean_deviation: mean of |sigma - 1|; condition is None where the operator is
    rank deficient.
    """

    count: int
    sigma_max: float
    sigma_min: float
    sigma_upper: float
    condition: float | None
    rank: int
    rms: float
    stable_rank: float | None
    effective_rank: float | None
    near_one: float
    mean_deviation: float
    quantiles: Quantiles
    histogram: Histogram


@dataclass(frozen=True, slots=True, kw_only=True)
class SpectrumLayer:
    """One weight layer, raw (the kernel as stored) and `folded` (with the batch normalisation that follows it).

    shape: the weight's; grid: input rows and columns of the circular operator (empty for a linear layer).
    The statistics are None where the weights are not finite.
    """

    name: str
    block: str | None
    kind: Literal["conv", "linear"]
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    groups: int
    grid: tuple[int, ...]
    method: str
    count: int | None
    sigma_max: float | None
    sigma_min: float | None
    sigma_upper: float | None
    condition: float | None
    rank: int | None
    rms: float | None
    stable_rank: float | None
    effective_rank: float | None
    near_one: float | None
    mean_deviation: float | None
    quantiles: Quantiles | None
    histogram: Histogram | None
    folded: SpectrumNumbers | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpectrumBlock:
    """A residual block: what its weights allow for every input, and its Jacobian at some inputs.

    branch_upper, interval: certified, of the branch and of all singular values of the block up to its join (before the
    activation behind it). All other numbers are measured at `samples` inputs and are None where the block cannot run.
    branch_sigma_max, block_sigma_max: the largest over the inputs, from below, each with the residual of its vectors.
    interval_measured: Weyl's [max(0, 1 - s), 1 + s], s = branch_sigma_max; None where the shortcut is not the identity.
    near_one: share of the `count` singular values of the block in [0.9, 1.1]; mean_deviation: mean |sigma - 1|; both
    are means over the inputs, each with a standard error.
    """

    name: str
    branch_sigma_max: float | None
    block_sigma_max: float | None
    branch_upper: float | None
    interval: tuple[float, float] | None
    interval_measured: tuple[float, float] | None
    branch_residual: float | None
    block_residual: float | None
    near_one: float | None
    near_one_error: float | None
    mean_deviation: float | None
    mean_deviation_error: float | None
    count: int | None
    samples: int | None
    method: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpectrumResult:
    """Singular values of every weight layer; `sigma_max` is the largest raw circular one.

    inputs: those that the blocks are measured on, None where none is.
    """

    sigma_max: float | None
    sigma_max_where: str | None
    layers: tuple[SpectrumLayer, ...]
    blocks: tuple[SpectrumBlock, ...]
    inputs: InputsUsed | None
    notes: tuple[Note, ...] = ()
