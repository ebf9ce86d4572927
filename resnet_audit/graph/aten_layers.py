"""Rules for ATen's weight layers, normalisations, activations and pools.

Each answers with the operations of the closed set that do the same, or None where the closed set has none.
"""

# ruff: noqa: FBT001, FBT002, PLR0913, PLR0917, ARG001 (the arguments are ATen's own, in its order)

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from resnet_audit.graph.aten_arguments import Live, Ops, is_bias, is_constant, is_real, pair, shape_of
from resnet_audit.graph.ir import (
    Activation,
    ActivationKind,
    AdaptivePool,
    Conv,
    Flatten,
    Linear,
    Norm,
    Opaque,
    Pool,
)

if TYPE_CHECKING:
    from collections.abc import Callable

# weight layers ----------------------------------------------------------------------------------------------


def conv(
    x: object,
    weight: object,
    bias: object = None,
    stride: object = 1,
    padding: object = 0,
    dilation: object = 1,
    groups: int = 1,
) -> Ops | None:
    """conv2d, zero padded."""
    if not (is_real(x, 4) and is_constant(weight, 4) and is_bias(bias)):
        return None
    steps, spread = pair(stride), pair(dilation)
    if padding == "same":
        totals = [step * (size - 1) for step, size in zip(spread, weight.shape[2:], strict=True)]
        if any(total % 2 for total in totals):
            return None
        padding = [total // 2 for total in totals]
    around = (0, 0) if padding == "valid" else pair(padding)
    return (Conv(weight=weight, bias=bias, stride=steps, padding=around, dilation=spread, groups=groups),)


def convolution(
    x: object,
    weight: object,
    bias: object,
    stride: object,
    padding: object,
    dilation: object,
    transposed: bool,
    output_padding: object,
    groups: int,
    *_flags: object,
) -> Ops | None:
    """convolution and _convolution, of any number of axes."""
    return None if transposed else conv(x, weight, bias, stride, padding, dilation, groups)


def linear(x: object, weight: object, bias: object = None) -> Ops | None:
    """linear with a constant matrix."""
    if is_real(x) and x.value.ndim > 1 and is_constant(weight, 2) and is_bias(bias):
        return (Linear(weight=weight, bias=bias),)
    return None


def matmul(x: object, other: object) -> Ops | None:
    """matmul and mm with a constant matrix on the right."""
    return linear(x, other.t()) if is_constant(other, 2) else None


def addmm(bias: object, x: object, other: object, beta: float = 1, alpha: float = 1) -> Ops | None:
    """addmm with a constant vector and matrix."""
    return linear(x, other.t(), bias) if is_constant(other, 2) and beta == 1 and alpha == 1 else None


# normalisation ----------------------------------------------------------------------------------------------


def batch_norm(
    x: object,
    weight: object,
    bias: object,
    mean: object,
    var: object,
    training: bool,
    _momentum: float,
    eps: float,
    _cudnn: bool = False,
) -> Ops | None:
    """batch_norm by its running statistics."""
    if training or mean is None or var is None:
        return (Opaque(name="batch_norm"),)
    if is_real(x) and is_bias(weight) and is_bias(bias) and is_constant(mean, 1) and is_constant(var, 1):
        return (Norm(weight=weight, bias=bias, mean=mean, var=var, eps=eps),)
    return None


def frozen_norm(
    x: object, weight: object, bias: object, mean: object, var: object, momentum: float, eps: float
) -> Ops | None:
    """_native_batch_norm_legit_no_training."""
    return batch_norm(x, weight, bias, mean, var, training=False, _momentum=momentum, eps=eps)


def batch_statistics(*_arguments: object, **_keywords: object) -> Ops:
    """A batch norm in training mode."""
    return (Opaque(name="batch_norm"),)


# activations ------------------------------------------------------------------------------------------------


def activation(kind: ActivationKind) -> Callable[..., Ops | None]:
    """The rule of an activation without options."""
    return lambda x: (Activation(kind=kind),) if is_real(x) else None


def leaky_relu(x: object, slope: float = 0.01) -> Ops | None:
    """leaky_relu."""
    return (Activation(kind="leaky_relu", slope=float(slope)),) if is_real(x) else None


def prelu(x: object, slopes: object) -> Ops | None:
    """prelu: of one slope a leaky_relu, else with a slope for each channel."""
    if not is_real(x) or not isinstance(slopes, Tensor) or x.value.ndim < 2:
        return None
    values = slopes.detach().flatten()
    if len(values) == 1:
        return (Activation(kind="leaky_relu", slope=float(values)),)
    return (Activation(kind="prelu", slopes=values),) if len(values) == shape_of(x)[1] else None


def elu(x: object, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Ops | None:
    """elu, and its scale where it is 1."""
    plain = scale == 1 and input_scale == 1
    return (Activation(kind="elu", slope=float(alpha)),) if is_real(x) and plain else None


def gelu(x: object, approximate: str = "none") -> Ops | None:
    """gelu, exact or by tanh."""
    return (Activation(kind="gelu" if approximate == "none" else "gelu_tanh"),) if is_real(x) else None


def softplus(x: object, beta: float = 1, threshold: float = 20) -> Ops | None:
    """softplus with torch's default options."""
    return (Activation(kind="softplus"),) if is_real(x) and beta == 1 and threshold == 20 else None


def clamp(x: object, low: object = None, high: object = None) -> Ops | None:
    """clamp where it is relu or relu6."""
    if not is_real(x) or low != 0:
        return None
    return (Activation(kind="relu"),) if high is None else (Activation(kind="relu6"),) if high == 6 else None


def hardtanh(x: object, low: float = -1, high: float = 1) -> Ops | None:
    """hardtanh where it is relu6."""
    return clamp(x, low, high)


# pooling ----------------------------------------------------------------------------------------------------


def _reaches(
    x: Live,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int] = (1, 1),
) -> bool:
    """Whether the windows end where the map ends, so that rounding their number up or down is the same."""
    return all(
        (size + 2 * p - d * (k - 1) - 1) % s == 0
        for size, k, s, p, d in zip(shape_of(x)[2:], kernel, stride, padding, dilation, strict=True)
    )


def max_pool(
    x: object, kernel: object, stride: object = (), padding: object = 0, dilation: object = 1, ceil_mode: bool = False
) -> Ops | None:
    """max_pool2d."""
    size, around = pair(kernel), pair(padding)
    step = pair(stride) if stride not in ((), [], None) else size
    if not is_real(x, 4):
        return None
    apart = pair(dilation)
    ceil = ceil_mode and not _reaches(x, size, step, around, apart)
    return (Pool(kind="max", kernel=size, stride=step, padding=around, dilation=apart, ceil=ceil),)


def avg_pool(
    x: object,
    kernel: object,
    stride: object = (),
    padding: object = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Ops | None:
    """avg_pool2d with its own divisors."""
    size, around = pair(kernel), pair(padding)
    step = pair(stride) if stride not in ((), [], None) else size
    if not is_real(x, 4) or divisor_override is not None:
        return None
    ceil, counts = ceil_mode and not _reaches(x, size, step, around), count_include_pad or around == (0, 0)
    return (Pool(kind="avg", kernel=size, stride=step, padding=around, ceil=ceil, count_padding=counts),)


def adaptive_avg_pool(x: object, size: object) -> Ops | None:
    """adaptive_avg_pool2d; where all windows are alike it is a plain pool."""
    if not is_real(x, 4):
        return None
    wanted, given = pair(size), shape_of(x)[2:]
    if wanted == given:
        return ()
    if wanted == (1, 1):
        return (Pool(kind="avg", kernel=None),)
    if any(there % want for there, want in zip(given, wanted, strict=True)):
        return (AdaptivePool(cells=wanted),)
    windows = (given[0] // wanted[0], given[1] // wanted[1])
    return (Pool(kind="avg", kernel=windows, stride=windows),)


def adaptive_max_pool(x: object, size: object) -> Ops | None:
    """adaptive_max_pool2d, where all windows are alike."""
    if not is_real(x, 4):
        return None
    wanted, given = pair(size), shape_of(x)[2:]
    if any(there % want for there, want in zip(given, wanted, strict=True)):
        return None
    windows = (given[0] // wanted[0], given[1] // wanted[1])
    return (Pool(kind="max", kernel=windows, stride=windows),)


def mean(x: object, dims: object = None, keepdim: bool = False, dtype: object = None) -> Ops | None:
    """The mean over the whole map."""
    if not is_real(x, 4) or not isinstance(dims, list | tuple) or sorted(axis % 4 for axis in dims) != [2, 3]:
        return None
    whole = Pool(kind="avg", kernel=None)
    return (whole,) if keepdim else (whole, Flatten())
