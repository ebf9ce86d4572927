"""ONNX operators in terms of our operations: one rule for each family of operators.

A rule gives what the operator computes, or None where it cannot be said; then the operator is opaque. What a rule gives
is tried on shapes before it is believed. Constants that are added or multiplied are in the graph as what they do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from resnet_audit.graph.ir import (
    Activation,
    Add,
    Linear,
    Multiply,
    Node,
    Op,
    Opaque,
    Scale,
)
from resnet_audit.graph.onnx_values import Constant, Live, Value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Step:
    """One ONNX node, its inputs looked up. sole(name): the node of that name, if nothing but this step reads it.

    batch: the batch size that is written into the file; None if it is left open.
    """

    kind: str
    inputs: tuple[Value | None, ...]
    attributes: Mapping[str, Any]
    opset: int
    batch: int | None
    sole: Callable[[str], Node | None]
    node: Callable[[str], Node]

    @property
    def live(self) -> tuple[Live, ...]:
        """The live inputs in order."""
        return tuple(value for value in self.inputs if isinstance(value, Live))

    @property
    def x(self) -> Live | None:
        """The first input if it is live, and all others are constants."""
        first = self.inputs[0] if self.inputs else None
        alone = all(value is None or isinstance(value, Constant) for value in self.inputs[1:])
        return first if isinstance(first, Live) and alone else None

    def constant(self, index: int) -> Constant | None:
        """The input at `index` if it is a constant."""
        value = self.inputs[index] if index < len(self.inputs) else None
        return value if isinstance(value, Constant) else None

    def numbers(self, name: str, index: int) -> tuple[int, ...] | None:
        """Whole numbers that old versions of an operator have as an attribute, and new ones as an input."""
        if name in self.attributes:
            return tuple(self.attributes[name])
        found = self.constant(index)
        return None if found is None else found.ints

    def number(self, name: str, index: int, default: float) -> float | None:
        """One number that is an attribute in old versions and an input in new ones; None if it is live."""
        if name in self.attributes:
            return float(self.attributes[name])
        if index >= len(self.inputs) or self.inputs[index] is None:
            return default
        found = self.constant(index)
        return float(found.array.reshape(-1)[0]) if found is not None and found.array.size == 1 else None


@dataclass(frozen=True, slots=True)
class Found:
    """What a step computes: `ops` one after the other. layer: its name if it has weights.

    replaces: the node that it takes the place of, having taken it in. note: what was assumed, in words.
    """

    ops: tuple[Op, ...]
    inputs: tuple[str, ...]
    layer: str | None = None
    replaces: str | None = None
    note: str | None = None


def opaque(step: Step, name: str, function: Callable[..., Tensor], weights: tuple[Tensor, ...] = ()) -> Found:
    """An operation known by its function of the step's inputs; its constants are bound."""
    bound = [value.tensor if isinstance(value, Constant) else None for value in step.inputs]

    def value(*live: Tensor) -> Tensor:
        given = iter(live)
        return function(*(next(given) if held is None else _like(held, live[0]) for held in bound))

    return Found((Opaque(name=name, function=value, weights=weights),), tuple(value.node for value in step.live))


def _like(held: Tensor, x: Tensor) -> Tensor:
    dtype = x.dtype if held.is_floating_point() and x.is_floating_point() else held.dtype
    return held.to(dtype=dtype, device=x.device)


def plain(step: Step, *ops: Op) -> Found | None:
    """The operations applied to the only live input of the step; None if it has several."""
    return None if step.x is None else Found(ops, (step.x.node,))


# elementwise ----------------------------------------------------------------------------------------------------------


def activation(step: Step) -> Found | None:
    """An activation with the parameters that ours have, or a function."""
    get = step.attributes.get
    match step.kind:
        case "Relu" | "Tanh" | "Sigmoid" | "Softplus" | "Mish" | "HardSwish":
            return plain(step, Activation(kind=step.kind.lower()))  # type: ignore[arg-type]  # one of the kinds
        case "LeakyRelu":
            return plain(step, Activation(kind="leaky_relu", slope=get("alpha", 0.01)))
        case "Elu":
            return plain(step, Activation(kind="elu", slope=get("alpha", 1.0)))
        case "Selu" if abs(get("alpha", 1.6732632) - 1.6732632) + abs(get("gamma", 1.0507010) - 1.0507010) < 1e-5:
            return plain(step, Activation(kind="selu"))
        case "Gelu":
            return plain(step, Activation(kind="gelu_tanh" if get("approximate", "none") == "tanh" else "gelu"))
        case "Swish" if get("alpha", 1.0) == 1.0:
            return plain(step, Activation(kind="silu"))
        case "HardSigmoid":
            alpha, beta = get("alpha", 0.2), get("beta", 0.5)
            if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
                return plain(step, Activation(kind="hardsigmoid"))
            return opaque(step, "hardsigmoid", lambda x: (alpha * x + beta).clamp(0.0, 1.0))
    return None


def clip(step: Step) -> Found | None:
    """ReLU, ReLU6 or clamping."""
    low = step.number("min", 1, -math.inf)
    high = step.number("max", 2, math.inf)
    if step.x is None or low is None or high is None:
        return None
    if low == 0.0 and high in {6.0, math.inf} | ({high} if high > 1e38 else set()):
        return plain(step, Activation(kind="relu6" if high == 6.0 else "relu"))
    return Found((Opaque(name="clamp", function=lambda x: x.clamp(low, high)),), (step.x.node,))


def prelu(step: Step) -> Found | None:
    """A leaky ReLU with a slope of its own, or one for each channel."""
    slope = step.constant(1)
    if step.x is None or slope is None:
        return None
    first = float(slope.array.reshape(-1)[0]) if slope.array.size else 0.0
    if (slope.array == first).all():
        return plain(step, Activation(kind="leaky_relu", slope=first))
    if _per_channel(slope.array.shape, step.x.shape):
        return plain(step, Activation(kind="prelu", slopes=slope.tensor.flatten()))
    return opaque(step, "prelu", lambda x, a: torch.where(x < 0, a * x, x))


def _per_channel(sizes: tuple[int, ...], shape: tuple[int, ...] | None) -> bool:
    """Whether a constant of `sizes` holds one number for each channel of values (N, *shape): (C, 1, ..., 1)."""
    if not shape:
        return False
    wanted = (shape[0], *(1,) * (len(shape) - 1))
    return sizes in {wanted, (1, *wanted)}


def where(step: Step) -> Found | None:
    """The softplus as some exporters write it: x itself above a threshold."""
    if len(step.live) != 3 or len(step.inputs) != 3:
        return None
    condition, above, below = step.live
    test = step.node(condition.node)
    same = test.inputs == (above.node,) and isinstance(test.op, Opaque) and test.op.name == "Greater"
    if same and _is_softplus(step.node(below.node), above.node):
        return Found((Activation(kind="softplus"),), (above.node,))
    return None


def unary(step: Step) -> Found | None:
    """A function of each entry."""
    return opaque(step, *UNARY[step.kind]) if len(step.live) == len(step.inputs) == 1 else None


UNARY: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "Sqrt": ("sqrt", torch.sqrt),
    "Exp": ("exp", torch.exp),
    "Log": ("log", torch.log),
    "Abs": ("abs", torch.abs),
    "Erf": ("erf", torch.erf),
    "Sin": ("sin", torch.sin),
    "Cos": ("cos", torch.cos),
    "Reciprocal": ("reciprocal", torch.reciprocal),
    "Softsign": ("softsign", F.softsign),
}


def legacy_broadcast(step: Step) -> Step:
    """The step with the constant shaped as operators before version 7 align it, by their attribute `axis`."""
    rank, other = step.live[0].rank if step.live else None, step.constant(1)
    axis = step.attributes.get("axis")
    if step.opset >= 7 or rank is None or other is None or axis is None or not 0 <= axis < rank:
        return step
    shape = (*other.array.shape, *(1,) * (rank - axis - other.array.ndim))
    moved = Constant(other.array.reshape(shape), other.origin)
    return replace(step, inputs=(step.inputs[0], moved))


def _spreads(step: Step) -> bool:
    """Whether the live inputs differ in shape, as far as is known."""
    return len({value.shape for value in step.live if value.shape is not None}) > 1


def add(step: Step) -> Found | None:
    """A sum: of live values, or a bias taken into the layer before it, or a shift by a constant."""
    step = legacy_broadcast(step)
    live = step.live
    if len(live) == len(step.inputs):
        if _spreads(step):
            return opaque(step, "add", lambda first, *others: sum(others, first))
        return Found((Add(),), tuple(value.node for value in live))
    constants = [value for value in step.inputs if isinstance(value, Constant)]
    if len(live) != 1 or len(constants) != 1:
        return None
    if constants[0].array.size == 1 and not constants[0].array.any():
        return Found((), (live[0].node,))
    return _bias(step, live[0], constants[0]) or opaque(step, "add_constant", torch.add)


def _bias(step: Step, x: Live, shift: Constant) -> Found | None:
    """The linear layer before an added vector, with that vector as its bias."""
    before = step.sole(x.node)
    if before is None or not isinstance(before.op, Linear) or before.op.bias is not None:
        return None
    if shift.array.size != before.op.weight.shape[0] or shift.array.shape[-1:] != (shift.array.size,):
        return None
    op = Linear(weight=before.op.weight, bias=shift.tensor.reshape(-1))
    return Found((op,), before.inputs, layer=before.name, replaces=before.name)


def multiply(step: Step) -> Found | None:
    """A product: of live values, or with a constant; x times a gate of x is the activation that it makes."""
    step = legacy_broadcast(step)
    live = step.live
    if len(live) == len(step.inputs) == 2:
        return _gated(step, live[0], live[1]) or _gated(step, live[1], live[0]) or _product(step)
    factor = next((value for value in step.inputs if isinstance(value, Constant)), None)
    if len(live) != 1 or len(step.inputs) != 2 or factor is None:
        return None
    return scaled(step, live[0], factor.tensor)


def _product(step: Step) -> Found:
    if len({value.rank for value in step.live}) > 1:
        return opaque(step, "mul", torch.mul)
    return Found((Multiply(),), tuple(value.node for value in step.live))


def scaled(step: Step, x: Live, factor: Tensor) -> Found | None:
    """The product of `x` with a constant; two numbers one after the other become one."""
    if factor.numel() != 1:
        return Found((Scale(factor=factor),), (x.node,)) if x.rank is None or factor.ndim <= x.rank else None
    number = float(factor.reshape(()))
    before = step.sole(x.node)
    if before is not None and isinstance(before.op, Scale) and isinstance(before.op.factor, float):
        number, inputs = number * before.op.factor, before.inputs
        ops = () if abs(number - 1.0) < 1e-6 else (Scale(factor=number),)
        return Found(ops, inputs, replaces=None if ops else before.name)
    return Found((Scale(factor=number),), (x.node,))


def _gated(step: Step, x: Live, gate: Live) -> Found | None:
    """x * gate(x) as one activation: silu, hardswish, mish, or twice the gelu."""
    last = step.sole(gate.node)
    if last is None:
        return None
    match last.op:
        case Activation(kind="sigmoid") if last.inputs == (x.node,):
            return Found((Activation(kind="silu"),), (x.node,))
        case Activation(kind="hardsigmoid") if last.inputs == (x.node,):
            return Found((Activation(kind="hardswish"),), (x.node,))
        case Activation(kind="tanh") if _is_softplus(step.node(last.inputs[0]), x.node):
            return Found((Activation(kind="mish"),), (x.node,))
        case Opaque(name="add_constant"):
            return _gelu(step, x, last)
    return None


def _is_softplus(node: Node, source: str) -> bool:
    return isinstance(node.op, Activation) and node.op.kind == "softplus" and node.inputs == (source,)


def _gelu(step: Step, x: Live, shifted: Node) -> Found | None:
    """The gelu written out: x * (1 + erf(x / sqrt 2)), halved before or after."""
    erf = step.node(shifted.inputs[0])
    inner = step.node(erf.inputs[0]) if isinstance(erf.op, Opaque) and erf.op.name == "erf" else None
    if inner is None or not isinstance(inner.op, Scale) or not isinstance(inner.op.factor, float):
        return None
    zero = torch.zeros(1)
    one = shifted.op.function(zero) if isinstance(shifted.op, Opaque) and shifted.op.function is not None else zero
    if abs(inner.op.factor - math.sqrt(0.5)) > 1e-4 or one.numel() != 1 or float(one) != 1.0:
        return None
    if inner.inputs == (x.node,):
        return Found((Activation(kind="gelu"), Scale(factor=2.0)), (x.node,))
    half = step.node(x.node)
    if isinstance(half.op, Scale) and half.op.factor == 0.5 and half.inputs == inner.inputs:
        return Found((Activation(kind="gelu"),), half.inputs)
    return None


def divide(step: Step) -> Found | None:
    """A quotient; by a constant it is a product."""
    step = legacy_broadcast(step)
    divisor = step.constant(1)
    if step.x is not None and divisor is not None:
        return scaled(step, step.x, 1.0 / divisor.tensor.to(torch.float64).to(torch.float32))
    return opaque(step, "div", torch.div)


def binary(step: Step) -> Found | None:
    """A difference, power, extremum or comparison-free function of two values, constants included."""
    if step.kind == "Neg" and step.x is not None:
        return Found((Scale(factor=-1.0),), (step.x.node,))
    step = legacy_broadcast(step)
    functions: dict[str, tuple[str, Callable[..., Any]]] = {
        "Sub": ("sub", torch.sub),
        "Pow": ("pow", torch.pow),
        "Min": ("minimum", torch.minimum),
        "Max": ("maximum", torch.maximum),
    }
    return opaque(step, *functions[step.kind]) if len(step.inputs) == 2 else None
