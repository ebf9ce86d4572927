"""The residual neural tangent kernel against neural-tangents, a finite network, closed forms and its own limits.

Theory note `shortcut-scaling`, section D: 13 to 17 are here. The table of all twenty properties is in
tests/theory/test_theory_shortcut_properties.py, faults that these tests catch in test_theory_shortcut_mutants.py there.
"""

from __future__ import annotations

import math
import random
from decimal import Decimal, getcontext

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import resnet_audit
from resnet_audit.measure.rntk import kernel_spread, residual_time, rntk

COSINES = (-1.0, -0.6, 0.0, 0.5, 0.9, 0.99)
NEURAL_TANGENTS = {
    (1, 1.0): (
        (-1.0, -0.5224524322334873, 0.3183098861837907, 1.1089977810442293, 1.8095383988446718, 1.9803002557331544),
        (-1.0, -0.876653114594527, 0.3183098861837907, 1.7756644477108963, 3.351119071213001, 3.871094496717219),
    ),
    (3, 0.7): (
        (-0.8136213655233686, -0.2075158019531786, 0.8854061844587462, 1.9732903988596089, 3.0068553456386886,
         3.275835021125721),
        (-1.4558811787240173, -0.9008157390350786, 1.2249093621054628, 4.124260018563678, 7.840463592748806,
         9.358342876357904),
    ),
    (10, 0.316): (
        (-0.8696145201814015, -0.32082501136555536, 0.61907992053074, 1.5202431716899933, 2.3524919841435246,
         2.565138857743656),
        (-1.4068783857939826, -0.788469785610159, 0.8891565606392884, 3.0602342461508427, 5.8040846024308586,
         6.933400923346045),
    ),
    (50, 0.1): (
        (-0.9762026453242997, -0.5156871545284595, 0.2309050561655879, 0.904369777262266, 1.487672169490739,
         1.6284273178334314),
        (-1.1847766232070567, -0.7320359604507373, 0.2883410103877445, 1.4406261729617438, 2.7061862678089863,
         3.1516130723587708),
    ),
}  # fmt: skip
"""(L, alpha): NNGP and NTK at `COSINES` by neural-tangents 0.6.5 on jax 0.4.30 in float64: a Dense layer with W_std
sqrt(d), then L times a sum of the identity and of Dense (W_std sqrt 2), Relu, Dense (W_std alpha), no biases."""

DEPTHS = (1, 9, 27, 54, 100, 1000, 10000)
SPREADS = {
    "L^0": (".972", ".597", ".327", ".195", ".113", ".0116", ".0012"),
    "L^-.1": (".972", ".661", ".420", ".286", ".190", ".0300", ".0044"),
    "L^-.25": (".972", ".766", ".612", ".513", ".430", ".183", ".0618"),
    "L^-.4": (".972", ".857", ".805", ".774", ".746", ".637", ".522"),
    "L^-.5": (".972", ".899", ".890", ".887", ".886", ".885", ".8845"),
    "L^-.6": (".972", ".927", ".933", ".937", ".941", ".953", ".960"),
    "L^-1": (".972", ".965", ".970", ".971", ".971", ".972", ".972"),
    "l^-.5": (".972", ".787", ".698", ".651", ".613", ".507", ".433"),
}
"""The printed table of the theory note, B2: scale of block l of L, spread at `DEPTHS`."""

scales = st.lists(st.floats(0.0, 3.0), min_size=1, max_size=12).filter(lambda alphas: max(alphas) > 1e-3)


def kappa0(rho):
    return (math.pi - np.arccos(rho)) / math.pi


def kappa1(rho):
    return (rho * (math.pi - np.arccos(rho)) + np.sqrt(np.maximum(0.0, 1 - rho * rho))) / math.pi


def one_layer(rho):
    return (kappa1(rho) + rho * kappa0(rho)) / 2


@pytest.mark.parametrize(("blocks", "alpha"), NEURAL_TANGENTS)
@pytest.mark.parametrize("readout", [False, True])
def test_kernel_is_that_of_neural_tangents(blocks, alpha, readout) -> None:
    nngp, ntk = map(np.array, NEURAL_TANGENTS[blocks, alpha])
    found = rntk([alpha] * blocks, COSINES, train_embedding=True, train_readout=readout)
    variance = math.exp(found.log_variance)
    assert found.correlation.numpy() * variance == pytest.approx(nngp, rel=1e-13)
    # Dense (W_std 1) on top adds the kernel of its own weights.
    assert found.tangent.numpy() * variance == pytest.approx(ntk + nngp * readout, rel=1e-13)


def finite_gradient(alphas, weights, x):
    """The gradient of a finite network's output with respect to the two matrices of every block."""
    embedding, pairs, readout = weights
    width = len(readout)
    leaves = [matrix.clone().requires_grad_() for pair in pairs for matrix in pair]
    z = embedding @ x / math.sqrt(width)
    for alpha, inner, outer in zip(alphas, leaves[::2], leaves[1::2], strict=True):
        hidden = torch.relu(math.sqrt(2 / width) * inner @ z)
        z = z + alpha / math.sqrt(width) * outer @ hidden
    (readout @ z).backward()
    return torch.cat([leaf.grad.flatten() for leaf in leaves])


@pytest.mark.parametrize("alphas", [(1.0,), (0.7, 0.3, 1.2), (0.5, 0.5, 0.5, 0.5, 0.5)])
def test_kernel_is_the_mean_over_finite_networks(alphas) -> None:
    width, draws = 256, 24
    generator = torch.Generator().manual_seed(7)
    cosines = (-0.5, 0.3, 0.9)
    inputs = [torch.tensor([1.0, 0.0], dtype=torch.float64)]
    inputs += [torch.tensor([c, math.sqrt(1 - c * c)], dtype=torch.float64) for c in cosines]

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    samples = []
    for _ in range(draws):
        weights = normal(width, 2), [(normal(width, width), normal(width, width)) for _ in alphas], normal(width)
        first, *others = (finite_gradient(alphas, weights, x) for x in inputs)
        samples.append([float(first @ other) for other in (first, *others)])
    found = np.array(samples)
    expected = rntk(alphas, (1.0, *cosines))
    theta = expected.tangent.numpy() * math.exp(expected.log_variance)
    z = (found.mean(0) - theta) / (found.std(0, ddof=1) / math.sqrt(draws))
    assert np.abs(z).max() < 3.5, z
    # The test has power: a kernel that is a quarter larger would lie outside.
    assert np.abs((found.mean(0) - 1.25 * theta) / (found.std(0, ddof=1) / math.sqrt(draws))).max() > 5


@given(st.floats(1e-100, 1e100), st.lists(st.floats(-1.0, 1.0), min_size=1, max_size=8))
def test_one_block_has_the_one_layer_kernel_whatever_its_scale(alpha, cosines) -> None:
    expected = one_layer(np.array(cosines))
    # Near -1 the distance 1 - rho rounds at 2e-16, the angle at its root.
    assert rntk([alpha], cosines).normalised.numpy() == pytest.approx(expected, abs=1e-8)


@given(st.integers(2, 30))
def test_small_scales_give_the_one_layer_kernel(blocks) -> None:
    found = rntk([1e-9] * blocks, COSINES).normalised.numpy()
    assert found == pytest.approx(one_layer(np.array(COSINES)), abs=1e-14)
    assert kernel_spread([1e-200] * blocks) == pytest.approx(kernel_spread([1.0]), abs=1e-14)


def spread_by_the_published_recursion(alphas):
    """B1 as it is written, in rho and with the variances q."""
    rho = np.cos(np.linspace(math.acos(0.95), math.pi, 41))
    theta, q = np.zeros_like(rho), 1.0
    for a in alphas:
        theta = (1 + a**2 * kappa0(rho)) * theta + a**2 * (q * kappa1(rho) + q * rho * kappa0(rho))
        rho, q = (rho + a**2 * kappa1(rho)) / (1 + a**2), q * (1 + a**2)
    values = theta / (2 * q * sum(a**2 / (1 + a**2) for a in alphas))
    return values.max() - values.min()


@pytest.mark.parametrize("law", SPREADS)
def test_spread_is_the_printed_one_to_its_digits(law) -> None:
    power = float(law[2:])
    for depth, printed in zip(DEPTHS, SPREADS[law], strict=True):
        blocks = range(1, depth + 1)
        alphas = [float(block) ** power for block in blocks] if law[0] == "l" else [float(depth) ** power] * depth
        places = len(printed) - 1
        found = kernel_spread(alphas)
        # Half a unit; the note rounded .59646, .85650 and .65046 twice, by way of four digits.
        assert found == pytest.approx(float(printed), abs=0.55 * 10**-places), depth
        if depth <= 100:
            assert found == pytest.approx(spread_by_the_published_recursion(alphas), abs=1e-9)


def test_spread_is_taken_at_41_equal_angles_from_that_of_0_95() -> None:
    angles = [math.acos(0.95) + k * (math.pi - math.acos(0.95)) / 40 for k in range(41)]
    values = one_layer(np.cos(angles))
    assert kernel_spread([2.0]) == pytest.approx(values.max() - values.min(), abs=1e-12)
    assert kernel_spread([2.0]) == pytest.approx(0.97199, abs=5e-6)


# properties -----------------------------------------------------------------------------------------------------


@given(scales)
def test_kernel_is_one_between_equal_inputs_and_its_diagonal_twice_the_residual_time(alphas) -> None:
    found = rntk(alphas, [1.0])
    assert float(found.normalised) == pytest.approx(1.0, abs=1e-14)
    assert float(found.tangent) == pytest.approx(2 * residual_time(alphas), rel=1e-13)
    assert found.log_variance == pytest.approx(math.log(math.prod(1 + a * a for a in alphas)), rel=1e-12, abs=1e-14)


@given(scales, st.lists(st.floats(-1.0, 1.0), min_size=2, max_size=20))
def test_correlation_stays_ordered_and_only_rises(alphas, cosines) -> None:
    ordered = sorted(cosines)
    after = rntk(alphas, ordered).correlation.numpy()
    assert np.all(np.diff(after) >= -1e-14)
    assert np.all(after >= np.array(ordered) - 1e-14)
    assert np.all(after <= 1.0)


@settings(max_examples=25, deadline=None)
@given(scales, st.integers(0, 10**6))
def test_gram_matrix_is_positive_semidefinite(alphas, seed) -> None:
    points = torch.randn(9, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    points /= points.norm(dim=1, keepdim=True)
    cosines = (points @ points.T).clamp(-1, 1).fill_diagonal_(1.0)
    for matrix in (rntk(alphas, cosines.flatten().tolist()).normalised, rntk(alphas, cosines.flatten()).correlation):
        values = torch.linalg.eigvalsh(matrix.view(9, 9))
        assert float(values.min()) > -1e-10


def test_deep_plain_network_has_a_quarter_off_the_diagonal() -> None:
    found = rntk([1.0] * 20000, (0.0, -1.0, 0.9)).normalised.numpy()
    assert found == pytest.approx([0.25] * 3, abs=1e-3)


@pytest.mark.parametrize(
    ("blocks", "printed"),
    [(10, (".267", ".179", ".660")), (100, (".275", ".267", ".341")), (1000, (".2539", ".2532", ".2606"))],
)
def test_plain_kernel_is_the_printed_one(blocks, printed) -> None:
    found = rntk([1.0] * blocks, (0.0, -1.0, 0.9)).normalised.tolist()
    for value, text in zip(found, printed, strict=True):
        assert value == pytest.approx(float(text), abs=0.5000001 * 10 ** (1 - len(text)))


@pytest.mark.parametrize("time", [0.1, 0.5, 1.0])
def test_equal_residual_times_give_one_kernel(time) -> None:
    kernels = []
    for blocks in (20, 100, 1000):
        alpha = math.sqrt(time / (blocks - time))
        assert residual_time([alpha] * blocks) == pytest.approx(time, rel=1e-12)
        kernels.append(rntk([alpha] * blocks, np.linspace(-1, 0.95, 41)).normalised.numpy())
    assert np.abs(kernels[0] - kernels[-1]).max() < 3e-3
    assert np.abs(kernels[1] - kernels[-1]).max() < 1e-3


@given(st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_order_of_blocks_leaves_the_time_exactly_and_the_kernel_nearly(seed) -> None:
    chosen = random.Random(seed)  # noqa: S311 - no secret
    alphas = [chosen.uniform(0.05, 0.6) for _ in range(27)]
    other = chosen.sample(alphas, len(alphas))
    assert residual_time(other) == residual_time(alphas)
    grid = np.cos(np.linspace(math.acos(0.95), math.pi, 41))
    first, second = (rntk(order, grid).normalised.numpy() for order in (alphas, other))
    # Half of all random orders differ by .0011 of the range; rising against falling scales, the worst, by .0093.
    assert np.abs(first - second).max() < 1e-2 * (first.max() - first.min())


def test_residual_time_is_its_formula_and_adds_up() -> None:
    alphas = [0.3, 1.1, 2.6]
    expected = sum(a**2 / (1 + a**2) for a in alphas)
    assert residual_time(alphas) == pytest.approx(expected, rel=1e-14)
    assert residual_time([1e200] * 3) == 3.0
    assert residual_time([]) == 0.0


# floating point -------------------------------------------------------------------------------------------------


def precise_distance(start: str, blocks: int) -> float:
    """1 - rho after `blocks` blocks of scale 1, in 50 decimal digits, from an angle that doubles its precision."""
    getcontext().prec = 50
    u = Decimal(start)
    pi = Decimal("3.14159265358979323846264338327950288419716939937511")
    for _ in range(blocks):
        # sin h - h cos h from cos h = 1 - u: h by Newton on 1 - cos.
        h = _angle(u)
        u = u - (_sin(h) - h * (1 - u)) / pi / 2
    return float(u)


def _sin(h: Decimal) -> Decimal:
    term, total, k = h, h, 1
    while abs(term) > Decimal("1e-48"):
        term *= -h * h / ((2 * k) * (2 * k + 1))
        total += term
        k += 1
    return total


def _cos(h: Decimal) -> Decimal:
    term, total, k = Decimal(1), Decimal(1), 1
    while abs(term) > Decimal("1e-48"):
        term *= -h * h / ((2 * k - 1) * (2 * k))
        total += term
        k += 1
    return total


def _angle(u: Decimal) -> Decimal:
    h = (2 * u).sqrt()
    for _ in range(60):
        step = (1 - _cos(h) - u) / _sin(h)
        h -= step
        if abs(step) < Decimal("1e-45"):
            break
    return h


@pytest.mark.parametrize(("start", "blocks"), [("0.5", 60), ("1e-3", 40), ("1e-9", 40), ("1e-14", 20)])
def test_recursion_keeps_its_digits_where_inputs_are_all_but_equal(start, blocks) -> None:
    found = rntk([1.0] * blocks, [1.0 - float(start)])
    expected = precise_distance(repr(1.0 - (1.0 - float(start))), blocks)
    # 1 - rho is read back through a number near 1, which rounds at 1e-16.
    assert 1.0 - float(found.correlation) == pytest.approx(expected, rel=1e-12, abs=1.2e-16)


def test_ten_thousand_blocks_follow_the_law_of_the_residual_time() -> None:
    found = rntk([1.0] * 10000, (0.0,))
    assert 1.0 - float(found.correlation) == pytest.approx(1.7680e-6, abs=5e-11)
    assert found.log_variance == pytest.approx(10000 * math.log(2.0), rel=1e-12)
    assert bool(found.normalised.isfinite().all())


def test_fixed_point_of_the_recursion_is_equality_and_its_slope_has_the_printed_constant() -> None:
    assert float(rntk([1.0] * 100, [1.0]).correlation) == 1.0
    u = 1e-6
    lost = u - (1.0 - float(rntk([1.0], [1.0 - u]).correlation))
    # kappa1(1 - u) - (1 - u) = c u^1.5, and a scale of 1 takes half of it.
    assert 2 * lost / u**1.5 == pytest.approx(2 * math.sqrt(2) / (3 * math.pi), rel=1e-3)


def test_kernel_of_branches_that_are_all_zero_is_undefined() -> None:
    found = rntk([0.0, 0.0], (0.0, 1.0))
    assert found.normalised is None
    assert kernel_spread([0.0] * 5) is None
    assert found.tangent.tolist() == [0.0, 0.0]
    # With the first layer trained, what is left is linear.
    assert rntk([0.0], (0.3,), train_embedding=True).normalised.tolist() == pytest.approx([0.3])


@given(st.lists(st.floats(0.0, 1e300), max_size=6))
def test_no_scale_overflows(alphas) -> None:
    found = rntk(alphas, COSINES)
    assert math.isfinite(found.log_variance)
    assert bool(found.correlation.isfinite().all())
    assert found.normalised is None or bool(found.normalised.isfinite().all())


@pytest.mark.parametrize("alphas", [[-0.1], [math.nan], [math.inf]])
def test_a_scale_that_is_none_is_refused(alphas) -> None:
    for function in (residual_time, kernel_spread, lambda given: rntk(given, [0.0])):
        with pytest.raises(ValueError, match="branch scale"):
            function(alphas)


@pytest.mark.parametrize("cosine", [1.0001, -2.0, math.nan])
def test_a_cosine_outside_its_range_is_refused(cosine) -> None:
    with pytest.raises(ValueError, match="cosine"):
        rntk([1.0], [cosine])


def test_kernel_is_public() -> None:
    assert resnet_audit.rntk is rntk
