"""Certified Lipschitz constants: how much a part of the network can stretch a difference of inputs.

Source   derived; the rules are those of the covering bound's recursion (theory/covering.py).
Formula  L_v = s_v L_u at weight nodes, sum_j L_j at sums, sqrt(sum_j L_j^2) at concatenations; else c L_u
Guarantee  an upper bound in l2, for every input, with the norms of the zero-padded operators from above.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from resnet_audit.errors import NoRule
from resnet_audit.graph.ir import (
    Activation,
    Add,
    Concat,
    Conv,
    Flatten,
    Input,
    Linear,
    Node,
    Norm,
    Pad,
    Permute,
    Pool,
    Scale,
    Slice,
    View,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


SLOPES = {
    "relu": 1.0,
    "relu6": 1.0,
    "tanh": 1.0,
    "silu": 1.1,
    "gelu": 1.13,
    "gelu_tanh": 1.13,
    "mish": 1.09,
    "hardswish": 1.5,
    "selu": 1.7581,
}
"""Largest slopes, rounded up, of the activations that vanish at 0; the covering bound has no rule for the others."""


def log_constant(node: Node, shapes: Sequence[tuple[int, ...]]) -> float:
    """ln of the Lipschitz constant of an operation without weights. Raises NoRule."""
    op = node.op
    match op:
        case Input() | Pad() | Slice() | Flatten() | Permute() | View():
            return 0.0
        case Activation(kind="leaky_relu", slope=slope):
            return log(max(1.0, abs(slope)))
        case Activation(kind=kind) if kind in SLOPES:
            return math.log(SLOPES[kind])
        case Scale(factor=factor):
            return log(abs(factor) if isinstance(factor, float | int) else float(factor.double().abs().max()))
        case Pool(kind="avg", kernel=None):
            return -0.5 * math.log(math.prod(shapes[0][1:]))
        case Pool(kind="avg", kernel=(kh, kw)):
            # Every window divides by kh kw, padding included, so rows sum to at most 1 and columns to mu / (kh kw).
            return 0.5 * math.log(_overlap(kh, op.stride[0]) * _overlap(kw, op.stride[1]) / (kh * kw))
        case Pool(kind="max", kernel=(kh, kw)):
            return 0.5 * math.log(_overlap(kh, op.stride[0]) * _overlap(kw, op.stride[1]))
    raise NoRule(op, "a Lipschitz constant")


def _overlap(kernel: int, stride: int) -> int:
    """The most windows that cover one entry, along one axis."""
    return -(-kernel // stride)


def log_lipschitz(
    nodes: Sequence[Node], log_norms: Mapping[str, float], start: str, *, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, float]:
    """ln of a Lipschitz bound of every node's value as a function of that at `start`; -inf where it does not depend.

    log_norms: ln of the certified norm of every weight node and every norm that stands alone. Nodes without a rule, and
    all that depend on them, are left out.
    """
    found: dict[str, float] = {start: 0.0}
    broken: set[str] = set()
    for node in nodes:
        if node.name == start:
            continue
        if not broken.isdisjoint(node.inputs):
            broken.add(node.name)
            continue
        terms = [found[name] for name in node.inputs if found.get(name, -math.inf) > -math.inf]
        try:
            found[node.name] = _step(node, terms, log_norms, [shapes[name] for name in node.inputs])
        except NoRule:
            broken.add(node.name)
    return found


def _step(node: Node, terms: list[float], log_norms: Mapping[str, float], shapes: Sequence[tuple[int, ...]]) -> float:
    if not terms:
        return -math.inf
    match node.op:
        case Conv() | Linear() | Norm():
            return terms[0] + log_norms[node.name]
        case Add():
            return float(np.logaddexp.reduce(terms))
        case Concat():
            return 0.5 * float(np.logaddexp.reduce([2 * term for term in terms]))
        case _:
            return terms[0] + log_constant(node, shapes)


def log(value: float) -> float:
    """ln, with ln 0 = -inf: a zero weight drops its layer from every sum."""
    return math.log(value) if value > 0 else -math.inf
