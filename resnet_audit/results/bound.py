"""The result of `bound`."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - pydantic reads the types of the fields for the schema
from dataclasses import dataclass
from typing import Literal

from resnet_audit.results.common import Note, Placement


@dataclass(frozen=True, slots=True, kw_only=True)
class Cover:
    """The numbers of one cover. Spectral complexity is sqrt(R)/||X||_F; R, ln N and the term are log10.

    n_needed, margin_needed: the training examples, or the margin, at which the term alone reaches 1.
    """

    log10_spectral_complexity: float | None
    log10_R: float | None
    log10_R_chain: float | None
    log10_ln_covering: float | None
    log10_complexity_term: float | None
    log10_n_needed: float | None
    log10_margin_needed: float | None
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
    """One weight node: certified operator norm, (2,1) norms of both covers, windows (mu) and its share of R^(1/3).

    sensitivity: d ln sqrt(R) / d ln c as the layer is scaled by c. log10_change: of the bound, for a norm 10 % smaller.
    gain_per_square: decrease of ln sqrt(R) per unit of squared Frobenius norm, where an l2 penalty buys most.
    actionable: the parameter whose decay has that effect (the scale of the norm behind it, where there is one).
    """

    name: str
    placement: Placement
    sigma_upper: float | None
    b_operator: float | None
    b_patch: float | None
    windows: int
    frobenius: float
    share: PerCover | None
    sensitivity: PerCover | None
    log10_change: PerCover | None
    gain_per_square: PerCover | None
    actionable: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Occam:
    """What counting the bits of the stored network adds to its training error: fp32, fp16, zlib of the fp16 numbers.

    None where the format cannot hold a number of the network: what it would store is another network.
    """

    fp32: float | None
    fp16: float | None
    zlib_fp16: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MarginPoint:
    """One margin of the grid: its empirical margin risk, and log10 of the whole bound there."""

    margin: float
    risk: float
    log10_bound: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DataUsed:
    """The labelled or unlabelled inputs that the bound was taken on; norms are those of the inputs as given.

    count: of them; x_rms: root mean square of an entry; largest_norm: of one input, l2; largest_entry: absolute;
    error: share of wrong predictions; best_margin: the margin of `margins` with the smallest bound.
    """

    count: int
    x_rms: float
    largest_norm: float
    largest_entry: float
    error: float | None
    margins: tuple[MarginPoint, ...]
    best_margin: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundResult:
    """The covering-number bound of the whole network and what stands beside it.

    bound_cover: the cover that `bound` and `vacuous` are of. union_nats: ln of the classes that `tail` pays for because
    norms (preset `strict`) were chosen after training. parameter_count_bound, occam: beside the training error.
    """

    input_size: tuple[int, ...]
    n_train: int | None
    x_rms: float
    margin: float
    delta: float
    epsilon: float | None
    preset: str
    reference: str | None
    data: DataUsed | None
    weight_factors: int
    identity_vines: int
    covers: Covers | None
    bound_cover: Literal["patch", "patch_biases"]
    log10_residual_over_chain: float | None
    log10_lipschitz: float | None
    post_hoc_union: bool
    union_nats: float | None
    tail: float | None
    empirical_margin_risk: float | None
    bound: float | None
    vacuous: bool | None
    log10_path_norm_l1: float | None
    log10_path_norm_l1_max_logit: float | None
    log10_path_norm_l2: float | None
    log10_path_norm_term: float | None
    occam: Occam | None
    parameter_count_bound: float | None
    measures: Mapping[str, float | None]
    unsupported: tuple[Unsupported, ...]
    layers: tuple[BoundLayer, ...]
    notes: tuple[Note, ...] = ()
