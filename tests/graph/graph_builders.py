"""Shorthand for the tests of graphs: a checkpoint without a file, graphs of the test networks, and hand-built nodes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from graph_nets import NETS
from graph_oracles import normal

from resnet_audit.graph.adjoint import save
from resnet_audit.graph.execute import run
from resnet_audit.graph.from_weights import discover
from resnet_audit.graph.ir import Activation, Add, Conv, Input, Node, Norm, Op
from resnet_audit.graph.shapes import with_shapes
from resnet_audit.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from resnet_audit.graph import ResidualGraph

WIDTH = 4
SIZE = (WIDTH, 6, 6)


def found(tensors: Mapping[str, Tensor], **choices: Any) -> ResidualGraph:
    """What `discover` makes of tensors that come from no file."""
    return discover(SimpleNamespace(tensors=tensors, format="torch-zip", config=None), Settings(**choices))


def graph_of(name: str, seed: int = 0) -> ResidualGraph:
    net = NETS[name]
    return found(net.weights(seed), input_size=net.size)


def conv(outputs: int = WIDTH, inputs: int = WIDTH, size: int = 1, stride: int = 1, seed: int = 0) -> Conv:
    weight = normal(outputs, inputs, size, size, seed=seed) / (inputs * size * size) ** 0.5
    return Conv(weight=weight, bias=None, stride=(stride, stride), padding=(size // 2, size // 2))


def norm(channels: int = WIDTH, seed: int = 0) -> Norm:
    gain, offset, mean, spread = normal(4, channels, seed=seed)
    return Norm(weight=gain, bias=offset, mean=mean, var=spread.square() + 0.2, eps=1e-5)


def relu() -> Activation:
    return Activation(kind="relu")


class Nodes:
    """Nodes in the order of their writing; every call gives the name of the node it wrote."""

    def __init__(self, size: tuple[int, ...] = SIZE) -> None:
        self.size = size
        self.written: list[Node] = []
        self.put("x", Input())

    def put(self, name: str, op: Op, *inputs: str, shape: tuple[int, ...] | None = None) -> str:
        self.written.append(Node(name=name, op=op, inputs=inputs, shape=shape))
        return name

    def conv(self, name: str, source: str, *args: int, **choices: int) -> str:
        return self.put(name, conv(*args, **choices), source)

    def relu(self, name: str, source: str) -> str:
        return self.put(name, relu(), source)

    def norm(self, name: str, source: str, channels: int = WIDTH) -> str:
        return self.put(name, norm(channels), source)

    def add(self, name: str, *sources: str) -> str:
        return self.put(name, Add(), *sources)

    @property
    def shaped(self) -> tuple[Node, ...]:
        return with_shapes(tuple(self.written), self.size)


def recorded(nodes: Sequence[Node], images: Tensor) -> tuple[dict[str, Tensor], dict[str, tuple[Tensor, ...]]]:
    """The value of every node, and what the adjoints keep, of one run."""
    values, saved = {nodes[0].name: images}, {}

    def visit(node: Node, inputs: list[Tensor], value: Tensor) -> None:
        values[node.name] = value
        kept = save(node.op, inputs)
        if kept:
            saved[node.name] = kept

    with torch.no_grad():
        run(nodes, {nodes[0].name: images}, nodes[-1].name, visit)
    return values, saved
