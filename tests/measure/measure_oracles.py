"""Hand-made graphs, their values by torch's own functions, and operations as dense matrices."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

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
    Pool,
    Scale,
    Slice,
)
from resnet_audit.graph.shapes import with_shapes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

RELU = Activation(kind="relu")
GLOBAL_MEAN = Pool(kind="avg", kernel=None)


def tensor(rng: np.random.Generator, *shape: int) -> Tensor:
    return torch.from_numpy(rng.standard_normal(shape))


def conv(weight: Tensor, bias: Tensor | None = None, stride: int = 1) -> Conv:
    """A convolution with 'same' padding."""
    padding = (weight.shape[2] // 2, weight.shape[3] // 2)
    return Conv(weight=weight, bias=bias, stride=(stride, stride), padding=padding)


def scalar(weight: float, bias: float | None = None) -> Conv:
    """A 1x1 convolution of one channel."""
    shift = None if bias is None else torch.tensor([bias], dtype=torch.float64)
    return conv(torch.full((1, 1, 1, 1), weight, dtype=torch.float64), shift)


def nodes_of(size: tuple[int, ...], *nodes: tuple[str, Op, str] | tuple[str, Op, str, str]) -> tuple[Node, ...]:
    """Nodes with shapes from (name, operation, inputs...); the input node is `input`."""
    placed = [Node(name="input", op=Input()), *(Node(name=n, op=op, inputs=tuple(i)) for n, op, *i in nodes)]
    return with_shapes(tuple(placed), size)


def small_resnet(seed: int, *, biases: bool = True, size: float = 0.5) -> tuple[Node, ...]:
    """A random residual net on 2x6x6: max-pool, a padded transition, a concatenation, a norm alone, mean and head."""
    rng = np.random.default_rng(seed)

    def kernel(c_out: int, c_in: int, stride: int = 1) -> Conv:
        return conv(tensor(rng, c_out, c_in, 3, 3) * size, tensor(rng, c_out) if biases else None, stride)

    norm = Norm(
        weight=tensor(rng, 5),
        bias=tensor(rng, 5) if biases else None,
        mean=tensor(rng, 5) if biases else torch.zeros(5, dtype=torch.float64),
        var=torch.from_numpy(rng.uniform(0.5, 2, 5)),
        eps=1e-5,
    )
    return nodes_of(
        (2, 6, 6),
        ("stem", kernel(2, 2), "input"),
        ("relu0", RELU, "stem"),
        ("max", Pool(kind="max", kernel=(3, 3), stride=(2, 2), padding=(1, 1)), "relu0"),
        ("a1", kernel(2, 2), "max"),
        ("relu1", RELU, "a1"),
        ("a2", kernel(2, 2), "relu1"),
        ("sum1", Add(), "a2", "max"),
        ("relu2", RELU, "sum1"),
        ("b1", kernel(4, 2, 2), "relu2"),
        ("half", Scale(factor=-0.5), "b1"),
        ("thin", Slice(step=(2, 2)), "relu2"),
        ("wide", Pad(before=1, after=1), "thin"),
        ("sum2", Add(), "half", "wide"),
        ("c1", kernel(1, 4), "sum2"),
        ("cat", Concat(), "sum2", "c1"),
        ("norm", norm, "cat"),
        ("mean2", Pool(kind="avg", kernel=(2, 2), stride=(1, 1), padding=(1, 1)), "norm"),
        ("pool", GLOBAL_MEAN, "mean2"),
        ("flat", Flatten(), "pool"),
        ("fc", Linear(weight=tensor(rng, 3, 5), bias=tensor(rng, 3) if biases else None), "flat"),
    )


def value_of(op: Op, given: Sequence[Tensor], *, absolute: bool = False, sum_pool: bool = False) -> Tensor:
    """One operation by torch's own functions. absolute: with absolute weights; sum_pool: sums instead of maxima."""
    x = given[0]

    def sign(value: Tensor | None) -> Tensor | None:
        value = None if value is None else value.to(x.dtype)
        return value.abs() if absolute and value is not None else value

    match op:
        case Conv():
            weight = sign(op.weight)
            assert weight is not None
            return functional.conv2d(x, weight, sign(op.bias), op.stride, op.padding, op.dilation, op.groups)
        case Linear():
            return functional.linear(x, sign(op.weight), sign(op.bias))
        case Norm():
            scale = torch.ones_like(op.var) if op.weight is None else op.weight
            scale = scale / (op.var + op.eps).sqrt()
            shift = -op.mean * scale if op.bias is None else op.bias - op.mean * scale
            return x * sign(scale)[:, None, None] + sign(shift)[:, None, None]
        case Activation():
            return functional.relu(x)
        case Pool(kernel=None):
            return functional.adaptive_avg_pool2d(x, 1)
        case Pool(kind="max") if sum_pool:
            ones = torch.ones(x.shape[1], 1, *op.kernel, dtype=x.dtype)
            return functional.conv2d(x, ones, None, op.stride, op.padding, 1, x.shape[1])
        case Pool(kind="max"):
            return functional.max_pool2d(x, op.kernel, op.stride, op.padding)
        case Pool():
            return functional.avg_pool2d(x, op.kernel, op.stride, op.padding)
        case Add():
            return torch.stack(list(given)).sum(0)
        case Concat():
            return torch.cat(list(given), dim=1)
        case Scale():
            return x * (abs(op.factor) if absolute else op.factor)
        case Pad():
            return functional.pad(x, (0, 0, 0, 0, op.before, op.after))
        case Slice():
            return x[:, :, :: op.step[0], :: op.step[1]]
        case Flatten():
            return x.reshape(len(x), -1)
    raise TypeError(op)


def forward(nodes: Sequence[Node], x: Tensor, *, absolute: bool = False, sum_pool: bool = False) -> dict[str, Tensor]:
    """Every node's value for a batch of inputs."""
    values = {nodes[0].name: x}
    for node in nodes[1:]:
        given = [values[name] for name in node.inputs]
        values[node.name] = value_of(node.op, given, absolute=absolute, sum_pool=sum_pool)
    return values


def jacobian(nodes: Sequence[Node], x: Tensor, name: str) -> Tensor:
    """(outputs, inputs) of node `name` at the one input x, (C, H, W)."""
    found: Tensor = torch.autograd.functional.jacobian(lambda y: forward(nodes, y[None])[name][0], x)
    return found.reshape(-1, x.numel())


def dense(op: Op, given: tuple[int, ...]) -> Tensor:
    """(outputs, inputs) of a linear operation without bias, column by column."""
    images = torch.eye(math.prod(given), dtype=torch.float64).reshape(-1, *given)
    return value_of(op, [images]).flatten(1).T


def one_thread() -> Iterator[None]:
    """One library thread: on shared cores more are slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
