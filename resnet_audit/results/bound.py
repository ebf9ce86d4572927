"""The result of `bound`."""

from __future__ import annotations

from dataclasses import dataclass

from resnet_audit.results.common import Note, Placement


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
