"""The result of `procrustes`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from resnet_audit.results.common import InputsUsed, Note

TargetRule = Literal["auto", "rms"]


@dataclass(frozen=True, slots=True, kw_only=True)
class IsometryNumbers:
    """How far an operator is from `target` times an isometry, over the singular values that geometry leaves free.

    mean_deviation: mean of |sigma / target - 1|; near_target: share of sigma / target in [0.9, 1.1]; gain: root mean
    square factor by which the adjoint changes the norm of a random gradient.
    """

    sigma_max: float
    sigma_min: float
    mean_deviation: float
    near_target: float
    gain: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcrustesLayer:
    """One projected kernel, as stored. kernel_change: ||K' - K|| / ||K||, None for a kernel of zeros.

    deficient: frequencies without full rank at the start, where many isometries are equally near.
    """

    name: str
    block: str
    placement: Literal["branch", "shortcut"]
    shape: tuple[int, ...]
    stride: tuple[int, int]
    groups: int
    grid: tuple[int, int]
    target: float
    iterations: int
    deficient: int
    before: IsometryNumbers
    after: IsometryNumbers
    kernel_change: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockRatios:
    """Gradient-norm ratios of one block: of the objective, and root mean square for a random cotangent."""

    ratio: float | None
    ratio_rms: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcrustesBlock:
    """What the gradient of the whole network meets in one block, with the old and with the new kernels."""

    name: str
    before: BlockRatios
    after: BlockRatios


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """The share of `n` labelled inputs that the network names rightly."""

    n: int
    before: float
    after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcrustesResult:
    """The norm-preserving projection of transition layers. kernels: raw, no batch normalisation folded in.

    iterations, target: as asked for; a layer has the figure that was used. output: the file that was written.
    objective, inputs: of the ratios in `blocks`; None, and no blocks, where no gradient passes. accuracy: None without
    labels.
    """

    kernels: Literal["raw"]
    layers: tuple[ProcrustesLayer, ...]
    blocks: tuple[ProcrustesBlock, ...]
    objective: str | None
    inputs: InputsUsed | None
    accuracy: Accuracy | None
    iterations: int
    target: TargetRule | float
    output: str
    notes: tuple[Note, ...] = ()
