"""The Jacobians of one residual block, as linear maps that are known by their products.

Source   derived; the tangents and adjoints of the single operations are those of `graph`.
Formula  J = d join / d fork, at the recorded values of N samples; of the branch alone, with the shortcut's edge cut
Symbols  fork, join  the values before and after the block; the join is the sum or the concatenation itself, before the
         activation that may follow it
Status   exact at those values: every mask, switch and slope is the recorded one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from resnet_audit.graph.adjoint import Saved, adjoint
from resnet_audit.graph.ir import Activation, Add, Conv, Linear, Node
from resnet_audit.graph.tangent import tangent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from resnet_audit.graph.blocks import Block

    Edge = tuple[str, int]

DENSE_ENTRIES = 1 << 24
"""Entries of the batch of unit vectors that pass through a block at once when its matrix is written out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockMaps:
    """One Jacobian a sample, `batch` of them. A vector is a value in memory order, maps with the channels innermost.

    nodes: those that pass something from the fork on, in order; cut: the edges that pass nothing.
    """

    nodes: tuple[Node, ...]
    saved: Mapping[str, Saved]
    shapes: Mapping[str, tuple[int, ...]]
    fork: str
    cut: frozenset[Edge]
    batch: int

    @property
    def join(self) -> str:
        """The node where the block ends."""
        return self.nodes[-1].name

    @property
    def columns(self) -> int:
        """Numbers in the fork's value."""
        return math.prod(self.shapes[self.fork])

    @property
    def rows(self) -> int:
        """Numbers in the join's value."""
        return math.prod(self.shapes[self.join])

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """J x: (K batch, rows) for (K batch, columns), direction by direction. Raises NoRule."""
        values = {self.fork: self._value(x, self.fork)}
        for node in self.nodes:
            edges = [(name, (node.name, position) not in self.cut) for position, name in enumerate(node.inputs)]
            live = [values[name] for name, passes in edges if passes and name in values]
            if len(live) < len(edges) and not isinstance(node.op, Add):
                zeros = live[0].new_zeros
                sizes = live[0].shape[:2]
                live = [
                    values[name] if passes and name in values else zeros(*sizes, *self.shapes[name])
                    for name, passes in edges
                ]
            values[node.name] = tangent(node, self.saved.get(node.name, ()), live)
        return _vectors(values[self.join])

    @torch.no_grad()
    def adjoint(self, y: Tensor) -> Tensor:
        """J^T y: (K batch, columns) for (K batch, rows). Raises NoRule."""
        reach = {self.fork, *(node.name for node in self.nodes)}
        pending = {self.join: self._value(y, self.join)}
        for node in reversed(self.nodes):
            shapes = [self.shapes[name] for name in node.inputs]
            parts = adjoint(node, self.saved.get(node.name, ()), pending.pop(node.name), shapes)
            for position, (name, part) in enumerate(zip(node.inputs, parts, strict=True)):
                if name in reach and (node.name, position) not in self.cut:
                    pending[name] = pending[name] + part if name in pending else part
        return _vectors(pending[self.fork])

    def _value(self, vectors: Tensor, name: str) -> Tensor:
        """The vectors as values (K, batch, ...) of a node."""
        shape = self.shapes[name]
        if len(shape) != 3:
            return vectors.view(-1, self.batch, *shape)
        channels, height, width = shape
        return vectors.view(-1, self.batch, height, width, channels).permute(0, 1, 4, 2, 3)


def _vectors(value: Tensor) -> Tensor:
    """Values (K, batch, ...) as rows; of maps no copy is made where they have their channels innermost."""
    ordered = value.permute(0, 1, 3, 4, 2) if value.ndim == 5 else value
    return ordered.reshape(value.shape[0] * value.shape[1], -1)


def block_maps(
    nodes: Sequence[Node],
    block: Block,
    saved: Mapping[str, Saved],
    *,
    batch: int,
    dtype: torch.dtype,
    branch_only: bool = False,
) -> BlockMaps:
    """The Jacobians of one of `nodes`' blocks at the `batch` samples of a recording, or those of its branch alone."""
    order = {node.name: index for index, node in enumerate(nodes)}
    inside = nodes[order[block.fork] + 1 : order[block.join] + 1]
    cut = frozenset({block.skip_edge} if branch_only else set())

    def sources(node: Node) -> list[str]:
        return [name for position, name in enumerate(node.inputs) if (node.name, position) not in cut]

    reached, needed = {block.fork}, {block.join}
    for node in inside:
        if not reached.isdisjoint(sources(node)):
            reached.add(node.name)
    for node in reversed(inside):
        if node.name in needed:
            needed.update(sources(node))
    passing = tuple(_cast(node, dtype) for node in inside if node.name in reached & needed)
    return BlockMaps(
        nodes=passing,
        saved={node.name: _factors(node, saved[node.name], dtype) for node in passing if node.name in saved},
        shapes={node.name: node.shape or () for node in nodes[: order[block.join] + 1]},
        fork=block.fork,
        cut=cut,
        batch=batch,
    )


def _cast(node: Node, dtype: torch.dtype) -> Node:
    """A weight node in the dtype of the pass, channels innermost: once, not at every product."""
    op = node.op
    if isinstance(op, Conv):
        return replace(node, op=replace(op, weight=op.weight.to(dtype, memory_format=torch.channels_last), bias=None))
    return replace(node, op=replace(op, weight=op.weight.to(dtype), bias=None)) if isinstance(op, Linear) else node


def _factors(node: Node, saved: Saved, dtype: torch.dtype) -> Saved:
    """What a pass recorded, the masks of an activation as numbers: a product with them takes a third of the time.

    Those that a function of the user reads stay what they are.
    """
    return tuple(part.to(dtype) for part in saved) if isinstance(node.op, Activation) else saved


def dense(maps: BlockMaps, dtype: torch.dtype) -> Tensor:
    """The Jacobians as matrices, (batch, rows, columns). Raises NoRule."""
    units = torch.eye(maps.columns, dtype=dtype)
    images = [
        maps.forward(part.repeat_interleave(maps.batch, dim=0)).view(len(part), maps.batch, maps.rows)
        for part in torch.split(units, max(1, DENSE_ENTRIES // (maps.batch * maps.columns)))
    ]
    return torch.cat(images).permute(1, 2, 0)
