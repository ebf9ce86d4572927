"""Products with the Hessian and what is estimated from them, against dense matrices.

Theory note `shortcut-scaling`, section D: 8 and 10 to 12 are here. The table of all twenty properties is in
tests/theory/test_theory_shortcut_properties.py, faults that these tests catch in test_theory_shortcut_mutants.py there.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from resnet_audit.errors import NoRule
from resnet_audit.graph.ir import Activation, Add, Conv, Flatten, Input, Linear, Node, Norm, Opaque, Pool
from resnet_audit.graph.shapes import with_shapes
from resnet_audit.measure.hessian import LossHessian, with_leaves
from resnet_audit.measure.hessian_spectrum import Krylov, Until, ends, lanczos, on_sphere, restarted_ends, share, trace

EXACT = 1e-12
SIZE = (2, 5, 5)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# a small residual network twice: as nodes, and as a function of one vector of parameters ------------------------------

SHAPES = {
    "stem": [(3, 2, 3, 3)],
    "b.norm0": [(3,), (3,)],
    "b.conv1": [(4, 3, 3, 3), (4,)],
    "b.norm1": [(4,), (4,)],
    "b.conv2": [(3, 4, 3, 3)],
    "head": [(4, 3), (4,)],
}
STATISTICS = {"b.norm0": 3, "b.norm1": 4}


def parameters(seed: int = 0) -> dict[str, list[Tensor]]:
    return {
        name: [0.5 * normal(*shape, seed=seed + 10 * index + place) for place, shape in enumerate(shapes)]
        for index, (name, shapes) in enumerate(SHAPES.items())
    }


def statistics(name: str) -> tuple[Tensor, Tensor]:
    channels = STATISTICS[name]
    return 0.2 * normal(channels, seed=77), 0.5 + normal(channels, seed=78).square()


def nodes_of(values: dict[str, list[Tensor]]) -> tuple[Node, ...]:
    def conv(name: str, at: str) -> Node:
        weight, *bias = values[name]
        op = Conv(weight=weight, bias=bias[0] if bias else None, stride=(1, 1), padding=(1, 1))
        return Node(name=name, op=op, inputs=(at,))

    def norm(name: str, at: str) -> Node:
        mean, var = statistics(name)
        op = Norm(weight=values[name][0], bias=values[name][1], mean=mean, var=var, eps=1e-5)
        return Node(name=name, op=op, inputs=(at,))

    return with_shapes(
        (
            Node(name="input", op=Input()),
            conv("stem", "input"),
            norm("b.norm0", "stem"),
            Node(name="r0", op=Activation(kind="relu"), inputs=("b.norm0",)),
            conv("b.conv1", "r0"),
            norm("b.norm1", "b.conv1"),
            Node(name="r1", op=Activation(kind="gelu"), inputs=("b.norm1",)),
            conv("b.conv2", "r1"),
            Node(name="add", op=Add(), inputs=("b.conv2", "stem")),
            Node(name="pool", op=Pool(kind="avg", kernel=None), inputs=("add",)),
            Node(name="flat", op=Flatten(), inputs=("pool",)),
            Node(name="head", op=Linear(weight=values["head"][0], bias=values["head"][1]), inputs=("flat",)),
        ),
        SIZE,
    )


def loss_of(vector: Tensor, images: Tensor, targets: Tensor) -> Tensor:
    """The mean cross-entropy of the same network in torch alone, its parameters cut from one vector."""
    pieces = iter(vector.split([math.prod(shape) for shapes in SHAPES.values() for shape in shapes]))
    p = {name: [next(pieces).view(shape) for shape in shapes] for name, shapes in SHAPES.items()}

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var = statistics(name)
        scale = p[name][0] / (var + 1e-5).sqrt()
        return x * scale[:, None, None] + (p[name][1] - mean * scale)[:, None, None]

    stem = F.conv2d(images, p["stem"][0], padding=1)
    x = F.conv2d(F.relu(norm(stem, "b.norm0")), *p["b.conv1"], padding=1)
    x = F.conv2d(F.gelu(norm(x, "b.norm1")), p["b.conv2"][0], padding=1) + stem
    return F.cross_entropy(F.linear(x.mean((2, 3)), *p["head"]), targets)


IMAGES, TARGETS = normal(6, *SIZE, seed=5), torch.tensor([0, 3, 1, 1, 2, 0])


@pytest.fixture(scope="module")
def dense() -> Tensor:
    vector = torch.cat([value.flatten() for values in parameters().values() for value in values])
    return torch.autograd.functional.hessian(lambda v: loss_of(v, IMAGES, TARGETS), vector)


def columns(product) -> Tensor:
    return torch.stack([product(row) for row in torch.eye(product.size, dtype=torch.float64)], dim=1)


@pytest.mark.parametrize(("memory", "threads"), [(1e9, 1), (1e9, 2), (1e9, 9), (1, 1), (1, 2), (40_000, 1)])
def test_products_are_those_of_the_dense_hessian(dense, memory, threads) -> None:
    product = LossHessian(nodes_of(parameters()), IMAGES, TARGETS, memory=memory, threads=threads)
    assert product.kept is (memory == 1e9)
    assert product.size == len(dense)
    assert (columns(product) - dense).abs().max() <= EXACT * dense.abs().max()
    assert product.products == product.size


def test_of_some_nodes_it_is_the_block_of_the_dense_hessian(dense) -> None:
    product = LossHessian(nodes_of(parameters()), IMAGES, TARGETS, only={"b.conv1", "b.norm1"})
    start = sum(math.prod(shape) for name in ("stem", "b.norm0") for shape in SHAPES[name])
    rows = slice(start, start + product.size)
    assert (columns(product) - dense[rows, rows]).abs().max() <= EXACT * dense.abs().max()


def test_products_are_symmetric_and_linear() -> None:
    product = LossHessian(nodes_of(parameters()), IMAGES, TARGETS)
    u, v = normal(product.size, seed=1), normal(product.size, seed=2)
    assert float(u @ product(v)) == pytest.approx(float(v @ product(u)), rel=EXACT)
    assert torch.allclose(product(2 * u - 3 * v), 2 * product(u) - 3 * product(v), rtol=0, atol=1e-13)


def test_the_ends_of_a_part_lie_within_those_of_the_whole() -> None:
    nodes = nodes_of(parameters())
    whole = torch.linalg.eigvalsh(columns(LossHessian(nodes, IMAGES, TARGETS)))
    for name in SHAPES:
        product = LossHessian(nodes, IMAGES, TARGETS, only={name})
        found = ends(lanczos(product, on_sphere(product.size, 0, torch.float64), Until(steps=product.size)), 1)
        assert found.top[0] <= whole[-1] + EXACT
        assert found.lowest >= whole[0] - EXACT


def test_tied_weights_are_one_parameter_whose_shares_add_up() -> None:
    weight = 0.3 * normal(2, 2, 3, 3, seed=3)

    def conv(name: str, at: str, kernel: Tensor) -> Node:
        return Node(name=name, op=Conv(weight=kernel, bias=None, stride=(1, 1), padding=(1, 1)), inputs=(at,))

    def net(first: Tensor, second: Tensor) -> tuple[Node, ...]:
        return with_shapes(
            (
                Node(name="input", op=Input()),
                conv("a", "input", first),
                Node(name="act", op=Activation(kind="tanh"), inputs=("a",)),
                conv("b", "act", second),
                Node(name="pool", op=Pool(kind="avg", kernel=None), inputs=("b",)),
                Node(name="flat", op=Flatten(), inputs=("pool",)),
            ),
            SIZE,
        )

    targets = torch.tensor([0, 1, 1, 0, 1, 0])
    tied = LossHessian(net(weight, weight), IMAGES, targets)
    apart = LossHessian(net(weight, weight.clone()), IMAGES, targets)
    v = normal(weight.numel(), seed=4)
    assert (tied.size, apart.size) == (36, 72)
    both = apart(torch.cat([v, v])).view(2, -1).sum(0)
    assert torch.allclose(tied(v), both, rtol=1e-12, atol=1e-15)


def test_the_parameters_of_the_graph_are_left_alone() -> None:
    values = parameters()
    nodes, leaves = with_leaves(nodes_of(values), torch.float64)
    assert len(leaves) == sum(map(len, values.values()))
    assert not any(value.requires_grad for group in values.values() for value in group)
    assert {leaf.data_ptr() for leaf in leaves}.isdisjoint(v.data_ptr() for group in values.values() for v in group)
    assert [node.name for node in nodes] == [node.name for node in nodes_of(values)]


def test_attention_of_a_program_is_differentiated_twice_and_what_cannot_be_is_named() -> None:
    def attention(x: Tensor) -> Tensor:
        rows = x.flatten(2).transpose(1, 2)
        return F.scaled_dot_product_attention(rows, rows, rows).transpose(1, 2).reshape(x.shape)

    class Once(torch.autograd.Function):
        @staticmethod
        def forward(_, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(_, cotangent: Tensor) -> Tensor:
            raise NotImplementedError("the derivative for once is not implemented")

    def product(function) -> LossHessian:
        nodes = list(nodes_of(parameters()))
        at = next(i for i, node in enumerate(nodes) if node.name == "r1")
        nodes[at] = replace(nodes[at], op=Opaque(name="attention", function=function))
        return LossHessian(nodes, IMAGES, TARGETS)

    found = product(attention)
    u, v = normal(found.size, seed=1), normal(found.size, seed=2)
    assert float(u @ found(v)) == pytest.approx(float(v @ found(u)), rel=1e-10)
    with pytest.raises(NoRule, match="second derivative"):
        product(Once.apply)


# estimators -----------------------------------------------------------------------------------------------------------


def symmetric(size: int, seed: int) -> Tensor:
    full = normal(size, size, seed=seed)
    return full + full.T


def whole(matrix: Tensor, start: Tensor | None = None, **until) -> Krylov:
    size = len(matrix)
    begin = on_sphere(size, 1, torch.float64) if start is None else start
    return lanczos(matrix.mv, begin, Until(**{"steps": size, **until}))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(0, 1000))
def test_lanczos_with_as_many_steps_as_rows_is_the_whole_spectrum(size, seed) -> None:
    matrix = symmetric(size, seed)
    found = whole(matrix)
    values, residuals, weights = found.decomposed()
    expected = torch.linalg.eigvalsh(matrix).numpy()
    assert values == pytest.approx(expected, abs=1e-11 * np.abs(expected).max())
    assert residuals.max() <= 1e-9
    assert weights.sum() == pytest.approx(1.0, abs=EXACT)
    assert torch.allclose(found.basis @ found.basis.T, torch.eye(size, dtype=torch.float64), rtol=0, atol=EXACT)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_orthogonality_survives_converged_pairs(seed) -> None:
    """Without reorthogonalisation, copies of the two outliers appear long before 60 steps."""
    values = torch.cat([torch.linspace(-1, 1, 298, dtype=torch.float64), torch.tensor([500.0, -300.0])])
    found = lanczos(lambda v: values.double() * v, on_sphere(300, seed, torch.float64), Until(steps=60))
    assert torch.allclose(found.basis @ found.basis.T, torch.eye(60, dtype=torch.float64), rtol=0, atol=EXACT)
    ritz, _, _ = found.decomposed()
    assert (np.abs(ritz) > 2).sum() == 2


@pytest.mark.parametrize(("tolerance", "top"), [(1e-3, 1), (1e-6, 3), (1e-10, 5)])
def test_residuals_are_those_of_the_ritz_vectors_and_lanczos_stops_by_them(tolerance, top) -> None:
    values = torch.cat([normal(200, seed=3), torch.tensor([9.0, 8.0, 7.0, 6.5, 6.2, -8.0], dtype=torch.float64)])
    found = lanczos(
        lambda v: values * v, on_sphere(206, 0, torch.float64), Until(steps=206, top=top, tolerance=tolerance)
    )
    shown = ends(found, top)
    assert len(found.diagonal) < 206
    assert max(*shown.residuals, shown.lowest_residual) <= tolerance
    assert shown.top == pytest.approx(values.sort(descending=True).values[:top].tolist(), abs=10 * tolerance)
    assert shown.lowest == pytest.approx(-8.0, abs=10 * tolerance)
    _, mixing = np.linalg.eigh(np.diag(found.diagonal) + np.diag(found.off[:-1], 1) + np.diag(found.off[:-1], -1))
    vector = found.basis.T @ torch.from_numpy(mixing[:, -1].copy())
    residual = float((values * vector - shown.top[0] * vector).norm()) / 9.0
    assert shown.residuals[0] == pytest.approx(residual, rel=1e-3, abs=1e-14)


def test_lanczos_stops_where_the_krylov_space_is_full() -> None:
    values = torch.tensor([3.0, -1.0, 0.5], dtype=torch.float64).repeat_interleave(50)
    found = lanczos(lambda v: values * v, on_sphere(150, 2, torch.float64), Until(steps=150))
    assert len(found.diagonal) == 3
    assert found.off[-1] <= 1e-10
    shown = ends(found, 2)
    assert shown.top == pytest.approx((3.0, 0.5))
    assert shown.lowest == pytest.approx(-1.0)


def test_nothing_is_said_of_what_is_not_finite() -> None:
    with pytest.raises(FloatingPointError, match="not finite"):
        lanczos(lambda v: v * math.nan, on_sphere(4, 0, torch.float64), Until(steps=4))


@pytest.mark.parametrize("matrix", [torch.zeros(5, 5, dtype=torch.float64), torch.eye(5, dtype=torch.float64)])
def test_zero_and_identity_take_one_step(matrix) -> None:
    found = whole(matrix)
    assert len(found.diagonal) == 1
    shown = ends(found, 3)
    assert shown.top == pytest.approx((float(matrix[0, 0]),))
    assert shown.residuals == (found.rounding,)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 30), st.integers(1, 8), st.integers(0, 1000))
def test_the_quadrature_of_random_signs_has_the_trace_of_a_diagonal_matrix(size, steps, seed) -> None:
    values = normal(size, seed=seed)
    signs = torch.randint(2, (size,), generator=torch.Generator().manual_seed(seed)) * 2.0 - 1
    found = lanczos(lambda v: values * v, signs.double() / math.sqrt(size), Until(steps=steps))
    nodes, _, weights = found.decomposed()
    assert size * float(weights @ nodes) == pytest.approx(float(values.sum()), abs=1e-12 * size)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 12), st.integers(0, 1000))
def test_the_quadrature_is_exact_for_polynomials_of_low_degree(size, seed) -> None:
    """<v, H^d v> for d < 2 m: squares of the first components, not of any other."""
    matrix = symmetric(size, seed)
    start = on_sphere(size, seed, torch.float64)
    steps = max(1, size // 2)
    nodes, _, weights = lanczos(matrix.mv, start, Until(steps=steps)).decomposed()
    power = start
    for degree in range(2 * steps):
        scale = float(torch.linalg.matrix_norm(matrix, 2)) ** degree
        assert float(weights @ nodes**degree) == pytest.approx(float(start @ power), abs=1e-10 * scale)
        power = matrix @ power


def test_the_start_is_a_unit_vector_and_a_function_of_the_seed() -> None:
    start = on_sphere(1000, 3, torch.float64)
    assert float(start.norm()) == pytest.approx(1.0, abs=EXACT)
    assert torch.equal(start, on_sphere(1000, 3, torch.float64))
    assert not torch.equal(start, on_sphere(1000, 4, torch.float64))


def test_the_standard_error_of_a_share_is_that_over_starts() -> None:
    values = torch.where(torch.arange(300) < 30, 2.0, torch.where(torch.arange(300) < 120, -3.0, 0.0)).double()
    shares, errors = [], []
    for seed in range(400):
        found = lanczos(lambda v: values * v, on_sphere(300, seed, torch.float64), Until(steps=3))
        part, error = share(found, 300, 1.0, math.inf)
        shares.append(part)
        errors.append(error)
    assert np.mean(shares) == pytest.approx(0.1, abs=4 * np.std(shares) / 20)
    assert np.std(shares) == pytest.approx(math.sqrt(2 * 0.1 * 0.9 / 302), rel=0.15)
    assert np.mean(errors) == pytest.approx(np.std(shares), rel=0.15)
    assert share(found, 300, -math.inf, math.inf) == (pytest.approx(1.0), pytest.approx(0.0, abs=1e-6))


# trace ----------------------------------------------------------------------------------------------------------------


def test_the_trace_is_unbiased_for_any_basis() -> None:
    matrix = symmetric(40, 7)
    found = whole(matrix, steps=6)
    for basis, within in ((found.basis, found.trace), (found.basis[:0], 0.0)):
        drawn = [trace(matrix.mv, basis, within, probes=4, seed=seed) for seed in range(400)]
        values, errors = np.array(drawn).T
        assert values.mean() == pytest.approx(float(matrix.trace()), abs=4 * values.std() / 20)
        # The squares of standard errors are unbiased, not the errors.
        assert (errors**2).mean() == pytest.approx(values.var(), rel=0.2)


def test_with_a_whole_basis_the_trace_is_exact_and_takes_no_product() -> None:
    matrix = symmetric(12, 3)
    found = whole(matrix)

    def never(_: Tensor) -> Tensor:
        raise AssertionError

    value, error = trace(never, found.basis, found.trace, probes=3, seed=0)
    assert (value, error) == (pytest.approx(float(matrix.trace()), abs=1e-10), 0.0)


def test_the_basis_takes_most_of_the_error_of_the_trace_away() -> None:
    values = torch.cat([0.1 * normal(996, seed=1), torch.tensor([90.0, 70.0, 50.0, -40.0], dtype=torch.float64)])
    turned = torch.linalg.qr(normal(1000, 1000, seed=2)).Q
    found = lanczos(lambda v: turned @ (values * (turned.T @ v)), on_sphere(1000, 0, torch.float64), Until(steps=12))

    def product(v: Tensor) -> Tensor:
        return turned @ (values * (turned.T @ v))

    value, error = trace(product, found.basis, found.trace, probes=8, seed=1)
    _, plain = trace(product, found.basis[:0], 0.0, probes=8, seed=1)
    assert error < plain / 10
    assert value == pytest.approx(float(values.sum()), abs=4 * error)


# memory ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_restarts_find_the_ends_that_lanczos_finds(dtype) -> None:
    values = torch.cat([normal(200, seed=3), torch.tensor([9.0, 8.0, 7.0, -8.0], dtype=torch.float64)]).to(dtype)
    turned = torch.linalg.qr(normal(204, 204, seed=2)).Q.to(dtype)
    matrix = turned @ values.diag() @ turned.T
    start = on_sphere(204, 0, dtype)
    found = restarted_ends(matrix.mv, start, top=3, tolerance=1e-5, vectors=8)
    assert found.top == pytest.approx((9.0, 8.0, 7.0), rel=1e-4)
    assert found.lowest == pytest.approx(-8.0, rel=1e-4)
    assert max(*found.residuals, found.lowest_residual) <= 2e-5
    assert found.within == pytest.approx(16.0, rel=1e-4)
    assert torch.allclose(found.basis @ found.basis.T, torch.eye(4, dtype=dtype), rtol=0, atol=1e-5)


def test_lanczos_without_a_basis_has_the_same_quadrature_at_first_and_no_ends() -> None:
    matrix = symmetric(60, 5)
    start = on_sphere(60, 0, torch.float64)
    kept = lanczos(matrix.mv, start, Until(steps=8))
    free = lanczos(matrix.mv, start, Until(steps=8), keep=False)
    assert free.basis is None
    assert free.diagonal == pytest.approx(kept.diagonal, abs=1e-9)
    assert free.off == pytest.approx(kept.off, abs=1e-9)
    with pytest.raises(ValueError, match="basis"):
        ends(free, 1)
