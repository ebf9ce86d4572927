"""The shape of every node for one input size. Shapes leave the batch out: (C, H, W) or (F,)."""

from __future__ import annotations

import math
from dataclasses import replace

from resnet_audit.errors import UsageError
from resnet_audit.graph.ir import (
    Activation,
    AdaptivePool,
    Add,
    Concat,
    Conv,
    Flatten,
    Input,
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

Shape = tuple[int, ...]


def with_shapes(nodes: tuple[Node, ...], input_size: Shape) -> tuple[Node, ...]:
    """The same nodes with their shapes for inputs of `input_size` = (C, H, W). Raises UsageError where they misfit."""
    if not input_size or min(input_size) < 1:
        size = "x".join(map(str, input_size)) or "nothing"
        raise UsageError(f"an input of {size} does not fit the network; give its size CxHxW with --input-size")
    shapes: dict[str, Shape] = {}
    placed = []
    for node in nodes:
        inputs = [shapes[name] for name in node.inputs]
        shape = input_size if isinstance(node.op, Input) else shape_of(node, inputs, input_size)
        if min(shape) < 1:
            raise UsageError(_misfit(node, inputs, input_size))
        shapes[node.name] = shape
        placed.append(replace(node, shape=shape))
    return tuple(placed)


def windows_along(size: int, kernel: int, stride: int, padding: int, dilation: int = 1) -> int:
    """The number of positions of a window along one axis of `size` entries (may be below 1: then it does not fit)."""
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def pooled_along(op: Pool, kernel: int, size: int, axis: int) -> int:
    """The number of windows of a pool along one axis of `size` pixels (may be below 1: then none fits)."""
    stride, padding, dilation = op.stride[axis], op.padding[axis], op.dilation[axis]
    if not op.ceil:
        return windows_along(size, kernel, stride, padding, dilation)
    # Rounded up; but no window begins in the padding behind the map.
    count = windows_along(size + stride - 1, kernel, stride, padding, dilation)
    return count - 1 if (count - 1) * stride >= size + padding else count


def shape_of(node: Node, inputs: list[Shape], input_size: Shape) -> Shape:
    """The shape of a node's value for inputs of these shapes. Raises UsageError, naming `input_size`, on a misfit."""
    op: Op = node.op
    match op, inputs:
        case Conv(), [[channels, height, width]] if channels == op.weight.shape[1] * op.groups:
            rows, columns = (
                windows_along(size, op.weight.shape[2 + axis], op.stride[axis], op.padding[axis], op.dilation[axis])
                for axis, size in enumerate((height, width))
            )
            return (op.weight.shape[0], rows, columns)
        case Linear(), [[*leading, features]] if features == op.weight.shape[1]:
            return (*leading, op.weight.shape[0])
        case Norm(), [[channels, *rest]] if channels == op.mean.shape[0]:
            return (channels, *rest)
        case ((Activation() | Scale()), [shape]):
            return shape
        case Pool(kernel=None), [[channels, _, _]]:
            return (channels, 1, 1)
        case Pool(kernel=(int() as kh, int() as kw)), [[channels, height, width]]:
            return (channels, pooled_along(op, kh, height, 0), pooled_along(op, kw, width, 1))
        case AdaptivePool(), [[channels, _, _]]:
            return (channels, *op.cells)
        case Add(), [first, *others] if all(other == first for other in others):
            return first
        case Multiply(), [_, *_] if (product := _broadcast(inputs)) is not None:
            return product
        case Concat(), [first, *others] if all(other[1:] == first[1:] for other in others):
            return (sum(shape[0] for shape in inputs), *first[1:])
        case Pad(), [[channels, *rest]]:
            return (channels + op.before + op.after, *rest)
        case Slice(), [[channels, height, width]]:
            return (channels, -(-height // op.step[0]), -(-width // op.step[1]))
        case Flatten(), [shape]:
            return (math.prod(shape),)
        case Permute(), [shape] if len(shape) + 1 == len(op.dims):
            return tuple(shape[axis - 1] for axis in op.dims[1:])
        case View(), [shape] if math.prod(shape) == math.prod(op.shape):
            return op.shape
        case Opaque(), _ if node.shape is not None:
            return node.shape
    raise UsageError(_misfit(node, inputs, input_size))


def _broadcast(shapes: list[Shape]) -> Shape | None:
    """The shape of a product, in which axes of one entry are repeated; None if the shapes do not fit."""
    if len({len(shape) for shape in shapes}) != 1:
        return None
    sizes = [set(axis) - {1} for axis in zip(*shapes, strict=True)]
    return tuple(max(axis, default=1) for axis in sizes) if all(len(axis) < 2 for axis in sizes) else None


def _misfit(node: Node, inputs: list[Shape], input_size: Shape) -> str:
    size = "x".join(map(str, input_size))
    got = " and ".join("x".join(map(str, shape)) for shape in inputs) or "nothing"
    return (
        f"an input of {size} does not fit the network; {node.name} cannot take {got}; give its size with --input-size"
    )
