"""Statistics of singular values against numpy."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from linear_oracles import kernel

from resnet_audit.linear import conv_singular_values, spectrum_numbers

if TYPE_CHECKING:
    from resnet_audit.results import SpectrumNumbers

positive = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=40)


def numbers(values: list[float], shape: tuple[int, int] = (3, 5)) -> SpectrumNumbers:
    return spectrum_numbers(torch.tensor(values, dtype=torch.float64), sigma_upper=7.5, block_shape=shape)


@given(positive)
def test_quantiles_are_those_of_numpy(values: list[float]) -> None:
    got = numbers(values).quantiles
    expected = np.quantile(values, [0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99])
    assert [got.p01, got.p05, got.p25, got.p50, got.p75, got.p95, got.p99] == pytest.approx(expected, rel=1e-12)


@given(positive)
def test_norm_and_ranks_are_those_of_numpy(values: list[float]) -> None:
    got, sigma = numbers(values), np.array(values)
    share = sigma**2 / np.sum(sigma**2)
    entropy = -sum(p * math.log(p) for p in share if p > 0)
    assert got.count == len(values)
    assert got.sigma_upper == 7.5
    assert (got.sigma_max, got.sigma_min) == (sigma.max(), sigma.min())
    assert got.rms == pytest.approx(np.linalg.norm(sigma) / math.sqrt(len(values)), rel=1e-12)
    assert got.stable_rank == pytest.approx(np.sum(sigma**2) / sigma.max() ** 2 / len(values), rel=1e-12)
    assert got.effective_rank == pytest.approx(math.exp(entropy) / len(values), rel=1e-10)
    assert got.condition == pytest.approx(sigma.max() / sigma.min(), rel=1e-12)


@given(st.lists(st.floats(1e-5, 1e3) | st.just(0.0), min_size=1, max_size=40))
def test_the_histogram_counts_every_value_once(values: list[float]) -> None:
    got = numbers(values).histogram
    assert got.log10_edges == tuple(-3 + i / 8 for i in range(33))
    clipped = np.clip(np.log10(np.maximum(values, 1e-300)), -3, 1)
    expected, _ = np.histogram(clipped, bins=np.array(got.log10_edges))
    assert got.share == pytest.approx(expected / len(values))
    assert math.fsum(got.share) == pytest.approx(1.0)


def test_the_histogram_puts_what_lies_outside_in_the_end_bins() -> None:
    share = numbers([0.0, 1e-9, 1.0, 10.0, 1e6]).histogram.share
    assert (share[0], share[24], share[31]) == (0.4, 0.2, 0.4)


def test_near_one_has_closed_ends() -> None:
    assert numbers([0.89, 0.9, 1.0, 1.1, 1.11]).near_one == 0.6


def test_rank_has_the_tolerance_of_one_block() -> None:
    eps = np.finfo(np.float64).eps
    assert numbers([1.0, 5.1 * eps]).rank == 2
    deficient = numbers([1.0, 5.0 * eps])
    assert (deficient.rank, deficient.condition) == (1, None)
    assert numbers([1.0, 5.1 * eps], (6, 2)).rank == 1


def test_equal_values_have_full_ranks() -> None:
    got = numbers([2.0] * 8)
    assert (got.stable_rank, got.condition) == (1.0, 1.0)
    assert got.effective_rank == pytest.approx(1.0)


def test_a_zero_operator_has_no_relative_ranks() -> None:
    got = numbers([0.0, 0.0])
    assert (got.rank, got.rms, got.sigma_max) == (0, 0.0, 0.0)
    assert (got.condition, got.stable_rank, got.effective_rank) == (None, None, None)
    assert got.histogram.share[0] == 1.0


def test_huge_values_do_not_overflow() -> None:
    got = numbers([1e300, 1e300])
    assert got.rms == pytest.approx(1e300)
    assert got.stable_rank == 1.0


def test_scaling_leaves_the_ranks() -> None:
    values = conv_singular_values(kernel(4, 3, 3, 3), (6, 6)).tolist()
    one, other = numbers(values), numbers([1000 * v for v in values])
    assert one.stable_rank == pytest.approx(other.stable_rank)
    assert one.effective_rank == pytest.approx(other.effective_rank)
    assert one.rank == other.rank == 36 * 3


def test_rms_is_the_frobenius_norm_of_the_operator() -> None:
    weight = kernel(4, 3, 3, 3)
    got = spectrum_numbers(conv_singular_values(weight, (6, 6)), sigma_upper=1.0, block_shape=(4, 3))
    assert got.rms == pytest.approx(math.sqrt(36 * float(weight.square().sum()) / 108), rel=1e-12)


def test_no_values_are_refused() -> None:
    with pytest.raises(ValueError, match="without singular values"):
        numbers([])
