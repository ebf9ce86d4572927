"""The windows of pools; and pools and learned slopes out of every front end: operations with rules, not functions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from graph_programs import SIZE, agree, images, to_onnx, to_script
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from resnet_audit.graph.averages import averages
from resnet_audit.graph.from_export import from_module
from resnet_audit.graph.from_onnx import from_onnx
from resnet_audit.graph.from_torchscript import from_torchscript
from resnet_audit.graph.ir import Activation, AdaptivePool, Opaque, Pool
from resnet_audit.graph.shapes import pooled_along
from resnet_audit.measure.lipschitz import log_constant


def exported(net: nn.Module):
    return from_module(net, images())


def traced(net: nn.Module):
    return from_torchscript(to_script(net, images(), trace=True), input_size=SIZE)


def scripted(net: nn.Module):
    return from_torchscript(to_script(net, images(), trace=False), input_size=SIZE)


def in_onnx(net: nn.Module):
    pytest.importorskip("onnx", reason="the onnx package is not installed")
    return from_onnx(to_onnx(net, images(), dynamo=False, any_batch=True))


ATEN = [exported, traced, scripted]
FRONTS = [*ATEN, in_onnx]
# A map of 14 x 14 behind the convolution.
POOLS = [
    nn.MaxPool2d(3, 2, ceil_mode=True),
    nn.MaxPool2d(2, 3, 1, ceil_mode=True),
    nn.MaxPool2d(3, 1, 1, dilation=2),
    nn.MaxPool2d((3, 2), (2, 1), (1, 0), dilation=(2, 3), ceil_mode=True),
    nn.AvgPool2d(3, 2, ceil_mode=True),
    nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    nn.AvgPool2d((3, 4), (2, 3), (1, 2), ceil_mode=True, count_include_pad=False),
    nn.AdaptiveAvgPool2d((7, 2)),
]


def net_with(layer: nn.Module, channels: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, channels, 3), layer, nn.Flatten()).eval()


def constants(graph) -> list[float]:
    """Of all operations between the convolution and the end. Raises NoRule."""
    shapes = {node.name: node.shape for node in graph.nodes}
    after = [node for node in graph.nodes if isinstance(node.op, Activation | Pool | AdaptivePool | Opaque)]
    return [log_constant(node, [shapes[name] for name in node.inputs]) for node in after]


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("layer", POOLS, ids=lambda layer: str(layer)[:60])
def test_a_pool_is_read_with_its_geometry_and_has_a_rule(layer, front) -> None:
    net = net_with(layer)
    graph = front(net)
    assert len(constants(graph)) == 1
    assert not any(isinstance(node.op, Opaque) for node in graph.nodes)
    agree(graph, net, images(3, seed=1))


@pytest.mark.parametrize("front", ATEN)
@pytest.mark.parametrize("cells", [(5, 5), (3, 20)], ids=str)
def test_cells_that_do_not_divide_the_map_have_a_rule(cells, front) -> None:
    net = net_with(nn.AdaptiveAvgPool2d(cells))
    graph = front(net)
    (op,) = [node.op for node in graph.nodes if isinstance(node.op, AdaptivePool)]
    assert op.cells == cells
    assert len(constants(graph)) == 1
    agree(graph, net, images(3, seed=1))


# A script of this module holds an assertion, and with it a branch.
@pytest.mark.parametrize("front", [exported, traced, in_onnx])
def test_the_largest_of_a_whole_map_is_a_pool(front) -> None:
    net = net_with(nn.AdaptiveMaxPool2d(1))
    graph = front(net)
    assert constants(graph) == [0.0]  # of two maps, the maxima differ by no more than the maps
    agree(graph, net, images(3, seed=1))


@pytest.mark.parametrize("front", FRONTS)
def test_windows_that_end_with_the_map_are_plain_pools(front) -> None:
    for layer in (nn.MaxPool2d(2, ceil_mode=True), nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)):
        (op,) = [node.op for node in front(net_with(layer)).nodes if isinstance(node.op, Pool)]
        assert (op.ceil, op.count_padding) == (False, True)


class Tweaked(nn.Module):
    """A residual block whose shortcut averages before it projects; odd maps leave its last windows incomplete."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 4)
        self.conv1, self.conv2 = nn.Conv2d(4, 6, 3, 2, 1), nn.Conv2d(6, 6, 3, 1, 1)
        pool = nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)
        self.down = nn.Sequential(pool, nn.Conv2d(4, 6, 1, bias=False), nn.BatchNorm2d(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return (self.conv2(self.conv1(x).relu()) + self.down(x)).flatten(1)


@pytest.mark.parametrize("front", FRONTS)
def test_an_averaging_shortcut_of_an_odd_map_is_a_projection_with_rules(front) -> None:
    torch.manual_seed(0)
    net = Tweaked().eval()
    graph = front(net)
    (op,) = [node.op for node in graph.nodes if isinstance(node.op, Pool)]
    assert (op.kernel, op.ceil) == ((2, 2), True)
    assert [block.skip_kind for block in graph.blocks] == ["projection"]
    assert len(constants(graph)) == 2
    agree(graph, net, images(3, seed=1))


@pytest.mark.parametrize("front", FRONTS)
def test_learned_slopes_are_an_activation_with_a_rule(front) -> None:
    layer = nn.PReLU(4)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.1, -0.5, 3.0, 0.0]))
    net = net_with(layer)
    graph = front(net)
    (op,) = [node.op for node in graph.nodes if isinstance(node.op, Activation)]
    assert op.kind == "prelu"
    assert op.slopes.tolist() == pytest.approx([0.1, -0.5, 3.0, 0.0])
    assert constants(graph) == pytest.approx([np.log(3.0)])
    agree(graph, net, images(3, seed=1))


@pytest.mark.parametrize("front", FRONTS)
def test_one_learned_slope_for_all_channels_is_a_leaky_relu(front) -> None:
    net = net_with(nn.PReLU(init=0.3))
    graph = front(net)
    (op,) = [node.op for node in graph.nodes if isinstance(node.op, Activation)]
    assert (op.kind, op.slope) == ("leaky_relu", pytest.approx(0.3))
    agree(graph, net, images(3, seed=1))


def test_slopes_along_another_axis_stay_a_function() -> None:
    onnx = pytest.importorskip("onnx", reason="the onnx package is not installed")
    slopes = np.linspace(-1, 1, 16, dtype=np.float32)
    helper = onnx.helper
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "a.weight"], ["m"]), helper.make_node("PRelu", ["m", "slopes"], ["y"])],
        "columns",
        [helper.make_tensor_value_info("x", 1, ("n", *SIZE))],
        [helper.make_tensor_value_info("y", 1, ("n", 16, 16, 16))],
        [
            onnx.numpy_helper.from_array(np.eye(16, 3, dtype=np.float32).reshape(16, 3, 1, 1), "a.weight"),
            onnx.numpy_helper.from_array(slopes, "slopes"),
        ],
    )
    found = from_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
    assert any(isinstance(node.op, Opaque) and node.op.name == "prelu" for node in found.nodes)
    x = images(2)
    maps = torch.zeros(2, 16, 16, 16)
    maps[:, :3] = x
    torch.testing.assert_close(found.forward(x), torch.where(maps < 0, torch.from_numpy(slopes) * maps, maps))


# windows ------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(1, 5), st.integers(1, 6), st.integers(0, 2), st.integers(1, 3), st.booleans())
def test_a_pool_has_the_windows_that_torch_gives_it(size, kernel, stride, padding, dilation, ceil) -> None:
    padding = min(padding, kernel // 2)
    op = Pool(
        kind="max", kernel=(1, kernel), stride=(1, stride), padding=(0, padding), dilation=(1, dilation), ceil=ceil
    )
    module = torch.nn.MaxPool2d(op.kernel, op.stride, op.padding, op.dilation, ceil_mode=ceil)
    try:
        expected = module(torch.zeros(1, 1, 1, size)).shape[-1]
    except RuntimeError:  # no window fits
        expected = 0
    assert max(pooled_along(op, kernel, size, 1), 0) == expected


def test_a_pool_of_maxima_has_no_matrix() -> None:
    with pytest.raises(ValueError, match="no matrix"):
        averages(Pool(kind="max", kernel=(2, 2)), (4, 4))


def test_the_mean_over_a_map_has_a_matrix_too() -> None:
    rows, columns = averages(Pool(kind="avg", kernel=None), (3, 5))
    x = torch.randn(2, 3, 5, dtype=torch.float64)
    torch.testing.assert_close((rows @ x @ columns.T)[..., 0, 0], x.mean((1, 2)))
