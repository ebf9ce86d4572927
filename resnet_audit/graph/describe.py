"""The result of `graph`: what was found in a checkpoint, as plain data."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from resnet_audit.checkpoint.programs import RUNS_CODE
from resnet_audit.graph.ir import Norm, is_weight
from resnet_audit.linear import nonfinite_entries
from resnet_audit.results import BlockEntry, GraphResult, Note

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

    from resnet_audit.checkpoint import Checkpoint
    from resnet_audit.graph.blocks import Block
    from resnet_audit.graph.residual import ResidualGraph


def describe(checkpoint: Checkpoint, graph: ResidualGraph) -> GraphResult:
    """Blocks, the place of every weight layer, assumptions, and what in the file deserves a look."""
    places = {node.name: graph.placement[node.name] for node in graph.nodes if is_weight(node)}
    nonfinite = nonfinite_count(checkpoint.tensors.values())
    notes = []
    if nonfinite:
        notes.append(Note(code="nonfinite", message=f"{nonfinite} weights are NaN or infinite"))
    if checkpoint.format in RUNS_CODE and graph.source != "weights":
        message = f"the file is a program ({checkpoint.format}): torch loaded it to read its graph"
        notes.append(Note(code="program", message=message))
    if checkpoint.dangerous_globals:
        names = ", ".join(checkpoint.dangerous_globals)
        notes.append(
            Note(code="dangerous_globals", message=f"the file names {names}; nothing of it was imported or run")
        )
    scales = [_branch_gamma(graph, block) for block in graph.blocks]
    return GraphResult(
        source=graph.source,
        family=graph.family,
        runnable=graph.runnable,
        runnable_reason=graph.runnable_reason,
        stem=tuple(name for name, place in places.items() if place == "stem"),
        between=tuple(name for name, place in places.items() if place == "between"),
        head=tuple(name for name, place in places.items() if place == "head"),
        unplaced=graph.unplaced,
        block_count=len(graph.blocks),
        unplaced_count=len(graph.unplaced),
        nonfinite_count=nonfinite,
        dangerous_globals=checkpoint.dangerous_globals,
        dangerous_globals_count=len(checkpoint.dangerous_globals),
        assumptions=graph.assumptions,
        branch_gamma=_mean([scale for scale in scales if scale is not None]),
        blocks=tuple(
            BlockEntry(
                name=block.name,
                skip=block.skip_kind,
                weight_layers=block.weight_layers,
                layers=block.layers,
                skip_layers=block.skip_layers,
                stage=block.stage,
                transition=block.transition,
                input_shape=_shape(graph, block.fork),
                output_shape=_shape(graph, block.join),
                evidence=block.evidence,
                branch_gamma=scale,
            )
            for block, scale in zip(graph.blocks, scales, strict=True)
        ),
        notes=tuple(notes),
    )


def _shape(graph: ResidualGraph, name: str) -> tuple[int, ...] | None:
    """The shape of a node; None where the block has no nodes."""
    return graph.by_name[name].shape if name in graph.by_name else None


def _branch_gamma(graph: ResidualGraph, block: Block) -> float | None:
    """Mean |gamma| of the last batch normalisation inside the branch; None where none has a finite scale."""
    inside = set(block.branch)
    scales = [
        node.op.weight
        for node in graph.nodes
        if node.name in inside and isinstance(node.op, Norm) and node.op.weight is not None
    ]
    mean = float(scales[-1].double().abs().mean()) if scales else math.nan
    return mean if math.isfinite(mean) else None


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def nonfinite_count(tensors: Iterable[Tensor]) -> int:
    """The number of NaN and infinite entries of all floating tensors."""
    return sum(nonfinite_entries(tensor) for tensor in tensors if tensor.is_floating_point())
