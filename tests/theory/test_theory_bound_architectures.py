"""The covering recursion on the architectures that it was not published for, against plain numbers and real values."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from bound_oracles import (
    COVERS,
    GLOBAL_MEAN,
    RELU,
    bound_of,
    complexities,
    conv,
    dense_norm,
    forward,
    graph_of,
    norm_state,
    one_thread,
    plain_covering,
    preact_state,
    resnet_state,
    subject_of,
    tensor,
    weights_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_audit.graph.ir import Activation, Add, Concat, Conv, Flatten, Linear, Norm, Pool, Scale
from resnet_audit.measure.lipschitz import log_lipschitz
from resnet_audit.theory.bound import analyse
from resnet_audit.theory.covering import coverings
from resnet_audit.theory.factors import factors_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from resnet_audit.graph.ir import ActivationKind, Node
    from resnet_audit.graph.residual import ResidualGraph

_one_thread = pytest.fixture(scope="module", autouse=True)(one_thread)
seeds = st.integers(0, 2**16)
few = settings(max_examples=10, deadline=None)


# networks -----------------------------------------------------------------------------------------


def norm(rng: np.random.Generator, channels: int) -> Norm:
    found = {name.rpartition(".")[2]: value for name, value in norm_state(rng, "norm", channels).items()}
    return Norm(
        weight=found["weight"], bias=found["bias"], mean=found["running_mean"], var=found["running_var"], eps=1e-5
    )


def resnext(seed: int) -> ResidualGraph:
    """Stem, max pooling, a bottleneck with grouped kernels and a projection, one with an identity, head; biases."""
    rng = np.random.default_rng(seed)

    def layer(outputs: int, inputs: int, extent: int, stride: int = 1, groups: int = 1) -> Conv:
        weight = tensor(rng, outputs, inputs // groups, extent, extent) / extent
        return conv(weight, tensor(rng, outputs), stride, groups)

    pool = Pool(kind="max", kernel=(3, 3), stride=(2, 2), padding=(1, 1))
    return graph_of(
        (2, 7, 7),
        ("stem", layer(4, 2, 3), "input"),
        ("pool", pool, "stem"),
        ("a1", layer(4, 4, 1), "pool"),
        ("a1.relu", RELU, "a1"),
        ("a2", layer(4, 4, 3, 2, 2), "a1.relu"),
        ("a2.relu", RELU, "a2"),
        ("a3", layer(6, 4, 1), "a2.relu"),
        ("projection", layer(6, 4, 1, 2), "pool"),
        ("sum1", Add(), "a3", "projection"),
        ("relu1", RELU, "sum1"),
        ("b1", layer(2, 6, 1), "relu1"),
        ("b1.relu", RELU, "b1"),
        ("b2", layer(2, 2, 3, 1, 2), "b1.relu"),
        ("b3", layer(6, 2, 1), "b2"),
        ("sum2", Add(), "relu1", "b3"),
        ("mean", GLOBAL_MEAN, "sum2"),
        ("flat", Flatten(), "mean"),
        ("fc", Linear(weight=tensor(rng, 3, 6), bias=tensor(rng, 3)), "flat"),
    )


def densenet(seed: int) -> ResidualGraph:
    """Two dense blocks of pre-activation bottlenecks, a transition with average pooling between, a norm at the end."""
    rng = np.random.default_rng(seed)
    nodes = [("stem", conv(tensor(rng, 3, 2, 3, 3) / 3), "input")]
    last, channels = "stem", 3
    for block in ("a", "b"):
        for index in range(2):
            name = f"{block}{index}"
            nodes += [
                (f"{name}.norm", norm(rng, channels), last),
                (f"{name}.relu", RELU, f"{name}.norm"),
                (f"{name}.narrow", conv(tensor(rng, 2, channels, 1, 1) / 2), f"{name}.relu"),
                (f"{name}.again", RELU, f"{name}.narrow"),
                (f"{name}.conv", conv(tensor(rng, 1, 2, 3, 3) / 3), f"{name}.again"),
                (f"{name}.cat", Concat(), last, f"{name}.conv"),
            ]
            last, channels = f"{name}.cat", channels + 1
        if block == "a":
            nodes += [
                ("t.norm", norm(rng, channels), last),
                ("t.conv", conv(tensor(rng, 3, channels, 1, 1)), "t.norm"),
                ("t.pool", Pool(kind="avg", kernel=(2, 2), stride=(2, 2)), "t.conv"),
            ]
            last, channels = "t.pool", 3
    head = Linear(weight=tensor(rng, 3, channels), bias=None)
    return graph_of(
        (2, 6, 6),
        *nodes,
        ("norm", norm(rng, channels), last),
        ("relu", RELU, "norm"),
        ("mean", GLOBAL_MEAN, "relu"),
        ("flat", Flatten(), "mean"),
        ("fc", head, "flat"),
    )


def offset_net(seed: int, kind: ActivationKind = "sigmoid") -> ResidualGraph:
    """A residual net whose activations are not 0 at 0, with a scaled branch."""
    rng = np.random.default_rng(seed)

    def layer() -> Conv:
        return conv(tensor(rng, 2, 2, 3, 3) / 2, tensor(rng, 2))

    return graph_of(
        (2, 4, 4),
        ("stem", layer(), "input"),
        ("act", Activation(kind=kind), "stem"),
        ("one", layer(), "act"),
        ("inner", Activation(kind="softplus"), "one"),
        ("two", layer(), "inner"),
        ("scaled", Scale(factor=-0.3), "two"),
        ("sum", Add(), "scaled", "act"),
        ("last", Activation(kind="hardsigmoid"), "sum"),
        ("mean", GLOBAL_MEAN, "last"),
        ("flat", Flatten(), "mean"),
        ("fc", Linear(weight=tensor(rng, 3, 2), bias=None), "flat"),
    )


def preact(seed: int) -> ResidualGraph:
    return subject_of(preact_state(seed, width=2), (3, 6, 6)).graph


NETS = [resnext, densenet, offset_net, preact]
nets = pytest.mark.parametrize("net", NETS, ids=lambda net: net.__name__)


# against plain numbers ----------------------------------------------------------------------------


@nets
@pytest.mark.parametrize("cover", COVERS)
@pytest.mark.parametrize("x_rms", [1.0, 0.25])
def test_a_net_has_the_complexity_of_the_plain_recursion(
    net: Callable[[int], ResidualGraph], cover: str, x_rms: float
) -> None:
    graph = net(3)
    subject = subject_of(graph, graph.input_size, x_rms=x_rms)
    unit = 1 / (x_rms * math.sqrt(math.prod(graph.input_size)))
    biased = cover.endswith("biases")
    weights = weights_of(subject.folded, subject.norms, cover)
    plain = plain_covering(subject.folded, weights, per_example=unit * biased, offsets=unit)
    assert complexities(analyse(subject))[cover] == pytest.approx(math.log(plain.complexity), abs=1e-10)


@nets
def test_what_the_covering_says_of_a_layer_is_what_the_plain_recursion_says(
    net: Callable[[int], ResidualGraph],
) -> None:
    graph = net(5)
    subject = subject_of(graph, graph.input_size)
    factors = factors_of(subject.folded, subject.norms)
    for variant, found in coverings(subject.folded, factors, log_bias_unit=math.log(0.2)).items():
        cover = f"{variant.cover}{'_biases' * variant.biases}"
        weights = weights_of(subject.folded, subject.norms, cover)
        plain = plain_covering(subject.folded, weights, per_example=0.2 * variant.biases, offsets=0.2)
        assert {v: math.exp(value) for v, value in found.log_growth.items()} == pytest.approx(plain.g, rel=1e-9)
        assert {v: math.exp(value) for v, value in found.log_entering.items()} == pytest.approx(plain.entering)
        terms = {v: (plain.a[v] * plain.g[v]) ** (2 / 3) for v in plain.a}
        shares = {v: term / sum(terms.values()) for v, term in terms.items()}
        assert found.share == pytest.approx(shares, rel=1e-9)


# against real values ------------------------------------------------------------------------------


def dense_norms(nodes: tuple[Node, ...]) -> dict[str, float]:
    shapes = {node.name: node.shape or () for node in nodes}
    return {
        node.name: dense_norm(node.op, shapes[node.inputs[0]])
        for node in nodes
        if isinstance(node.op, Conv | Linear | Norm)
    }


@nets
@given(seed=seeds, size=st.floats(0.01, 100))
@few
def test_no_value_is_larger_than_its_magnitude(net: Callable[[int], ResidualGraph], seed: int, size: float) -> None:
    graph = net(seed)
    nodes = subject_of(graph, graph.input_size).folded
    x = size * tensor(np.random.default_rng(seed + 1), 3, *graph.input_size)
    values = forward(nodes, x)
    unit = 0.5 * math.log(3) - math.log(float(x.norm()))
    found = coverings(nodes, factors_of(nodes, dense_norms(nodes)), log_bias_unit=unit)
    for variant, covering in found.items():
        for node in nodes:
            if variant.biases and node.name in covering.log_entering:
                allowed = math.exp(covering.log_entering[node.name]) * float(x.norm())
                assert float(values[node.inputs[0]].norm()) <= allowed * (1 + 1e-9)


def changed(nodes: tuple[Node, ...], rng: np.random.Generator, size: float) -> tuple[Node, ...]:
    """The nodes with all kernels, matrices and scales moved, biases as they are."""

    def change(node: Node) -> Node:
        if not isinstance(node.op, Conv | Linear | Norm):
            return node
        assert node.op.weight is not None
        moved = node.op.weight + size * tensor(rng, *node.op.weight.shape)
        if isinstance(node.op, Norm):  # about a mean of 0, so that its shift stays
            shift = node.op.bias - node.op.mean * node.op.weight / (node.op.var + node.op.eps).sqrt()
            return replace(node, op=replace(node.op, weight=moved, bias=shift, mean=torch.zeros_like(node.op.mean)))
        return replace(node, op=replace(node.op, weight=moved))

    return tuple(change(node) for node in nodes)


@nets
@given(seed=seeds, size=st.floats(1e-3, 1))
@few
def test_changed_layers_move_the_output_by_no_more_than_their_errors_times_their_growth(
    net: Callable[[int], ResidualGraph], seed: int, size: float
) -> None:
    graph = net(seed)
    nodes = subject_of(graph, graph.input_size).folded
    rng = np.random.default_rng(seed)
    other = changed(nodes, rng, size)
    x = tensor(rng, 3, *graph.input_size)
    one, two = forward(nodes, x), forward(other, x)
    factors = factors_of(nodes, dense_norms(nodes))
    growth = next(iter(coverings(nodes, factors).values())).log_growth
    allowed = 0.0
    for node in nodes:
        if node.name in factors:
            apart = forward([nodes[0], replace(node, inputs=(nodes[0].name,))], two[node.inputs[0]])[node.name]
            allowed += float((two[node.name] - apart).norm()) * math.exp(growth[node.name])
    moved = float((one[graph.output] - two[graph.output]).norm())
    assert 0 < moved <= allowed * (1 + 1e-9)


@nets
@given(seed=seeds)
@few
def test_no_jacobian_is_larger_than_the_lipschitz_constant(net: Callable[[int], ResidualGraph], seed: int) -> None:
    graph = net(seed)
    subject = subject_of(graph, graph.input_size)
    nodes = subject.folded
    x = tensor(np.random.default_rng(seed + 1), *graph.input_size)

    def logits(given: Tensor) -> Tensor:
        return forward(nodes, given[None])[graph.output][0]

    jacobian = torch.autograd.functional.jacobian(logits, x).flatten(1)
    found = subject.log10_lipschitz()
    assert found is not None
    assert float(torch.linalg.matrix_norm(jacobian, 2)) <= 10**found * (1 + 1e-9)
    # The recursion of errors and that of Lipschitz constants are one: an error at the input grows by the latter.
    logs = log_lipschitz(nodes, subject.log_norms, nodes[0].name, shapes={n.name: n.shape or () for n in nodes})
    growth = next(iter(coverings(nodes, factors_of(nodes, subject.norms)).values())).log_growth
    first = next(node.name for node in nodes if node.name in growth)
    assert logs[graph.output] <= growth[first] + subject.log_norms[first] + 1e-9


# offsets ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "slope", "value"), [("sigmoid", 1 / 4, 1 / 2), ("softplus", 1.0, math.log(2))])
def test_an_activation_that_is_not_zero_at_zero_adds_its_value_everywhere(
    kind: ActivationKind, slope: float, value: float
) -> None:
    # Weight 3, activation, weight 2 on 2x2 pixels of rms 1: sqrt(N) / ||X|| = 1/2, and the second layer sees
    # 3 slope + value * sqrt(4) * 1/2 = 3 slope + value; its (2,1) norm is 2 for patches, 4 times that for rows.
    graph = graph_of(
        (1, 2, 2),
        ("first", conv(torch.full((1, 1, 1, 1), 3.0, dtype=torch.float64)), "input"),
        ("act", Activation(kind=kind), "first"),
        ("second", conv(torch.full((1, 1, 1, 1), 2.0, dtype=torch.float64)), "act"),
    )
    found = complexities(bound_of(graph, (1, 2, 2)))
    terms = (3 * slope * 2) ** (2 / 3) + (2 * (3 * slope + value)) ** (2 / 3)
    assert math.exp(found["patch"]) == pytest.approx(terms**1.5 * math.sqrt(math.log(2)))
    assert math.exp(found["operator"]) == pytest.approx(4 * terms**1.5 * math.sqrt(math.log(2 * 4**2)))


def test_an_offset_adds_nothing_to_an_error() -> None:
    graphs = [offset_net(1, kind) for kind in ("sigmoid", "tanh")]
    growths = []
    for graph in graphs:
        subject = subject_of(graph, graph.input_size)
        found = coverings(subject.folded, factors_of(subject.folded, subject.norms), log_bias_unit=5.0)
        growths.append(next(iter(found.values())).log_growth)
    # Only the slope of the first activation, 1/4 for 1, stands between the stem and the output.
    assert growths[0]["stem"] == pytest.approx(growths[1]["stem"] - math.log(4), abs=1e-12)
    assert {v: g for v, g in growths[0].items() if v != "stem"} == {v: g for v, g in growths[1].items() if v != "stem"}


def test_every_architecture_has_advice_for_every_layer() -> None:
    for graph in [*(net(0) for net in NETS), subject_of(resnet_state(projections=True)).graph]:
        for layer in bound_of(graph, graph.input_size).layers:
            assert layer.sensitivity is not None
            for value in (layer.sensitivity.operator, layer.sensitivity.patch):
                assert value is not None
                assert 0 < value < 1 + 1e-9
