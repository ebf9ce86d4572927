"""The parameter-count bound against a grid of resolutions, covers by hand, its limits, and a second recursion."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from bound_oracles import (
    one_thread,
    resnet_state,
    subject_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_audit.checkpoint import load
from resnet_audit.graph.from_weights import discover
from resnet_audit.graph.ir import Activation, Add, Conv, Flatten, Input, Linear, Node, Pad, Pool, Slice
from resnet_audit.measure.subject import Subject
from resnet_audit.settings import Settings
from resnet_audit.theory.parameter_count import BallFactor, parameter_count_bound

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_one_thread = pytest.fixture(scope="module", autouse=True)(one_thread)

balls = st.builds(
    BallFactor,
    count=st.integers(1, 10**6),
    radius=st.floats(1e-3, 1e3),
    log_beta=st.floats(-5, 120),
    log_growth=st.floats(-5, 120),
)


def at(eps: float, factors: Sequence[BallFactor], *, n_train: int, margin: float, delta: float) -> float:
    """The bound at one resolution, by those of the layers: g_v eps_v is the share n_v / n of margin eps / lip."""
    total = sum(factor.count for factor in factors)
    covering = 0.0
    for factor in factors:
        log_resolution = math.log(margin * eps / math.sqrt(2)) + math.log(factor.count / total) - factor.log_growth
        covering += factor.count * np.logaddexp(0, math.log(2 * factor.radius) + factor.log_beta - log_resolution)
    return 2 * eps + math.sqrt((covering + math.log(1 / delta)) / (2 * n_train))


@given(factors=st.lists(balls, min_size=1, max_size=4), n=st.integers(10, 10**7), margin=st.floats(1e-3, 1e3))
@settings(max_examples=40, deadline=None)
def test_no_resolution_of_a_grid_gives_less(factors: list[BallFactor], n: int, margin: float) -> None:
    found = parameter_count_bound(factors, n_train=n, margin=margin, delta=0.01)
    grid = [at(math.exp(t), factors, n_train=n, margin=margin, delta=0.01) for t in np.linspace(-40, 20, 4001)]
    assert found <= min(grid) * (1 + 1e-9)
    assert found >= min(grid) * (1 - 1e-3)


def test_one_weight_is_covered_by_an_interval_of_grid_points() -> None:
    # f(x) = w x with |w| <= 3, |x| <= 2: |w - w'| <= r moves the output by 2 r; 1 + 2 * 3 / r centres are enough.
    factor = BallFactor(count=1, radius=3.0, log_beta=math.log(2), log_growth=0.0)
    found = parameter_count_bound([factor], n_train=1000, margin=1.0, delta=0.05)
    candidates = []
    for eps in np.geomspace(1e-6, 1, 20_001):
        resolution = eps / math.sqrt(2) / 2
        centres = 1 + 2 * 3 / resolution
        candidates.append(2 * eps + math.sqrt((math.log(centres) + math.log(1 / 0.05)) / 2000))
    assert found == pytest.approx(min(candidates), rel=1e-6)
    # Intervals around evenly spaced points do cover [-3, 3] with no more than that many.
    resolution = 0.1
    points = np.arange(-3 + resolution, 3 + resolution, 2 * resolution)
    assert len(points) <= 1 + 2 * 3 / resolution
    assert max(np.abs(points - w).min() for w in np.linspace(-3, 3, 1001)) <= resolution + 1e-12


@given(factors=st.lists(balls, min_size=1, max_size=4))
@settings(max_examples=30, deadline=None)
def test_more_weights_smaller_margins_and_fewer_examples_cost_more(factors: list[BallFactor]) -> None:
    def bound(*, n_train: int = 1000, margin: float = 1.0, delta: float = 0.01, more: int = 0) -> float:
        extra = BallFactor(count=more, radius=1.0, log_beta=0.0, log_growth=0.0)
        return parameter_count_bound(
            [*factors, *([extra] if more else [])], n_train=n_train, margin=margin, delta=delta
        )

    assert bound() < bound(n_train=500)
    assert bound() < bound(margin=0.5)
    assert bound() < bound(delta=0.001)
    assert bound() < bound(more=100)


@given(factors=st.lists(balls, min_size=1, max_size=4), scale=st.floats(0.1, 10))
@settings(max_examples=30, deadline=None)
def test_only_the_product_of_radius_reach_growth_and_one_over_margin_matters(
    factors: list[BallFactor], scale: float
) -> None:
    one = parameter_count_bound(factors, n_train=1000, margin=1.0, delta=0.01)
    moved = [
        BallFactor(
            count=f.count,
            radius=f.radius * scale,
            log_beta=f.log_beta - 3.0,
            log_growth=f.log_growth + 3.0,
        )
        for f in factors
    ]
    assert parameter_count_bound(moved, n_train=1000, margin=scale, delta=0.01) == pytest.approx(one, rel=1e-9)


@pytest.mark.parametrize(
    "dead",
    [
        BallFactor(count=10, radius=0.0, log_beta=1.0, log_growth=1.0),
        BallFactor(count=10, radius=1.0, log_beta=-math.inf, log_growth=1.0),
        BallFactor(count=10, radius=1.0, log_beta=1.0, log_growth=-math.inf),
        BallFactor(count=0, radius=1.0, log_beta=1.0, log_growth=1.0),
    ],
)
def test_weights_that_cannot_reach_the_output_cost_nothing(dead: BallFactor) -> None:
    alone = math.sqrt(math.log(100) / 2000)
    assert parameter_count_bound([dead], n_train=1000, margin=1, delta=0.01) == pytest.approx(alone, rel=1e-12)
    assert parameter_count_bound([], n_train=1000, margin=1, delta=0.01) == pytest.approx(alone, rel=1e-12)


def test_norms_beyond_every_float_enter_through_their_logarithms() -> None:
    factor = BallFactor(count=1000, radius=1.0, log_beta=5000.0, log_growth=5000.0)
    found = parameter_count_bound([factor], n_train=10**9, margin=1, delta=0.01)
    assert found == pytest.approx(math.sqrt(1000 * 10_000 / 2e9), rel=1e-2)


# trained nets ---------------------------------------------------------------------------------------------------------


def windows(op: Conv | Linear, size: tuple[int, ...]) -> int:
    """Windows that cover an entry in the middle."""
    return (
        1
        if isinstance(op, Linear)
        else math.prod(-(-k // t) for k, t in zip(op.weight.shape[2:], op.stride, strict=True))
    )


def ball_factors(nodes: Sequence[Node], sigmas: Mapping[str, float], radius: float) -> list[BallFactor]:
    """Every layer's ball, by plain numbers: the magnitude of one input of norm `radius`, and an error of 1 at each."""
    shapes = {node.name: node.shape or () for node in nodes}
    sizes = flow(nodes, sigmas, radius, {})
    factors = []
    for node in nodes:
        op = node.op
        if not isinstance(op, Conv | Linear):
            continue
        positions = math.prod(shapes[node.name][1:])
        bias = 0.0 if op.bias is None else float(op.bias.square().sum())
        beta = math.sqrt(windows(op, shapes[node.inputs[0]]) * sizes[node.inputs[0]] ** 2 + positions)
        factors.append(
            BallFactor(
                count=op.weight.numel() + (0 if op.bias is None else op.bias.numel()),
                radius=math.sqrt(float(op.weight.square().sum()) + bias),
                log_beta=math.log(beta),
                log_growth=math.log(flow(nodes, sigmas, None, {node.name: 1.0})[nodes[-1].name]),
            )
        )
    return factors


def flow(
    nodes: Sequence[Node], sigmas: Mapping[str, float], start: float | None, made: Mapping[str, float]
) -> dict[str, float]:
    """The magnitudes of one input of norm `start`, or the errors that `made` ones grow to."""
    shapes = {node.name: node.shape or () for node in nodes}
    found: dict[str, float] = {}
    for node in nodes:
        terms = [found[name] for name in node.inputs]
        match node.op:
            case Input():
                found[node.name] = start or 0.0
            case Conv() | Linear() as op:
                shift = made.get(node.name, 0.0)
                if start is not None and op.bias is not None:
                    shift = float(op.bias.norm()) * math.sqrt(math.prod(shapes[node.name][1:]))
                found[node.name] = sigmas[node.name] * terms[0] + shift
            case Pool(kind="avg", kernel=None):
                found[node.name] = terms[0] / math.sqrt(math.prod(shapes[node.inputs[0]][1:]))
            case Add() | Activation() | Flatten() | Pad() | Slice():
                found[node.name] = sum(terms)
            case op:
                raise TypeError(op)
    return found


def test_a_small_net_is_bounded_by_its_covers() -> None:
    subject = subject_of(resnet_state(3))
    factors = ball_factors(subject.folded, subject.norms, 2.0)
    found = parameter_count_bound(factors, n_train=1000, margin=1.0, delta=0.01)
    grid = [at(math.exp(t), factors, n_train=1000, margin=1.0, delta=0.01) for t in np.linspace(-20, 5, 20_001)]
    assert found == pytest.approx(min(grid), rel=1e-6)


@pytest.mark.parametrize(("depth", "expected"), [(20, 10.1), (32, 15.1), (44, 20.1), (56, 24.4)])
def test_trained_nets_have_the_bounds_of_the_theory_note(checkpoints: Path, depth: int, expected: float) -> None:
    """Theory note `bound`, 5; with biases in the magnitudes, as its balls hold biases (without: 20.02 and 24.32)."""
    chosen = Settings(threads=1)
    subject = Subject(discover(load(str(checkpoints / f"resnet{depth}.th")), chosen), chosen)
    factors = ball_factors(subject.folded, subject.norms, 2.5 * math.sqrt(3072))
    found = parameter_count_bound(factors, n_train=50_000, margin=1.0, delta=0.01)
    assert found == pytest.approx(expected, abs=0.051)
