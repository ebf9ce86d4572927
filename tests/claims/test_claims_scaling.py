"""The scripts on branch scaling, at sizes of seconds: kernels against autograd, gradient flow against exponentials."""

from __future__ import annotations

import math

import claims_kernel as kernel
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.polynomial.legendre import legval

from resnet_audit import rntk
from resnet_audit.measure.rntk import kernel_spread

regression = pytest.importorskip("claims_regression", exc_type=ImportError)

# degeneration -------------------------------------------------------------------------------------------------------


def by_autograd(scales: list[float], cosines: torch.Tensor, width: int, seed: int) -> torch.Tensor:
    """The same draws in the same order, the gradient of every output by torch."""
    source = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=source, dtype=torch.float64)

    embedding = normal(2, width)
    weights = [normal(width, width).requires_grad_() for _ in range(2 * len(scales))]
    readout = normal(width)
    gradients = []
    for angle in [0.0, *torch.acos(cosines).tolist()]:
        z = torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64) @ embedding
        for scale, up, down in zip(scales, weights[::2], weights[1::2], strict=True):
            z = z + scale / math.sqrt(width) * down @ torch.relu(math.sqrt(2 / width) * up @ z)
        parts = torch.autograd.grad(readout @ z / math.sqrt(width), weights)
        gradients.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack([one @ gradients[0] for one in gradients])


@given(st.lists(st.floats(0.1, 2.0), min_size=1, max_size=4), st.integers(0, 99))
def test_the_kernel_of_a_network_is_that_of_autograd(scales, seed) -> None:
    cosines = torch.tensor([0.95, 0.3, -1.0], dtype=torch.float64)
    found = kernel.network_kernel(scales, cosines, 5, seed)
    expected = by_autograd(scales, cosines, 5, seed)
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-10 * float(expected[0]))


def test_wide_networks_have_the_spread_of_the_recursion() -> None:
    scales = kernel.alphas("1/sqrt L", 4)
    assert kernel.network_spread(scales, width=512, draws=4) == pytest.approx(kernel_spread(scales), abs=0.04)


def test_spreads_are_those_of_the_theory_note() -> None:
    """`shortcut-scaling`, B2: spread at L = 1000 and 10000, and slopes near -1, -1/2 and 0."""
    rows = {row.scheme: row for row in kernel.measure((1, 1000, 10000), ())}
    printed = {
        "1": (0.0116, 0.0012),
        "L^-1/4": (0.183, 0.0618),
        "1/sqrt L": (0.885, 0.8845),
        "1/L": (0.972, 0.972),
        "1/sqrt l": (0.507, 0.433),
    }
    for scheme, (one, other) in printed.items():
        assert rows[scheme].spreads[0] == pytest.approx(0.972, abs=5e-4)
        assert rows[scheme].spreads[1:] == pytest.approx((one, other), abs=5e-4)
    slopes = [rows[scheme].slope for scheme in ("1", "L^-1/4", "1/sqrt L")]
    assert slopes == pytest.approx([-1.0, -0.5, 0.0], abs=0.04)
    assert rows["1"].far == pytest.approx(0.25, abs=1e-3)


# regression ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alphas", [[1.0], [0.1] * 10, [1.0] * 100])
def test_the_kernel_between_points_is_the_recursion_without_interpolation(alphas) -> None:
    points = regression.sphere(0).train[:20]
    found = regression.kernel_of(alphas)(points, points)
    expected = rntk(alphas, (points @ points.T).clamp(-1.0, 1.0).flatten().tolist()).normalised.reshape(20, 20)
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.allclose(found.diagonal(), torch.ones(20, dtype=torch.float64), atol=1e-6)


def test_the_regression_is_gradient_flow_stopped_at_its_best(monkeypatch) -> None:
    monkeypatch.setattr(regression, "TIMES", torch.tensor([0.01, 0.3, 1.0, 7.0, 200.0], dtype=torch.float64))
    source = torch.Generator().manual_seed(1)
    x = torch.nn.functional.normalize(torch.randn(24, 3, generator=source, dtype=torch.float64), dim=1)
    y = x[:, :1] ** 2 + 0.2 * torch.randn(24, 1, generator=source, dtype=torch.float64)
    split = regression._cut(x, y, y, 8, 8)
    kernel_of = regression.kernel_of([0.5] * 5)
    gram = kernel_of(split.train, split.train)
    largest = torch.linalg.eigvalsh(gram)[-1]
    best = (math.inf, math.nan)
    for time in regression.TIMES * len(gram) / largest:
        # Theta' = y - K Theta, from 0.
        weights = torch.linalg.solve(
            gram, (torch.eye(8).double() - torch.matrix_exp(-time * gram)) @ split.train_targets
        )
        errors = [
            float(((kernel_of(points, split.train) @ weights - targets) ** 2).mean())
            for points, targets in ((split.stop, split.stop_targets), (split.test, split.test_targets))
        ]
        best = min(best, (errors[0], errors[1]))
    assert regression.regression_error(split, kernel_of, regression.off) == pytest.approx(best[1], rel=1e-9)


def test_the_target_on_the_sphere_has_variance_one_in_three_equal_parts() -> None:
    nodes, weights = np.polynomial.legendre.leggauss(20)
    split = regression.sphere(0)
    t, y = split.test[:, 0].numpy(), split.test_targets[:, 0].numpy()
    shares = []
    for degree in (1, 2, 3):
        only = legval(nodes, [0.0] * degree + [1.0])
        shares.append(float((weights * only**2).sum() / 2))
        assert shares[-1] == pytest.approx(1 / (2 * degree + 1))
    parts = [math.sqrt(1 / (3 * share)) for share in shares]
    assert y == pytest.approx(legval(t, [0.0, *parts]), abs=1e-12)
    assert float((split.train_targets - _clean(split.train, parts)).std()) == pytest.approx(0.3, abs=0.05)


def _clean(points: torch.Tensor, parts: list[float]) -> torch.Tensor:
    return torch.from_numpy(legval(points[:, 0].numpy(), [0.0, *parts]))[:, None]


def test_the_third_degree_is_beyond_one_layer_and_within_a_residual_time_of_one() -> None:
    nodes, weights = np.polynomial.legendre.leggauss(400)
    third = legval(nodes, [0.0, 0.0, 0.0, 1.0])
    found = [
        float((weights * third * rntk(alphas, nodes.tolist()).normalised.numpy()).sum())
        for alphas in ([1.0], [0.1] * 100)
    ]
    assert abs(found[0]) < 1e-7
    assert found[1] > 1e-3


def test_digits_are_of_length_one_and_no_digit_is_in_two_parts() -> None:
    split = regression.digits(3)
    parts = (split.train, split.stop, split.test)
    assert [len(part) for part in parts] == [500, 297, 1000]
    whole = torch.cat(parts)
    assert torch.allclose(whole.norm(dim=1), torch.ones(1797, dtype=torch.float64))
    assert torch.allclose(split.test_targets.sum(1), torch.zeros(1000, dtype=torch.float64), atol=1e-12)


def test_errors_fall_and_rise_with_the_residual_time_on_a_small_task() -> None:
    split = regression.sphere(0)
    found = [
        regression.regression_error(split, regression.kernel_of([alpha] * 100), regression.off)
        for alpha in (0.003, 0.1, 3.0)
    ]
    assert found[1] < 0.05
    assert min(found[0], found[2]) > 0.2
