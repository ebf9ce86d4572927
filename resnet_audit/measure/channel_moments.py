"""Mean and variance of every channel over the training data, as far as batch normalisations remember them.

Source   derived (theory note `shortcut-scaling`, B3).
Formula  behind a normalisation  mean beta, variance gamma^2;  in front of one  its running mean and variance
         sum of independent terms: means and variances add;  relu of a normal variable with mean m, variance s^2:
         E = m P(m/s) + s p(m/s),  E of the square = (m^2 + s^2) P(m/s) + m s p(m/s);  zero channels are 0
         weight layer  mean b, square b_o^2 + sum_i W_oi^2 E x_i^2  as if the weights were random with mean 0
Symbols  gamma, beta  scale and shift of the normalisation (its eps is left out);  W, b  weight and bias
         P, p  the standard normal distribution and its density
Status   exact behind a normalisation for the data of its statistics; a prediction elsewhere. `rough` marks values that
         passed a weight layer or a pooling since: a pooled pixel is taken as one pixel of its window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from resnet_audit.graph.execute import activate
from resnet_audit.graph.ir import (
    Activation,
    AdaptivePool,
    Add,
    Concat,
    Conv,
    Linear,
    Node,
    Norm,
    Op,
    Pad,
    Pool,
    Scale,
    Slice,
    consumers_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

WIDEST = 9.0
POINTS = 1801
"""The normal distribution as this many points up to this many standard deviations, for activations but the ReLU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """mean, variance: (C,) in float64. rough: a weight layer or a pooling was passed since the last normalisation."""

    mean: Tensor
    variance: Tensor
    rough: bool

    @property
    def mean_square(self) -> float:
        """E x^2, averaged over the channels."""
        return float((self.mean.square() + self.variance).mean())


def channel_moments(nodes: tuple[Node, ...]) -> dict[str, Moments]:
    """The moments of every node, by name, that the normalisations of the graph determine; the others have none."""
    readers = consumers_of(nodes)
    found: dict[str, Moments] = {}
    for node in nodes:
        norms = [reader.op for reader, _ in readers[node.name] if isinstance(reader.op, Norm)]
        known = [found[name] for name in node.inputs if name in found]
        if norms:
            found[node.name] = Moments(mean=norms[0].mean.double(), variance=norms[0].var.double(), rough=False)
        elif isinstance(node.op, Norm):
            found[node.name] = _behind(node.op)
        elif known and len(known) == len(node.inputs):
            after = _after(node.op, known)
            if after is not None:
                found[node.name] = after
    return found


def _behind(op: Norm) -> Moments:
    mean = torch.zeros_like(op.mean, dtype=torch.float64) if op.bias is None else op.bias.double()
    variance = torch.ones_like(mean) if op.weight is None else op.weight.double().square()
    return Moments(mean=mean, variance=variance, rough=False)


def _after(op: Op, read: Sequence[Moments]) -> Moments | None:
    """The moments of an operation's value; None for an operation without a rule."""
    first = read[0]
    rough = any(one.rough for one in read)
    match op:
        case Activation():
            return _activated(op, first)
        case Add():
            if len({len(one.mean) for one in read}) > 1:
                return None
            mean, variance = (torch.stack(column).sum(0) for column in _columns(read))
            return Moments(mean=mean, variance=variance, rough=rough)
        case Concat():
            mean, variance = (torch.cat(column) for column in _columns(read))
            return Moments(mean=mean, variance=variance, rough=rough)
        case Pad():
            mean, variance = (
                torch.nn.functional.pad(part, (op.before, op.after)) for part in (first.mean, first.variance)
            )
            return Moments(mean=mean, variance=variance, rough=rough)
        case Slice():
            return first
        case Pool() | AdaptivePool():
            return Moments(mean=first.mean, variance=first.variance, rough=True)
        case Scale():
            return _scaled(op, first)
        case Conv(weight=weight, bias=bias, groups=groups):
            return _weighted(weight, bias, groups, first)
        case Linear(weight=weight, bias=bias):
            return _weighted(weight, bias, 1, first)
    return None


def _columns(read: Sequence[Moments]) -> tuple[list[Tensor], list[Tensor]]:
    return [one.mean for one in read], [one.variance for one in read]


def _activated(op: Activation, x: Moments) -> Moments:
    spread = x.variance.sqrt()
    if op.kind == "relu":
        # A channel that never varies is its mean: the quotient is infinite then, and P, p are 0 or 1, and 0.
        ratio = torch.where(spread > 0, x.mean / spread, x.mean.sign() * math.inf).nan_to_num(0.0, math.inf, -math.inf)
        below, density = torch.special.ndtr(ratio), torch.exp(-ratio.square() / 2) / math.sqrt(2 * math.pi)
        mean = x.mean * below + spread * density
        square = (x.mean.square() + x.variance) * below + x.mean * spread * density
    else:
        grid = torch.linspace(-WIDEST, WIDEST, POINTS, dtype=torch.float64)
        weights = torch.exp(-grid.square() / 2)
        values = activate(op, (x.mean[:, None] + spread[:, None] * grid).T).T
        mean = values @ weights / weights.sum()
        square = values.square() @ weights / weights.sum()
    return Moments(mean=mean, variance=(square - mean.square()).clamp(min=0.0), rough=x.rough)


def _scaled(op: Scale, x: Moments) -> Moments | None:
    if isinstance(op.factor, float | int):
        factor = torch.tensor(float(op.factor), dtype=torch.float64)
    elif op.factor.numel() in {1, len(x.mean)}:
        factor = op.factor.double().reshape(-1)
    else:
        return None
    return Moments(mean=x.mean * factor, variance=x.variance * factor.square(), rough=x.rough)


def _weighted(weight: Tensor, bias: Tensor | None, groups: int, x: Moments) -> Moments | None:
    """weight: (c_out, c_in / groups, ...)."""
    if len(x.mean) != groups * weight.shape[1]:
        return None
    squares = weight.double().square().view(groups, len(weight) // groups, weight.shape[1], -1).sum(-1)
    variance = (squares @ (x.mean.square() + x.variance).view(groups, -1, 1)).reshape(-1)
    mean = torch.zeros_like(variance) if bias is None else bias.double()
    return Moments(mean=mean, variance=variance, rough=True)
