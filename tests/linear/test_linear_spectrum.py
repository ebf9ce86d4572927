"""All singular values of a circular convolution against dense operators, numpy and the identities of the theory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from linear_oracles import Case, circular_cases, dense_circular, dense_zero, kernel, pairs
from torch import Tensor

from resnet_audit.linear import circular_grid, conv_singular_values, matrix_singular_values, torus_size
from resnet_audit.linear.symbol import symbol_of

few = settings(max_examples=60, deadline=None)


def values_of(case: Case) -> Tensor:
    return conv_singular_values(case.weight, case.size, case.stride, case.groups, case.dilation)


def assert_same(got: Tensor, expected: Tensor) -> None:
    assert got.shape == expected.shape
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12 * max(1e-300, float(expected.max())))


NAMED = {
    "3x3": Case(weight=kernel(4, 3, 3, 3), size=(6, 5)),
    "3x3 stride 2": Case(weight=kernel(4, 3, 3, 3), size=(6, 8), stride=(2, 2)),
    "stride 3, even kernel": Case(weight=kernel(3, 2, 4, 2), size=(9, 6), stride=(3, 3)),
    "unequal strides": Case(weight=kernel(5, 2, 3, 3), size=(6, 6), stride=(1, 2)),
    "many outputs at stride 2": Case(weight=kernel(9, 2, 3, 3), size=(4, 4), stride=(2, 2)),
    "1x7": Case(weight=kernel(3, 3, 1, 7), size=(4, 8)),
    "kernel larger than the grid": Case(weight=kernel(2, 3, 5, 5), size=(3, 2)),
    "dilation 2, even grid": Case(weight=kernel(3, 3, 3, 3), size=(8, 6), dilation=(2, 2)),
    "dilation 2, odd grid": Case(weight=kernel(3, 3, 3, 3), size=(7, 5), dilation=(2, 2)),
    "dilation 2, stride 2": Case(weight=kernel(3, 3, 3, 3), size=(8, 8), stride=(2, 2), dilation=(2, 2)),
    "dilation 3, stride 2": Case(weight=kernel(3, 2, 3, 3), size=(6, 8), stride=(2, 2), dilation=(3, 3)),
    "1x1": Case(weight=kernel(3, 5, 1, 1), size=(4, 3)),
    "1x1 stride 2": Case(weight=kernel(5, 3, 1, 1), size=(4, 6), stride=(2, 2)),
    "patches": Case(weight=kernel(7, 2, 2, 2), size=(6, 4), stride=(2, 2)),
    "kernel smaller than its stride": Case(weight=kernel(9, 2, 2, 2), size=(6, 6), stride=(3, 3)),
    "groups": Case(weight=kernel(6, 2, 3, 3), size=(4, 5), groups=3),
    "groups, stride 2": Case(weight=kernel(8, 2, 3, 3), size=(4, 6), stride=(2, 2), groups=2),
    "depthwise": Case(weight=kernel(4, 1, 3, 3), size=(5, 4), groups=4),
    "depthwise, stride 2": Case(weight=kernel(4, 1, 3, 3), size=(6, 4), stride=(2, 2), groups=4),
    "one pixel": Case(weight=kernel(3, 2, 3, 3), size=(1, 1)),
}


@pytest.mark.parametrize("name", NAMED)
def test_values_are_those_of_the_dense_operator(name: str) -> None:
    assert_same(values_of(NAMED[name]), torch.linalg.svdvals(dense_circular(NAMED[name])))


@few
@given(circular_cases())
def test_values_are_those_of_the_dense_operator_for_any_geometry(case: Case) -> None:
    assert_same(values_of(case), torch.linalg.svdvals(dense_circular(case)))


@pytest.mark.parametrize("size", [(8, 8), (7, 10)])
def test_stride_one_is_the_fourier_transform_of_the_kernel(size: tuple[int, int]) -> None:
    weight = kernel(6, 4, 3, 3)
    transform = np.fft.fft2(weight.numpy().transpose(2, 3, 0, 1), size, axes=(0, 1))
    expected = np.sort(np.linalg.svd(transform, compute_uv=False).ravel())[::-1]
    assert_same(conv_singular_values(weight, size), torch.from_numpy(expected.copy()))


def test_depthwise_is_the_modulus_of_the_fourier_transform() -> None:
    weight = kernel(5, 1, 3, 3)
    expected = np.sort(np.abs(np.fft.fft2(weight[:, 0].numpy(), (6, 7))).ravel())[::-1]
    assert_same(conv_singular_values(weight, (6, 7), groups=5), torch.from_numpy(expected.copy()))


@few
@given(circular_cases())
def test_there_are_as_many_values_as_the_smaller_side_of_every_block(case: Case) -> None:
    blocks = case.groups * (case.size[0] // case.stride[0]) * (case.size[1] // case.stride[1])
    c_out, c_in = case.weight.shape[0] // case.groups, case.weight.shape[1]
    assert values_of(case).numel() == blocks * min(c_out, case.stride[0] * case.stride[1] * c_in)


@few
@given(circular_cases())
def test_squares_sum_to_the_kernel_energy_at_every_output(case: Case) -> None:
    fits = all(n > d * (k - 1) for n, d, k in zip(case.size, case.dilation, case.extent, strict=True))
    outputs = (case.size[0] // case.stride[0]) * (case.size[1] // case.stride[1])
    energy = outputs * float(case.weight.square().sum())
    if fits:
        assert float(values_of(case).square().sum()) == pytest.approx(energy, rel=1e-12)


@given(pairs(1, 9))
def test_half_of_the_grid_counts_every_frequency_once(size: tuple[int, int]) -> None:
    symbol = symbol_of(kernel(1, 1, 2, 2), size, (1, 1), 1, (1, 1))
    m1, m2 = size
    assert int(symbol.counts.sum()) == m1 * m2
    kept = [(int(a), int(b)) for a, b in symbol.points]
    assert len(kept) == (m1 * m2 + (2 - m1 % 2) * (2 - m2 % 2)) // 2
    assert {*kept, *((-a % m1, -b % m2) for a, b in kept)} == {(a, b) for a in range(m1) for b in range(m2)}


def test_seven_by_seven_keeps_25_frequencies_and_1x1_keeps_one() -> None:
    assert len(symbol_of(kernel(2, 2, 3, 3), (7, 7), (1, 1), 1, (1, 1)).points) == 25
    assert len(symbol_of(kernel(2, 2, 1, 1), (7, 7), (1, 1), 1, (1, 1)).points) == 1


@pytest.mark.parametrize("position", [(0, 0), (1, 1), (2, 0)])
def test_a_delta_kernel_has_only_ones(position: tuple[int, int]) -> None:
    weight = torch.zeros(4, 4, 3, 3)
    weight[range(4), range(4), position[0], position[1]] = 1.0
    assert_same(conv_singular_values(weight, (6, 6)), torch.ones(144, dtype=torch.float64))


def test_an_orthogonal_1x1_has_only_ones() -> None:
    orthogonal = torch.linalg.qr(kernel(5, 5)).Q
    assert_same(conv_singular_values(orthogonal[:, :, None, None], (4, 4)), torch.ones(80, dtype=torch.float64))


def test_a_strided_1x1_has_the_zeros_of_the_pixels_it_skips() -> None:
    values = conv_singular_values(kernel(5, 3, 1, 1), (6, 6), (2, 2))
    assert int((values == 0).sum()) == 9 * (5 - 3)


@few
@given(circular_cases(), st.floats(-1e3, 1e3))
def test_scaling_the_kernel_scales_the_values(case: Case, factor: float) -> None:
    scaled = Case(
        weight=factor * case.weight, size=case.size, stride=case.stride, groups=case.groups, dilation=case.dilation
    )
    assert_same(values_of(scaled), abs(factor) * values_of(case))


@few
@given(circular_cases())
def test_an_orthogonal_mix_of_outputs_changes_nothing(case: Case) -> None:
    per_group = case.weight.shape[0] // case.groups
    mix = torch.linalg.qr(kernel(per_group, per_group, seed=1)).Q
    mixed = torch.einsum("pq,gqcab->gpcab", mix, case.weight.unflatten(0, (case.groups, per_group))).flatten(0, 1)
    got = conv_singular_values(mixed, case.size, case.stride, case.groups, case.dilation)
    assert_same(got, values_of(case))


@few
@given(circular_cases(), pairs(0, 4))
def test_a_shift_of_the_kernel_changes_nothing(case: Case, shift: tuple[int, int]) -> None:
    shifted = torch.nn.functional.pad(case.weight, (shift[1], 0, shift[0], 0))
    got = conv_singular_values(shifted, case.size, case.stride, case.groups, case.dilation)
    assert_same(got, values_of(case))


def test_the_adjoint_kernel_has_the_same_values() -> None:
    weight = kernel(4, 3, 3, 2)
    adjoint = weight.transpose(0, 1).flip(2, 3)
    assert_same(conv_singular_values(adjoint, (5, 6)), conv_singular_values(weight, (5, 6)))


@few
@given(circular_cases())
def test_groups_are_the_union_of_their_spectra(case: Case) -> None:
    parts = [
        conv_singular_values(part, case.size, case.stride, 1, case.dilation) for part in case.weight.chunk(case.groups)
    ]
    assert_same(values_of(case), torch.cat(parts).sort(descending=True).values)


@few
@given(circular_cases(), pairs(0, 3))
def test_zero_padding_interlaces_below_the_torus(case: Case, padding: tuple[int, int]) -> None:
    reach = [d * (k - 1) + 1 for k, d in zip(case.extent, case.dilation, strict=True)]
    if any(n + 2 * p < r for n, p, r in zip(case.size, padding, reach, strict=True)):
        return
    padded = Case(
        weight=case.weight,
        size=case.size,
        stride=case.stride,
        padding=padding,
        dilation=case.dilation,
        groups=case.groups,
    )
    zero = torch.linalg.svdvals(dense_zero(padded))
    torus = conv_singular_values(case.weight, torus_size(*padded.geometry), case.stride, case.groups, case.dilation)
    shared = min(zero.numel(), torus.numel())
    assert bool((zero[:shared] <= torus[:shared] * (1 + 1e-12) + 1e-12).all())
    assert bool((zero[shared:] <= 1e-12 * (1 + float(zero[0]))).all())


def test_memory_chunks_do_not_change_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = conv_singular_values(kernel(4, 4, 3, 3), (6, 6))
    monkeypatch.setattr("resnet_audit.linear.symbol.CHUNK_BYTES", 1)
    assert_same(conv_singular_values(kernel(4, 4, 3, 3), (6, 6)), whole)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_stored_dtype_is_only_storage(dtype: torch.dtype) -> None:
    weight = kernel(3, 3, 3, 3).to(dtype)
    values = conv_singular_values(weight, (5, 5))
    assert values.dtype == torch.float64
    assert_same(values, conv_singular_values(weight.double(), (5, 5)))


@pytest.mark.parametrize("factor", [1e-200, 1e200])
def test_extreme_scales_neither_overflow_nor_vanish(factor: float) -> None:
    weight = kernel(3, 3, 3, 3)
    assert_same(conv_singular_values(weight * factor, (5, 5)) / factor, conv_singular_values(weight, (5, 5)))


def test_zero_weights_have_zero_values() -> None:
    assert conv_singular_values(torch.zeros(3, 2, 3, 3), (4, 4)).tolist() == [0.0] * 32


def test_a_designed_matrix_keeps_its_smallest_value() -> None:
    designed = torch.logspace(0, -10, 16, dtype=torch.float64)
    left, right = torch.linalg.qr(kernel(16, 16)).Q, torch.linalg.qr(kernel(16, 16, seed=1)).Q
    matrix = left @ designed.diag() @ right
    assert_same(matrix_singular_values(matrix), designed)
    assert_same(conv_singular_values(matrix[:, :, None, None], (2, 2)), designed.repeat_interleave(4))


@pytest.mark.parametrize("shape", [(10, 64), (64, 10), (1, 5), (5, 1)])
def test_a_linear_layer_has_the_values_of_its_matrix(shape: tuple[int, int]) -> None:
    expected = np.linalg.svd(kernel(*shape).numpy(), compute_uv=False)
    assert_same(matrix_singular_values(kernel(*shape)), torch.from_numpy(expected))


def test_a_stride_that_does_not_divide_the_size_is_refused() -> None:
    with pytest.raises(ValueError, match="does not divide the grid"):
        conv_singular_values(kernel(2, 2, 3, 3), (7, 8), (2, 2))
    assert circular_grid((7, 8), (2, 2)) == (8, 8)
    assert conv_singular_values(kernel(2, 2, 3, 3), circular_grid((7, 8), (2, 2)), (2, 2)).numel() == 32


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_in_words(bad: float) -> None:
    weight = kernel(2, 2, 3, 3)
    weight[1, 0, 2, 2] = bad
    with pytest.raises(ValueError, match="1 of 36 weights are NaN or infinite"):
        conv_singular_values(weight, (4, 4))
    with pytest.raises(ValueError, match="1 of 4 weights are NaN or infinite"):
        matrix_singular_values(torch.tensor([[1.0, bad], [0.0, 1.0]]))


def test_shapes_that_are_no_layer_are_refused() -> None:
    with pytest.raises(ValueError, match="a 2-D convolution has a weight"):
        conv_singular_values(kernel(2, 2, 3), (4, 4))
    with pytest.raises(ValueError, match="3 output channels cannot be split into 2 groups"):
        conv_singular_values(kernel(3, 2, 3, 3), (4, 4), groups=2)
    with pytest.raises(ValueError, match="a linear layer has a weight"):
        matrix_singular_values(kernel(2, 2, 3))
