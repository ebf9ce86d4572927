"""The result of `graph`."""

from __future__ import annotations

from dataclasses import dataclass

from resnet_audit.results.common import Evidence, Note, SkipKind, Source


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockEntry:
    """One residual block. Shapes are without the batch, e.g. (C, H, W), and None where the graph has none.

    branch_gamma: mean |gamma| of the last batch normalisation inside the branch; None without a scale there.
    """

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
    branch_gamma: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphResult:
    """What was found: where every weight layer belongs, and which facts were assumed.

    branch_gamma: the mean over the blocks that have one.
    """

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
    branch_gamma: float | None
    blocks: tuple[BlockEntry, ...]
    notes: tuple[Note, ...] = ()
