"""Rules for ATen's sums, products, concatenations and changes of shape, and for what vanishes.

Each answers with the operations of the closed set that do the same, or None where the closed set has none.
"""

# ruff: noqa: FBT001, FBT002, ARG001 (the arguments are ATen's own, in its order)

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from resnet_audit.graph.aten_arguments import Ops, is_live, is_number, is_real, leaves, lives, shape_of
from resnet_audit.graph.ir import Add, Concat, Flatten, Multiply, Opaque, Pad, Permute, Scale, Slice, View

if TYPE_CHECKING:
    from collections.abc import Sequence

# sums, products, concatenations -----------------------------------------------------------------------------


def add(x: object, other: object, alpha: float = 1) -> Ops | None:
    """The sum of two values of one shape."""
    if is_real(x) and is_real(other) and alpha == 1 and shape_of(x) == shape_of(other):
        return (Add(),)
    return () if is_real(x) and is_number(other) and other == 0 else None


def mul(x: object, other: object) -> Ops | None:
    """The product of two values, or of one and a constant."""
    if is_real(x) and is_real(other):
        one, two = shape_of(x), shape_of(other)
        fits = (
            len(one) == len(two)
            and one[:1] == two[:1]
            and all(a == b or 1 in {a, b} for a, b in zip(one, two, strict=True))
        )
        return (Multiply(),) if fits else None
    return scale(x, other) if is_real(x) else scale(other, x)


def scale(x: object, factor: object) -> Ops | None:
    """The product with a constant that keeps the shape."""
    if not is_real(x):
        return None
    if is_number(factor):
        return () if factor == 1 else (Scale(factor=float(factor)),)
    if not (isinstance(factor, Tensor) and factor.is_floating_point()):
        return None
    # A factor of its own for every sample is no constant of the network.
    same = factor.ndim < x.value.ndim or factor.shape[0] == 1
    fits = _broadcasts(tuple(factor.shape), shape_of(x))
    return (Scale(factor=factor),) if same and fits else None


def _broadcasts(small: tuple[int, ...], large: tuple[int, ...]) -> bool:
    """Whether a tensor of shape `small` can be multiplied into one of shape `large` without changing that shape."""
    aligned = zip(reversed(small), reversed(large), strict=False)
    return len(small) <= len(large) and all(a in {1, b} for a, b in aligned)


def div(x: object, other: object, rounding_mode: str | None = None) -> Ops | None:
    """The quotient by a constant."""
    if rounding_mode is not None or not is_real(x):
        return None
    if is_number(other):
        return scale(x, 1 / other) if other else None
    return scale(x, 1 / other) if isinstance(other, Tensor) and other.is_floating_point() else None


def neg(x: object) -> Ops | None:
    """The negative."""
    return scale(x, -1.0)


def cat(tensors: Sequence[object], dim: int = 0) -> Ops | None:
    """The concatenation of values along the channels."""
    if len(tensors) == 1 and is_live(tensors[0]):
        return ()
    lives = [x for x in tensors if is_real(x)]
    if len(lives) < len(tensors) or dim % lives[0].value.ndim != 1:
        return None
    return (Concat(),)


# shapes -----------------------------------------------------------------------------------------------------


def reshaped(x: object, shape: Sequence[int]) -> Ops | None:
    """The same numbers as `shape`, the batch included, where the first axis stays what it was."""
    if not is_live(x):
        return None
    before, after = shape_of(x), tuple(int(size) for size in shape)
    if -1 in after:
        rest = -math.prod(after)
        after = tuple(math.prod(before) // rest if size == -1 else size for size in after) if rest else after
    if before == after:
        return ()
    if len(before) < 2 or len(after) < 2 or before[0] != after[0]:
        return None
    return (Flatten(),) if len(after) == 2 else (View(shape=after[1:]),)


def flatten(x: object, start: int = 0, end: int = -1) -> Ops | None:
    """flatten."""
    if not is_live(x) or x.value.ndim == 0:
        return None
    shape = shape_of(x)
    first, last = start % len(shape), end % len(shape)
    return reshaped(x, (*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :]))


def squeeze(x: object, dims: int | Sequence[int] | None = None) -> Ops | None:
    """squeeze."""
    if not is_live(x) or x.value.ndim == 0:
        return None
    shape = shape_of(x)
    axes = range(len(shape)) if dims is None else [dims] if isinstance(dims, int) else dims
    gone = {axis % len(shape) for axis in axes}
    return reshaped(x, [size for axis, size in enumerate(shape) if axis not in gone or size != 1])


def unsqueeze(x: object, dim: int) -> Ops | None:
    """unsqueeze."""
    if not is_live(x):
        return None
    shape = list(shape_of(x))
    shape.insert(dim % (len(shape) + 1), 1)
    return reshaped(x, shape)


def expand(x: object, size: Sequence[int], implicit: bool = False) -> Ops | None:
    """expand, where it changes nothing."""
    if not is_live(x) or len(size) != x.value.ndim:
        return None
    return () if all(want in {-1, have} for want, have in zip(size, shape_of(x), strict=True)) else None


def permute(x: object, dims: Sequence[int]) -> Ops | None:
    """permute that leaves the batch first."""
    if not is_live(x):
        return None
    order = tuple(axis % x.value.ndim for axis in dims)
    if order == tuple(range(len(order))):
        return ()
    return (Permute(dims=order),) if order[0] == 0 else None


def transpose(x: object, one: int, two: int) -> Ops | None:
    """transpose that leaves the batch first."""
    if not is_live(x) or x.value.ndim == 0:
        return None
    order = list(range(x.value.ndim))
    order[one], order[two] = order[two], order[one]
    return permute(x, order)


def slice_of(x: object, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Ops | None:
    """slice that takes all, or every so many rows or columns of a map."""
    if not is_live(x) or x.value.ndim == 0:
        return None
    size, axis = shape_of(x)[dim], dim % x.value.ndim
    if start not in {None, 0, -size} or (end is not None and end < size):
        return None
    if step == 1:
        return ()
    return (Slice(step=(step, 1) if axis == 2 else (1, step)),) if is_real(x, 4) and axis > 1 else None


def pad(x: object, pad: Sequence[int], mode: object = "constant", value: object = None) -> Ops | None:
    """pad with channels of zeros."""
    return constant_pad(x, pad, value) if mode == "constant" or not any(pad) else None


def constant_pad(x: object, pad: Sequence[int], value: object = 0) -> Ops | None:
    """constant_pad_nd."""
    if not any(pad):
        return ()
    if not is_real(x, 4) or value not in {None, 0} or len(pad) != 6 or any(pad[:4]) or min(pad) < 0:
        return None
    return (Pad(before=pad[4], after=pad[5]),)


# what vanishes ----------------------------------------------------------------------------------------------


def same(x: object, *_arguments: object, **_keywords: object) -> Ops | None:
    """Whatever does nothing in evaluation mode."""
    return () if is_live(x) else None


def cast(x: object, *arguments: object, **keywords: object) -> Ops | None:
    """A change of dtype among real numbers, or of device, is none: the graph runs in the dtype of its input."""
    asked = [leaf for leaf in leaves((arguments, keywords)) if isinstance(leaf, torch.dtype)]
    asked += [live.value.dtype for live in lives((arguments, keywords))]
    if not is_live(x):
        return None
    real = x.value.is_floating_point()
    return () if all(dtype == x.value.dtype or (real and dtype.is_floating_point) for dtype in asked) else None


def dropout(x: object, _p: float = 0.5, train: bool = True) -> Ops | None:
    """Dropout: nothing in evaluation mode."""
    return (Opaque(name="dropout"),) if train else same(x)
