"""The depth distribution of the gradient against the enumeration of every path, and against autograd.

Where the property tests of theory note `gradient-ensemble`, section D, are, by the beginnings of their names;
* in test_theory_gradient.py, ** in test_theory_ensemble_torch.py, + in test_theory_path_prediction.py,
++ in test_theory_spin_glass.py, # in test_theory_path_statistics.py:

 1  parts sum to the gradient         test_parts_of_a_trained_network_sum_to_its_gradient,
                                      ** test_parts_sum_to_the_gradient_through_code_of_the_user
 2  enumeration of all paths          test_every_part_is_the_sum_over_all_paths_of_its_depth
 3  zero branches                     test_zero_branches_leave_all_shares_at_depth_zero,
                                      * test_zero_branches_of_a
 4  shared linear and scalar branch   test_a_shared_linear_branch_gives_binomial_coefficients_times_its_powers,
                                      test_a_scalar_branch_has_binomial_norm_shares,
                                      # test_orthogonal_branches_of_equal_gain_are_binomial_in_incoherent_energy_alone
 5  chain                             test_a_chain_has_one_depth_which_in_layers_is_their_number
 6  invariances                       test_positive_rescaling_inside_branches_changes_no_share,
                                      test_scaling_the_cotangent_changes_no_share,
                                      test_scaling_the_logits_changes_shares_of_ce_alone,
                                      test_parts_are_affine_in_the_scale_of_one_branch_with_fixed_masks
 7  evaluation at z by autograd       test_evaluation_at_z_is_the_backward_with_branches_scaled_by_z,
                                      ** test_resnet20_at_z_is_the_backward_with_branches_scaled_by_hooks
 8  dual numbers, DFT                 # test_dual_numbers_give_the_moments_of_the_projections,
                                      ** test_shares_of_a_trained_network_are_those_of_a_fourier_transform_by_hooks
 9  telescoping, nesting              * test_ratios_of_a_trained_network_multiply_to_the_total,
                                      * test_ratio_lies_below_the_largest_singular_value_which_lies_below_upper,
                                      * test_small_branches_certify_a_positive_lower_end_that_holds
10  independence of samples           test_moments_of_a_batch_are_the_sums_of_those_of_its_samples,
                                      test_the_order_of_samples_changes_no_share
11  finite difference                 test_finite_difference_of_the_objective_is_the_product_with_the_summed_parts
12  layers and blocks                 test_layers_are_twice_the_blocks_and_the_head_where_shortcuts_have_no_weights,
                                      test_a_projection_adds_a_layer_to_the_paths_through_it
13  closed forms                      ++ test_, + test_the_law_is_the_convolution_of_its_factors
14  adjoint of the padded shortcut    test_the_subsampling_and_padding_shortcut_is_passed_by_its_adjoint
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from gradient_oracles import (
    SMALL,
    Draw,
    SmallBlock,
    SmallNet,
    cifar_forward,
    cifar_weights,
    enumerated,
    every_path,
    gradient_at_start,
    graph_of,
    linear_net,
    small_net,
    subject_of,
)

from resnet_audit.checkpoint import load
from resnet_audit.errors import AuditError, UsageError
from resnet_audit.graph import discover
from resnet_audit.graph.backward import propagate, times_z
from resnet_audit.measure import Subject, decomposition
from resnet_audit.measure.decomposition import counted_groups, decompose
from resnet_audit.measure.inputs import Inputs
from resnet_audit.measure.shares import quantile
from resnet_audit.settings import Settings
from resnet_audit.theory import ensemble, gradient

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from resnet_audit.graph.backward import Edge, Mark
    from resnet_audit.results import Distribution, EnsembleResult

EXACT = 1e-12
UNITS = ("blocks", "layers")
SHARES = ("norm", "energy", "projection")

each_small = pytest.mark.parametrize("net", SMALL.values(), ids=SMALL.keys())
each_unit = pytest.mark.parametrize("unit", UNITS)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_property_tests_that_are_named_above_are_there() -> None:
    introduction, table = (__doc__ or "").split("statistics.py:\n")
    files = dict(re.findall(r"([*+#]+) in\s+(\w+\.py)", f"{introduction}statistics.py"))
    assert [int(number) for number in re.findall(r"^ ?(\d+)  ", table, re.MULTILINE)] == list(range(1, 15))
    named = re.findall(r"(?:([*+#]+) )?(test_\w*)", table)
    assert {mark for mark, _ in named} == {"", *files}
    for mark, name in named:
        file = Path(__file__).parent / files.get(mark, Path(__file__).name)
        assert f"\ndef {name}" in file.read_text(encoding="utf-8"), name


def counting(subject: Subject) -> dict[Edge, Mark]:
    return times_z(edge for group in counted_groups(subject) for edge in group)


def parts_of(subject: Subject) -> Tensor:
    """The coefficients c_k, k = 0, 1, ..., of the package, each (N, ...)."""
    seed = (subject.graph.output, subject.cotangent)
    found = propagate(subject.folded, subject.recording.saved, seed, stop=subject.start, marks=counting(subject))
    return torch.cat([found.coefficients.new_zeros((found.low, *found.coefficients.shape[1:])), found.coefficients])


def shares_of(parts: Tensor) -> dict[str, list[float]]:
    """Shares of the parts c_k, written down once more from their definitions."""
    whole = parts.sum(0)
    norms = [math.sqrt(float(part.square().sum())) for part in parts]
    squares = [norm**2 for norm in norms]
    return {
        "norm": [norm / sum(norms) for norm in norms],
        "energy": [square / sum(squares) for square in squares],
        "projection": [float((part * whole).sum() / whole.square().sum()) for part in parts],
    }


def weighted(depths: range, shares: list[float]) -> float:
    return math.fsum(depth * share for depth, share in zip(depths, shares, strict=True))


def distribution(result: EnsembleResult) -> Distribution:
    assert result.distribution is not None
    return result.distribution


def equal_shares(shares: list[float]) -> dict[str, list[float]]:
    return dict.fromkeys(SHARES, shares)


def assert_same_shares(found: Distribution, expected: dict[str, list[float]], tolerance: float = EXACT) -> None:
    for name in SHARES:
        assert list(getattr(found, name)) == pytest.approx(expected[name], abs=tolerance), name


def assert_same_distribution(one: EnsembleResult, other: EnsembleResult, tolerance: float = EXACT) -> None:
    expected = distribution(other)
    assert_same_shares(distribution(one), {name: list(getattr(expected, name)) for name in SHARES}, tolerance)


def near(tensor: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(tensor, expected, rtol=0.0, atol=EXACT * float(expected.abs().max()))


# every path of small networks ---------------------------------------------------------------------------------------


@each_unit
@each_small
def test_every_part_is_the_sum_over_all_paths_of_its_depth(net: SmallNet, unit: str) -> None:
    subject = subject_of(net, unit=unit, objective="random")
    near(parts_of(subject), enumerated(net, subject.inputs.values, subject.cotangent, unit))


@each_unit
@each_small
def test_shares_and_statistics_are_those_of_the_enumerated_paths(net: SmallNet, unit: str) -> None:
    subject = subject_of(net, unit=unit, objective="ce")
    result = ensemble.analyse(subject)
    parts = enumerated(net, subject.inputs.values, subject.cotangent, unit)
    expected = shares_of(parts)
    assert_same_shares(distribution(result), expected)
    depths = range(len(parts))
    cumulated = np.cumsum(expected["norm"])
    assert result.depth_mean == pytest.approx(weighted(depths, expected["norm"]), rel=EXACT)
    assert result.projection_mean == pytest.approx(weighted(depths, expected["projection"]), rel=EXACT)
    assert result.depth_mode == max(depths, key=expected["norm"].__getitem__)
    assert result.depth_p05 == min(depth for depth in depths if cumulated[depth] >= 0.05)
    assert result.depth_p95 == min(depth for depth in depths if cumulated[depth] >= 0.95)
    norms = sum(float(part.norm()) for part in parts)
    assert result.cancellation == pytest.approx(float(parts.sum(0).norm()) / norms, rel=EXACT)


@each_small
def test_evaluation_at_z_is_the_backward_with_branches_scaled_by_z(net: SmallNet) -> None:
    subject = subject_of(net, objective="random")
    parts = parts_of(subject)
    for z in (0.0, 0.5, -1.0, 1.0, 2.0):
        evaluated = sum(z**depth * part for depth, part in enumerate(parts))
        scaled = gradient_at_start(net, subject.inputs.values, subject.cotangent, [(z, 1.0)] * len(net.blocks))
        near(evaluated, scaled)


@each_small
def test_finite_difference_of_the_objective_is_the_product_with_the_summed_parts(net: SmallNet) -> None:
    subject = subject_of(net, objective="random")
    start = net.enter(subject.inputs.values)
    direction = Draw(20).normal(*start.shape)
    step = 1e-6

    def objective(at: Tensor) -> float:
        return float((net.leave(net.body(at)) * subject.cotangent).sum())

    difference = (objective(start + step * direction) - objective(start - step * direction)) / (2 * step)
    assert float((parts_of(subject).sum(0) * direction).sum()) == pytest.approx(difference, rel=1e-6)


@pytest.mark.parametrize("kind", ["post-pad", "pre-pad"])
def test_the_subsampling_and_padding_shortcut_is_passed_by_its_adjoint(kind: str) -> None:
    """<S x, y> = <x, S^T y> with S written out here and S^T the share of the package that took no branch."""
    net = SMALL[kind]
    index = next(i for i, block in enumerate(net.blocks) if block.stride == 2)
    bare = replace(net, order="linear", blocks=(replace(net.blocks[index], norms=()),), head=net.head[:, :8])
    bare = replace(bare, stem=Draw(0).kernel(bare.blocks[0].convs[0].shape[1], 2))
    subject = subject_of(bare)
    start = bare.enter(subject.inputs.values)
    x = Draw(21).normal(*start.shape)
    y = Draw(22).normal(*start.shape[:1], *subject.shapes[subject.blocks[0].output])
    padded = torch.zeros_like(y)
    half = (y.shape[1] - x.shape[1]) // 2
    padded[:, half : half + x.shape[1]] = x[:, :, ::2, ::2]
    seed = (subject.blocks[0].output, y)
    back = propagate(subject.folded, subject.recording.saved, seed, stop=subject.start, marks=counting(subject))
    assert float((back.coefficients[0] * x).sum()) == pytest.approx(float((padded * y).sum()), rel=EXACT)
    through = bare.branch(bare.blocks[0], x)
    assert float((back.coefficients[1] * x).sum()) == pytest.approx(float((through * y).sum()), rel=EXACT)


# limits -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["post", "post-pad", "pre", "pre-pad", "pre-project"])
def test_zero_branches_leave_all_shares_at_depth_zero(kind: str) -> None:
    net = SMALL[kind]
    blocks = tuple(
        replace(block, convs=tuple(torch.zeros_like(kernel) for kernel in block.convs), norms=())
        for block in net.blocks
    )
    result = ensemble.analyse(subject_of(replace(net, blocks=blocks), objective="random"))
    expected = [1.0] + [0.0] * len(blocks)
    assert_same_shares(distribution(result), equal_shares(expected), 0.0)
    assert (result.depth_mean, result.depth_mode, result.depth_p05, result.depth_p95) == (0.0, 0, 0, 0)
    assert result.cancellation == pytest.approx(1.0, rel=EXACT)
    assert all(row.branch_gain == 0.0 for row in result.blocks)


def test_a_shared_linear_branch_gives_binomial_coefficients_times_its_powers() -> None:
    length, draw = 5, Draw(23)
    matrix = draw.normal(4, 4, scale=0.5)
    net = linear_net([matrix] * length, seed=24)
    subject = subject_of(net)
    after = gradient_at_start(replace(net, blocks=()), subject.inputs.values, subject.cotangent)
    powers = [torch.einsum("ij,nihw->njhw", torch.linalg.matrix_power(matrix, k), after) for k in range(length + 1)]
    near(parts_of(subject), torch.stack([math.comb(length, k) * power for k, power in enumerate(powers)]))


@pytest.mark.parametrize("factor", [0.25, 1.0, 3.0])
def test_a_scalar_branch_has_binomial_norm_shares(factor: float) -> None:
    length = 7
    p = factor / (1 + factor)
    result = ensemble.analyse(subject_of(linear_net([factor * torch.eye(4).double()] * length)))
    binomial = [math.comb(length, k) * p**k * (1 - p) ** (length - k) for k in range(length + 1)]
    found = distribution(result)
    assert list(found.norm) == pytest.approx(binomial, abs=EXACT)
    assert list(found.projection) == pytest.approx(binomial, abs=EXACT)
    assert result.depth_mean == pytest.approx(length * p, rel=EXACT)
    assert result.cancellation == pytest.approx(1.0, rel=EXACT)


def test_commuting_scalar_branches_have_a_poisson_binomial_law() -> None:
    factors = (0.1, 2.0, 0.7, 1.3)
    result = ensemble.analyse(subject_of(linear_net([factor * torch.eye(4).double() for factor in factors])))
    law = np.ones(1)
    for factor in factors:
        law = np.convolve(law, [1 / (1 + factor), factor / (1 + factor)])
    assert list(distribution(result).norm) == pytest.approx(law.tolist(), abs=EXACT)
    assert result.depth_mean == pytest.approx(sum(factor / (1 + factor) for factor in factors), rel=EXACT)


def test_a_branch_against_the_shortcut_has_negative_projections_that_sum_to_one() -> None:
    result = ensemble.analyse(subject_of(linear_net([-0.25 * torch.eye(4).double()])))
    found = distribution(result)
    assert list(found.projection) == pytest.approx([1 / 0.75, -0.25 / 0.75], rel=EXACT)
    assert list(found.norm) == pytest.approx([0.8, 0.2], rel=EXACT)
    assert result.cancellation == pytest.approx(0.75 / 1.25, rel=EXACT)


@pytest.mark.parametrize("kind", ["post", "post-pad"])
def test_a_chain_has_one_depth_which_in_layers_is_their_number(kind: str) -> None:
    chain = replace(SMALL[kind], skips=False)
    in_blocks, in_layers = (ensemble.analyse(subject_of(chain, unit=unit)) for unit in UNITS)
    assert_same_shares(distribution(in_blocks), equal_shares([1.0]))
    layers = 1 + sum(len(block.convs) for block in chain.blocks) + 1
    only_last = [0.0] * layers + [1.0]
    assert_same_shares(distribution(in_layers), equal_shares(only_last))
    assert (in_layers.depth_mean, in_layers.depth_mode, in_layers.depth_p05) == (layers, layers, layers)
    assert in_blocks.blocks == ()
    assert in_layers.identity_residual <= EXACT


def test_layers_are_twice_the_blocks_and_the_head_where_shortcuts_have_no_weights() -> None:
    """Counted from the first block's input the stem is not passed: 2k + 1, not the 2k + 2 that count it too."""
    for kind in ("post", "post-pad", "pre", "pre-pad"):
        in_blocks, in_layers = (ensemble.analyse(subject_of(SMALL[kind], unit=unit)) for unit in UNITS)
        for name in SHARES:
            shares = getattr(distribution(in_layers), name)
            assert list(shares[1::2]) == pytest.approx(list(getattr(distribution(in_blocks), name)), abs=EXACT)
            assert set(shares[0::2]) == {0.0}
        assert in_blocks.depth_mean is not None
        assert in_layers.depth_mean == pytest.approx(2 * in_blocks.depth_mean + 1, rel=EXACT)


def test_a_projection_adds_a_layer_to_the_paths_through_it() -> None:
    """One projection among three blocks: k branches give 2k + 1 layers through its branch, 2k + 2 through itself."""
    result = ensemble.analyse(subject_of(SMALL["post-project"], unit="layers"))
    shares = distribution(result).energy
    assert len(shares) == 1 + 2 * 3 + 1
    assert [depth for depth, share in enumerate(shares) if share > 0] == [2, 3, 4, 5, 6, 7]
    assert set(shares[:2]) == {0.0}


# invariances --------------------------------------------------------------------------------------------------------


@each_unit
@pytest.mark.parametrize("kind", ["post-pad", "pre-project"])
def test_positive_rescaling_inside_branches_changes_no_share(kind: str, unit: str) -> None:
    net = SMALL[kind]
    factors = Draw(25).normal(64).abs() + 0.1

    def rescaled(block: SmallBlock) -> SmallBlock:
        """The norm before the inner ReLU times c, by channel, and the columns of the next convolution divided by c."""
        place = 0 if net.order == "post" else 1
        channels = block.convs[0].shape[0]
        c = factors[:channels]
        norm = block.norms[place]
        norms = list(block.norms)
        norms[place] = replace(norm, gamma=c * norm.gamma, beta=c * norm.beta)
        return replace(block, norms=tuple(norms), convs=(block.convs[0], block.convs[1] / c[:, None, None]))

    other = replace(net, blocks=tuple(rescaled(block) for block in net.blocks))
    one, two = (ensemble.analyse(subject_of(each, unit=unit, objective="ce")) for each in (net, other))
    assert_same_distribution(one, two)
    for row, same in zip(
        gradient.analyse(subject_of(net)).blocks, gradient.analyse(subject_of(other)).blocks, strict=True
    ):
        assert row.ratio == pytest.approx(same.ratio, rel=EXACT)


@each_small
def test_scaling_the_cotangent_changes_no_share(net: SmallNet) -> None:
    plain, scaled = (subject_of(net, objective="random") for _ in range(2))
    scaled.cotangent = -1e3 * plain.cotangent
    one, two = ensemble.analyse(plain), ensemble.analyse(scaled)
    assert_same_distribution(one, two)
    assert one.cancellation == pytest.approx(two.cancellation, rel=EXACT)


def test_scaling_the_logits_changes_shares_of_ce_alone() -> None:
    """Three times the head: the logit's cotangent is three times as large, that of the cross-entropy another one."""
    net = SMALL["post"]
    larger = replace(net, head=3.0 * net.head)
    logit, other = (ensemble.analyse(subject_of(each)) for each in (net, larger))
    assert_same_distribution(logit, other)
    ratios, scaled = ([row.ratio for row in gradient.analyse(subject_of(each)).blocks] for each in (net, larger))
    assert scaled == pytest.approx(ratios, rel=EXACT)
    ce, moved = (ensemble.analyse(subject_of(each, objective="ce")) for each in (net, larger))
    assert abs(distribution(ce).norm[1] - distribution(moved).norm[1]) > 1e-4


def test_parts_are_affine_in_the_scale_of_one_branch_with_fixed_masks() -> None:
    """With the backward of block 1 alone scaled by t, c_k(t) = c_k(0) + t (c_k(1) - c_k(0))."""
    net = SMALL["post"]
    subject = subject_of(net, objective="random")
    images, cotangent = subject.inputs.values, subject.cotangent
    through, around = (torch.zeros_like(part) for part in (parts_of(subject), parts_of(subject)))
    for choice, part in every_path(net, images, cotangent):
        (through if choice[1] else around)[sum(choice)] += part
    near(parts_of(subject), around + through)
    for t in (0.0, 2.0):
        gates = [(1.0, 1.0), (t, 1.0), (1.0, 1.0)]
        near((around + t * through).sum(0), gradient_at_start(net, images, cotangent, gates))


@each_unit
@pytest.mark.parametrize("kind", ["post-project", "pre-activated"])
def test_the_order_of_samples_changes_no_share(kind: str, unit: str) -> None:
    one, other = (subject_of(SMALL[kind], unit=unit, samples=6) for _ in range(2))
    other.inputs = Inputs(kind="gaussian", values=one.inputs.values.roll(2, 0))
    assert_same_distribution(ensemble.analyse(one), ensemble.analyse(other))


@each_unit
@pytest.mark.parametrize("kind", ["post-project", "pre-pad"])
def test_moments_of_a_batch_are_the_sums_of_those_of_its_samples(kind: str, unit: str) -> None:
    whole = subject_of(SMALL[kind], unit=unit, samples=4)
    found = decompose(whole)
    squares, products, total = np.zeros_like(found.squares), np.zeros_like(found.products), 0.0
    for image in whole.inputs.values:
        alone = subject_of(SMALL[kind], unit=unit)
        alone.inputs = Inputs(kind="gaussian", values=image[None])
        one = decompose(alone)
        squares, products, total = squares + one.squares, products + one.products, total + one.total_square
    assert found.squares.tolist() == pytest.approx(squares.tolist(), rel=EXACT)
    assert found.products.tolist() == pytest.approx(products.tolist(), rel=EXACT, abs=EXACT * total)
    assert found.total_square == pytest.approx(total, rel=EXACT)


@each_unit
@pytest.mark.parametrize("size", [1, 20_000])
def test_chunks_of_any_size_give_the_same_shares(unit: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    net = SMALL["post-project"]
    done: list[tuple[int, int]] = []

    def subject() -> Subject:
        settings = Settings(dtype="float64", samples=7, inputs="gaussian", threads=1, unit=unit)
        return Subject(graph_of(net), settings, lambda _, rows, of: done.append((rows, of)))

    whole = ensemble.analyse(subject())
    assert [rows for rows, _ in done] == [7]
    done.clear()
    monkeypatch.setattr(decomposition, "CHUNK_BYTES", size)
    split = ensemble.analyse(subject())
    assert len(done) > 1
    assert done[-1] == (7, 7)
    assert all(before < after for (before, _), (after, _) in pairwise(done))
    assert_same_distribution(whole, split)
    assert split.identity_residual <= EXACT


# truncation ---------------------------------------------------------------------------------------------------------


@each_unit
@pytest.mark.parametrize("kind", ["post-project", "pre-pad", "bare-relu"])
def test_truncation_keeps_the_parts_and_measures_what_is_missing(kind: str, unit: str) -> None:
    subject = subject_of(SMALL[kind], unit=unit, objective="random")
    parts = parts_of(subject)
    total = float(parts.sum(0).norm())
    for limit in range(len(parts) + 2):
        found = decompose(subject, limit)
        kept = parts[: limit + 1].square().flatten(1).sum(1)
        assert found.squares[: limit + 1].tolist() == pytest.approx(kept.tolist(), rel=EXACT, abs=EXACT)
        result = ensemble.analyse(subject_of(SMALL[kind], unit=unit, objective="random", max_depth=limit))
        missing = float(parts[limit + 1 :].sum(0).norm()) / total
        assert result.missing_mass == pytest.approx(missing, rel=1e-10, abs=EXACT)
        assert result.identity_residual <= EXACT
        shares = shares_of(parts)["projection"][: limit + 1]
        if result.distribution is not None:
            assert list(result.distribution.projection) == pytest.approx(shares, abs=EXACT)
            assert math.fsum(result.distribution.norm) == pytest.approx(1.0, rel=EXACT)
        assert (result.projection_mean is None) == (limit + 1 < len(parts))
        assert ("truncated" in [note.code for note in result.notes]) == (limit + 1 < len(parts))


def test_a_limit_below_every_path_leaves_no_shares_and_all_mass_missing() -> None:
    """Behind the first block's input every path passes the head: no path of depth 0 in layers."""
    result = ensemble.analyse(subject_of(SMALL["post"], unit="layers", max_depth=0))
    assert result.distribution is None
    assert result.missing_mass == pytest.approx(1.0, rel=EXACT)
    assert "no_gradient" in [note.code for note in result.notes]


def test_truncation_of_resnet56_is_certified_by_its_missing_mass(checkpoints: Path) -> None:
    whole, cut = (real_subject(checkpoints, "resnet56", samples=1, max_depth=depth) for depth in (None, 8))
    full, part = ensemble.analyse(whole), ensemble.analyse(cut)
    assert full.missing_mass is None
    assert part.missing_mass is not None
    assert 0.01 < part.missing_mass < 0.5
    assert part.identity_residual <= 1e-5
    shares = [share / math.fsum(distribution(full).norm[:9]) for share in distribution(full).norm[:9]]
    assert list(distribution(part).norm) == pytest.approx(shares, rel=1e-6)


@pytest.mark.parametrize("settings", [{"fast": True, "max_depth": 3}, {"max_depth": -1}])
def test_a_depth_that_cuts_nothing_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="--max-depth"):
        ensemble.analyse(subject_of(SMALL["post"], **settings))


# statistics of a distribution ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shares", "p05", "p95"),
    [
        ((1.0,), 0, 0),
        ((0.05, 0.9, 0.05), 0, 1),
        ((0.049, 0.902, 0.049), 1, 1),
        ((0.04, 0.02, 0.88, 0.02, 0.04), 1, 3),
        ((0.0, 0.0, 1.0), 2, 2),
        (tuple([0.1] * 10), 0, 9),
        (tuple([0.05] * 20), 0, 18),
    ],
)
def test_quantiles_are_the_first_depths_that_reach_their_level(shares: tuple[float, ...], p05: int, p95: int) -> None:
    assert quantile(shares, 0.05) == p05
    assert quantile(shares, 0.95) == p95


def test_mode_and_means_of_a_distribution_made_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms 1, 4, 2, 1 and projections 1/8, 3/2, -1/2, -1/8 of the square 8."""
    moments = decomposition.Moments(
        squares=np.array([1.0, 16.0, 4.0, 1.0]),
        products=np.array([1.0, 12.0, -4.0, -1.0]),
        total_square=8.0,
        residual_square=2.0,
        reference_square=50.0,
    )
    monkeypatch.setattr(ensemble, "decompose", lambda *_: moments)
    result = ensemble.analyse(subject_of(SMALL["post"]))
    assert_same_shares(
        distribution(result),
        {
            "norm": [1 / 8, 1 / 2, 1 / 4, 1 / 8],
            "energy": [1 / 22, 16 / 22, 4 / 22, 1 / 22],
            "projection": [1 / 8, 3 / 2, -1 / 2, -1 / 8],
        },
    )
    assert (result.depth_mode, result.depth_p05, result.depth_p95) == (1, 0, 3)
    assert result.depth_mean == pytest.approx(11 / 8, rel=EXACT)
    assert result.projection_mean == pytest.approx(1 / 8, rel=EXACT)
    assert result.cancellation == pytest.approx(math.sqrt(8) / 8, rel=EXACT)
    assert result.identity_residual == pytest.approx(0.2, rel=EXACT)


def test_a_gradient_of_zero_has_no_distribution_and_says_so() -> None:
    subject = subject_of(SMALL["post"])
    subject.cotangent = torch.zeros_like(subject.cotangent)
    result = ensemble.analyse(subject)
    assert [note.code for note in result.notes] == ["no_gradient"]
    assert result.distribution is result.depth_mean is result.depth_mode is result.cancellation is None
    assert all(row.branch_gain is row.skip_gain is None for row in result.blocks)


@pytest.mark.parametrize(("scale", "dtype"), [(1e200, "float64"), (1e25, "float32")])
def test_a_gradient_beyond_the_range_of_floats_is_refused_or_null(scale: float, dtype: str) -> None:
    """Finite weights whose gradient overflows: no NaN in a result, and no claim that the gradient is zero."""
    draw = Draw(13)
    wide = SmallBlock(convs=(draw.kernel(4, 4, gain=scale), draw.kernel(4, 4, gain=scale)))
    try:
        result = ensemble.analyse(subject_of(replace(SMALL["post"], blocks=(wide,)), dtype=dtype))
    except AuditError:
        return
    assert result.distribution is None or all(map(math.isfinite, result.distribution.norm))
    assert all(row.branch_gain is None or math.isfinite(row.branch_gain) for row in result.blocks)
    assert "no_gradient" not in [note.code for note in result.notes]


def test_gains_of_blocks_are_those_that_gradient_reports() -> None:
    for kind in ("post-project", "pre-activated"):
        rows = ensemble.analyse(subject_of(SMALL[kind])).blocks
        others = [row for row in gradient.analyse(subject_of(SMALL[kind])).blocks if row.kind == "block"]
        assert [(row.name, row.branch_gain, row.skip_gain) for row in rows] == [
            (row.name, pytest.approx(row.branch_gain, rel=EXACT), pytest.approx(row.skip_gain, rel=EXACT))
            for row in others
        ]


# the real checkpoints -----------------------------------------------------------------------------------------------

REAL = ("resnet20", "resnet32", "resnet44", "resnet56")


def real_subject(folder: Path, name: str, **settings: object) -> Subject:
    chosen = Settings(**{"threads": 1, **settings})
    return Subject(discover(load(str(folder / f"{name}.th")), chosen), chosen)


@pytest.mark.parametrize(("dtype", "limit"), [("float32", 1e-5), ("float64", EXACT)])
@pytest.mark.parametrize("name", REAL)
def test_parts_of_a_trained_network_sum_to_its_gradient(name: str, dtype: str, limit: float, checkpoints: Path) -> None:
    subject = real_subject(checkpoints, name, dtype=dtype, samples=1)
    result = ensemble.analyse(subject)
    assert result.identity_residual <= limit
    assert math.fsum(distribution(result).projection) == pytest.approx(1.0, rel=limit)
    assert math.fsum(distribution(result).norm) == pytest.approx(1.0, rel=EXACT)
    assert math.fsum(distribution(result).energy) == pytest.approx(1.0, rel=EXACT)
    assert len(distribution(result).norm) == len(subject.blocks) + 1


def test_summed_parts_of_resnet20_are_the_gradient_of_plain_torch(checkpoints: Path) -> None:
    subject = real_subject(checkpoints, "resnet20", dtype="float64", samples=3)
    weights = cifar_weights(checkpoints / "resnet20.th", torch.float64)
    logits, tape = cifar_forward(weights, subject.inputs.values.clone())
    logits.max(dim=1).values.sum().backward()
    near(parts_of(subject).sum(0), tape.crossings()[0].fork)


def test_the_residual_tells_when_the_parts_do_not_sum_to_the_gradient(checkpoints: Path) -> None:
    """One mask too many: the identity must break, or it checks nothing."""
    subject = real_subject(checkpoints, "resnet20", dtype="float32", samples=2)
    name = subject.blocks[3].output
    subject.recording.saved[name][0][:, ::2] = False
    assert ensemble.analyse(subject).identity_residual > 1e-2


def test_layers_of_resnet20_are_twice_its_blocks_and_the_head(checkpoints: Path) -> None:
    in_blocks, in_layers = (
        ensemble.analyse(real_subject(checkpoints, "resnet20", dtype="float64", samples=1, unit=unit)) for unit in UNITS
    )
    assert list(distribution(in_layers).norm[1::2]) == pytest.approx(list(distribution(in_blocks).norm), abs=EXACT)
    assert len(distribution(in_layers).norm) == 20


GOLDEN = {
    ("resnet20", "gaussian"): 4.10,
    ("resnet32", "gaussian"): 4.52,
    ("resnet44", "gaussian"): 4.77,
    ("resnet56", "gaussian"): 4.32,
    ("resnet20", "pink"): 4.40,
    ("resnet32", "pink"): 5.00,
    ("resnet44", "pink"): 5.06,
    ("resnet56", "pink"): 5.16,
}
"""Mean norm-share depths of an independent implementation on 32 other inputs; samples differ by 0.06 to 0.35."""


@pytest.mark.parametrize(("name", "kind"), GOLDEN)
def test_mean_depth_of_a_trained_network_is_that_of_an_independent_implementation(
    name: str, kind: str, checkpoints: Path
) -> None:
    result = ensemble.analyse(real_subject(checkpoints, name, inputs=kind, samples=8))
    assert result.depth_mean == pytest.approx(GOLDEN[name, kind], abs=0.35)
    assert result.inputs.kind == kind
    assert 1 <= (result.depth_p05 or 0) <= 2
    assert 7 <= (result.depth_p95 or 0) <= 9
    assert 0.4 < (result.cancellation or 0) < 0.75


def test_the_same_seed_gives_the_same_shares_and_another_one_nearly() -> None:
    net = small_net("post", (4, 4, 4, 4), seed=30)
    again, first, other = (ensemble.analyse(subject_of(net, samples=64, seed=seed)) for seed in (0, 0, 1))
    assert first == again
    assert first.depth_mean != other.depth_mean
    assert first.depth_mean == pytest.approx(other.depth_mean, abs=0.2)
