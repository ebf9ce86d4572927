"""The result of `shortcut`."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - pydantic reads the types of the fields for the schema
from dataclasses import dataclass
from typing import Literal

from resnet_audit.results.common import InputsUsed, Note, SkipKind

ZeroPoint = Literal["gamma", "weights", "scalar"]
DepthLevel = Literal["ok", "note", "warn"]
Target = Literal["labels", "prediction"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortcutBlock:
    """How many weight layers one shortcut bypasses, on the longest and the shortest path of the branch.

    zero_point: what has to be zero for the branch to vanish; scale: how far from that it is. Both are None where the
    structure has no graph; depth_min also where the branch is no chain.
    """

    name: str
    depth: int
    depth_min: int | None
    skip: SkipKind
    zero_point: ZeroPoint | None
    level: DepthLevel
    scale: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroHessian:
    """The Hessian of one stage with every branch at zero: its spectrum is that of +-B, h times.

    block: the block whose B (rows x columns) this is. rank: singular values above `tolerance` (absolute); condition:
    sigma_max over the least of them, None where B is zero.
    """

    stage: int
    block: str
    rows: int
    columns: int
    sigma_max: float
    rank: int
    condition: float | None
    tolerance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SpectralDensity:
    """Shares of eigenvalues above `tolerance` and below its negative, with errors; `weights` sit at `nodes`."""

    tolerance: float
    above: float
    above_error: float
    below: float
    below_error: float
    nodes: tuple[float, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredHessian:
    """Spectrum of the Hessian of the mean cross-entropy at the checkpoint, over `parameters` numbers.

    blocks: those whose parameters it is over; empty for the whole network. Residuals are |H v - lambda v| over the
    largest |lambda|; those of `top` are in its order.
    """

    blocks: tuple[str, ...]
    parameters: int
    method: Literal["lanczos", "restarted"]
    lambda_max: float
    lambda_min: float
    lambda_min_residual: float
    top: tuple[float, ...]
    residuals: tuple[float, ...]
    trace: float
    trace_se: float
    matvecs: int
    density: SpectralDensity


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortcutResult:
    """Shortcut depth, the Hessian at the zero-residual point, and with `--hessian` the one at the checkpoint.

    depths: blocks by depth. inputs, target: what the Hessians were measured on and the labels of their cross-entropy;
    None where nothing was measured.
    """

    depths: Mapping[str, int]
    inputs: InputsUsed | None
    target: Target | None
    blocks: tuple[ShortcutBlock, ...]
    zero_hessian: tuple[ZeroHessian, ...]
    hessian: MeasuredHessian | None = None
    notes: tuple[Note, ...] = ()
