"""The constants of activations and pools: slopes on fine grids and between, dense matrices, attaining inputs."""

from __future__ import annotations

import itertools
import math
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from measure_oracles import nodes_of, one_thread
from torch import Tensor, nn
from torch.nn import functional

from resnet_audit.errors import NoRule
from resnet_audit.graph.ir import (
    Activation,
    ActivationKind,
    AdaptivePool,
    Add,
    Conv,
    Multiply,
    Node,
    Op,
    Opaque,
    Pad,
    Pool,
    Scale,
)
from resnet_audit.measure.lipschitz import SLOPES, at_zero, log_constant, log_schur

_one_thread = pytest.fixture(scope="module", autouse=True)(one_thread)

few = settings(max_examples=60, deadline=None)
pairs = st.tuples(st.integers(1, 4), st.integers(1, 4))
seeds = st.integers(0, 2**16)

MODULES: dict[str, nn.Module] = {
    "relu": nn.ReLU(),
    "relu6": nn.ReLU6(),
    "leaky_relu": nn.LeakyReLU(0.2),
    "elu": nn.ELU(0.2),
    "selu": nn.SELU(),
    "gelu": nn.GELU(),
    "gelu_tanh": nn.GELU("tanh"),
    "silu": nn.SiLU(),
    "mish": nn.Mish(),
    "hardswish": nn.Hardswish(),
    "tanh": nn.Tanh(),
    "sigmoid": nn.Sigmoid(),
    "hardsigmoid": nn.Hardsigmoid(),
    "softplus": nn.Softplus(),
}
SMOOTH = ["gelu", "gelu_tanh", "silu", "mish", "tanh", "sigmoid", "softplus"]


def constant(op: Op, *shape: int) -> float:
    """The rule's constant of one operation for inputs of one shape."""
    (_, node) = nodes_of(shape, ("node", op, "input"))
    return math.exp(log_constant(node, [shape]))


def activation(kind: str) -> Activation:
    return Activation(kind=kind, slope=0.2)


def slope(kind: str, x: Tensor) -> Tensor:
    """The derivative by torch's own backward pass."""
    leaf = x.clone().requires_grad_(requires_grad=True)
    (found,) = torch.autograd.grad(MODULES[kind](leaf).sum(), leaf)
    return found


# activations --------------------------------------------------------------------------------------


def test_every_kind_of_activation_has_a_rule() -> None:
    assert {*MODULES, "prelu"} == set(get_args(ActivationKind))
    for kind in MODULES:
        assert constant(activation(kind), 3) > 0
    assert SLOPES.keys() == MODULES.keys() - {"leaky_relu", "elu"}


@pytest.mark.parametrize("kind", MODULES)
def test_no_slope_on_a_fine_grid_is_above_the_constant_and_the_largest_is_near(kind: str) -> None:
    x = torch.linspace(-25, 25, 2_000_001, dtype=torch.float64)
    largest = float(slope(kind, x).abs().max())
    rho = constant(activation(kind), 3)
    # torch's backward pass of the hard sigmoid has 1/6 in single precision.
    assert largest <= rho * (1 + (1e-7 if kind == "hardsigmoid" else 1e-14))
    assert rho <= largest * (1 + 2e-4)


@pytest.mark.parametrize("kind", SMOOTH)
def test_between_the_points_of_the_grid_no_slope_is_above_the_constant_either(kind: str) -> None:
    """At its top a slope is flat, so it lies at most its second derivative times h^2 / 8 above the grid."""
    x = torch.linspace(-25, 25, 500_001, dtype=torch.float64)
    h, found = float(x[1] - x[0]), slope(kind, x)
    second = float(found.diff(n=2).abs().max()) / h**2
    top = float(found.abs().max()) + 2 * second * h**2 / 8  # twice, as the derivative is itself one of differences
    # Sigmoid and tanh attain their constants and softplus approaches its own: they are exact.
    slack = 1e-8 if kind in {"sigmoid", "tanh", "softplus"} else 0.0
    assert top <= constant(activation(kind), 3) + slack


@pytest.mark.parametrize("kind", ["gelu", "gelu_tanh", "silu", "mish"])
def test_the_largest_slope_lies_where_a_search_for_it_ends(kind: str) -> None:
    low, high = 0.5, 4.0
    for _ in range(60):
        one, two = low + (high - low) / 3, high - (high - low) / 3
        values = slope(kind, torch.tensor([one, two], dtype=torch.float64))
        low, high = (low, two) if values[0] > values[1] else (one, high)
    largest = float(slope(kind, torch.tensor([low], dtype=torch.float64)))
    assert largest < SLOPES[kind] < largest + 2e-4
    if kind == "gelu":
        assert low == pytest.approx(math.sqrt(2), abs=1e-6)
        assert largest == pytest.approx(0.5 * (1 + math.erf(1)) + math.exp(-1) / math.sqrt(math.pi), abs=1e-12)


@pytest.mark.parametrize("kind", MODULES)
@given(seed=seeds, spread=st.floats(1e-3, 100))
@few
def test_no_activation_drives_two_inputs_further_apart_than_its_constant(kind: str, seed: int, spread: float) -> None:
    one, two = (torch.from_numpy(np.random.default_rng([seed, i]).standard_normal(100)) * spread for i in (0, 1))
    moved = (MODULES[kind](one) - MODULES[kind](two)).abs()
    assert bool((moved <= constant(activation(kind), 3) * (one - two).abs() + 1e-12).all())


@given(alpha=st.floats(-4, 4))
@few
@example(alpha=-3.0)
@example(alpha=2.0)
def test_slopes_and_scales_beyond_one_are_the_constant(alpha: float) -> None:
    x = torch.linspace(-3, 3, 6001, dtype=torch.float64, requires_grad=True)
    for kind, function in (("leaky_relu", functional.leaky_relu), ("elu", functional.elu)):
        (found,) = torch.autograd.grad(function(x, alpha).sum(), x)
        rho = constant(Activation(kind=kind, slope=alpha), 3)
        assert float(found.abs().max()) <= rho + 1e-12
        assert rho == pytest.approx(max(1.0, abs(alpha)))


@given(slopes=st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=5), seed=seeds)
@few
def test_learned_slopes_stretch_by_the_largest_of_them_and_attain_it(slopes: list[float], seed: int) -> None:
    op = Activation(kind="prelu", slopes=torch.tensor(slopes))
    rho = constant(op, len(slopes), 2, 2)
    assert rho == pytest.approx(max(1.0, *map(abs, slopes)))
    rng = np.random.default_rng(seed)
    one, two = (torch.from_numpy(rng.standard_normal((20, len(slopes), 2, 2))) for _ in range(2))
    weight = op.slopes.double()
    moved = (functional.prelu(one, weight) - functional.prelu(two, weight)).flatten(1).norm(dim=1)
    assert bool((moved <= rho * (one - two).flatten(1).norm(dim=1) * (1 + 1e-12)).all())
    steps = [functional.prelu(torch.eye(len(slopes), dtype=torch.float64) * sign, weight).norm() for sign in (1, -1)]
    assert max(map(float, steps)) <= rho * math.sqrt(len(slopes)) + 1e-12
    single = [float(functional.prelu(-row[None], weight).norm()) for row in torch.eye(len(slopes)).double()]
    assert max(1.0, *single) == pytest.approx(rho)


@pytest.mark.parametrize("kind", MODULES)
def test_the_value_at_zero_is_that_of_the_module(kind: str) -> None:
    value = float(MODULES[kind](torch.zeros(1, dtype=torch.float64)))
    assert at_zero(activation(kind)) == pytest.approx(abs(value), abs=1e-15)
    x = torch.linspace(-30, 30, 60_001, dtype=torch.float64)
    bound = constant(activation(kind), 3) * x.abs() + at_zero(activation(kind))
    assert bool((MODULES[kind](x).abs() <= bound + 1e-12).all())


def test_only_activations_have_a_value_at_zero() -> None:
    weight = torch.ones(1, 1, 1, 1)
    others = (
        Pool(kind="max", kernel=(2, 2)),
        Add(),
        Scale(factor=3.0),
        Conv(weight=weight, bias=torch.ones(1), stride=(1, 1), padding=(0, 0)),
        Activation(kind="prelu", slopes=torch.ones(2)),
        Opaque(name="softmax"),
    )
    assert [at_zero(op) for op in others] == [0.0] * len(others)


@pytest.mark.parametrize("name", ["softmax", "layer_norm", "scaled_dot_product_attention"])
def test_what_has_no_constant_is_refused_by_name(name: str) -> None:
    node = Node(name="node", op=Opaque(name=name), inputs=("input",), shape=(1, 2, 2))
    with pytest.raises(NoRule, match="Lipschitz"):
        log_constant(node, [(1, 2, 2)])
    with pytest.raises(NoRule, match="Multiply"):
        log_constant(Node(name="node", op=Multiply(), inputs=("input", "input")), [(1, 2, 2)] * 2)


# averages -----------------------------------------------------------------------------------------


def matrix_of(module: nn.Module, size: tuple[int, int]) -> Tensor:
    """The dense matrix of a pool on one channel, column by column."""
    unit = torch.eye(math.prod(size), dtype=torch.float64).reshape(-1, 1, *size)
    return module(unit).flatten(1).T


def fits(size: tuple[int, int], kernel: tuple[int, int], padding: tuple[int, int]) -> bool:
    return all(n + 2 * p >= k for n, k, p in zip(size, kernel, padding, strict=True))


@given(
    size=st.tuples(st.integers(1, 11), st.integers(1, 11)),
    kernel=pairs,
    stride=pairs,
    halves=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    ceil=st.booleans(),
    counts=st.booleans(),
)
@settings(max_examples=200, deadline=None)
@example(size=(7, 7), kernel=(2, 2), stride=(2, 2), halves=(0, 0), ceil=True, counts=False)
@example(size=(5, 5), kernel=(3, 3), stride=(1, 1), halves=(1, 1), ceil=False, counts=False)
def test_no_average_has_a_norm_above_its_constant(size, kernel, stride, halves, ceil, counts) -> None:
    padding = tuple(min(half, k // 2) for half, k in zip(halves, kernel, strict=True))
    assume(fits(size, kernel, padding))
    matrix = matrix_of(nn.AvgPool2d(kernel, stride, padding, ceil, counts), size)
    op = Pool(kind="avg", kernel=kernel, stride=stride, padding=padding, ceil=ceil, count_padding=counts)
    found = constant(op, 1, *size)
    assert float(torch.linalg.matrix_norm(matrix, 2)) <= found * (1 + 1e-12)
    assert found == pytest.approx(math.sqrt(float(matrix.sum(1).max() * matrix.sum(0).max())), rel=1e-12)


@given(size=st.tuples(st.integers(1, 11), st.integers(1, 11)), cells=st.tuples(st.integers(1, 11), st.integers(1, 11)))
@settings(max_examples=150, deadline=None)
def test_no_adaptive_average_has_a_norm_above_its_constant(size, cells) -> None:
    matrix = matrix_of(nn.AdaptiveAvgPool2d(cells), size)
    found = constant(AdaptivePool(cells=cells), 2, *size)
    assert float(torch.linalg.matrix_norm(matrix, 2)) <= found * (1 + 1e-12)
    assert found == pytest.approx(math.sqrt(float(matrix.sum(1).max() * matrix.sum(0).max())), rel=1e-12)


@given(kernel=pairs, windows=pairs, rest=st.tuples(st.integers(0, 3), st.integers(0, 3)))
@few
def test_incomplete_last_windows_attain_the_constant(kernel, windows, rest) -> None:
    """Windows that do not overlap are orthogonal rows: the norm is 1 / sqrt of the smallest window."""
    size = tuple(k * (w - 1) + 1 + r % k for k, w, r in zip(kernel, windows, rest, strict=True))
    op = Pool(kind="avg", kernel=kernel, stride=kernel, ceil=True, count_padding=False)
    matrix = matrix_of(nn.AvgPool2d(kernel, kernel, 0, ceil_mode=True, count_include_pad=False), size)
    assert constant(op, 1, *size) == pytest.approx(float(torch.linalg.matrix_norm(matrix, 2)), rel=1e-12)


def test_the_averaging_shortcut_of_an_odd_map_costs_its_last_window_and_no_more() -> None:
    op = Pool(kind="avg", kernel=(2, 2), stride=(2, 2), ceil=True, count_padding=False)
    assert constant(op, 64, 56, 56) == pytest.approx(1 / 2)
    assert constant(op, 64, 7, 7) == pytest.approx(1)  # the last window is one pixel
    assert constant(op, 64, 7, 8) == pytest.approx(math.sqrt(1 / 2))


def test_a_mean_that_leaves_padding_out_is_no_contraction() -> None:
    op = Pool(kind="avg", kernel=(3, 3), stride=(1, 1), padding=(1, 1), count_padding=False)
    matrix = matrix_of(nn.AvgPool2d(3, 1, 1, count_include_pad=False), (8, 8))
    assert float(torch.linalg.matrix_norm(matrix, 2)) > 1
    assert constant(op, 1, 8, 8) == pytest.approx(1 / 2 + 1 / 3 + 1 / 3)  # the pixel beside a corner, in each axis


@given(seed=seeds, size=pairs)
@few
def test_schurs_test_is_above_the_norm_and_blind_to_signs(seed: int, size: tuple[int, int]) -> None:
    matrix = torch.from_numpy(np.random.default_rng(seed).standard_normal(size))
    assert float(torch.linalg.matrix_norm(matrix, 2)) <= math.exp(log_schur(matrix)) * (1 + 1e-12)
    assert log_schur(matrix) == log_schur(-matrix.abs())


# maxima -------------------------------------------------------------------------------------------


def most_covered(kernel: int, stride: int, dilation: int) -> int:
    """The most windows that read one entry of a long axis, counted one by one."""
    middle = range(200, 200 + stride * dilation)
    return max(sum((x - i * stride) in range(0, dilation * kernel, dilation) for i in range(400)) for x in middle)


@pytest.mark.parametrize(("stride", "dilation"), list(itertools.product(range(1, 7), repeat=2)))
def test_windows_overlap_as_often_as_counting_says(stride: int, dilation: int) -> None:
    for kernel in range(1, 8):
        op = Pool(kind="max", kernel=(kernel, 1), stride=(stride, 1), dilation=(dilation, 1))
        expected = math.sqrt(most_covered(kernel, stride, dilation))
        assert constant(op, 1, 60, 1) == pytest.approx(expected)


@given(
    kernel=pairs,
    stride=pairs,
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padded=st.booleans(),
    ceil=st.booleans(),
    seed=seeds,
)
@settings(max_examples=100, deadline=None)
def test_no_maximum_stretches_a_difference_beyond_its_constant(kernel, stride, dilation, padded, ceil, seed) -> None:
    padding = tuple(k // 2 if padded else 0 for k in kernel)
    size = (1, 12, 12)
    module = nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=ceil)
    op = Pool(kind="max", kernel=kernel, stride=stride, padding=padding, dilation=dilation, ceil=ceil)
    rng = np.random.default_rng(seed)
    one = torch.from_numpy(rng.standard_normal((50, *size)) * rng.choice([1e-3, 1.0, 30.0], (50, 1, 1, 1)))
    two = one + torch.from_numpy(rng.standard_normal(one.shape) * rng.choice([1e-3, 1.0], (50, 1, 1, 1)))
    spikes = torch.eye(144, dtype=torch.float64).reshape(-1, *size)
    one, two = torch.cat([one, spikes]), torch.cat([two, torch.zeros_like(spikes)])
    moved = (module(one) - module(two)).flatten(1).norm(dim=1)
    ratio = moved / (one - two).flatten(1).norm(dim=1)
    rho = constant(op, *size)
    assert float(ratio.max()) <= rho * (1 + 1e-12)
    if max(k * d for k, d in zip(kernel, dilation, strict=True)) <= 6 and not padded:
        # Then a pixel in the middle is read as often as any pixel can be: a single spike attains the constant.
        assert float(ratio.max()) == pytest.approx(rho)


def test_zero_channels_and_padding_keep_differences() -> None:
    assert constant(Pad(before=2, after=0), 1, 4, 4) == 1.0
