"""The L1 path norm: the sum over all paths from inputs to outputs of the product of absolute weights.

Source   Gonon et al. 2023 (arXiv 2310.01225), computed as one forward pass with absolute weights on the all-ones input.
Formula  ||Phi||_1 = sum of outputs; norms folded, biases included, max-pooling replaced by summing over the window.
Scale    Every value is kept with the log of a factor taken out, so that nothing overflows at any depth.
Status   exact for the network that it is given.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from resnet_audit.errors import NoRule
from resnet_audit.graph.execute import apply, constant, norm_affine
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
    Op,
    Pad,
    Permute,
    Pool,
    Scale,
    Slice,
    View,
)
from resnet_audit.linear import one_library_thread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


LARGEST_SCALE = 1e300
"""Stands for infinity in differences of scales, where infinity itself would give NaN."""


@dataclass(frozen=True, slots=True)
class PathNorm:
    """ln of the L1 path norm summed over the outputs, and of the largest one output alone."""

    log_sum: float
    log_max: float


@dataclass(frozen=True, slots=True)
class _Scaled:
    """tensor * exp(log_scale), with the tensor's largest entry 1 (or all of it 0)."""

    tensor: Tensor
    log_scale: float


@one_library_thread()
def path_norm_l1(folded: Sequence[Node]) -> PathNorm:
    """The L1 path norm of a graph whose first node is the input and whose last is the output. Raises NoRule."""
    values: dict[str, _Scaled] = {}
    last_use = {name: index for index, node in enumerate(folded) for name in node.inputs}
    for index, node in enumerate(folded):
        if isinstance(node.op, Input):
            values[node.name] = _Scaled(torch.ones((1, *(node.shape or ())), dtype=torch.float64), 0.0)
        else:
            values[node.name] = _rescaled(_step(node.op, [values[name] for name in node.inputs]))
        for name in node.inputs:
            if last_use[name] == index:
                values.pop(name, None)
    output = values[folded[-1].name]
    return PathNorm(_log(output.tensor.sum()) + output.log_scale, _log(output.tensor.max()) + output.log_scale)


def _step(op: Op, inputs: list[_Scaled]) -> _Scaled:
    first = inputs[0]
    match op:
        case Conv() | Linear():
            linear = replace(op, weight=op.weight.double().abs(), bias=None)
            return _plus_bias(apply(linear, [first.tensor]), first.log_scale, op.bias)
        case Norm():
            scale, shift = norm_affine(op, first.tensor)
            return _plus_bias(first.tensor * scale.abs(), first.log_scale, shift.flatten())
        case Activation(kind="relu"):
            return first
        case Pool(kind="max", kernel=(kh, kw)):
            mean = F.avg_pool2d(first.tensor, (kh, kw), op.stride, op.padding)
            return _Scaled(mean * (kh * kw), first.log_scale)
        case Add() | Concat():
            top = max(value.log_scale for value in inputs)
            return _Scaled(apply(op, [value.tensor * math.exp(value.log_scale - top) for value in inputs]), top)
        case Scale():
            return _Scaled((first.tensor * constant(op, first.tensor)).abs(), first.log_scale)
        case Pool() | Pad() | Slice() | Flatten() | Permute() | View():
            return _Scaled(apply(op, [first.tensor]), first.log_scale)
    raise NoRule(op, "the path norm")


def _plus_bias(value: Tensor, log_scale: float, bias: Tensor | None) -> _Scaled:
    if bias is None:
        return _Scaled(value, log_scale)
    top = max(log_scale, 0.0)
    shaped = bias.double().abs().view(-1, *(1,) * (value.ndim - 2))
    return _Scaled(value * math.exp(log_scale - top) + shaped * math.exp(-top), top)


def _rescaled(value: _Scaled) -> _Scaled:
    """The same value with a largest entry of 1; zeros get the lowest scale, so that they never set that of a sum."""
    top = float(value.tensor.max())
    if top <= 0.0:
        return _Scaled(value.tensor, -LARGEST_SCALE)
    return _Scaled(value.tensor / top, value.log_scale + math.log(top))


def _log(value: Tensor) -> float:
    return math.log(float(value)) if float(value) > 0.0 else -math.inf
