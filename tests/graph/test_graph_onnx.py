"""What exporters write is read as what the module computes, by values, gradients, blocks and names."""

from __future__ import annotations

import pytest
import torch
from graph_programs import NETS, SIZE, agree, images, net_of, to_onnx
from torch import nn

from resnet_audit.errors import NothingToAnalyse, UsageError
from resnet_audit.graph.from_onnx import from_onnx
from resnet_audit.graph.ir import Norm, Opaque

pytest.importorskip("onnx", reason="the onnx package is not installed")


@pytest.fixture(params=["torchscript exporter", "dynamo exporter"])
def dynamo(request) -> bool:
    if request.param == "dynamo exporter":
        pytest.importorskip("onnxscript", reason="torch's exporter needs onnxscript")
        return True
    return False


@pytest.mark.parametrize("name", NETS)
def test_an_exported_net_has_the_values_and_gradients_of_its_module(name, dynamo) -> None:
    net = net_of(name)
    graph = from_onnx(to_onnx(net, images(), dynamo=dynamo, any_batch=True))
    assert graph.runnable_reason is None
    assert (graph.source, graph.input_size) == ("onnx", SIZE)
    agree(graph, net, images(3, seed=1))


@pytest.mark.parametrize("name", NETS)
def test_an_exported_net_has_the_blocks_of_its_module(name, dynamo) -> None:
    graph = from_onnx(to_onnx(net_of(name), images(), dynamo=dynamo, any_batch=True))
    assert tuple(block.skip_kind for block in graph.blocks) == NETS[name][1]
    assert {block.evidence for block in graph.blocks} == {"graph"}


def test_a_batch_that_is_written_into_the_file_is_no_limit_and_is_said(dynamo) -> None:
    net = net_of("basic")
    model = to_onnx(net, images(2), dynamo=dynamo, any_batch=False)
    graph = from_onnx(model)
    agree(graph, net, images(3))
    shapes = [node for node in model.graph.node if node.op_type == "Reshape"]
    assert bool(shapes) == any("batch size 2" in text for text in graph.assumptions)


def test_layers_have_the_names_of_their_initialisers() -> None:
    pytest.importorskip("onnxscript", reason="torch's exporter needs onnxscript")
    net = net_of("dense")
    graph = from_onnx(to_onnx(net, images(), dynamo=True, any_batch=True))
    expected = {name for name, module in net.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    assert {node.name for node in graph.weight_nodes} == expected
    norms = {node.name for node in graph.nodes if isinstance(node.op, Norm)}
    assert norms == {f"layers.{index}.norm" for index in range(3)}
    assert [block.name for block in graph.blocks] == [f"layers.{index}" for index in range(3)]


@pytest.mark.parametrize(
    "layer",
    [
        nn.GELU(),
        nn.GELU(approximate="tanh"),
        nn.SiLU(),
        nn.Mish(),
        nn.Hardswish(),
        nn.Hardsigmoid(),
        nn.ELU(0.7),
        nn.SELU(),
        nn.LeakyReLU(0.3),
        nn.ReLU6(),
        nn.Softplus(),
        nn.Tanh(),
        nn.Sigmoid(),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_every_activation_is_found_again_however_it_is_written_out(layer, dynamo) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), layer, nn.Conv2d(4, 2, 3)).eval()
    graph = from_onnx(to_onnx(net, images(), dynamo=dynamo, any_batch=True))
    agree(graph, net, images(3))
    plain = not any(isinstance(node.op, Opaque) for node in graph.nodes)
    assert plain or isinstance(layer, nn.GELU | nn.Hardswish)  # written out in ways that only run


@pytest.mark.parametrize(
    "layer",
    [
        nn.MaxPool2d(3, 2, 1),
        nn.MaxPool2d(2, 2, ceil_mode=True),
        nn.MaxPool2d(3, 1, 1, dilation=2),
        nn.AvgPool2d(3, 2, 1),
        nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        nn.AdaptiveAvgPool2d(1),
        nn.AdaptiveMaxPool2d(1),
        nn.ReflectionPad2d(1),
        nn.ZeroPad2d((0, 1, 0, 1)),
        nn.InstanceNorm2d(4),
        nn.GroupNorm(2, 4),
        nn.PReLU(4),
        nn.PixelShuffle(2),
        nn.Softmax(dim=1),
        nn.Dropout(0.3),
    ],
    ids=lambda layer: str(layer)[:30],
)
def test_a_layer_is_run_as_torch_runs_it(layer) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), layer).eval()
    graph = from_onnx(to_onnx(net, images(), dynamo=False, any_batch=True))
    assert graph.runnable_reason is None
    agree(graph, net, images(3))


def test_attention_keeps_its_blocks_where_it_does_not_run() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
    net = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Flatten(2), nn.Unflatten(2, (8, 2)), nn.Flatten(2))
    net = nn.Sequential(net, _Transposed(), layer).eval()
    graph = from_onnx(to_onnx(net, images(), dynamo=False, any_batch=True))
    assert [(block.skip_kind, block.weight_layers) for block in graph.blocks] == [("identity", 2), ("identity", 2)]
    assert graph.runnable_reason is None or "operators that are not run here" in graph.runnable_reason


class _Transposed(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.transpose(1, 2)


def test_a_given_size_replaces_what_the_file_leaves_open_and_no_more() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    model = to_onnx(net, images(), dynamo=False, any_batch=True)
    with pytest.raises(UsageError, match="3x16x16"):
        from_onnx(model, input_size=(3, 8, 8))
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = "side"
    assert "--input-size" in (from_onnx(model).runnable_reason or "")
    graph = from_onnx(model, input_size=(3, 20, 24))
    assert graph.input_size == (3, 20, 24)
    x = torch.rand(2, 3, 20, 24)
    torch.testing.assert_close(graph.forward(x), net(x).detach(), atol=1e-5, rtol=1e-5)


def test_a_model_without_weights_is_nothing_to_analyse() -> None:
    with pytest.raises(NothingToAnalyse):
        from_onnx(to_onnx(nn.ReLU(), images(), dynamo=False, any_batch=True))
