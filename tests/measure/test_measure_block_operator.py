"""Jacobians of blocks against torch's own, product by product and as whole matrices."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from measure_oracles import RELU, conv, nodes_of, one_thread, tensor

from resnet_audit.graph.adjoint import save
from resnet_audit.graph.blocks import find_blocks
from resnet_audit.graph.execute import run
from resnet_audit.graph.fold import fold_norms
from resnet_audit.graph.ir import (
    Activation,
    Add,
    Concat,
    Linear,
    Multiply,
    Node,
    Norm,
    Op,
    Opaque,
    Pad,
    Pool,
    Scale,
    Slice,
)
from resnet_audit.measure.block_operator import BlockMaps, block_maps, dense

_one_thread = pytest.fixture(scope="module", autouse=True)(one_thread)

SAMPLES = 3
GELU = Activation(kind="gelu")


def kernel(seed: int, c_out: int, c_in: int, stride: int = 1, extent: int = 3) -> Op:
    rng = np.random.default_rng(seed)
    return conv(tensor(rng, c_out, c_in, extent, extent) / 3, tensor(rng, c_out), stride)


def norm(channels: int) -> Norm:
    rng = np.random.default_rng(7)
    weight, bias, mean = (tensor(rng, channels) for _ in range(3))
    return Norm(weight=weight, bias=bias, mean=mean, var=tensor(rng, channels).square() + 0.5, eps=1e-5)


NETS = {
    "identity": [
        ("a", kernel(1, 2, 2), "stem"),
        ("relu", RELU, "a"),
        ("b", kernel(2, 2, 2), "relu"),
        ("join", Add(), "b", "stem"),
        ("out", RELU, "join"),
    ],
    "identity first": [("a", kernel(1, 2, 2), "stem"), ("r", GELU, "a"), ("join", Add(), "stem", "r")],
    "padded": [
        ("a", kernel(1, 4, 2, 2), "stem"),
        ("relu", RELU, "a"),
        ("half", Scale(factor=0.3), "relu"),
        ("thin", Slice(step=(2, 2)), "stem"),
        ("wide", Pad(before=1, after=1), "thin"),
        ("join", Add(), "half", "wide"),
    ],
    "projected, with norms": [
        ("a", kernel(1, 3, 2, 2), "stem"),
        ("n", norm(3), "a"),
        ("relu", RELU, "n"),
        ("b", kernel(2, 3, 3), "relu"),
        ("m", norm(3), "b"),
        ("p", kernel(3, 3, 2, 2, 1), "stem"),
        ("q", norm(3), "p"),
        ("join", Add(), "m", "q"),
    ],
    "concatenated": [
        ("n", norm(2), "stem"),
        ("r", RELU, "n"),
        ("a", kernel(1, 3, 2), "r"),
        ("join", Concat(), "stem", "a"),
    ],
    "gated": [
        ("a", kernel(1, 2, 2), "stem"),
        ("mean", Pool(kind="avg", kernel=None), "a"),
        ("g", kernel(2, 2, 2, 1, 1), "mean"),
        ("s", Activation(kind="sigmoid"), "g"),
        ("x", Multiply(), "a", "s"),
        ("join", Add(), "x", "stem"),
    ],
    "norm on the shortcut": [
        ("a", kernel(1, 2, 2), "stem"),
        ("r", RELU, "a"),
        ("b", kernel(2, 2, 2), "r"),
        ("n", norm(2), "stem"),
        ("join", Add(), "b", "n"),
    ],
    "two branches": [
        ("a", kernel(1, 2, 2), "stem"),
        ("r", RELU, "a"),
        ("b", kernel(2, 2, 2, 1, 1), "r"),
        ("c", kernel(4, 2, 2), "stem"),
        ("d", RELU, "c"),
        ("e", kernel(5, 2, 2), "d"),
        ("sum", Add(), "b", "e"),
        ("join", Add(), "sum", "stem"),
    ],
    "maximum": [
        ("a", kernel(1, 2, 2), "stem"),
        ("m", Pool(kind="max", kernel=(3, 3), stride=(1, 1), padding=(1, 1)), "a"),
        ("b", kernel(2, 2, 2), "m"),
        ("join", Add(), "b", "stem"),
    ],
    "a function that reads a mask": [
        ("a", kernel(1, 2, 2), "stem"),
        ("mask", RELU, "a"),
        ("chosen", Add(), "mask", "a"),
        ("join", Add(), "chosen", "stem"),
    ],
    "tokens": [
        (
            "up",
            Linear(weight=tensor(np.random.default_rng(1), 9, 5) / 3, bias=tensor(np.random.default_rng(2), 9)),
            "stem",
        ),
        ("r", GELU, "up"),
        ("down", Linear(weight=tensor(np.random.default_rng(3), 5, 9) / 3, bias=None), "r"),
        ("join", Add(), "down", "stem"),
    ],
}
FUNCTIONS = {
    "mask": Opaque(name="gt", function=lambda x: x > 0),
    "chosen": Opaque(name="where", function=lambda mask, x: torch.where(mask, 2 * x, x.sin())),
}
"""What stands at these names once the shapes are known."""
TOKENS = Linear(weight=tensor(np.random.default_rng(4), 5, 3), bias=None)


@cache
def network(name: str) -> tuple[tuple[Node, ...], torch.Tensor]:
    """The nodes and the value of the stem, the fork of the only block, at each sample."""
    stem, size = (TOKENS, (4, 3)) if name == "tokens" else (kernel(9, 2, 2), (2, 5, 7))
    nodes = nodes_of(size, ("stem", stem, "input"), *NETS[name])
    nodes = tuple(replace(node, op=FUNCTIONS.get(node.name, node.op)) for node in nodes)
    x = tensor(np.random.default_rng(5), SAMPLES, *size)
    return nodes, run(nodes, {"input": x}, "stem")


@cache
def maps(name: str, *, branch_only: bool = False, dtype: torch.dtype = torch.float64) -> BlockMaps:
    nodes, fork = network(name)
    (block,) = find_blocks(nodes, "graph")
    assert (block.fork, block.join) == ("stem", "join")
    saved = {}

    def visit(node: Node, given: list[torch.Tensor], _value: torch.Tensor) -> None:
        if kept := save(node.op, given):
            saved[node.name] = kept

    run(nodes, {"stem": fork.to(dtype)}, nodes[-1].name, visit)
    return block_maps(nodes, block, saved, batch=SAMPLES, dtype=dtype, branch_only=branch_only)


def channels_last(value: torch.Tensor) -> torch.Tensor:
    """Values (N, ...) as vectors (N, n) in the order that the maps use."""
    return (value.permute(0, 2, 3, 1) if value.ndim == 4 else value).flatten(1)


def jvp(name: str, change: torch.Tensor, *, branch_only: bool) -> torch.Tensor:
    """Torch's own product; of the branch alone: the block's less that of its shortcut, or the branch's channels."""
    nodes, fork = network(name)

    def moved(node: str) -> torch.Tensor:
        return torch.func.jvp(lambda v: run(nodes, {"stem": v}, node), (fork,), (change,))[1]

    whole = moved("join")
    if not branch_only:
        return whole
    if name == "concatenated":
        return torch.cat([torch.zeros_like(change), whole[:, change.shape[1] :]], dim=1)
    skip = {"padded": "wide", "projected, with norms": "q", "norm on the shortcut": "n"}.get(name)
    return whole - (change if skip is None else moved(skip))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("branch_only", [False, True])
@pytest.mark.parametrize("name", NETS)
def test_a_product_is_torchs(name: str, branch_only: bool) -> None:  # noqa: FBT001 - a parameter of the test
    _, fork = network(name)
    found = maps(name, branch_only=branch_only)
    change = tensor(np.random.default_rng(6), *fork.shape)
    got, expected = found.forward(channels_last(change)), channels_last(jvp(name, change, branch_only=branch_only))
    # A difference of two products has the rounding of both.
    tolerance = 2e-15 if branch_only else 8e-16
    assert float((got - expected).norm()) <= tolerance * float(expected.norm())


@pytest.mark.parametrize("branch_only", [False, True])
@pytest.mark.parametrize("name", NETS)
def test_the_adjoint_is_the_transpose(name: str, branch_only: bool) -> None:  # noqa: FBT001 - a parameter of the test
    found = maps(name, branch_only=branch_only)
    rng = np.random.default_rng(8)
    x, y = tensor(rng, 2 * SAMPLES, found.columns), tensor(rng, 2 * SAMPLES, found.rows)
    left, right = (found.forward(x) * y).sum(dim=1), (x * found.adjoint(y)).sum(dim=1)
    assert torch.allclose(left, right, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NETS)
def test_the_matrix_is_the_jacobian_of_every_sample(name: str) -> None:
    nodes, fork = network(name)
    found = dense(maps(name), torch.float64)
    assert found.shape == (SAMPLES, maps(name).rows, maps(name).columns)
    for row in range(SAMPLES):
        jacobian = torch.autograd.functional.jacobian(
            lambda v: run(nodes, {"stem": v[None]}, "join")[0], fork[row], vectorize=False
        ).reshape(found.shape[1], found.shape[2])
        expected, got = torch.linalg.svdvals(jacobian), torch.linalg.svdvals(found[row])
        assert torch.allclose(got, expected, atol=1e-12 * float(expected[0]))
        assert float(found[row].sum()) == pytest.approx(float(jacobian.sum()), rel=1e-10)


def test_the_matrix_does_not_depend_on_how_many_units_pass_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = dense(maps("identity"), torch.float64)
    monkeypatch.setattr("resnet_audit.measure.block_operator.DENSE_ENTRIES", 1)
    assert torch.allclose(dense(maps("identity"), torch.float64), whole, rtol=1e-14, atol=1e-14)


def test_folded_norms_leave_the_jacobian_as_it_is() -> None:
    name = "projected, with norms"
    nodes, fork = network(name)
    folded = fold_norms(nodes)
    (block,) = find_blocks(folded.nodes, "graph")
    saved = {}

    def visit(node: Node, given: list[torch.Tensor], _value: torch.Tensor) -> None:
        if kept := save(node.op, given):
            saved[node.name] = kept

    run(nodes, {"stem": fork}, "join", visit)
    found = block_maps(folded.nodes, block, saved, batch=SAMPLES, dtype=torch.float64)
    assert torch.allclose(dense(found, torch.float64), dense(maps(name), torch.float64), atol=1e-13)


def test_single_precision_is_close_to_double() -> None:
    single = maps("identity", dtype=torch.float32)
    x = tensor(np.random.default_rng(1), SAMPLES, single.columns)
    got, expected = single.forward(x.float()), maps("identity").forward(x)
    assert got.dtype == torch.float32
    assert float((got - expected).norm()) <= 1e-6 * float(expected.norm())


def test_the_branch_leaves_out_what_only_the_shortcut_needs() -> None:
    assert [node.name for node in maps("padded", branch_only=True).nodes] == ["a", "relu", "half", "join"]
    assert [node.name for node in maps("padded").nodes] == ["a", "relu", "half", "thin", "wide", "join"]
