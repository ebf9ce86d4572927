"""The tangent of one operation at recorded values: how a small change passes from its inputs to its output.

The transpose of `adjoint.py`, from what its `save` recorded. A tangent has shape (K, N, ...): K directions over the
same N samples. An operation that is linear passes a change as it passes a value, but for its bias.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from resnet_audit.errors import NoRule
from resnet_audit.graph.execute import apply, norm_affine
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

    from torch import Tensor

    from resnet_audit.graph.adjoint import Saved


def tangent(node: Node, saved: Saved, inputs: Sequence[Tensor]) -> Tensor:
    """The change (K, N, *node.shape) of the value of `node` for changes (K, N, ...) of each of its inputs.

    Raises NoRule for an operation without a tangent here.
    """
    op, x = node.op, inputs[0]
    match op:
        case Norm():
            return x * norm_affine(op, x[0])[0]
        case Activation() if saved:
            return x * saved[0]
        case Multiply():
            moved = [_times_others(saved, index, change) for index, change in enumerate(inputs)]
            return sum(moved[1:], moved[0])
        case Pool(kind="max") if saved:
            switches = saved[0].flatten(2).expand(len(x), *saved[0].shape[:2], -1)
            return x.flatten(3).gather(3, switches).view(len(x), *saved[0].shape)
        case Opaque():
            return _by_dual_numbers(op, saved, inputs)
        case Conv() | Linear():
            value = apply(replace(op, bias=None), [x.flatten(0, 1)])
        case Pool(kind="avg") | AdaptivePool() | Add() | Concat() | Scale() | Pad() | Slice():
            value = apply(op, [change.flatten(0, 1) for change in inputs])
        case Flatten() | Permute() | View():
            value = apply(op, [x.flatten(0, 1)])
        case _:
            raise NoRule(op, "the tangent")
    return value.view(*x.shape[:2], *value.shape[1:])


def _times_others(factors: Saved, index: int, change: Tensor) -> Tensor:
    """The change of a product by that of one factor."""
    for position, factor in enumerate(factors):
        if position != index:
            change = change * factor
    return change


def _by_dual_numbers(op: Opaque, saved: Saved, inputs: Sequence[Tensor]) -> Tensor:
    """The tangent of an operation known only as a function: one forward pass with dual numbers for each direction.

    Torch has one level of dual numbers and one choice of attention a process: not for several threads at once.
    """
    if op.function is None:
        raise NoRule(op, "the tangent")
    # Imported here: a good part of a second, which only such operations need.
    from torch.autograd import forward_ad  # noqa: PLC0415 - as above
    from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: PLC0415 - as above

    dual, undone = forward_ad.make_dual, forward_ad.unpack_dual
    found = []
    try:
        # Of torch's attentions only the plain one has a tangent.
        with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH), forward_ad.dual_level():
            warnings.simplefilter("ignore", DeprecationWarning)  # of torch against itself, at the first dual number
            for row in range(len(inputs[0])):
                duals = [
                    dual(value, change[row]) if value.is_floating_point() else value  # type: ignore[no-untyped-call]  # torch has no types here
                    for value, change in zip(saved, inputs, strict=True)
                ]
                value = op.function(*duals)
                part = undone(value).tangent  # type: ignore[no-untyped-call]  # as above
                found.append(torch.zeros_like(value) if part is None else part)
    except NotImplementedError:
        raise NoRule(op, "the tangent") from None
    return torch.stack(found)
