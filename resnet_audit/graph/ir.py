"""The network as data: a closed set of operations and the nodes that apply them.

An operation holds everything that decides what it computes and nothing that can be derived from it; what can be
derived (shapes, values, adjoints, norms) is a function elsewhere that dispatches on the operation. Tensors are in
torch's layout, (N, C, H, W) or (N, F); shapes of nodes leave the batch out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

ActivationKind = Literal[
    "relu",
    "relu6",
    "leaky_relu",
    "prelu",
    "elu",
    "selu",
    "gelu",
    "gelu_tanh",
    "silu",
    "mish",
    "hardswish",
    "tanh",
    "sigmoid",
    "hardsigmoid",
    "softplus",
]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Input:
    """The input of the network: real numbers, or, with a vocabulary, token numbers below it."""

    vocabulary: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Conv:
    """A zero-padded 2-D convolution. weight: (c_out, c_in / groups, kh, kw); bias: (c_out,)."""

    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Linear:
    """A linear layer on the last axis. weight: (f_out, f_in); bias: (f_out,)."""

    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Norm:
    """Batch normalisation in evaluation mode: (x - mean) / sqrt(var + eps) * weight + bias, per channel."""

    weight: Tensor | None
    bias: Tensor | None
    mean: Tensor
    var: Tensor
    eps: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Activation:
    """An elementwise nonlinearity. slope: of `leaky_relu` below 0, or the scale of `elu`.

    slopes: (C,), those of `prelu` below 0, one for each channel. They are parameters of the network, held fixed here.
    """

    kind: ActivationKind
    slope: float = 0.0
    slopes: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pool:
    """Max or average pooling; `kernel` None is the average over the whole map, giving (C, 1, 1).

    dilation: of maxima alone. ceil: the last window may reach beyond the padding, if it begins before the end of the
    map's own padding; an average does not count what lies beyond. count_padding: an average divides by the entries of
    its window with their padding, else by the pixels alone.
    """

    kind: Literal["max", "avg"]
    kernel: tuple[int, int] | None
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    ceil: bool = False
    count_padding: bool = True


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AdaptivePool:
    """The averages over windows that spread evenly over a map, of sizes that may differ and with some overlap.

    cells: rows and columns of the result. Of m windows on n pixels the i-th is [floor(i n / m), ceil((i + 1) n / m)).
    """

    cells: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Add:
    """The sum of any number of inputs of one shape."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Concat:
    """The concatenation of its inputs along the channels."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Multiply:
    """The elementwise product of its inputs."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scale:
    """The product with a constant: a number, or a tensor that broadcasts over the value with its batch."""

    factor: float | Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pad:
    """Zero channels put before and after those of its input."""

    before: int
    after: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Slice:
    """Every `step`-th row and column, from the first."""

    step: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Flatten:
    """All axes but the batch as one."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Permute:
    """The axes in another order; `dims` counts the batch as 0 and leaves it first."""

    dims: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class View:
    """The same numbers in another shape, without the batch."""

    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Opaque:
    """Any other operation, by its name in the source; a theory without a rule for it says so.

    function: its value from its inputs, constants and weights bound, differentiable; None where it cannot run.
    weights: the parameters that make it a weight layer (a 1-D convolution, an embedding); norms and gains are none.
    """

    name: str
    function: Callable[..., Tensor] | None = None
    weights: tuple[Tensor, ...] = ()


Reshape = Pad | Slice | Flatten | Permute | View
Op = (
    Input | Conv | Linear | Norm | Activation | Pool | AdaptivePool | Add | Concat | Multiply | Scale | Reshape | Opaque
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Node:
    """One operation applied to the values of `inputs`. A weight node carries its layer's name."""

    name: str
    op: Op
    inputs: tuple[str, ...] = ()
    shape: tuple[int, ...] | None = None


def is_weight(node: Node) -> bool:
    """Whether the node is a weight layer: a convolution, a linear layer or the like. Normalisation does not count."""
    return isinstance(node.op, Conv | Linear) or (isinstance(node.op, Opaque) and bool(node.op.weights))


def is_norm(node: Node) -> bool:
    """Whether the node normalises: over the batch's statistics, or per sample (layer, group, instance, RMS norm)."""
    return isinstance(node.op, Norm) or (isinstance(node.op, Opaque) and node.op.name.endswith("norm"))


def kind_of(op: Op) -> str:
    """The operation's name as people write it."""
    return op.name if isinstance(op, Opaque) else type(op).__name__.lower()


def consumers_of(nodes: tuple[Node, ...]) -> dict[str, list[tuple[Node, int]]]:
    """For each node's name, the nodes that read it, each with the position of that input."""
    found: dict[str, list[tuple[Node, int]]] = {node.name: [] for node in nodes}
    for node in nodes:
        for position, name in enumerate(node.inputs):
            found[name].append((node, position))
    return found
