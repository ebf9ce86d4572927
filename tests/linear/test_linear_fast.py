"""Extremes and norms without the whole spectrum, against the whole spectrum."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from resnet_audit.linear import (
    conv_extremes,
    conv_norm_upper,
    conv_singular_values,
    matrix_extremes,
    nonfinite_entries,
)


@given(
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 4),
    st.sampled_from([1, 2, 3]),
    st.sampled_from([1, 2]),
    st.data(),
)
def test_the_extremes_of_a_convolution_are_those_of_its_whole_spectrum(groups, per_out, per_in, k, stride, data):
    size = (stride * data.draw(st.integers(3, 4)), stride * data.draw(st.integers(3, 4)))
    kernel = torch.randn(groups * per_out, per_in, k, k, generator=torch.Generator().manual_seed(per_out + 7 * per_in))
    pair = (stride, stride)
    found = conv_extremes(kernel, size=size, stride=pair, padding=(k // 2, k // 2), dilation=(1, 1), groups=groups)
    values = conv_singular_values(kernel, size, pair, groups)
    assert found.count == len(values)
    assert found.sigma_max == pytest.approx(float(values[0]), rel=1e-10)
    assert found.frobenius == pytest.approx(float(values.norm()), rel=1e-10)
    upper = conv_norm_upper(kernel, size=size, stride=pair, padding=(k // 2, k // 2), dilation=(1, 1), groups=groups)
    assert found.sigma_upper == upper


def test_a_kernel_that_wraps_around_has_no_shortcut():
    kernel = torch.randn(2, 2, 5, 5)
    geometry = {"stride": (1, 1), "padding": (2, 2), "dilation": (1, 1), "groups": 1}
    assert conv_extremes(kernel, size=(4, 4), **geometry) is None
    assert conv_extremes(kernel, size=(5, 5), **geometry) is not None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (1, 9), (9, 1), (3000, 700)])
def test_a_matrix_lies_between_its_estimate_and_its_certified_bound(shape, dtype):
    weight = torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)
    exact = torch.linalg.svdvals(weight.double())
    found = matrix_extremes(weight)
    assert found.count == min(shape)
    assert found.frobenius == pytest.approx(float(exact.norm()), rel=1e-6)
    assert 0.97 * float(exact[0]) <= found.sigma_max <= float(exact[0]) * (1 + 1e-5)
    assert found.sigma_upper >= float(exact[0])


def test_a_matrix_with_a_gap_is_estimated_to_the_tolerance():
    left, _ = torch.linalg.qr(torch.randn(50, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(30, 20, generator=torch.Generator().manual_seed(2), dtype=torch.float64))
    weight = left @ torch.diag(torch.cat([torch.tensor([3.0]), torch.full((19,), 1.0)]).double()) @ right.T
    assert matrix_extremes(weight).sigma_max == pytest.approx(3.0, rel=1e-4)


def test_zeros_have_a_largest_value_of_zero():
    found = matrix_extremes(torch.zeros(4, 3))
    assert (found.sigma_max, found.sigma_upper, found.frobenius) == (0.0, 0.0, 0.0)


def test_a_matrix_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        matrix_extremes(torch.tensor([[1.0, float("nan")]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn])
def test_entries_that_are_not_finite_are_counted_in_every_dtype(dtype):
    values = torch.ones(5).to(dtype)
    assert nonfinite_entries(values) == 0
    broken = torch.tensor([1.0, float("nan"), 2.0]).to(dtype)
    assert nonfinite_entries(broken) == 1
