"""Values and adjoints of single operations against torch's own functions and its autograd."""

from __future__ import annotations

import pytest
import torch
from graph_builders import conv, norm, relu
from graph_oracles import normal
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from resnet_audit.errors import NoRule
from resnet_audit.graph.adjoint import adjoint, save
from resnet_audit.graph.execute import apply, run
from resnet_audit.graph.ir import (
    Activation,
    AdaptivePool,
    Add,
    Concat,
    Conv,
    Flatten,
    Input,
    Linear,
    Multiply,
    Node,
    Norm,
    Opaque,
    Pad,
    Permute,
    Pool,
    Scale,
    Slice,
    View,
)
from resnet_audit.graph.shapes import windows_along, with_shapes

BATCH, COPIES = 3, 2
many = settings(max_examples=60, deadline=None)
sizes = st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9))
seeds = st.integers(0, 2**16)


def reference(op: object, inputs: list[Tensor]) -> Tensor:
    """What the operation is, said with torch's own functions."""
    match op:
        case Conv():
            return functional.conv2d(inputs[0], op.weight, op.bias, op.stride, op.padding, op.dilation, op.groups)
        case Linear():
            return functional.linear(inputs[0], op.weight, op.bias)
        case Norm():
            return functional.batch_norm(inputs[0], op.mean, op.var, op.weight, op.bias, training=False, eps=op.eps)
        case Activation():
            return inputs[0].clamp(min=0) if inputs[0].ne(0).all() else functional.relu(inputs[0])
        case Pool(kernel=None):
            return functional.adaptive_avg_pool2d(inputs[0], 1)
        case Pool(kind="max"):
            return torch.nn.MaxPool2d(op.kernel, op.stride, op.padding, op.dilation, ceil_mode=op.ceil)(inputs[0])
        case Pool():
            return torch.nn.AvgPool2d(op.kernel, op.stride, op.padding, op.ceil, op.count_padding)(inputs[0])
        case AdaptivePool():
            return torch.nn.AdaptiveAvgPool2d(op.cells)(inputs[0])
        case Add():
            return torch.stack(inputs).sum(0)
        case Concat():
            return torch.cat(inputs, 1)
        case Scale():
            return inputs[0] * op.factor
        case Pad():
            x = inputs[0]
            before, after = (x.new_zeros(len(x), count, *x.shape[2:]) for count in (op.before, op.after))
            return torch.cat([before, x, after], 1)
        case Slice():
            rows, columns = (torch.arange(0, n, step) for n, step in zip(inputs[0].shape[2:], op.step, strict=True))
            return inputs[0][:, :, rows][:, :, :, columns]
        case Flatten():
            return inputs[0].reshape(len(inputs[0]), -1)
    raise AssertionError(op)


def assert_right(op: object, inputs: list[Tensor]) -> None:
    """Value, shape, and the adjoint for several cotangents at once are those of the reference under autograd."""
    leaves = [x.clone().requires_grad_(requires_grad=True) for x in inputs]
    expected = reference(op, leaves)
    torch.testing.assert_close(apply(op, inputs), expected.detach(), rtol=1e-12, atol=1e-12)
    names = [f"x{index}" for index in range(len(inputs))]
    shape = tuple(expected.shape[1:])
    node = Node(name="y", op=op, inputs=tuple(names), shape=shape)
    cotangents = normal(COPIES, *expected.shape, seed=7)
    found = adjoint(node, save(op, inputs), cotangents, [tuple(x.shape[1:]) for x in inputs])
    assert [tuple(got.shape) for got in found] == [(COPIES, *x.shape) for x in inputs]
    for copy in range(COPIES):
        gradients = torch.autograd.grad(expected, leaves, cotangents[copy], retain_graph=True)
        for got, gradient in zip(found, gradients, strict=True):
            torch.testing.assert_close(got[copy], gradient, rtol=1e-12, atol=1e-12)
    if not isinstance(op, Activation | Pool) or getattr(op, "kind", "") == "avg":
        assert_transposed(op, node, inputs, cotangents)
    source = [Node(name="x", op=Input())]
    if len(inputs) == 1:
        shaped = with_shapes((*source, Node(name="y", op=op, inputs=("x",))), tuple(inputs[0].shape[1:]))
        assert shaped[1].shape == shape


def assert_transposed(op: object, node: Node, inputs: list[Tensor], cotangents: Tensor) -> None:
    """<T x, y> = <x, T' y>, T the linear part of an operation that has no other nonlinearity than an offset."""
    linear = apply(op, inputs) - apply(op, [torch.zeros_like(x) for x in inputs])
    found = adjoint(node, save(op, inputs), cotangents[:1], [tuple(x.shape[1:]) for x in inputs])
    forward = (linear * cotangents[0]).sum()
    backward = sum((x * got[0]).sum() for x, got in zip(inputs, found, strict=True))
    torch.testing.assert_close(forward, backward, rtol=1e-10, atol=1e-10)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[Conv, Tensor]:
    groups = draw(st.integers(1, 3))
    inputs, outputs = (groups * draw(st.integers(1, 2)) for _ in range(2))
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    kernel, stride, dilation = draw(pair), draw(pair), draw(pair)
    padding = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    seed = draw(seeds)
    size = [d * (k - 1) + 1 + draw(st.integers(0, 5)) for k, d in zip(kernel, dilation, strict=True)]
    op = Conv(
        weight=normal(outputs, inputs // groups, *kernel, seed=seed),
        bias=normal(outputs, seed=seed + 1) if draw(st.booleans()) else None,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
    )
    return op, normal(BATCH, inputs, *size, seed=seed + 2)


@st.composite
def pools(draw: st.DrawFn) -> tuple[Pool, Tensor]:
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    kind = draw(st.sampled_from(["max", "avg"]))
    dilation = draw(st.tuples(st.integers(1, 3), st.integers(1, 3))) if kind == "max" else (1, 1)
    op = Pool(
        kind=kind,
        kernel=kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        ceil=draw(st.booleans()),
        count_padding=draw(st.booleans()),
    )
    size = [d * (k - 1) + 1 + draw(st.integers(0, 5)) for k, d in zip(kernel, dilation, strict=True)]
    return op, normal(BATCH, draw(st.integers(1, 3)), *size, seed=draw(seeds))


@many
@given(convolutions())
def test_a_convolution_of_any_geometry_is_right_in_both_directions(case):
    op, images = case
    assert_right(op, [images])


@many
@given(pools())
def test_pooling_of_any_geometry_is_right_in_both_directions(case):
    op, images = case
    assert_right(op, [images])


@many
@given(sizes, st.tuples(st.integers(1, 9), st.integers(1, 9)), seeds)
def test_adaptive_pooling_to_fewer_or_more_cells_is_right_in_both_directions(size, cells, seed):
    assert_right(AdaptivePool(cells=cells), [normal(BATCH, *size, seed=seed)])


@pytest.mark.parametrize("size", [(5, 5), (6, 6), (7, 5), (1, 9), (2, 2), (224, 3)])
def test_stride_2_is_right_at_odd_and_even_sizes(size):
    images = normal(2, 4, *size)
    assert_right(conv(6, 4, 3, 2), [images])
    assert_right(conv(6, 4, 1, 2), [images])
    assert_right(Slice(step=(2, 2)), [images])
    assert_right(Pool(kind="max", kernel=(3, 3), stride=(2, 2), padding=(1, 1)), [images])
    assert_right(Pool(kind="avg", kernel=(3, 3), stride=(2, 2), padding=(1, 1)), [images])


@many
@given(sizes, st.tuples(st.integers(1, 4), st.integers(1, 4)), st.integers(0, 3), st.integers(0, 3), seeds)
def test_reshaping_is_right_in_both_directions(size, step, before, after, seed):
    images = normal(BATCH, *size, seed=seed)
    for op in (Slice(step=step), Pad(before=before, after=after), Flatten(), Pool(kind="avg", kernel=None)):
        assert_right(op, [images])


@many
@given(sizes, st.booleans(), st.booleans(), st.floats(-3, 3), seeds)
def test_elementwise_operations_are_right_in_both_directions(size, gained, offset, factor, seed):
    images = normal(BATCH, *size, seed=seed)
    gain, shift, mean, spread = normal(4, size[0], seed=seed + 1)
    normalisation = Norm(
        weight=gain if gained else None, bias=shift if offset else None, mean=mean, var=spread.square(), eps=1e-3
    )
    for op in (normalisation, Activation(kind="relu"), Scale(factor=factor)):
        assert_right(op, [images])


@many
@given(st.integers(1, 5), st.integers(1, 5), st.booleans(), seeds)
def test_operations_on_vectors_are_right_in_both_directions(inputs, outputs, biased, seed):
    vectors = normal(BATCH, inputs, seed=seed)
    bias = normal(outputs, seed=seed + 1) if biased else None
    assert_right(Linear(weight=normal(outputs, inputs, seed=seed + 2), bias=bias), [vectors])
    assert_right(norm(inputs, seed=seed), [vectors])
    assert_right(relu(), [vectors])
    assert_right(Concat(), [vectors, normal(BATCH, outputs, seed=seed)])


@many
@given(sizes, st.lists(st.integers(1, 4), min_size=1, max_size=4), seeds)
def test_sums_and_concatenations_are_right_in_both_directions(size, widths, seed):
    assert_right(Add(), [normal(BATCH, *size, seed=seed + index) for index in range(len(widths))])
    assert_right(Concat(), [normal(BATCH, width, *size[1:], seed=seed + i) for i, width in enumerate(widths)])


def test_a_zero_passes_no_gradient_through_relu():
    x = torch.tensor([[-1.0, 0.0, -0.0, 2.0]])
    assert save(relu(), [x])[0].tolist() == [[False, False, False, True]]
    assert_right(relu(), [x.double()])


def test_of_equal_maxima_only_one_passes_the_gradient():
    images = torch.ones(1, 2, 5, 5, dtype=torch.float64)
    assert_right(Pool(kind="max", kernel=(3, 3), stride=(2, 2), padding=(1, 1)), [images])


def test_the_adjoint_of_a_padded_average_counts_the_padding():
    op = Pool(kind="avg", kernel=(2, 2), stride=(2, 2), padding=(1, 1))
    node = Node(name="y", op=op, inputs=("x",), shape=(1, 2, 2))
    (got,) = adjoint(node, (), torch.ones(1, 1, 1, 2, 2), [(1, 2, 2)])
    assert got.unique().tolist() == [0.25]  # each pixel is read once, with weight 1/4


def test_adjoints_are_in_the_precision_of_the_cotangent():
    for op in (
        conv(5, 4, 3),
        norm(4),
        Pool(kind="avg", kernel=(3, 3)),
        Pool(kind="avg", kernel=None),
        Pool(kind="avg", kernel=(4, 3), stride=(3, 2), ceil=True, count_padding=False),
        AdaptivePool(cells=(4, 5)),
        Slice(step=(2, 2)),
    ):
        images = normal(1, 4, 6, 6).float()
        value = apply(op, [images])
        node = Node(name="y", op=op, inputs=("x",), shape=tuple(value.shape[1:]))
        (got,) = adjoint(node, save(op, [images]), value[None], [(4, 6, 6)])
        assert (value.dtype, got.dtype) == (torch.float32, torch.float32)


def under_autograd(op, inputs, expected):
    """The adjoint for several cotangents at once is that of autograd through `expected(*inputs)`."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    value = expected(*leaves)
    torch.testing.assert_close(apply(op, inputs), value.detach(), rtol=1e-12, atol=1e-12)
    names = tuple(f"x{index}" for index in range(len(inputs)))
    node = Node(name="y", op=op, inputs=names, shape=tuple(value.shape[1:]))
    cotangents = normal(3, *value.shape, seed=5)
    found = adjoint(node, save(op, inputs), cotangents, [tuple(x.shape[1:]) for x in inputs])
    for copy in range(3):
        gradients = torch.autograd.grad(value, leaves, cotangents[copy], retain_graph=True)
        for got, gradient in zip(found, gradients, strict=True):
            torch.testing.assert_close(got[copy], gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("gate", [(2, 3, 4, 5), (2, 3, 1, 1)])
def test_a_product_has_the_adjoint_of_autograd_also_where_a_gate_is_broadcast(gate):
    under_autograd(Multiply(), [normal(2, 3, 4, 5), normal(*gate, seed=1)], lambda x, y: x * y)


def test_a_product_of_three_has_the_adjoint_of_autograd():
    factors = [normal(2, 3, 4, 4, seed=seed) for seed in range(3)]
    under_autograd(Multiply(), factors, lambda x, y, z: x * y * z)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("relu6", torch.nn.ReLU6()),
        ("leaky_relu", torch.nn.LeakyReLU(0.2)),
        ("elu", torch.nn.ELU(0.2)),
        ("selu", torch.nn.SELU()),
        ("gelu", torch.nn.GELU()),
        ("gelu_tanh", torch.nn.GELU("tanh")),
        ("silu", torch.nn.SiLU()),
        ("mish", torch.nn.Mish()),
        ("hardswish", torch.nn.Hardswish()),
        ("tanh", torch.nn.Tanh()),
        ("sigmoid", torch.nn.Sigmoid()),
        ("hardsigmoid", torch.nn.Hardsigmoid()),
        ("softplus", torch.nn.Softplus()),
    ],
)
def test_every_activation_has_the_value_and_the_slope_of_its_module(kind, expected):
    under_autograd(Activation(kind=kind, slope=0.2), [4.0 * normal(2, 3, 4, 5)], expected)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (2, 3, 4, 5)], ids=str)
def test_a_learned_slope_of_each_channel_is_that_of_its_module(shape):
    module = torch.nn.PReLU(3).double()
    with torch.no_grad():
        module.weight.copy_(torch.tensor([0.25, -1.5, 2.0]))
    slopes = module.weight.detach().float()
    under_autograd(Activation(kind="prelu", slopes=slopes), [4.0 * normal(*shape)], module)


def test_axes_and_shapes_pass_cotangents_back_to_their_places():
    x = normal(2, 3, 4, 5)
    under_autograd(Permute(dims=(0, 2, 3, 1)), [x], lambda value: value.permute(0, 2, 3, 1))
    under_autograd(View(shape=(6, 10)), [x], lambda value: value.reshape(2, 6, 10))


def test_a_constant_per_channel_scales_cotangents_too():
    gain = normal(3, 1, 1, seed=2)
    under_autograd(Scale(factor=gain), [normal(2, 3, 4, 5)], lambda x: x * gain)


def test_an_operation_known_as_a_function_has_the_adjoint_of_autograd():
    op = Opaque(name="softmax", function=lambda x, y: (x * y).softmax(-1))
    under_autograd(op, [normal(2, 3, 4), normal(2, 3, 4, seed=1)], lambda x, y: (x * y).softmax(-1))


def test_no_gradient_passes_to_tokens():
    table = normal(7, 4)
    op = Opaque(name="embedding", function=lambda tokens: table[tokens], weights=(table,))
    tokens = torch.tensor([[1, 2, 3], [0, 0, 6]])
    node = Node(name="y", op=op, inputs=("x",), shape=(3, 4))
    (got,) = adjoint(node, save(op, [tokens]), normal(2, 2, 3, 4), [(3,)])
    assert got.shape == (2, 2, 3)
    assert not got.any()


def test_an_unknown_operation_has_neither_value_nor_adjoint():
    with pytest.raises(NoRule):
        apply(Opaque(name="softmax"), [normal(2, 3)])
    with pytest.raises(NoRule):
        adjoint(Node(name="y", op=Opaque(name="softmax"), inputs=("x",)), (), normal(1, 2, 3), [(3,)])


def test_an_adjoint_that_lost_its_mask_is_refused():
    for op in (relu(), Pool(kind="max", kernel=(2, 2))):
        with pytest.raises(NoRule):
            adjoint(Node(name="y", op=op, inputs=("x",)), (), normal(1, 2, 3, 4, 4), [(3, 5, 5)])


def chain_of(*ops):
    nodes = [Node(name="x", op=Input())]
    for index, op in enumerate(ops):
        nodes.append(Node(name=f"n{index}", op=op, inputs=(nodes[-1].name,)))
    return nodes


def test_a_run_computes_only_what_the_output_needs():
    nodes = [*chain_of(relu(), Scale(factor=2.0), Scale(factor=3.0)), Node(name="never", op=Opaque(name="?"))]
    seen = []
    x = normal(2, 3)
    value = run(nodes, {"x": x}, "n1", lambda node, _inputs, _value: seen.append(node.name))
    assert seen == ["n0", "n1"]
    assert torch.equal(value, 2 * x.clamp(min=0))
    assert torch.equal(run(nodes, {"x": x}, "x"), x)


def test_a_run_can_start_inside_the_graph():
    nodes, start = chain_of(Opaque(name="?"), Scale(factor=2.0), Scale(factor=3.0)), normal(2, 3)
    assert torch.equal(run(nodes, {"n0": start}, "n2"), 6 * start)


def test_a_value_that_is_read_twice_lives_until_its_last_reader():
    nodes = [
        *chain_of(relu(), Scale(factor=2.0), Scale(factor=3.0)),
        Node(name="sum", op=Add(), inputs=("n2", "n0", "x", "n0")),
    ]
    x = normal(2, 3)
    torch.testing.assert_close(run(nodes, {"x": x}, "sum"), 8 * x.clamp(min=0) + x)


@given(st.integers(1, 40), st.integers(1, 7), st.integers(1, 5), st.integers(0, 4), st.integers(1, 3))
def test_windows_along_counts_the_windows_that_fit(size, kernel, stride, padding, dilation):
    starts = range(-padding, size + padding, stride)
    fitting = sum(start + dilation * (kernel - 1) < size + padding for start in starts)
    assert max(windows_along(size, kernel, stride, padding, dilation), 0) == fitting
