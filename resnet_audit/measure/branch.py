"""What has to be zero for a residual branch to vanish, and how many weight layers lie on its shortest path.

Source  derived (theory note `shortcut-scaling`, A4).
Idea    Walk back from the sum. Where a batch normalisation comes first, the branch is gamma * u + beta: of degree one
        in gamma, whatever the number of weight layers. A constant factor (SkipInit, LayerScale) is as good. Otherwise
        the weights themselves have to vanish, and the branch is of degree n in them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from resnet_audit.graph.ir import Multiply, Norm, Scale, is_norm, is_weight

if TYPE_CHECKING:
    from collections.abc import Iterator

    from resnet_audit.graph import ResidualGraph
    from resnet_audit.graph.blocks import Block
    from resnet_audit.results.shortcut import ZeroPoint

ORDER = ("gamma", "scalar", "weights")


@dataclass(frozen=True, slots=True, kw_only=True)
class Vanishing:
    """What must be zero; size: mean |gamma| or |factor|, None for weights and where it is unknown or not finite."""

    kind: ZeroPoint
    size: float | None = None


def zero_point(graph: ResidualGraph, block: Block) -> Vanishing:
    """What must be zero for every operand of the branch to vanish."""
    ends = [end for reader, at in block.branch_edges for end in _ends(graph, graph.by_name[reader].inputs[at], block)]
    kinds = {end.kind for end in ends}
    if not ends or "weights" in kinds:
        return Vanishing(kind="weights")
    sizes = [end.size for end in ends if end.size is not None]
    known = len(sizes) == len(ends) and math.isfinite(math.fsum(sizes))
    return Vanishing(kind=min(kinds, key=ORDER.index), size=math.fsum(sizes) / len(sizes) if known else None)


def _ends(graph: ResidualGraph, name: str, block: Block) -> list[Vanishing]:
    """What must vanish for the value of `name` to: all of it, and of a product its easiest factor."""
    seen: set[str] = set()

    def walk(name: str) -> Iterator[Vanishing]:
        if name in seen or name == block.fork:
            return
        seen.add(name)
        node = graph.by_name[name]
        match node.op:
            case Norm(weight=weight) if weight is not None:
                yield Vanishing(kind="gamma", size=float(weight.double().abs().mean()))
            case Scale(factor=factor):
                size = abs(factor) if isinstance(factor, float | int) else float(factor.double().abs().mean())
                yield Vanishing(kind="scalar", size=size)
            case Multiply():
                factors = [found for name in node.inputs if (found := list(walk(name)))]
                yield from min(factors, key=lambda found: max(ORDER.index(end.kind) for end in found), default=[])
            case _ if is_weight(node):
                yield Vanishing(kind="weights")
            case _ if is_norm(node) and not isinstance(node.op, Norm):
                yield Vanishing(kind="gamma")
            case _:
                for before in node.inputs:
                    yield from walk(before)

    return list(walk(name))


def fewest_layers(graph: ResidualGraph, block: Block) -> int:
    """The least number of weight layers on any path through the branch."""
    inside = {*block.branch, *block.skip}
    least = {block.fork: 0}
    for node in graph.nodes:
        if node.name in inside:
            reached = [least[name] for name in node.inputs if name in least]
            if reached:
                least[node.name] = min(reached) + is_weight(node)
    ends = [graph.by_name[reader].inputs[position] for reader, position in block.branch_edges]
    return min((least[name] for name in ends if name in least), default=0)
