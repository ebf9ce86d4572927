"""The rows that `--blocks` keeps. Totals are never touched: they are those of the whole network."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, TypeVar

from resnet_audit.errors import UsageError
from resnet_audit.results import (
    BoundResult,
    EnsembleResult,
    GradientResult,
    GraphResult,
    ProcrustesResult,
    Result,
    ScalingResult,
    ShortcutResult,
    SpectrumResult,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from resnet_audit.results import (
        BlockEntry,
        BoundLayer,
        EnsembleBlock,
        GradientBlock,
        ScalingBlock,
        ShortcutBlock,
        SpectrumBlock,
        SpectrumLayer,
    )

    Row = TypeVar(
        "Row",
        BlockEntry,
        BoundLayer,
        EnsembleBlock,
        GradientBlock,
        ScalingBlock,
        ShortcutBlock,
        SpectrumBlock,
        SpectrumLayer,
    )


def chosen_blocks(graph: GraphResult, globs: Sequence[str]) -> frozenset[str] | None:
    """Names of the blocks that match any glob, or None without globs. Raises UsageError if none matches."""
    return matching([block.name for block in graph.blocks], globs)


def matching(names: Sequence[str], globs: Sequence[str]) -> frozenset[str] | None:
    """Those of the `names` of blocks that match any glob, or None without globs. Raises UsageError if none matches."""
    if not globs:
        return None
    found = frozenset(name for name in names if any(fnmatchcase(name, glob) for glob in globs))
    if not found:
        there = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "") or "none"
        raise UsageError(f"--blocks {' '.join(globs)} matches no block; the blocks are: {there}")
    return found


def only(result: Result, graph: GraphResult, kept: frozenset[str] | None) -> Result:
    """The result with the rows of the blocks `kept` (all if None); `graph` says which layer is in which block."""
    if kept is None:
        return result
    layers = {layer for block in graph.blocks if block.name in kept for layer in (*block.layers, *block.skip_layers)}
    match result:
        case GraphResult():
            return replace(result, blocks=_named(result.blocks, kept))
        case BoundResult():
            return replace(result, layers=_named(result.layers, layers))
        case SpectrumResult():
            return replace(result, layers=_named(result.layers, layers), blocks=_named(result.blocks, kept))
        case GradientResult():
            return replace(result, blocks=_named(result.blocks, kept))
        case EnsembleResult():
            return replace(result, blocks=_named(result.blocks, kept))
        case ShortcutResult():
            return replace(result, blocks=_named(result.blocks, kept))
        case ScalingResult():
            return replace(result, blocks=_named(result.blocks, kept))
        case ProcrustesResult():
            return result  # the globs chose what was projected


def _named(rows: Iterable[Row], names: Iterable[str]) -> tuple[Row, ...]:
    wanted = set(names)
    return tuple(row for row in rows if row.name in wanted)
