"""The step from a covering number to a probability: closed forms against integrals and minimisation by brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_audit.theory.margin_bound import (
    FORMS,
    MOST_MARGINS,
    Sample,
    bound,
    log_best_resolution,
    log_bound,
    log_chaining,
    log_complexity_term,
    log_margin_needed,
    log_n_needed,
    log_ramp_complexity,
    margin_grid,
    ramp_risk,
    tail,
)
from resnet_audit.theory.norm_grid import index_nats

PAPER, STRICT = FORMS["paper"], FORMS["strict"]
CIFAR = Sample(count=50_000, dimension=3072)
many = settings(max_examples=100, deadline=None)
complexities = st.floats(-30, 200)
counts = st.integers(2, 10**9)
margins = st.floats(1e-3, 1e3)


def rademacher(q: float, n: int, resolution: float) -> float:
    """Dudley's bound, its integral by the trapezoidal rule in ln epsilon: ln N(eps) = (q / eps)^2 up to sqrt(n)."""
    log_eps = np.linspace(math.log(resolution), 0.5 * math.log(n), 20_001)
    return 4 * resolution / math.sqrt(n) + 12 / n * float(np.trapezoid(q * np.exp(-log_eps) * np.exp(log_eps), log_eps))


def best_rademacher(q: float, n: int) -> float:
    """The least of it over resolutions, by search on ever finer grids."""
    low, high = -30.0, 0.5 * math.log(n)
    for _ in range(30):
        grid = np.linspace(low, high, 21)
        values = [rademacher(q, n, math.exp(point)) for point in grid]
        place = int(np.argmin(values))
        low, high = grid[max(place - 1, 0)], grid[min(place + 1, 20)]
    return float(min(values))


def of_root(q: float, n: int) -> tuple[float, Sample]:
    """A complexity whose ln Q is ln(q) under `paper` at margin 1, and the sample that goes with it."""
    sample = Sample(count=n, dimension=1)
    return math.log(q / 2) - sample.log_norm, sample


# chaining -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("q", "n"), [(5e3, 50_000), (1.0, 100), (300.0, 10**6), (1e9, 50_000)])
def test_the_complexity_term_is_twice_dudleys_bound_at_resolution_1_over_n(q: float, n: int) -> None:
    log_c, sample = of_root(q, n)
    expected = 2 * rademacher(q, n, 1 / n)
    assert math.exp(log_chaining(log_c, sample, margin=1, form=PAPER)) == pytest.approx(expected, rel=1e-9)
    term = math.exp(log_complexity_term(log_c, sample, margin=1, form=PAPER))
    assert term == pytest.approx(expected - 8 / n**1.5, rel=1e-9)


@pytest.mark.parametrize(("q", "n"), [(5e3, 50_000), (1.0, 100), (300.0, 10**6), (16_000.0, 50_000)])
def test_the_best_resolution_is_the_least_of_dudleys_bounds(q: float, n: int) -> None:
    assert math.exp(log_best_resolution(math.log(q), n)) == pytest.approx(2 * best_rademacher(q, n), rel=1e-6)


def test_the_figures_of_the_theory_note_belong_to_50000_examples() -> None:
    log_c, sample = of_root(5e3, 50_000)
    assert math.exp(log_chaining(log_c, sample, margin=1, form=PAPER)) == pytest.approx(38.9512, abs=5e-5)
    assert math.exp(log_best_resolution(math.log(5e3), 50_000)) == pytest.approx(5.28953, abs=5e-6)


@given(log_q=st.floats(-300, 300), n=counts)
@many
def test_the_best_resolution_exists_exactly_below_a_third_of_n(log_q: float, n: int) -> None:
    found = log_best_resolution(log_q, n)
    assert math.isinf(found) == (log_q + math.log(3) >= math.log(n))
    if not math.isinf(found):
        assert found >= math.log(24) + log_q - math.log(n)


@given(log_c=complexities, n=counts, margin=margins)
@many
def test_strict_takes_the_smaller_chaining_and_paper_the_published_one(log_c: float, n: int, margin: float) -> None:
    sample = Sample(count=n, dimension=12)
    both = [log_chaining(log_c, sample, margin=margin, form=form) for form in (PAPER, STRICT)]
    best = log_best_resolution(log_ramp_complexity(log_c, sample, margin=margin, form=STRICT), n)
    assert both[1] == pytest.approx(min(both[0], best), abs=1e-9)


def test_strict_is_below_one_where_the_published_form_is_not() -> None:
    log_c, sample = of_root(300.0, 50_000)
    paper, strict = (
        bound(log_bound(log_c, sample, margin=1, risk=0.03, delta=0.01, form=form)) for form in (PAPER, STRICT)
    )
    assert paper is None
    chaining, deviation = 24 * 300 / 50_000 * (1 + math.log(50_000 / 900)), 3 * math.sqrt(math.log(200) / 1e5)
    assert strict == pytest.approx(0.03 + chaining + deviation, rel=1e-12)


@given(log_c=complexities, n=counts, margin=margins, x_rms=margins)
@many
def test_at_equal_norms_both_presets_have_one_complexity_term(
    log_c: float, n: int, margin: float, x_rms: float
) -> None:
    sample = Sample(count=n, dimension=3072, x_rms=x_rms)
    paper, strict = (log_complexity_term(log_c, sample, margin=margin, form=form) for form in (PAPER, STRICT))
    assert paper == pytest.approx(strict, abs=1e-12)


def test_the_ramp_of_the_margin_stretches_by_root_2_at_most_and_attains_it() -> None:
    rng = np.random.default_rng(0)

    def ramp(scores: np.ndarray) -> np.ndarray:
        return np.clip(1 - (scores[..., 0] - scores[..., 1:].max(-1)), 0, 1)

    one = rng.standard_normal((100_000, 5))
    step = rng.standard_normal((100_000, 5)) * 0.01
    assert (np.abs(ramp(one) - ramp(one + step)) <= math.sqrt(2) * np.linalg.norm(step, axis=1) + 1e-12).all()
    start, move = np.array([0.5, 0.0, -9.0]), np.array([0.1, -0.1, 0.0])
    assert abs(ramp(start) - ramp(start + move)) / np.linalg.norm(move) == pytest.approx(STRICT.lipschitz)
    assert STRICT.lipschitz < PAPER.lipschitz


# scaling ------------------------------------------------------------------------------------------


@given(log_c=complexities, n=counts, factor=margins)
@many
def test_the_term_goes_with_inputs_and_against_the_margin(log_c: float, n: int, factor: float) -> None:
    plain = log_complexity_term(log_c, Sample(count=n, dimension=7), margin=1, form=PAPER)
    louder = log_complexity_term(log_c, Sample(count=n, dimension=7, x_rms=factor), margin=1, form=PAPER)
    wider = log_complexity_term(log_c, Sample(count=n, dimension=7), margin=factor, form=PAPER)
    assert louder - plain == pytest.approx(math.log(factor), abs=1e-9)
    assert wider - plain == pytest.approx(-math.log(factor), abs=1e-9)


@given(log_c=complexities, n=st.integers(8, 10**9), form=st.sampled_from([PAPER, STRICT]))
@many
def test_more_examples_or_less_norm_never_hurt(log_c: float, n: int, form) -> None:
    def value(count: int, complexity: float) -> float:
        sample = Sample(count=count, dimension=5)
        return log_bound(complexity, sample, margin=1, risk=0.2, delta=0.05, form=form)

    assert value(2 * n, log_c) <= value(n, log_c) + 1e-12
    assert value(n, log_c - 1) <= value(n, log_c) + 1e-12


@given(log_c=complexities, dimension=st.integers(1, 10**6), x_rms=margins, margin=margins)
@many
def test_with_the_examples_needed_the_term_is_one_and_stays_below(
    log_c: float, dimension: int, x_rms: float, margin: float
) -> None:
    log_n = log_n_needed(log_c, dimension=dimension, x_rms=x_rms, margin=margin, form=PAPER)

    def term(at: float) -> float:  # written out: N itself may lie beyond every float
        return math.log(72 * x_rms * math.sqrt(dimension) / margin * at) + log_c - at / 2

    if log_n == 0:
        assert term(2.0) <= 1e-9  # even at its top, at N = e^2
    else:
        assert log_n > 2
        assert term(log_n) == pytest.approx(0, abs=1e-6)
        assert term(log_n * 1.01) < 0
    strict = log_n_needed(log_c, dimension=dimension, x_rms=x_rms, margin=margin, form=STRICT)
    assert strict == pytest.approx(log_n, abs=1e-6)


@given(log_c=complexities, n=counts)
@many
def test_at_the_margin_needed_the_term_is_one(log_c: float, n: int) -> None:
    sample = Sample(count=n, dimension=3072, x_rms=0.5)
    needed = log_margin_needed(log_c, sample, form=PAPER)
    assert log_complexity_term(log_c, sample, margin=math.exp(needed), form=PAPER) == pytest.approx(0, abs=1e-9)


def test_a_network_of_no_complexity_leaves_risk_and_tail() -> None:
    for form in (PAPER, STRICT):
        value = math.exp(log_bound(-math.inf, CIFAR, margin=1, risk=0.25, delta=0.01, form=form))
        rest = 8 / 50_000**1.5 if form is PAPER else 0
        assert value == pytest.approx(0.25 + tail(50_000, 0.01, form) + rest, rel=1e-12)
    assert log_n_needed(-math.inf, dimension=1, x_rms=1, margin=1, form=PAPER) == 0
    assert log_margin_needed(-math.inf, CIFAR, form=PAPER) == -math.inf


def test_one_example_gives_nothing_and_no_error() -> None:
    for form in (PAPER, STRICT):
        assert bound(log_bound(3.0, Sample(count=1, dimension=4), margin=1, risk=0, delta=0.01, form=form)) is None


@given(log_c=st.floats(0, 5000))
@many
def test_no_depth_overflows(log_c: float) -> None:
    for form in (PAPER, STRICT):
        assert math.isfinite(log_bound(log_c, CIFAR, margin=1, risk=0.1, delta=0.01, form=form))
    assert math.isfinite(log_n_needed(log_c, dimension=3072, x_rms=1, margin=1, form=PAPER))


# the golden figures of theory note `bound`, 5 ----------------------------------------------------


@pytest.mark.parametrize(
    ("log10_c", "term", "n_needed"),
    [(16.29, 18.577, 43.8), (21.24, 23.527, 53.9), (26.51, 28.794, 64.6), (30.28, 32.568, 72.2)],
)
def test_the_terms_of_the_four_networks_follow_from_their_complexities(
    log10_c: float, term: float, n_needed: float
) -> None:
    log_c = log10_c * math.log(10)
    found = log_complexity_term(log_c, CIFAR, margin=1, form=PAPER) / math.log(10)
    assert found == pytest.approx(term, abs=0.006)  # C is given to two decimals
    needed = log_n_needed(log_c, dimension=3072, x_rms=1, margin=1, form=PAPER) / math.log(10)
    assert needed == pytest.approx(n_needed, abs=0.06)


def test_the_tail_is_that_of_the_theory_note() -> None:
    assert tail(50_000, 0.01, PAPER) == pytest.approx(3 * math.sqrt(math.log(100) / 1e5), rel=1e-15)
    assert tail(50_000, 0.01, PAPER) == pytest.approx(0.0204, abs=5e-5)
    assert tail(50_000, 0.01, STRICT) == pytest.approx(0.022, abs=2e-4)
    for nats, expected in ((493, 0.212), (835, 0.275), (1170, 0.325), (1532, 0.372)):
        assert tail(50_000, 0.01, STRICT, union=nats) == pytest.approx(expected, abs=5e-4)


# margins ------------------------------------------------------------------------------------------


def slow_ramp(values: list[float], margin: float) -> float:
    return sum(0.0 if m >= margin else 1.0 if m <= 0 else 1 - m / margin for m in values) / len(values)


@given(values=st.lists(st.floats(-5, 5), min_size=1, max_size=30), margin=margins)
@many
def test_the_risk_is_the_mean_of_the_ramp(values: list[float], margin: float) -> None:
    assert ramp_risk(values, margin) == pytest.approx(slow_ramp(values, margin), abs=1e-12)
    assert ramp_risk(torch.tensor(values, dtype=torch.float64), margin) == ramp_risk(np.array(values), margin)
    errors = np.mean(np.array(values) <= 0)
    assert errors - 1e-12 <= ramp_risk(values, margin) <= np.mean(np.array(values) < margin) + 1e-12
    assert ramp_risk(values, margin) <= ramp_risk(values, 1.5 * margin) + 1e-12


@pytest.mark.parametrize("wrong", [[], [1.0, math.nan]])
def test_no_examples_and_undefined_margins_are_refused(wrong: list[float]) -> None:
    with pytest.raises(ValueError, match="no risk"):
        ramp_risk(wrong, 1.0)
    with pytest.raises(ValueError, match="no risk"):
        margin_grid(wrong, 20)


@given(
    values=st.lists(st.floats(-100, 100, allow_subnormal=False), min_size=1, max_size=50),
    layers=st.integers(1, 200),
)
@many
def test_the_grid_lies_on_powers_within_the_quantiles_and_pays_for_each(values: list[float], layers: int) -> None:
    grid = margin_grid(values, layers)
    positive = [value for value in values if value > 0]
    if not positive:
        assert grid == ()
        return
    assert 1 <= len(grid) <= MOST_MARGINS
    assert [cell.index for cell in grid] == sorted({cell.index for cell in grid})
    ratio = 1 + 1 / layers
    for cell in grid:
        assert cell.index is not None
        assert cell.value == pytest.approx(ratio**cell.index, rel=1e-9)
        assert cell.nats == pytest.approx(math.log(math.pi**2 / 3 * (abs(cell.index) + 1) ** 2))
        assert cell.nats == index_nats(cell.index)
    low, high = np.quantile(positive, [0.01, 0.99])
    assert low / ratio * (1 - 1e-9) < grid[0].value <= low
    assert high / ratio * (1 - 1e-9) < grid[-1].value <= high


def test_a_thinned_grid_keeps_its_ends_and_is_even() -> None:
    values = np.geomspace(0.01, 100, 2000)
    full, thin = margin_grid(values, 50, most=10**6), margin_grid(values, 50, most=7)
    steps = np.diff([cell.index for cell in thin])
    assert len(full) > 400
    assert (thin[0], thin[-1], len(thin)) == (full[0], full[-1], 7)
    assert steps.max() - steps.min() <= 1
    assert len(margin_grid(values, 50)) == MOST_MARGINS


def test_infinite_and_wrong_margins_do_not_shape_the_grid() -> None:
    plain = margin_grid([1.0, 2.0, 3.0], 10)
    assert margin_grid([1.0, 2.0, 3.0, -7.0, 0.0, math.inf], 10) == plain
    assert margin_grid([-1.0, 0.0], 10) == ()
