"""The covering recursion on graphs made by hand: closed forms, allocations, perturbations and dense operators."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from bound_oracles import (
    GLOBAL_MEAN,
    RELU,
    Weight,
    complexities,
    conv,
    dense_norm,
    errors,
    forward,
    graph_of,
    linear,
    one_thread,
    plain_covering,
    preact_state,
    resnet_state,
    scalar,
    subject_of,
    tensor,
    weights_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_audit.errors import NoRule
from resnet_audit.graph.ir import Add, Concat, Conv, Flatten, Linear, Multiply, Norm, Pool, Scale
from resnet_audit.theory.bound import analyse
from resnet_audit.theory.covering import covering, coverings
from resnet_audit.theory.factors import Factor, Variant, factors_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resnet_audit.graph.ir import Node
    from resnet_audit.graph.residual import ResidualGraph

_one_thread = pytest.fixture(scope="module", autouse=True)(one_thread)

OPERATOR = Variant("operator", biases=False)
VARIANTS_IN_ORDER = [Variant(cover, biases) for biases in (False, True) for cover in ("operator", "patch")]
VARIANTS = [Variant(cover, biases) for cover in ("operator", "patch") for biases in (False, True)]
few = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**16)


def unit_factor(sigma: float, b: float = 1.0) -> Factor:
    """A factor whose cover has kappa = ln 2 and sees its input as it is."""
    return Factor(
        sigma=sigma,
        b=dict.fromkeys(VARIANTS, b),
        patch_kappa=dict.fromkeys((False, True), math.log(2)),
        windows=1,
        positions=1,
        width=1,
        bias_norm=0.0,
    )


def growth(nodes: tuple[Node, ...], sigmas: dict[str, float], name: str) -> float:
    """g_v: with no other (2,1) norm than that of v, R^(1/2) is a_v g_v; with v as the output it is a_v."""
    factors = {other: unit_factor(sigma, b=float(other == name)) for other, sigma in sigmas.items()}
    last = next(index for index, node in enumerate(nodes) if node.name == name) + 1
    before = {other: factor for other, factor in factors.items() if other in {node.name for node in nodes[:last]}}
    whole = covering(nodes, factors, OPERATOR).log_complexity
    return math.exp(whole - covering(nodes[:last], before, OPERATOR).log_complexity)


def sigmas_of(graph: ResidualGraph) -> dict[str, float]:
    """The norms of all weight layers as dense matrices."""
    shapes = {node.name: node.shape or () for node in graph.nodes}
    return {
        node.name: dense_norm(node.op, shapes[node.inputs[0]])
        for node in graph.nodes
        if isinstance(node.op, Conv | Linear)
    }


def residual_graph(seed: int, channels: int = 2, side: int = 3) -> ResidualGraph:
    """Stem, a block of two convolutions, a block of one, mean, head. No biases."""
    rng = np.random.default_rng(seed)

    def kernel() -> Conv:
        return conv(tensor(rng, channels, channels, 3, 3) / 2)

    return graph_of(
        (channels, side, side),
        ("stem", kernel(), "input"),
        ("relu0", RELU, "stem"),
        ("a1", kernel(), "relu0"),
        ("relu1", RELU, "a1"),
        ("a2", kernel(), "relu1"),
        ("sum1", Add(), "a2", "relu0"),
        ("relu2", RELU, "sum1"),
        ("b1", kernel(), "relu2"),
        ("sum2", Add(), "relu2", "b1"),
        ("pool", GLOBAL_MEAN, "sum2"),
        ("flat", Flatten(), "pool"),
        ("fc", Linear(weight=tensor(rng, 3, channels), bias=None), "flat"),
    )


def dense_block_graph(seed: int, layers: int = 3) -> ResidualGraph:
    """Layers that put their output beside their input, as in a DenseNet, with one new channel each."""
    rng = np.random.default_rng(seed)
    nodes, last = [], "input"
    for index in range(layers):
        nodes += [
            (f"relu{index}", RELU, last),
            (f"conv{index}", conv(tensor(rng, 1, 2 + index, 3, 3) / 2), f"relu{index}"),
            (f"cat{index}", Concat(), last, f"conv{index}"),
        ]
        last = f"cat{index}"
    head = Linear(weight=tensor(rng, 2, 9 * (2 + layers)), bias=None)
    return graph_of((2, 3, 3), *nodes, ("flat", Flatten(), last), ("fc", head, "flat"))


# closed forms -------------------------------------------------------------------------------------


@given(seed=seeds, depth=st.integers(1, 6))
@few
def test_a_chain_has_the_closed_form_of_bartlett_foster_telgarsky(seed: int, depth: int) -> None:
    rng = np.random.default_rng(seed)
    widths = rng.integers(1, 6, depth + 1)
    weights = [tensor(rng, int(after), int(before)) for before, after in itertools.pairwise(widths)]
    names = [f"fc{index}" for index in range(depth)]
    nodes = [("flat", Flatten(), "input")]
    for name, weight, source in zip(names, weights, ["flat", *(f"{name}.relu" for name in names)], strict=False):
        nodes += [(name, Linear(weight=weight, bias=None), source), (f"{name}.relu", RELU, name)]
    graph = graph_of((int(widths[0]), 1, 1), *nodes)
    result = complexities(analyse(subject_of(graph, (int(widths[0]), 1, 1))))
    spectral = [np.linalg.norm(weight.numpy(), 2) for weight in weights]
    rows = [np.linalg.norm(weight.numpy(), axis=1).sum() for weight in weights]
    ratios = sum((b / s) ** (2 / 3) for b, s in zip(rows, spectral, strict=True))
    expected = math.prod(spectral) * ratios**1.5 * math.sqrt(math.log(2 * float(widths.max()) ** 2))
    assert result["operator"] == pytest.approx(math.log(expected), abs=1e-10)


def test_one_layer_has_its_two_one_norm_alone() -> None:
    weight = tensor(np.random.default_rng(1), 4, 3)
    graph = graph_of((3, 1, 1), ("flat", Flatten(), "input"), ("fc", Linear(weight=weight, bias=None), "flat"))
    b = float(np.linalg.norm(weight.numpy(), axis=1).sum())
    found = complexities(analyse(subject_of(graph, (3, 1, 1))))
    assert found["operator"] == pytest.approx(math.log(b * math.sqrt(math.log(2 * 4**2))), abs=1e-12)
    assert found["patch"] == pytest.approx(math.log(b * math.sqrt(math.log(2 * 12))), abs=1e-12)


@given(sigmas=st.lists(st.floats(0.01, 100), min_size=1, max_size=6))
@few
def test_concatenations_make_magnitudes_grow_by_the_root_of_one_plus_squares(sigmas: list[float]) -> None:
    nodes, last = [], "input"
    for index, sigma in enumerate(sigmas):
        kernel = torch.full((1, index + 1, 1, 1), 0.0, dtype=torch.float64)
        kernel[0, 0] = sigma
        nodes += [(f"conv{index}", conv(kernel), last), (f"cat{index}", Concat(), last, f"conv{index}")]
        last = f"cat{index}"
    head = conv(torch.ones(1, len(sigmas) + 1, 1, 1, dtype=torch.float64))
    graph = graph_of((1, 1, 1), *nodes, ("head", head, last))
    names = [f"conv{index}" for index in range(len(sigmas))]
    # Only the head has a (2,1) norm, 1: what is left is the magnitude that it sees.
    factors = {name: unit_factor(sigma, b=0.0) for name, sigma in zip(names, sigmas, strict=True)}
    found = covering(graph.nodes, {**factors, "head": unit_factor(5.0)}, OPERATOR)
    expected = math.prod(math.sqrt(1 + sigma**2) for sigma in sigmas) * math.sqrt(math.log(2))
    assert found.log_complexity == pytest.approx(math.log(expected), abs=1e-10)
    assert found.share == {**dict.fromkeys(names, 0.0), "head": 1.0}


@given(seed=seeds)
@few
def test_errors_grow_as_the_plain_recursion_says(seed: int) -> None:
    for graph in (residual_graph(seed), dense_block_graph(seed)):
        sigmas = sigmas_of(graph)
        weights = {
            name: Weight(sigma=sigma, b=1, windows=1, rows=1, kappa=1, bias=0, positions=1)
            for name, sigma in sigmas.items()
        }
        plain = plain_covering(graph.nodes, weights)
        found = {name: growth(graph.nodes, sigmas, name) for name in sigmas}
        assert found == pytest.approx(plain.g, rel=1e-9)


def test_two_branches_and_a_shortcut_add_up() -> None:
    # Branches 2 and 5 beside the identity: the head sees 1 + 2 + 5, and an error of either branch reaches it as it is.
    graph = graph_of(
        (1, 1, 1),
        ("two", scalar(2), "input"),
        ("five", scalar(5), "input"),
        ("both", Add(), "two", "five"),
        ("sum", Add(), "both", "input"),
        ("head", scalar(3), "sum"),
    )
    sigmas = {"two": 2.0, "five": 5.0, "head": 3.0}
    assert {name: growth(graph.nodes, sigmas, name) for name in sigmas} == pytest.approx(
        {"two": 3, "five": 3, "head": 1}
    )
    found = covering(graph.nodes, {name: unit_factor(sigma) for name, sigma in sigmas.items()}, OPERATOR)
    terms = 3 ** (2 / 3) + 3 ** (2 / 3) + 8 ** (2 / 3)
    assert found.log_complexity == pytest.approx(math.log(terms**1.5 * math.sqrt(math.log(2))))


def test_a_value_added_to_itself_is_twice_as_large() -> None:
    graph = graph_of((1, 1, 1), ("twice", Add(), "input", "input"), ("head", scalar(1), "twice"))
    found = covering(graph.nodes, {"head": unit_factor(1.0)}, OPERATOR)
    assert found.log_complexity == pytest.approx(math.log(2 * math.sqrt(math.log(2))))


# allocations --------------------------------------------------------------------------------------


@given(seed=seeds)
@few
def test_no_other_allocation_of_resolutions_beats_the_optimum(seed: int) -> None:
    graph = residual_graph(seed) if seed % 2 else dense_block_graph(seed)
    sigmas = sigmas_of(graph)
    rng = np.random.default_rng(seed)
    rows = {name: float(rng.uniform(0.1, 50)) for name in sigmas}
    found = covering(graph.nodes, {v: unit_factor(sigmas[v], rows[v]) for v in sigmas}, OPERATOR)
    weights = {
        v: Weight(sigma=sigmas[v], b=rows[v], windows=1, rows=1, kappa=math.log(2), bias=0, positions=1) for v in sigmas
    }
    plain = plain_covering(graph.nodes, weights)
    optimum = math.exp(2 * found.log_complexity)
    a, g = (np.array([values[v] for v in sigmas]) for values in (plain.a, plain.g))
    for split in rng.dirichlet(np.ones(len(sigmas)), size=200):
        assert float(((a * g / split) ** 2).sum()) >= optimum * (1 - 1e-12)
    share = np.array([found.share[v] for v in sigmas])
    assert float(((a * g / share) ** 2).sum()) == pytest.approx(optimum, rel=1e-9)
    made = dict(zip(sigmas, share / g, strict=True))
    assert errors(graph.nodes, weights, made)[graph.output] <= 1 + 1e-9


@given(seed=seeds)
@few
def test_the_resolutions_of_the_optimum_add_up_to_one_and_give_it_back(seed: int) -> None:
    subject = subject_of(resnet_state(seed, widths=(3, 5), depth=1))
    factors = factors_of(subject.folded, subject.norms)
    for variant in VARIANTS:
        found = covering(subject.folded, factors, variant, log_bias_unit=-2.0)
        unit = math.exp(-2.0) * variant.biases
        weights = weights_of(subject.folded, subject.norms, f"{variant.cover}{'_biases' * variant.biases}")
        plain = plain_covering(subject.folded, weights, per_example=unit)
        made = {v: math.exp(value) for v, value in found.log_resolution.items()}
        assert math.fsum(plain.g[v] * made[v] for v in made) == pytest.approx(1, rel=1e-11)
        assert errors(subject.folded, weights, made)[subject.graph.output] == pytest.approx(1, rel=1e-11)
        spent = math.fsum((plain.a[v] / made[v]) ** 2 for v in made)
        assert spent == pytest.approx(math.exp(2 * found.log_complexity), rel=1e-11)


@given(seed=seeds)
@few
def test_the_recursive_allocation_never_beats_the_optimum(seed: int) -> None:
    # The published style: the resolution of a layer is the error already at its input; the first layer's is free.
    for graph in (residual_graph(seed), dense_block_graph(seed)):
        subject = subject_of(graph, graph.input_size)
        weights = weights_of(subject.folded, subject.norms, "operator")
        made: dict[str, float] = {}
        for index, node in enumerate(subject.folded):
            if node.name in weights:
                entering = errors(subject.folded[:index], weights, made)[node.inputs[0]]
                made[node.name] = entering or 1.0
        plain = plain_covering(subject.folded, weights)
        spent = math.fsum((plain.a[v] / made[v]) ** 2 for v in made)
        output = math.fsum(plain.g[v] * made[v] for v in made)
        found = covering(subject.folded, factors_of(subject.folded, subject.norms), OPERATOR)
        assert spent * output**2 >= math.exp(2 * found.log_complexity) * (1 - 1e-9)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("resolution", [0.15, 0.3, 0.6])
def test_a_greedy_cover_of_one_layer_is_smaller_than_its_covering_number(seed: int, resolution: float) -> None:
    # Layers 2 -> 2 whose rows have lengths that sum to at most 1, on three inputs: outputs drawn densely from the whole
    # set, its corners included, and covered greedily by themselves.
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((3, 2))
    split, angle = rng.beta(0.5, 0.5, (4000, 1)), rng.uniform(0, 2 * math.pi, (4000, 2))
    lengths = np.concatenate([split, 1 - split], axis=1) * rng.choice([1.0, 0.5, 0.2], (4000, 1))
    layers = np.stack([lengths * np.cos(angle), lengths * np.sin(angle)], axis=2)
    outputs = np.einsum("ni,soi->sno", x, layers).reshape(4000, -1)
    eps, centres = resolution * float(np.linalg.norm(x)), 0
    while len(outputs):
        outputs = outputs[np.linalg.norm(outputs - outputs[0], axis=1) > eps]
        centres += 1
    graph = graph_of((2, 1, 1), ("flat", Flatten(), "input"), ("fc", linear((1, 0), (0, 0)), "flat"))
    found = covering(graph.nodes, {"fc": replace(unit_factor(1.0), width=2)}, OPERATOR)
    log_r = 2 * (found.log_complexity + math.log(np.linalg.norm(x)))
    assert 0 < math.log(centres) <= math.exp(log_r) / eps**2


def test_all_coverings_at_once_are_each_of_them_alone() -> None:
    subject = subject_of(resnet_state())
    factors = factors_of(subject.folded, subject.norms)
    found = coverings(subject.folded, factors, log_bias_unit=-1.0, sensitivities=True)
    assert list(found) == VARIANTS_IN_ORDER
    for variant in VARIANTS:
        alone = covering(subject.folded, factors, variant, log_bias_unit=-1.0, sensitivities=not variant.biases)
        assert found[variant] == alone
        assert (alone.sensitivity is None) == variant.biases
        assert covering(subject.folded, factors, variant, log_bias_unit=-1.0).sensitivity is None


# perturbations ------------------------------------------------------------------------------------


def perturbed(graph: ResidualGraph, names: Sequence[str], rng: np.random.Generator, size: float) -> tuple[Node, ...]:
    def change(node: Node) -> Node:
        if node.name not in names or not isinstance(node.op, Conv | Linear):
            return node
        return replace(node, op=replace(node.op, weight=node.op.weight + size * tensor(rng, *node.op.weight.shape)))

    return tuple(change(node) for node in graph.nodes)


@given(seed=seeds, size=st.floats(1e-3, 3))
@few
def test_changed_layers_move_the_output_by_no_more_than_their_errors_times_their_growth(seed: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    graph = residual_graph(seed) if seed % 2 else dense_block_graph(seed)
    sigmas = sigmas_of(graph)
    other = perturbed(graph, list(sigmas), rng, size)
    x = tensor(rng, 4, *graph.input_size)
    one, two = forward(graph.nodes, x), forward(other, x)
    allowed = 0.0
    for old, new in zip(graph.nodes, other, strict=True):
        if old.name in sigmas:
            apart = forward([graph.nodes[0], replace(old, inputs=("input",))], two[old.inputs[0]])[old.name]
            made = float((two[old.name] - apart).norm())
            assert type(old.op) is type(new.op)
            allowed += made * growth(graph.nodes, sigmas, old.name)
    moved = float((one[graph.output] - two[graph.output]).norm())
    assert 0 < moved <= allowed * (1 + 1e-9)


@given(weights=st.lists(st.floats(0.1, 10), min_size=4, max_size=4), step=st.floats(0.01, 2))
@few
def test_a_positive_scalar_net_uses_up_what_it_is_allowed(weights: list[float], step: float) -> None:
    stem, first, second, head = weights
    graph = graph_of(
        (1, 1, 1),
        ("stem", scalar(stem), "input"),
        ("first", scalar(first), "stem"),
        ("second", scalar(second), "first"),
        ("sum", Add(), "second", "stem"),
        ("head", scalar(head), "sum"),
    )
    sigmas = dict(zip(("stem", "first", "second", "head"), weights, strict=True))
    expected = {"stem": (first * second + 1) * head, "first": second * head, "second": head, "head": 1.0}
    assert {name: growth(graph.nodes, sigmas, name) for name in sigmas} == pytest.approx(expected, rel=1e-9)
    new = {name: sigma + step for name, sigma in sigmas.items()}
    inside = new["stem"] * new["first"]
    entering = {"stem": 1.0, "first": new["stem"], "second": inside, "head": new["stem"] + inside * new["second"]}
    allowed = sum(step * entering[name] * growth(graph.nodes, sigmas, name) for name in sigmas)
    one = head * stem * (1 + first * second)
    assert new["head"] * entering["head"] - one == pytest.approx(allowed, rel=1e-9)


# factors ------------------------------------------------------------------------------------------


@given(seed=seeds, groups=st.sampled_from([1, 2, 3]), stride=st.integers(1, 2))
@few
def test_a_grouped_convolution_is_a_dense_one_with_zeros(seed: int, groups: int, stride: int) -> None:
    weight = tensor(np.random.default_rng(seed), 2 * groups, 2, 3, 3)
    full = torch.zeros(2 * groups, 2 * groups, 3, 3, dtype=torch.float64)
    for group in range(groups):
        rows = slice(2 * group, 2 * group + 2)
        full[rows, rows] = weight[rows]
    size = (2 * groups, 5, 5)
    grouped, whole = (
        graph_of(size, ("conv", op, "input"))
        for op in (conv(weight, stride=stride, groups=groups), conv(full, stride=stride))
    )
    factors = [factors_of(g.nodes, subject_of(g, size).norms)["conv"] for g in (grouped, whole)]
    assert factors[0].sigma == pytest.approx(factors[1].sigma, rel=1e-12)
    assert factors[0].b == pytest.approx(factors[1].b, rel=1e-12)
    assert factors[0].windows == factors[1].windows
    assert factors[0].patch_kappa[False] == pytest.approx(math.log(2 * weight.numel()))
    assert factors[1].patch_kappa[False] == pytest.approx(math.log(2 * full.numel()))


@given(seed=seeds, stride=st.integers(1, 2), side=st.integers(3, 7))
@few
def test_the_factor_of_a_convolution_is_that_of_its_matrix(seed: int, stride: int, side: int) -> None:
    rng = np.random.default_rng(seed)
    bias = tensor(rng, 3)
    graph = graph_of((2, side, side), ("conv", conv(tensor(rng, 3, 2, 3, 3), bias, stride), "input"))
    op = graph.nodes[1].op
    assert isinstance(op, Conv)
    images = torch.eye(2 * side**2, dtype=torch.float64).reshape(-1, 2, side, side)
    columns = torch.nn.functional.conv2d(images, op.weight, None, stride, 1)
    matrix = columns.flatten(1).T.numpy()
    factor = factors_of(graph.nodes, subject_of(graph, (2, side, side)).norms)["conv"]
    positions = columns.shape[2] * columns.shape[3]
    shifts = np.repeat(bias.numpy(), positions)
    assert factor.b[OPERATOR] == pytest.approx(np.linalg.norm(matrix, axis=1).sum())
    with_bias = np.linalg.norm(np.column_stack([matrix, shifts]), axis=1).sum()
    assert factor.b[Variant("operator", biases=True)] == pytest.approx(with_bias)
    assert factor.sigma >= np.linalg.norm(matrix, 2)
    assert factor.width == max(matrix.shape)
    assert factor.positions == positions
    assert math.sqrt(positions) * factor.bias_norm == pytest.approx(np.linalg.norm(shifts))
    assert factor.patch_kappa == pytest.approx({False: math.log(2 * 54), True: math.log(2 * 57)})


def moved_by(nodes: tuple[Node, ...], rng: np.random.Generator) -> dict[str, Node]:
    """A reference for the nodes: all their numbers moved."""

    def moved(tensors: torch.Tensor | None) -> torch.Tensor | None:
        return None if tensors is None else tensors + 0.3 * tensor(rng, *tensors.shape)

    return {
        node.name: replace(node, op=replace(node.op, weight=moved(node.op.weight), bias=moved(node.op.bias)))
        for node in nodes
        if isinstance(node.op, Conv | Linear | Norm)
    }


@given(seed=seeds)
@few
def test_a_reference_makes_the_distance_from_it_the_covered_norm(seed: int) -> None:
    for state in (resnet_state(seed, widths=(3, 5), depth=1), preact_state(seed, width=2)):
        subject = subject_of(state)
        nodes, norms = subject.folded, subject.norms
        reference = moved_by(nodes, np.random.default_rng(seed))
        alone, found = factors_of(nodes, norms), factors_of(nodes, norms, reference)
        for variant in VARIANTS:
            cover = f"{variant.cover}{'_biases' * variant.biases}"
            expected = weights_of(nodes, norms, cover, reference)
            assert {v: f.b[variant] for v, f in found.items()} == pytest.approx({v: w.b for v, w in expected.items()})
        for name, factor in found.items():
            assert replace(factor, b=alone[name].b) == alone[name]  # values pass through the layer as it is
        # What the values are does not change; the covering number follows the distances.
        for variant in VARIANTS:
            one, other = (covering(nodes, each, variant, log_bias_unit=-1.0) for each in (alone, found))
            assert (one.log_entering, one.log_growth) == (other.log_entering, other.log_growth)


def test_the_distance_of_a_convolution_is_that_of_its_matrix() -> None:
    rng = np.random.default_rng(2)
    op, start = (conv(tensor(rng, 3, 2, 3, 3), tensor(rng, 3), stride=2) for _ in range(2))
    graph = graph_of((2, 5, 5), ("conv", op, "input"))
    reference = {"conv": replace(graph.nodes[1], op=start)}
    images = torch.eye(2 * 5 * 5, dtype=torch.float64).reshape(-1, 2, 5, 5)
    rows = torch.nn.functional.conv2d(images, op.weight - start.weight, None, 2, 1).flatten(1).T
    assert op.bias is not None
    assert start.bias is not None
    shifts = (op.bias - start.bias).repeat_interleave(9)[:, None]
    factor = factors_of(graph.nodes, {"conv": 1.0}, reference)["conv"]
    assert factor.b[OPERATOR] == pytest.approx(float(rows.norm(dim=1).sum()))
    with_biases = torch.cat([rows, shifts], dim=1).norm(dim=1).sum()
    assert factor.b[Variant("operator", biases=True)] == pytest.approx(float(with_biases))


def test_the_network_itself_and_nothing_as_references() -> None:
    subject = subject_of(preact_state())
    nodes, norms = subject.folded, subject.norms
    itself = factors_of(nodes, norms, {node.name: node for node in nodes})
    assert {value for factor in itself.values() for value in factor.b.values()} == {0.0}
    for variant in VARIANTS:
        found = covering(nodes, itself, variant, log_bias_unit=-1.0, sensitivities=True)
        assert found.log_complexity == -math.inf
        assert set(found.share.values()) == {0.0}
        assert found.sensitivity is None
        assert all(math.isfinite(value) for value in found.log_growth.values())
    assert factors_of(nodes, norms, {}) == factors_of(nodes, norms)


@given(seed=seeds)
@few
def test_groups_lower_the_patch_cover_and_leave_the_operator_cover(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight, head = tensor(rng, 4, 2, 3, 3), tensor(rng, 3, 4 * 9)
    full = torch.zeros(4, 4, 3, 3, dtype=torch.float64)
    full[:2, :2], full[2:, 2:] = weight[:2], weight[2:]
    found = []
    for op in (conv(weight, groups=2), conv(full)):
        nodes = [("conv", op, "input"), ("flat", Flatten(), "conv"), ("fc", Linear(weight=head, bias=None), "flat")]
        found.append(complexities(analyse(subject_of(graph_of((4, 3, 3), *nodes), (4, 3, 3)))))
    assert found[0]["operator"] == pytest.approx(found[1]["operator"], abs=1e-11)
    assert found[0]["operator_biases"] == pytest.approx(found[1]["operator_biases"], abs=1e-11)
    assert found[0]["patch"] < found[1]["patch"]
    assert found[0]["patch_biases"] < found[1]["patch_biases"]


def test_patches_see_a_pixel_as_often_as_windows_cover_it() -> None:
    # One 3x3 kernel of ones on 5x5: nine windows cover a pixel, so the cover sees 3 ||x||; the kernel has length 3.
    graph = graph_of((1, 5, 5), ("conv", conv(torch.ones(1, 1, 3, 3, dtype=torch.float64)), "input"))
    found = complexities(analyse(subject_of(graph, (1, 5, 5))))
    assert found["patch"] == pytest.approx(math.log(3 * 3 * math.sqrt(math.log(2 * 9))))
    # Rows: 9 inside, 6 at 12 of the edge, 4 at the corners; W = 25.
    rows = 9 * 3 + 12 * math.sqrt(6) + 4 * 2
    assert found["operator"] == pytest.approx(math.log(rows * math.sqrt(math.log(2 * 25**2))))


def test_max_pooling_counts_its_overlap() -> None:
    pool = Pool(kind="max", kernel=(3, 3), stride=(2, 2), padding=(1, 1))
    graph = graph_of((1, 8, 8), ("pool", pool, "input"), ("conv", scalar(1), "pool"))
    found = covering(graph.nodes, {"conv": unit_factor(1.0)}, OPERATOR)
    assert found.log_complexity == pytest.approx(math.log(2 * math.sqrt(math.log(2))))


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: f"{v.cover}{' with biases' * v.biases}")
def test_bias_units_of_nothing_leave_the_graph_without_biases_in_its_magnitudes(variant: Variant) -> None:
    subject = subject_of(resnet_state())
    factors = factors_of(subject.folded, subject.norms)
    small = covering(subject.folded, factors, variant, log_bias_unit=-200.0)
    nothing = covering(subject.folded, factors, variant)
    assert small.log_complexity == pytest.approx(nothing.log_complexity, abs=1e-12)
    large = covering(subject.folded, factors, variant, log_bias_unit=3.0)
    assert (large.log_complexity > nothing.log_complexity) == variant.biases


def test_the_covering_refuses_a_product() -> None:
    graph = graph_of((1, 1, 1), ("gate", Multiply(), "input", "input"), ("conv", scalar(1), "gate"))
    with pytest.raises(NoRule, match="Multiply"):
        covering(graph.nodes, {"conv": unit_factor(1.0)}, OPERATOR)


def test_a_factor_of_zeros_drops_out_of_the_sum() -> None:
    graph = graph_of((2, 1, 1), ("flat", Flatten(), "input"), ("fc", linear((0, 0), (0, 0)), "flat"))
    result = analyse(subject_of(graph, (2, 1, 1)))
    assert result.covers is not None
    assert result.covers.operator.log10_spectral_complexity is None
    assert result.layers[0].share is not None
    assert result.layers[0].share.operator == 0.0


def test_what_cannot_reach_the_output_costs_nothing_and_leaves_numbers() -> None:
    # Two branches beside the identity: one ends in zeros, one begins with them.
    graph = graph_of(
        (1, 1, 1),
        ("before", scalar(5), "input"),
        ("end", scalar(0), "before"),
        ("begin", scalar(0), "input"),
        ("after", scalar(7), "begin"),
        ("both", Add(), "end", "after"),
        ("sum", Add(), "both", "input"),
        ("head", scalar(3), "sum"),
    )
    sigmas = {"before": 5.0, "end": 0.0, "begin": 0.0, "after": 7.0, "head": 3.0}
    factors = {name: unit_factor(sigma, b=sigma) for name, sigma in sigmas.items()}
    found = covering(graph.nodes, factors, OPERATOR, sensitivities=True)
    assert found.log_complexity == pytest.approx(math.log(3 * math.sqrt(math.log(2))))
    assert found.share == {"before": 0, "end": 0, "begin": 0, "after": 0, "head": 1}
    assert found.sensitivity == {"before": 0, "end": 0, "begin": 0, "after": 0, "head": 1}
    assert found.log_growth == pytest.approx(
        {"before": -math.inf, "end": math.log(3), "begin": math.log(21), "after": math.log(3), "head": 0}
    )
    assert found.log_entering == pytest.approx(
        {"before": 0, "end": math.log(5), "begin": 0, "after": -math.inf, "head": 0}
    )
    assert found.log_resolution == pytest.approx(
        {"before": math.inf, "end": -math.inf, "begin": -math.inf, "after": -math.inf, "head": 0}
    )


@pytest.mark.parametrize("op", [Scale(factor=0.0), scalar(0.0)], ids=["a factor", "a layer"])
def test_a_network_that_is_cut_has_no_complexity_before_the_cut(op: Scale | Conv) -> None:
    graph = graph_of((1, 1, 1), ("one", scalar(2, bias=1.0), "input"), ("cut", op, "one"), ("head", scalar(3), "cut"))
    factors = factors_of(graph.nodes, {"one": 2.0, "cut": 0.0, "head": 3.0})
    for variant in VARIANTS:
        found = covering(graph.nodes, factors, variant, log_bias_unit=0.0, sensitivities=True)
        values = [*found.share.values(), *(found.sensitivity or {}).values(), found.log_complexity]
        assert not any(math.isnan(value) for value in values)
        # With biases, the head still tells its bias apart from others: its input is one more entry, equal to 1.
        assert (found.log_complexity > -math.inf) == variant.biases
        assert found.share["one"] == 0
        assert found.log_growth["one"] == -math.inf


def test_huge_norms_do_not_overflow() -> None:
    names = [f"conv{index}" for index in range(400)]
    sources = ["input", *names]
    graph = graph_of((1, 1, 1), *((name, scalar(1e5), source) for name, source in zip(names, sources, strict=False)))
    found = covering(graph.nodes, {name: unit_factor(1e5, 1e5) for name in names}, OPERATOR)
    expected = 400 * math.log(1e5) + 1.5 * math.log(400) + 0.5 * math.log(math.log(2))
    assert found.log_complexity == pytest.approx(expected, rel=1e-12)
