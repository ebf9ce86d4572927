"""Running a graph forward: the value of every node that somebody asked for.

Parameters are cast to the dtype of the input, so that one graph runs in float32 and float64. Autograd works through it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from resnet_audit.errors import NoRule
from resnet_audit.graph.ir import (
    Activation,
    AdaptivePool,
    Add,
    Concat,
    Conv,
    Flatten,
    Linear,
    Multiply,
    Node,
    Norm,
    Op,
    Opaque,
    Pad,
    Permute,
    Pool,
    Scale,
    Slice,
    View,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    Visit = Callable[[Node, list[Tensor], Tensor], None]


def run(nodes: Sequence[Node], known: Mapping[str, Tensor], output: str, visit: Visit | None = None) -> Tensor:
    """The value of `output`, given the values in `known` (each (N, ...)), with evaluation-mode semantics.

    Only what `output` needs and `known` does not give is computed, and a value is dropped after its last use.
    `visit(node, inputs, value)` sees every computed value once. Raises NoRule for an operation that cannot run.
    """
    plan = _needed(nodes, known, output)
    uses = {name: 0 for node in plan for name in (node.name, *node.inputs)}
    for node in plan:
        for name in node.inputs:
            uses[name] += 1
    values = {name: value for name, value in known.items() if name in uses or name == output}
    for node in plan:
        inputs = [values[name] for name in node.inputs]
        value = apply(node.op, inputs)
        values[node.name] = value
        if visit is not None:
            visit(node, inputs, value)
        for name in node.inputs:
            uses[name] -= 1
            if uses[name] == 0 and name != output:
                values.pop(name, None)
    return values[output]


def apply(op: Op, inputs: list[Tensor]) -> Tensor:
    """The value of one operation. Raises NoRule for an operation without one."""
    match op, inputs:
        case Conv(), [x]:
            weight, bias = like(op.weight, x), None if op.bias is None else like(op.bias, x)
            return F.conv2d(x, weight, bias, op.stride, op.padding, op.dilation, op.groups)
        case Linear(), [x]:
            return F.linear(x, like(op.weight, x), None if op.bias is None else like(op.bias, x))
        case Norm(), [x]:
            scale, shift = norm_affine(op, x)
            return torch.addcmul(shift, x, scale)
        case Activation(), [x]:
            return activate(op, x)
        case Pool(kernel=None), [x]:
            return x.mean((-2, -1), keepdim=True)
        case Pool(kind="max", kernel=(int(), int()) as kernel), [x]:
            return F.max_pool2d(x, kernel, op.stride, op.padding, op.dilation, op.ceil)
        case Pool(kind="avg", kernel=(int(), int()) as kernel), [x]:
            return F.avg_pool2d(x, kernel, op.stride, op.padding, op.ceil, op.count_padding)
        case AdaptivePool(), [x]:
            return F.adaptive_avg_pool2d(x, op.cells)
        case Add(), [first, *others]:
            return sum(others, first)
        case Concat(), _:
            return torch.cat(inputs, dim=1)
        case Multiply(), [first, *others]:
            for other in others:
                first = first * other
            return first
        case Scale(), [x]:
            return x * constant(op, x)
        case Pad(), [x]:
            return F.pad(x, (0, 0, 0, 0, op.before, op.after))
        case Slice(), [x]:
            return x[:, :, :: op.step[0], :: op.step[1]]
        case Flatten(), [x]:
            return x.flatten(1)
        case Permute(), [x]:
            return x.permute(op.dims)
        case View(), [x]:
            return x.reshape(-1, *op.shape)
        case Opaque(function=function), _ if function is not None:
            return function(*inputs)
    raise NoRule(op, "the value")


def activate(op: Activation, x: Tensor) -> Tensor:
    """The value of an activation."""
    match op.kind:
        case "leaky_relu":
            return F.leaky_relu(x, op.slope)
        case "prelu":
            return F.prelu(x, x.new_zeros(1) if op.slopes is None else like(op.slopes, x))
        case "elu":
            return F.elu(x, op.slope)
        case "gelu_tanh":
            return F.gelu(x, approximate="tanh")
        case "tanh":
            return torch.tanh(x)
        case "sigmoid":
            return torch.sigmoid(x)
        case kind:
            value: Tensor = getattr(F, kind)(x)
            return value


def constant(op: Scale, x: Tensor) -> float | Tensor:
    """The factor, a tensor in the dtype and on the device of `x`."""
    return op.factor if isinstance(op.factor, float | int) else like(op.factor, x)


def norm_affine(op: Norm, x: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift of a normalisation, each (C, 1, ..., 1) so that it broadcasts over `x`, in the dtype of `x`."""
    inverse = torch.rsqrt(op.var.double() + op.eps)
    scale = inverse if op.weight is None else inverse * op.weight.double()
    shift = -op.mean.double() * scale if op.bias is None else op.bias.double() - op.mean.double() * scale
    shape = (-1, *(1,) * (x.ndim - 2))
    return like(scale, x).view(shape), like(shift, x).view(shape)


def like(tensor: Tensor, x: Tensor) -> Tensor:
    """`tensor` in the dtype and on the device of `x`; itself where it already is."""
    return tensor.to(dtype=x.dtype, device=x.device)


def _needed(nodes: Sequence[Node], known: Mapping[str, Tensor], output: str) -> list[Node]:
    wanted = {output} - known.keys()
    plan = []
    for node in reversed(nodes):
        if node.name in wanted:
            plan.append(node)
            wanted.update(name for name in node.inputs if name not in known)
    return plan[::-1]
