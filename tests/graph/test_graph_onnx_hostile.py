"""Old, odd and broken ONNX models: structure where there is some, one line of reasons, never a crash."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from resnet_audit.errors import AuditError
from resnet_audit.graph.from_onnx import from_onnx

onnx = pytest.importorskip("onnx", reason="the onnx package is not installed")

WEIGHT = np.random.default_rng(0).standard_normal((4, 4, 3, 3)).astype(np.float32)
SIZE = (4, 8, 8)


def node(kind, inputs, outputs, **attributes):
    return onnx.helper.make_node(kind, inputs.split(), outputs.split(), **attributes)


def conv(source, target, **attributes):
    return node("Conv", f"{source} {target}.weight", target, **({"pads": [1, 1, 1, 1]} | attributes))


def model_of(nodes, *, size=("n", *SIZE), out="y", opset=13, extra=(), inputs=(), weights=None):
    """A model with the input x, one output, and a 3x3 kernel for each convolution."""
    held = {name for item in nodes for name in item.input if name.endswith(".weight")}
    tensors = [onnx.numpy_helper.from_array(WEIGHT, name) for name in sorted(held)] if weights is None else weights
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, size), *inputs],
        [onnx.helper.make_tensor_value_info(out, onnx.TensorProto.FLOAT, None)],
        [*tensors, *extra],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])


def residual(*middle):
    return [conv("x", "a"), node("Relu", "a", "r"), *middle, conv("r", "b"), node("Add", "b x", "y")]


def reason_of(model):
    graph = from_onnx(model)
    assert graph.runnable_reason
    assert "\n" not in graph.runnable_reason
    with pytest.raises(AuditError):
        graph.forward(torch.zeros(1, *SIZE))
    return graph.runnable_reason


def oracle(model, x):
    """The value of a model by onnx's reference implementation."""
    from onnx.reference import ReferenceEvaluator  # noqa: PLC0415 (an optional extra)

    return torch.from_numpy(ReferenceEvaluator(model).run(None, {"x": x.numpy()})[0])


def check(model):
    graph = from_onnx(model)
    assert graph.runnable_reason is None
    x = torch.randn(2, *SIZE, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(graph.forward(x), oracle(model, x), atol=1e-5, rtol=1e-5)
    return graph


def test_a_hand_written_residual_block_runs_and_is_found() -> None:
    graph = check(model_of(residual()))
    assert [(block.skip_kind, block.layers) for block in graph.blocks] == [("identity", ("a", "b"))]


def test_nodes_out_of_order_are_put_in_order() -> None:
    graph = from_onnx(model_of(residual()[::-1]))
    assert graph.runnable
    assert len(graph.blocks) == 1


def test_initialisers_may_be_inputs_as_well() -> None:
    weight = onnx.helper.make_tensor_value_info("a.weight", onnx.TensorProto.FLOAT, WEIGHT.shape)
    assert len(check(model_of(residual(), inputs=[weight])).blocks) == 1


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 18, 21])
def test_every_opset_is_read(opset) -> None:
    check(model_of(residual(), opset=opset))


@pytest.mark.parametrize("pads", [[0, 0, 1, 1], [1, 0, 0, 2], [2, 1, 0, 1]])
@pytest.mark.parametrize("stride", [1, 2])
def test_uneven_padding_is_exact(pads, stride) -> None:
    graph = check(model_of([conv("x", "y", pads=pads, strides=[stride, stride])]))
    assert any("uneven padding" in text for text in graph.assumptions)


@pytest.mark.parametrize("auto", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("stride", [1, 2])
def test_automatic_padding_is_exact(auto, stride) -> None:
    nodes = [node("Conv", "x y.weight", "y", auto_pad=auto, strides=[stride, stride])]
    check(model_of(nodes))


def test_uneven_padding_of_a_dilated_kernel_is_exact() -> None:
    check(model_of([conv("x", "y", pads=[1, 2, 2, 1], dilations=[2, 2])]))


def branches(cond, **choices):
    then = onnx.helper.make_graph([conv("r", "t")], "then", [], [_any("t")])
    other = onnx.helper.make_graph([node("Identity", "r", "e")], "else", [], [_any("e")])
    return node("If", cond, "s", then_branch=then, else_branch=other, **choices)


def _any(name):
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)


def with_if(cond, extra=(), before=()):
    nodes = [conv("x", "a"), node("Relu", "a", "r"), conv("r", "b"), node("Add", "b x", "q"), *before]
    names = ("a.weight", "b.weight", "t.weight")
    tensors = [onnx.numpy_helper.from_array(WEIGHT, name) for name in names]
    return model_of([*nodes, branches(cond), node("Add", "s q", "y")], weights=tensors, extra=extra)


def test_a_branch_on_a_constant_is_taken() -> None:
    yes = onnx.numpy_helper.from_array(np.ones((), dtype=bool), "yes")
    graph = from_onnx(with_if("yes", [yes]))
    assert graph.runnable
    assert {item.name for item in graph.weight_nodes} == {"a", "b", "t"}


def test_a_branch_on_a_value_is_not_run_and_the_blocks_outside_it_are_found() -> None:
    before = [
        node("ReduceMax", "x", "m", keepdims=0),
        node("Greater", "m zero", "c"),
    ]
    zero = onnx.numpy_helper.from_array(np.array(0.0, dtype=np.float32), "zero")
    model = with_if("c", [zero], before)
    assert "If" in reason_of(model)
    graph = from_onnx(model)
    assert ("a", "b") in [block.layers for block in graph.blocks]
    assert graph.unplaced == ("t",)


def test_quantised_operators_are_named() -> None:
    scale = onnx.numpy_helper.from_array(np.array(0.1, dtype=np.float32), "s")
    zero = onnx.numpy_helper.from_array(np.array(0, dtype=np.int8), "z")
    nodes = [
        node("QuantizeLinear", "x s z", "q"),
        node("DequantizeLinear", "q s z", "d"),
        conv("d", "a"),
        node("Add", "a x", "y"),
    ]
    model = model_of(nodes, extra=[scale, zero])
    assert "QuantizeLinear" in reason_of(model)
    assert len(from_onnx(model).blocks) == 1


def test_quantised_weights_are_restored() -> None:
    numbers = np.random.default_rng(1).integers(-128, 127, WEIGHT.shape).astype(np.int8)
    tensors = [
        onnx.numpy_helper.from_array(numbers, "y.weight"),
        onnx.numpy_helper.from_array(np.array([0.1, 0.2, 0.3, 0.4], dtype=np.float32), "s"),
        onnx.numpy_helper.from_array(np.zeros(4, dtype=np.int8), "z"),
    ]
    nodes = [node("DequantizeLinear", "y.weight s z", "w", axis=0), node("Conv", "x w", "y", pads=[1, 1, 1, 1])]
    graph = from_onnx(model_of(nodes, weights=tensors))
    expected = numbers.astype(np.float32) * np.array([0.1, 0.2, 0.3, 0.4], dtype=np.float32)[:, None, None, None]
    assert graph.nodes[-1].name == "y"
    np.testing.assert_allclose(graph.nodes[-1].op.weight.numpy(), expected, rtol=1e-6)


def test_operators_of_other_domains_are_not_taken_for_onnx_own() -> None:
    foreign = node("Relu", "a", "r")
    foreign.domain = "com.example"
    nodes = [conv("x", "a"), foreign, conv("r", "b"), node("Add", "b x", "y")]
    assert "com.example.Relu" in reason_of(model_of(nodes))


def test_a_cycle_is_named() -> None:
    nodes = [conv("x", "a"), node("Add", "a y", "r"), conv("r", "b"), node("Relu", "b", "y")]
    assert "cycle" in reason_of(model_of(nodes))
    assert set(from_onnx(model_of(nodes)).unplaced) == {"a", "b"}


def test_a_value_that_nothing_gives_is_named() -> None:
    assert "nowhere" in reason_of(model_of([conv("x", "a"), node("Add", "a nowhere", "y")]))


def test_a_second_input_is_a_constant_that_is_not_known() -> None:
    other = onnx.helper.make_tensor_value_info("mask", onnx.TensorProto.FLOAT, ("n", *SIZE))
    nodes = [conv("x", "a"), node("Mul", "a mask", "r"), conv("r", "b"), node("Add", "b x", "y")]
    model = model_of(nodes, inputs=[other])
    assert "Mul" in reason_of(model)
    assert [block.layers for block in from_onnx(model).blocks] == [("a", "b")]


def test_huge_dimensions_take_no_memory() -> None:
    bomb = onnx.TensorProto(name="a.weight", data_type=1, dims=[2**40, 2**20, 3, 3], raw_data=b"\0\0\0\0")
    with pytest.raises(AuditError):
        from_onnx(model_of([conv("x", "y")], weights=[bomb], extra=[]))
    shape = onnx.numpy_helper.from_array(np.array([2**40, 2**20], dtype=np.int64), "shape")
    nodes = [*residual()[:-1], node("Add", "b x", "q"), node("ConstantOfShape", "shape", "z"), node("Add", "q z", "y")]
    assert "Add" in reason_of(model_of(nodes, extra=[shape]))


@pytest.mark.parametrize(
    "attributes",
    [
        {"strides": [0, 0]},
        {"strides": [-1, 1]},
        {"pads": [1]},
        {"strides": 1.5},
        {"group": -3},
        {"dilations": [2**40, 1]},
    ],
    ids=str,
)
def test_senseless_attributes_make_an_operator_opaque(attributes) -> None:
    model = model_of([conv("x", "a", **attributes), node("Relu", "a", "y")])
    reason_of(model)


def test_control_characters_in_names_are_replaced() -> None:
    nodes = [node("Conv", "x \x1b[31m.weight", "y")]
    graph = from_onnx(model_of(nodes))
    assert all(item.name.isprintable() for item in graph.nodes)


def test_a_layer_used_twice_has_two_nodes() -> None:
    nodes = [node("Conv", "x a.weight", "m", pads=[1] * 4), node("Conv", "m a.weight", "y", pads=[1] * 4)]
    graph = check(model_of(nodes))
    assert [item.name for item in graph.weight_nodes] == ["a", "a_"]


def test_the_real_model_has_layers_and_no_blocks(checkpoints) -> None:
    graph = from_onnx(onnx.load(checkpoints / "silero_vad.onnx"))
    assert graph.blocks == ()
    assert len(graph.weight_nodes) >= 10
    assert "If" in (graph.runnable_reason or "") or "open" in (graph.runnable_reason or "")


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space_is_exact(mode) -> None:
    check(model_of([conv("x", "a"), node("DepthToSpace", "a", "y", blocksize=2, mode=mode)]))


def test_a_long_chain_of_sums_ends_in_a_reason_or_a_graph() -> None:
    nodes = [conv("x", "v0"), *(node("Add", f"v{index} x", f"v{index + 1}") for index in range(3000))]
    graph = from_onnx(model_of(nodes, out="v3000"))
    assert [item.name for item in graph.weight_nodes] == ["v0"]
    assert graph.runnable or "nested" in (graph.runnable_reason or "")
