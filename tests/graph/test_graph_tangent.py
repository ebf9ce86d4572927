"""Tangents of operations and of whole networks, against torch's own forward mode, and against the adjoints."""

from __future__ import annotations

import families_nets as families
import pytest
import torch
from graph_builders import found, graph_of, recorded
from graph_nets import NETS
from graph_oracles import normal
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from resnet_audit.errors import NoRule
from resnet_audit.graph.adjoint import adjoint, save
from resnet_audit.graph.backward import propagate
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
from resnet_audit.graph.tangent import tangent

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
"""Torch's own, from the first use of its forward mode."""

K, N = 3, 2
MAP = (4, 6, 6)


def vector(*shape, seed=0):
    return normal(*shape, seed=seed)


def attention(x):
    return functional.scaled_dot_product_attention(x, 2 * x, x.flip(-1), is_causal=True)


OPERATIONS = {
    "convolution": (Conv(weight=vector(6, 2, 3, 2), bias=vector(6), stride=(2, 1), padding=(1, 0), groups=2), [MAP]),
    "dilated": (Conv(weight=vector(3, 4, 3, 3), bias=None, stride=(1, 1), padding=(2, 2), dilation=(2, 2)), [MAP]),
    "linear": (Linear(weight=vector(5, 7), bias=vector(5)), [(7,)]),
    "linear of tokens": (Linear(weight=vector(5, 7), bias=vector(5)), [(3, 7)]),
    "norm": (Norm(weight=vector(4), bias=vector(4), mean=vector(4), var=vector(4) ** 2 + 1, eps=1e-5), [MAP]),
    "relu": (Activation(kind="relu"), [MAP]),
    "gelu": (Activation(kind="gelu"), [MAP]),
    "prelu": (Activation(kind="prelu", slopes=vector(4)), [MAP]),
    "maxima": (Pool(kind="max", kernel=(3, 3), stride=(2, 2), padding=(1, 1)), [MAP]),
    "averages": (Pool(kind="avg", kernel=(3, 2), stride=(2, 2), padding=(1, 1)), [MAP]),
    "averages of pixels": (Pool(kind="avg", kernel=(3, 3), stride=(2, 2), padding=(1, 1), count_padding=False), [MAP]),
    "mean": (Pool(kind="avg", kernel=None), [MAP]),
    "adaptive": (AdaptivePool(cells=(4, 5)), [MAP]),
    "sum": (Add(), [MAP, MAP, MAP]),
    "concatenation": (Concat(), [MAP, (2, 6, 6)]),
    "product": (Multiply(), [MAP, MAP, MAP]),
    "gate": (Multiply(), [(4, 1, 1), MAP]),
    "number": (Scale(factor=-0.3), [MAP]),
    "gain": (Scale(factor=vector(1, 4, 1, 1)), [MAP]),
    "pad": (Pad(before=1, after=2), [MAP]),
    "slice": (Slice(step=(2, 3)), [MAP]),
    "flatten": (Flatten(), [MAP]),
    "permute": (Permute(dims=(0, 2, 3, 1)), [MAP]),
    "view": (View(shape=(4, 36)), [MAP]),
    "attention": (Opaque(name="scaled_dot_product_attention", function=attention), [(2, 5, 4)]),
    "layer norm": (Opaque(name="layer_norm", function=lambda x: functional.layer_norm(x, (7,))), [(3, 7)]),
    "of two": (Opaque(name="atan2", function=torch.atan2), [MAP, MAP]),
    "no change": (Opaque(name="sign", function=lambda x: (x > 0).to(x.dtype)), [MAP]),
}


def small(got, expected, tolerance=8e-16):
    """Whether the relative error is below the note's figure for one matvec, or a few roundings of longer sums."""
    return float((got - expected).norm()) <= tolerance * max(1e-300, float(expected.norm()))


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_tangent_of_an_operation_is_torchs_and_its_adjoint_the_transpose(name) -> None:
    op, shapes = OPERATIONS[name]
    values = [vector(N, *shape, seed=index) for index, shape in enumerate(shapes)]
    changes = [vector(K, N, *shape, seed=10 + index) for index, shape in enumerate(shapes)]
    output = apply(op, values)
    node = Node(name="op", op=op, inputs=tuple("abc"[: len(shapes)]), shape=tuple(output.shape[1:]))
    got = tangent(node, save(op, values), changes)
    assert got.shape == (K, *output.shape)
    for row in range(K):
        with sdpa_kernel(SDPBackend.MATH):
            _, expected = torch.func.jvp(
                lambda *given: apply(op, list(given)), tuple(values), tuple(change[row] for change in changes)
            )
        assert small(got[row], expected), name
    cotangent = vector(K, *output.shape, seed=99)
    back = adjoint(node, save(op, values), cotangent, shapes)
    inner = sum(float((part * change).sum()) for part, change in zip(back, changes, strict=True))
    assert inner == pytest.approx(float((got * cotangent).sum()), rel=1e-12, abs=1e-12)


def test_an_operation_that_did_not_record_its_mask_or_cannot_run_has_no_tangent() -> None:
    x = [vector(K, N, *MAP)]
    for op in (
        Activation(kind="relu"),
        Pool(kind="max", kernel=(2, 2), stride=(2, 2)),
        Input(),
        Opaque(name="unknown"),
    ):
        with pytest.raises(NoRule):
            tangent(Node(name="op", op=op, inputs=("a",), shape=MAP), (), x)


def test_a_function_without_a_forward_mode_is_refused_by_name() -> None:
    def flash(x):
        (output, *_) = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(x, x, x)
        return output

    op, value = Opaque(name="flash", function=flash), vector(N, 2, 5, 4)
    with pytest.raises(NoRule, match="the tangent of Opaque"):
        tangent(Node(name="op", op=op, inputs=("a",), shape=(2, 5, 4)), (value,), [value[None]])


# whole networks -----------------------------------------------------------------------------------

FAMILIES = {
    "gates": (lambda: families.se_resnet(linear=False), (3, 24, 24)),
    "dense": (families.densenet, (3, 32, 32)),
    "inverted": (families.mobilenet, (3, 40, 40)),
    "convnext": (families.convnext, (3, 32, 32)),
    "vit": (families.vit, (3, 12, 12)),
    "gpt2": (families.gpt2, (7,)),
    "bert": (families.bert, (7,)),
}


def network(name):
    """The graph and two inputs in float64."""
    if name in NETS:
        return graph_of(name), vector(N, *NETS[name].size)
    build, size = FAMILIES[name]
    torch.manual_seed(0)
    net = families.trained(build()).double()
    x = torch.randint(0, 11, (N, *size)) if len(size) == 1 else vector(N, *size)
    return found(net.state_dict(), input_size=size), x


@pytest.mark.parametrize("name", [*NETS, *FAMILIES])
def test_tangents_of_a_whole_network_are_torchs_and_transpose_its_gradient(name) -> None:
    graph, x = network(name)
    nodes, start = graph.nodes, graph.blocks[0].fork
    values, saved = recorded(nodes, x)
    change = vector(*values[start].shape, seed=5).to(values[start].dtype)
    moved = {start: change[None]}
    for node in nodes:
        if node.name not in moved and any(source in moved for source in node.inputs):
            zero = [torch.zeros_like(values[source])[None] for source in node.inputs]
            given = [moved.get(source, none) for source, none in zip(node.inputs, zero, strict=True)]
            moved[node.name] = tangent(node, saved.get(node.name, ()), given)
    with sdpa_kernel(SDPBackend.MATH):
        _, expected = torch.func.jvp(lambda v: run(nodes, {start: v}, graph.output), (values[start],), (change,))
    assert small(moved[graph.output][0], expected, 1e-13)
    cotangent = vector(*expected.shape, seed=6).to(expected.dtype)
    gradient = propagate(nodes, saved, (graph.output, cotangent), stop=start).at_one()
    assert float((gradient * change).sum()) == pytest.approx(float((expected * cotangent).sum()), rel=1e-10)
