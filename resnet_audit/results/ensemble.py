"""The result of `ensemble`."""

from __future__ import annotations

from dataclasses import dataclass

from resnet_audit.results.common import InputsUsed, Note


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
