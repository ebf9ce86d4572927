"""Whether residual blocks lie one after another, and the weight layers that every path passes outside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resnet_audit.graph.ir import is_weight

if TYPE_CHECKING:
    from collections.abc import Callable

    from resnet_audit.graph.ir import Node
    from resnet_audit.measure import Subject


def in_series(subject: Subject) -> bool:
    """Whether every path from the first block's input to the end passes all blocks, and so chooses once at each."""
    joins = {block.join for block in subject.blocks}
    return _counts(subject, lambda node: node.name in joins) == {len(joins)}


def layers_outside(subject: Subject) -> int | None:
    """Weight layers outside blocks on a path from the first block's input to the end; None if paths differ in that."""
    inside = {name for block in subject.blocks for name in (*block.branch, *block.skip)}
    found = _counts(subject, lambda node: is_weight(node) and node.name not in inside)
    return found.pop() if len(found) == 1 else None


def _counts(subject: Subject, counted: Callable[[Node], bool]) -> set[int]:
    """How many of the counted nodes lie on a path from the first block's input to the end, over all paths."""
    found: dict[str, set[int]] = {subject.start: {0}}
    for node in subject.folded:
        before: set[int] = set().union(*(found[name] for name in node.inputs if name in found))
        if before:
            found[node.name] = {count + counted(node) for count in before}
    return found[subject.graph.output]
