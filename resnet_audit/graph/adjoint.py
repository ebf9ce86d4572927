"""The adjoint of one operation at recorded values: how a cotangent passes from its output to its inputs.

Every operation of a network in evaluation mode is linear once the masks and switches of its nonlinearities are known.
So one forward pass records, per node, the little that its adjoint needs (`save`), and afterwards any number of
cotangents pass at once: a cotangent has shape (K, N, ...), K coefficients over the same N samples. Only gradients with
respect to inputs are ever formed, never those with respect to weights.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from resnet_audit.errors import NoRule
from resnet_audit.graph.execute import like, norm_affine
from resnet_audit.graph.ir import (
    Activation,
    Add,
    Concat,
    Conv,
    Flatten,
    Linear,
    Node,
    Norm,
    Op,
    Pad,
    Pool,
    Scale,
    Slice,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def save(op: Op, inputs: list[Tensor]) -> Tensor | None:
    """What the adjoint of `op` needs from the forward pass: a mask, switches, or nothing for a linear operation."""
    match op, inputs:
        case Activation(kind="relu"), [x]:
            # At exactly 0 the subgradient is 0, as in autograd.
            return x > 0
        case Pool(kind="max", kernel=(int(), int()) as kernel), [x]:
            return F.max_pool2d(x, kernel, op.stride, op.padding, return_indices=True)[1]
    return None


def adjoint(node: Node, saved: Tensor | None, cotangent: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Cotangents at the inputs of `node`, one each, for the cotangent (K, N, *node.shape) at its output.

    `shapes` are those of the inputs without batch. Raises NoRule for an operation without an adjoint here.
    """
    op = node.op
    match op:
        case Add():
            return [cotangent] * len(node.inputs)
        case Concat():
            return list(torch.split(cotangent, [shape[0] for shape in shapes], dim=2))
        case Norm():
            return [cotangent * norm_affine(op, cotangent[0])[0]]
        case Scale():
            return [cotangent * op.factor]
        case Activation():
            if saved is None:
                raise NoRule(op, "the adjoint without a recorded mask")
            return [cotangent * saved]
        case Flatten():
            return [cotangent.reshape(*cotangent.shape[:2], *shapes[0])]
        case Linear():
            return [cotangent @ like(op.weight, cotangent)]
        case Pad():
            return [cotangent.narrow(2, op.before, shapes[0][0])]
        case _:
            folded = cotangent.flatten(0, 1)
            return [_spatial(op, saved, folded, shapes[0]).view(*cotangent.shape[:2], *shapes[0])]


def _spatial(op: Op, saved: Tensor | None, cotangent: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Adjoint of an operation on maps; cotangent: (M, C, H, W) with M = K * N, result: (M, *shape)."""
    size = (cotangent.shape[0], *shape)
    match op:
        case Conv():
            return _transposed(cotangent, op, size)
        case Slice():
            spread = torch.empty(size, dtype=cotangent.dtype, memory_format=torch.channels_last).zero_()
            spread[:, :, :: op.step[0], :: op.step[1]] = cotangent
            return spread
        case Pool(kernel=None):
            return (cotangent / math.prod(shape[1:])).expand(size)
        case Pool(kind="avg", kernel=(kh, kw)):
            # An average is a depthwise convolution with equal weights.
            weight = cotangent.new_full((shape[0], 1, kh, kw), 1.0 / (kh * kw))
            mean = Conv(weight=weight, bias=None, stride=op.stride, padding=op.padding, groups=shape[0])
            return _transposed(cotangent, mean, size)
        case Pool(kind="max") if saved is not None:
            copies = cotangent.shape[0] // saved.shape[0]
            switches = saved.repeat(copies, 1, 1, 1).flatten(2)
            flat = cotangent.new_zeros(*size[:2], math.prod(shape[1:]))
            return flat.scatter_add_(2, switches, cotangent.flatten(2)).view(size)
    raise NoRule(op, "the adjoint")


def _transposed(cotangent: Tensor, op: Conv, size: tuple[int, ...]) -> Tensor:
    """The transposed convolution, whose result has the `size` that the convolution read."""
    kernel, outputs = op.weight.shape[2:], cotangent.shape[2:]
    # Rows and columns at the end that no window of a strided convolution reached.
    missed = [
        size[2 + axis]
        - ((outputs[axis] - 1) * op.stride[axis] - 2 * op.padding[axis] + op.dilation[axis] * (kernel[axis] - 1) + 1)
        for axis in (0, 1)
    ]
    weight = like(op.weight, cotangent)
    return F.conv_transpose2d(cotangent, weight, None, op.stride, op.padding, missed, op.groups, op.dilation)
