"""Certified norms, row norms and windows against dense operators, and against golden figures of a trained network."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from linear_oracles import Case, cases, dense_circular, dense_zero, kernel
from torch.nn import functional

from resnet_audit.linear import (
    conv_norm_upper,
    conv_singular_values,
    fold_batch_norm,
    kernel_norm_sum,
    matrix_norm_upper,
    output_size,
    row_norm_sum,
    torus_size,
    windows,
)
from resnet_audit.linear.gram import gram_of
from resnet_audit.linear.norm import _above, _most, cholesky_slack
from resnet_audit.linear.symbol import symbol_of

if TYPE_CHECKING:
    from pathlib import Path

few = settings(max_examples=120, deadline=None)


@few
@given(cases())
def test_upper_is_above_the_dense_norm(case: Case) -> None:
    assert conv_norm_upper(case.weight, **case.keywords) >= float(torch.linalg.matrix_norm(dense_zero(case), 2))


@few
@given(cases())
def test_upper_is_the_norm_of_the_dense_torus(case: Case) -> None:
    torus = dense_circular(case, torus_size(*case.geometry))
    expected = float(torch.linalg.matrix_norm(torus, 2))
    assert conv_norm_upper(case.weight, **case.keywords) == pytest.approx(expected, rel=1e-11)


@few
@given(cases())
def test_the_operator_is_a_submatrix_of_its_torus(case: Case) -> None:
    rows, columns = torus_size(*case.geometry)
    torus = dense_circular(case, (rows, columns)).unflatten(1, (-1, rows, columns))
    shifted = torus.roll((-case.padding[0], -case.padding[1]), dims=(2, 3))  # window 0 starts in the padding
    visible = shifted[:, :, : case.size[0], : case.size[1]].flatten(1)
    for row in dense_zero(case):
        assert bool(torch.isclose(visible, row, atol=1e-12).all(dim=1).any()) or not bool(row.any())


@few
@given(cases())
def test_upper_is_below_the_windows_times_the_reshaped_kernel(case: Case) -> None:
    true = float(torch.linalg.matrix_norm(dense_zero(case), 2))
    reshaped = max(float(torch.linalg.matrix_norm(part.flatten(1), 2)) for part in case.weight.chunk(case.groups))
    assert true <= math.sqrt(windows(*case.geometry)) * reshaped * (1 + 1e-12)


@few
@given(cases())
def test_row_norms_are_those_of_the_dense_operator(case: Case) -> None:
    expected = float(torch.linalg.vector_norm(dense_zero(case), dim=1).sum())
    assert row_norm_sum(case.weight, **case.keywords) == pytest.approx(expected, rel=1e-12)


@few
@given(cases())
def test_windows_are_the_gradient_of_a_convolution_of_ones(case: Case) -> None:
    image = torch.zeros(1, 1, *case.size, dtype=torch.float64, requires_grad=True)
    ones = torch.ones(1, 1, *case.extent, dtype=torch.float64)
    functional.conv2d(image, ones, None, case.stride, case.padding, case.dilation).sum().backward()
    assert image.grad is not None
    assert windows(*case.geometry) == int(image.grad.max())


@pytest.mark.parametrize("k", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("t", [1, 2, 3, 4])
@pytest.mark.parametrize("d", [1, 2, 3])
def test_windows_of_a_large_image_have_the_closed_form(k: int, t: int, d: int) -> None:
    expected = math.ceil(k * math.gcd(d, t) / t) ** 2
    assert windows((60, 60), (k, k), (t, t), (0, 0), (d, d)) == expected


@few
@given(cases())
def test_output_size_is_that_of_the_convolution(case: Case) -> None:
    image = torch.zeros(1, case.weight.shape[1] * case.groups, *case.size, dtype=torch.float64)
    output = functional.conv2d(image, case.weight, None, case.stride, case.padding, case.dilation, case.groups)
    assert output_size(*case.geometry) == tuple(output.shape[2:])


@few
@given(cases())
def test_groups_are_a_dense_kernel_with_zeros(case: Case) -> None:
    dense = torch.zeros(case.weight.shape[0], case.weight.shape[1] * case.groups, *case.extent, dtype=torch.float64)
    per_group = case.weight.shape[0] // case.groups
    for g, part in enumerate(case.weight.chunk(case.groups)):
        dense[g * per_group : (g + 1) * per_group, g * part.shape[1] : (g + 1) * part.shape[1]] = part
    keywords = {**case.keywords, "groups": 1}
    assert conv_norm_upper(dense, **keywords) == pytest.approx(conv_norm_upper(case.weight, **case.keywords), rel=1e-11)
    assert row_norm_sum(dense, **keywords) == pytest.approx(row_norm_sum(case.weight, **case.keywords), rel=1e-12)


def test_a_1x1_is_exact() -> None:
    weight = kernel(6, 4, 1, 1)
    got = conv_norm_upper(weight, size=(5, 5), stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1)
    assert got == pytest.approx(float(torch.linalg.matrix_norm(weight[:, :, 0, 0], 2)), rel=2e-12)
    assert got >= float(torch.linalg.matrix_norm(weight[:, :, 0, 0], 2))


def test_the_first_frequency_in_float32_is_decided_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.zeros(4, 4, 3, 3, dtype=torch.float64)
    weight[range(4), range(4), 1, 1] = 1.0
    weight += 1e-9 * kernel(4, 4, 3, 3)
    geometry = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
    expected = float(conv_singular_values(weight, (9, 9))[0])
    assert conv_norm_upper(weight, size=(8, 8), **geometry) == pytest.approx(expected, rel=2e-12)
    monkeypatch.setattr("resnet_audit.linear.frequencies.CHUNK_BYTES", 1)
    assert conv_norm_upper(weight, size=(8, 8), **geometry) == pytest.approx(expected, rel=2e-12)


@pytest.mark.parametrize("side", [1, 2, 16, 96])
def test_the_slack_covers_a_cholesky_factor_multiplied_out_with_more_digits(side: int) -> None:
    for seed in range(5):
        parts = kernel(2, side, side, seed=seed).numpy()
        block = parts[0] + 1j * parts[1]
        gram = block @ block.conj().T
        limit = float(np.linalg.eigvalsh(gram)[-1]) * (1 + 1e-13)
        shifted = limit * np.eye(side) - gram
        factor = np.linalg.cholesky(shifted + 1e-13 * limit * np.eye(side)).astype(np.clongdouble)
        wrong = factor @ factor.conj().T - shifted - 1e-13 * limit * np.eye(side)
        assert float(np.linalg.norm(wrong.astype(np.complex128), 2)) <= cholesky_slack(side) * limit


def test_the_slack_grows_with_the_square_of_the_channels() -> None:
    # The smallest that Higham's theorem allows for real numbers, which 1e-9 is not from 2900 channels on.
    for side in (1, 64, 2900, 4096, 20000):
        assert cholesky_slack(side) >= side * (side + 1) * 2.0**-53
        assert cholesky_slack(2 * side) <= 4 * cholesky_slack(side)
    assert cholesky_slack(4096) > 1e-9


def test_a_frequency_is_not_left_out_though_it_is_above_by_less_than_the_slack() -> None:
    # G = best (1 + d) with d below the slack: it may be left out only if its eigenvalues are not above the best.
    symbol = symbol_of(kernel(8, 8, 1, 1), (1, 1), (1, 1), 1, (1, 1))
    gram = gram_of(symbol)
    top = float(torch.linalg.matrix_norm(kernel(8, 8), 2)) ** 2
    for d in (1e-15, cholesky_slack(8) / 2, 1e-9):
        assert _above(gram, top / (1 + d), symbol.points) == pytest.approx(top, rel=1e-14)


@pytest.mark.parametrize("shape", [(10, 64), (64, 10), (1, 5), (5, 1)])
def test_a_linear_layer_has_the_norm_of_its_matrix(shape: tuple[int, int]) -> None:
    expected = float(torch.linalg.matrix_norm(kernel(*shape), 2))
    assert expected <= matrix_norm_upper(kernel(*shape)) <= expected * (1 + 1e-11)


@pytest.mark.parametrize("factor", [1e-200, 1e200])
def test_norms_of_extreme_scales_neither_overflow_nor_vanish(factor: float) -> None:
    weight = kernel(3, 3, 3, 3)
    geometry = {"size": (5, 5), "stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
    for norm in (lambda w: conv_norm_upper(w, **geometry), lambda w: row_norm_sum(w, **geometry), kernel_norm_sum):
        assert norm(weight * factor) / factor == pytest.approx(norm(weight), rel=1e-12)


def test_zero_weights_have_norm_zero() -> None:
    geometry = {"size": (5, 5), "stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
    zero = torch.zeros(2, 2, 3, 3)
    assert conv_norm_upper(zero, **geometry) == row_norm_sum(zero, **geometry) == kernel_norm_sum(zero) == 0.0
    assert matrix_norm_upper(torch.zeros(2, 3)) == 0.0


def test_weights_that_are_not_finite_have_no_norm() -> None:
    weight = kernel(2, 2, 3, 3)
    weight[0, 0, 0, 0] = math.nan
    geometry = {"size": (5, 5), "stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
    for norm in (lambda: conv_norm_upper(weight, **geometry), lambda: row_norm_sum(weight, **geometry)):
        with pytest.raises(ValueError, match="NaN or infinite"):
            norm()
    for of_matrix in (kernel_norm_sum, matrix_norm_upper):
        with pytest.raises(ValueError, match="NaN or infinite"):
            of_matrix(torch.tensor([[math.inf]]))


def test_a_kernel_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        conv_norm_upper(kernel(2, 2, 5, 5), size=(3, 8), stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1)


# Theory note `bound`, 5, last table: upper norm, b_operator, b_patch, windows of the folded kernels at 3x32x32.
GOLDEN = {
    "conv1": (3.712, 9267.1, 9.18, 9),
    "layer1.0.conv1": (2.530, 11993.3, 11.95, 9),
    "layer1.0.conv2": (1.968, 9245.2, 9.22, 9),
    "layer1.1.conv1": (3.050, 13878.9, 13.86, 9),
    "layer1.1.conv2": (2.244, 10863.1, 10.84, 9),
    "layer1.2.conv1": (2.107, 9088.4, 9.07, 9),
    "layer1.2.conv2": (4.428, 10987.3, 10.93, 9),
    "layer2.0.conv1": (1.476, 4892.5, 19.47, 4),
    "layer2.0.conv2": (4.008, 7457.9, 30.27, 9),
    "layer2.1.conv1": (2.214, 5198.8, 21.24, 9),
    "layer2.1.conv2": (4.291, 8658.0, 35.39, 9),
    "layer2.2.conv1": (2.063, 5181.3, 21.16, 9),
    "layer2.2.conv2": (5.675, 10553.5, 43.15, 9),
    "layer3.0.conv1": (1.471, 2240.8, 36.46, 4),
    "layer3.0.conv2": (6.075, 7003.8, 119.84, 9),
    "layer3.1.conv1": (1.940, 2319.8, 39.93, 9),
    "layer3.1.conv2": (11.021, 9961.3, 171.64, 9),
    "layer3.2.conv1": (2.811, 2589.7, 44.51, 9),
    "layer3.2.conv2": (31.178, 15150.4, 261.29, 9),
}
SIZES = {16: 32, 32: 16, 64: 8}


@pytest.fixture
def resnet20(checkpoints: Path) -> dict[str, torch.Tensor]:
    stored = torch.load(checkpoints / "resnet20.th", map_location="cpu", weights_only=True)
    return {name.removeprefix("module."): tensor for name, tensor in stored["state_dict"].items()}


@pytest.mark.parametrize("name", GOLDEN)
def test_resnet20_has_its_golden_norms(name: str, resnet20: dict[str, torch.Tensor]) -> None:
    norm = name.replace("conv", "bn")
    weight, _ = fold_batch_norm(
        resnet20[f"{name}.weight"],
        None,
        gamma=resnet20[f"{norm}.weight"],
        beta=resnet20[f"{norm}.bias"],
        mean=resnet20[f"{norm}.running_mean"],
        var=resnet20[f"{norm}.running_var"],
        eps=1e-5,
    )
    upper, b_operator, b_patch, mu = GOLDEN[name]
    stride = 2 if mu == 4 else 1
    side = SIZES[weight.shape[0]] * stride
    case = Case(weight=weight, size=(side, side), stride=(stride, stride), padding=(1, 1))
    assert conv_norm_upper(weight, **case.keywords) == pytest.approx(upper, rel=0.01)
    assert row_norm_sum(weight, **case.keywords) == pytest.approx(b_operator, abs=0.0501)
    assert kernel_norm_sum(weight) == pytest.approx(b_patch, abs=0.00501)
    assert windows(*case.geometry) == mu


def test_resnet20_has_its_golden_classifier(resnet20: dict[str, torch.Tensor]) -> None:
    assert matrix_norm_upper(resnet20["linear.weight"]) == pytest.approx(5.985, abs=0.000501)
    assert kernel_norm_sum(resnet20["linear.weight"]) == pytest.approx(43.80, abs=0.00501)


@few
@given(
    side=st.integers(1, 20),
    spike=st.floats(1e-3, 1e3),
    rest=st.floats(0.0, 1.0),
    taps=st.floats(0.0, 1.0),
    seed=st.integers(0, 2**31),
)
def test_no_eigenvalue_is_above_what_trace_and_frobenius_norm_allow(
    side: int, spike: float, rest: float, taps: float, seed: int
) -> None:
    """With a spike above equal ones, and without other taps, nothing is to spare but rounding."""
    left, right = (torch.linalg.qr(kernel(side, side, 1, 1, seed=seed + one)[:, :, 0, 0]).Q for one in (0, 1))
    values = torch.full((side,), rest, dtype=torch.float64)
    values[0] = spike
    weight = taps * kernel(side, side, 3, 3, seed=seed)
    weight[:, :, 1, 1] += left @ values.diag() @ right.T
    gram = gram_of(symbol_of(weight, (9, 8), (1, 1), 1, (1, 1)))
    assert gram.symbol is None
    true = torch.linalg.eigvalsh(gram.at(gram.frequencies.points))[:, 0, -1]
    most = _most(gram)
    assert bool((most >= true).all())
    if taps == 0.0 and spike >= rest:
        assert most.tolist() == pytest.approx(true.tolist(), rel=1e-5)
