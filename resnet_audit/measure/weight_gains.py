"""What each block does to the size of a random cotangent, from its weights alone.

Source   derived (theory note `gradient-ensemble`, B1).
Formula  E ||J^T u||^2 / E ||u||^2 = ||J||_F^2 / n_out of every operation; products along a path, sums over paths
         convolution or linear layer ||W||_F^2 / c_out,  ReLU 1/2,  padding by zero channels c_in / c_out
Symbols  W  the weight with the norm behind it folded in, or with its input channels scaled by a norm that stands before
            it, with or without an activation between; J  the Jacobian, u  standard normal, n_out  numbers in the output
Status   a prediction: cotangents are taken as random at every operation, half of all units as active, borders are left
         out, and so are correlations between paths. Strides do not enter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from resnet_audit.errors import NoRule
from resnet_audit.graph.averages import averages
from resnet_audit.graph.fold import gains
from resnet_audit.graph.ir import (
    Activation,
    AdaptivePool,
    Add,
    Concat,
    Conv,
    Flatten,
    Linear,
    Node,
    Norm,
    Pad,
    Permute,
    Pool,
    Scale,
    Slice,
    View,
    is_weight,
)
from resnet_audit.measure.lipschitz import log

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from resnet_audit.graph.backward import Edge
    from resnet_audit.graph.blocks import Block
    from resnet_audit.measure import Subject

GATE = 0.5
"""Share of the units of a ReLU that are active, rho. In trained networks 0.14 to 0.6."""

LogGains = dict[int, float]
"""ln of the squared gain of all paths with that many weight layers, by that number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockGains:
    """Squared gains of a block's branch and shortcut, by the weight layers that a path passes there."""

    branch: LogGains
    skip: LogGains

    @property
    def log_beta(self) -> float | None:
        """ln(b / s), half of the logarithm of the quotient of squares; None if nothing passes the shortcut."""
        branch, skip = (np.logaddexp.reduce(list(side.values())) for side in (self.branch, self.skip))
        return None if skip == -math.inf else 0.5 * float(branch - skip)


def block_gains(subject: Subject, block: Block) -> BlockGains:
    """The gains of one of the subject's blocks. Raises NoRule where an operation between fork and join has no gain."""
    inside = {block.fork, *block.branch, *block.skip}
    edges: dict[str, list[Edge]] = {"branch": list(block.branch_edges), "skip": [block.skip_edge]}
    region = _Region(subject, block, inside)
    found = {side: _sum(region.back(edge) for edge in ends) for side, ends in edges.items()}
    return BlockGains(branch=found["branch"], skip=found["skip"])


class _Region:
    """The nodes between a fork and its join, with the scales of the norms that stand before a weight layer."""

    def __init__(self, subject: Subject, block: Block, inside: set[str]) -> None:
        self.subject, self.shapes, self.fork = subject, subject.shapes, block.fork
        self.nodes = [subject.folded[place] for place in sorted(subject.places[name] for name in inside)]
        self.readers = subject.folded_readers
        self.scales: dict[str, Tensor] = {}
        for node in self.nodes:
            if node.name == block.fork:
                continue
            if isinstance(node.op, Norm) and self._only_weights_read(node.name):
                self.scales[node.name] = gains(node.op)[0]
            elif isinstance(node.op, Activation) and node.inputs[0] in self.scales:
                self.scales[node.name] = self.scales[node.inputs[0]]

    def _only_weights_read(self, name: str) -> bool:
        readers = [reader for reader, _ in self.readers[name]]
        return bool(readers) and all(
            isinstance(reader.op, Conv | Linear)
            or (isinstance(reader.op, Activation) and self._only_weights_read(reader.name))
            for reader in readers
        )

    def back(self, edge: Edge) -> LogGains:
        """From an input of the join back to the fork."""
        reader, position = edge
        join = self.subject.folded[self.subject.places[reader]]
        start = {0: self._through(join, position)}
        pending: dict[str, list[LogGains]] = {join.inputs[position]: [start]}
        for node in reversed(self.nodes):
            parts = pending.pop(node.name, None)
            if parts is None:
                continue
            total = _sum(parts)
            if node.name == self.fork:
                return total
            for index, name in enumerate(node.inputs):
                step, layer = self._through(node, index), int(is_weight(node))
                pending.setdefault(name, []).append({depth + layer: value + step for depth, value in total.items()})
        return {}

    def _through(self, node: Node, position: int) -> float:
        """ln of the squared gain from a node's output back to one of its inputs."""
        if isinstance(node.op, Norm) and node.name in self.scales:
            return 0.0
        if isinstance(node.op, Concat):
            sizes = [self.shapes[name][0] for name in node.inputs]
            return math.log(sizes[position] / sum(sizes))
        shapes = [self.shapes[name] for name in (node.inputs[position], node.name)]
        return log_gain(node, (shapes[0], shapes[1]), self.scales.get(node.inputs[position]))


def log_gain(node: Node, shapes: tuple[tuple[int, ...], tuple[int, ...]], scale: Tensor | None = None) -> float:
    """ln(||J||_F^2 / n_out) of one operation with `shapes` of its input and output. Raises NoRule.

    scale: (c_in,), of a norm before a weight layer, that multiplies what it reads.
    """
    op = node.op
    match op:
        case Conv(weight=weight, groups=groups):
            return log(_square(weight, scale, groups) / weight.shape[0])
        case Linear(weight=weight):
            return log(_square(weight, scale, 1) / weight.shape[0])
        case Norm():
            return log(float(gains(op)[0].square().mean()))
        case Activation(kind="relu"):
            return math.log(GATE)
        case Activation(kind="leaky_relu", slope=slope):
            return math.log(GATE * (1.0 + slope**2))
        case Activation(kind="prelu", slopes=slopes) if slopes is not None:
            return math.log(GATE * (1.0 + float(slopes.double().square().mean())))
        case Scale(factor=factor):
            return log(factor**2 if isinstance(factor, float | int) else float(factor.double().square().mean()))
        case Pad():
            return math.log(shapes[0][0] / shapes[1][0])
        case Pool(kind="avg") | AdaptivePool():
            matrices = averages(op, (shapes[0][1], shapes[0][2]))
            return math.fsum(math.log(float(matrix.square().sum()) / len(matrix)) for matrix in matrices)
        case Add() | Slice() | Flatten() | View() | Permute() | Pool(kind="max"):
            return 0.0
    raise NoRule(op, "a gain of random cotangents")


def _square(weight: Tensor, scale: Tensor | None, groups: int) -> float:
    """||W||_F^2 with the input channels of the weight (c_out, c_in / groups, ...) scaled."""
    squares = weight.double().square()
    if scale is None:
        return float(squares.sum())
    # (groups, c_out / groups, c_in / groups, taps) against the channels that each group reads.
    by_channel = squares.view(groups, len(weight) // groups, weight.shape[1], -1)
    return float((by_channel * scale.square().view(groups, 1, -1, 1)).sum())


def _sum(terms: Iterable[LogGains]) -> LogGains:
    found: dict[int, list[float]] = {}
    for term in terms:
        for depth, value in term.items():
            found.setdefault(depth, []).append(value)
    return {depth: float(np.logaddexp.reduce(values)) for depth, values in sorted(found.items())}
