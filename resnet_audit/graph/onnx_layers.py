"""ONNX operators with weights, pools, norms and reductions in terms of our operations, and the table of all rules."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from resnet_audit.graph import onnx_ops as ops
from resnet_audit.graph import onnx_shapes as shapes
from resnet_audit.graph.ir import Conv, Linear, Norm, Opaque, Pool, View
from resnet_audit.graph.onnx_ops import Found, Step, opaque
from resnet_audit.graph.onnx_values import Constant, Live

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    Frame = tuple[tuple[int, int], tuple[int, int]]

_WEIGHTED = ("conv", "gemm", "matmul", "lstm", "gru", "rnn", "einsum", "attention", "linear")


# windows --------------------------------------------------------------------------------------------------------------


def _frame(step: Step, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Frame | None:
    """Entries put before and after the rows and the columns; None if they depend on an unknown size."""
    auto = step.attributes.get("auto_pad", "NOTSET")
    if auto == "VALID":
        return ((0, 0), (0, 0))
    if auto in {"SAME_UPPER", "SAME_LOWER"}:
        shape = None if step.x is None else step.x.shape
        if shape is None or len(shape) != 3:
            return None
        found = []
        for size, taps, pace, spread in zip(shape[1:], kernel, stride, dilation, strict=True):
            total = max((-(-size // pace) - 1) * pace + spread * (taps - 1) + 1 - size, 0)
            less, more = total // 2, total - total // 2
            found.append((less, more) if auto == "SAME_UPPER" else (more, less))
        return (found[0], found[1])
    pads = step.attributes.get("pads", (0, 0, 0, 0))
    return ((pads[0], pads[2]), (pads[1], pads[3])) if len(pads) == 4 else None


def _window(step: Step, name: str, axes: int) -> tuple[int, ...]:
    return tuple(step.attributes.get(name) or (1,) * axes)


def conv(step: Step) -> Found | None:
    """A 2-D convolution; uneven padding is written as zeros in its kernel, other dimensions are opaque."""
    weight, bias = step.constant(1), step.constant(2)
    if step.x is None or weight is None or weight.array.ndim < 3:
        return None
    axes = weight.array.ndim - 2
    stride, dilation = _window(step, "strides", axes), _window(step, "dilations", axes)
    groups = step.attributes.get("group", 1)
    if axes != 2:
        return _conv_of_other_rank(step, weight, stride, dilation)
    frame = _frame(step, weight.array.shape[2:], stride, dilation)
    if frame is None:
        return None
    kernel, padding = weight.tensor, []
    for axis, (before, after) in enumerate(frame):
        taps, left = divmod(abs(after - before), dilation[axis])
        if left:
            return _conv_in_a_frame(step, weight, frame, stride, dilation)
        zeros = [taps if after > before else 0, taps if before > after else 0]
        kernel = F.pad(kernel, [*zeros, 0, 0] if axis else [0, 0, *zeros])
        padding.append(max(before, after))
    op = Conv(
        weight=kernel,
        bias=None if bias is None else bias.tensor,
        stride=(stride[0], stride[1]),
        padding=(padding[0], padding[1]),
        dilation=(dilation[0], dilation[1]),
        groups=groups,
    )
    uneven = kernel.shape != weight.array.shape
    note = f"the uneven padding of {weight.layer} is written as zeros in its kernel" if uneven else None
    return Found((op,), (step.x.node,), layer=weight.layer, note=note)


def _conv_in_a_frame(
    step: Step, weight: Constant, frame: Frame, stride: tuple[int, ...], dilation: tuple[int, ...]
) -> Found:
    groups, edges = step.attributes.get("group", 1), [*frame[1], *frame[0]]

    def value(x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.conv2d(F.pad(x, edges), kernel, bias, (stride[0], stride[1]), 0, (dilation[0], dilation[1]), groups)

    return _layer(opaque(step, f"conv{len(stride)}d", value, (weight.tensor,)), weight)


def _conv_of_other_rank(
    step: Step, weight: Constant, stride: tuple[int, ...], dilation: tuple[int, ...]
) -> Found | None:
    axes, groups = len(stride), step.attributes.get("group", 1)
    pads = step.attributes.get("pads", (0,) * 2 * axes)
    if axes not in {1, 3} or step.attributes.get("auto_pad", "NOTSET") not in {"NOTSET", "VALID"}:
        return None
    edges = [size for axis in reversed(range(axes)) for size in (pads[axis], pads[axis + axes])]
    function = F.conv1d if axes == 1 else F.conv3d

    def value(x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
        framed = F.pad(x, edges) if any(edges) else x
        return function(framed, kernel, bias, stride, 0, dilation, groups)

    return _layer(opaque(step, f"conv{axes}d", value, (weight.tensor,)), weight)


def _layer(found: Found, weight: Constant) -> Found:
    return Found(found.ops, found.inputs, layer=weight.layer)


def pool(step: Step) -> Found | None:
    """Max or average pooling over windows."""
    kernel = _window(step, "kernel_shape", 2)
    stride, dilation = _window(step, "strides", len(kernel)), _window(step, "dilations", len(kernel))
    frame = _frame(step, kernel, stride, dilation) if len(kernel) == 2 else None
    shape = None if step.x is None else step.x.shape
    if step.x is None or frame is None or step.attributes.get("storage_order", 0):
        return None
    (top, bottom), (left, right) = frame
    even = top == bottom and left == right and 2 * top <= kernel[0] and 2 * left <= kernel[1]
    largest = step.kind == "MaxPool"
    ceil = bool(step.attributes.get("ceil_mode", 0)) and not _fits(shape, kernel, stride, frame, dilation)
    counts = largest or not any((*frame[0], *frame[1])) or bool(step.attributes.get("count_include_pad", 0))
    pair, pace, apart = (kernel[0], kernel[1]), (stride[0], stride[1]), (dilation[0], dilation[1])
    if even and (largest or apart == (1, 1)):
        plain = Pool(
            kind="max" if largest else "avg",
            kernel=pair,
            stride=pace,
            padding=(top, left),
            dilation=apart,
            ceil=ceil,
            count_padding=counts,
        )
        return Found((plain,), (step.x.node,))
    if not largest:
        return None
    edges = (left, right, top, bottom)

    def peak(x: Tensor) -> Tensor:
        framed = F.pad(x, edges, value=-math.inf) if any(edges) else x
        return F.max_pool2d(framed, pair, pace, 0, apart, ceil_mode=ceil)

    return opaque(step, "max_pool2d", peak)


def _fits(
    shape: tuple[int, ...] | None, kernel: Sequence[int], stride: Sequence[int], frame: Frame, dilation: Sequence[int]
) -> bool:
    """Whether the windows end where the map does, so that rounding up and down are the same."""
    if shape is None or len(shape) != 3:
        return False
    return all(
        (shape[1 + axis] + sum(frame[axis]) - dilation[axis] * (kernel[axis] - 1) - 1) % stride[axis] == 0
        for axis in (0, 1)
    )


def whole(step: Step) -> Found | None:
    """The average, or the largest, over the whole map."""
    if step.x is None or step.x.rank not in {4, None}:
        return None
    if step.kind == "GlobalAveragePool":
        return Found((Pool(kind="avg", kernel=None),), (step.x.node,))
    if step.x.shape is not None and len(step.x.shape) == 3:
        size = (step.x.shape[1], step.x.shape[2])
        return Found((Pool(kind="max", kernel=size, stride=size),), (step.x.node,))
    return opaque(step, "amax", lambda x: x.amax((2, 3), keepdim=True))


def reduction(step: Step) -> Found | None:
    """A mean, sum or extremum over some axes; the mean over rows and columns is a pool."""
    axes, rank = step.numbers("axes", 1), None if step.x is None else step.x.rank
    if step.x is None or axes is None or rank is None or not axes:
        return None
    places = tuple(sorted(axis % rank for axis in axes))
    keep = bool(step.attributes.get("keepdims", 1))
    if 0 in places:
        return None
    if step.kind == "ReduceMean" and places == (2, 3) and rank == 4:
        mean = Pool(kind="avg", kernel=None)
        channels = (step.x.shape or (0,))[0]
        return Found((mean,) if keep else (mean, View(shape=(channels,))), (step.x.node,))
    functions: dict[str, tuple[str, Callable[..., Tensor]]] = {
        "ReduceMean": ("mean", torch.mean),
        "ReduceSum": ("sum", torch.sum),
        "ReduceMax": ("amax", torch.amax),
        "ReduceMin": ("amin", torch.amin),
        "ReduceL2": ("l2", lambda x, dim, keepdim: x.square().sum(dim, keepdim=keepdim).sqrt()),
    }
    name, function = functions[step.kind]
    return Found((Opaque(name=name, function=lambda x: function(x, places, keepdim=keep)),), (step.x.node,))


# weights --------------------------------------------------------------------------------------------------------------


def gemm(step: Step) -> Found | None:
    """A linear layer with its factors taken into weight and bias."""
    weight, bias = step.constant(1), step.constant(2)
    get = step.attributes.get
    if step.x is None or weight is None or weight.array.ndim != 2 or get("transA", 0):
        return None
    matrix = weight.tensor if get("transB", 0) else weight.tensor.T
    alpha, beta = get("alpha", 1.0), get("beta", 1.0)
    shift = None
    if bias is not None:
        if bias.array.size not in {1, matrix.shape[0]}:
            return None
        shift = bias.tensor.reshape(-1).expand(matrix.shape[0])
        shift = shift if beta == 1.0 else shift * beta
    op = Linear(weight=matrix if alpha == 1.0 else matrix * alpha, bias=shift)
    return Found((op,), (step.x.node,), layer=weight.layer)


def matmul(step: Step) -> Found | None:
    """A linear layer without bias, or the product of two live values."""
    weight = step.constant(1)
    if step.x is not None and weight is not None and weight.array.ndim == 2:
        return Found((Linear(weight=weight.tensor.T, bias=None),), (step.x.node,), layer=weight.layer)
    return opaque(step, "matmul", torch.matmul) if len(step.live) == len(step.inputs) else None


def batch_norm(step: Step) -> Found | None:
    """Batch normalisation with stored statistics."""
    scale, shift, mean, var = (step.constant(index) for index in range(1, 5))
    if step.x is None or scale is None or shift is None or mean is None or var is None:
        return None
    sizes = {held.array.shape for held in (scale, shift, mean, var)}
    if step.attributes.get("training_mode", 0) or len(sizes) != 1 or scale.array.ndim != 1:
        return None
    op = Norm(
        weight=scale.tensor,
        bias=shift.tensor,
        mean=mean.tensor,
        var=var.tensor,
        eps=step.attributes.get("epsilon", 1e-5),
    )
    return Found((op,), (step.x.node,), layer=scale.layer)


def other_norm(step: Step) -> Found | None:
    """Layer, instance, group or RMS normalisation: of each sample by itself."""
    scale, eps = step.constant(1), step.attributes.get("epsilon", 1e-5)
    shape = None if step.x is None else step.x.shape
    if scale is None or shape is None:
        return None
    axis = step.attributes.get("axis", -1) % (len(shape) + 1)
    groups = step.attributes.get("num_groups", 1)
    per_channel = scale.array.size == shape[0]
    match step.kind:
        case "LayerNormalization" if axis:
            over = shape[axis - 1 :]
            found = opaque(step, "layer_norm", lambda x, w, b=None: F.layer_norm(x, over, w, b, eps))
        case "RMSNormalization" | "SimplifiedLayerNormalization" if axis:
            over = shape[axis - 1 :]
            found = opaque(step, "rms_norm", lambda x, w: F.rms_norm(x, over, w, eps))
        case "InstanceNormalization":
            found = opaque(step, "instance_norm", lambda x, w, b: F.instance_norm(x, None, None, w, b, eps=eps))
        case "GroupNormalization" if per_channel:
            found = opaque(step, "group_norm", lambda x, w, b: F.group_norm(x, groups, w, b, eps))
        case _:
            return None
    return _layer(found, scale)


def gather(step: Step) -> Found | None:
    """Rows of a table by number, or one or several entries along an axis."""
    axis, table, index = step.attributes.get("axis", 0), step.constant(0), step.constant(1)
    if table is not None and table.array.ndim == 2 and axis == 0 and len(step.live) == 1:
        rows = table.tensor
        function = lambda tokens: F.embedding(tokens.long(), rows.to(tokens.device))  # noqa: E731 (one value, no name)
        op = Opaque(name="embedding", function=function, weights=(rows,))
        return Found((op,), (step.live[0].node,), layer=table.layer)
    rank = None if step.x is None else step.x.rank
    if step.x is None or index is None or rank is None or index.array.ndim > 1 or axis % rank == 0:
        return None
    places, single = list(index.ints), index.array.ndim == 0
    where = (*(slice(None),) * (axis % rank), places[0] if single else places)
    return Found((Opaque(name="select" if single else "index", function=lambda x: x[where]),), (step.x.node,))


def softmax(step: Step) -> Found | None:
    """The softmax along one axis; before version 13, over all axes from it on."""
    axis = step.attributes.get("axis", -1 if step.opset >= 13 else 1)
    rank = None if step.x is None else step.x.rank
    if rank is None or axis % rank == 0:
        return None
    axis %= rank
    name, function = ("softmax", F.softmax) if step.kind == "Softmax" else ("log_softmax", F.log_softmax)
    if step.opset >= 13 or axis == rank - 1:
        return opaque(step, name, lambda x: function(x, dim=axis))
    return opaque(step, name, lambda x: function(x.flatten(axis), dim=axis).view(x.shape))


def unknown(step: Step) -> Found:
    """An operator without a rule: its name, what it reads, and its weights if it is known to have some."""
    held = [value for value in step.inputs if isinstance(value, Constant)]
    weights = [value for value in held if value.array.ndim >= 2 and value.array.dtype.kind in "fiuV"]
    weighted = any(word in step.kind.lower() for word in _WEIGHTED) and weights
    name = {"BatchNormalization": "batch_norm"}.get(step.kind, step.kind)
    if name.endswith("Normalization"):
        name = f"{name.removesuffix('Normalization').lower()}_norm"
    inputs = tuple(dict.fromkeys(value.node for value in step.inputs if isinstance(value, Live)))
    kept = tuple(value.tensor for value in weights) if weighted else ()
    return Found((Opaque(name=name, weights=kept),), inputs, layer=weights[0].layer if weighted else None)


def same(step: Step) -> Found | None:
    """The input itself: casts between floats, and dropout in evaluation mode."""
    if step.kind == "Cast" and step.attributes.get("to") not in {1, 10, 11, 16}:
        return None
    live = step.inputs[0]
    if not isinstance(live, Live):
        return None
    if step.kind == "Cast" and live.meta is not None and not live.meta.is_floating_point():
        return opaque(step, "to", lambda x: x.to(torch.get_default_dtype()))
    return Found((), (live.node,))


def part(step: Step, index: int, count: int) -> Found | None:
    """The output `index` of the `count` that a Split has."""
    axis, rank = step.attributes.get("axis", 0), None if step.x is None else step.x.rank
    if step.x is None or step.x.shape is None or rank is None or axis % rank == 0:
        return None
    size = step.x.shape[axis % rank - 1]
    sizes = step.numbers("split", 1) or (-(-size // count),) * count
    start = sum(sizes[:index])
    stop = min(start + sizes[index], size)
    where = (*(slice(None),) * (axis % rank), slice(start, stop))
    return Found((Opaque(name="slice", function=lambda x: x[where]),), (step.x.node,))


RULES: dict[str, Callable[[Step], Found | None]] = {
    **dict.fromkeys(
        ("Relu", "Tanh", "Sigmoid", "Softplus", "Mish", "HardSwish", "LeakyRelu", "Elu", "Selu", "Gelu", "Swish"),
        ops.activation,
    ),
    **dict.fromkeys(ops.UNARY, ops.unary),
    **dict.fromkeys(("Sub", "Pow", "Min", "Max", "Neg"), ops.binary),
    **dict.fromkeys(("Add", "Sum"), ops.add),
    **dict.fromkeys(("Reshape", "Flatten"), shapes.reshape),
    **dict.fromkeys(("Squeeze", "Unsqueeze"), shapes.squeeze),
    **dict.fromkeys(("MaxPool", "AveragePool"), pool),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), whole),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2"), reduction),
    **dict.fromkeys(("Softmax", "LogSoftmax"), softmax),
    **dict.fromkeys(("Identity", "Dropout", "Cast"), same),
    **dict.fromkeys(
        (
            *("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"),
            *("InstanceNormalization", "GroupNormalization"),
        ),
        other_norm,
    ),
    "HardSigmoid": ops.activation,
    "Clip": ops.clip,
    "PRelu": ops.prelu,
    "Mul": ops.multiply,
    "Div": ops.divide,
    "Concat": shapes.concat,
    "Transpose": shapes.transpose,
    "Pad": shapes.pad,
    "Slice": shapes.cut,
    "DepthToSpace": shapes.depth_to_space,
    "Where": ops.where,
    "Conv": conv,
    "Gemm": gemm,
    "MatMul": matmul,
    "BatchNormalization": batch_norm,
    "Gather": gather,
}
