"""Lanczos against dense singular values: from below, with an honest residual, and what it says of the density."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from linear_oracles import Case, cases, dense_zero, kernel

from resnet_audit.linear import conv_norm_upper, padded
from resnet_audit.linear.lanczos import golub_kahan
from resnet_audit.linear.padded import PaddedConv, conv_norm_lanczos


@dataclass(frozen=True)
class Matrices:
    """Maps given as matrices, (batch, rows, columns), which count their products."""

    values: torch.Tensor

    @property
    def batch(self) -> int:
        return self.values.shape[0]

    @property
    def rows(self) -> int:
        return self.values.shape[1]

    @property
    def columns(self) -> int:
        return self.values.shape[2]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([matrix @ vector for matrix, vector in zip(self.values, x, strict=True)])

    def adjoint(self, y: torch.Tensor) -> torch.Tensor:
        return torch.stack([matrix.T @ vector for matrix, vector in zip(self.values, y, strict=True)])


def with_values(values: torch.Tensor, rows: int, seed: int = 0) -> torch.Tensor:
    """A matrix (rows, n) with the n singular values given."""
    generator = torch.Generator().manual_seed(seed)
    left, right = (
        torch.linalg.qr(torch.randn(size, len(values), generator=generator, dtype=torch.float64))[0]
        for size in (rows, len(values))
    )
    return left * values @ right.T


@st.composite
def batches(draw: st.DrawFn) -> torch.Tensor:
    batch, rows, columns = draw(st.integers(1, 3)), draw(st.integers(1, 9)), draw(st.integers(1, 9))
    rank = draw(st.integers(0, min(rows, columns)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    left, right = (torch.randn(batch, size, rank, generator=generator, dtype=torch.float64) for size in (rows, columns))
    return left @ right.mT * 10.0 ** draw(st.integers(-6, 6))


@settings(max_examples=150, deadline=None)
@given(batches(), st.integers(1, 9), st.integers(0, 99))
def test_the_value_is_from_below_and_some_singular_value_lies_within_the_residual(matrices, steps, seed) -> None:
    true = torch.linalg.svdvals(matrices)
    values, residuals = golub_kahan(Matrices(matrices), steps=steps, tolerance=0.0, seed=seed).largest()
    slack = 1e-12 * float(true.max())
    assert bool((values <= true[:, 0] + slack).all())
    nearest = (true - values[:, None]).abs().amin(dim=1)
    assert bool((nearest <= residuals + slack).all())


@settings(max_examples=80, deadline=None)
@given(batches(), st.integers(0, 99))
def test_all_steps_give_the_largest_value_exactly(matrices, seed) -> None:
    true = torch.linalg.svdvals(matrices)[:, 0]
    found = golub_kahan(Matrices(matrices), steps=50, tolerance=0.0, seed=seed)
    values, residuals = found.largest()
    assert found.steps <= min(matrices.shape[1:])
    assert torch.allclose(values, true, rtol=1e-10, atol=0.0)
    assert bool((residuals <= 1e-6 * true).all())


def test_a_map_does_not_depend_on_what_else_is_in_the_batch() -> None:
    diverse = torch.stack(
        [
            torch.eye(12, dtype=torch.float64),
            torch.zeros(12, 12, dtype=torch.float64),
            with_values(torch.linspace(0.1, 3.0, 12, dtype=torch.float64), 12),
            with_values(torch.tensor([5.0] + [0.0] * 11, dtype=torch.float64), 12),
        ]
    )
    values, residuals = golub_kahan(Matrices(diverse), steps=12, tolerance=1e-10).largest()
    assert values.tolist() == pytest.approx([1.0, 0.0, 3.0, 5.0], abs=1e-9)
    assert float(residuals.max()) < 1e-6


def test_it_stops_when_every_map_has_converged_but_not_before_the_least_number_of_steps() -> None:
    gap = with_values(torch.tensor([9.0] + [1.0] * 99, dtype=torch.float64), 120)[None]
    quick = golub_kahan(Matrices(gap), steps=60, tolerance=1e-6)
    assert quick.steps < 10
    spread = with_values(torch.linspace(0.01, 1.0, 100, dtype=torch.float64), 120)[None]
    assert golub_kahan(Matrices(spread), steps=60, tolerance=1e-6, least=50).steps >= 50
    slow = golub_kahan(Matrices(spread), steps=60, tolerance=1e-3)
    value, residual = (float(part[0]) for part in slow.largest())
    assert residual <= 1e-3 * value
    assert slow.steps > quick.steps


def test_a_large_value_is_found_once_however_many_steps_follow() -> None:
    true = torch.cat([torch.tensor([50.0, 20.0], dtype=torch.float64), torch.linspace(2, 0.1, 98, dtype=torch.float64)])
    _, ritz, _ = golub_kahan(Matrices(with_values(true, 110)[None]), steps=70, tolerance=0.0).decomposed()
    # Without reorthogonalisation copies of the first values come up: the third is then 50 or 20.
    assert bool((ritz[0] <= true[:70] * (1 + 1e-10)).all())


def test_what_fewer_steps_knew_is_what_fewer_steps_find() -> None:
    maps = Matrices(with_values(torch.linspace(0.1, 2.0, 40, dtype=torch.float64), 50)[None])
    long, short = (golub_kahan(maps, steps=steps, tolerance=0.0) for steps in (20, 8))
    for got, expected in zip(long.after(8).largest(), short.largest(), strict=True):
        assert torch.allclose(got, expected, rtol=1e-12)


# the density --------------------------------------------------------------------------------------


def test_moments_of_the_density_no_longer_change_once_the_quadrature_is_exact_for_them() -> None:
    maps = Matrices(with_values(torch.linspace(0.2, 1.9, 60, dtype=torch.float64), 60)[None])
    found = golub_kahan(maps, steps=12, tolerance=0.0)
    for power in range(5):  # sigma^(2 power) is exact from power <= 2 k - 1
        first = (power + 1) // 2 + 1
        means = [float(found.after(k).mean(lambda v, p=power: v ** (2 * p))) for k in range(first, 13)]
        assert means == pytest.approx([means[0]] * len(means), rel=1e-10)
    assert float(found.mean(torch.ones_like)) == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("shape", [(60, 40), (40, 60)])
def test_means_over_many_starts_are_those_of_all_singular_values(shape) -> None:
    generator = torch.Generator().manual_seed(3)
    matrix = torch.randn(*shape, generator=generator, dtype=torch.float64) / 8
    true = torch.linalg.svdvals(matrix)
    many = Matrices(matrix[None].expand(400, -1, -1))
    found = golub_kahan(many, steps=40, tolerance=0.0)
    for function in (lambda v: (v - 1).abs(), torch.square, lambda v: ((v >= 0.9) & (v <= 1.1)).double()):
        means = found.mean(function)
        error = float(means.std()) / 20
        assert abs(float(means.mean()) - float(function(true).mean())) <= 4 * error
        assert error < 0.02


def test_the_mean_deviation_of_a_cluster_around_one_takes_few_steps() -> None:
    values = torch.cat([torch.linspace(0.95, 1.05, 290, dtype=torch.float64), torch.linspace(1.5, 4, 10).double()])
    maps = Matrices(with_values(values, 300)[None].expand(8, -1, -1))
    means = golub_kahan(maps, steps=16, tolerance=0.0).mean(lambda v: (v - 1).abs())
    true = float((values - 1).abs().mean())
    assert abs(float(means.mean()) - true) <= 4 * float(means.std()) / 8**0.5


# what goes wrong ----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_product_that_overflows_is_an_error(value) -> None:
    broken = torch.full((1, 5, 4), value, dtype=torch.float64)
    with pytest.raises(FloatingPointError):
        golub_kahan(Matrices(broken), steps=3, tolerance=0.0)


def test_in_single_precision_the_residual_admits_its_rounding() -> None:
    matrix = with_values(torch.tensor([4.0, 1.0, 0.5, 0.1], dtype=torch.float64), 6).float()[None]
    value, residual = golub_kahan(Matrices(matrix), steps=4, tolerance=0.0, dtype=torch.float32).largest()
    assert float(residual) >= 4.0 * 2**-23
    assert float(value) == pytest.approx(4.0, rel=1e-5)


def test_the_library_s_threads_are_left_as_they_were() -> None:
    before = torch.get_num_threads()
    golub_kahan(Matrices(torch.eye(3, dtype=torch.float64)[None]), steps=2, tolerance=0.0)
    assert torch.get_num_threads() == before


# zero-padded convolutions -------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(cases())
def test_a_padded_convolution_is_its_dense_operator_and_its_adjoint_the_transpose(case: Case) -> None:
    maps = PaddedConv(weight=case.weight, **case.keywords)
    dense = dense_zero(case)
    assert (maps.rows, maps.columns) == tuple(dense.shape)
    x, y = (torch.randn(2, size, dtype=torch.float64) for size in (maps.columns, maps.rows))
    assert torch.allclose(maps.forward(x), x @ dense.T, atol=1e-12)
    assert torch.allclose(maps.adjoint(y), y @ dense, atol=1e-12)


@pytest.mark.parametrize("dense_entries", [0, 1 << 20], ids=["Lanczos", "dense"])
@settings(max_examples=60, deadline=None)
@given(case=cases())
def test_a_norm_is_below_the_dense_one_which_is_below_the_certified(case: Case, dense_entries: int) -> None:
    true = float(torch.linalg.matrix_norm(dense_zero(case), 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(padded, "DENSE_ENTRIES", dense_entries)
        found = conv_norm_lanczos(case.weight, **case.keywords)
    assert found.value <= true * (1 + 1e-12)
    assert found.value == pytest.approx(true, rel=1e-6)
    assert true <= conv_norm_upper(case.weight, **case.keywords)
    assert (found.steps == 0) == (dense_entries > 0)


def test_a_larger_convolution_takes_lanczos_and_meets_its_dense_norm() -> None:
    case = Case(weight=kernel(6, 4, 3, 3), size=(18, 16), padding=(1, 1))
    found = conv_norm_lanczos(case.weight, **case.keywords)
    assert found.steps > 0
    assert found.value == pytest.approx(float(torch.linalg.matrix_norm(dense_zero(case), 2)), rel=1e-10)
    assert found.residual <= 1e-8 * found.value


def test_a_norm_scales_with_its_kernel_beyond_the_range_of_squares() -> None:
    weight = kernel(2, 3, 3, 3)
    one = conv_norm_lanczos(weight, size=(40, 40), padding=(1, 1))
    large = conv_norm_lanczos(weight * 2.0**600, size=(40, 40), padding=(1, 1))
    assert large.value == one.value * 2.0**600
    assert conv_norm_lanczos(torch.zeros(2, 3, 3, 3), size=(40, 40)).value == 0.0


def test_a_kernel_that_is_no_numbers_or_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN or infinite"):
        conv_norm_lanczos(torch.full((1, 1, 3, 3), float("nan")), size=(4, 4))
    with pytest.raises(ValueError, match="does not fit"):
        conv_norm_lanczos(kernel(1, 1, 5, 5), size=(3, 3))
