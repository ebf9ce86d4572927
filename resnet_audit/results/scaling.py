"""The result of `scaling`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from resnet_audit.results.common import InputsUsed, Note

AlphaMethod = Literal["weights", "measured"]
ScalingLevel = Literal["ok", "mild", "degrading", "degenerate"]
WeightsRule = Literal["statistics", "he", "gates"]
"""Where a scale without a run comes from: BN statistics; these through a last weight layer; gates half open, no BN."""

FamilyVerdict = Literal["fast", "slow", "inconclusive"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingBlock:
    """Branch over shortcut where they are added: alpha is that of the result's method.

    alpha_centred: measured without the mean of each channel; alpha_worst: product of certified norms, for `gates`
    with an identity shortcut. parameters: what to multiply by `recommended.factor`; empty: none does it alone.
    """

    name: str
    stage: int
    alpha: float | None
    alpha_weights: float | None
    alpha_measured: float | None
    alpha_centred: float | None
    alpha_worst: float | None
    cosine: float | None
    rule: WeightsRule | None
    parameters: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommended:
    """Branch scales for a new run with the residual time `target_S`: one for all blocks, or a factor on these."""

    target_S: float
    uniform_alpha: float | None
    factor: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceScheme:
    """What a known scheme has at this number of blocks, before training; spread None where nothing passes a branch."""

    scheme: str
    residual_time: float
    spread: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingResult:
    """Branch scales and the kernel that they predict. `inputs` only of measured scales."""

    method: AlphaMethod
    inputs: InputsUsed | None
    residual_time: float | None
    spread: float | None
    spread_relative: float | None
    level: ScalingLevel | None
    rms_alpha: float | None
    recommended: Recommended
    blocks: tuple[ScalingBlock, ...]
    references: tuple[ReferenceScheme, ...]
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyFit:
    """rms alpha = prefactor L^-gamma over a family of L blocks; low, high: 95 % interval of gamma; n: networks.

    verdict: whether the interval lies above 1/2 (fast), below (slow) or holds it. boundary: gamma within 0.45 to 0.55.
    """

    gamma: float
    low: float
    high: float
    prefactor: float
    n: int
    method: AlphaMethod
    verdict: FamilyVerdict
    boundary: bool
