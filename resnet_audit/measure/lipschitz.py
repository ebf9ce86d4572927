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
from resnet_audit.graph.averages import averages
from resnet_audit.graph.ir import (
    Activation,
    AdaptivePool,
    Add,
    Concat,
    Conv,
    Flatten,
    Input,
    Linear,
    Node,
    Norm,
    Op,
    Pad,
    Permute,
    Pool,
    Scale,
    Slice,
    View,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

SLOPES: dict[str, float] = {
    "relu": 1.0,
    "relu6": 1.0,
    "tanh": 1.0,
    "sigmoid": 1.0 / 4.0,
    "hardsigmoid": 1.0 / 6.0,
    "softplus": 1.0,
    "selu": 1.7581,
    "gelu": 1.129,
    "gelu_tanh": 1.129,
    "silu": 1.0999,
    "mish": 1.0886,
    "hardswish": 1.5,
}
"""Largest absolute slopes rho of the activations without parameters, exact or rounded up.

Derived: sigmoid' = s (1 - s) is at most 1/4; hard sigmoid is relu6(x + 3) / 6; softplus' is the sigmoid; selu' left
of 0 is scale * alpha * exp(x), below 1.05071 * 1.67327; gelu' = Phi(x) + x phi(x) is largest at sqrt 2, 1.128905;
gelu_tanh' 1.128994 at 1.4185; silu' 1.099840 at 2.3994; mish' 1.088499 at 1.4906; hardswish' = (2x + 3) / 6 is largest
at 3. Theory note `bound`, 1.3, has the same constants.
"""

VALUES_AT_ZERO = {"sigmoid": 0.5, "hardsigmoid": 0.5, "softplus": math.log(2.0)}
"""|sigma(0)| of the activations that do not vanish at 0."""


def log_constant(node: Node, shapes: Sequence[tuple[int, ...]]) -> float:
    """ln of the Lipschitz constant of an operation without weights. Raises NoRule.

    shapes: those of its inputs, without the batch. The slopes of a PReLU are parameters; for the covering they are part
    of a fixed nonlinearity and no factor, so a bound with them takes them as known before the data were.
    """
    op = node.op
    match op:
        case Input() | Pad() | Slice() | Flatten() | Permute() | View():
            return 0.0
        case Activation(kind="leaky_relu" | "elu", slope=slope):
            return log(max(1.0, abs(slope)))
        case Activation(kind="prelu", slopes=slopes) if slopes is not None:
            return log(max(1.0, float(slopes.double().abs().max())))
        case Activation(kind=kind) if kind in SLOPES:
            return math.log(SLOPES[kind])
        case Scale(factor=factor):
            return log(abs(factor) if isinstance(factor, float | int) else float(factor.double().abs().max()))
        case Pool(kind="avg", kernel=None):
            return -0.5 * math.log(math.prod(shapes[0][1:]))
        case AdaptivePool() | Pool(kind="avg"):
            return sum(log_schur(matrix) for matrix in averages(op, (shapes[0][1], shapes[0][2])))
        case Pool(kind="max", kernel=(int(), int()) as kernel):
            return 0.5 * sum(math.log(_overlap(*axis)) for axis in zip(kernel, op.stride, op.dilation, strict=True))
    raise NoRule(op, "a Lipschitz constant")


def log_schur(matrix: Tensor) -> float:
    """ln of sqrt(largest row sum * largest column sum) of the absolute entries, at least the l2 norm (Schur's test)."""
    entries = matrix.abs()
    return 0.5 * (log(float(entries.sum(1).max())) + log(float(entries.sum(0).max())))


def _overlap(kernel: int, stride: int, dilation: int) -> int:
    """The most windows that cover one entry, along one axis: ceil(k gcd(d, t) / t).

    Derived: window i reads x with tap a if i t + d a = x + p, which fixes a modulo t / gcd(d, t).
    """
    return -(-kernel * math.gcd(dilation, stride) // stride)


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


def at_zero(op: Op) -> float:
    """|sigma(0)| of an activation; 0 for every other operation.

    It enters magnitudes only: B_v = rho B_u + |sigma(0)| sqrt(N dim_v); differences of inputs do not see it.
    """
    return VALUES_AT_ZERO.get(op.kind, 0.0) if isinstance(op, Activation) else 0.0


def log(value: float) -> float:
    """ln, with ln 0 = -inf: a zero weight drops its layer from every sum."""
    return math.log(value) if value > 0 else -math.inf
