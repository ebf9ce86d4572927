"""A TorchScript program is read as what its module computes, traced or scripted, by values, gradients and blocks."""

from __future__ import annotations

import pytest
import torch
from graph_programs import NETS, SIZE, agree, images, net_of, quiet, to_script
from torch import Tensor, nn
from torch.nn import functional

from resnet_audit.errors import NothingToAnalyse, UsageError
from resnet_audit.graph.from_torchscript import from_torchscript


@pytest.fixture(params=["traced", "scripted"])
def trace(request) -> bool:
    return request.param == "traced"


@pytest.mark.parametrize("name", NETS)
def test_a_program_has_the_values_and_gradients_of_its_module(name, trace) -> None:
    net = net_of(name)
    graph = from_torchscript(to_script(net, images(), trace=trace), input_size=SIZE)
    assert (graph.source, graph.runnable_reason, graph.unplaced) == ("torchscript", None, ())
    agree(graph, net, images(3, seed=1))


@pytest.mark.parametrize("name", NETS)
def test_a_program_has_the_blocks_and_names_of_its_module(name, trace) -> None:
    net = net_of(name)
    graph = from_torchscript(to_script(net, images(), trace=trace), input_size=SIZE)
    assert tuple(block.skip_kind for block in graph.blocks) == NETS[name][1]
    assert [block.name for block in graph.blocks] == [f"layers.{index}" for index in range(3)]
    expected = {name for name, module in net.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    assert {node.name for node in graph.weight_nodes} == expected


def test_a_program_saved_in_training_mode_is_read_in_evaluation_mode(trace) -> None:
    net = net_of("basic")
    script = to_script(net, images(), trace=trace).train()
    agree(from_torchscript(script, input_size=SIZE), net, images())


class Flat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 2, 3, 1, 1), nn.Linear(512, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).reshape(4, 512))


def test_a_batch_that_is_written_into_a_trace_is_found_and_said() -> None:
    net = Flat().eval()
    graph = from_torchscript(to_script(net, images(4), trace=True), input_size=SIZE)
    assert graph.batch == 4
    assert any("batch size 4" in text for text in graph.assumptions)
    agree(graph, net, images(4))


class Decides(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if bool(y.sum() > 0):
            y = y + x
        return y


class Repeats(Decides):
    def forward(self, x: Tensor) -> Tensor:
        while bool(x.sum() > 0):
            x = self.conv(x)
        return x


@pytest.mark.parametrize(("net", "word"), [(Decides(), "prim::If"), (Repeats(), "prim::Loop")])
def test_a_decision_by_values_leaves_structure_and_says_so(net, word) -> None:
    graph = from_torchscript(to_script(net.eval(), images(), trace=False), input_size=SIZE)
    assert (graph.nodes, graph.blocks, graph.unplaced) == ((), (), ("conv",))
    assert graph.runnable_reason is not None
    assert "the program" in graph.runnable_reason
    assert word in graph.runnable_reason or "aten::Bool" in graph.runnable_reason


class Unrolls(Decides):
    def forward(self, x: Tensor) -> Tensor:
        for step in range(3):
            if step != 1 and x.shape[1] == 3:
                x = x + functional.relu_(self.conv(x))
        return x


def test_loops_and_decisions_by_constants_fold_away() -> None:
    net = Unrolls().eval()
    graph = from_torchscript(to_script(net, images(), trace=False), input_size=SIZE)
    assert [block.skip_kind for block in graph.blocks] == ["identity", "identity"]
    x = images()
    torch.testing.assert_close(graph.forward(x), net(x).detach(), atol=1e-5, rtol=1e-5)


class InPlace(Decides):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        z = functional.relu_(y)
        return self.conv(z) + y


def test_a_value_changed_in_place_is_read_changed() -> None:
    net = InPlace().eval()
    graph = from_torchscript(to_script(net, images(), trace=True), input_size=SIZE)
    x = images()
    torch.testing.assert_close(graph.forward(x), net(x).detach(), atol=1e-5, rtol=1e-5)


class Writes(Decides):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y[:, 0].relu_()
        return y


def test_writing_into_a_part_of_a_value_is_not_run() -> None:
    graph = from_torchscript(to_script(Writes().eval(), images(), trace=True), input_size=SIZE)
    assert "part of a value" in (graph.runnable_reason or "")


def test_without_a_size_the_usual_one_of_the_stem_is_taken_and_said() -> None:
    graph = from_torchscript(to_script(net_of("basic"), images(), trace=True))
    assert graph.input_size == (3, 32, 32)
    assert any("--input-size" in text for text in graph.assumptions)


def test_a_wrong_size_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="--input-size") as caught:
        from_torchscript(to_script(net_of("basic"), images(), trace=True), input_size=(5, 16, 16))
    assert "\n" not in str(caught.value)


def test_a_program_without_weights_is_nothing_to_analyse() -> None:
    with pytest.raises(NothingToAnalyse):
        from_torchscript(to_script(nn.ReLU(), images(), trace=True), input_size=SIZE)


def test_the_real_program_has_layers_and_no_blocks(checkpoints) -> None:
    with quiet():
        module = torch.jit.load(checkpoints / "silero_vad.jit", map_location="cpu")
    for size in (None, (512,), (3, 32, 32)):
        graph = from_torchscript(module, input_size=size)
        assert graph.blocks == ()
        assert graph.weight_nodes
        assert graph.runnable_reason
        assert "\n" not in graph.runnable_reason
