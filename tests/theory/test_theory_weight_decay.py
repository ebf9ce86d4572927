"""What decay of each layer does to the bound: closed forms, finite differences of real norms, published rankings."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from functools import cache
from pathlib import Path  # noqa: TC003 - the signature of a cached function
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from bound_oracles import (
    GLOBAL_MEAN,
    RELU,
    bound_of,
    conv,
    graph_of,
    linear,
    norm_state,
    one_thread,
    preact_state,
    resnet_state,
    scalar,
    subject_of,
    tensor,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_audit.checkpoint import load
from resnet_audit.graph.from_weights import discover
from resnet_audit.graph.ir import Activation, Add, Concat, Conv, Flatten, Linear, Norm, Scale
from resnet_audit.measure.subject import Subject
from resnet_audit.settings import Settings
from resnet_audit.theory.bound import analyse
from resnet_audit.theory.covering import coverings
from resnet_audit.theory.factors import OPERATOR, PATCH, factors_of
from resnet_audit.theory.weight_decay import actionable, advice

if TYPE_CHECKING:
    from resnet_audit.graph.ir import Node
    from resnet_audit.graph.residual import ResidualGraph
    from resnet_audit.results import BoundLayer, BoundResult

_one_thread = pytest.fixture(scope="module", autouse=True)(one_thread)

few = settings(max_examples=15, deadline=None)
seeds = st.integers(0, 2**16)

# Theory note `bound`, section 4: operator cover without biases, of the four trained nets, and the ranking of ResNet-20.
SUMS = {20: 18.47, 32: 28.70, 44: 39.03, 56: 48.30}
RANKING = {
    "linear": 1.000,
    "conv1": 1.000,
    "layer3.2": 0.989,
    "layer3.1": 0.958,
    "layer2.2": 0.929,
    "layer1.2": 0.916,
    "layer2.1": 0.914,
    "layer3.0": 0.906,
    "layer1.1": 0.893,
    "layer2.0": 0.871,
    "layer1.0": 0.859,
}
PER_SQUARE = {"layer1.2.conv1": 0.0748, "conv1": 0.0649, "layer1.0.conv2": 0.0641, "layer1.1.conv2": 0.0554}
LEAST_PER_SQUARE = ("layer3.2.conv2", 0.00043)


@cache
def trained(folder: Path, depth: int) -> BoundResult:
    chosen = Settings(threads=1)
    return analyse(Subject(discover(load(str(folder / f"resnet{depth}.th")), chosen), chosen))


def sensitivity(layer: BoundLayer, cover: str) -> float:
    value = getattr(layer.sensitivity, cover)
    assert isinstance(value, float)
    return value


def norm(rng: np.random.Generator, channels: int, *, affine: bool = True) -> Norm:
    found = norm_state(rng, "norm", channels)
    weight, bias = (found["norm.weight"], found["norm.bias"]) if affine else (None, None)
    return Norm(weight=weight, bias=bias, mean=found["norm.running_mean"], var=found["norm.running_var"], eps=1e-5)


# closed forms -------------------------------------------------------------------------------------


@given(seed=seeds, depth=st.integers(1, 6))
@few
def test_a_chain_is_as_sensitive_to_every_layer(seed: int, depth: int) -> None:
    rng = np.random.default_rng(seed)
    names = [f"conv{index}" for index in range(depth)]
    nodes = []
    for name, source in zip(names, ["input", *(f"{name}.relu" for name in names)], strict=False):
        nodes += [(name, conv(tensor(rng, 2, 2, 3, 3)), source), (f"{name}.relu", RELU, name)]
    result = bound_of(graph_of((2, 4, 4), *nodes), (2, 4, 4))
    for layer, cover in itertools.product(result.layers, ("operator", "patch")):
        assert sensitivity(layer, cover) == pytest.approx(1, abs=1e-12)


def residual_closed_form(result: BoundResult, cover: str) -> dict[str, float]:
    """p_k + (1 - p_k) S_k / (1 + S_k) for every layer of branch k, 1 on the stem."""
    blocks: dict[str, list[BoundLayer]] = {}
    for layer in result.layers:
        blocks.setdefault(layer.name.rpartition(".")[0] if layer.placement == "vine" else "", []).append(layer)
    expected = {layer.name: 1.0 for layer in blocks.pop("")}
    for layers in blocks.values():
        gain = math.prod(layer.sigma_upper or 0.0 for layer in layers)
        share = math.fsum(getattr(layer.share, cover) for layer in layers)
        expected |= {layer.name: share + (1 - share) * gain / (1 + gain) for layer in layers}
    return expected


@given(seed=seeds, depth=st.integers(1, 3))
@few
def test_a_branch_beside_an_identity_has_its_closed_form(seed: int, depth: int) -> None:
    result = bound_of(resnet_state(seed, widths=(3, 5), depth=depth))
    for cover in ("operator", "patch"):
        found = {layer.name: sensitivity(layer, cover) for layer in result.layers}
        assert found == pytest.approx(residual_closed_form(result, cover), abs=1e-12)


@pytest.mark.parametrize("depth", SUMS)
def test_trained_nets_have_the_closed_form_and_their_golden_sums(checkpoints: Path, depth: int) -> None:
    result = trained(checkpoints, depth)
    for cover in ("operator", "patch"):
        found = {layer.name: sensitivity(layer, cover) for layer in result.layers}
        assert found == pytest.approx(residual_closed_form(result, cover), abs=1e-12)
    total = math.fsum(sensitivity(layer, "operator") for layer in result.layers)
    assert total == pytest.approx(SUMS[depth], abs=0.02)


def test_a_branch_of_two_numbers_worked_out_by_hand() -> None:
    # Branch 3 beside the identity, then 2: Q^(2/3) = (3 * 2)^(2/3) + (4 * 2)^(2/3), so with c on the branch
    # d ln Q = (6^(2/3) + 8^(2/3) * 3/4) / (6^(2/3) + 8^(2/3)); the head scales all of it.
    graph = graph_of(
        (1, 1, 1), ("branch", scalar(3), "input"), ("sum", Add(), "branch", "input"), ("head", scalar(2), "sum")
    )
    branch, head = bound_of(graph, (1, 1, 1)).layers
    expected = (6 ** (2 / 3) + 8 ** (2 / 3) * 3 / 4) / (6 ** (2 / 3) + 8 ** (2 / 3))
    assert sensitivity(branch, "operator") == pytest.approx(expected, rel=1e-12)
    assert sensitivity(head, "operator") == pytest.approx(1, rel=1e-12)


# finite differences -------------------------------------------------------------------------------


def log_complexities(subject: Subject, nodes: tuple[Node, ...], changed: str) -> dict[str, float]:
    """ln C of both covers of `nodes`, the norms of the changed one taken again from its weights."""
    node = next(node for node in nodes if node.name == changed)
    if isinstance(node.op, Norm):
        assert node.op.weight is not None
        sigma = float((node.op.weight / (node.op.var + node.op.eps).sqrt()).abs().max())
    else:
        sigma = subject.norm_upper(node)
    unit = -0.5 * math.log(math.prod(subject.graph.input_size))
    found = coverings(
        nodes, factors_of(nodes, {**subject.norms, changed: sigma}), (OPERATOR, PATCH), log_bias_unit=unit
    )
    return {variant.cover: value.log_complexity for variant, value in found.items()}


def scaled(nodes: tuple[Node, ...], name: str, factor: float) -> tuple[Node, ...]:
    """The nodes with the weights of one, and not its bias, multiplied by `factor`."""

    def change(node: Node) -> Node:
        if node.name != name:
            return node
        assert isinstance(node.op, Conv | Linear | Norm)
        assert node.op.weight is not None
        return replace(node, op=replace(node.op, weight=factor * node.op.weight.double()))

    return tuple(change(node) for node in nodes)


def assert_slopes(subject: Subject, names: list[str], step: float = 1e-4) -> None:
    layers = {layer.name: layer for layer in analyse(subject).layers}
    for name in names:
        above, below = (
            log_complexities(subject, scaled(subject.folded, name, math.exp(sign * step)), name) for sign in (1, -1)
        )
        for cover in ("operator", "patch"):
            slope = (above[cover] - below[cover]) / (2 * step)
            assert sensitivity(layers[name], cover) == pytest.approx(slope, abs=4e-6)


def dense_graph(seed: int) -> ResidualGraph:
    """Two layers that put their output beside their input, a norm of its own, a sum with a scaled branch."""
    rng = np.random.default_rng(seed)
    return graph_of(
        (2, 4, 4),
        ("one", conv(tensor(rng, 2, 2, 3, 3)), "input"),
        ("cat", Concat(), "input", "one"),
        ("norm", norm(rng, 4), "cat"),
        ("act", Activation(kind="sigmoid"), "norm"),
        ("two", conv(tensor(rng, 2, 4, 3, 3)), "act"),
        ("all", Concat(), "cat", "two"),
        ("branch", conv(tensor(rng, 6, 3, 3, 3), groups=2), "all"),
        ("small", Scale(factor=-0.3), "branch"),
        ("sum", Add(), "all", "small"),
        ("mean", GLOBAL_MEAN, "sum"),
        ("flat", Flatten(), "mean"),
        ("fc", Linear(weight=tensor(rng, 3, 6), bias=None), "flat"),
    )


@given(seed=seeds)
@settings(max_examples=5, deadline=None)
def test_sensitivities_are_slopes_on_any_graph(seed: int) -> None:
    for source in (resnet_state(seed, widths=(3, 4), depth=1, projections=True), preact_state(seed, width=3)):
        subject = subject_of(source)
        assert_slopes(subject, [node.name for node in subject.folded if isinstance(node.op, Conv | Linear | Norm)])


@pytest.mark.parametrize("seed", range(3))
def test_sensitivities_are_slopes_beside_concatenations_and_offsets(seed: int) -> None:
    subject = subject_of(dense_graph(seed), (2, 4, 4))
    names = [layer.name for layer in analyse(subject).layers]
    assert names == ["one", "norm", "two", "branch", "fc"]
    assert_slopes(subject, names)


def test_sensitivities_of_resnet20_are_slopes_of_its_real_norms(checkpoints: Path) -> None:
    chosen = Settings(threads=1)
    subject = Subject(discover(load(str(checkpoints / "resnet20.th")), chosen), chosen)
    name = "layer1.1.conv1"
    before = log_complexities(subject, subject.folded, name)
    layers = {layer.name: layer for layer in analyse(subject).layers}
    assert_slopes(subject, ["conv1", "layer1.1.conv1", "layer2.0.conv2", "layer3.2.conv1", "linear"])
    # A shrinkage of 10 % is not small: the first-order figure overstates what it changes, and by less than 1e-3.
    after = log_complexities(subject, scaled(subject.folded, name, 0.9), name)
    change = layers[name].log10_change
    assert change is not None
    for cover in ("operator", "patch"):
        assert getattr(change, cover) == pytest.approx((after[cover] - before[cover]) / math.log(10), abs=1e-3)


# rankings -----------------------------------------------------------------------------------------


def test_resnet20_has_its_golden_ranking(checkpoints: Path) -> None:
    result = trained(checkpoints, 20)
    for layer in result.layers:
        block = layer.name.rpartition(".")[0] or layer.name
        assert sensitivity(layer, "operator") == pytest.approx(RANKING[block], abs=0.0011)
    ranked = sorted(result.layers, key=lambda layer: -round(sensitivity(layer, "operator"), 9))
    blocks = [layer.name.rpartition(".")[0] or layer.name for layer in ranked]
    assert list(dict.fromkeys(blocks))[2:] == list(RANKING)[2:]
    assert set(blocks[:2]) == {"linear", "conv1"}


def test_resnet20_has_its_golden_ranking_per_squared_norm(checkpoints: Path) -> None:
    gains = {
        layer.name: layer.gain_per_square.operator or 0.0
        for layer in trained(checkpoints, 20).layers
        if layer.gain_per_square is not None
    }
    ranked = sorted(gains, key=lambda name: -gains[name])
    assert ranked[:4] == list(PER_SQUARE)
    assert [gains[name] for name in ranked[:4]] == pytest.approx(list(PER_SQUARE.values()), abs=0.00015)
    assert ranked[-1] == LEAST_PER_SQUARE[0]
    assert gains[ranked[-1]] == pytest.approx(LEAST_PER_SQUARE[1], abs=6e-6)


def test_the_norm_of_a_layer_is_that_of_its_folded_weights(checkpoints: Path) -> None:
    state = load(str(checkpoints / "resnet20.th")).tensors
    for layer in trained(checkpoints, 20).layers:
        if layer.name == "linear":
            weight = state["linear.weight"].double()
        else:
            behind = layer.name.replace("conv", "bn")
            spread = (state[f"{behind}.running_var"].double() + 1e-5).sqrt()
            gain = state[f"{behind}.weight"].double() / spread
            weight = state[f"{layer.name}.weight"].double() * gain[:, None, None, None]
        assert layer.frobenius == pytest.approx(float(weight.square().sum().sqrt()), rel=1e-12)


@given(slope=st.floats(0, 5), size=st.floats(1e-3, 1e3))
@few
def test_a_unit_of_squared_norm_buys_what_the_advice_says(slope: float, size: float) -> None:
    # ln Q = slope ln ||W||, so a squared norm smaller by d takes slope (ln ||W||^2 - ln(||W||^2 - d)) / 2 off it.
    taken = 1e-6 * size**2
    found = advice(slope, size)
    assert found.gain_per_square is not None
    dropped = slope * (math.log(size**2) - math.log(size**2 - taken)) / 2
    assert found.gain_per_square * taken == pytest.approx(dropped, rel=1e-5)
    assert found.log10_change == pytest.approx(slope * (math.log10(0.9 * size) - math.log10(size)), abs=1e-12)


# which parameter ----------------------------------------------------------------------------------


def test_the_scale_of_the_norm_behind_a_layer_acts_and_not_the_layer() -> None:
    for state in (resnet_state(projections=True), preact_state()):
        result = bound_of(state)
        for layer in result.layers:
            assert layer.actionable in state
    named = {layer.name: layer.actionable for layer in bound_of(resnet_state(projections=True)).layers}
    assert named["conv1"] == "bn1.weight"
    assert named["layer2.0.conv2"] == "layer2.0.bn2.weight"
    assert named["layer2.0.downsample.0"] == "layer2.0.downsample.1.weight"
    assert named["linear"] == "linear.weight"


def test_in_a_preactivated_net_a_norm_alone_acts_by_itself_and_a_layer_before_a_sum_too() -> None:
    named = {layer.name: layer.actionable for layer in bound_of(preact_state()).layers}
    assert named["layer1.0.bn1"] == "layer1.0.bn1.weight"
    assert named["layer1.0.conv1"] == "layer1.0.bn2.weight"
    assert named["layer1.0.conv2"] == "layer1.0.conv2.weight"
    assert named["bn"] == "bn.weight"
    assert "layer1.0.bn2" not in named


def test_decay_of_the_named_parameter_moves_the_norm_and_decay_of_a_normed_layer_does_not() -> None:
    # In training the norm divides by what it measures: a weight c times as large has c times the mean and deviation.
    state = resnet_state()
    before = {layer.name: layer for layer in bound_of(state).layers}
    smaller = {name: value * (0.9 if name == "layer1.1.bn1.weight" else 1.0) for name, value in state.items()}
    after = {layer.name: layer for layer in bound_of(smaller).layers}
    name = "layer1.1.conv1"
    assert after[name].frobenius == pytest.approx(0.9 * before[name].frobenius, rel=1e-12)
    undone = dict(state)
    undone[f"{name}.weight"] = 0.9 * state[f"{name}.weight"]
    undone["layer1.1.bn1.running_mean"] = 0.9 * state["layer1.1.bn1.running_mean"]
    undone["layer1.1.bn1.running_var"] = 0.81 * (state["layer1.1.bn1.running_var"] + 1e-5) - 1e-5
    same = {layer.name: layer for layer in bound_of(undone).layers}
    assert same[name].frobenius == pytest.approx(before[name].frobenius, rel=1e-12)


def test_a_norm_without_a_scale_leaves_no_parameter_to_act_on() -> None:
    rng = np.random.default_rng(0)
    graph = graph_of(
        (2, 3, 3),
        ("conv", conv(tensor(rng, 2, 2, 3, 3)), "input"),
        ("conv.norm", norm(rng, 2, affine=False), "conv"),
        ("relu", RELU, "conv.norm"),
        ("alone", norm(rng, 2, affine=False), "relu"),
        ("next", conv(tensor(rng, 2, 2, 3, 3)), "alone"),
    )
    result = bound_of(graph, (2, 3, 3))
    assert {layer.name: layer.actionable for layer in result.layers} == {
        "conv": None,
        "alone": None,
        "next": "next.weight",
    }
    assert [note.where for note in result.notes if note.code == "no_decay"] == ["conv, alone"]
    assert actionable(graph.nodes, {}) == {
        "conv": "conv.weight",
        "conv.norm": None,
        "alone": None,
        "next": "next.weight",
    }


# zeros --------------------------------------------------------------------------------------------


def test_a_layer_of_zeros_has_no_effect_and_no_gain() -> None:
    # A branch 0 then 2 beside the identity: the second layer sees nothing, so neither of them matters.
    graph = graph_of(
        (1, 1, 1),
        ("zero", scalar(0), "input"),
        ("behind", scalar(2), "zero"),
        ("sum", Add(), "behind", "input"),
        ("head", scalar(3), "sum"),
    )
    zero, behind, head = bound_of(graph, (1, 1, 1)).layers
    assert [sensitivity(layer, "operator") for layer in (zero, behind, head)] == [0, 0, 1]
    assert zero.frobenius == 0
    assert zero.gain_per_square is not None
    assert zero.gain_per_square.operator is None
    assert behind.gain_per_square is not None
    assert behind.gain_per_square.operator == 0


def test_a_branch_that_is_multiplied_by_zero_has_no_effect() -> None:
    graph = graph_of(
        (1, 1, 1),
        ("branch", scalar(5), "input"),
        ("off", Scale(factor=0.0), "branch"),
        ("sum", Add(), "off", "input"),
        ("head", scalar(3), "sum"),
    )
    branch, head = bound_of(graph, (1, 1, 1)).layers
    assert [sensitivity(layer, "patch") for layer in (branch, head)] == [0, 1]


@pytest.mark.parametrize("dead", ["conv1", "layer1.0.conv2", "layer1.1.conv1", "layer2.0.conv1"])
def test_zeros_anywhere_leave_numbers(dead: str) -> None:
    state = resnet_state()
    state[f"{dead}.weight"] = torch.zeros_like(state[f"{dead}.weight"])
    result = bound_of(state)
    for layer, cover in itertools.product(result.layers, ("operator", "patch")):
        assert math.isfinite(sensitivity(layer, cover)) == (dead != "conv1") if layer.sensitivity else dead == "conv1"


def test_a_net_that_is_zero_has_no_sensitivity() -> None:
    graph = graph_of((2, 1, 1), ("flat", Flatten(), "input"), ("fc", linear((0, 0), (0, 0)), "flat"))
    layer = bound_of(graph, (2, 1, 1)).layers[0]
    assert layer.sensitivity is layer.log10_change is layer.gain_per_square is None
    assert layer.actionable == "fc.weight"
