"""Values and second derivatives of a network in its cheap form, against torch's own of the network as it was."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from resnet_audit.graph.execute import run
from resnet_audit.graph.ir import Activation, Add, Conv, Input, Node, Norm
from resnet_audit.measure.hessian import with_leaves
from resnet_audit.measure.hessian_graph import cheap_twice


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@dataclass(frozen=True)
class Case:
    """A convolution of 4 channels to 6, what stands behind it, and which nodes have parameters that vary."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    bias: bool
    norm: bool
    affine: bool
    only: frozenset[str]


pairs = st.tuples(st.integers(1, 2), st.integers(1, 2))
cases = st.builds(
    Case,
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=pairs,
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=pairs,
    groups=st.sampled_from([1, 2]),
    bias=st.booleans(),
    norm=st.booleans(),
    affine=st.booleans(),
    only=st.frozensets(st.sampled_from(["first", "conv", "norm", "last"]), min_size=1),
)


def network(case: Case, seed: int) -> tuple[Node, ...]:
    """Three convolutions with tanh between, the second as in the case."""
    norm = Norm(
        weight=normal(6, seed=seed + 1) if case.affine else None,
        bias=normal(6, seed=seed + 2) if case.affine else None,
        mean=normal(6, seed=seed + 3),
        var=normal(6, seed=seed + 4).square(),
        eps=0.1,
    )
    conv = Conv(
        weight=0.5 * normal(6, 4 // case.groups, *case.kernel, seed=seed + 5),
        bias=normal(6, seed=seed + 6) if case.bias else None,
        stride=case.stride,
        padding=case.padding,
        dilation=case.dilation,
        groups=case.groups,
    )
    first = Conv(weight=normal(4, 2, 1, 1, seed=seed + 7), bias=normal(4, seed=seed + 8), stride=(1, 1), padding=(0, 0))
    last = Conv(weight=normal(3, 6, 1, 1, seed=seed + 9), bias=None, stride=(1, 1), padding=(0, 0))
    return (
        Node(name="input", op=Input()),
        Node(name="first", op=first, inputs=("input",)),
        Node(name="a", op=Activation(kind="tanh"), inputs=("first",)),
        Node(name="conv", op=conv, inputs=("a",)),
        *([Node(name="norm", op=norm, inputs=("conv",))] if case.norm else []),
        Node(name="b", op=Activation(kind="tanh"), inputs=("norm" if case.norm else "conv",)),
        Node(name="last", op=last, inputs=("b",)),
    )


def second_derivative(nodes: tuple[Node, ...], leaves: list[Tensor], x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The value, and H v of the mean of its tanh for one v."""
    value = run(nodes, {"input": x}, nodes[-1].name)
    gradient = torch.autograd.grad(value.tanh().mean(), leaves, create_graph=True, materialize_grads=True)
    along = [normal(*leaf.shape, seed=100 + index) for index, leaf in enumerate(leaves)]
    kept = [(g, v) for g, v in zip(gradient, along, strict=True) if g.requires_grad]
    outputs, vectors = zip(*kept, strict=True)
    return value.detach(), list(torch.autograd.grad(outputs, leaves, vectors, materialize_grads=True))


@settings(max_examples=80, deadline=None)
@given(cases, st.integers(0, 1000), st.sampled_from([torch.contiguous_format, torch.channels_last]))
def test_value_and_second_derivative_are_those_of_torch(case: Case, seed: int, layout: torch.memory_format) -> None:
    x = normal(2, 2, 7, 6, seed=seed).contiguous(memory_format=layout)
    nodes, leaves = with_leaves(network(case, seed), torch.float64, case.only)
    if not leaves:
        return
    expected, images = second_derivative(nodes, leaves, x)
    got, found = second_derivative(cheap_twice(nodes), leaves, x)
    assert torch.allclose(got, expected, rtol=0, atol=1e-13 * float(expected.abs().max()))
    scale = max(float(image.abs().max()) for image in images)
    for one, other in zip(found, images, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-12 * scale)


def test_in_single_precision_the_values_are_the_same_bits() -> None:
    """Rounded otherwise, a unit near 0 would change sides of its kink, and the Hessian with it."""
    case = Case((3, 3), (1, 1), (1, 1), (1, 1), 1, bias=True, norm=True, affine=True, only=frozenset({"conv"}))
    nodes, _ = with_leaves(network(case, 0), torch.float32)
    x = normal(4, 2, 8, 8, seed=1).float()
    assert torch.equal(run(cheap_twice(nodes), {"input": x}, "last"), run(nodes, {"input": x}, "last"))


def test_a_convolution_that_others_read_too_keeps_its_own_node() -> None:
    case = Case((3, 3), (1, 1), (1, 1), (1, 1), 1, bias=False, norm=True, affine=True, only=frozenset({"conv"}))
    *nodes, _ = network(case, 0)
    alone = cheap_twice(tuple(nodes))
    assert [node.name for node in alone] == ["input", "first", "a", "norm", "b"]
    both = cheap_twice((*nodes, Node(name="sum", op=Add(), inputs=("b", "conv"))))
    assert [node.name for node in both] == ["input", "first", "a", "conv", "norm", "b", "sum"]
