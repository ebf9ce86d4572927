"""Writing the nodes of a recognised family: one value after the other, every tensor of the file taken exactly once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch.nn import functional as F

from resnet_audit.graph.execute import like
from resnet_audit.graph.families_plan import BOOKKEEPING, NotThisFamily
from resnet_audit.graph.ir import (
    Activation,
    ActivationKind,
    Add,
    Conv,
    Flatten,
    Input,
    Linear,
    Multiply,
    Node,
    Norm,
    Op,
    Opaque,
    Pool,
    Scale,
    View,
)
from resnet_audit.graph.shapes import shape_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

BATCH_NORM_EPS = 1e-5
"""torch's default, not stored in a state dict."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A complete network of a known family, with every fact that the file does not hold in words."""

    family: str
    nodes: tuple[Node, ...]
    assumptions: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What a family may use: the tensors of a file, the input size asked for, the configuration beside the weights."""

    tensors: Mapping[str, Tensor]
    input_size: tuple[int, ...] | None
    config: Mapping[str, object]

    def number(self, *names: str) -> int | None:
        """The first of these entries of the configuration that is a positive whole number."""
        found = (self.config.get(name) for name in names)
        return next((value for value in found if type(value) is int and value > 0), None)


class Writer:
    """Writes nodes in order, with `last` the newest value; a tensor that was used leaves `rest`."""

    def __init__(self, given: Given, input_size: tuple[int, ...], origin: str, vocabulary: int | None = None) -> None:
        self.rest = {key: tensor for key, tensor in given.tensors.items() if not BOOKKEEPING.search(key)}
        self.layers = {key.rpartition(".")[0] for key, tensor in self.rest.items() if tensor.ndim > 1}
        self.input_size = given.input_size or input_size
        self.nodes: list[Node] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        origin = "given" if given.input_size else origin
        self.assumptions = [f"input size {'x'.join(map(str, self.input_size))} ({origin})"]
        self.last = ""
        self.add("input", Input(vocabulary=vocabulary))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the last value."""
        return self.shapes[self.last]

    def assume(self, *texts: str) -> None:
        """List facts that the weights do not hold."""
        self.assumptions.extend(texts)

    def add(self, name: str, op: Op, *inputs: str, shape: tuple[int, ...] | None = None) -> str:
        """Append a node that reads `inputs`, by default the last value; it is the new last value."""
        while name in self.shapes or (name in self.layers and not isinstance(op, Conv | Linear | Norm | Opaque)):
            name += "_"
        node = Node(name=name, op=op, inputs=inputs or ((self.last,) if self.nodes else ()), shape=shape)
        known = [self.shapes[source] for source in node.inputs]
        found = self.input_size if isinstance(op, Input) else shape_of(node, known, self.input_size)
        self.nodes.append(Node(name=name, op=op, inputs=node.inputs, shape=found))
        self.shapes[name] = found
        self.last = name
        return name

    def has(self, key: str) -> bool:
        """Whether a tensor is there and not yet used."""
        return key in self.rest

    def take(self, key: str, *shape: int) -> Tensor:
        """A tensor, of this shape if one is given. Raises NotThisFamily."""
        if key not in self.rest:
            raise NotThisFamily(f"{key} is not in the file")
        tensor = self.rest.pop(key)
        if shape and tuple(tensor.shape) != shape:
            size, wanted = ("x".join(map(str, sizes)) for sizes in (tensor.shape, shape))
            raise NotThisFamily(f"{key} is {size} where {wanted} was expected")
        return tensor

    def maybe(self, key: str, *shape: int) -> Tensor | None:
        """A tensor if it is there."""
        return self.take(key, *shape) if key in self.rest else None

    def recipe(self, family: str) -> Recipe:
        """What was written. Raises NotThisFamily if tensors are left."""
        if self.rest:
            left = sorted(self.rest)
            more = f" and {len(left) - 1} more" if len(left) > 1 else ""
            raise NotThisFamily(f"{left[0]}{more} has no part in a {family}")
        return Recipe(family=family, nodes=tuple(self.nodes), assumptions=tuple(self.assumptions))

    # layers -------------------------------------------------------------------------------------------------------

    def conv(self, name: str, source: str | None = None, *, stride: int = 1, padding: int | None = None) -> str:
        """A convolution, by default with 'same' padding; its groups are what its kernel leaves of the channels."""
        source = source or self.last
        weight, channels = self.take(f"{name}.weight"), self.shapes[source][0]
        if weight.ndim != 4 or channels % weight.shape[1] or weight.shape[0] % (channels // weight.shape[1]):
            raise NotThisFamily(f"{name} cannot read the {channels} channels that reach it")
        if padding is None and (weight.shape[2] % 2 == 0 or weight.shape[3] % 2 == 0):
            raise NotThisFamily(f"{name} has an even-sized kernel, whose padding is not stored")
        height, width = (size // 2 if padding is None else padding for size in weight.shape[2:])
        op = Conv(
            weight=weight,
            bias=self.maybe(f"{name}.bias", weight.shape[0]),
            stride=(stride, stride),
            padding=(height, width),
            groups=channels // weight.shape[1],
        )
        return self.add(name, op, source)

    def linear(self, name: str, source: str | None = None, *, turned: bool = False) -> str:
        """A linear layer; `turned` if its weight is stored as (f_in, f_out)."""
        source = source or self.last
        weight = self.take(f"{name}.weight")
        if weight.ndim != 2:
            raise NotThisFamily(f"{name} is no linear layer")
        weight = weight.T if turned else weight
        return self.matrix(name, weight, self.maybe(f"{name}.bias", weight.shape[0]), source)

    def matrix(self, name: str, weight: Tensor, bias: Tensor | None, source: str | None = None) -> str:
        """A linear layer of these weights."""
        source = source or self.last
        if weight.shape[1] != self.shapes[source][-1]:
            raise NotThisFamily(f"{name} reads {weight.shape[1]} numbers and {self.shapes[source][-1]} reach it")
        return self.add(name, Linear(weight=weight, bias=bias), source)

    def batch_norm(self, name: str, source: str | None = None, eps: float = BATCH_NORM_EPS) -> str:
        """A batch normalisation in evaluation mode."""
        source = source or self.last
        channels = self.shapes[source][0]
        mean, var = (self.take(f"{name}.running_{what}", channels) for what in ("mean", "var"))
        weight, bias = (self.maybe(f"{name}.{what}", channels) for what in ("weight", "bias"))
        if (weight is None) != (bias is None):
            raise NotThisFamily(f"{name} has only one of gain and offset")
        return self.add(name, Norm(weight=weight, bias=bias, mean=mean, var=var, eps=eps), source)

    def layer_norm(self, name: str, source: str | None = None, *, eps: float, channels_first: bool = False) -> str:
        """A layer normalisation over the last axis, or over the channels of a map."""
        source = source or self.last
        shape = self.shapes[source]
        width = shape[0] if channels_first else shape[-1]
        weight, bias = self.take(f"{name}.weight", width), self.maybe(f"{name}.bias", width)

        def value(x: Tensor) -> Tensor:
            x = x.movedim(1, -1) if channels_first else x
            x = F.layer_norm(x, (width,), like(weight, x), None if bias is None else like(bias, x), eps)
            return x.movedim(-1, 1) if channels_first else x

        return self.add(name, Opaque(name="layer_norm", function=value), source, shape=shape)

    def activation(self, kind: ActivationKind, source: str | None = None) -> str:
        """An activation, named after what it reads."""
        source = source or self.last
        return self.add(f"{source}.{kind}", Activation(kind=kind), source)

    def scale(self, key: str, source: str | None = None, *, channels_first: bool = False) -> str:
        """The product with a learned vector, one factor for each channel."""
        source = source or self.last
        factor = self.take(key)
        width = self.shapes[source][0 if channels_first else -1]
        if factor.numel() != width:
            raise NotThisFamily(f"{key} has {factor.numel()} factors for {width} channels")
        factor = factor.reshape(width, 1, 1) if channels_first else factor.reshape(width)
        return self.add(key, Scale(factor=factor), source)

    def sum(self, name: str, branch: str, skip: str) -> str:
        """The sum of a branch and a shortcut. Raises NotThisFamily where they differ in shape."""
        if self.shapes[branch] != self.shapes[skip]:
            raise NotThisFamily(f"branch and shortcut of {name} differ in shape")
        return self.add(f"{name}.add", Add(), branch, skip)

    def gate(self, name: str, squeeze: str, excite: str, kinds: tuple[ActivationKind, ActivationKind]) -> str:
        """The last value times what two pointwise convolutions make of its averages."""
        value = self.last
        self.add(f"{name}.squeeze", Pool(kind="avg", kernel=None))
        for layer, kind in zip((squeeze, excite), kinds, strict=True):
            self.conv(layer)
            self.activation(kind)
        return self.add(f"{name}.gate", Multiply(), value, self.last)

    def pooled(self) -> str:
        """The average of the last map over all its positions, as a vector."""
        self.assume("the last map is averaged over all positions before the head")
        self.add("pool", Pool(kind="avg", kernel=None))
        return self.add("flatten", Flatten())

    def view(self, name: str, *shape: int) -> str:
        """The last value in another shape."""
        return self.add(name, View(shape=shape))
