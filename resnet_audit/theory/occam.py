"""Counting bits: a network stored in b bits is one of 2^b, whatever its norms.

Source   Occam's bound: Hoeffding for each of finitely many networks (theory note `bound`, 3.3).
Formula  error <= training error + sqrt((b ln 2 + ln(1/delta)) / (2N))
Symbols  b  bits of the stored network: 32 n or 16 n for n numbers, or 8 for each byte that zlib (level 9) makes of the
            fp16 numbers, little-endian, in the order of the graph, of each layer the weight and then the bias
         N  training examples, delta  the probability that the bound may fail
Reads    0-1 loss, no norms and no margin; of trained nets it is many orders of magnitude below the norm bounds, and
         still vacuous. zlib's gain over fp16 is what the weights repeat.
Status   certified for the network rounded to that format, with format and compressor fixed in advance. A number that
         the format cannot hold makes another network of it: null then. A tensor used twice is counted twice.
"""

from __future__ import annotations

import math
import zlib
from typing import TYPE_CHECKING

import numpy as np
import torch

from resnet_audit.errors import NoRule
from resnet_audit.graph.fold import gains
from resnet_audit.graph.ir import Activation, Conv, Linear, Node, Norm, Opaque, Scale
from resnet_audit.results import Occam

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

LARGEST_FP32 = float(np.finfo(np.float32).max)
ZLIB_LEVEL = 9


def occam(folded: Sequence[Node], *, n_train: int, delta: float) -> Occam:
    """What counting bits adds to the training error, in three formats; None where a format cannot hold the numbers.

    Raises NoRule for an operation known by its function alone: numbers bound inside it cannot be counted.
    """
    count, largest, packed = 0, 0.0, 0
    compressor = zlib.compressobj(ZLIB_LEVEL)
    halves = True
    for tensor in stored_numbers(folded):
        count += tensor.numel()
        largest = max(largest, float(tensor.abs().max()) if tensor.numel() else 0.0)
        with np.errstate(over="ignore"):  # an overflow is looked for below
            numbers = tensor.detach().cpu().double().numpy().astype("<f2")
        halves = halves and bool(np.isfinite(numbers).all())
        packed += len(compressor.compress(numbers.tobytes()))
    packed += len(compressor.flush())

    def added(bits: int) -> float:
        return math.sqrt((bits * math.log(2.0) - math.log(delta)) / (2.0 * n_train))

    return Occam(
        fp32=added(32 * count) if largest <= LARGEST_FP32 else None,
        fp16=added(16 * count) if halves else None,
        zlib_fp16=added(8 * packed) if halves else None,
    )


def stored_numbers(folded: Sequence[Node]) -> Iterator[Tensor]:
    """Everything in a folded graph that may have been learned, one tensor at a time. Raises NoRule.

    Constant factors and slopes of activations count as well: the graph does not say whether they were learned.
    """
    for node in folded:
        match node.op:
            case Conv(weight=weight, bias=bias) | Linear(weight=weight, bias=bias):
                yield weight
                if bias is not None:
                    yield bias
            case Norm() as op:
                yield from gains(op)
            case Scale(factor=factor):
                yield torch.as_tensor(factor)
            case Activation(kind="leaky_relu" | "elu", slope=slope):
                yield torch.tensor(slope)
            case Activation(slopes=slopes) if slopes is not None:
                yield slopes
            case Opaque() as op:
                raise NoRule(op, "the number of parameters")
