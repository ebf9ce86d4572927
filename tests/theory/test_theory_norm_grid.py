"""The grid of norms and what it costs: weights, rounding, and the growth of real and random networks on it."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from bound_oracles import one_thread
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from resnet_audit.checkpoint import load
from resnet_audit.graph.discover import discover
from resnet_audit.graph.ir import Add, Conv, Flatten, Input, Linear, Node
from resnet_audit.graph.shapes import with_shapes
from resnet_audit.measure import Subject
from resnet_audit.settings import Settings
from resnet_audit.theory.covering import covering
from resnet_audit.theory.factors import PATCH_BIASES, VARIANTS, Factor, Variant, factors_of
from resnet_audit.theory.margin_bound import FORMS, tail
from resnet_audit.theory.norm_grid import (
    index_nats,
    largest_log_growth,
    power,
    round_down,
    round_up,
    union_nats,
)

if TYPE_CHECKING:
    from pathlib import Path

_one_thread = pytest.fixture(scope="module", autouse=True)(one_thread)

many = settings(max_examples=200, deadline=None)
values = st.floats(1e-12, 1e12)
layers = st.integers(1, 300)


# weights ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reach", [10, 1000, 100_000])
def test_the_weights_of_a_number_sum_to_one_and_those_of_its_powers_to_less(reach: int) -> None:
    total = math.fsum(math.exp(-index_nats(k)) for k in range(-reach, reach + 1))
    # What lies beyond: an integral on either side of the sum of 1 / (k + 1)^2 over k > reach.
    beyond = [2 * 3 / math.pi**2 / start for start in (reach + 2, reach + 1)]
    powers = 1 - 3 / math.pi**2
    assert total + beyond[0] <= powers <= total + beyond[1]
    assert total < total + math.exp(-round_up(0.0, 5).nats) < 1
    assert powers + math.exp(-round_up(0.0, 5).nats) == pytest.approx(1, abs=1e-15)


@given(index=st.integers(-10_000, 10_000))
@many
def test_a_cell_costs_the_logarithm_of_its_weight(index: int) -> None:
    assert index_nats(index) == pytest.approx(math.log(math.pi**2 / 3 * (abs(index) + 1) ** 2), rel=1e-14)
    assert index_nats(index) == index_nats(-index)


def test_zero_and_one_cost_the_same_and_have_cells_of_their_own() -> None:
    zero, one = round_up(0.0, 20), round_up(1.0, 20)
    assert (zero.value, zero.index) == (0.0, None)
    assert (one.value, one.index) == (1.0, 0)
    assert zero.nats == one.nats == pytest.approx(math.log(math.pi**2 / 3))
    assert union_nats([zero, one, round_up(2.0, 1)]) == pytest.approx(3 * math.log(math.pi**2 / 3) + math.log(4))
    assert union_nats([]) == 0


# rounding -----------------------------------------------------------------------------------------


@given(value=values, count=layers)
@many
def test_rounding_encloses_a_value_between_neighbouring_powers(value: float, count: int) -> None:
    up, down = round_up(value, count), round_down(value, count)
    assert up.index is not None
    assert down.index is not None
    assert down.value <= value <= up.value
    assert (up.index - down.index) in ({0} if up.value == value else {1})
    assert up.value <= value * (1 + 1 / count) * (1 + 1e-12)
    assert down.value >= value / (1 + 1 / count) * (1 - 1e-12)
    assert up.value == pytest.approx((1 + 1 / count) ** up.index, rel=1e-9)


@given(value=values, count=layers)
@many
def test_rounding_twice_is_rounding_once(value: float, count: int) -> None:
    for rounded in (round_up, round_down):
        once = rounded(value, count)
        assert rounded(once.value, count) == once


@given(first=values, second=values, count=layers)
@many
def test_rounding_keeps_the_order(first: float, second: float, count: int) -> None:
    low, high = sorted((first, second))
    for rounded in (round_up, round_down):
        assert rounded(low, count).value <= rounded(high, count).value


@given(index=st.integers(-200, 200), count=layers)
@many
def test_the_powers_are_those_of_exact_arithmetic(index: int, count: int) -> None:
    assume(abs(index) * math.log1p(1 / count) < 700)
    exact = Fraction(count + 1, count) ** index
    assert float(Fraction(power(index, count)) / exact) == pytest.approx(1, abs=1e-12)
    assert round_up(power(index, count), count).index == index
    assert round_down(power(index, count), count).index == index


def test_extreme_norms_have_cells_and_impossible_ones_have_none() -> None:
    assert power(1025, 1) == math.inf
    assert round_up(1.797693134862315e308, 1).value == math.inf
    assert round_down(1.7e308, 1).value == pytest.approx(2.0**1023, rel=1e-12)
    assert round_up(5e-324, 3).value >= 5e-324
    for wrong in (-1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="no cell"):
            round_up(wrong, 3)
    for wrong in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="no cell"):
            round_down(wrong, 3)
    with pytest.raises(ValueError, match="weight node"):
        round_up(2.0, 0)


# what rounding does to a bound --------------------------------------------------------------------


@given(count=layers)
@many
def test_the_growth_is_below_its_round_figure(count: int) -> None:
    assert largest_log_growth(count) <= 1 + 2 / count
    assert largest_log_growth(count) == pytest.approx((count + 2) * math.log(1 + 1 / count), rel=1e-12)


def on_grid(factor: Factor, variant: Variant, count: int) -> Factor:
    """A factor with its three norms rounded up."""
    return replace(
        factor,
        sigma=round_up(factor.sigma, count).value,
        b={kind: round_up(value, count).value for kind, value in factor.b.items()},
        bias_norm=round_up(factor.bias_norm, count).value if variant.biases else 0.0,
    )


@given(seed=st.integers(0, 2**16), variant=st.sampled_from(VARIANTS), size=st.floats(0.01, 10))
@settings(max_examples=25, deadline=None)
def test_rounding_makes_a_network_larger_and_by_no_more_than_promised(seed: int, variant: Variant, size: float) -> None:
    nodes = residual_net(seed, size)
    norms = {node.name: float(torch.linalg.vector_norm(node.op.weight)) for node in nodes if hasattr(node.op, "weight")}
    factors = factors_of(nodes, norms)
    count = len(factors)
    rounded = {name: on_grid(factor, variant, count) for name, factor in factors.items()}
    plain, larger = (covering(nodes, held, variant, log_bias_unit=-1.0).log_complexity for held in (factors, rounded))
    margin = 0.37
    growth = larger - plain + math.log(margin) - math.log(round_down(margin, count).value)
    assert -1e-12 <= growth <= largest_log_growth(count) * (count + 1) / (count + 2) + 1e-12


def residual_net(seed: int, size: float) -> tuple[Node, ...]:
    """Two residual blocks and a head on 2x4x4, with random weights and biases of any scale."""
    rng = np.random.default_rng(seed)

    def conv() -> Conv:
        weight = torch.from_numpy(rng.standard_normal((2, 2, 3, 3)) * size)
        return Conv(weight=weight, bias=torch.from_numpy(rng.standard_normal(2)), stride=(1, 1), padding=(1, 1))

    head = Linear(weight=torch.from_numpy(rng.standard_normal((3, 32))), bias=None)
    nodes = [Node(name="x", op=Input()), Node(name="stem", op=conv(), inputs=("x",))]
    for block, start in (("a", "stem"), ("b", "a")):
        nodes += [
            Node(name=f"{block}.1", op=conv(), inputs=(start,)),
            Node(name=f"{block}.2", op=conv(), inputs=(f"{block}.1",)),
            Node(name=block, op=Add(), inputs=(f"{block}.2", start)),
        ]
    nodes += [Node(name="flat", op=Flatten(), inputs=("b",)), Node(name="head", op=head, inputs=("flat",))]
    return with_shapes(tuple(nodes), (2, 4, 4))


@pytest.mark.parametrize(
    ("name", "nats", "strict_tail"),
    [("resnet20", 493, 0.212), ("resnet32", 835, 0.275), ("resnet44", 1170, 0.325), ("resnet56", 1532, 0.372)],
)
def test_the_penalties_of_the_theory_note_are_those_of_patches_with_biases_and_the_margin(
    checkpoints: Path, name: str, nats: float, strict_tail: float
) -> None:
    """sigma, b of the patch cover with the bias in it, and the bias norm, up; the margin 1 in its own cell k = 0."""
    choice = Settings(input_size=(3, 32, 32), threads=1)
    subject = Subject(discover(load(checkpoints / f"{name}.th"), choice), choice)
    factors = factors_of(subject.folded, subject.norms)
    count = len(factors)
    cells = [
        round_up(number, count)
        for factor in factors.values()
        for number in (factor.sigma, factor.b[PATCH_BIASES], factor.bias_norm)
    ]
    found = union_nats([*cells, round_down(1.0, count)])
    assert len(cells) == 3 * count
    # Of resnet44 1169.49, where the note has 1170.
    assert found == pytest.approx(nats, abs=0.6)
    assert tail(50_000, 0.01, FORMS["strict"], union=found) == pytest.approx(strict_tail, abs=5e-4)
