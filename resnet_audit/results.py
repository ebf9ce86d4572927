"""Every result as plain frozen data: the JSON document is these types and nothing else.

Field names, units and meanings are the contract of the JSON (schema 1.0). `None` is an undefined number or one that was
not asked for, and a note says which. Bounds and norms that can overflow are log10. No tensors, no torch.
`notes` of a result are gathered into `CheckpointEntry["notes"]` when the document is put together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NotRequired

from typing_extensions import TypedDict

SCHEMA_VERSION = "1.0"

SkipKind = Literal["identity", "projection", "resample", "norm", "concat"]
Evidence = Literal["graph", "module", "named", "shape"]
Placement = Literal["stem", "vine", "between", "head"]
Source = Literal["weights", "module", "export", "torchscript", "onnx"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something a reader must know about a number: a code for programs, a sentence for people."""

    code: str
    message: str
    where: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InputsUsed:
    """The inputs of a measured number and how far they are from the data of the BN statistics.

    bn_mismatch_mean: mean |batch mean - running mean| / running sd; bn_mismatch_logsd: mean |ln(batch / running sd)|.
    """

    kind: str
    n: int
    bn_mismatch_mean: float | None
    bn_mismatch_logsd: float | None


# graph ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockEntry:
    """One residual block. Shapes are without the batch, e.g. (C, H, W), and None where the graph has none."""

    name: str
    skip: SkipKind
    weight_layers: int
    layers: tuple[str, ...]
    skip_layers: tuple[str, ...]
    stage: int
    transition: bool
    input_shape: tuple[int, ...] | None
    output_shape: tuple[int, ...] | None
    evidence: Evidence


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphResult:
    """What was found: where every weight layer belongs, and which facts were assumed."""

    source: Source
    family: str | None
    runnable: bool
    runnable_reason: str | None
    stem: tuple[str, ...]
    between: tuple[str, ...]
    head: tuple[str, ...]
    unplaced: tuple[str, ...]
    block_count: int
    unplaced_count: int
    nonfinite_count: int
    dangerous_globals: tuple[str, ...]
    dangerous_globals_count: int
    assumptions: tuple[str, ...]
    blocks: tuple[BlockEntry, ...]
    notes: tuple[Note, ...] = ()


# bound ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Cover:
    """The numbers of one cover. Spectral complexity is sqrt(R)/||X||_F; R, ln N and the term are log10."""

    log10_spectral_complexity: float | None
    log10_R: float | None
    log10_R_chain: float | None
    log10_ln_covering: float | None
    log10_complexity_term: float | None
    log10_n_needed: float | None
    vacuous: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Covers:
    """Both covers, without biases (as published) and with them (the class that was really trained)."""

    operator: Cover
    patch: Cover
    operator_biases: Cover
    patch_biases: Cover


@dataclass(frozen=True, slots=True, kw_only=True)
class PerCover:
    """One number per cover."""

    operator: float | None
    patch: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsupported:
    """A node that the covering theory has no rule for."""

    name: str
    op: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundLayer:
    """One weight node: certified operator norm, (2,1) norms of both covers, windows (mu) and its share of R^(1/3)."""

    name: str
    placement: Placement
    sigma_upper: float | None
    b_operator: float | None
    b_patch: float | None
    windows: int
    share: PerCover | None
    sensitivity: PerCover | None = None
    actionable: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundResult:
    """The covering-number bound of the whole network and what stands beside it."""

    input_size: tuple[int, ...]
    n_train: int | None
    x_rms: float
    margin: float
    delta: float
    epsilon: float | None
    preset: str
    weight_factors: int
    identity_vines: int
    covers: Covers | None
    log10_residual_over_chain: float | None
    log10_lipschitz: float | None
    tail: float | None
    empirical_margin_risk: float | None
    bound: float | None
    vacuous: bool | None
    log10_path_norm_l1: float | None
    log10_path_norm_l1_max_logit: float | None
    unsupported: tuple[Unsupported, ...]
    layers: tuple[BoundLayer, ...]
    notes: tuple[Note, ...] = ()


# spectrum ------------------------------------------------------------------------------------------------------------


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
    count; near_one: share in [0.9, 1.1]; condition is None where the operator is rank deficient.
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
    quantiles: Quantiles | None
    histogram: Histogram | None
    folded: SpectrumNumbers | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpectrumBlock:
    """A residual block: the certified product bound of its branch and the interval it leaves for the whole block."""

    name: str
    branch_sigma_max: float | None
    block_sigma_max: float | None
    branch_upper: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpectrumResult:
    """Singular values of every weight layer; `sigma_max` is the largest raw circular one."""

    sigma_max: float | None
    sigma_max_where: str | None
    layers: tuple[SpectrumLayer, ...]
    blocks: tuple[SpectrumBlock, ...]
    notes: tuple[Note, ...] = ()


# gradient ------------------------------------------------------------------------------------------------------------


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
    """Norm preservation: one boundary norm more than there are rows, whose ratios multiply to the total."""

    objective: str
    inputs: InputsUsed
    norms: tuple[float, ...]
    ratio_median: float | None
    c_hat: float | None
    ratio_worst: float | None
    ratio_product: float | None
    blocks: tuple[GradientBlock, ...]
    notes: tuple[Note, ...] = ()


# ensemble ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """Shares by path depth (index = depth). Only `projection` is additive; it can be negative."""

    norm: tuple[float, ...]
    energy: tuple[float, ...]
    projection: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleBlock:
    """Gains of one block on the true gradient."""

    name: str
    branch_gain: float | None
    skip_gain: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleResult:
    """The exact distribution of the gradient over path depth, at the input of the first block."""

    unit: str
    objective: str
    inputs: InputsUsed
    identity_residual: float
    distribution: Distribution | None
    depth_mean: float | None
    depth_mode: int | None
    depth_p05: int | None
    depth_p95: int | None
    projection_mean: float | None
    cancellation: float | None
    blocks: tuple[EnsembleBlock, ...]
    notes: tuple[Note, ...] = ()


# the document --------------------------------------------------------------------------------------------------------

Result = GraphResult | BoundResult | SpectrumResult | GradientResult | EnsembleResult


class Tool(TypedDict):
    """What computed the numbers: two documents differ for a reason that can be seen."""

    name: str
    version: str
    torch: str
    threads: int


class SettingsUsed(TypedDict):
    """The settings that change numbers or rows, as the user gave them."""

    seed: int
    samples: int
    input_size: tuple[int, ...] | None
    inputs: str
    dtype: str
    device: str
    blocks: tuple[str, ...]


class CheckpointEntry(TypedDict):
    """One checkpoint. An analysis that was not asked for has no key; one that has no answer is null with a note."""

    path: str
    sha256: str | None
    format: str | None
    parameters: int | None
    error: str | None
    graph: NotRequired[GraphResult | None]
    bound: NotRequired[BoundResult | None]
    spectrum: NotRequired[SpectrumResult | None]
    gradient: NotRequired[GradientResult | None]
    ensemble: NotRequired[EnsembleResult | None]
    notes: tuple[Note, ...]


class Document(TypedDict):
    """What every command prints with `-f json`."""

    schema_version: str
    tool: Tool
    command: str
    settings: SettingsUsed
    checkpoints: list[CheckpointEntry]
