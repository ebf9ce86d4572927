"""Shortcut depth and the Hessian at the zero point, against dense Hessians of networks written in torch alone.

Theory note `shortcut-scaling`, section D: 1 to 7 and 9 are here. The table of all twenty properties is in
test_theory_shortcut_properties.py, faults that these tests catch in test_theory_shortcut_mutants.py.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

import pytest
import torch
from gradient_oracles import SMALL, subject_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from resnet_audit import Settings, discover, load, shortcut
from resnet_audit.errors import NoBlocks, NonFinite, NothingToAnalyse, NotRunnable, UsageError
from resnet_audit.graph import ResidualGraph
from resnet_audit.graph.blocks import find_blocks
from resnet_audit.graph.ir import (
    Activation,
    Add,
    Concat,
    Conv,
    Flatten,
    Input,
    Linear,
    Multiply,
    Node,
    Norm,
    Op,
    Opaque,
    Pool,
    Scale,
)
from resnet_audit.graph.shapes import with_shapes
from resnet_audit.measure import Subject
from resnet_audit.measure.branch import Vanishing, fewest_layers, zero_point
from resnet_audit.measure.hessian import LossHessian
from resnet_audit.measure.hessian_spectrum import Until, lanczos, on_sphere
from resnet_audit.measure.zero_hessian import pair_of, singular_values, zero_spectra
from resnet_audit.theory.shortcut import analyse, level
from resnet_audit.theory.shortcut_hessian import measured_hessian

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

EXACT = 1e-12


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense_hessian(loss, vector: Tensor) -> Tensor:
    """All second derivatives at `vector`, by torch alone."""
    return torch.autograd.functional.hessian(loss, vector)


def graph_of(size: tuple[int, ...], parts: Sequence[tuple[str, Op, tuple[str, ...]]]) -> ResidualGraph:
    # Shapes of opaque operations come from their source: here they keep that of the input.
    found = [Node(name=n, op=op, inputs=i, shape=size if isinstance(op, Opaque) else None) for n, op, i in parts]
    nodes = with_shapes((Node(name="input", op=Input()), *found), size)
    return ResidualGraph(source="weights", family=None, nodes=nodes, blocks=find_blocks(nodes, "graph"))


# linear residual blocks: z + W_n ... W_1 z, logits head z -------------------------------------------------------------


def line(weights: Sequence[Sequence[Tensor]], head: Tensor) -> ResidualGraph:
    """A block for every list of weights, in the package's terms."""
    parts: list[tuple[str, Op, tuple[str, ...]]] = []
    last = "input"
    for index, block in enumerate(weights):
        fork = last
        for place, weight in enumerate(block):
            parts.append((f"b{index}.w{place}", Linear(weight=weight, bias=None), (last,)))
            last = f"b{index}.w{place}"
        parts.append((f"b{index}.add", Add(), (last, fork)))
        last = f"b{index}.add"
    parts.append(("head", Linear(weight=head, bias=None), (last,)))
    return graph_of((head.shape[1],), parts)


def line_loss(
    vector: Tensor, shapes: Sequence[Sequence[tuple[int, int]]], head: Tensor, x: Tensor, y: Tensor
) -> Tensor:
    pieces = iter(vector.split([math.prod(shape) for block in shapes for shape in block]))
    for block in shapes:
        inner = x
        for shape in block:
            inner = inner @ next(pieces).view(shape).T
        x = x + inner
    return F.cross_entropy(x @ head.T, y)


def zeros(shapes: Sequence[Sequence[tuple[int, int]]]) -> list[list[Tensor]]:
    return [[torch.zeros(shape, dtype=torch.float64) for shape in block] for block in shapes]


def batch(width: int, classes: int = 5, count: int = 40, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs of unequal variances, targets, and a head."""
    x = normal(count, width, seed=seed) * torch.linspace(0.3, 3, width, dtype=torch.float64)
    y = torch.randint(classes, (count,), generator=torch.Generator().manual_seed(seed + 1))
    return x, y, normal(classes, width, seed=seed + 2)


def spectra(graph: ResidualGraph, x: Tensor, y: Tensor) -> list[Tensor]:
    pairs = [pair_of(graph, block) for block in graph.blocks]
    return [found.values for found in zero_spectra(graph, pairs, x, y)]


def mirrored(values: Tensor, times: int, size: int) -> Tensor:
    """+-values, each so many times, filled up with zeros to `size`, ascending."""
    both = torch.cat([values, -values]).repeat_interleave(times)
    return torch.cat([both, both.new_zeros(size - len(both))]).sort().values


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 100))
def test_the_spectrum_at_zero_is_plus_minus_b_once_a_hidden_channel_and_block(count, hidden, seed) -> None:
    x, y, head = batch(3, seed=seed)
    shapes = [[(hidden, 3), (3, hidden)]] * count
    size = count * hidden * 6
    got = spectra(line(zeros(shapes), head), x, y)
    at_zero = torch.zeros(size, dtype=torch.float64)
    expected = torch.linalg.eigvalsh(dense_hessian(lambda v: line_loss(v, shapes, head, x, y), at_zero))
    assert all(torch.equal(values, got[0]) for values in got)
    assert (mirrored(got[0], hidden * count, size) - expected).abs().max() <= EXACT * expected.abs().max()
    assert torch.func.grad(lambda v: line_loss(v, shapes, head, x, y))(at_zero).abs().max() == 0


def test_b_does_not_depend_on_the_weights_of_any_branch() -> None:
    x, y, head = batch(3)
    shapes = [[(2, 3), (3, 2)]] * 3
    drawn = [[normal(*shape, seed=seed) for seed, shape in enumerate(block)] for block in shapes]
    for got, expected in zip(spectra(line(drawn, head), x, y), spectra(line(zeros(shapes), head), x, y), strict=True):
        assert torch.equal(got, expected)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.floats(1e-3, 1e3))
def test_the_condition_is_invariant_to_rotation_and_scale(seed, factor) -> None:
    x, y, head = batch(4, seed=seed)
    turn = torch.linalg.qr(normal(4, 4, seed=seed + 3)).Q
    shapes = [[(2, 4), (4, 2)]]
    (plain,) = spectra(line(zeros(shapes), head), x, y)
    (turned,) = spectra(line(zeros(shapes), head @ turn.T), x @ turn.T, y)
    assert torch.allclose(turned, plain, rtol=1e-9, atol=0)
    left, right = normal(6, 4, 3, seed=seed), normal(6, 5, 3, seed=seed + 1)
    scaled, bare = singular_values(factor * left, right), singular_values(left, right)
    assert torch.allclose(scaled / scaled[0], bare / bare[0], rtol=0, atol=EXACT)


@pytest.mark.parametrize(("layers", "count"), [(3, 1), (3, 3), (4, 2)])
def test_with_three_or_more_layers_the_hessian_at_zero_weights_is_zero(layers, count) -> None:
    x, y, head = batch(3)
    graph = line(zeros([[(3, 3)] * layers] * count), head)
    only = {name for block in graph.blocks for name in block.layers}
    hessian = LossHessian(graph.nodes, x, y, only=only)
    for row in torch.eye(hessian.size, dtype=torch.float64)[:: layers + 1]:
        assert not hessian(row).any()
    result = analyse(Subject(graph, Settings(dtype="float64")))
    assert result.zero_hessian == ()
    assert {note.code for note in result.notes} == {"shortcut_depth_three", "no_zero_hessian", "near_zero"}
    assert {row.level for row in result.blocks} == {"warn"}


def test_with_one_layer_the_condition_grows_with_the_number_of_blocks() -> None:
    """Of width 1: L = f(prod (1 + w)), so H = (f'' + f') J - f' I with f at 1."""
    x, y, head = batch(1, seed=8)
    p = torch.ones((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(F.cross_entropy(p * x @ head.T, y), p, create_graph=True)
    (bend,) = torch.autograd.grad(slope, p)
    slope, bend = slope.detach(), bend.detach()
    conditions = {}
    for count in (2, 8, 16, 32):
        graph = line(zeros([[(1, 1)]] * count), head)
        hessian = LossHessian(graph.nodes, x, y, only={f"b{i}.w0" for i in range(count)})
        values = torch.linalg.eigvalsh(torch.stack([hessian(row) for row in torch.eye(count, dtype=torch.float64)]))
        expected = sorted([float(count * (bend + slope) - slope), *[-float(slope)] * (count - 1)])
        assert values.tolist() == pytest.approx(expected, rel=1e-10)
        conditions[count] = float(values.abs().max() / values.abs().min())
    assert conditions[16] / conditions[8] == pytest.approx(2.0, abs=0.2)
    assert conditions[32] / conditions[16] == pytest.approx(2.0, abs=0.1)
    result = analyse(Subject(graph, Settings(dtype="float64")))
    assert {row.level for row in result.blocks} == {"note"}
    assert "shortcut_depth_one" in {note.code for note in result.notes}


def test_where_nothing_can_be_gained_the_condition_is_undefined() -> None:
    _, _, head = batch(3)
    graph = line(zeros([[(2, 3), (3, 2)]]), torch.zeros_like(head))
    (row,) = analyse(Subject(graph, Settings(dtype="float64"))).zero_hessian
    assert (row.sigma_max, row.rank, row.condition) == (0.0, 0, None)


def test_lanczos_sees_each_value_of_the_zero_hessian_once() -> None:
    x, y, head = batch(3, seed=4)
    graph = line(zeros([[(4, 3), (3, 4)]] * 3), head)
    hessian = LossHessian(graph.nodes, x, y, only={name for block in graph.blocks for name in block.layers})
    found = lanczos(hessian, on_sphere(hessian.size, 0, torch.float64), Until(steps=hessian.size))
    values, _, _ = found.decomposed()
    (first, *_) = spectra(graph, x, y)
    assert len(found.diagonal) == 6
    assert values == pytest.approx(mirrored(first, 1, 6).tolist(), abs=1e-10)


# convolutions ---------------------------------------------------------------------------------------------------------

# kernel, stride, padding, dilation of the first and of the second layer
GEOMETRIES = {
    "3x3": ((3, 1, 1, 1), (3, 1, 1, 1)),
    "1x1 then 3x3": ((1, 1, 0, 1), (3, 1, 1, 1)),
    "5x5 then 1x1": ((5, 1, 2, 1), (1, 1, 0, 1)),
    "stride in the first": ((3, 2, 1, 1), (3, 1, 1, 1)),
    "stride in the second": ((3, 1, 1, 1), (3, 2, 1, 1)),
    "dilated": ((3, 1, 2, 2), (3, 1, 2, 2)),
    "wide padding": ((3, 1, 2, 1), (3, 1, 0, 1)),
    "narrow padding": ((3, 1, 0, 1), (3, 1, 2, 1)),
}


def conv(weight: Tensor, geometry: tuple[int, int, int, int]) -> Conv:
    _, stride, padding, dilation = geometry
    return Conv(weight=weight, bias=None, stride=(stride,) * 2, padding=(padding,) * 2, dilation=(dilation,) * 2)


@pytest.mark.parametrize(("activation", "count"), [(None, 1), (None, 2), ("tanh", 2)])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_b_of_convolutions_is_the_dense_hessian(name, activation, count) -> None:
    """relu(stem), then blocks whose shortcut is a strided 1x1 where the branch is strided; mean over the map, head."""
    first, second = GEOMETRIES[name]
    width, hidden, size = 2, 3, (2, 6, 6)
    stride = first[1] * second[1]
    stem, head, images = normal(width, 2, 3, 3, seed=1), normal(4, width, seed=2), normal(5, *size, seed=3)
    project = normal(width, width, 1, 1, seed=4) if stride > 1 else None
    targets = torch.tensor([0, 1, 2, 3, 0])
    shapes = [(hidden, width, first[0], first[0]), (width, hidden, second[0], second[0])]

    def loss(vector: Tensor) -> Tensor:
        pieces = iter(vector.split([math.prod(shape) for _ in range(count) for shape in shapes]))
        x = F.relu(F.conv2d(images, stem, padding=1))
        for _ in range(count):
            inner = F.conv2d(x, next(pieces).view(shapes[0]), None, *first[1:])
            inner = torch.tanh(inner) if activation else inner
            inner = F.conv2d(inner, next(pieces).view(shapes[1]), None, *second[1:])
            x = inner + (x if project is None else F.conv2d(x, project, stride=stride))
        return F.cross_entropy(x.mean((2, 3)) @ head.T, targets)

    parts: list[tuple[str, Op, tuple[str, ...]]] = [
        ("stem", conv(stem, (3, 1, 1, 1)), ("input",)),
        ("z0", Activation(kind="relu"), ("stem",)),
    ]
    for index in range(count):
        b, z = f"b{index}", f"z{index}"
        parts.append((f"{b}.conv1", conv(torch.zeros(shapes[0]).double(), first), (z,)))
        last = f"{b}.conv1"
        if activation:
            parts.append((f"{b}.act", Activation(kind=activation), (last,)))
            last = f"{b}.act"
        parts.append((f"{b}.conv2", conv(torch.zeros(shapes[1]).double(), second), (last,)))
        skip = z
        if project is not None:
            parts.append((f"{b}.project", conv(project, (1, stride, 0, 1)), (z,)))
            skip = f"{b}.project"
        parts.append((f"z{index + 1}", Add(), (f"{b}.conv2", skip)))
    parts += [
        ("pool", Pool(kind="avg", kernel=None), (f"z{count}",)),
        ("flat", Flatten(), ("pool",)),
        ("head", Linear(weight=head, bias=None), ("flat",)),
    ]
    graph = graph_of(size, parts)
    assert len(graph.blocks) == count
    got = spectra(graph, images, targets)
    vector = torch.zeros(count * sum(map(math.prod, shapes)), dtype=torch.float64)
    matrix = dense_hessian(loss, vector)
    each = len(vector) // count
    for index, values in enumerate(got):
        block = matrix[index * each : (index + 1) * each, index * each : (index + 1) * each]
        expected = torch.linalg.eigvalsh(block)
        assert (mirrored(values, hidden, each) - expected).abs().max() <= EXACT * expected.abs().max()
        matrix[index * each : (index + 1) * each, index * each : (index + 1) * each] = 0
    assert matrix.abs().max() <= EXACT * got[0][0]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(1, 3), st.integers(0, 100))
def test_singular_values_are_those_of_the_sum_however_few_the_places(rows, columns, places, samples, seed) -> None:
    left, right = normal(samples, rows, places, seed=seed), normal(samples, columns, places, seed=seed + 1)
    left[:, rows // 2] = 0.0
    right[:, columns // 2] = 0.0
    expected = torch.linalg.svdvals(sum(a @ b.T for a, b in zip(left, right, strict=True)))
    got = singular_values(left, right)
    scale = float(expected[0]) or 1.0
    assert len(got) <= len(expected)
    assert torch.allclose(got, expected[: len(got)], rtol=0, atol=1e-12 * scale)
    assert (expected[len(got) :] <= 1e-12 * scale).all()


# structure ------------------------------------------------------------------------------------------------------------


def branch_of(*ops: Op, join: Op | None = None) -> tuple[ResidualGraph, Vanishing]:
    """A block on a stem whose branch is these operations in a row, and its zero point."""
    parts: list[tuple[str, Op, tuple[str, ...]]] = [("stem", kernel(), ("input",))]
    last = "stem"
    for index, op in enumerate(ops):
        inputs = (last, "b.0") if isinstance(op, Multiply) else (last,)
        parts.append((f"b.{index}", op, inputs))
        last = f"b.{index}"
    parts += [
        ("add", join or Add(), (last, "stem")),
        ("pool", Pool(kind="avg", kernel=None), ("add",)),
        ("flat", Flatten(), ("pool",)),
        ("head", Linear(weight=normal(3, 2 if join is None else 4, seed=9), bias=None), ("flat",)),
    ]
    graph = graph_of((2, 4, 4), parts)
    (block,) = graph.blocks
    return graph, zero_point(graph, block)


def kernel(scale: float = 1.0) -> Conv:
    return Conv(weight=scale * normal(2, 2, 3, 3, seed=1), bias=None, stride=(1, 1), padding=(1, 1))


def norm(*gamma: float) -> Norm:
    weight = torch.tensor(gamma, dtype=torch.float64) if gamma else None
    return Norm(weight=weight, bias=None, mean=torch.zeros(2), var=torch.ones(2), eps=0.0)


RELU = Activation(kind="relu")
LAYER_NORM = Opaque(name="layer_norm", function=lambda x: x)


@pytest.mark.parametrize(
    ("ops", "kind", "size"),
    [
        ((kernel(), norm(1, 1), RELU, kernel(), norm(0.5, -0.1)), "gamma", 0.3),
        ((kernel(), norm(1, 1), RELU, kernel(), norm(0.5, -0.1), RELU), "gamma", 0.3),
        ((norm(1, 1), RELU, kernel(), norm(1, 1), RELU, kernel()), "weights", None),
        ((kernel(), norm()), "weights", None),
        ((kernel(), RELU, kernel(), Scale(factor=-0.2)), "scalar", 0.2),
        ((kernel(), Scale(factor=torch.tensor([[[0.1]], [[-0.5]]]))), "scalar", 0.3),
        ((kernel(), norm(0.5, 0.5), Scale(factor=2.0)), "scalar", 2.0),
        ((kernel(), norm(0.5, 0.5), Multiply()), "gamma", 0.5),
        ((kernel(), kernel(), Multiply()), "weights", None),
        ((kernel(), LAYER_NORM), "gamma", None),
        ((kernel(), norm(math.nan, 1.0)), "gamma", None),
    ],
)
def test_the_zero_point_is_what_comes_first_before_the_sum(ops, kind, size) -> None:
    _, found = branch_of(*ops)
    assert found.kind == kind
    assert found.size == (None if size is None else pytest.approx(size))


def test_a_shortcut_bypasses_the_longest_path_and_the_shortest_is_given_beside_it() -> None:
    graph, _ = branch_of(kernel(), kernel(), kernel(), Multiply())
    (block,) = graph.blocks
    assert (block.weight_layers, fewest_layers(graph, block)) == (3, 1)
    (row,) = analyse(Subject(graph, Settings(dtype="float64"))).blocks
    assert (row.depth, row.depth_min) == (3, 1)


@pytest.mark.parametrize(
    ("depth", "point", "scale", "expected"),
    [
        (2, "weights", 1e-9, "ok"),
        (2, None, None, "ok"),
        (0, "gamma", 1.0, "note"),
        (1, "weights", 1e-9, "note"),
        (3, "gamma", 1e-9, "note"),
        (3, "scalar", 1e-9, "note"),
        (3, "weights", 0.2, "note"),
        (3, "weights", None, "note"),
        (3, None, None, "note"),
        (3, "weights", 0.09, "warn"),
        (9, "weights", 0.0, "warn"),
    ],
)
def test_a_deep_shortcut_is_a_note_and_a_warning_only_near_zero_weights(depth, point, scale, expected) -> None:
    assert level(depth, point, scale) == expected


@pytest.mark.parametrize("factor", [1.0, 0.25, 0.0])
def test_the_scale_of_weights_is_the_geometric_mean_of_their_norms(factor) -> None:
    weights = [normal(3, 3, seed=seed) for seed in (1, 2, 3)]
    weights[1] = factor * weights[1]
    graph = line([weights], normal(4, 3, seed=5))
    (row,) = analyse(Subject(graph, Settings(dtype="float64"))).blocks
    assert row.scale == pytest.approx(math.prod(float(torch.linalg.matrix_norm(w, 2)) for w in weights) ** (1 / 3))
    assert row.zero_point == "weights"


def test_layers_that_are_more_than_two_bare_ones_have_no_closed_form() -> None:
    grouped = replace(kernel(), weight=normal(2, 1, 3, 3, seed=1), groups=2)
    pooled = Pool(kind="max", kernel=(3, 3), padding=(1, 1))
    for ops in ((kernel(),), (grouped, kernel()), (kernel(), pooled, kernel()), (kernel(), kernel(), Multiply())):
        graph, _ = branch_of(*ops)
        assert pair_of(graph, graph.blocks[0]) is None
    joined, _ = branch_of(kernel(), kernel(), join=Concat())
    result = analyse(Subject(joined, Settings(dtype="float64")))
    assert result.zero_hessian == ()
    assert [note.code for note in result.notes] == ["no_zero_point"]


def test_without_blocks_there_is_no_depth() -> None:
    graph = graph_of((3,), [("head", Linear(weight=normal(2, 3, seed=0), bias=None), ("input",))])
    with pytest.raises(NoBlocks):
        shortcut(graph)


def test_what_cannot_run_still_has_its_depths(samples: Path) -> None:
    found = discover(load(str(samples / "digits_resnet" / "epoch24.pt")))
    bare = replace(found, runnable_reason="no input size is known; give --input-size")
    result = analyse(Subject(bare, Settings()))
    assert result.depths == {"2": 9}
    assert (result.zero_hessian, result.inputs, result.target, result.hessian) == ((), None, None, None)
    (note,) = result.notes
    assert (note.code, note.where) == ("not_runnable", "zero_hessian")
    with pytest.raises(NotRunnable):
        analyse(Subject(bare, Settings(hessian=True)))
    nowhere = replace(
        bare, nodes=(), blocks=tuple(replace(b, fork="", join="", branch=(), skip=()) for b in bare.blocks)
    )
    rows = analyse(Subject(nowhere, Settings())).blocks
    assert {(row.depth, row.depth_min, row.zero_point, row.scale, row.level) for row in rows} == {
        (2, 2, None, None, "ok")
    }


def test_weights_that_are_not_finite_leave_the_depths() -> None:
    weights = [[normal(3, 3, seed=1), normal(3, 3, seed=2)]]
    weights[0][0][0, 0] = math.nan
    graph = line(weights, normal(4, 3, seed=5))
    result = analyse(Subject(graph, Settings(dtype="float64")))
    assert result.blocks[0].scale is None
    assert [note.code for note in result.notes] == ["nonfinite"]
    with pytest.raises(NonFinite):
        analyse(Subject(graph, Settings(dtype="float64", hessian=True)))


# whole networks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
def test_a_stage_has_one_row_of_a_block_that_keeps_its_shape_if_it_can(name) -> None:
    subject = subject_of(SMALL[name])
    result = analyse(subject)
    kept = {block.stage for block in subject.graph.blocks if not block.transition}
    by_name = {block.name: block for block in subject.graph.blocks}
    assert [row.stage for row in result.zero_hessian] == sorted({block.stage for block in subject.graph.blocks})
    for row in result.zero_hessian:
        assert by_name[row.block].transition is (row.stage not in kept)
        assert row.condition is None or row.condition >= 1


@pytest.mark.parametrize("name", ["resnet20", "resnet56"])
def test_the_blocks_of_a_stage_have_the_same_b(checkpoints: Path, name: str) -> None:
    """Table A3. Its probe, patches of a photograph, is not at hand: ranks and agreement do not depend on it."""
    chosen = Settings(samples=4)
    graph = discover(load(str(checkpoints / f"{name}.th")), chosen)
    subject = Subject(graph, chosen)
    targets = subject.recording.logits.argmax(-1)
    pairs = [pair_of(graph, block) for block in graph.blocks]
    some = [pair for pair in pairs if not pair.block.transition]
    if name == "resnet56":
        some = [pair for pair in some if pair.block.name[-1] in "158"]
    found = zero_spectra(graph, some, subject.inputs.values.double(), targets, threads=2)
    live = {"resnet20": 14, "resnet56": 15}[name]
    stages: dict[int, list[Tensor]] = {}
    for one in found:
        stages.setdefault(one.block.stage, []).append(one.values)
        assert (one.rows, one.columns) == (9 * 16 * 2 ** (one.block.stage - 1),) * 2
        assert int((one.values > one.tolerance).sum()) == 9 * live
        assert len(one.values) == 9 * live, "nothing lies between the rank and the tolerance"
    for values in stages.values():
        assert len(values) > 1
        assert all(torch.allclose(other, values[0], rtol=0, atol=1e-12 * float(values[0][0])) for other in values)


def test_the_distance_from_the_zero_point_is_that_of_the_note(checkpoints: Path) -> None:
    """A4: |gamma| of resnet20 has the median .471 and the minimum .360, of resnet56 .346 and .243."""
    for name, median, least in (("resnet20", 0.471, 0.360), ("resnet56", 0.346, 0.243)):
        chosen = Settings(samples=2)
        rows = shortcut(discover(load(str(checkpoints / f"{name}.th")), chosen), chosen).blocks
        sizes = sorted(row.scale for row in rows)
        assert (sizes[len(sizes) // 2], sizes[0]) == (pytest.approx(median, abs=5e-4), pytest.approx(least, abs=5e-4))
        assert Counter((row.depth, row.zero_point, row.level) for row in rows) == {(2, "gamma", "ok"): len(rows)}


# measured -------------------------------------------------------------------------------------------------------------


def measured_dense(subject: Subject, only: set[str] | None = None) -> Tensor:
    hessian = LossHessian(subject.graph.nodes, subject.inputs.values, subject.recording.logits.argmax(-1), only=only)
    return torch.stack([hessian(row) for row in torch.eye(hessian.size, dtype=torch.float64)])


@pytest.mark.parametrize("name", ["post-pad", "pre-project"])
def test_the_measured_hessian_is_that_of_the_dense_matrix(name) -> None:
    subject = subject_of(SMALL[name], hessian=True)
    found = analyse(subject).hessian
    values = torch.linalg.eigvalsh(measured_dense(subject))
    largest = float(values.abs().max())
    assert found.parameters == len(values)
    assert found.top == pytest.approx(values.flip(0)[:3].tolist(), abs=1e-5 * largest)
    assert (found.lambda_max, found.lambda_min) == (found.top[0], pytest.approx(float(values[0]), abs=1e-5 * largest))
    assert max(*found.residuals, found.lambda_min_residual) <= 1e-5
    assert found.trace == pytest.approx(float(values.sum()), abs=5 * found.trace_se + 1e-9 * largest)
    density = found.density
    assert density.tolerance == pytest.approx(1e-2 * largest, rel=1e-4)
    assert math.fsum(density.weights) == pytest.approx(1.0)
    share = float((values > density.tolerance).double().mean())
    assert density.above == pytest.approx(share, abs=4 * density.above_error)
    assert density.above + density.below <= 1
    assert found.blocks == ()


def test_of_chosen_blocks_it_is_a_part_and_its_ends_lie_within() -> None:
    subject = subject_of(SMALL["post-pad"], hessian=True)
    whole = analyse(subject).hessian
    block = subject.graph.blocks[1]
    part = analyse(subject_of(SMALL["post-pad"], hessian=True, blocks=(block.name,))).hessian
    values = torch.linalg.eigvalsh(measured_dense(subject, {*block.branch, *block.skip}))
    assert part.blocks == (block.name,)
    assert part.parameters == len(values) < whole.parameters
    assert (part.lambda_max, part.lambda_min) == (
        pytest.approx(float(values[-1]), rel=1e-4),
        pytest.approx(float(values[0]), abs=1e-4 * float(values[-1])),
    )
    assert whole.lambda_min - 1e-9 <= part.lambda_min
    assert part.lambda_max <= whole.lambda_max + 1e-9
    with pytest.raises(UsageError, match="matches no block"):
        analyse(subject_of(SMALL["post-pad"], hessian=True, blocks=("nothing",)))


def test_without_room_for_the_vectors_the_ends_are_the_same() -> None:
    subject = subject_of(SMALL["post-pad"])
    targets = subject.recording.logits.argmax(-1)
    kept = measured_hessian(subject, targets, [])
    restarted = measured_hessian(subject, targets, [], basis_bytes=20 * 8 * kept.parameters)
    assert (kept.method, restarted.method) == ("lanczos", "restarted")
    assert restarted.top == pytest.approx(kept.top, rel=1e-4)
    assert restarted.lambda_min == pytest.approx(kept.lambda_min, abs=1e-4 * kept.lambda_max)
    assert abs(restarted.trace - kept.trace) <= 5 * (restarted.trace_se + kept.trace_se)
    assert restarted.matvecs > kept.matvecs


def test_what_has_no_parameters_that_vary_is_refused() -> None:
    parts = [
        ("a", Opaque(name="conv1d", function=lambda x: 2 * x, weights=(normal(1, seed=0),)), ("input",)),
        ("add", Add(), ("a", "input")),
    ]
    nodes = (
        Node(name="input", op=Input(), shape=(3,)),
        *(Node(name=n, op=o, inputs=i, shape=(3,)) for n, o, i in parts),
    )
    graph = ResidualGraph(source="module", family=None, nodes=nodes, blocks=find_blocks(nodes, "graph"))
    subject = Subject(graph, Settings(dtype="float64", hessian=True))
    with pytest.raises(NothingToAnalyse):
        measured_hessian(subject, torch.zeros(32, dtype=torch.long), [])


def test_labels_of_the_data_are_the_targets_if_there_are_any(samples: Path) -> None:
    chosen = Settings(data=str(samples / "digits.npz"), samples=8, input_size=(1, 8, 8))
    graph = discover(load(str(samples / "digits_resnet" / "epoch24.pt")), chosen)
    assert shortcut(graph, chosen).target == "labels"
    assert shortcut(graph, replace(chosen, data=None)).target == "prediction"


def test_a_seed_gives_the_same_bytes_and_another_one_the_same_ends() -> None:
    runs = [analyse(subject_of(SMALL["post"], hessian=True, seed=seed, inputs="pink")) for seed in (1, 1)]
    assert runs[0] == runs[1]


def test_every_pair_of_settings_measures_nothing_unless_asked() -> None:
    for name, inputs in product(("post", "pre"), ("pink", "gaussian")):
        assert analyse(subject_of(SMALL[name], inputs=inputs)).hessian is None
