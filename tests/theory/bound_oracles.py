"""Small networks, and the covering bound written a second time: plain numbers, no logarithms, one pass per error."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from resnet_audit.checkpoint import Checkpoint
from resnet_audit.graph.blocks import find_blocks
from resnet_audit.graph.from_weights import discover
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
from resnet_audit.graph.residual import ResidualGraph
from resnet_audit.graph.shapes import with_shapes
from resnet_audit.measure.subject import Subject
from resnet_audit.settings import Settings
from resnet_audit.theory.bound import analyse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor

    from resnet_audit.results import BoundResult

    State = dict[str, Tensor]
    Edge = tuple[str, int]

COVERS = ("operator", "patch", "operator_biases", "patch_biases")
RELU = Activation(kind="relu")
GLOBAL_MEAN = Pool(kind="avg", kernel=None)
ACTIVATE = {
    "relu": functional.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "hardsigmoid": functional.hardsigmoid,
    "softplus": functional.softplus,
}
SLOPE = {"relu": 1.0, "tanh": 1.0, "sigmoid": 1 / 4, "hardsigmoid": 1 / 6, "softplus": 1.0}
VALUE_AT_ZERO = {"sigmoid": 1 / 2, "hardsigmoid": 1 / 2, "softplus": math.log(2)}


# networks -----------------------------------------------------------------------------------------


def tensor(rng: np.random.Generator, *shape: int) -> Tensor:
    return torch.from_numpy(rng.standard_normal(shape))


def conv(weight: Tensor, bias: Tensor | None = None, stride: int = 1, groups: int = 1) -> Conv:
    """A convolution with 'same' padding."""
    padding = (weight.shape[2] // 2, weight.shape[3] // 2)
    return Conv(weight=weight, bias=bias, stride=(stride, stride), padding=padding, groups=groups)


def linear(*rows: tuple[float, ...], bias: tuple[float, ...] | None = None) -> Linear:
    shift = None if bias is None else torch.tensor(bias, dtype=torch.float64)
    return Linear(weight=torch.tensor(rows, dtype=torch.float64), bias=shift)


def scalar(weight: float, bias: float | None = None) -> Conv:
    """A 1x1 convolution of one channel."""
    shift = None if bias is None else torch.tensor([bias], dtype=torch.float64)
    return conv(torch.full((1, 1, 1, 1), weight, dtype=torch.float64), shift)


def graph_of(size: tuple[int, ...], *nodes: tuple[str, Op, str] | tuple[str, Op, str, str]) -> ResidualGraph:
    """A graph from (name, operation, inputs...); the input node is `input`."""
    placed = [Node(name="input", op=Input()), *(Node(name=n, op=op, inputs=tuple(i)) for n, op, *i in nodes)]
    shaped = with_shapes(tuple(placed), size)
    return ResidualGraph(source="weights", family=None, nodes=shaped, blocks=find_blocks(shaped, "graph"))


def norm_state(rng: np.random.Generator, name: str, channels: int) -> State:
    return {
        f"{name}.weight": torch.from_numpy(rng.uniform(0.5, 1.5, channels)),
        f"{name}.bias": tensor(rng, channels) / 2,
        f"{name}.running_mean": tensor(rng, channels) / 2,
        f"{name}.running_var": torch.from_numpy(rng.uniform(0.5, 2.0, channels)),
    }


def resnet_state(
    seed: int = 0, *, widths: Sequence[int] = (4, 6), depth: int = 2, channels: int = 3, projections: bool = False
) -> State:
    """A random post-activation ResNet in float64: one stage a width, `depth` basic blocks in each."""
    rng = np.random.default_rng(seed)
    state = {"conv1.weight": tensor(rng, widths[0], channels, 3, 3), **norm_state(rng, "bn1", widths[0])}
    before = widths[0]
    for stage, width in enumerate(widths, start=1):
        for index in range(depth):
            block = f"layer{stage}.{index}"
            for number, reads in ((1, before), (2, width)):
                state[f"{block}.conv{number}.weight"] = tensor(rng, width, reads, 3, 3) / 2
                state |= norm_state(rng, f"{block}.bn{number}", width)
            if projections and before != width:
                state[f"{block}.downsample.0.weight"] = tensor(rng, width, before, 1, 1)
                state |= norm_state(rng, f"{block}.downsample.1", width)
            before = width
    return {**state, "linear.weight": tensor(rng, 5, before), "linear.bias": tensor(rng, 5)}


def preact_state(seed: int = 0, *, width: int = 4) -> State:
    """A random pre-activation ResNet of two blocks and one width, with a final norm."""
    rng = np.random.default_rng(seed)
    state = {"conv1.weight": tensor(rng, width, 3, 3, 3)}
    for block in ("layer1.0", "layer1.1"):
        for number in (1, 2):
            state |= norm_state(rng, f"{block}.bn{number}", width)
            state[f"{block}.conv{number}.weight"] = tensor(rng, width, width, 3, 3) / 2
    return {**state, **norm_state(rng, "bn", width), "linear.weight": tensor(rng, 5, width)}


def checkpoint_of(state: State) -> Checkpoint:
    return Checkpoint(path="net.pt", sha256="", format="state dict", wrapper=None, prefix="", tensors=state)


def subject_of(
    source: State | ResidualGraph, size: tuple[int, ...] | None = (3, 8, 8), **settings: float | str | None
) -> Subject:
    chosen = Settings(threads=1, input_size=size, **settings)  # type: ignore[arg-type]
    graph = source if isinstance(source, ResidualGraph) else discover(checkpoint_of(source), chosen)
    return Subject(graph, chosen)


def bound_of(
    source: State | ResidualGraph, size: tuple[int, ...] | None = (3, 8, 8), **settings: float | str | None
) -> BoundResult:
    return analyse(subject_of(source, size, **settings))


def complexities(result: BoundResult) -> dict[str, float]:
    """ln C by cover."""
    assert result.covers is not None
    found = {name: getattr(result.covers, name).log10_spectral_complexity for name in COVERS}
    return {name: value * math.log(10) for name, value in found.items()}


def one_thread() -> Iterator[None]:
    """One library thread: on shared cores more are slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# the bound a second time --------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Weight:
    """What the cover of one weight node needs; windows and rows: what its input and the ones of a bias count there."""

    sigma: float
    b: float
    windows: float
    rows: int
    kappa: float
    bias: float
    positions: int


@dataclass(frozen=True, kw_only=True)
class Plain:
    """a_v and g_v of every weight node, the magnitude at its input relative to ||X||, and sqrt(R) / ||X||."""

    a: dict[str, float]
    g: dict[str, float]
    entering: dict[str, float]
    complexity: float


def kernel_and_bias(op: Conv | Linear | Norm) -> tuple[Tensor, Tensor]:
    if isinstance(op, Norm):
        scale = (1.0 if op.weight is None else op.weight) / (op.var + op.eps).sqrt()
        return scale[:, None], (0.0 if op.bias is None else op.bias) - op.mean * scale
    weight = op.weight.double()
    return weight, torch.zeros(len(weight), dtype=torch.float64) if op.bias is None else op.bias.double()


def weights_of(
    nodes: Sequence[Node], sigmas: Mapping[str, float], cover: str, reference: Mapping[str, Node] | None = None
) -> dict[str, Weight]:
    """The weight nodes' numbers by dense and slow means; only their spectral norms are taken as given."""
    shapes = {node.name: node.shape or () for node in nodes}
    patch, biased = cover.startswith("patch"), cover.endswith("biases")
    found = {}
    widest = max(
        max(math.prod(shapes[node.name]), math.prod(shapes[node.inputs[0]]))
        for node in nodes
        if isinstance(node.op, Conv | Linear | Norm)
    )
    for node in nodes:
        op, shape = node.op, shapes[node.name]
        if not isinstance(op, Conv | Linear | Norm):
            continue
        weight, bias = kernel_and_bias(op)
        shift = bias
        if reference is not None:
            origin = reference[node.name].op
            assert isinstance(origin, Conv | Linear | Norm)
            weight, shift = (one - other for one, other in zip((weight, bias), kernel_and_bias(origin), strict=True))
        positions = math.prod(shape[1:]) if len(shape) == 3 else 1
        energy = weight.square().flatten(1).sum(1, keepdim=True).expand(-1, 1 if patch else positions)
        windows = 1.0
        if isinstance(op, Conv):
            given = shapes[node.inputs[0]][1:]
            geometry = (op.stride, op.padding, op.dilation)
            image = torch.ones(1, 1, *given, dtype=torch.float64, requires_grad=True)
            functional.conv2d(image, torch.ones_like(op.weight[:1, :1]).double(), None, *geometry).sum().backward()
            if patch:
                windows = float(image.grad.max())
            else:
                seen = weight.square().sum(1, keepdim=True)
                energy = functional.conv2d(torch.ones_like(image), seen, None, *geometry)[0].flatten(1).detach()
        rows = energy + shift.square()[:, None] if biased else energy
        entries = weight.numel() + (len(weight) if biased else 0)
        found[node.name] = Weight(
            sigma=sigmas[node.name],
            b=float(rows.sqrt().sum()),
            windows=windows,
            rows=positions if patch else 1,
            kappa=math.log(2 * entries) if patch else math.log(2 * widest**2),
            bias=float(bias.norm()) if biased else 0.0,
            positions=positions,
        )
    return found


def plain_covering(
    nodes: Sequence[Node],
    weights: Mapping[str, Weight],
    *,
    per_example: float = 0.0,
    offsets: float = 0.0,
    drop: frozenset[Edge] = frozenset(),
) -> Plain:
    """The recursion of magnitudes and, once for every weight node, of an error of size 1 made there.

    per_example, offsets: sqrt(N) / ||X||, with which biases and values at 0 enter; 0 leaves them out.
    """
    size = magnitudes(nodes, weights, per_example, offsets, drop)
    a, g, seen = {}, {}, {}
    for node in nodes:
        if node.name in weights:
            weight = weights[node.name]
            seen[node.name] = size[node.inputs[0]]
            entering = weight.windows * size[node.inputs[0]] ** 2 + weight.rows * per_example**2
            a[node.name] = weight.b * math.sqrt(entering * weight.kappa)
            g[node.name] = errors(nodes, weights, {node.name: 1.0}, drop)[nodes[-1].name]
    return Plain(a=a, g=g, entering=seen, complexity=sum((a[v] * g[v]) ** (2 / 3) for v in a) ** 1.5)


def errors(
    nodes: Sequence[Node],
    weights: Mapping[str, Weight],
    made: Mapping[str, float],
    drop: frozenset[Edge] = frozenset(),
) -> dict[str, float]:
    """D_v of every node for errors `made` at the weight nodes."""
    return _recursion(nodes, weights, drop, 0.0, lambda node: made.get(node.name, 0.0))


def magnitudes(
    nodes: Sequence[Node],
    weights: Mapping[str, Weight],
    per_example: float,
    offsets: float,
    drop: frozenset[Edge] = frozenset(),
) -> dict[str, float]:
    """B_v / ||X|| of every node."""

    def plus(node: Node) -> float:
        if isinstance(node.op, Activation):
            return offsets * VALUE_AT_ZERO.get(node.op.kind, 0.0) * math.sqrt(math.prod(node.shape or ()))
        return per_example * weights[node.name].bias * math.sqrt(weights[node.name].positions)

    return _recursion(nodes, weights, drop, 1.0, plus)


def _recursion(
    nodes: Sequence[Node],
    weights: Mapping[str, Weight],
    drop: frozenset[Edge],
    start: float,
    plus: Callable[[Node], float],
) -> dict[str, float]:
    shapes = {node.name: node.shape or () for node in nodes}
    found: dict[str, float] = {}
    for node in nodes:
        terms = [found[name] for position, name in enumerate(node.inputs) if (node.name, position) not in drop]
        match node.op:
            case Input():
                found[node.name] = start
            case Conv() | Linear() | Norm():
                found[node.name] = weights[node.name].sigma * terms[0] + plus(node)
            case Concat():
                found[node.name] = math.sqrt(sum(term**2 for term in terms))
            case Pool(kind="avg", kernel=None):
                found[node.name] = terms[0] / math.sqrt(math.prod(shapes[node.inputs[0]][1:]))
            case Pool(kind="avg", kernel=(kh, kw), stride=(th, tw)) if (kh, kw) == (th, tw):
                found[node.name] = terms[0] / math.sqrt(kh * kw)
            case Pool(kind="max", kernel=(kh, kw), stride=(th, tw)):
                found[node.name] = terms[0] * math.sqrt(math.ceil(kh / th) * math.ceil(kw / tw))
            case Scale(factor=factor):
                found[node.name] = terms[0] * abs(factor)
            case Activation(kind=kind):
                found[node.name] = terms[0] * SLOPE[kind] + plus(node)
            case Add() | Flatten() | Pad() | Slice():
                found[node.name] = sum(terms)
            case op:
                raise TypeError(op)
    return found


def forward(nodes: Sequence[Node], x: Tensor) -> dict[str, Tensor]:
    """Every node's value, by torch's own functions."""
    values: dict[str, Tensor] = {}
    for node in nodes:
        given = [values[name] for name in node.inputs]
        match node.op:
            case Input():
                values[node.name] = x
            case Conv() as op:
                values[node.name] = functional.conv2d(
                    given[0], op.weight, op.bias, op.stride, op.padding, op.dilation, op.groups
                )
            case Linear() as op:
                values[node.name] = functional.linear(given[0], op.weight, op.bias)
            case Activation(kind=kind):
                values[node.name] = ACTIVATE[kind](given[0])
            case Add():
                values[node.name] = given[0] + given[1]
            case Scale(factor=factor):
                values[node.name] = given[0] * factor
            case Norm() as op:
                scale, shift = kernel_and_bias(op)
                values[node.name] = given[0] * scale[:, :, None] + shift[:, None, None]
            case Pool(kind="max") as op:
                values[node.name] = functional.max_pool2d(given[0], op.kernel, op.stride, op.padding)
            case Pool(kind="avg", kernel=(_, _)) as op:
                values[node.name] = functional.avg_pool2d(given[0], op.kernel, op.stride, op.padding)
            case Concat():
                values[node.name] = torch.cat(given, dim=1)
            case Pool(kind="avg", kernel=None):
                values[node.name] = functional.adaptive_avg_pool2d(given[0], 1)
            case Flatten():
                values[node.name] = given[0].flatten(1)
            case op:
                raise TypeError(op)
    return values


def dense_norm(op: Conv | Linear | Norm, given: tuple[int, ...]) -> float:
    """The l2 norm of a layer as a matrix, column by column."""
    if isinstance(op, Norm):
        return float(kernel_and_bias(op)[0].abs().max())
    if isinstance(op, Linear):
        return float(torch.linalg.matrix_norm(op.weight, 2))
    images = torch.eye(math.prod(given), dtype=torch.float64).reshape(-1, *given)
    columns = functional.conv2d(images, op.weight, None, op.stride, op.padding, op.dilation, op.groups)
    return float(torch.linalg.matrix_norm(columns.flatten(1), 2))
