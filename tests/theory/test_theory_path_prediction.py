"""Depths predicted from weights against formulas written out here, dense Jacobians, and random networks."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from gradient_oracles import SMALL, Draw, SmallBlock, SmallNet, cifar_weights, linear_net, small_net, subject_of
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_audit.checkpoint import load
from resnet_audit.errors import NoRule
from resnet_audit.graph import discover
from resnet_audit.graph.execute import apply
from resnet_audit.graph.ir import (
    Activation,
    AdaptivePool,
    Conv,
    Flatten,
    Linear,
    Node,
    Norm,
    Op,
    Opaque,
    Pad,
    Permute,
    Pool,
    Scale,
    Slice,
    View,
)
from resnet_audit.measure import Subject
from resnet_audit.measure.log_polynomial import log_product
from resnet_audit.measure.weight_gains import BlockGains, block_gains, log_gain
from resnet_audit.settings import Settings
from resnet_audit.theory import ensemble
from resnet_audit.theory.path_prediction import factor

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

EXACT = 1e-12
DRAW = Draw(60)
NORM = Norm(
    weight=DRAW.normal(4), bias=DRAW.normal(4), mean=DRAW.normal(4), var=0.5 + DRAW.normal(4).square(), eps=1e-5
)

positive = st.floats(1e-3, 1e3)


# products of polynomials --------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.lists(positive, min_size=1, max_size=4), max_size=8))
def test_the_law_is_the_convolution_of_its_factors(factors: list[list[float]]) -> None:
    expected = np.ones(1)
    for coefficients in factors:
        expected = np.convolve(expected, coefficients)
    found = log_product([{k: math.log(c) for k, c in enumerate(coefficients)} for coefficients in factors])
    assert np.exp(found).tolist() == pytest.approx(expected.tolist(), rel=1e-10)


def test_fifty_gains_of_1e_minus_200_neither_vanish_nor_overflow() -> None:
    logs = log_product([{0: 0.0, 1: math.log(1e-200)}] * 50)
    assert logs[50] == pytest.approx(-23025.85, abs=0.005)
    assert logs[50] == pytest.approx(50 * math.log(1e-200), rel=1e-14)
    assert logs[1] == pytest.approx(math.log(50) + math.log(1e-200), rel=1e-14)
    assert log_product([{0: 0.0, 1: -math.inf}] * 3).tolist() == [0.0, -math.inf, -math.inf, -math.inf]


@settings(deadline=None)
@given(st.lists(st.tuples(positive, positive), min_size=1, max_size=12))
def test_in_blocks_the_law_is_poisson_binomial(pairs: list[tuple[float, float]]) -> None:
    gains = [BlockGains(branch={1: math.log(b**2)}, skip={0: math.log(s**2)}) for b, s in pairs]
    for power in (1.0, 0.5):
        logs = log_product([factor(one, power) for one in gains])
        shares = np.exp(logs - np.logaddexp.reduce(logs))
        p = [b ** (2 * power) / (b ** (2 * power) + s ** (2 * power)) for b, s in pairs]
        depths = np.arange(len(shares))
        mean = float(depths @ shares)
        assert mean == pytest.approx(math.fsum(p), rel=1e-9)
        assert float((depths - mean) ** 2 @ shares) == pytest.approx(math.fsum(q * (1 - q) for q in p), rel=1e-7)


# gains of single operations -----------------------------------------------------------------------------------------

OPERATIONS: dict[str, tuple[Op, tuple[int, ...]]] = {
    "conv": (Conv(weight=DRAW.normal(3, 4, 2, 2), bias=None, stride=(1, 1), padding=(0, 0)), (4, 4, 4)),
    "strided": (Conv(weight=DRAW.normal(3, 4, 3, 3), bias=None, stride=(2, 2), padding=(0, 0)), (4, 5, 5)),
    "grouped": (Conv(weight=DRAW.normal(6, 2, 1, 1), bias=None, stride=(1, 1), padding=(0, 0), groups=2), (4, 3, 3)),
    "linear": (Linear(weight=DRAW.normal(5, 4), bias=DRAW.normal(5)), (4,)),
    "norm": (NORM, (4, 3, 3)),
    "scale": (Scale(factor=-0.3), (4, 3, 3)),
    "scales": (Scale(factor=DRAW.normal(1, 4, 1, 1)), (4, 3, 3)),
    "pad": (Pad(before=1, after=2), (4, 3, 3)),
    "slice": (Slice(step=(2, 2)), (4, 5, 4)),
    "average": (Pool(kind="avg", kernel=(2, 2), stride=(2, 2)), (4, 4, 4)),
    "global": (Pool(kind="avg", kernel=None), (4, 3, 4)),
    "adaptive": (AdaptivePool(cells=(2, 3)), (4, 5, 5)),
    "largest": (Pool(kind="max", kernel=(2, 2), stride=(2, 2)), (4, 4, 4)),
    "flatten": (Flatten(), (4, 2, 2)),
    "view": (View(shape=(2, 8)), (4, 2, 2)),
    "permute": (Permute(dims=(0, 2, 3, 1)), (4, 2, 3)),
}


def jacobian(op: Op, shape: tuple[int, ...]) -> Tensor:
    found = torch.autograd.functional.jacobian(lambda x: apply(op, [x]), Draw(61).normal(1, *shape))
    return found.reshape(-1, math.prod(shape))


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_gain_is_the_squared_frobenius_norm_of_the_jacobian_by_output(name: str) -> None:
    op, shape = OPERATIONS[name]
    dense = jacobian(op, shape)
    output = tuple(apply(op, [torch.zeros(1, *shape, dtype=torch.float64)]).shape[1:])
    found = log_gain(Node(name=name, op=op, inputs=("x",), shape=output), (shape, output))
    assert math.exp(found) == pytest.approx(float(dense.square().sum()) / len(dense), rel=EXACT)


@pytest.mark.parametrize("name", ["conv", "grouped", "linear"])
def test_a_scale_before_a_weight_layer_scales_its_input_channels(name: str) -> None:
    op, shape = OPERATIONS[name]
    scale = Draw(62).normal(4)
    scaled = jacobian(op, shape) * scale.repeat_interleave(math.prod(shape[1:]))
    found = log_gain(Node(name=name, op=op), (shape, shape), scale)
    assert math.exp(found) == pytest.approx(float(scaled.square().sum()) / len(scaled), rel=EXACT)


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        (Activation(kind="relu"), 0.5),
        (Activation(kind="leaky_relu", slope=0.2), 0.52),
        (Activation(kind="prelu", slopes=torch.tensor([0.0, 1.0])), 0.75),
    ],
)
def test_half_of_the_units_of_a_rectifier_are_taken_as_active(op: Activation, expected: float) -> None:
    assert math.exp(log_gain(Node(name="r", op=op), ((2, 3, 3), (2, 3, 3)))) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("op", [Activation(kind="gelu"), Activation(kind="sigmoid"), Opaque(name="layer_norm")])
def test_what_depends_on_the_size_of_values_has_no_gain(op: Op) -> None:
    with pytest.raises(NoRule):
        log_gain(Node(name="r", op=op), ((2, 3, 3), (2, 3, 3)))


# gains of blocks ----------------------------------------------------------------------------------------------------


def squared(kernel: Tensor) -> float:
    return float(kernel.square().sum()) / kernel.shape[0]


def scales(norm: object) -> Tensor:
    return norm.gamma / (norm.var + 1e-5).sqrt()


def expected_gains(net: SmallNet, block: SmallBlock) -> tuple[float, float]:
    """b^2 and s^2 by the text: a norm behind a kernel scales its rows, one that feeds a kernel its columns."""
    first, second = block.convs
    rectifiers = 1
    if net.order == "post":
        first = first * scales(block.norms[0])[:, None, None, None]
        second = second * scales(block.norms[1])[:, None, None, None]
    else:
        rectifiers = 1 if net.project_activated else 2
        if block.norms:
            first = first * scales(block.norms[1])[:, None, None, None]
        if block.norms and not net.project_activated:
            first = first * scales(block.norms[0])[None, :, None, None]
    branch = squared(first) * squared(second) * 0.5**rectifiers
    if block.projection is not None:
        return branch, squared(block.projection)
    return branch, block.convs[0].shape[1] / block.convs[-1].shape[0]


@pytest.mark.parametrize("kind", SMALL)
def test_gains_of_a_block_are_products_over_its_layers(kind: str) -> None:
    net = SMALL[kind]
    subject = subject_of(net)
    for block, written in zip(subject.blocks, net.blocks, strict=True):
        branch, skip = expected_gains(net, written)
        found = block_gains(subject, block)
        assert list(found.branch) == [2]
        assert list(found.skip) == [int(written.projection is not None)]
        assert math.exp(found.branch[2]) == pytest.approx(branch, rel=1e-10)
        assert math.exp(*found.skip.values()) == pytest.approx(skip, rel=1e-10)
        assert math.exp(found.log_beta or 0.0) == pytest.approx(math.sqrt(branch / skip), rel=1e-10)


def test_a_linear_branch_has_the_gain_that_random_cotangents_measure() -> None:
    net = linear_net([Draw(70).normal(6, 6, scale=0.7)])
    subject = subject_of(net)
    u = Draw(71).normal(4000, 6)
    measured = float((u @ net.blocks[0].convs[0][:, :, 0, 0]).square().sum() / u.square().sum())
    assert math.exp(block_gains(subject, subject.blocks[0]).branch[1]) == pytest.approx(measured, rel=0.05)


def test_a_branch_of_zeros_has_no_gain_and_no_depth() -> None:
    blocks = tuple(replace(block, convs=tuple(map(torch.zeros_like, block.convs))) for block in SMALL["pre"].blocks)
    result = ensemble.analyse(subject_of(replace(SMALL["pre"], blocks=blocks)))
    assert result.predicted.energy == result.predicted.amplitude == 0.0
    assert result.predicted.binomial == pytest.approx(2.0, rel=EXACT)
    assert result.spin_glass.beta == (0.0,) * 4
    assert (result.spin_glass.mode, result.spin_glass.mean, result.spin_glass.theta) == (1, 1.0, None)


def test_in_layers_the_law_counts_the_weights_of_branches_shortcuts_and_the_head() -> None:
    net = SMALL["post-project"]
    found = ensemble.analyse(subject_of(net, unit="layers")).predicted
    for power, shares in ((1.0, found.distribution.energy), (0.5, found.distribution.amplitude)):
        law = np.array([0.0, 1.0])
        for block in net.blocks:
            branch, skip = (gain**power for gain in expected_gains(net, block))
            law = np.convolve(law, [0.0, skip, branch] if block.projection is not None else [skip, 0.0, branch])
        assert list(shares or ()) == pytest.approx((law / law.sum()).tolist(), rel=1e-9)
    counts = np.convolve(np.convolve([0.0, 1.0], [0.0, 1.0, 1.0]), np.convolve([1.0, 0.0, 1.0], [1.0, 0.0, 1.0]))
    assert list(found.distribution.binomial or ()) == pytest.approx((counts / counts.sum()).tolist(), rel=1e-9)
    assert found.binomial == pytest.approx(1 + 1.5 + 1 + 1, rel=1e-9)


def test_in_blocks_the_paths_are_binomial_whatever_their_gains() -> None:
    for kind in ("post-pad", "pre-project"):
        found = ensemble.analyse(subject_of(SMALL[kind])).predicted
        length = len(SMALL[kind].blocks)
        expected = [math.comb(length, k) / 2**length for k in range(length + 1)]
        assert list(found.distribution.binomial or ()) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("unit", ["blocks", "layers"])
def test_no_blocks_predict_the_depth_of_the_chain(unit: str) -> None:
    chain = replace(SMALL["post"], skips=False)
    found = ensemble.analyse(subject_of(chain, unit=unit)).predicted
    depth = 0.0 if unit == "blocks" else 8.0
    assert found.energy == found.amplitude == found.binomial == depth


@pytest.mark.parametrize("order", ["post", "pre"])
def test_at_initialisation_the_energies_are_those_of_random_cotangents(order: str) -> None:
    """He-scaled 1x1 kernels of width 32 (so without borders): within 0.35 of 8 blocks, where others are farther."""
    draw = Draw(80)
    blocks = tuple(SmallBlock(convs=(draw.kernel(32, 32, 1, 0.8), draw.kernel(32, 32, 1, 0.8))) for _ in range(8))
    net = replace(small_net(order, (32, 32), seed=81, size=(3, 4, 4)), blocks=blocks, head=draw.normal(64, 32))
    result = ensemble.analyse(subject_of(net, objective="random", samples=24))
    assert result.distribution is not None
    exact = math.fsum(k * share for k, share in enumerate(result.distribution.energy))
    assert result.predicted.energy == pytest.approx(exact, abs=0.35)
    assert abs((result.predicted.binomial or 0.0) - exact) > 0.35


# the real checkpoints -----------------------------------------------------------------------------------------------

GOLDEN = {
    "resnet20": (3.21, 3.75, 4.5),
    "resnet32": (3.04, 4.80, 7.5),
    "resnet44": (2.85, 5.65, 10.5),
    "resnet56": (2.52, 6.10, 13.5),
}
"""Data-free energy, data-free amplitude and binomial means (theory note, validation of the predictors)."""


@pytest.mark.parametrize("name", GOLDEN)
def test_predictions_for_trained_networks_are_those_of_the_text(name: str, checkpoints: Path) -> None:
    settings = Settings(fast=True, samples=1, threads=1)
    result = ensemble.analyse(Subject(discover(load(str(checkpoints / f"{name}.th")), settings), settings))
    energy, amplitude, binomial = GOLDEN[name]
    found = result.predicted
    assert found.energy == pytest.approx(energy, abs=0.005)
    assert found.amplitude == pytest.approx(amplitude, abs=0.005)
    assert found.binomial == pytest.approx(binomial, abs=1e-9)
    p = [energy_share(*pair) for pair in cifar_gains(cifar_weights(checkpoints / f"{name}.th", torch.float64))]
    assert found.energy == pytest.approx(math.fsum(p), rel=1e-10)
    assert result.spin_glass.mean == pytest.approx(1.0 + (found.amplitude or 0.0), rel=1e-10)


def energy_share(branch: float, skip: float) -> float:
    return branch / (branch + skip)


def cifar_gains(w: dict[str, Tensor]) -> list[tuple[float, float]]:
    """b^2 and s^2 of the blocks of a CIFAR ResNet, from its state dict."""
    found = []
    for name in [key.removesuffix(".conv1.weight") for key in w if key.endswith(".conv1.weight")]:
        branch = 0.5
        for index in (1, 2):
            norm = f"{name}.bn{index}"
            scale = w[f"{norm}.weight"] / (w[f"{norm}.running_var"] + 1e-5).sqrt()
            branch *= squared(w[f"{name}.conv{index}.weight"] * scale[:, None, None, None])
        outputs, inputs = w[f"{name}.conv1.weight"].shape[:2]
        found.append((branch, inputs / outputs))
    return found
