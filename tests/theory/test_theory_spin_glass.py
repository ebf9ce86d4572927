"""The spin-glass model against closed forms, finite sums written out here, and figures of the text."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_audit.measure.weight_gains import BlockGains
from resnet_audit.theory.spin_glass import log_weights, mean, mode, of_gains, theta

P = 100
betas = st.floats(1e-3, 1e3)


def equal(beta: float, p: int = P) -> np.ndarray:
    return log_weights([math.log(beta)] * (p - 1))


def squares(weights: np.ndarray) -> np.ndarray:
    return np.exp(2.0 * weights)


def gains(*values: float) -> list[BlockGains]:
    return [BlockGains(branch={1: 2.0 * math.log(beta)}, skip={0: 0.0}) for beta in values]


@settings(deadline=None)
@given(st.lists(betas, max_size=9))
def test_weights_are_elementary_symmetric_polynomials_of_unit_energy(values: list[float]) -> None:
    expected = np.array([math.fsum(map(math.prod, combinations(values, r))) for r in range(len(values) + 1)])
    expected /= math.sqrt(float(expected @ expected))
    weights = log_weights([math.log(beta) for beta in values])
    assert np.exp(weights).tolist() == pytest.approx(expected.tolist(), rel=1e-9)
    assert math.fsum(squares(weights)) == pytest.approx(1.0, rel=1e-12)


@settings(deadline=None)
@given(betas, st.integers(1, 60))
def test_equal_gains_give_the_binomial_weights_of_the_paper(beta: float, p: int) -> None:
    weights = equal(beta, p)
    expected = [math.log(math.comb(p - 1, r - 1)) + r * math.log(beta) for r in range(1, p + 1)]
    shifted = [value - expected[0] for value in expected]
    assert (weights - weights[0]).tolist() == pytest.approx(shifted, rel=1e-9, abs=1e-9)


@settings(deadline=None)
@given(st.floats(1e-3, 1e3), st.integers(1, 200))
def test_the_mode_is_that_of_the_finite_formula(beta: float, p: int) -> None:
    exact = beta * p / (1 + beta)
    found = mode(equal(beta, p))
    if abs(exact - round(exact)) < 1e-6:
        # A tie of two neighbours, which rounding may break either way.
        assert found in {round(exact), round(exact) + 1}
    else:
        assert found == min(p, math.floor(exact) + 1)


@pytest.mark.parametrize(("beta", "expected"), [(0.1, {10}), (0.5, {34}), (1.0, {50, 51}), (2.0, {67})])
def test_modes_at_a_hundred_layers_are_those_of_the_text(beta: float, expected: set[int]) -> None:
    assert mode(equal(beta)) in expected


@pytest.mark.parametrize(("beta", "expected"), [(0.1, 9.79), (0.5, 33.92), (1.0, 50.5), (2.0, 67.08)])
def test_means_of_squared_weights_at_a_hundred_layers_are_those_of_the_text(beta: float, expected: float) -> None:
    assert float(squares(equal(beta)) @ np.arange(1, P + 1)) == pytest.approx(expected, abs=0.005)


def test_the_spread_of_squared_weights_is_that_of_the_text() -> None:
    shares, r = squares(equal(0.5)), np.arange(1, P + 1)
    spread = math.sqrt(float((r - shares @ r) ** 2 @ shares))
    assert spread == pytest.approx(3.33, abs=0.005)
    assert spread == pytest.approx(math.sqrt(P * 0.5 / 2) / 1.5, rel=0.01)


@settings(deadline=None)
@given(st.lists(betas, max_size=30))
def test_the_mean_is_one_more_than_the_sum_of_shares(values: list[float]) -> None:
    found = mean(log_weights([math.log(beta) for beta in values]))
    assert found == pytest.approx(1.0 + math.fsum(beta / (1 + beta) for beta in values), rel=1e-9)


def test_weak_branches_leave_the_stem_and_strong_ones_the_whole_depth() -> None:
    assert mode(equal(1e-9)) == 1
    assert mode(equal(1e9)) == P
    assert mean(equal(1e-12)) == pytest.approx(1.0)
    assert mean(equal(1e12)) == pytest.approx(P)


def test_most_weight_lies_around_the_limit_of_the_mode() -> None:
    """Theorem 2: the squares between a1 p and a2 p tend to 1 if beta / (1 + beta) lies between a1 and a2."""
    inside = []
    for p in (20, 100, 400):
        shares = squares(equal(0.5, p))
        r = np.arange(1, p + 1) / p
        inside.append(math.fsum(shares[(r > 0.25) & (r < 0.42)]))
    assert inside == sorted(inside)
    assert inside[-1] > 0.999


def test_weights_move_with_the_scale_of_weights_as_in_the_paper() -> None:
    """Eq. 19 for the weights before they are normalised: d ln eps_r / d ln beta = r, up to one constant for all r."""
    step = 1e-6
    change = (equal(0.5 * (1 + step)) - equal(0.5 * (1 - step))) / (2 * step)
    assert np.diff(change).tolist() == pytest.approx([1.0] * (P - 1), abs=1e-6)


# complexity ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("beta", "expected"), [(0.1, 0.306), (0.25, 0.594), (0.5, 0.810), (1.0, 0.993), (2.0, 1.126), (4.0, 1.212)]
)
def test_complexities_at_a_hundred_layers_are_those_of_the_text(beta: float, expected: float) -> None:
    assert theta(equal(beta)) == pytest.approx(expected, abs=0.0006)


@pytest.mark.parametrize(("p", "expected"), [(3, 0.0132), (10, 0.2986), (100, 1.3176)])
def test_a_pure_model_has_the_largest_complexity(p: int, expected: float) -> None:
    pure = np.full(p, -np.inf)
    pure[-1] = 0.0
    found = theta(pure)
    assert found == pytest.approx(expected, abs=0.0001)
    assert found == pytest.approx(0.5 * math.log(p - 1) - (p - 2) / p, rel=1e-12)
    assert all((theta(equal(beta, p)) or 0.0) <= found + 1e-12 for beta in (0.1, 1.0, 10.0, 1e3))
    assert theta(equal(1e9, p)) == pytest.approx(found, rel=1e-6)


@settings(deadline=None)
@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=20))
def test_the_complexity_is_that_of_the_moments(values: list[float]) -> None:
    shares = squares(log_weights([math.log(beta) for beta in values]))
    r = np.arange(1, len(shares) + 1)
    first, second = float(shares[1:] @ r[1:]), float(shares[1:] @ (r * (r - 1))[1:])
    expected = 0.5 * math.log(second / first) - (second - first) / (second + first)
    assert theta(log_weights([math.log(beta) for beta in values])) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("values", [[], [-math.inf], [-math.inf, -math.inf]])
def test_without_interaction_there_is_no_complexity(values: list[float]) -> None:
    assert theta(log_weights(values)) is None
    assert mode(log_weights(values)) == 1


# of a network -------------------------------------------------------------------------------------------------------


def test_a_model_of_blocks_has_their_gains() -> None:
    found = of_gains(gains(0.5, 2.0, 1.0))
    assert found.beta == pytest.approx((0.5, 2.0, 1.0))
    # 1 + 3.5 z + 3.5 z^2 + z^3: a tie of r = 2 and r = 3.
    assert found.mode in {2, 3}
    assert found.mean == pytest.approx(2.5)


def test_gains_of_a_shortcut_divide() -> None:
    found = of_gains([BlockGains(branch={2: math.log(9.0)}, skip={1: math.log(4.0)})])
    assert found.beta == pytest.approx((1.5,))


@pytest.mark.parametrize("missing", [None, BlockGains(branch={1: 0.0}, skip={0: -math.inf})])
def test_one_block_without_a_gain_leaves_the_model_undefined(missing: BlockGains | None) -> None:
    found = of_gains([*gains(0.5), missing])
    assert found.beta == (pytest.approx(0.5), None)
    assert found.mode is found.mean is found.theta is None


def test_gains_beyond_floats_have_no_beta_and_still_a_mode() -> None:
    found = of_gains([BlockGains(branch={1: 2000.0}, skip={0: 0.0})])
    assert found.beta == (None,)
    assert found.mode == 2
    assert found.mean == pytest.approx(2.0)
