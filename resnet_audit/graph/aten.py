"""From ATen's operations to the closed set: one table for every front end whose programs are written in ATen.

A rule reads the arguments of one operation under ATen's own order and names, and answers with the operations of the
closed set that do the same, or None where the closed set has none: an option outside it, a broadcast, a weight that is
itself computed. Then the operation stays what it is, under its own name, as a function with its constants bound.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor

from resnet_audit.graph import aten_layers as layers
from resnet_audit.graph import aten_shapes as shapes
from resnet_audit.graph.aten_arguments import Ops, is_live, leaves, lives, mapped
from resnet_audit.graph.ir import ActivationKind, Opaque

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


@dataclass(frozen=True, slots=True)
class _Slot:
    """The place of an input in the arguments of a bound function."""

    index: int


def convert(
    target: str, arguments: Sequence[object], keywords: Mapping[str, object], output: int | None = None
) -> tuple[Ops, tuple[str, ...]]:
    """The operations that do what ATen's `target` does, and the names of the nodes that the first of them reads.

    target: the name without overload (`conv2d`, `add_`), of another library with it (`torchvision::roi_align`).
    arguments, keywords: as ATen takes them, each a constant, a Live, or a list of these. output: which one of several.
    An operation that draws random numbers or reads its batch's statistics becomes one that cannot run.
    """
    inputs = [live.name for live in lives((arguments, keywords))]
    plain = _functional(target)
    rule = RULES.get(plain)
    fits = rule is not None and not output and _fits(rule, arguments, keywords)
    ops = rule(*arguments, **keywords) if rule is not None and fits else None
    if ops is None:
        ops = (bind(plain, operation(plain), arguments, keywords, output),)
    return ops, tuple(inputs if ops else inputs[:1])


def _fits(rule: Callable[..., Ops | None], arguments: Sequence[object], keywords: Mapping[str, object]) -> bool:
    """Whether a rule takes these arguments: another overload of the same name may have others."""
    try:
        inspect.signature(rule).bind(*arguments, **keywords)
    except TypeError:
        return False
    return True


def operation(target: str) -> Callable[..., Any]:
    """What torch calls by this name, for values that may lie otherwise in memory than they did in the program."""
    library, _, name = target.rpartition("::")
    found: Callable[..., Any] = getattr(getattr(torch.ops, library or "aten"), name)
    if target in VIEWS:
        return _reshape
    if target in CONTIGUOUS:
        return lambda x, *others, **keywords: found(x.contiguous(), *others, **keywords)
    return found


def _reshape(x: Tensor, size: torch.dtype | Sequence[int]) -> Tensor:
    return x.contiguous().view(size) if isinstance(size, torch.dtype) else x.reshape(tuple(size))


def bind(
    name: str,
    function: Callable[..., Any],
    arguments: Sequence[object],
    keywords: Mapping[str, object],
    output: int | None = None,
) -> Opaque:
    """The operation known only as a function: every Live an input, everything else bound.

    Floating constants, and floating dtypes that are asked for, follow the dtype of the first floating input.
    """
    count = iter(range(len(list(lives((arguments, keywords))))))
    template = mapped((tuple(arguments), dict(keywords)), lambda leaf: _Slot(next(count)) if is_live(leaf) else leaf)

    def value(*inputs: Tensor) -> Tensor:
        dtype = next((x.dtype for x in inputs if x.is_floating_point()), None)
        positional, named = mapped(template, lambda leaf: _filled(leaf, inputs, dtype))
        result = function(*positional, **named)
        found: Tensor = result if output is None else result[output]
        return found

    return Opaque(name=LENGTHS.get(name, name), function=value, weights=_weights(name, (arguments, keywords)))


def _filled(leaf: object, inputs: Sequence[Tensor], dtype: torch.dtype | None) -> object:
    match leaf:
        case _Slot(index=index):
            return inputs[index]
        case Tensor() if dtype is not None and leaf.is_floating_point():
            return leaf.to(dtype=dtype, device=inputs[0].device)
        case torch.dtype() if dtype is not None and leaf.is_floating_point:
            return dtype
    return leaf


def _weights(name: str, arguments: tuple[Sequence[object], Mapping[str, object]]) -> tuple[Tensor, ...]:
    """The matrices and kernels among the constants of an operation that multiplies with them."""
    if name not in WEIGHTED:
        return ()
    if name in {"addmm", "baddbmm"}:
        arguments = (arguments[0][1:], arguments[1])  # the first is what the product is added to
    return tuple(
        leaf for leaf in leaves(arguments) if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.ndim > 1
    )


def _functional(target: str) -> str:
    """The name of the operation that leaves its input alone: `add` for `add_`."""
    plain = target.removesuffix("_")
    return (
        plain if plain and not plain.endswith("_") and "::" not in plain and hasattr(torch.ops.aten, plain) else target
    )


RULES: dict[str, Callable[..., Ops | None]] = {
    **{kind: layers.activation(kind) for kind in get_args(ActivationKind)},
    "leaky_relu": layers.leaky_relu,
    "prelu": layers.prelu,
    "_prelu_kernel": layers.prelu,
    "elu": layers.elu,
    "gelu": layers.gelu,
    "softplus": layers.softplus,
    "clamp": layers.clamp,
    "clamp_min": layers.clamp,
    "hardtanh": layers.hardtanh,
    "conv2d": layers.conv,
    "_convolution": layers.convolution,
    "convolution": layers.convolution,
    "linear": layers.linear,
    "matmul": layers.matmul,
    "mm": layers.matmul,
    "addmm": layers.addmm,
    "batch_norm": layers.batch_norm,
    "native_batch_norm": layers.batch_norm,
    "cudnn_batch_norm": layers.batch_norm,
    "_native_batch_norm_legit_no_training": layers.frozen_norm,
    "_native_batch_norm_legit": layers.batch_statistics,
    "_native_batch_norm_legit_functional": layers.batch_statistics,
    "max_pool2d": layers.max_pool,
    "max_pool2d_with_indices": layers.max_pool,
    "avg_pool2d": layers.avg_pool,
    "adaptive_avg_pool2d": layers.adaptive_avg_pool,
    "_adaptive_avg_pool2d": layers.adaptive_avg_pool,
    "adaptive_max_pool2d": layers.adaptive_max_pool,
    "mean": layers.mean,
    "add": shapes.add,
    "mul": shapes.mul,
    "multiply": shapes.mul,
    "div": shapes.div,
    "true_divide": shapes.div,
    "neg": shapes.neg,
    "cat": shapes.cat,
    "concat": shapes.cat,
    "view": shapes.reshaped,
    "reshape": shapes.reshaped,
    "_unsafe_view": shapes.reshaped,
    "flatten": shapes.flatten,
    "squeeze": shapes.squeeze,
    "unsqueeze": shapes.unsqueeze,
    "expand": shapes.expand,
    "permute": shapes.permute,
    "transpose": shapes.transpose,
    "swapaxes": shapes.transpose,
    "slice": shapes.slice_of,
    "pad": shapes.pad,
    "constant_pad_nd": shapes.constant_pad,
    **dict.fromkeys(("alias", "clone", "contiguous", "detach", "lift_fresh", "lift_fresh_copy"), shapes.same),
    **dict.fromkeys(("to", "_to_copy", "type_as"), shapes.cast),
    **dict.fromkeys(
        ("dropout", "native_dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"), shapes.dropout
    ),
}
"""By ATen's name. What is not here, or what its rule declines, stays a function."""

VIEWS = frozenset({"view", "_unsafe_view"})
"""Operations that give up where the values do not lie in order."""

CONTIGUOUS = frozenset({"as_strided", "view_as_complex"})
"""Operations that read the values in the order in which they lie."""

WEIGHTED = frozenset(
    {
        *(f"conv{axes}d" for axes in (1, 2, 3)),
        *(f"conv_transpose{axes}d" for axes in (1, 2, 3)),
        *("convolution", "_convolution", "embedding", "linear", "bilinear", "lstm", "gru", "rnn_tanh", "rnn_relu"),
        *("matmul", "mm", "bmm", "addmm", "baddbmm", "einsum", "tensordot"),
    }
)
"""Operations that multiply with a matrix or a kernel: with a constant one they are weight layers."""

LENGTHS = {"norm": "length", "linalg_vector_norm": "vector_length", "linalg_norm": "linalg_length"}
"""Names that would read as a normalisation, which these are not."""

VALUE_FREE = frozenset(
    {
        *("zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full", "new_empty"),
        *("size", "sym_size", "dim", "numel", "sym_numel", "stride"),
    }
)
"""Operations that read of their input only its shape and dtype: their value does not depend on the network's input."""
