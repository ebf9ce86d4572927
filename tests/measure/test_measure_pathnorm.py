"""Path norms against plain forward passes with absolute weights and against every path counted by itself."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
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
    dense,
    forward,
    jacobian,
    nodes_of,
    one_thread,
    scalar,
    small_resnet,
    tensor,
)
from torch.nn import functional

from resnet_audit.checkpoint import load
from resnet_audit.errors import NoRule
from resnet_audit.graph.from_weights import discover
from resnet_audit.graph.ir import (
    Activation,
    AdaptivePool,
    Add,
    Concat,
    Conv,
    Flatten,
    Linear,
    Multiply,
    Node,
    Norm,
    Opaque,
    Pool,
    Scale,
)
from resnet_audit.measure.pathnorm import path_norm
from resnet_audit.measure.subject import Subject
from resnet_audit.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

_one_thread = pytest.fixture(scope="module", autouse=True)(one_thread)

seeds = st.integers(0, 2**16)
powers = st.sampled_from([1.0, 1.5, 2.0, 3.0])
few = settings(max_examples=20, deadline=None)
LN10 = math.log(10)


def plain(nodes: Sequence[Node], *, sum_pool: bool = True) -> Tensor:
    """The outputs of one float64 pass with absolute weights and biases on the input of ones."""
    ones = torch.ones(1, *(nodes[0].shape or ()), dtype=torch.float64)
    return forward(nodes, ones, absolute=True, sum_pool=sum_pool)[nodes[-1].name].flatten()


def raised(nodes: Sequence[Node], power: float) -> list[Node]:
    """The network whose weights, biases and averages' weights are |w|^power of these."""
    found = []
    for node in nodes:
        op, after = node.op, None
        match op:
            case Conv() | Linear():
                bias = None if op.bias is None else op.bias.double().abs() ** power
                op = replace(op, weight=op.weight.double().abs() ** power, bias=bias)
            case Norm():
                scale = op.weight / (op.var + op.eps).sqrt()
                shift = -op.mean * scale if op.bias is None else op.bias - op.mean * scale
                zeros, ones = torch.zeros_like(scale), torch.ones_like(scale)
                op = Norm(weight=scale.abs() ** power, bias=shift.abs() ** power, mean=zeros, var=ones, eps=0.0)
            case Scale():
                op = Scale(factor=abs(op.factor) ** power)
            case Pool(kind="avg"):
                source = next(other for other in nodes if other.name == node.inputs[0])
                entries = math.prod(op.kernel or source.shape[1:])
                after = Scale(factor=entries ** (1 - power))
        if after is None:
            found.append(replace(node, op=op))
        else:
            found += [
                replace(node, name=f"{node.name}.mean"),
                Node(name=node.name, op=after, inputs=(f"{node.name}.mean",), shape=node.shape),
            ]
    return found


def mlp(weights: Sequence[Tensor], biases: Sequence[Tensor]) -> tuple[Node, ...]:
    nodes, last = [("flat", Flatten(), "input")], "flat"
    for index, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        nodes += [(f"fc{index}", Linear(weight=weight, bias=bias), last), (f"relu{index}", RELU, f"fc{index}")]
        last = f"relu{index}"
    return nodes_of((weights[0].shape[1], 1, 1), *nodes)


def paths(weights: Sequence[Tensor], biases: Sequence[Tensor], power: float) -> list[float]:
    """|product of weights|^power of every path from an input, or from a bias, to each output: the sum by output."""
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
                total += value**power
        totals.append(total)
    return totals


@given(seed=seeds, depth=st.integers(1, 4), power=powers)
@few
def test_the_path_norm_is_the_norm_of_all_paths(seed: int, depth: int, power: float) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 4, depth + 1)
    weights = [tensor(rng, int(b), int(a)) for a, b in itertools.pairwise(sizes)]
    biases = [tensor(rng, int(size)) for size in sizes[1:]]
    totals = paths(weights, biases, power)
    found = path_norm(mlp(weights, biases), power)
    assert found.log_sum == pytest.approx(math.log(sum(totals)) / power, abs=1e-11)
    assert found.log_max == pytest.approx(math.log(max(totals)) / power, abs=1e-11)


def test_a_residual_path_counts_once_through_the_shortcut() -> None:
    # Input 1, branch 3 with bias -2, head 5 with bias 7: 5 (3 + 1 + 2) + 7.
    nodes = nodes_of(
        (1, 1, 1),
        ("branch", scalar(-3, -2), "input"),
        ("sum", Add(), "branch", "input"),
        ("head", scalar(5, 7), "sum"),
    )
    assert path_norm(nodes).log_sum == pytest.approx(math.log(37))


@given(seed=seeds, biases=st.booleans(), size=st.sampled_from([1e-3, 0.5, 1e3]))
@few
def test_the_path_norm_is_a_pass_with_absolute_weights(seed: int, size: float, *, biases: bool) -> None:
    nodes = small_resnet(seed, biases=biases, size=size)
    outputs = plain(nodes)
    found = path_norm(nodes)
    assert found.log_sum == pytest.approx(math.log(float(outputs.sum())), abs=1e-11)
    assert found.log_max == pytest.approx(math.log(float(outputs.max())), abs=1e-11)


@given(seed=seeds, biases=st.booleans(), power=powers)
@few
def test_a_power_is_a_pass_with_raised_weights_and_a_root(seed: int, power: float, *, biases: bool) -> None:
    nodes = small_resnet(seed, biases=biases)
    for keep in (False, True):
        outputs = plain(raised(nodes, power) if not keep else means_kept(nodes, power), sum_pool=not keep)
        found = path_norm(nodes, power, keep_pools=keep)
        assert found.log_sum == pytest.approx(math.log(float(outputs.sum())) / power, abs=1e-11)
        assert found.log_max == pytest.approx(math.log(float(outputs.max())) / power, abs=1e-11)


def means_kept(nodes: Sequence[Node], power: float) -> list[Node]:
    """The network with raised weights and biases, its averages as they are."""
    undone = raised(nodes, power)
    by_name = {node.name: node for node in undone}
    return [replace(node, op=Scale(factor=1.0)) if f"{node.name}.mean" in by_name else node for node in undone]


WINDOWS = [
    Pool(kind="avg", kernel=None),
    Pool(kind="avg", kernel=(2, 2), stride=(2, 2)),
    Pool(kind="avg", kernel=(3, 2), stride=(2, 1), padding=(1, 1)),
    Pool(kind="max", kernel=(2, 2), stride=(2, 2)),
    Pool(kind="max", kernel=(3, 3), stride=(2, 1), padding=(1, 0)),
    Pool(kind="max", kernel=(2, 3), stride=(1, 2), padding=(1, 1), dilation=(2, 1)),
    Pool(kind="max", kernel=(2, 2), stride=(2, 3), ceil=True),
    Pool(kind="avg", kernel=(2, 2), stride=(2, 3), ceil=True),
    Pool(kind="avg", kernel=(3, 3), stride=(2, 2), padding=(1, 1), count_padding=False),
    Pool(kind="avg", kernel=(3, 2), stride=(3, 3), padding=(1, 0), ceil=True, count_padding=False),
    AdaptivePool(cells=(2, 3)),
]


def window_weights(pool: Pool | AdaptivePool, shape: tuple[int, ...]) -> Tensor:
    """(outputs, inputs): the weights of means, 1 for every entry of a maximum's window; image by image."""
    images = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
    if isinstance(pool, AdaptivePool):
        columns = functional.adaptive_avg_pool2d(images, pool.cells)
    elif pool.kernel is None:
        columns = functional.adaptive_avg_pool2d(images, 1)
    elif pool.kind == "avg":
        columns = functional.avg_pool2d(images, pool.kernel, pool.stride, pool.padding, pool.ceil, pool.count_padding)
    else:
        columns = functional.max_pool2d(images, pool.kernel, pool.stride, pool.padding, pool.dilation, pool.ceil)
    return columns.flatten(1).T


@pytest.mark.parametrize("pool", WINDOWS, ids=str)
@given(seed=seeds, power=powers)
@settings(max_examples=8, deadline=None)
def test_a_path_through_a_window_has_the_weight_of_the_dense_operator(
    pool: Pool | AdaptivePool, seed: int, power: float
) -> None:
    rng = np.random.default_rng(seed)
    kernel = conv(tensor(rng, 3, 2, 3, 3), stride=2)
    nodes = nodes_of((2, 9, 8), ("conv", kernel, "input"), ("pool", pool, "conv"))
    matrix = dense(kernel, (2, 9, 8)).abs() ** power
    shape = nodes[1].shape
    window = window_weights(pool, shape) ** power
    totals = window @ matrix @ torch.ones(matrix.shape[1], dtype=torch.float64)
    assert path_norm(nodes, power).log_sum == pytest.approx(math.log(float(totals.sum())) / power, abs=1e-11)
    assert path_norm(nodes, power).log_max == pytest.approx(math.log(float(totals.max())) / power, abs=1e-11)


@given(seed=seeds, slope=st.floats(-3, 3), power=powers)
@few
def test_a_leaky_unit_counts_its_larger_slope(seed: int, slope: float, power: float) -> None:
    rng = np.random.default_rng(seed)
    first, second = tensor(rng, 3, 2), tensor(rng, 1, 3)
    bias = tensor(rng, 3)
    leaky = Activation(kind="leaky_relu", slope=slope)
    nodes = nodes_of(
        (2, 1, 1),
        ("flat", Flatten(), "input"),
        ("fc0", Linear(weight=first, bias=bias), "flat"),
        ("leaky", leaky, "fc0"),
        ("fc1", Linear(weight=second, bias=None), "leaky"),
    )
    steepest = max(1.0, abs(slope))
    zero = torch.zeros(1, dtype=torch.float64)
    expected = sum(paths([first, second * steepest], [bias, zero], power))
    assert path_norm(nodes, power).log_sum == pytest.approx(math.log(expected) / power, abs=1e-11)
    x = tensor(rng, 2)
    hidden = first @ x
    slopes = torch.where(hidden > 0, 1.0, slope)
    assert float((second * slopes @ first).abs().sum()) <= math.exp(path_norm(nodes).log_sum) * (1 + 1e-12)


@given(seed=seeds, power=powers)
@few
def test_a_parametric_unit_counts_the_larger_slope_of_its_channel(seed: int, power: float) -> None:
    rng = np.random.default_rng(seed)
    first, second, slopes = tensor(rng, 3, 2, 3, 3), tensor(rng, 2, 3, 3, 3), tensor(rng, 3) * 2
    nodes = nodes_of(
        (2, 4, 4),
        ("a", conv(first, tensor(rng, 3)), "input"),
        ("prelu", Activation(kind="prelu", slopes=slopes), "a"),
        ("b", conv(second, None), "prelu"),
    )
    steep = second * torch.maximum(slopes.abs(), torch.ones(3).double())[:, None, None]
    without = (nodes[0], nodes[1], replace(nodes[3], op=conv(steep), inputs=("a",)))
    assert path_norm(nodes, power).log_sum == pytest.approx(path_norm(without, power).log_sum, abs=1e-11)


def test_a_bias_of_tokens_belongs_to_the_last_axis() -> None:
    weight, bias = torch.tensor([[1.0, -2.0], [0.0, 3.0]]).double(), torch.tensor([10.0, 100.0]).double()
    tokens = Node(name="input", op=nodes_of((1, 1, 1))[0].op, shape=(3, 2))
    nodes = (tokens, Node(name="fc", op=Linear(weight=weight, bias=bias), inputs=("input",), shape=(3, 2)))
    assert math.exp(path_norm(nodes).log_sum) == pytest.approx(3 * (3 + 10) + 3 * (3 + 100))
    assert math.exp(path_norm(nodes).log_max) == pytest.approx(103)


def test_no_power_of_a_weight_overflows() -> None:
    nodes = nodes_of((1, 1, 1), ("large", scalar(1e200, -1e250), "input"), ("small", scalar(1e-250), "large"))
    assert path_norm(nodes, 2).log_sum == pytest.approx(0, abs=1e-12)


@given(seed=seeds)
@few
def test_sums_over_windows_are_above_maxima(seed: int) -> None:
    nodes = small_resnet(seed)
    kept, summed = plain(nodes, sum_pool=False), plain(nodes, sum_pool=True)
    assert bool((summed > kept).all())
    assert path_norm(nodes).log_sum > math.log(float(kept.sum())) + 1e-9


def test_a_window_of_ones_counts_every_pixel() -> None:
    nodes = nodes_of((1, 4, 4), ("max", Pool(kind="max", kernel=(3, 3), stride=(2, 2), padding=(1, 1)), "input"))
    assert math.exp(path_norm(nodes).log_sum) == pytest.approx(4 + 6 + 6 + 9)
    assert math.exp(path_norm(nodes).log_max) == pytest.approx(9)


@given(seed=seeds)
@settings(max_examples=15, deadline=None)
def test_no_jacobian_has_more_in_it_than_the_path_norm_without_biases(seed: int) -> None:
    nodes, bare = small_resnet(seed), small_resnet(seed, biases=False)
    x = tensor(np.random.default_rng([seed, 1]), 2, 6, 6)
    kept = plain(bare, sum_pool=False)
    rows = jacobian(bare, x, "fc").abs().sum(1)
    assert bool((rows <= kept * (1 + 1e-9)).all())
    assert math.log(float(kept.sum())) <= path_norm(bare).log_sum
    assert len(nodes) == len(bare)


def bottleneck(rng: np.random.Generator) -> tuple[Node, ...]:
    """A stem with max-pool and one bottleneck with a projection; no biases."""
    return nodes_of(
        (2, 6, 6),
        ("stem", conv(tensor(rng, 3, 2, 3, 3)), "input"),
        ("relu", RELU, "stem"),
        ("max", Pool(kind="max", kernel=(3, 3), stride=(2, 2), padding=(1, 1)), "relu"),
        ("a", conv(tensor(rng, 2, 3, 1, 1)), "max"),
        ("relu_a", RELU, "a"),
        ("b", conv(tensor(rng, 2, 2, 3, 3), stride=2), "relu_a"),
        ("relu_b", RELU, "b"),
        ("c", conv(tensor(rng, 4, 2, 1, 1)), "relu_b"),
        ("projection", conv(tensor(rng, 4, 3, 1, 1), stride=2), "max"),
        ("sum", Add(), "c", "projection"),
        ("end", RELU, "sum"),
        ("pool", GLOBAL_MEAN, "end"),
        ("flat", Flatten(), "pool"),
        ("fc", Linear(weight=tensor(rng, 3, 4), bias=None), "flat"),
    )


def densenet(rng: np.random.Generator) -> tuple[Node, ...]:
    """Two dense layers of two channels each and a mean over 2x2; no biases."""
    return nodes_of(
        (2, 6, 6),
        ("a", conv(tensor(rng, 2, 2, 3, 3)), "input"),
        ("relu_a", RELU, "a"),
        ("cat_a", Concat(), "relu_a", "input"),
        ("b", conv(tensor(rng, 2, 4, 3, 3)), "cat_a"),
        ("relu_b", RELU, "b"),
        ("cat_b", Concat(), "relu_b", "cat_a"),
        ("pool", Pool(kind="avg", kernel=(2, 2), stride=(2, 2)), "cat_b"),
        ("flat", Flatten(), "pool"),
        ("fc", Linear(weight=tensor(rng, 3, 54), bias=None), "flat"),
    )


def pre_activation(rng: np.random.Generator) -> tuple[Node, ...]:
    """One pre-activation block, its norms left alone and without offsets."""

    def norm() -> Norm:
        zeros = torch.zeros(2, dtype=torch.float64)
        return Norm(weight=tensor(rng, 2), bias=None, mean=zeros, var=torch.ones_like(zeros), eps=1e-5)

    return nodes_of(
        (2, 5, 5),
        ("norm_a", norm(), "input"),
        ("relu_a", RELU, "norm_a"),
        ("a", conv(tensor(rng, 2, 2, 3, 3)), "relu_a"),
        ("norm_b", norm(), "a"),
        ("relu_b", RELU, "norm_b"),
        ("b", conv(tensor(rng, 2, 2, 3, 3)), "relu_b"),
        ("sum", Add(), "b", "input"),
        ("flat", Flatten(), "sum"),
        ("fc", Linear(weight=tensor(rng, 3, 50), bias=None), "flat"),
    )


@pytest.mark.parametrize("make", [bottleneck, densenet, pre_activation])
@given(seed=seeds)
@settings(max_examples=8, deadline=None)
def test_no_jacobian_of_any_kind_of_net_has_more_in_it_than_the_path_norm(make, seed: int) -> None:
    rng = np.random.default_rng(seed)
    nodes = make(rng)
    kept = path_norm(nodes, keep_pools=True)
    rows = jacobian(nodes, tensor(rng, *(nodes[0].shape or ())), "fc").abs().sum(1)
    assert float(rows.sum()) <= math.exp(kept.log_sum) * (1 + 1e-9)  # of some nets at some inputs it is zero
    assert float(rows.max()) <= math.exp(kept.log_max) * (1 + 1e-9)
    assert kept.log_sum <= path_norm(nodes).log_sum + 1e-12


@given(seed=seeds, factor=st.floats(0.01, 100))
@few
def test_the_path_norm_is_invariant_to_rescaling_a_hidden_layer(seed: int, factor: float) -> None:
    rng = np.random.default_rng(seed)
    first, second, bias = tensor(rng, 3, 2), tensor(rng, 2, 3), tensor(rng, 3)
    end = tensor(rng, 2)
    one = path_norm(mlp([first, second], [bias, end]))
    other = path_norm(mlp([first * factor, second / factor], [bias * factor, end]))
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
    found = path_norm(nodes).log_sum
    assert found == pytest.approx(math.log(float(plain(nodes).sum())), abs=1e-10)
    assert found > math.log(torch.finfo(torch.float32).max)


def test_no_depth_overflows_float64_either() -> None:
    nodes = nodes_of((1, 1, 1), *((f"conv{i}", scalar(1e9), f"conv{i - 1}" if i else "input") for i in range(100)))
    assert path_norm(nodes).log_sum == pytest.approx(900 * math.log(10), rel=1e-12)
    assert math.isinf(float(plain(nodes).sum()))


def test_small_and_large_values_meet_without_losing_the_larger() -> None:
    large = [(f"conv{i}", scalar(1e9), f"conv{i - 1}" if i else "input") for i in range(60)]
    nodes = nodes_of((1, 1, 1), *large, ("sum", Add(), "input", "conv59"), ("cat", Concat(), "sum", "input"))
    assert path_norm(nodes).log_sum == pytest.approx(540 * math.log(10), rel=1e-12)


def test_a_branch_of_zeros_takes_nothing_from_its_shortcut() -> None:
    nodes = nodes_of(
        (1, 1, 1),
        ("large", scalar(1e200), "input"),
        ("larger", scalar(1e200), "large"),
        ("zero", scalar(0), "larger"),
        ("sum", Add(), "zero", "input"),
    )
    assert path_norm(nodes).log_sum == pytest.approx(0, abs=1e-12)


def test_a_net_of_zeros_has_no_logarithm() -> None:
    nodes = nodes_of((1, 2, 2), ("zero", scalar(0), "input"), ("sum", Add(), "zero", "zero"), ("out", scalar(3), "sum"))
    assert path_norm(nodes).log_sum == path_norm(nodes).log_max == -math.inf


def test_a_bias_behind_zeros_is_all_there_is() -> None:
    nodes = nodes_of(
        (1, 2, 2), ("zero", scalar(0), "input"), ("shift", scalar(3, -2), "zero"), ("out", scalar(5), "shift")
    )
    assert math.exp(path_norm(nodes).log_sum) == pytest.approx(4 * 10)


@pytest.mark.parametrize("op", [Multiply(), Opaque(name="softmax")], ids=["product", "unknown"])
def test_there_is_no_path_norm_through_what_is_not_piecewise_linear(op: Multiply | Opaque) -> None:
    nodes = (nodes_of((1, 2, 2))[0], Node(name="op", op=op, inputs=("input",), shape=(1, 2, 2)))
    with pytest.raises(NoRule, match="path norm"):
        path_norm(nodes)


def trained(checkpoints: Path, depth: int, size: tuple[int, int, int] | None = None) -> Subject:
    chosen = Settings(threads=1, input_size=size)
    return Subject(discover(load(str(checkpoints / f"resnet{depth}.th")), chosen), chosen)


@pytest.mark.parametrize(
    ("depth", "most", "largest", "second"),
    [
        (20, 21.967, 21.005, 1.818),
        (32, 32.135, 31.168, 1.566),
        (44, 41.382, 40.414, 1.521),
        (56, 49.894, 48.926, 1.412),
    ],
)
def test_trained_nets_have_the_path_norms_of_the_theory_note(
    checkpoints: Path, depth: int, most: float, largest: float, second: float
) -> None:
    folded = trained(checkpoints, depth).folded
    first = path_norm(folded)
    assert first.log_sum / LN10 == pytest.approx(most, abs=6e-4)
    assert first.log_max / LN10 == pytest.approx(largest, abs=6e-4)
    assert path_norm(folded, 2).log_sum / LN10 == pytest.approx(second, abs=6e-4)


@pytest.mark.parametrize(("depth", "both", "unfolded"), [(20, 22.2931172085, 22.2571), (56, 50.7578737391, 50.7291)])
def test_means_of_norms_are_not_subtracted(checkpoints: Path, depth: int, both: float, unfolded: float) -> None:
    """The reference implementation agrees on folded nets; on others it subtracts |mean| and so understates."""
    subject = trained(checkpoints, depth, (3, 224, 224))
    found = path_norm(subject.folded).log_sum / LN10
    assert found == pytest.approx(both, abs=6e-11)
    defective = [
        replace(
            node, op=replace(node.op, weight=node.op.weight.abs(), bias=node.op.bias.abs(), mean=node.op.mean.abs())
        )
        if isinstance(node.op, Norm)
        else replace(
            node,
            op=replace(node.op, weight=node.op.weight.abs(), bias=None if node.op.bias is None else node.op.bias.abs()),
        )
        if isinstance(node.op, Conv | Linear)
        else node
        for node in subject.graph.nodes
    ]
    ones = torch.ones(1, 3, 224, 224, dtype=torch.float64)
    understated = math.log10(float(forward(defective, ones)[defective[-1].name].sum()))
    assert understated == pytest.approx(unfolded, abs=6e-5)
    assert found - understated > 0.02


def test_weights_of_means_are_raised_inside_of_the_root(checkpoints: Path) -> None:
    """The reference implementation leaves 1/P as it is, which overstates, and may correct it outside of the root."""
    folded = trained(checkpoints, 20, (3, 224, 224)).folded
    found = path_norm(folded, 2).log_sum / LN10
    assert found == pytest.approx(1.0924, abs=6e-5)
    outputs = plain(means_kept(folded, 2))
    uncorrected = math.log10(float(outputs.sum())) / 2
    assert uncorrected == pytest.approx(2.8399, abs=6e-5)
    corrected_outside = uncorrected - 2 * math.log10(56)
    assert abs(found - uncorrected) > 1
    assert abs(found - corrected_outside) > 1


@pytest.mark.parametrize("depth", [20, 56])
def test_a_trained_net_has_the_path_norm_of_a_plain_pass(checkpoints: Path, depth: int) -> None:
    folded = trained(checkpoints, depth).folded
    outputs = plain(folded)
    found = path_norm(folded)
    assert found.log_sum == pytest.approx(math.log(float(outputs.sum())), abs=1e-9)
    assert found.log_max == pytest.approx(math.log(float(outputs.max())), abs=1e-9)
    single = torch.ones(1, 3, 32, 32, dtype=torch.float32)
    if depth == 56:
        assert math.isinf(float(forward(folded, single, absolute=True)[folded[-1].name].sum()))
