"""Gradient-norm ratios against autograd on networks written out in torch alone."""

from __future__ import annotations

import math
from dataclasses import astuple, replace
from typing import TYPE_CHECKING

import pytest
import torch
from gradient_oracles import (
    SMALL,
    Crossing,
    Draw,
    SmallBlock,
    SmallNet,
    Tape,
    cifar_forward,
    cifar_weights,
    linear_net,
    per_sample,
    pooled,
    small_net,
    subject_of,
)

from resnet_audit.checkpoint import load
from resnet_audit.errors import AuditError, NoBlocks
from resnet_audit.graph import discover
from resnet_audit.measure import Subject
from resnet_audit.measure.inputs import Inputs
from resnet_audit.settings import Settings
from resnet_audit.theory import gradient

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

    from resnet_audit.results import GradientBlock, GradientResult

EXACT = 1e-12
REAL = (("resnet20", "float64"), ("resnet20", "float32"), ("resnet56", "float64"), ("resnet56", "float32"))
TOLERANCE = {"float64": EXACT, "float32": 1e-6}
QUANTITIES = ("ratio", "mask_factor", "residual_factor", "branch_gain", "skip_gain", "cosine")

each_small = pytest.mark.parametrize("net", SMALL.values(), ids=SMALL.keys())


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def crossings_of(net: SmallNet, images: Tensor, cotangent: Tensor) -> list[Crossing]:
    tape = Tape()
    net.leave(net.body(net.enter(images.clone().requires_grad_()), tape=tape)).backward(cotangent)
    return tape.crossings()


def expected(crossing: Crossing) -> dict[str, float]:
    fork, join, output = pooled(crossing.fork), pooled(crossing.join), pooled(crossing.output)
    branch, skip = pooled(crossing.branch), pooled(crossing.skip)
    return {
        "ratio": fork / output,
        "mask_factor": join / output,
        "residual_factor": fork / join,
        "branch_gain": branch / join,
        "skip_gain": skip / join,
        "cosine": float((crossing.branch * crossing.skip).sum()) / (branch * skip),
    }


def percentiles(ratios: Tensor) -> list[float]:
    """The 5th, 50th and 95th percentile by linear interpolation between order statistics."""
    ordered = sorted(ratios.tolist())
    found = []
    for level in (0.05, 0.5, 0.95):
        place = level * (len(ordered) - 1)
        below, part = math.floor(place), place - math.floor(place)
        above = ordered[min(below + 1, len(ordered) - 1)]
        found.append(ordered[below] + part * (above - ordered[below]))
    return found


def only_blocks(result: GradientResult) -> list[GradientBlock]:
    return [row for row in result.blocks if row.kind == "block"]


def value(row: GradientBlock, name: str) -> float:
    found = getattr(row, name)
    assert isinstance(found, float)
    return found


def assert_rows_agree(result: GradientResult, found: list[Crossing], rel: float) -> None:
    rows = only_blocks(result)
    assert len(rows) == len(found)
    for row, crossing in zip(rows, found, strict=True):
        for name, number in expected(crossing).items():
            assert value(row, name) == pytest.approx(number, rel=rel, abs=rel), (row.name, name)
        ratios = per_sample(crossing.fork) / per_sample(crossing.output)
        assert [row.p05, row.p50, row.p95] == pytest.approx(percentiles(ratios), rel=rel), row.name


# the real checkpoints -----------------------------------------------------------------------------------------------


def real_subject(path: Path, dtype: str, samples: int, seed: int = 0) -> Subject:
    settings = Settings(dtype=dtype, samples=samples, threads=1, seed=seed)
    return Subject(discover(load(str(path)), settings), settings)


@pytest.fixture(scope="module", params=REAL, ids=" ".join)
def real(request: pytest.FixtureRequest, checkpoints: Path) -> tuple[GradientResult, list[Crossing], float]:
    """The package's result, autograd's gradients on the same inputs, and how near they must be."""
    name, dtype = request.param
    path = checkpoints / f"{name}.th"
    weights = cifar_weights(path, getattr(torch, dtype))
    for seed in range(10):
        subject = real_subject(path, dtype, samples=4, seed=seed)
        logits, tape = cifar_forward(weights, subject.inputs.values.clone())
        # A value within rounding of 0 may pass one ReLU and not the other, which moves float32 norms by 5e-5.
        if same_masks(subject, tape):
            logits.max(dim=1).values.sum().backward()
            return gradient.analyse(subject), tape.crossings(), TOLERANCE[dtype]
    return pytest.fail("ten draws of inputs, and in each some ReLU differs from that of plain torch")


def same_masks(subject: Subject, tape: Tape) -> bool:
    masks = [kept[0] for kept in subject.recording.saved.values()]
    assert len(masks) == len(tape.masks)
    different = [int((one != other).sum()) for one, other in zip(masks, tape.masks, strict=True)]
    assert sum(different) < 10
    return not any(different)


def test_boundary_norms_of_a_trained_network_are_those_of_autograd(
    real: tuple[GradientResult, list[Crossing], float],
) -> None:
    result, found, rel = real
    norms = [*(pooled(crossing.fork) for crossing in found), pooled(found[-1].output)]
    assert list(result.norms) == pytest.approx(norms, rel=rel)


def test_ratios_factors_gains_and_percentiles_of_a_trained_network_are_those_of_autograd(
    real: tuple[GradientResult, list[Crossing], float],
) -> None:
    result, found, rel = real
    assert_rows_agree(result, found, rel)


def test_ratios_of_a_trained_network_multiply_to_the_total(real: tuple[GradientResult, list[Crossing], float]) -> None:
    result, found, _ = real
    product = math.prod(value(row, "ratio") for row in result.blocks)
    assert product == pytest.approx(result.norms[0] / result.norms[-1], rel=EXACT)
    assert result.ratio_product == pytest.approx(product, rel=EXACT)
    assert len(result.norms) == len(result.blocks) + 1 == len(found) + 1


def test_telescoping_residual_of_a_trained_network_is_rounding(
    real: tuple[GradientResult, list[Crossing], float],
) -> None:
    result, found, rel = real
    assert result.telescoping_residual is not None
    assert result.telescoping_residual < rel
    norms = [*(pooled(crossing.fork) for crossing in found), pooled(found[-1].output)]
    assert result.telescoping_residual == pytest.approx(abs(result.norms[0] / norms[0] - 1.0), abs=rel)


def test_medians_and_c_hat_leave_transition_blocks_out(real: tuple[GradientResult, list[Crossing], float]) -> None:
    result, found, rel = real
    places = [index for index, crossing in enumerate(found) if crossing.fork.shape != crossing.output.shape]
    assert [index for index, row in enumerate(result.blocks) if row.transition] == places
    ratios = [expected(crossing)["ratio"] for crossing in found]
    kept = sorted(ratio for index, ratio in enumerate(ratios) if index not in places)
    deviations = sorted(abs(ratio - 1.0) for ratio in kept)
    blocks = len(found)
    assert result.ratio_median == pytest.approx(middle(kept), rel=rel)
    # A deviation from 1 is a difference, so its relative error is larger than that of a ratio.
    assert result.c_hat == pytest.approx(middle(deviations) * blocks / math.log(2 * blocks), rel=50 * rel)
    assert middle(kept) != pytest.approx(middle(sorted(ratios)), rel=1e-5)


def test_worst_ratio_is_the_farthest_from_one_in_either_direction(
    real: tuple[GradientResult, list[Crossing], float],
) -> None:
    result, found, rel = real
    ratios = [expected(crossing)["ratio"] for crossing in found]
    assert result.ratio_worst == pytest.approx(max(*ratios, 1.0 / min(ratios)), rel=rel)


def test_certified_interval_of_a_trained_network_contains_the_ratio_of_every_sample(
    real: tuple[GradientResult, list[Crossing], float],
) -> None:
    result, found, rel = real
    for row, crossing in zip(result.blocks, found, strict=True):
        assert row.interval is not None
        low, high = row.interval
        ratios = per_sample(crossing.fork) / per_sample(crossing.output)
        assert low <= float(ratios.min()) * (1 + rel)
        assert float(ratios.max()) <= high * (1 + rel)
        assert row.upper == high


def middle(ordered: list[float]) -> float:
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def test_transition_ratios_of_resnet20_lie_below_one_on_pink_noise(checkpoints: Path) -> None:
    """The note's figures on other inputs: 0.85 to 0.93; option A keeps a part of the cotangent only."""
    result = gradient.analyse(real_subject(checkpoints / "resnet20.th", "float32", samples=16))
    ratios = [value(row, "ratio") for row in result.blocks if row.transition]
    assert len(ratios) == 2
    assert all(0.83 < ratio < 0.95 for ratio in ratios)


# small networks -----------------------------------------------------------------------------------------------------


@each_small
def test_rows_of_every_kind_of_block_are_those_of_autograd(net: SmallNet) -> None:
    subject = subject_of(net, objective="random", samples=5)
    found = crossings_of(net, subject.inputs.values, subject.cotangent)
    assert_rows_agree(gradient.analyse(subject), found, EXACT)


@each_small
def test_squared_residual_factor_is_the_sum_of_gains_and_their_interference(net: SmallNet) -> None:
    for row in only_blocks(gradient.analyse(subject_of(net, objective="random"))):
        mask, skip, branch = (value(row, name) for name in ("mask_factor", "skip_gain", "branch_gain"))
        whole = value(row, "ratio") ** 2 / mask**2
        assert whole == pytest.approx(skip**2 + branch**2 + 2 * skip * branch * value(row, "cosine"), rel=EXACT)
        assert value(row, "residual_factor") ** 2 == pytest.approx(whole, rel=EXACT)


@each_small
def test_ratios_multiply_to_the_total_with_what_lies_between_blocks(net: SmallNet) -> None:
    result = gradient.analyse(subject_of(net, objective="random"))
    total = math.prod(value(row, "ratio") for row in result.blocks)
    assert total == pytest.approx(result.norms[0] / result.norms[-1], rel=EXACT)
    assert len(result.norms) == len(result.blocks) + 1


@each_small
def test_telescoping_residual_is_rounding_and_shows_a_wrong_ratio(
    net: SmallNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a gradient that owes nothing to the ratios: one row off by a tenth is seen as such."""
    subject = subject_of(net, objective="random")
    result = gradient.analyse(subject)
    assert result.telescoping_residual is not None
    assert result.telescoping_residual < EXACT
    exact = gradient._row

    def off(*arguments: object) -> GradientBlock:
        row = exact(*arguments)
        return replace(row, ratio=1.1 * value(row, "ratio")) if row.name == result.blocks[-1].name else row

    monkeypatch.setattr(gradient, "_row", off)
    assert gradient.analyse(subject).telescoping_residual == pytest.approx(0.1, rel=1e-9)


def test_telescoping_residual_looks_at_the_network_and_not_at_its_own_backward_pass() -> None:
    """An adjoint that is wrong everywhere alike still telescopes with itself, and not with autograd."""
    subject = subject_of(SMALL["post-pad"], objective="random")
    passages = subject.passages
    first = replace(passages[0], fork=1.25 * passages[0].fork)
    subject.passages = (first, *passages[1:])
    assert gradient.analyse(subject).telescoping_residual == pytest.approx(0.25, rel=1e-9)


def test_what_lies_between_blocks_has_the_ratio_of_its_own_boundaries() -> None:
    net = SMALL["pre-activated"]
    subject = subject_of(net, objective="random", samples=5)
    found = crossings_of(net, subject.inputs.values, subject.cotangent)
    result = gradient.analyse(subject)
    between = [row for row in result.blocks if row.kind == "between"]
    assert [row.kind for row in result.blocks] == ["block", "between", "block", "between", "block"]
    for row, before, after in zip(between, found[:-1], found[1:], strict=True):
        assert row.ratio == pytest.approx(pooled(before.output) / pooled(after.fork), rel=EXACT)
        ratios = per_sample(before.output) / per_sample(after.fork)
        assert [row.p05, row.p50, row.p95] == pytest.approx(percentiles(ratios), rel=EXACT)


def block_jacobians(net: SmallNet, index: int, images: Tensor) -> list[Tensor]:
    """The dense Jacobian (outputs, inputs) of one block at each image's activations."""
    front = replace(net, blocks=net.blocks[:index])
    alone = replace(net, blocks=(net.blocks[index],), project_activated=False)
    start = net.enter(images) if index == 0 else front.body(net.enter(images))
    if net.project_activated:
        raise NotImplementedError
    jacobians = []
    for image in start:
        dense = torch.autograd.functional.jacobian(alone.body, image[None])
        jacobians.append(dense.reshape(math.prod(dense.shape[:4]), -1))
    return jacobians


dense_nets = pytest.mark.parametrize("kind", ["post-pad", "post-project", "pre", "pre-pad", "pre-project", "bare-relu"])


@dense_nets
def test_ratio_lies_below_the_largest_singular_value_which_lies_below_upper(kind: str) -> None:
    net = SMALL[kind]
    subject = subject_of(net, objective="random")
    images = subject.inputs.values
    found = crossings_of(net, images, subject.cotangent)
    for index, (row, crossing) in enumerate(zip(gradient.analyse(subject).blocks, found, strict=True)):
        sigmas = [float(torch.linalg.matrix_norm(dense, 2)) for dense in block_jacobians(net, index, images)]
        ratios = (per_sample(crossing.fork) / per_sample(crossing.output)).tolist()
        assert all(ratio <= sigma * (1 + EXACT) for ratio, sigma in zip(ratios, sigmas, strict=True))
        assert max(sigmas) <= value(row, "upper")
        assert value(row, "ratio") <= max(sigmas) * (1 + EXACT)


@dense_nets
def test_certified_interval_contains_every_singular_value_that_a_ratio_can_take(kind: str) -> None:
    net = SMALL[kind]
    subject = subject_of(net, objective="random")
    for index, row in enumerate(gradient.analyse(subject).blocks):
        assert row.interval is not None
        low, high = row.interval
        for dense in block_jacobians(net, index, subject.inputs.values):
            # The gradient is J^T u with u of the output's size: fewer inputs than outputs leave a null space.
            sigmas = torch.linalg.svdvals(dense)
            smallest = float(sigmas[-1]) if dense.shape[0] <= dense.shape[1] else 0.0
            assert low <= smallest + EXACT
            assert float(sigmas[0]) <= high


@pytest.mark.parametrize("gain", [0.05, 0.15])
def test_small_branches_certify_a_positive_lower_end_that_holds(gain: float) -> None:
    net = small_net("pre", (4, 4, 4, 4), seed=9, norms=False, gain=gain)
    subject = subject_of(net, objective="random", samples=20)
    found = crossings_of(net, subject.inputs.values, subject.cotangent)
    rows = gradient.analyse(subject).blocks
    for row, crossing in zip(rows, found, strict=True):
        assert row.interval is not None
        low, high = row.interval
        ratios = per_sample(crossing.fork) / per_sample(crossing.output)
        assert 0.0 < low < 1.0 < high
        assert low + high == pytest.approx(2.0, rel=EXACT)
        assert low <= float(ratios.min())
        assert float(ratios.max()) <= high


def test_a_mask_or_a_transforming_shortcut_leaves_no_lower_end() -> None:
    masked = small_net("post", (4, 4, 8), seed=9, norms=False, gain=0.05)
    padded = small_net("pre", (4, 8), seed=9, norms=False, gain=0.05)
    for net in (masked, padded):
        for row in gradient.analyse(subject_of(net)).blocks:
            assert row.interval is not None
            assert row.interval[0] == 0.0


# the RMS singular value ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["post", "pre-pad", "post-project"])
def test_rms_ratio_with_an_orthonormal_probe_is_the_frobenius_norm_of_the_jacobian(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many copies of one image as the block has outputs, each with its own unit cotangent: an exact expectation."""
    net = SMALL[kind]
    for index in range(len(net.blocks)):
        one = subject_of(net, samples=1).inputs.values
        (dense,) = block_jacobians(net, index, one)
        outputs = dense.shape[0]
        subject = subject_of(net)
        subject.inputs = Inputs(kind="gaussian", values=one.repeat(outputs, 1, 1, 1))
        block = subject.blocks[index]
        assert subject.recording.inputs.n == outputs

        def units(shape: tuple[int, ...], *, rows: int = outputs, **_: object) -> Tensor:
            return math.sqrt(rows) * torch.eye(rows, dtype=torch.float64).reshape(shape)

        with monkeypatch.context() as patch:
            patch.setattr(torch, "randn", units)
            found = gradient._ratio_rms(subject, block)
        assert found == pytest.approx(float(dense.norm()) / math.sqrt(outputs), rel=EXACT)


@pytest.mark.parametrize("kind", ["post", "pre-pad"])
def test_rms_ratio_estimates_the_frobenius_norm_within_five_standard_errors(kind: str) -> None:
    """One probe's squared norm has the relative variance 2 sum sigma^4 / (sum sigma^2)^2."""
    net, copies = SMALL[kind], 200
    one = subject_of(net, samples=1).inputs.values
    subject = subject_of(net)
    subject.inputs = Inputs(kind="gaussian", values=one.repeat(copies, 1, 1, 1))
    for index, row in enumerate(gradient.analyse(subject).blocks):
        (dense,) = block_jacobians(net, index, one)
        squares = torch.linalg.svdvals(dense).square()
        error = math.sqrt(2 * float(squares.square().sum()) / float(squares.sum()) ** 2 / copies)
        assert value(row, "ratio_rms") ** 2 == pytest.approx(float(squares.sum()) / dense.shape[0], rel=5 * error)


# limits -------------------------------------------------------------------------------------------------------------


def silent(net: SmallNet) -> SmallNet:
    """The same network with branches of zeros."""
    blocks = tuple(
        replace(block, convs=tuple(torch.zeros_like(kernel) for kernel in block.convs), norms=())
        for block in net.blocks
    )
    return replace(net, blocks=blocks)


def test_zero_branches_of_a_preactivation_network_leave_every_identity_ratio_at_one() -> None:
    result = gradient.analyse(subject_of(silent(SMALL["pre"]), objective="random"))
    for row in result.blocks:
        assert row.ratio == 1.0
        assert (row.p05, row.p50, row.p95) == (1.0, 1.0, 1.0)
        assert (row.branch_gain, row.skip_gain, row.ratio_rms is not None) == (0.0, 1.0, True)
        assert row.interval == (1.0, 1.0)
    assert (result.ratio_median, result.ratio_worst, result.c_hat, result.ratio_product) == (1.0, 1.0, 0.0, 1.0)


def test_zero_branches_of_a_preactivation_transition_leave_the_gain_of_the_shortcut() -> None:
    net = silent(small_net("pre", (4, 8, 8), seed=12))
    subject = subject_of(net, objective="random")
    transition, identity = gradient.analyse(subject).blocks
    crossing = crossings_of(net, subject.inputs.values, subject.cotangent)[0]
    kept = pooled(crossing.output[:, 2:6]) / pooled(crossing.output)
    assert transition.transition
    assert transition.ratio == pytest.approx(kept, rel=EXACT)
    assert transition.skip_gain == pytest.approx(kept, rel=EXACT)
    assert kept < 0.95
    assert identity.ratio == 1.0


def test_zero_branches_of_a_postactivation_network_leave_the_mask_factor_and_not_one() -> None:
    net = silent(SMALL["post"])
    result = gradient.analyse(subject_of(net, objective="random"))
    for row in result.blocks:
        assert row.ratio == row.mask_factor
        assert row.residual_factor == 1.0
    # Behind the first block every value is at least 0, and the pooled head sends gradients into zeros at the end only.
    assert [row.ratio for row in result.blocks[:-1]] == [1.0, 1.0]
    assert value(result.blocks[-1], "ratio") < 0.95


def test_a_scalar_branch_in_phase_has_the_ratio_one_plus_its_factor() -> None:
    factors = (0.5, 2.0, 0.25)
    net = linear_net([factor * torch.eye(4, dtype=torch.float64) for factor in factors])
    for row, factor in zip(gradient.analyse(subject_of(net)).blocks, factors, strict=True):
        assert row.ratio == pytest.approx(1 + factor, rel=EXACT)
        assert row.branch_gain == pytest.approx(factor, rel=EXACT)
        assert row.cosine == pytest.approx(1.0, rel=EXACT)
        assert row.mask_factor == 1.0
        assert row.upper == pytest.approx(1 + factor, rel=1e-6)


def test_a_branch_against_the_shortcut_has_cosine_minus_one() -> None:
    net = linear_net([-0.25 * torch.eye(4, dtype=torch.float64)])
    (row,) = gradient.analyse(subject_of(net)).blocks
    assert row.cosine == pytest.approx(-1.0, rel=EXACT)
    assert row.ratio == pytest.approx(0.75, rel=EXACT)
    assert gradient.analyse(subject_of(net)).ratio_worst == pytest.approx(1 / 0.75, rel=EXACT)


@each_small
def test_scaling_the_cotangent_changes_no_ratio(net: SmallNet) -> None:
    plain, scaled = (subject_of(net, objective="random") for _ in range(2))
    scaled.cotangent = 1e3 * plain.cotangent
    for one, other in zip(gradient.analyse(plain).blocks, gradient.analyse(scaled).blocks, strict=True):
        for name in (*QUANTITIES, "ratio_rms", "p05", "p50", "p95"):
            if getattr(one, name) is not None:
                assert value(other, name) == pytest.approx(value(one, name), rel=EXACT)


@each_small
def test_the_order_of_samples_changes_no_pooled_number(net: SmallNet) -> None:
    one, other = (subject_of(net, samples=6) for _ in range(2))
    other.inputs = Inputs(kind="gaussian", values=one.inputs.values.flip(0))
    for row, same in zip(gradient.analyse(one).blocks, gradient.analyse(other).blocks, strict=True):
        for name in (*QUANTITIES, "p05", "p50", "p95"):
            if getattr(row, name) is not None:
                assert value(same, name) == pytest.approx(value(row, name), rel=EXACT)


def test_squared_norms_of_a_batch_are_the_sums_of_those_of_its_samples() -> None:
    net = SMALL["post-pad"]
    whole = subject_of(net, samples=4)
    squares = torch.zeros(len(net.blocks) + 1, dtype=torch.float64)
    for image in whole.inputs.values:
        alone = subject_of(net)
        alone.inputs = Inputs(kind="gaussian", values=image[None])
        squares += torch.tensor(gradient.analyse(alone).norms, dtype=torch.float64).square()
    assert gradient.analyse(whole).norms == pytest.approx(squares.sqrt().tolist(), rel=EXACT)


# what cannot be measured --------------------------------------------------------------------------------------------


def test_samples_without_a_gradient_are_left_out_of_percentiles_and_counted() -> None:
    net = SMALL["post"]
    mixed, alive = subject_of(net, samples=5), subject_of(net, samples=5)
    keep = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    mixed.cotangent = keep[:, None] * mixed.cotangent
    alive.inputs = Inputs(kind="gaussian", values=alive.inputs.values[keep.bool()])
    result, without = gradient.analyse(mixed), gradient.analyse(alive)
    for row, other in zip(result.blocks, without.blocks, strict=True):
        assert (row.p05, row.p50, row.p95) == pytest.approx((other.p05, other.p50, other.p95), rel=EXACT)
        assert row.ratio == pytest.approx(other.ratio, rel=EXACT)
    notes = [note for note in result.notes if note.code == "dead_samples"]
    assert [note.where for note in notes] == [row.name for row in result.blocks]
    assert all(note.message.startswith("2 samples ") for note in notes)
    assert without.notes == ()


def test_a_gradient_of_zero_has_no_ratio_at_all() -> None:
    subject = subject_of(SMALL["pre"])
    subject.cotangent = torch.zeros_like(subject.cotangent)
    result = gradient.analyse(subject)
    assert set(result.norms) == {0.0}
    assert all(row.ratio is row.p50 is row.cosine is row.mask_factor is None for row in result.blocks)
    assert result.ratio_median is result.c_hat is result.ratio_worst is result.ratio_product is None
    assert result.telescoping_residual is None
    assert all(row.upper is not None for row in result.blocks)


def test_a_network_without_blocks_has_no_ratios() -> None:
    with pytest.raises(NoBlocks, match="no residual block"):
        gradient.analyse(subject_of(replace(SMALL["post"], skips=False)))


def test_c_hat_is_the_median_deviation_times_blocks_over_their_logarithm() -> None:
    assert gradient.c_hat([0.1, 0.3, 0.2], 9) == pytest.approx(0.2 * 9 / math.log(18), rel=EXACT)
    assert gradient.c_hat([0.1, 0.3], 2) == pytest.approx(0.2 * 2 / math.log(4), rel=EXACT)
    assert gradient.c_hat([], 3) is None


def test_only_transitions_leave_the_median_undefined() -> None:
    result = gradient.analyse(subject_of(small_net("post", (4, 8), seed=10)))
    assert result.blocks[0].transition
    assert result.ratio_median is None
    assert result.c_hat is None
    assert result.ratio_worst is not None


def test_a_block_that_stops_the_gradient_is_no_better_than_the_worst_ratio() -> None:
    """max(r, 1/r) of r = 0 is unbounded: it must not be passed over in favour of the other blocks."""
    net = SMALL["post"]
    closed = replace(net.blocks[0].norms[1], gamma=torch.zeros(4).double(), beta=torch.full((4,), -100.0).double())
    block = replace(net.blocks[0], norms=(net.blocks[0].norms[0], closed))
    result = gradient.analyse(subject_of(replace(net, blocks=(block, *net.blocks[1:]))))
    assert result.blocks[0].ratio == 0.0
    assert result.ratio_worst is None or math.isinf(result.ratio_worst)


@pytest.mark.parametrize(("scale", "dtype"), [(1e200, "float64"), (1e25, "float32")])
def test_numbers_beyond_the_range_of_floats_are_refused_or_null(scale: float, dtype: str) -> None:
    """Finite weights whose gradient or certificate overflows: no NaN, no infinity, no arithmetic error."""
    draw = Draw(13)
    wide = SmallBlock(convs=(draw.kernel(4, 4, gain=scale), draw.kernel(4, 4, gain=scale)))
    try:
        result = gradient.analyse(subject_of(replace(SMALL["post"], blocks=(wide,)), dtype=dtype))
    except AuditError:
        return
    numbers = [value for row in result.blocks for value in astuple(row) if isinstance(value, float)]
    assert all(math.isfinite(number) for number in numbers)


def test_a_probe_owes_nothing_to_the_inputs() -> None:
    """Inputs and probe of one seed must be independent, or the RMS ratio of a network on noise is biased."""
    eye = torch.eye(1, dtype=torch.float64)
    net = replace(
        linear_net([eye]), stem=torch.ones(1, 1, 1, 1, dtype=torch.float64), head=Draw(0).normal(5, 1), size=(1, 4, 4)
    )
    subject = subject_of(net, samples=64)
    seen: list[Tensor] = []
    draw = torch.randn

    def watched(*shape: object, **more: object) -> Tensor:
        seen.append(draw(*shape, **more))
        return seen[-1]

    images = subject.inputs.values
    _ = subject.recording
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn", watched)
        gradient._ratio_rms(subject, subject.blocks[0])
    assert seen
    correlation = float(torch.corrcoef(torch.stack([seen[0].flatten(), images.flatten()]))[0, 1])
    assert abs(correlation) < 0.2
