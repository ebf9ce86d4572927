"""The projection to an isometry against dense operators, closed forms and the figures of the theory note."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from linear_oracles import Case, dense_circular, kernel, pairs
from torch import Tensor

import resnet_audit
from resnet_audit import load
from resnet_audit.linear import Projected, procrustes
from resnet_audit.results import IsometryNumbers

if TYPE_CHECKING:
    from pathlib import Path

few = settings(max_examples=60, deadline=None)


def project(case: Case, **keywords: object) -> Projected:
    return procrustes(case.weight, case.size, case.stride, case.groups, case.dilation, **keywords)


def phases(case: Case) -> int:
    """How many places modulo the stride the taps of a kernel fall on, counted one by one."""
    rows, columns = (
        {d * a % s for a in range(k)} for k, s, d in zip(case.extent, case.stride, case.dilation, strict=True)
    )
    return len(rows) * len(columns)


def free(case: Case) -> int:
    """The rank of one frequency block of one group."""
    return min(len(case.weight) // case.groups, phases(case) * case.weight.shape[1])


def count(case: Case) -> int:
    return free(case) * case.groups * math.prod(n // s for n, s in zip(case.size, case.stride, strict=True))


def sigma(case: Case, weight: Tensor | None = None) -> Tensor:
    """The singular values of the dense operator, those that geometry forces to be zero left out."""
    chosen = case.weight if weight is None else weight
    dense = dense_circular(Case(**{**vars_of(case), "weight": chosen.double()}))
    return torch.linalg.svdvals(dense)[: count(case)]


def vars_of(case: Case) -> dict[str, object]:
    return {name: getattr(case, name) for name in ("weight", "size", "stride", "padding", "dilation", "groups")}


def one_step(case: Case, target: float) -> Tensor:
    """The dense polar factor, then the nearest kernel by least squares over all kernels, entry by entry."""
    dense = dense_circular(case)
    left, _, right = np.linalg.svd(dense.numpy(), full_matrices=False)
    nearest = target * left[:, : count(case)] @ right[: count(case)]
    columns = []
    for index in range(case.weight.numel()):
        unit = torch.zeros(case.weight.numel(), dtype=torch.float64)
        unit[index] = 1.0
        columns.append(dense_circular(Case(**{**vars_of(case), "weight": unit.reshape(case.weight.shape)})).flatten())
    change, *_ = np.linalg.lstsq(torch.stack(columns, dim=1).numpy(), (nearest - dense.numpy()).ravel(), rcond=None)
    return case.weight + torch.from_numpy(change).reshape(case.weight.shape)


@st.composite
def small_cases(draw: st.DrawFn) -> Case:
    """Circular convolutions of all kinds that a dense operator can hold, some larger than their grid."""
    groups, stride, grid = draw(st.integers(1, 2)), draw(pairs(1, 2)), draw(pairs(1, 3))
    shape = (groups * draw(st.integers(1, 3)), draw(st.integers(1, 2)), *draw(pairs(1, 3)))
    return Case(
        weight=kernel(*shape, seed=draw(st.integers(0, 2**16))),
        size=(grid[0] * stride[0], grid[1] * stride[1]),
        stride=stride,
        dilation=draw(pairs(1, 2)),
        groups=groups,
    )


NAMED = {
    "3x3": Case(weight=kernel(4, 3, 3, 3), size=(6, 5)),
    "3x3 stride 2": Case(weight=kernel(4, 2, 3, 3), size=(6, 8), stride=(2, 2)),
    "more outputs than phases times inputs": Case(weight=kernel(9, 2, 3, 3), size=(4, 4), stride=(2, 2)),
    "1x1": Case(weight=kernel(3, 5, 1, 1), size=(4, 3)),
    "1x1 stride 2": Case(weight=kernel(5, 3, 1, 1), size=(4, 6), stride=(2, 2)),
    "patches": Case(weight=kernel(7, 2, 2, 2), size=(6, 4), stride=(2, 2)),
    "1x5": Case(weight=kernel(3, 2, 1, 5), size=(2, 7)),
    "unequal strides": Case(weight=kernel(5, 2, 3, 3), size=(6, 6), stride=(1, 2)),
    "dilation 2, stride 2": Case(weight=kernel(3, 3, 3, 3), size=(8, 8), stride=(2, 2), dilation=(2, 2)),
    "dilation 3, stride 2": Case(weight=kernel(3, 2, 3, 3), size=(6, 8), stride=(2, 2), dilation=(3, 3)),
    "kernel smaller than its stride": Case(weight=kernel(9, 2, 2, 2), size=(6, 6), stride=(3, 3)),
    "kernel larger than the grid": Case(weight=kernel(2, 3, 5, 5), size=(3, 2)),
    "groups, stride 2": Case(weight=kernel(8, 2, 3, 3), size=(4, 6), stride=(2, 2), groups=2),
    "depthwise": Case(weight=kernel(4, 1, 3, 3), size=(5, 4), groups=4),
}


# one step --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMED)
def test_one_step_is_the_dense_polar_factor_projected_on_kernels(name: str) -> None:
    got = project(NAMED[name], target=0.3, iterations=1)
    torch.testing.assert_close(got.weight, one_step(NAMED[name], 0.3), rtol=0, atol=1e-10)


@few
@given(small_cases())
def test_one_step_is_the_dense_polar_factor_for_any_geometry(case: Case) -> None:
    before = sigma(case)
    assume(before[-1] > 1e-3 * before[0])  # else the nearest isometry is ill-conditioned
    got = project(case, target=1.0, iterations=1)
    torch.testing.assert_close(got.weight, one_step(case, 1.0), rtol=0, atol=1e-9)


def test_blocks_that_lose_digits_in_their_gram_matrix_are_projected_as_well() -> None:
    weight = kernel(4, 2, 3, 3)
    weight[0] = weight[1] + 1e-7 * kernel(2, 3, 3, seed=1)
    case = Case(weight=weight, size=(6, 6), stride=(2, 2))
    assert sigma(case)[-1] < 1e-6 * sigma(case)[0]
    torch.testing.assert_close(project(case, target=1.0, iterations=1).weight, one_step(case, 1.0), rtol=0, atol=1e-8)


def test_many_frequencies_are_projected_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    case = NAMED["3x3 stride 2"]
    whole = project(case, iterations=3)
    monkeypatch.setattr("resnet_audit.linear.frequencies.CHUNK_BYTES", 1)
    torch.testing.assert_close(project(case, iterations=3).weight, whole.weight, rtol=0, atol=1e-14)


# many steps ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMED)
def test_the_figures_are_those_of_the_dense_operator(name: str) -> None:
    case = NAMED[name]
    got = project(case, iterations=5)
    for numbers, values in ((got.before, sigma(case)), (got.after, sigma(case, got.weight))):
        relative = values / got.target
        expected = IsometryNumbers(
            sigma_max=float(values.max()),
            sigma_min=float(values.min()),
            mean_deviation=float((relative - 1).abs().mean()),
            near_target=sum(0.9 <= float(r) <= 1.1 for r in relative) / len(relative),
            gain=float(values.square().sum() / (len(case.weight) * count(case) / free(case) / case.groups)) ** 0.5,
        )
        for field in IsometryNumbers.__slots__:
            assert getattr(numbers, field) == pytest.approx(getattr(expected, field), abs=1e-11)
    change = float((got.weight - case.weight).norm() / case.weight.norm())
    assert got.kernel_change == pytest.approx(change, rel=1e-12)


@few
@given(small_cases())
def test_the_distance_to_the_isometries_never_grows(case: Case) -> None:
    distances = []
    for steps in range(6):
        values = sigma(case, project(case, iterations=steps, target=1.0).weight)
        distances.append(float((values - 1).square().sum()))
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(distances))


@pytest.mark.parametrize("name", ["1x1", "1x1 stride 2", "patches", "kernel smaller than its stride"])
def test_a_kernel_with_one_frequency_is_exact_after_one_step(name: str) -> None:
    case = NAMED[name]
    once, often = (project(case, iterations=steps) for steps in (1, 50))
    values = sigma(case, once.weight)
    torch.testing.assert_close(values, torch.full_like(values, once.target), rtol=1e-14, atol=0)
    assert often.iterations <= 3
    torch.testing.assert_close(often.weight, once.weight, rtol=0, atol=1e-14)


def test_a_1x1_kernel_becomes_its_polar_factor() -> None:
    weight = kernel(64, 128, 1, 1)
    left, _, right = np.linalg.svd(weight[:, :, 0, 0].numpy(), full_matrices=False)
    got = procrustes(weight, (4, 4), target=1.0, iterations=1).weight[:, :, 0, 0]
    torch.testing.assert_close(got, torch.from_numpy(left @ right), rtol=0, atol=1e-13)


def test_more_steps_come_nearer() -> None:
    weight = kernel(8, 4, 3, 3)
    found = [procrustes(weight, (8, 8), (2, 2), iterations=n).after.mean_deviation for n in (0, 1, 10, 100)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 0.2
    assert found[-1] < 0.02


# the target ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "stride", "groups", "expected"),
    [
        ((32, 16, 3, 3), 2, 1, 1.0),
        ((64, 8, 3, 3), 2, 1, math.sqrt(2)),
        ((128, 64, 1, 1), 2, 1, math.sqrt(2)),
        ((64, 128, 1, 1), 1, 1, 1.0),
        ((128, 16, 1, 1), 1, 4, math.sqrt(2)),
        ((24, 1, 3, 3), 1, 24, 1.0),
    ],
)
def test_the_target_by_default_is_the_scale_of_the_theory_note(shape, stride, groups, expected) -> None:
    got = procrustes(kernel(*shape), (4, 4), (stride, stride), groups, iterations=1)
    assert got.target == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("name", ["1x1", "1x1 stride 2", "3x3 stride 2", "groups, stride 2", "dilation 2, stride 2"])
def test_by_default_random_gradients_keep_their_norm_on_average(name: str) -> None:
    case = NAMED[name]
    got = project(case, iterations=200)
    dense = dense_circular(Case(**{**vars_of(case), "weight": got.weight}))
    gradients = torch.randn(len(dense), 40_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    measured = float((dense.T @ gradients).square().sum() / gradients.square().sum())
    assert measured == pytest.approx(1.0, abs=0.02)
    assert got.after.gain**2 == pytest.approx(measured, abs=0.005)


def test_the_target_rms_is_of_all_targets_the_nearest() -> None:
    case = NAMED["3x3 stride 2"]
    values = sigma(case)
    target = project(case, target="rms", iterations=0).target
    assert target == pytest.approx(float(values.square().mean().sqrt()), rel=1e-13)
    energy = float((values**2).sum())
    assert target**2 * count(case) == pytest.approx(energy, rel=1e-12)


@pytest.mark.parametrize("target", [0.0, -1.0, math.inf, math.nan, True, "median", None])
def test_a_target_that_is_no_positive_number_is_refused(target) -> None:
    with pytest.raises(ValueError, match="is not a positive number"):
        procrustes(kernel(4, 4, 3, 3), (4, 4), target=target)


# invariances -----------------------------------------------------------------------------------------------


def orthogonal(n: int) -> Tensor:
    return torch.linalg.qr(kernel(n, n)).Q


def test_a_rotation_of_the_outputs_goes_through() -> None:
    weight, rotation = kernel(6, 3, 3, 3), orthogonal(6)
    rotated = torch.einsum("po,oiab->piab", rotation, weight)
    expected = torch.einsum("po,oiab->piab", rotation, procrustes(weight, (8, 6), (2, 2), iterations=7).weight)
    torch.testing.assert_close(procrustes(rotated, (8, 6), (2, 2), iterations=7).weight, expected, rtol=0, atol=1e-11)


def test_the_adjoint_of_the_projection_is_the_projection_of_the_adjoint() -> None:
    weight = kernel(4, 3, 3, 3)
    adjoint = weight.transpose(0, 1).flip(2, 3).contiguous()
    expected = procrustes(weight, (6, 7), target=1.0, iterations=7).weight.transpose(0, 1).flip(2, 3)
    got = procrustes(adjoint, (6, 7), target=1.0, iterations=7).weight
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("factor", [1e-200, 3.0, 1e200])
def test_the_scale_of_a_kernel_does_not_matter(factor: float) -> None:
    weight = kernel(4, 3, 3, 3)
    expected = procrustes(weight, (6, 8), (2, 2), iterations=5).weight
    got = procrustes(factor * weight, (6, 8), (2, 2), iterations=5)
    torch.testing.assert_close(got.weight, expected, rtol=0, atol=1e-11)
    assert got.before.sigma_max == pytest.approx(
        float(sigma(Case(weight=weight, size=(6, 8), stride=(2, 2)))[0]) * factor
    )


def test_groups_are_projected_each_for_itself() -> None:
    weight = kernel(6, 2, 3, 3)
    parts = [procrustes(part, (4, 4), (2, 2), iterations=4).weight for part in weight.chunk(3)]
    got = procrustes(weight, (4, 4), (2, 2), groups=3, iterations=4).weight
    torch.testing.assert_close(got, torch.cat(parts), rtol=0, atol=1e-12)


def test_an_isometry_stays_where_it_is() -> None:
    weight = torch.zeros(4, 4, 3, 3, dtype=torch.float64)
    weight[:, :, 2, 0] = orthogonal(4)
    got = procrustes(weight, (5, 5), iterations=10)
    assert got.iterations == 1
    torch.testing.assert_close(got.weight, weight, rtol=0, atol=1e-14)
    assert got.kernel_change == pytest.approx(0.0, abs=1e-14)


def test_a_kernel_that_wraps_keeps_what_its_operator_does_not_see() -> None:
    weight = kernel(2, 2, 3, 1)
    got = procrustes(weight, (2, 1), iterations=9).weight
    torch.testing.assert_close((got[:, :, 0] - got[:, :, 2]), (weight[:, :, 0] - weight[:, :, 2]), rtol=0, atol=1e-13)


# what it is given ------------------------------------------------------------------------------------------


def test_no_step_gives_the_weight_back() -> None:
    weight = kernel(4, 3, 3, 3).to(torch.bfloat16)
    got = procrustes(weight, (4, 4), iterations=0)
    assert torch.equal(got.weight, weight)
    assert got.weight.data_ptr() != weight.data_ptr()
    assert (got.iterations, got.kernel_change, got.before) == (0, 0.0, got.after)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_dtype_stays_and_the_figures_are_those_of_the_rounded_kernel(dtype: torch.dtype) -> None:
    weight = kernel(4, 2, 3, 3).to(dtype)
    case = Case(weight=weight.double(), size=(6, 6), stride=(2, 2))
    got = procrustes(weight, (6, 6), (2, 2), iterations=5)
    assert got.weight.dtype == dtype
    assert got.after.sigma_max == pytest.approx(float(sigma(case, got.weight)[0]), rel=1e-12)


def test_the_weight_of_a_layer_in_training_is_neither_changed_nor_tracked() -> None:
    layer = torch.nn.Conv2d(3, 4, 3, bias=False)
    before = layer.weight.detach().clone()
    got = procrustes(layer.weight, (4, 4), iterations=2)
    assert not got.weight.requires_grad
    assert torch.equal(layer.weight, before)
    with torch.inference_mode():
        assert torch.equal(procrustes(layer.weight, (4, 4), iterations=2).weight, got.weight)


def test_a_kernel_of_zeros_becomes_an_isometry_and_says_that_it_had_a_choice() -> None:
    got = procrustes(torch.zeros(4, 2, 3, 3), (6, 6), (2, 2))
    assert got.deficient == 9 * 4
    assert got.kernel_change is None
    assert got.after.mean_deviation < 1e-6
    with pytest.raises(ValueError, match=r"root mean square .* is not a positive number"):
        procrustes(torch.zeros(4, 2, 3, 3), (6, 6), (2, 2), target="rms")


def test_frequencies_without_full_rank_are_counted_and_projected() -> None:
    weight = kernel(4, 2, 3, 3)
    weight[3] = weight[2]
    got = procrustes(weight, (8, 8), (2, 2), iterations=60)
    assert got.deficient == 16
    assert got.before.sigma_min < 1e-14
    assert got.after.sigma_min > 0.5
    assert procrustes(kernel(4, 2, 3, 3), (8, 8), (2, 2), iterations=1).deficient == 0


@pytest.mark.parametrize(
    ("weight", "keywords", "message"),
    [
        (kernel(4, 3, 3, 3), {"size": (5, 4), "stride": (2, 2)}, "does not divide the grid"),
        (kernel(4, 3, 3), {"size": (4, 4)}, "has a weight"),
        (kernel(4, 3, 3, 3) * math.nan, {"size": (4, 4)}, "NaN or infinite"),
        (torch.ones(4, 3, 3, 3, dtype=torch.int64), {"size": (4, 4)}, "cannot hold a projection"),
        (kernel(4, 3, 3, 3), {"size": (4, 4), "iterations": -1}, "cannot be taken"),
        (kernel(4, 3, 3, 3), {"size": (4, 4), "groups": 3}, "cannot be split"),
        (kernel(4, 3, 1, 1).half(), {"size": (4, 4), "target": 1e9}, "too large for a weight of torch.float16"),
    ],
)
def test_what_has_no_projection_is_refused(weight: Tensor, keywords: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        procrustes(weight, **keywords)


# real layers -----------------------------------------------------------------------------------------------

GOLDEN = {
    ("layer2.0.conv1", 32, 0): (3.200, 0.0110, 0.603, 0.079, 0.0),
    ("layer2.0.conv1", 32, 1): (1.446, 0.308, 0.244, 0.211, 0.518),
    ("layer2.0.conv1", 32, 10): (1.120, 0.857, 0.044, 0.939, 0.768),
    ("layer2.0.conv1", 32, 30): (1.057, 0.948, 0.016, 1.000, 0.814),
    ("layer2.0.conv1", 32, 100): (1.020, 0.983, 0.0045, 1.000, 0.836),
    ("layer3.0.conv1", 16, 0): (3.498, 0.0117, 0.588, 0.085, 0.0),
    ("layer3.0.conv1", 16, 1): (1.398, 0.364, 0.227, 0.241, 0.514),
    ("layer3.0.conv1", 16, 10): (1.124, 0.850, 0.046, 0.924, 0.734),
    ("layer3.0.conv1", 16, 30): (1.062, 0.944, 0.016, 1.000, 0.780),
    ("layer3.0.conv1", 16, 100): (1.018, 0.984, 0.0045, 1.000, 0.802),
}
"""Theory note `spectrum`, 5: sigma_max, sigma_min, mean |sigma - 1|, share in [0.9, 1.1], relative change."""


@pytest.mark.parametrize(("name", "size", "steps"), GOLDEN)
def test_the_transitions_of_a_real_network_give_the_figures_of_the_theory_note(
    name: str, size: int, steps: int, checkpoints: Path
) -> None:
    weight = load(str(checkpoints / "resnet56.th")).tensors[f"{name}.weight"]
    got = procrustes(weight, (size, size), (2, 2), iterations=steps)
    after = got.after
    figures = (after.sigma_max, after.sigma_min, after.mean_deviation, after.near_target, got.kernel_change)
    assert got.target == 1.0
    assert figures == pytest.approx(GOLDEN[name, size, steps], abs=6e-4)


def test_the_public_name_is_this_function() -> None:
    assert resnet_audit.procrustes is procrustes
