"""The residual graph: the network in topological order, its blocks, and the place of every weight layer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import networkx as nx

from resnet_audit.errors import NotRunnable
from resnet_audit.graph.execute import run
from resnet_audit.graph.ir import Node, is_weight

if TYPE_CHECKING:
    from torch import Tensor

    from resnet_audit.graph.blocks import Block
    from resnet_audit.results import Placement, Source


@dataclass(frozen=True, kw_only=True, eq=False)
class ResidualGraph:
    """A network found in a checkpoint.

    nodes: topologically ordered, the first is the input and the last the output; empty where the structure is unknown.
    loose: weight layers without a place in the graph, with stride 1 for want of better. unplaced: names of the tensors
    (or layers) that found no place. batch: the only number of samples that it can run on, if it is fixed. assumptions:
    every inferred fact, in words. runnable_reason: why it cannot run. The blocks of a graph without nodes name layers
    alone: they have no fork, join or interior.
    """

    source: Source
    family: str | None
    nodes: tuple[Node, ...]
    blocks: tuple[Block, ...]
    loose: tuple[Node, ...] = ()
    unplaced: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = ()
    runnable_reason: str | None = None
    batch: int | None = None

    @property
    def runnable(self) -> bool:
        """Whether values and gradients can pass through it."""
        return self.runnable_reason is None

    @property
    def input_size(self) -> tuple[int, ...]:
        """The input's (C, H, W). Raises NotRunnable without a complete graph."""
        self.require_runnable()
        shape = self.nodes[0].shape
        return shape if shape is not None else ()

    @property
    def output(self) -> str:
        """The name of the output node, the logits."""
        return self.nodes[-1].name

    @cached_property
    def by_name(self) -> dict[str, Node]:
        """Nodes by name."""
        return {node.name: node for node in self.nodes}

    @cached_property
    def weight_nodes(self) -> tuple[Node, ...]:
        """All weight layers: those of the graph in order, then the loose ones."""
        return (*(node for node in self.nodes if is_weight(node)), *self.loose)

    @cached_property
    def placement(self) -> dict[str, Placement]:
        """For each node: `stem`, `between`, `head`, or `vine` (in a branch or a shortcut).

        Without blocks the network is all stem but for its last weight layer, the head.
        """
        last = next((node.name for node in reversed(self.nodes) if is_weight(node)), None)
        if not self.nodes or not self.blocks:
            return {node.name: "head" if node.name == last else "stem" for node in self.nodes}
        inside = {name for block in self.blocks for name in (*block.branch, *block.skip)}
        edges: nx.DiGraph[str] = nx.DiGraph((name, node.name) for node in self.nodes for name in node.inputs)
        before = nx.ancestors(edges, self.blocks[0].fork) | {self.blocks[0].fork}
        after = nx.descendants(edges, self.blocks[-1].join)

        def place(name: str) -> Placement:
            if name in inside:
                return "vine"
            return "stem" if name in before else "head" if name in after else "between"

        return {node.name: place(node.name) for node in self.nodes}

    def forward(self, x: Tensor) -> Tensor:
        """The network's output for inputs (N, C, H, W), in evaluation mode. Raises NotRunnable.

        >>> import torch
        >>> from resnet_audit import Settings, discover, load
        >>> graph = discover(load("sample_checkpoints/digits_plain.pt"), Settings(input_size=(1, 8, 8), assume=True))
        >>> tuple(graph.forward(torch.zeros(2, 1, 8, 8)).shape)
        (2, 10)
        """
        self.require_runnable()
        return run(self.nodes, {self.nodes[0].name: x}, self.output)

    def require_runnable(self) -> None:
        """Raise NotRunnable with the reason if nothing can be propagated through the graph."""
        if self.runnable_reason is not None:
            raise NotRunnable(self.runnable_reason)

    def block_of(self, layer: str) -> str | None:
        """The name of the block that a weight layer belongs to, by branch or shortcut."""
        for block in self.blocks:
            if layer in block.layers or layer in block.skip_layers:
                return block.name
        return None
