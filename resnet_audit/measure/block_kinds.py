"""Which kinds of block a network has: equal in two networks of one family, which repeat them more or less often."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resnet_audit.graph.ir import Conv, Linear, Opaque, kind_of
from resnet_audit.measure.branch_scales import chain

if TYPE_CHECKING:
    from collections.abc import Iterable

    from resnet_audit.graph import ResidualGraph
    from resnet_audit.graph.ir import Op


def block_kinds(graph: ResidualGraph) -> frozenset[object]:
    """Every kind once: the operations of branch and shortcut in their order, with the sizes of their weights."""

    def kinds(names: Iterable[str]) -> tuple[object, ...]:
        return tuple((kind_of(op), _sizes(op)) for op in (graph.by_name[name].op for name in names))

    return frozenset((block.skip_kind, kinds(block.branch), kinds(block.skip)) for block in chain(graph))


def _sizes(op: Op) -> tuple[tuple[int, ...], ...]:
    match op:
        case Conv() | Linear():
            return (tuple(op.weight.shape),)
        case Opaque():
            return tuple(tuple(weight.shape) for weight in op.weights)
        case _:
            return ()
