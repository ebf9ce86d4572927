"""The L1 path norm against plain forward passes with absolute weights and against every path counted by itself."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from measure_oracles import (
    GLOBAL_MEAN,
    RELU,
    conv,
    forward,
    jacobian,
    nodes_of,
    one_thread,
    scalar,
    small_resnet,
    tensor,
)

from resnet_audit.checkpoint import load
from resnet_audit.errors import NoRule
from resnet_audit.graph.from_weights import discover
from resnet_audit.graph.ir import Add, Concat, Flatten, Linear, Multiply, Node, Opaque, Pool
from resnet_audit.measure.pathnorm import path_norm_l1
from resnet_audit.measure.subject import Subject
from resnet_audit.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

_one_thread = pytest.fixture(scope="module", autouse=True)(one_thread)

seeds = st.integers(0, 2**16)
few = settings(max_examples=20, deadline=None)


def plain(nodes: Sequence[Node], *, sum_pool: bool = True) -> Tensor:
    """The outputs of one float64 pass with absolute weights and biases on the input of ones."""
    ones = torch.ones(1, *(nodes[0].shape or ()), dtype=torch.float64)
    return forward(nodes, ones, absolute=True, sum_pool=sum_pool)[nodes[-1].name].flatten()


def mlp(weights: Sequence[Tensor], biases: Sequence[Tensor]) -> tuple[Node, ...]:
    nodes, last = [("flat", Flatten(), "input")], "flat"
    for index, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        nodes += [(f"fc{index}", Linear(weight=weight, bias=bias), last), (f"relu{index}", RELU, f"fc{index}")]
        last = f"relu{index}"
    return nodes_of((weights[0].shape[1], 1, 1), *nodes)


def paths(weights: Sequence[Tensor], biases: Sequence[Tensor]) -> list[float]:
    """|product of weights| of every path from an input, or from a bias, to each output: the sum by output."""
    depth = len(weights)
    sizes = [weights[0].shape[1], *(weight.shape[0] for weight in weights)]
    totals = []
    for output in range(sizes[-1]):
        total = 0.0
        for start in range(depth + 1):  # layer whose unit the path begins at; 0 is the input
            for units in itertools.product(*(range(size) for size in sizes[start:-1])):
                path = (*units, output)
                value = 1.0 if start == 0 else abs(float(biases[start - 1][path[0]]))
                for layer, (source, target) in enumerate(itertools.pairwise(path), start=start):
                    value *= abs(float(weights[layer][target, source]))
                total += value
        totals.append(total)
    return totals


@given(seed=seeds, depth=st.integers(1, 4))
@few
def test_the_path_norm_is_the_sum_over_all_paths(seed: int, depth: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 4, depth + 1)
    weights = [tensor(rng, int(b), int(a)) for a, b in itertools.pairwise(sizes)]
    biases = [tensor(rng, int(size)) for size in sizes[1:]]
    totals = paths(weights, biases)
    found = path_norm_l1(mlp(weights, biases))
    assert found.log_sum == pytest.approx(math.log(sum(totals)), abs=1e-11)
    assert found.log_max == pytest.approx(math.log(max(totals)), abs=1e-11)


def test_a_residual_path_counts_once_through_the_shortcut() -> None:
    # Input 1, branch 3 with bias -2, head 5 with bias 7: 5 (3 + 1 + 2) + 7.
    nodes = nodes_of(
        (1, 1, 1),
        ("branch", scalar(-3, -2), "input"),
        ("sum", Add(), "branch", "input"),
        ("head", scalar(5, 7), "sum"),
    )
    assert path_norm_l1(nodes).log_sum == pytest.approx(math.log(37))


@given(seed=seeds, biases=st.booleans(), size=st.sampled_from([1e-3, 0.5, 1e3]))
@few
def test_the_path_norm_is_a_pass_with_absolute_weights(seed: int, size: float, *, biases: bool) -> None:
    nodes = small_resnet(seed, biases=biases, size=size)
    outputs = plain(nodes)
    found = path_norm_l1(nodes)
    assert found.log_sum == pytest.approx(math.log(float(outputs.sum())), abs=1e-11)
    assert found.log_max == pytest.approx(math.log(float(outputs.max())), abs=1e-11)


@given(seed=seeds)
@few
def test_sums_over_windows_are_above_maxima(seed: int) -> None:
    nodes = small_resnet(seed)
    kept, summed = plain(nodes, sum_pool=False), plain(nodes, sum_pool=True)
    assert bool((summed > kept).all())
    assert path_norm_l1(nodes).log_sum > math.log(float(kept.sum())) + 1e-9


def test_a_window_of_ones_counts_every_pixel() -> None:
    nodes = nodes_of((1, 4, 4), ("max", Pool(kind="max", kernel=(3, 3), stride=(2, 2), padding=(1, 1)), "input"))
    assert math.exp(path_norm_l1(nodes).log_sum) == pytest.approx(4 + 6 + 6 + 9)
    assert math.exp(path_norm_l1(nodes).log_max) == pytest.approx(9)


@given(seed=seeds)
@settings(max_examples=15, deadline=None)
def test_no_jacobian_has_more_in_it_than_the_path_norm_without_biases(seed: int) -> None:
    nodes, bare = small_resnet(seed), small_resnet(seed, biases=False)
    x = tensor(np.random.default_rng([seed, 1]), 2, 6, 6)
    kept = plain(bare, sum_pool=False)
    rows = jacobian(bare, x, "fc").abs().sum(1)
    assert bool((rows <= kept * (1 + 1e-9)).all())
    assert math.log(float(kept.sum())) <= path_norm_l1(bare).log_sum
    assert len(nodes) == len(bare)


@given(seed=seeds, factor=st.floats(0.01, 100))
@few
def test_the_path_norm_is_invariant_to_rescaling_a_hidden_layer(seed: int, factor: float) -> None:
    rng = np.random.default_rng(seed)
    first, second, bias = tensor(rng, 3, 2), tensor(rng, 2, 3), tensor(rng, 3)
    end = tensor(rng, 2)
    one = path_norm_l1(mlp([first, second], [bias, end]))
    other = path_norm_l1(mlp([first * factor, second / factor], [bias * factor, end]))
    assert other.log_sum == pytest.approx(one.log_sum, abs=1e-11)


def test_a_deep_net_overflows_float32_and_not_the_path_norm() -> None:
    rng = np.random.default_rng(0)
    kernels = [tensor(rng, 2, 2, 3, 3) * 30 for _ in range(40)]
    nodes = nodes_of(
        (2, 4, 4),
        *((f"conv{i}", conv(kernel), f"conv{i - 1}" if i else "input") for i, kernel in enumerate(kernels)),
        ("pool", GLOBAL_MEAN, f"conv{len(kernels) - 1}"),
    )
    ones = torch.ones(1, 2, 4, 4, dtype=torch.float32)
    assert math.isinf(float(forward(nodes, ones, absolute=True)["pool"].sum()))
    found = path_norm_l1(nodes).log_sum
    assert found == pytest.approx(math.log(float(plain(nodes).sum())), abs=1e-10)
    assert found > math.log(torch.finfo(torch.float32).max)


def test_no_depth_overflows_float64_either() -> None:
    nodes = nodes_of((1, 1, 1), *((f"conv{i}", scalar(1e9), f"conv{i - 1}" if i else "input") for i in range(100)))
    assert path_norm_l1(nodes).log_sum == pytest.approx(900 * math.log(10), rel=1e-12)
    assert math.isinf(float(plain(nodes).sum()))


def test_small_and_large_values_meet_without_losing_the_larger() -> None:
    large = [(f"conv{i}", scalar(1e9), f"conv{i - 1}" if i else "input") for i in range(60)]
    nodes = nodes_of((1, 1, 1), *large, ("sum", Add(), "input", "conv59"), ("cat", Concat(), "sum", "input"))
    assert path_norm_l1(nodes).log_sum == pytest.approx(540 * math.log(10), rel=1e-12)


def test_a_branch_of_zeros_takes_nothing_from_its_shortcut() -> None:
    nodes = nodes_of(
        (1, 1, 1),
        ("large", scalar(1e200), "input"),
        ("larger", scalar(1e200), "large"),
        ("zero", scalar(0), "larger"),
        ("sum", Add(), "zero", "input"),
    )
    assert path_norm_l1(nodes).log_sum == pytest.approx(0, abs=1e-12)


def test_a_net_of_zeros_has_no_logarithm() -> None:
    nodes = nodes_of((1, 2, 2), ("zero", scalar(0), "input"), ("sum", Add(), "zero", "zero"), ("out", scalar(3), "sum"))
    assert path_norm_l1(nodes).log_sum == path_norm_l1(nodes).log_max == -math.inf


def test_a_bias_behind_zeros_is_all_there_is() -> None:
    nodes = nodes_of(
        (1, 2, 2), ("zero", scalar(0), "input"), ("shift", scalar(3, -2), "zero"), ("out", scalar(5), "shift")
    )
    assert math.exp(path_norm_l1(nodes).log_sum) == pytest.approx(4 * 10)


@pytest.mark.parametrize("op", [Multiply(), Opaque(name="softmax")], ids=["product", "unknown"])
def test_there_is_no_path_norm_through_what_is_not_piecewise_linear(op: Multiply | Opaque) -> None:
    nodes = (nodes_of((1, 2, 2))[0], Node(name="op", op=op, inputs=("input",), shape=(1, 2, 2)))
    with pytest.raises(NoRule, match="path norm"):
        path_norm_l1(nodes)


@pytest.mark.parametrize("depth", [20, 56])
def test_a_trained_net_has_the_path_norm_of_a_plain_pass(checkpoints: Path, depth: int) -> None:
    graph = discover(load(str(checkpoints / f"resnet{depth}.th")), Settings())
    folded = Subject(graph, Settings(threads=1)).folded
    outputs = plain(folded)
    found = path_norm_l1(folded)
    assert found.log_sum == pytest.approx(math.log(float(outputs.sum())), abs=1e-9)
    assert found.log_max == pytest.approx(math.log(float(outputs.max())), abs=1e-9)
    single = torch.ones(1, 3, 32, 32, dtype=torch.float32)
    if depth == 56:
        assert math.isinf(float(forward(folded, single, absolute=True)[folded[-1].name].sum()))
