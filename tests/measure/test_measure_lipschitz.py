"""Every certified Lipschitz constant against dense operators, and whole networks against their Jacobians."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from measure_oracles import (
    GLOBAL_MEAN,
    RELU,
    conv,
    dense,
    forward,
    jacobian,
    nodes_of,
    one_thread,
    scalar,
    small_resnet,
    tensor,
    value_of,
)

from resnet_audit.errors import NoRule
from resnet_audit.graph.blocks import find_blocks
from resnet_audit.graph.ir import (
    Add,
    Concat,
    Conv,
    Flatten,
    Linear,
    Multiply,
    Node,
    Norm,
    Op,
    Opaque,
    Pad,
    Pool,
    Scale,
    Slice,
)
from resnet_audit.graph.residual import ResidualGraph
from resnet_audit.measure.lipschitz import log, log_constant, log_lipschitz
from resnet_audit.measure.subject import Subject
from resnet_audit.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

_one_thread = pytest.fixture(scope="module", autouse=True)(one_thread)

few = settings(max_examples=40, deadline=None)
seeds = st.integers(0, 2**16)
pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


def constant(op: Op, given: tuple[int, ...]) -> float:
    """The rule's constant of one operation for inputs of one shape."""
    (_, node) = nodes_of(given, ("node", op, "input"))
    return math.exp(log_constant(node, [given]))


def norm(matrix: Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix, 2))


def certified(nodes: Sequence[Node], start: str = "input") -> dict[str, float]:
    """Lipschitz bounds of all nodes that have one, with the norms of the layers from dense matrices."""
    shapes = {node.name: node.shape or () for node in nodes}
    layers = {}
    for node in nodes:
        if isinstance(node.op, Conv | Linear):
            unbiased = type(node.op)(
                **{name: getattr(node.op, name) for name in node.op.__slots__ if name != "bias"}, bias=None
            )
            layers[node.name] = log(norm(dense(unbiased, shapes[node.inputs[0]])))
        elif isinstance(node.op, Norm):
            gamma = torch.ones_like(node.op.var) if node.op.weight is None else node.op.weight
            layers[node.name] = log(float((gamma / (node.op.var + node.op.eps).sqrt()).abs().max()))
    found = log_lipschitz(nodes, layers, start, shapes=shapes)
    return {name: math.exp(value) for name, value in found.items()}


# one operation ------------------------------------------------------------------------------------


@given(size=st.tuples(st.integers(1, 9), st.integers(1, 9)), kernel=pairs, stride=pairs, data=st.data())
@few
def test_average_pooling_is_below_its_constant(
    size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], data: st.DataObject
) -> None:
    padding = tuple(data.draw(st.integers(0, k // 2)) for k in kernel)
    assume(all(n + 2 * p >= k for n, p, k in zip(size, padding, kernel, strict=True)))
    op = Pool(kind="avg", kernel=kernel, stride=stride, padding=(padding[0], padding[1]))
    assert norm(dense(op, (1, *size))) <= constant(op, (1, *size)) * (1 + 1e-12)


@given(kernel=pairs, windows=st.tuples(st.integers(1, 3), st.integers(1, 3)))
@few
def test_average_pooling_without_overlap_attains_its_constant(
    kernel: tuple[int, int], windows: tuple[int, int]
) -> None:
    op = Pool(kind="avg", kernel=kernel, stride=kernel)
    size = (2, kernel[0] * windows[0], kernel[1] * windows[1])
    assert norm(dense(op, size)) == pytest.approx(constant(op, size), rel=1e-12)
    assert constant(op, size) == pytest.approx(1 / math.sqrt(math.prod(kernel)))


@given(height=st.integers(1, 9), width=st.integers(1, 9))
@few
def test_the_mean_over_a_map_has_one_over_the_root_of_its_positions(height: int, width: int) -> None:
    size = (2, height, width)
    assert constant(GLOBAL_MEAN, size) == pytest.approx(norm(dense(GLOBAL_MEAN, size)), rel=1e-12)
    assert constant(GLOBAL_MEAN, size) == pytest.approx(1 / math.sqrt(height * width))


@given(size=st.tuples(st.integers(3, 7), st.integers(3, 7)), kernel=pairs, stride=pairs, seed=seeds)
@few
def test_max_pooling_stretches_no_difference_beyond_its_constant(
    size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], seed: int
) -> None:
    op = Pool(kind="max", kernel=kernel, stride=stride, padding=(kernel[0] // 2, kernel[1] // 2))
    rng = np.random.default_rng(seed)
    x = tensor(rng, 200, 1, *size) * torch.from_numpy(rng.choice([1e-3, 1.0, 30.0], (200, 1, 1, 1)))
    spikes = torch.eye(math.prod(size), dtype=torch.float64).reshape(-1, 1, *size)
    one, two = torch.cat([x[:100], spikes]), torch.cat([x[100:], torch.zeros_like(spikes)])
    stretch = (value_of(op, [one]) - value_of(op, [two])).flatten(1).norm(dim=1) / (one - two).flatten(1).norm(dim=1)
    assert float(stretch.max()) <= constant(op, (1, *size)) * (1 + 1e-12)


@pytest.mark.parametrize(
    ("kernel", "stride", "expected"), [((3, 3), (2, 2), 2.0), ((2, 2), (2, 2), 1.0), ((3, 2), (1, 1), 6**0.5)]
)
def test_a_single_pixel_attains_the_constant_of_max_pooling(
    kernel: tuple[int, int], stride: tuple[int, int], expected: float
) -> None:
    op = Pool(kind="max", kernel=kernel, stride=stride)
    spikes = torch.eye(49, dtype=torch.float64).reshape(-1, 1, 7, 7)
    attained = float(value_of(op, [spikes]).flatten(1).norm(dim=1).max())
    assert attained == pytest.approx(expected)
    assert constant(op, (1, 7, 7)) == pytest.approx(expected)


@pytest.mark.parametrize(
    "op",
    [Pad(before=1, after=2), Slice(step=(2, 2)), Slice(step=(3, 1)), Flatten(), Scale(factor=-2.5), Scale(factor=0.25)],
    ids=["pad", "slice", "slice of rows", "flatten", "scale", "small scale"],
)
def test_fixed_operations_have_the_norm_of_their_matrix(op: Op) -> None:
    size = (2, 4, 5)
    matrix = dense(op, size)
    assert constant(op, size) == pytest.approx(norm(matrix), rel=1e-12)


def test_a_scale_of_zero_leaves_nothing() -> None:
    nodes = nodes_of((1, 2, 2), ("zero", Scale(factor=0.0), "input"), ("sum", Add(), "zero", "input"))
    found = log_lipschitz(nodes, {}, "input", shapes={node.name: node.shape or () for node in nodes})
    assert found == {"input": 0.0, "zero": -math.inf, "sum": 0.0}


@given(seed=seeds, stretch=st.floats(0.1, 10))
@few
def test_rectifying_stretches_nothing(seed: int, stretch: float) -> None:
    x, y = (tensor(np.random.default_rng([seed, i]), 50, 4) * stretch for i in (0, 1))
    moved = (value_of(RELU, [x]) - value_of(RELU, [y])).norm(dim=1)
    assert bool((moved <= (x - y).norm(dim=1) * constant(RELU, (1, 2, 2)) * (1 + 1e-12)).all())


@pytest.mark.parametrize("op", [Multiply(), Opaque(name="softmax")], ids=["product", "unknown"])
def test_there_is_no_rule_for_what_is_no_contraction(op: Op) -> None:
    with pytest.raises(NoRule, match="Lipschitz"):
        log_constant(Node(name="node", op=op, inputs=("input",), shape=(1, 2, 2)), [(1, 2, 2)])


# joins and whole graphs ---------------------------------------------------------------------------


@given(seed=seeds)
@few
def test_sums_and_concatenations_are_above_their_dense_operators(seed: int) -> None:
    rng = np.random.default_rng(seed)
    nodes = nodes_of(
        (2, 4, 4),
        ("a", conv(tensor(rng, 2, 2, 3, 3)), "input"),
        ("b", conv(tensor(rng, 2, 2, 1, 1)), "a"),
        ("sum", Add(), "a", "b"),
        ("sum3", Add(), "sum", "input"),
        ("cat", Concat(), "sum3", "b"),
        ("mean", Pool(kind="avg", kernel=(3, 3), stride=(2, 2), padding=(1, 1)), "cat"),
        ("out", conv(tensor(rng, 1, 4, 3, 3), stride=2), "mean"),
    )
    found = certified(nodes)
    x = torch.zeros(2, 4, 4, dtype=torch.float64)
    for node in nodes[1:]:
        assert norm(jacobian(nodes, x, node.name)) <= found[node.name] * (1 + 1e-9)


@given(weights=st.lists(st.floats(0.1, 10), min_size=3, max_size=3))
@few
def test_positive_scalars_attain_the_rules_of_sums_and_concatenations(weights: list[float]) -> None:
    first, second, third = weights
    nodes = nodes_of(
        (1, 1, 1),
        ("first", scalar(first), "input"),
        ("second", scalar(second), "first"),
        ("sum", Add(), "second", "input"),
        ("twice", Add(), "sum", "sum"),
        ("third", scalar(third), "twice"),
        ("cat", Concat(), "third", "first"),
    )
    found = certified(nodes)
    x = torch.ones(1, 1, 1, dtype=torch.float64)
    for node in nodes[1:]:
        assert found[node.name] == pytest.approx(norm(jacobian(nodes, x, node.name)), rel=1e-9)
    assert found["third"] == pytest.approx(2 * third * (1 + first * second))


@given(seed=seeds)
@settings(max_examples=15, deadline=None)
def test_no_jacobian_of_a_residual_net_is_above_the_bound(seed: int) -> None:
    nodes = small_resnet(seed)
    found = certified(nodes)
    x = tensor(np.random.default_rng([seed, 1]), 2, 6, 6)
    for node in nodes[1:]:
        assert norm(jacobian(nodes, x, node.name)) <= found[node.name] * (1 + 1e-9)


@given(seed=seeds)
@settings(max_examples=15, deadline=None)
def test_no_two_inputs_are_driven_further_apart_than_the_bound(seed: int) -> None:
    nodes = small_resnet(seed)
    rng = np.random.default_rng([seed, 2])
    one, step = tensor(rng, 20, 2, 6, 6), tensor(rng, 20, 2, 6, 6)
    apart = forward(nodes, one)["fc"] - forward(nodes, one + step)["fc"]
    assert bool((apart.norm(dim=1) <= certified(nodes)["fc"] * step.flatten(1).norm(dim=1)).all())


@given(seed=seeds)
@settings(max_examples=10, deadline=None)
def test_the_subject_certifies_network_and_blocks(seed: int) -> None:
    nodes = small_resnet(seed)
    graph = ResidualGraph(source="weights", family=None, nodes=nodes, blocks=find_blocks(nodes, "graph"))
    subject = Subject(graph, Settings(threads=1))
    found = certified(nodes)
    value = subject.log10_lipschitz()
    assert value is not None
    assert value >= math.log10(found["fc"]) - 1e-9  # tori are no smaller than the dense operators
    x = tensor(np.random.default_rng([seed, 1]), 2, 6, 6)
    assert norm(jacobian(nodes, x, "fc")) <= 10**value
    assert [block.join for block in subject.blocks] == ["sum1", "sum2", "cat"]
    values = forward(nodes, x[None])
    for block in subject.blocks:
        certificate = subject.certificate(block)
        assert certificate is not None
        order = [node.name for node in nodes]
        inside = nodes[order.index(block.fork) : order.index(block.join) + 1]
        assert norm(jacobian(inside, values[block.fork][0], block.join)) <= certificate.block * (1 + 1e-9)
        (branch,) = [nodes[order.index(name)].inputs[position] for name, position in block.branch_edges]
        assert norm(jacobian(inside, values[block.fork][0], branch)) <= certificate.branch * (1 + 1e-9)


def test_a_block_is_its_branch_and_its_shortcut_together() -> None:
    nodes = nodes_of(
        (1, 2, 2),
        ("stem", scalar(4), "input"),
        ("first", scalar(3), "stem"),
        ("second", scalar(-2), "first"),
        ("sum", Add(), "second", "stem"),
        ("out", scalar(5), "sum"),
    )
    graph = ResidualGraph(source="weights", family=None, nodes=nodes, blocks=find_blocks(nodes, "graph"))
    subject = Subject(graph, Settings(threads=1))
    certificate = subject.certificate(subject.blocks[0])
    assert certificate is not None
    assert (certificate.branch, certificate.block) == pytest.approx((6, 7))
    assert subject.log10_lipschitz() == pytest.approx(math.log10(4 * 7 * 5))


def test_what_does_not_depend_on_the_start_has_no_share() -> None:
    nodes = nodes_of(
        (1, 2, 2),
        ("early", scalar(3), "input"),
        ("start", scalar(2), "input"),
        ("late", scalar(5), "start"),
        ("sum", Add(), "late", "early"),
    )
    found = certified(nodes, "start")
    assert found["start"] == 1
    assert found["early"] == 0
    assert found["sum"] == found["late"] == pytest.approx(5)


def test_nodes_without_a_rule_and_all_that_depend_on_them_are_left_out() -> None:
    nodes = nodes_of(
        (1, 2, 2),
        ("a", scalar(3), "input"),
        ("gate", Multiply(), "a", "input"),
        ("b", scalar(2), "gate"),
        ("beside", scalar(7), "a"),
        ("sum", Add(), "beside", "b"),
        ("own", RELU, "beside"),
    )
    found = certified(nodes)
    assert found.keys() == {"input", "a", "beside", "own"}
    assert found["own"] == pytest.approx(21)


def test_an_output_behind_a_product_has_no_lipschitz_constant() -> None:
    nodes = nodes_of(
        (1, 2, 2), ("a", scalar(3), "input"), ("gate", Multiply(), "a", "input"), ("out", scalar(2), "gate")
    )
    graph = ResidualGraph(source="weights", family=None, nodes=nodes, blocks=find_blocks(nodes, "graph"))
    assert Subject(graph, Settings(threads=1)).log10_lipschitz() is None


def test_a_product_that_does_not_depend_on_the_start_does_no_harm() -> None:
    nodes = nodes_of(
        (1, 2, 2),
        ("gate", Multiply(), "input", "input"),
        ("start", scalar(3), "input"),
        ("sum", Add(), "start", "gate"),
    )
    assert certified(nodes, "start") == {"input": 0.0, "gate": 0.0, "start": 1.0, "sum": 1.0}
