"""Dual numbers, random signs and sampled paths against the enumeration of every path."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from gradient_oracles import (
    SMALL,
    Draw,
    SmallNet,
    enumerated,
    every_path,
    linear_net,
    path_weights,
    small_net,
    subject_of,
)

from resnet_audit.graph.backward import Polynomial
from resnet_audit.measure import decomposition
from resnet_audit.measure.dual import dual_moments, times_one_plus_e
from resnet_audit.measure.path_sampling import sample_paths
from resnet_audit.measure.random_signs import incoherent_energies, mean_and_error
from resnet_audit.theory import ensemble

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from resnet_audit.measure import Subject

EXACT = 1e-12
UNITS = ("blocks", "layers")

each_small = pytest.mark.parametrize("net", SMALL.values(), ids=SMALL.keys())
each_unit = pytest.mark.parametrize("unit", UNITS)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def depth_of(net: SmallNet, choice: tuple[bool, ...], unit: str) -> int:
    if unit == "blocks":
        return sum(choice)
    return 1 + sum(path_weights(block, branch=b) for block, b in zip(net.blocks, choice, strict=True))


def energies_of_paths(net: SmallNet, subject: Subject, unit: str) -> list[float]:
    """sum over all paths of a depth of the squared norm of what came along each."""
    found: dict[int, float] = {}
    for choice, part in every_path(net, subject.inputs.values, subject.cotangent):
        depth = depth_of(net, choice, unit)
        found[depth] = found.get(depth, 0.0) + float(part.square().sum())
    return [found.get(depth, 0.0) for depth in range(max(found) + 1)]


# dual numbers -------------------------------------------------------------------------------------------------------


@each_unit
@each_small
def test_dual_numbers_give_the_moments_of_the_projections(net: SmallNet, unit: str) -> None:
    subject = subject_of(net, unit=unit, objective="random")
    parts = enumerated(net, subject.inputs.values, subject.cotangent, unit)
    whole = parts.sum(0)
    products = [float((part * whole).sum()) for part in parts]
    first = math.fsum(k * product for k, product in enumerate(products))
    second = math.fsum(k * (k - 1) * product for k, product in enumerate(products))
    found = dual_moments(subject)
    assert found.total_square == pytest.approx(float(whole.square().sum()), rel=EXACT)
    assert found.first == pytest.approx(first, rel=1e-11)
    assert found.second == pytest.approx(second, rel=1e-11)
    assert math.sqrt(found.residual_square / found.reference_square) <= EXACT


@each_unit
@each_small
def test_fast_gives_the_same_mean_spread_and_gains_as_the_parts(net: SmallNet, unit: str) -> None:
    full = ensemble.analyse(subject_of(net, unit=unit))
    fast = ensemble.analyse(subject_of(net, unit=unit, fast=True))
    assert full.projection_sd is not None
    assert fast.projection_mean == pytest.approx(full.projection_mean, rel=1e-11)
    assert fast.projection_sd == pytest.approx(full.projection_sd, rel=1e-9)
    for one, other in zip(fast.blocks, full.blocks, strict=True):
        assert one.name == other.name
        assert (one.branch_gain, one.skip_gain) == pytest.approx((other.branch_gain, other.skip_gain), rel=1e-12)
    assert fast.predicted == full.predicted
    assert fast.distribution is fast.depth_mean is fast.cancellation is None
    assert fast.identity_residual <= EXACT
    assert [note.code for note in fast.notes] == ["fast"]


def test_the_spread_is_that_of_a_binomial_where_branches_are_scalars() -> None:
    result = ensemble.analyse(subject_of(linear_net([2.0 * torch.eye(4).double()] * 6)))
    assert result.projection_mean == pytest.approx(6 * 2 / 3, rel=EXACT)
    assert result.projection_sd == pytest.approx(math.sqrt(6 * (2 / 3) * (1 / 3)), rel=EXACT)


def test_negative_shares_can_leave_no_spread() -> None:
    """Projections 1 / 0.75 at depth 0 and -0.25 / 0.75 at depth 1: the variance is -1/3 - 1/9."""
    for fast in (False, True):
        net = linear_net([-0.25 * torch.eye(4).double()])
        result = ensemble.analyse(subject_of(net, fast=fast))
        assert result.projection_mean == pytest.approx(-1 / 3, rel=EXACT)
        assert result.projection_sd is None


def test_fast_says_where_there_is_no_gradient() -> None:
    subject = subject_of(SMALL["post"], fast=True)
    subject.cotangent = torch.zeros_like(subject.cotangent)
    result = ensemble.analyse(subject)
    assert [note.code for note in result.notes] == ["no_gradient"]
    assert result.projection_mean is result.projection_sd is None


def test_a_power_of_one_plus_e_has_its_first_three_binomial_coefficients() -> None:
    series = Polynomial(0, torch.ones(1, 2, 3, dtype=torch.float64))
    for power in range(1, 6):
        series = times_one_plus_e(series)
        expected = [math.comb(power, k) for k in range(min(power, 2) + 1)]
        assert series.coefficients[:, 0, 0].tolist() == expected


# random signs -------------------------------------------------------------------------------------------------------


@each_unit
@pytest.mark.parametrize("kind", ["post", "post-project", "pre-pad", "pre-activated"])
def test_random_signs_give_the_energies_of_single_paths_within_five_standard_errors(kind: str, unit: str) -> None:
    net = SMALL[kind]
    subject = subject_of(net, unit=unit, objective="random")
    expected = np.array(energies_of_paths(net, subject, unit))
    found = incoherent_energies(subject, draws=400)
    error = found.std(0, ddof=1) / math.sqrt(400)
    assert found.shape == (400, len(expected))
    assert (np.abs(found.mean(0) - expected) <= 5 * error + EXACT * expected.max()).all()
    assert (error < 0.2 * expected + EXACT * expected.max()).all()


def test_the_mean_without_interference_comes_with_its_error() -> None:
    net = SMALL["pre"]
    subject = subject_of(net, objective="random")
    energies = energies_of_paths(net, subject, "blocks")
    exact = sum(k * energy for k, energy in enumerate(energies)) / sum(energies)
    found = [
        mean_and_error(incoherent_energies(subject_of(net, objective="random", seed=seed), draws=8))
        for seed in range(6)
    ]
    mean, error = mean_and_error(incoherent_energies(subject, draws=300))
    assert error is not None
    assert abs(mean - exact) <= 5 * error
    assert all(several is not None and 0.0 < several < 0.5 for _, several in found)
    assert mean_and_error(np.array([[1.0, 3.0]])) == (0.75, None)


def test_the_error_of_a_ratio_is_the_scatter_of_repeated_estimates() -> None:
    """8000 estimates from 4 draws each of noisy energies: their standard deviation is the reported error."""
    rng = np.random.default_rng(0)
    draws = rng.gamma(100.0, size=(8000, 4, 3)) * np.array([1.0, 2.0, 0.5])
    estimates, errors = zip(*(mean_and_error(one) for one in draws), strict=True)
    typical = math.sqrt(sum(error**2 for error in errors) / len(errors))
    assert typical == pytest.approx(np.std(estimates), rel=0.03)


def test_orthogonal_branches_of_equal_gain_are_binomial_in_incoherent_energy_alone() -> None:
    """Random rotations times a, in many dimensions: single paths have energies a^2k, in no phase with one another."""
    length, width, a = 6, 32, 0.8
    draw = Draw(40)
    rotations = [torch.linalg.qr(draw.normal(width, width)).Q for _ in range(length)]
    net = linear_net([a * rotation for rotation in rotations], seed=41)
    subject = subject_of(net, objective="random", samples=8)
    p = a**2 / (1 + a**2)
    binomial = [math.comb(length, k) * p**k * (1 - p) ** (length - k) for k in range(length + 1)]
    energies = energies_of_paths(net, subject, "blocks")
    assert [energy / sum(energies) for energy in energies] == pytest.approx(binomial, abs=EXACT)
    found = incoherent_energies(subject, draws=64).mean(0)
    assert (found / found.sum()).tolist() == pytest.approx(binomial, abs=0.02)
    result = ensemble.analyse(subject)
    assert result.distribution is not None
    amplitude = [math.comb(length, k) * (a / (1 + a)) ** k / (1 + a) ** (length - k) for k in range(length + 1)]
    assert max(abs(x - y) for x, y in zip(result.distribution.norm, binomial, strict=True)) > 0.02
    assert max(abs(x - y) for x, y in zip(result.distribution.norm, amplitude, strict=True)) > 0.02


def test_coherence_is_the_exact_energy_over_that_of_single_paths() -> None:
    net = SMALL["pre"]
    subject = subject_of(net, objective="random", veit=True)
    result = ensemble.analyse(subject)
    parts = enumerated(net, subject.inputs.values, subject.cotangent, "blocks")
    energies = energies_of_paths(net, subject, "blocks")
    exact = [float(part.square().sum()) / energy for part, energy in zip(parts, energies, strict=True)]
    assert result.incoherent is not None
    assert list(result.incoherent.coherence) == pytest.approx(exact, rel=0.5)
    # One path has nothing to interfere with.
    assert result.incoherent.coherence[0] == pytest.approx(1.0, rel=EXACT)
    assert result.incoherent.coherence[-1] == pytest.approx(1.0, rel=EXACT)
    assert math.fsum(result.incoherent.energy) == pytest.approx(1.0, rel=EXACT)


# sampled paths ------------------------------------------------------------------------------------------------------


def mean_norms(net: SmallNet, subject: Subject) -> list[float]:
    """Mean over all paths of a depth, and over samples, of the norm of what came along."""
    found: dict[int, list[Tensor]] = {}
    for choice, part in every_path(net, subject.inputs.values, subject.cotangent):
        found.setdefault(sum(choice), []).append(part.flatten(1).norm(dim=1))
    return [float(torch.stack(found[k]).mean()) for k in range(len(net.blocks) + 1)]


@pytest.mark.parametrize("kind", ["post", "post-project", "pre", "pre-activated", "bare-relu"])
def test_sampled_paths_have_the_mean_norm_of_all_paths_of_their_depth(kind: str) -> None:
    net = SMALL[kind]
    subject = subject_of(net, objective="random")
    expected = np.array(mean_norms(net, subject))
    found = sample_paths(subject, paths=600)
    assert found.norms.shape == (len(net.blocks) + 1, 600)
    means, errors = found.norms.mean(1), found.relative_errors
    assert (np.abs(means - expected) <= 5 * errors * means + EXACT * expected.max()).all()
    shares = np.array([math.comb(len(net.blocks), k) * norm for k, norm in enumerate(means)])
    weights = np.exp(found.log_weights)
    assert (weights / weights.sum()).tolist() == pytest.approx((shares / shares.sum()).tolist(), rel=EXACT)


def test_every_sampled_path_is_one_of_its_depth() -> None:
    """Each sampled norm is that of some path of exactly its depth, of that sample."""
    net = SMALL["pre"]
    subject = subject_of(net, objective="random", samples=2)
    paths: dict[tuple[int, int], list[float]] = {}
    for choice, part in every_path(net, subject.inputs.values, subject.cotangent):
        for sample, norm in enumerate(part.flatten(1).norm(dim=1).tolist()):
            paths.setdefault((sum(choice), sample), []).append(norm)
    found = sample_paths(subject, paths=300).norms.reshape(len(net.blocks) + 1, 150, 2)
    for (depth, sample), norms in paths.items():
        drawn = found[depth, :, sample]
        nearest = np.abs(drawn[:, None] - np.array(norms)[None]).min(1)
        assert nearest.max() <= EXACT * max(norms)
        # 150 draws of at most 6 paths: all of them are seen.
        assert len({np.abs(np.array(norms) - value).argmin() for value in drawn}) == len(norms)


def test_the_published_statistic_bounds_the_exact_norms_in_proportion() -> None:
    """||c_k|| <= C(L, k) mean ||g_S|| by the triangle inequality: with one sample and all paths drawn often."""
    net = small_net("pre", (4,) * 6, seed=50)
    subject = subject_of(net, objective="random", samples=1, veit=True)
    parts = enumerated(net, subject.inputs.values, subject.cotangent, "blocks")
    found = sample_paths(subject, paths=800)
    weights, errors = np.exp(found.log_weights), found.relative_errors
    norms = np.array([float(part.norm()) for part in parts])
    assert (norms <= weights * (1 + 5 * errors) + EXACT).all()
    result = ensemble.analyse(subject)
    assert result.veit is not None
    assert result.veit.paths == 64
    assert result.veit.mean == pytest.approx(
        math.fsum(k * share for k, share in enumerate(result.veit.distribution)), rel=EXACT
    )
    assert abs(result.veit.mean - float(weights @ np.arange(6) / weights.sum())) <= 5 * result.veit.standard_error


def test_the_error_of_the_published_mean_is_the_scatter_over_seeds() -> None:
    net = SMALL["pre"]
    inputs = subject_of(net, samples=4).inputs
    means, errors = [], []
    for seed in range(24):
        subject = subject_of(net, veit=True, seed=seed)
        subject.inputs = inputs
        found = ensemble.analyse(subject).veit
        assert found is not None
        means.append(found.mean)
        errors.append(found.standard_error)
    # The scatter of the inputs, the same in every run, is part of the error: it is too large rather than too small.
    assert 0.25 * np.mean(errors) < np.std(means, ddof=1) < 1.5 * np.mean(errors)


@each_unit
def test_chunks_of_any_size_sample_the_same_signs_and_paths(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> tuple[np.ndarray, np.ndarray]:
        subject = subject_of(SMALL["post-project"], unit=unit, samples=5)
        return incoherent_energies(subject, draws=3), sample_paths(subject, paths=12).norms

    whole = run()
    monkeypatch.setattr(decomposition, "CHUNK_BYTES", 1)
    for one, other in zip(whole, run(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=EXACT * one.max())


def test_the_same_seed_draws_the_same_and_another_one_others() -> None:
    runs = [ensemble.analyse(subject_of(SMALL["pre"], veit=True, seed=seed)) for seed in (0, 0, 1)]
    assert runs[0] == runs[1]
    for one, other in pairwise(runs[1:]):
        assert one.incoherent != other.incoherent
        assert one.veit != other.veit


def test_without_a_gradient_the_sampled_statistics_are_null() -> None:
    subject = subject_of(SMALL["post"], veit=True)
    subject.cotangent = torch.zeros_like(subject.cotangent)
    result = ensemble.analyse(subject)
    assert result.veit is result.incoherent is None
    assert {note.code for note in result.notes} == {"no_gradient"}


def test_no_blocks_leave_one_path_of_depth_zero() -> None:
    chain = replace(SMALL["post"], skips=False)
    result = ensemble.analyse(subject_of(chain, veit=True))
    assert result.veit is not None
    assert result.veit.distribution == (1.0,)
    assert result.incoherent is not None
    assert result.incoherent.energy == (1.0,)
