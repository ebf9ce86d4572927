"""The arguments of an ATen operation: values of earlier nodes, constants, and nestings of these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

from torch import Tensor

from resnet_audit.graph.ir import Op

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Ops = tuple[Op, ...]
"""Operations applied one after the other; none is the value of the first input, unchanged."""


@dataclass(frozen=True, slots=True, eq=False)
class Live:
    """An argument that is the value of an earlier node; of `value`, real or fake, only shape and dtype are read."""

    name: str
    value: Tensor


def leaves(tree: object) -> Iterator[object]:
    """All arguments that are no nesting, in order."""
    match tree:
        case list() | tuple():
            for branch in tree:
                yield from leaves(branch)
        case dict():
            yield from leaves(list(tree.values()))
        case _:
            yield tree


def lives(tree: object) -> Iterator[Live]:
    """All values of earlier nodes among the arguments, in order."""
    return (leaf for leaf in leaves(tree) if isinstance(leaf, Live))


def mapped(tree: Any, function: Callable[[object], object]) -> Any:  # noqa: ANN401 (any nesting, and it stays as it is)
    """The same nesting with `function` of every leaf."""
    match tree:
        case list() | tuple():
            return type(tree)(mapped(branch, function) for branch in tree)
        case dict():
            return {key: mapped(branch, function) for key, branch in tree.items()}
        case _:
            return function(tree)


def is_live(x: object) -> TypeGuard[Live]:
    """Whether `x` is the value of a node."""
    return isinstance(x, Live)


def is_real(x: object, ndim: int | None = None) -> TypeGuard[Live]:
    """Whether `x` is the real value of a node, of `ndim` axes."""
    return is_live(x) and x.value.is_floating_point() and ndim in {None, x.value.ndim}


def is_constant(x: object, ndim: int) -> TypeGuard[Tensor]:
    """Whether `x` is a constant tensor of `ndim` axes."""
    return isinstance(x, Tensor) and x.ndim == ndim


def is_bias(x: object) -> TypeGuard[Tensor | None]:
    """Whether `x` is a constant vector, or absent."""
    return x is None or is_constant(x, 1)


def is_number(x: object) -> TypeGuard[float]:
    """Whether `x` is a number."""
    return isinstance(x, int | float) and not isinstance(x, bool)


def pair(numbers: Any) -> tuple[int, int]:  # noqa: ANN401 (ATen takes an int, or a list of one or two)
    """Two numbers; one stands for both."""
    listed = [numbers] if isinstance(numbers, int) else list(numbers)
    return (int(listed[0]), int(listed[-1]))


def shape_of(x: Live) -> tuple[int, ...]:
    """The shape, batch included."""
    return tuple(int(size) for size in x.value.shape)
