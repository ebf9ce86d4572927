"""The same network with every normalisation that directly follows a weight layer folded into it.

A folded layer keeps its layer's name; its norm's node disappears. A norm that precedes its convolution (pre-activation)
or is read by something else as well stays a node of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from resnet_audit.graph.execute import norm_affine
from resnet_audit.graph.ir import Conv, Linear, Node, Norm, Op, consumers_of
from resnet_audit.linear import fold_batch_norm, nonfinite_entries

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Folded:
    """The folded nodes in order (folded weights are float64), and the layer that each vanished norm went into."""

    nodes: tuple[Node, ...]
    renamed: Mapping[str, str]

    def name(self, name: str) -> str:
        """The folded node that has the value which `name` has in the original graph."""
        return self.renamed.get(name, name)


def fold_norms(nodes: tuple[Node, ...]) -> Folded:
    """The nodes with every norm folded into the weight layer that only it reads."""
    readers = consumers_of(nodes)
    renamed: dict[str, str] = {}
    folded: list[Node] = []
    for node in nodes:
        inputs = tuple(renamed.get(name, name) for name in node.inputs)
        following = [reader for reader, _ in readers[node.name]]
        if isinstance(node.op, Conv | Linear) and len(following) == 1 and isinstance(following[0].op, Norm):
            renamed[following[0].name] = node.name
            folded.append(replace(node, op=fold(node.op, following[0].op), inputs=inputs))
        elif node.name not in renamed:
            folded.append(replace(node, inputs=inputs))
    return Folded(tuple(folded), renamed)


def gains(norm: Norm) -> tuple[Tensor, Tensor]:
    """Scale and shift of a normalisation, each (C,), in float64."""
    scale, shift = norm_affine(norm, torch.ones(1, 1, dtype=torch.float64))
    return scale, shift


def finite(op: Op) -> bool:
    """Whether all the numbers that an operation multiplies with or adds are finite."""
    match op:
        case Conv(weight=weight, bias=bias) | Linear(weight=weight, bias=bias):
            numbers = [weight, bias]
        case Norm():
            numbers = list(gains(op))
        case _:
            return True
    return not any(nonfinite_entries(tensor) for tensor in numbers if tensor is not None)


def fold(op: Conv | Linear, norm: Norm) -> Conv | Linear:
    """The weight layer that does what `op` and then `norm` do."""
    weight, bias = fold_batch_norm(
        op.weight, op.bias, gamma=norm.weight, beta=norm.bias, mean=norm.mean, var=norm.var, eps=norm.eps
    )
    return replace(op, weight=weight, bias=bias)
