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
from torch import Tensor
from torch.nn import functional as F

from resnet_audit.errors import NoRule
from resnet_audit.graph.averages import averages
from resnet_audit.graph.execute import activate, constant, like, norm_affine
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
    from collections.abc import Sequence


Saved = tuple[Tensor, ...]


def save(op: Op, inputs: list[Tensor]) -> Saved:
    """What the adjoint of `op` needs from the forward pass, each with the batch first: masks, switches, factors."""
    match op, inputs:
        case Activation(kind="relu"), [x]:
            # At exactly 0 the subgradient is 0, as in autograd.
            return (x > 0,)
        case Activation(), [x]:
            return (_slope(op, x),)
        case Pool(kind="max", kernel=(int(), int()) as kernel), [x]:
            return (F.max_pool2d(x, kernel, op.stride, op.padding, op.dilation, op.ceil, return_indices=True)[1],)
        case ((Multiply() | Opaque()), _):
            return tuple(inputs)
    return ()


def _slope(op: Activation, x: Tensor) -> Tensor:
    """The derivative of an activation at every entry of `x`."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(activate(op, leaf).sum(), leaf)
    return slope


def adjoint(node: Node, saved: Saved, cotangent: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
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
            return [cotangent * constant(op, cotangent)]
        case Activation() if saved:
            return [cotangent * saved[0]]
        case Multiply():
            return [_but(saved, index, cotangent) for index in range(len(saved))]
        case Flatten() | View():
            return [cotangent.reshape(*cotangent.shape[:2], *shapes[0])]
        case Permute():
            back = sorted(range(len(op.dims)), key=op.dims.__getitem__)
            return [cotangent.permute(0, *(axis + 1 for axis in back))]
        case Linear():
            return [cotangent @ like(op.weight, cotangent)]
        case Pad():
            return [cotangent.narrow(2, op.before, shapes[0][0])]
        case Opaque():
            return _by_autograd(op, saved, cotangent)
        case _:
            folded = cotangent.flatten(0, 1)
            found = _spatial(op, saved, folded, shapes[0])
            return [found.view(*cotangent.shape[:2], *shapes[0])]


def _but(factors: Saved, index: int, cotangent: Tensor) -> Tensor:
    """The cotangent of one factor of a product: times the others, summed where that factor was broadcast."""
    for position, factor in enumerate(factors):
        if position != index:
            cotangent = cotangent * factor
    shape = factors[index].shape[1:]
    spread = [2 + axis for axis, size in enumerate(shape) if size == 1 and cotangent.shape[2 + axis] > 1]
    return cotangent.sum(spread, keepdim=True) if spread else cotangent


def _by_autograd(op: Opaque, saved: Saved, cotangent: Tensor) -> list[Tensor]:
    """The adjoint of an operation known only as a function: one backward pass of it for each coefficient."""
    if op.function is None:
        raise NoRule(op, "the adjoint")
    found = [cotangent.new_zeros(len(cotangent), *value.shape) for value in saved]
    with torch.enable_grad():
        leaves = [value.detach().requires_grad_(value.is_floating_point()) for value in saved]
        # Tokens take no gradient.
        real = [index for index, leaf in enumerate(leaves) if leaf.requires_grad]
        output = op.function(*leaves)
        # Nothing passes whole numbers and comparisons either.
        for row, part in enumerate(cotangent if output.requires_grad else ()):
            targets = [leaves[index] for index in real]
            gradients = torch.autograd.grad((output * part).sum(), targets, retain_graph=True, materialize_grads=True)
            for index, gradient in zip(real, gradients, strict=True):
                found[index][row] = gradient
    return found


def _spatial(op: Op, saved: Saved, cotangent: Tensor, shape: tuple[int, ...]) -> Tensor:
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
        case Pool(kind="avg", kernel=(kh, kw), ceil=False, count_padding=True):
            # An average is a depthwise convolution with equal weights.
            weight = cotangent.new_full((shape[0], 1, kh, kw), 1.0 / (kh * kw))
            mean = Conv(weight=weight, bias=None, stride=op.stride, padding=op.padding, groups=shape[0])
            return _transposed(cotangent, mean, size)
        case AdaptivePool() | Pool(kind="avg"):
            rows, columns = averages(op, (shape[1], shape[2]))
            return like(rows, cotangent).T @ cotangent @ like(columns, cotangent)
        case Pool(kind="max") if saved:
            copies = cotangent.shape[0] // saved[0].shape[0]
            switches = saved[0].repeat(copies, 1, 1, 1).flatten(2)
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
