"""The scripts on shortcut depth, at sizes of seconds: dense Hessians and times against closed forms."""

from __future__ import annotations

import math
from pathlib import Path

import claims_condition as condition
import claims_escape as escape
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "claims.md").read_text(encoding="utf-8")


def spectrum(matrix: torch.Tensor) -> torch.Tensor:
    return torch.linalg.eigvalsh(matrix)


# condition number ---------------------------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 4))
def test_the_dense_hessian_of_one_layer_is_the_closed_form(seed, blocks) -> None:
    data = condition.data(seed)
    dense, closed = condition.hessian(data, 1, blocks), condition.one_layer_hessian(data, blocks)
    assert torch.allclose(dense, closed, atol=1e-11 * float(closed.abs().max()))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 4), st.sampled_from([condition.linear, torch.tanh]))
def test_the_spectrum_of_two_layers_is_that_of_the_error_with_both_signs(seed, blocks, phi) -> None:
    data = condition.data(seed)
    values = torch.linalg.svdvals(data.error)
    expected = torch.cat([values, -values]).repeat(condition.WIDTH * blocks).sort().values
    dense = condition.hessian(data, 2, blocks, phi)
    assert torch.allclose(spectrum(dense), expected, atol=1e-12 * float(values[0]))
    assert condition.condition(dense) == pytest.approx(condition.two_layer_condition(data), rel=1e-9)


def test_with_relu_every_hidden_unit_has_a_matrix_of_its_own() -> None:
    data, blocks = condition.data(3), 2
    point = condition._near(2, blocks, 0)
    parts = []
    for first, _ in point.reshape(blocks, 2, condition.WIDTH, condition.WIDTH):
        for row in first:
            seen = data.x[data.x @ row > 0]
            residual = (data.x - data.y)[data.x @ row > 0]
            values = torch.linalg.svdvals(residual.T @ seen / len(data.x))
            parts += [values, -values]
    dense = condition.hessian(data, 2, blocks, torch.relu, point)
    assert torch.allclose(spectrum(dense), torch.cat(parts).sort().values, atol=1e-5)


def test_three_layers_have_no_hessian_at_zero_and_one_as_small_as_the_distance_near_it() -> None:
    data = condition.data()
    dense = condition.hessian(data, 3, 2)
    assert float(dense.abs().max()) == 0.0
    assert math.isnan(condition.condition(dense))
    point = condition._near(3, 2, 0)
    near, nearer = (condition.hessian(data, 3, 2, torch.relu, point * scale).abs().max() for scale in (1.0, 0.1))
    assert float(near / nearer) == pytest.approx(10.0, rel=1e-4)


def test_the_page_has_the_rows_that_the_script_tells() -> None:
    for line in condition.tell(condition.measure((1, 2, 4))).splitlines():
        assert line in PAGE


# escape -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eps", [0.1, 0.01, 1e-4])
def test_balanced_times_are_the_integrals_done_by_hand(eps) -> None:
    def end(layers: int) -> float:
        return (1 - (1 - eps**layers) / math.sqrt(2)) ** (1 / layers)

    def two(w: float) -> float:
        return math.log(w / math.sqrt(1 - w * w))

    def four(w: float) -> float:
        return -1 / (2 * w * w) + math.log((1 + w * w) / (1 - w * w)) / 4

    assert escape.balanced(1, eps) == pytest.approx(math.log(2) / 2, rel=1e-9)
    assert escape.balanced(2, eps) == pytest.approx(two(end(2)) - two(eps), rel=1e-9)
    assert escape.balanced(4, eps) == pytest.approx(four(end(4)) - four(eps), rel=1e-9)


def test_balanced_times_are_those_of_the_theory_note() -> None:
    """`shortcut-scaling`, A2: there with a coarse step, hence 1 %."""
    for eps, two, three in ((1e-1, 1.858, 8.75), (1e-2, 4.167, 98.8), (1e-3, 6.470, 999.7)):
        assert escape.balanced(2, eps) == pytest.approx(two, rel=0.01)
        assert escape.balanced(3, eps) == pytest.approx(three, rel=0.01)


def test_the_task_is_white_and_what_is_to_learn_is_orthogonal() -> None:
    x, y = escape.task()
    eye = torch.eye(escape.INPUTS, dtype=torch.float64)
    turn = (y - x) @ x.T / escape.SAMPLES
    assert torch.allclose(x @ x.T / escape.SAMPLES, eye, atol=1e-12)
    assert torch.allclose(turn @ turn.T, eye, atol=1e-12)


def test_one_layer_needs_the_time_of_an_exponential() -> None:
    (found,) = escape.escapes(1, 1, eps=(1e-6,), seeds=2)
    steps = math.log(2) / 2 / -math.log(1 - escape.RATE)
    assert found.times == (math.ceil(steps) * escape.RATE,) * 2


@pytest.mark.parametrize("relu", [False, True])
def test_times_are_those_of_descent_with_gradients_by_hand(relu) -> None:
    (found,) = escape.escapes(2, 1, relu=relu, eps=(0.1,), seeds=1)
    x, y = (matrix.numpy() for matrix in escape.task())
    ((first, second),) = ([m[0].detach().numpy().copy() for m in block] for block in escape.starts(2, 1, (0.1,), 1))
    half, steps = ((y - x) ** 2).sum() / (4 * escape.SAMPLES), 0
    while True:
        before = first @ x
        hidden = np.maximum(before, 0) if relu else before
        wrong = x + second @ hidden - y
        if (wrong**2).sum() / (2 * escape.SAMPLES) <= half:
            break
        back = second.T @ wrong * ((before > 0) if relu else 1.0)
        second -= escape.RATE * wrong @ hidden.T / escape.SAMPLES
        first -= escape.RATE * back @ x.T / escape.SAMPLES
        steps += 1
    assert found.times == (pytest.approx(steps * escape.RATE),)


def test_a_smaller_start_costs_two_layers_a_logarithm_and_three_a_factor() -> None:
    two = escape.escapes(2, 1, eps=(1e-3, 1e-4), seeds=2)
    assert two[1].median - two[0].median == pytest.approx(math.log(10), abs=0.05)
    three = escape.escapes(3, 1, eps=(0.02, 0.01), seeds=2)
    assert three[1].median / three[0].median == pytest.approx(2.0, abs=0.15)


def test_what_does_not_leave_in_time_is_said_to_be_infinite(monkeypatch) -> None:
    monkeypatch.setattr(escape, "MOST", 10)
    (found,) = escape.escapes(3, 1, eps=(0.01,), seeds=2)
    assert found.times == (math.inf, math.inf)
    assert "| inf |" in escape.tell([found])
