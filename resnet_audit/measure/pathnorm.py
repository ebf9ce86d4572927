"""Path norms: over all paths from inputs, or from biases, to outputs, the L^q norm of the products of weights.

Source   Gonon et al. 2023 (arXiv 2310.01225), computed as one forward pass with absolute weights on the all-ones input.
Formula  ||Phi||_q = (sum over paths of |product of weights|^q)^(1/q): weights, biases and the weights of average pools
         enter as |w|^q, the root is taken of the sum of the outputs; norms folded, biases included.
         A max-pool counts every entry of its window; a leaky or parametric ReLU of slope a counts max(1, |a|)^q.
Scale    Every value is kept with the log of a factor taken out, so that nothing overflows at any depth.
Status   exact for the network that it is given; from above where a leaky or parametric ReLU has a slope beyond 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from resnet_audit.errors import NoRule
from resnet_audit.graph.averages import averages
from resnet_audit.graph.execute import apply, constant, norm_affine
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
from resnet_audit.linear import one_library_thread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


LARGEST_SCALE = 1e300
"""Stands for infinity in differences of scales, where infinity itself would give NaN."""


@dataclass(frozen=True, slots=True)
class PathNorm:
    """ln of the path norm over all outputs, and of the largest one of a single output."""

    log_sum: float
    log_max: float


@dataclass(frozen=True, slots=True)
class _Scaled:
    """tensor * exp(log_scale); at nodes with the tensor's largest entry 1 (or all of it 0)."""

    tensor: Tensor
    log_scale: float


@one_library_thread()
def path_norm(folded: Sequence[Node], power: float = 1.0, *, keep_pools: bool = False) -> PathNorm:
    """The L^power path norm of a graph whose first node is the input and whose last is the output. Raises NoRule.

    keep_pools: pools act as they do in the network, maxima as maxima and means as means. Without biases and at power 1
    that bounds the Lipschitz constant from l_inf to l_1; at power 2 it is the root of the measure PATH_NORM.
    """
    values: dict[str, _Scaled] = {}
    last_use = {name: index for index, node in enumerate(folded) for name in node.inputs}
    for index, node in enumerate(folded):
        if isinstance(node.op, Input):
            values[node.name] = _Scaled(torch.ones((1, *(node.shape or ())), dtype=torch.float64), 0.0)
        else:
            given = [values[name] for name in node.inputs]
            values[node.name] = _rescaled(_step(node.op, given, power, keep_pools=keep_pools))
        for name in node.inputs:
            if last_use[name] == index:
                values.pop(name, None)
    output = values[folded[-1].name]
    return PathNorm(
        (_log(output.tensor.sum()) + output.log_scale) / power, (_log(output.tensor.max()) + output.log_scale) / power
    )


def _step(op: Op, inputs: list[_Scaled], power: float, *, keep_pools: bool) -> _Scaled:
    first = inputs[0]
    match op:
        case Conv() | Linear():
            weight = _raised(op.weight, power)
            value = apply(replace(op, weight=weight.tensor, bias=None), [first.tensor])
            outputs = _Scaled(value, first.log_scale + weight.log_scale)
            if op.bias is None:
                return outputs
            bias = op.bias if isinstance(op, Linear) else _per_channel(op.bias, value)
            return _plus_bias(outputs, bias, power)
        case Norm():
            scale, shift = norm_affine(op, first.tensor)
            return _plus_bias(_times(first, scale, power), shift, power)
        case Activation(kind="relu"):
            return first
        case Activation(kind="leaky_relu", slope=slope):
            return _Scaled(first.tensor, first.log_scale + power * math.log(max(1.0, abs(slope))))
        case Activation(kind="prelu", slopes=slopes) if slopes is not None:
            return _times(first, _per_channel(slopes.double().abs().clamp(min=1.0), first.tensor), power)
        case Pool() | AdaptivePool() if keep_pools:
            return _Scaled(apply(op, [first.tensor]), first.log_scale)
        case Pool(kind="max", kernel=(int(), int()) as kernel):
            return _Scaled(_window_sums(op, kernel, first.tensor), first.log_scale)
        case Pool() | AdaptivePool():
            rows, columns = (matrix.pow(power) for matrix in averages(op, _map_size(first.tensor)))
            return _Scaled(rows @ first.tensor @ columns.T, first.log_scale)
        case Add() | Concat():
            tensors, top = _aligned(inputs)
            return _Scaled(apply(op, tensors), top)
        case Scale():
            factor = constant(op, first.tensor)
            return _times(first, torch.as_tensor(factor, dtype=torch.float64), power)
        case Pad() | Slice() | Flatten() | Permute() | View():
            return _Scaled(apply(op, [first.tensor]), first.log_scale)
    raise NoRule(op, "the path norm")


def _raised(tensor: Tensor, power: float) -> _Scaled:
    """|tensor|^power, in float64; the largest entry is taken out first, so that no power overflows."""
    values = tensor.double().abs()
    top = float(values.max()) if values.numel() else 0.0
    if top == 0.0:
        return _Scaled(values, -LARGEST_SCALE)
    return _Scaled((values / top).pow(power), power * math.log(top))


def _times(value: _Scaled, factor: Tensor, power: float) -> _Scaled:
    raised = _raised(factor, power)
    return _Scaled(value.tensor * raised.tensor, value.log_scale + raised.log_scale)


def _per_channel(numbers: Tensor, value: Tensor) -> Tensor:
    """Numbers (C,) in the shape that broadcasts over the channels of a value (N, C, ...)."""
    return numbers.view(-1, *(1,) * (value.ndim - 2))


def _plus_bias(value: _Scaled, bias: Tensor, power: float) -> _Scaled:
    (left, right), top = _aligned([_rescaled(value), _raised(bias, power)])
    return _Scaled(left + right, top)


def _aligned(values: Sequence[_Scaled]) -> tuple[list[Tensor], float]:
    """The tensors under one common scale, which is the largest."""
    top = max(value.log_scale for value in values)
    return [value.tensor * math.exp(value.log_scale - top) for value in values], top


def _window_sums(op: Pool, kernel: tuple[int, int], x: Tensor) -> Tensor:
    """The sum over each window of the pool in place of its maximum; what lies outside of the map counts 0."""
    outputs = apply(op, [x]).shape[-2:]
    # Windows that reach beyond the padding (ceil mode) need more zeros at the end than at the start.
    ends = [
        max(0, (n - 1) * stride + (k - 1) * d + 1 - side - pad)
        for n, k, d, stride, pad, side in zip(
            outputs, kernel, op.dilation, op.stride, op.padding, x.shape[-2:], strict=True
        )
    ]
    top, left = op.padding
    maps = F.pad(x, (left, ends[1], top, ends[0])).flatten(0, 1)[:, None]
    ones = torch.ones(1, 1, *kernel, dtype=x.dtype)
    sums = F.conv2d(maps, ones, None, op.stride, 0, op.dilation)[..., : outputs[0], : outputs[1]]
    return sums.reshape(*x.shape[:-2], *outputs)


def _map_size(x: Tensor) -> tuple[int, int]:
    return x.shape[-2], x.shape[-1]


def _rescaled(value: _Scaled) -> _Scaled:
    """The same value with a largest entry of 1; zeros get the lowest scale, so that they never set that of a sum."""
    top = float(value.tensor.max())
    if top <= 0.0:
        return _Scaled(value.tensor, -LARGEST_SCALE)
    return _Scaled(value.tensor / top, value.log_scale + math.log(top))


def _log(value: Tensor) -> float:
    return math.log(float(value)) if float(value) > 0.0 else -math.inf
