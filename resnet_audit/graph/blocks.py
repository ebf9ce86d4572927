"""Residual blocks of a graph: the sums (and concatenations) that a shortcut and a branch meet in.

Source     derived (residual joins by dominators).
Idea       The fork of a join is its immediate dominator: the last node that every path to the join passes. Between
           fork and join each operand has a region: the lightest is the shortcut, the others are the branch.
Live       A node is live if it depends on the input; only live operands count.
Not joins  Sums whose branch holds neither a weight layer nor a norm; parallel sums, where the lightest operand is
           itself a branch (more than two weight layers, or an activation between them); merges of an upsampled
           map with another (feature pyramids); sums of embeddings of tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import networkx as nx

from resnet_audit.graph.ir import (
    Activation,
    Add,
    Concat,
    Conv,
    Input,
    Node,
    Op,
    Opaque,
    consumers_of,
    is_norm,
    is_weight,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from resnet_audit.results import Evidence, SkipKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A residual block: output = (activation of) the join of what shortcut and branch make of the fork's value.

    branch, skip: names of the interior nodes. branch_edges, skip_edge: (sum, position) of the inputs that carry them.
    layers, skip_layers: weight layers of each, in order. weight_layers: the most on one path of the branch.
    """

    name: str
    fork: str
    join: str
    output: str
    branch: tuple[str, ...]
    skip: tuple[str, ...]
    branch_edges: tuple[tuple[str, int], ...]
    skip_edge: tuple[str, int]
    skip_kind: SkipKind
    weight_layers: int
    layers: tuple[str, ...]
    skip_layers: tuple[str, ...]
    stage: int
    transition: bool
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class _Operand:
    """One input of a join: its position, its interior region, and what decides whether it can be the shortcut."""

    edge: tuple[str, int]
    region: frozenset[str]
    weights: int
    taps: int

    @property
    def weight_order(self) -> tuple[int, int, int]:
        return self.weights, self.taps, len(self.region)


class _Dag:
    """The live part of a graph with the queries that the search needs."""

    def __init__(self, nodes: tuple[Node, ...]) -> None:
        self.nodes = {node.name: node for node in nodes}
        self.order = {node.name: index for index, node in enumerate(nodes)}
        self.consumers = consumers_of(nodes)
        self.source = next(node.name for node in nodes if isinstance(node.op, Input))
        graph: nx.DiGraph[str] = nx.DiGraph((name, node.name) for node in nodes for name in node.inputs)
        graph.add_node(self.source)
        self.live: nx.DiGraph[str] = graph.subgraph({self.source} | nx.descendants(graph, self.source)).copy()

    @cached_property
    def dominators(self) -> dict[str, str]:
        """Immediate dominator of every live node."""
        return dict(nx.immediate_dominators(self.live, self.source))

    def meet(self, names: Iterable[str]) -> str:
        """The last live node that every path to any of `names` passes: their common ancestor among dominators."""
        first, *others = names
        lines = [self._line(name) for name in (first, *others)]
        shared = set(lines[0]).intersection(*lines[1:])
        return next(name for name in lines[0] if name in shared)

    def _line(self, name: str) -> list[str]:
        """`name`, its immediate dominator, and so on up to the input."""
        line = [name]
        while line[-1] != self.source:
            line.append(self.dominators[line[-1]])
        return line

    def between(self, fork: str, end: str) -> frozenset[str]:
        """Nodes on paths from `fork` (left out) to `end` (included); empty if they are the same."""
        if fork == end:
            return frozenset()
        return frozenset((nx.ancestors(self.live, end) | {end}) & nx.descendants(self.live, fork))

    def heaviest(self, region: frozenset[str]) -> int:
        """The most weight layers on one path inside `region`."""
        most: dict[str, int] = {}
        for name in self.ordered(region):
            node = self.nodes[name]
            most[name] = max((most[i] for i in node.inputs if i in region), default=0) + is_weight(node)
        return max(most.values(), default=0)

    def ordered(self, names: Iterable[str]) -> tuple[str, ...]:
        """The names in topological order."""
        return tuple(sorted(names, key=self.order.__getitem__))


def find_blocks(nodes: tuple[Node, ...], evidence: Evidence) -> tuple[Block, ...]:
    """All residual blocks of the graph in topological order of their joins. Nodes need shapes."""
    dag = _Dag(nodes)
    blocks: list[Block] = []
    for node in nodes:
        if isinstance(node.op, Add | Concat) and node.name in dag.live and not _is_inner_sum(dag, node):
            block = _block_at(dag, node, evidence, blocks)
            if block is not None:
                blocks.append(block)
    return tuple(blocks)


def _is_inner_sum(dag: _Dag, node: Node) -> bool:
    """Whether the sum is only a part of a larger sum (parallel branches written as sums of two)."""
    readers = dag.consumers[node.name]
    return isinstance(node.op, Add) and len(readers) == 1 and isinstance(readers[0][0].op, Add)


def _live_edges(dag: _Dag, join: Node) -> list[tuple[str, int]]:
    """The live operands of a join, sums inside it flattened, each as (reader, position)."""
    edges: list[tuple[str, int]] = []
    for position, name in enumerate(join.inputs):
        operand = dag.nodes[name]
        if isinstance(join.op, Add) and isinstance(operand.op, Add) and _is_inner_sum(dag, operand):
            edges += _live_edges(dag, operand)
        elif name in dag.live:
            edges.append((join.name, position))
    return edges


def _block_at(dag: _Dag, join: Node, evidence: Evidence, earlier: list[Block]) -> Block | None:
    edges = _live_edges(dag, join)
    if len(edges) < 2:
        return None
    fork = dag.meet(dag.nodes[reader].inputs[position] for reader, position in edges)
    source = dag.nodes[fork].op
    if isinstance(source, Input) and source.vocabulary is not None:
        return None  # a sum of embeddings: nothing passes unchanged from numbers of tokens
    operands = [_operand(dag, edge, fork) for edge in edges]
    skip = min(operands, key=lambda operand: operand.weight_order)
    branches = [operand for operand in operands if operand is not skip]
    kind = _skip_kind(dag, join, skip, branches)
    branch = frozenset().union(*(operand.region for operand in branches)) - skip.region
    if kind is None or not any(is_weight(dag.nodes[n]) or is_norm(dag.nodes[n]) for n in branch):
        return None
    layers = tuple(name for name in dag.ordered(branch) if is_weight(dag.nodes[name]))
    output = _output(dag, join)
    transition = kind != "identity" or dag.nodes[fork].shape != join.shape
    return Block(
        name=_common_name(layers) or join.name,
        fork=fork,
        join=join.name,
        output=output,
        branch=dag.ordered(branch),
        skip=dag.ordered(skip.region),
        branch_edges=tuple(operand.edge for operand in branches),
        skip_edge=skip.edge,
        skip_kind=kind,
        weight_layers=max(operand.weights for operand in branches),
        layers=layers,
        skip_layers=tuple(name for name in dag.ordered(skip.region) if is_weight(dag.nodes[name])),
        stage=_stage(dag, join, earlier),
        transition=transition,
        evidence=evidence,
    )


def _operand(dag: _Dag, edge: tuple[str, int], fork: str) -> _Operand:
    reader, position = edge
    region = dag.between(fork, dag.nodes[reader].inputs[position])
    kernels = [dag.nodes[name].op for name in region]
    taps = sum(op.weight.shape[2] * op.weight.shape[3] for op in kernels if isinstance(op, Conv))
    return _Operand(edge, region, dag.heaviest(region), taps)


def _skip_kind(dag: _Dag, join: Node, skip: _Operand, branches: list[_Operand]) -> SkipKind | None:
    """What the shortcut is, or None if the lightest operand is no shortcut."""
    ops = [dag.nodes[name].op for name in skip.region]
    if isinstance(join.op, Concat):
        return "concat" if skip.weights == 0 and any(branch.weights for branch in branches) else None
    if skip.weights:
        merge = any(_upsamples(dag.nodes[name].op) for branch in branches for name in branch.region)
        shortcut = skip.weights <= 2 and not merge and not any(isinstance(op, Activation) for op in ops)
        return "projection" if shortcut else None
    if not ops:
        return "identity"
    return "norm" if all(is_norm(dag.nodes[name]) for name in skip.region) else "resample"


def _upsamples(op: Op) -> bool:
    return isinstance(op, Opaque) and op.name.startswith("upsample")


def _output(dag: _Dag, join: Node) -> str:
    readers = dag.consumers[join.name]
    if len(readers) == 1 and isinstance(readers[0][0].op, Activation):
        return readers[0][0].name
    return join.name


def _stage(dag: _Dag, join: Node, earlier: list[Block]) -> int:
    if not earlier:
        return 1
    return earlier[-1].stage + (dag.nodes[earlier[-1].join].shape != join.shape)


def _common_name(layers: tuple[str, ...]) -> str:
    """The longest dotted prefix that all layers share, e.g. `layer1.0`; of one layer, its parent."""
    if not layers:
        return ""
    split = [layer.split(".")[:-1] for layer in layers]
    shared: list[str] = []
    for parts in zip(*split, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)
