"""A network that is not wholly understood is not run: its layers are listed, with one sentence that says why."""

from __future__ import annotations

import re

import pytest
import torch
from graph_builders import found
from graph_nets import NETS, bottleneck_state, option_a_state, projection_state
from graph_oracles import CLASSES, Writer, shuffled

from resnet_audit.checkpoint import load
from resnet_audit.errors import NothingToAnalyse, NotRunnable
from resnet_audit.graph import discover
from resnet_audit.graph.describe import describe
from resnet_audit.graph.ir import Opaque
from resnet_audit.settings import Settings


def with_excitation():
    write = Writer()
    write.state = option_a_state()
    for index in (0, 1):
        write.linear(f"layer1.{index}.se.fc1", 2, 4)
        write.linear(f"layer1.{index}.se.fc2", 4, 2)
    return write.state


def with_convolutional_excitation():
    write = Writer()
    write.state = option_a_state()
    write.conv("layer2.0.se.fc1", 2, 8, 1, bias=True)
    write.conv("layer2.0.se.fc2", 8, 2, 1, bias=True)
    return write.state


def with_a_scalar_in_a_block():
    return {**option_a_state(), "layer1.0.alpha": torch.tensor(0.2)}


def with_a_scale_layer():
    return {**option_a_state(), "layer1.1.scale.weight": torch.tensor(0.2)}


def with_an_activation_that_has_weights():
    return {**option_a_state(), "layer1.1.act.weight": torch.rand(4)}


def with_an_attention_convolution():
    return {**option_a_state(), "layer1.1.eca.conv.weight": torch.rand(1, 1, 3)}


def without_running_statistics():
    return {name: value for name, value in option_a_state().items() if "running" not in name}


def without_one_running_mean():
    state = option_a_state()
    del state["layer2.0.bn2.running_mean"]
    return state


def without_norms():
    return {name: value for name, value in option_a_state().items() if ".bn" not in name}


def with_an_even_kernel():
    return {**option_a_state(), "layer1.1.conv2.weight": torch.rand(4, 4, 2, 2)}


def with_an_even_stem():
    return {**option_a_state(), "conv1.weight": torch.rand(4, 3, 4, 4)}


def with_a_5x5_stem():
    return {**option_a_state(), "conv1.weight": torch.rand(4, 3, 5, 5)}


def with_two_heads():
    write = Writer()
    write.state = option_a_state()
    write.linear("auxiliary", CLASSES, 16)
    return write.state


def without_a_head():
    return {name: value for name, value in option_a_state().items() if not name.startswith("linear")}


def with_a_head_on_positions():
    return {**option_a_state(), "linear.weight": torch.rand(CLASSES, 64)}


def with_a_deep_stem():
    write = Writer()
    write.state = bottleneck_state()
    del write.state["conv1.weight"]
    for index, (outputs, inputs) in enumerate(((2, 3), (2, 2), (4, 2))):
        write.conv(f"conv1.{3 * index}", outputs, inputs, 3)
        if index < 2:
            write.norm(f"conv1.{3 * index + 1}", outputs)
    return write.state


def with_pooling_before_the_projection():
    old = ("downsample.1.", "downsample.0.")
    moved = {name.replace(old[0], "downsample.2."): value for name, value in bottleneck_state().items()}
    return {name.replace(old[1], "downsample.1."): value for name, value in moved.items()}


def with_two_convolutions_in_a_shortcut():
    return {**projection_state(), "layer2.0.shortcut.3.weight": torch.rand(11, 11, 1, 1)}


def with_a_norm_as_the_only_shortcut():
    write = Writer()
    write.state = option_a_state()
    write.norm("layer1.1.shortcut.0", 4)
    return write.state


def with_a_norm_that_fits_nowhere():
    write = Writer()
    write.state = projection_state()
    write.norm("layer2.0.bn2", 7)
    return write.state


def with_a_second_norm_outside():
    write = Writer()
    write.state = option_a_state()
    write.norm("extra", 16)
    return write.state


def with_channels_that_shrink():
    write = Writer()
    write.state = option_a_state()
    write.conv("layer3.0.conv1", 4, 8, 3)
    write.norm("layer3.0.bn1", 4)
    write.conv("layer3.0.conv2", 4, 4, 3)
    write.norm("layer3.0.bn2", 4)
    write.linear("linear", CLASSES, 4)
    return write.state


def with_an_odd_number_of_new_channels():
    write = Writer()
    write.state = {name: value for name, value in projection_state().items() if "shortcut" not in name}
    return write.state


def with_channels_that_do_not_connect():
    return {**option_a_state(), "layer1.1.conv1.weight": torch.rand(4, 3, 3, 3)}


def with_four_convolutions_in_a_block():
    write = Writer()
    write.state = option_a_state()
    for layer in (3, 4):
        write.conv(f"layer1.0.conv{layer}", 4, 4, 3)
        write.norm(f"layer1.0.bn{layer}", 4)
    return write.state


def vgg():
    write = Writer()
    inputs = 3
    for index, outputs in ((0, 4), (3, 4), (7, 8), (10, 8)):
        write.conv(f"features.{index}", outputs, inputs, 3, bias=True)
        write.norm(f"features.{index + 1}", outputs)
        inputs = outputs
    write.linear("classifier.0", 16, 8)
    write.linear("classifier.3", CLASSES, 16)
    return write.state


def perceptron():
    write = Writer()
    for index, (outputs, inputs) in enumerate(((16, 12), (16, 16), (CLASSES, 16))):
        write.linear(f"layers.{2 * index}", outputs, inputs)
    return write.state


def transformer():
    write = Writer()
    for index in range(2):
        for name in ("query", "key", "value", "output"):
            write.linear(f"encoder.layer.{index}.attention.{name}", 8, 8)
        write.linear(f"encoder.layer.{index}.mlp.up", 32, 8)
        write.linear(f"encoder.layer.{index}.mlp.down", 8, 32)
        write.state[f"encoder.layer.{index}.norm.weight"] = torch.rand(8)
    return write.state


NOT_UNDERSTOOD = {
    with_excitation: "layer1.0",
    with_convolutional_excitation: "layer2.0",
    with_a_scalar_in_a_block: "layer1.0",
    with_a_scale_layer: "layer1.1.scale",
    with_an_activation_that_has_weights: "layer1.1",
    with_an_attention_convolution: "layer1.1.eca.conv",
    without_running_statistics: "bn1.*running statistics",
    without_one_running_mean: "layer2.0.bn2.*running statistics",
    without_norms: "layer1.0.*0 norms",
    with_an_even_kernel: "layer1.1.conv2.*even",
    with_an_even_stem: "4x4 stem",
    with_a_5x5_stem: "5x5 stem",
    with_two_heads: "one linear layer was expected.*2",
    without_a_head: "one linear layer was expected.*0",
    with_a_head_on_positions: "linear reads 64 features and the last block gives 16",
    with_a_deep_stem: "one stem convolution was expected and 3",
    with_pooling_before_the_projection: "layer1.0.downsample.1",
    with_two_convolutions_in_a_shortcut: "layer2.0",
    with_a_norm_as_the_only_shortcut: "layer1.1",
    with_a_norm_that_fits_nowhere: "layer2.0.bn2 has 7 channels",
    with_a_second_norm_outside: "extra",
    with_channels_that_shrink: "layer3.0 goes from 8 to 4",
    with_an_odd_number_of_new_channels: "layer2.0 goes from 6 to 11",
    with_channels_that_do_not_connect: "layer1.1.conv1",
    with_four_convolutions_in_a_block: "layer1.0.*4 convolutions",
    vgg: "no blocks of a ResNet",
    perceptron: "no blocks of a ResNet",
    transformer: "no blocks of a ResNet",
}
each_case = pytest.mark.parametrize("build", NOT_UNDERSTOOD, ids=lambda build: build.__name__)


@each_case
@pytest.mark.parametrize("assume", [False, True])
def test_what_is_not_understood_is_not_run(build, assume):
    graph = found(build(), assume=assume)
    assert not graph.runnable
    assert (graph.nodes, graph.placement) == ((), {})
    with pytest.raises(NotRunnable):
        graph.forward(torch.zeros(1, 3, 32, 32))
    with pytest.raises(NotRunnable):
        _ = graph.input_size


@pytest.mark.parametrize("build", [vgg, perceptron])
def test_a_chain_that_is_not_understood_has_no_block(build):
    assert found(build()).blocks == ()


@each_case
def test_the_reason_is_one_line_that_names_what_stopped_it(build):
    reason = found(build()).runnable_reason
    assert reason == reason.strip()
    assert "\n" not in reason
    assert len(reason.split()) >= 5
    assert re.search(NOT_UNDERSTOOD[build], reason)


@each_case
def test_every_layer_of_it_is_listed_once_as_unplaced_or_in_a_block(build):
    state = build()
    graph = found(state)
    layers = sorted(name.removesuffix(".weight") for name, tensor in state.items() if tensor.ndim >= 2)
    assert sorted(node.name for node in graph.loose) == layers
    inside = [layer for block in graph.blocks for layer in (*block.layers, *block.skip_layers)]
    places = [*inside, *graph.unplaced]
    assert set(layers) <= set(places)
    assert len(set(places)) == len(places)
    weights = [node.op.weights[0] if isinstance(node.op, Opaque) else node.op.weight for node in graph.loose]
    assert [weight.data_ptr() for weight in weights] == [
        state[f"{node.name}.weight"].data_ptr() for node in graph.loose
    ]


@each_case
def test_the_order_of_the_file_does_not_make_it_understood(build):
    state = build()
    for other in (dict(sorted(state.items())), shuffled(state, 1), shuffled(state, 2)):
        assert not found(other).runnable
        assert {node.name for node in found(other).loose} == {node.name for node in found(state).loose}


def test_a_plain_chain_runs_only_where_its_guess_is_allowed(samples):
    checkpoint = load(str(samples / "digits_plain.pt"))
    graph = discover(checkpoint, Settings(input_size=(1, 8, 8)))
    assert (graph.family, graph.runnable, graph.blocks) == ("plain chain", False, ())
    assert "--assume" in graph.runnable_reason
    assert len(graph.loose) == 20
    assert discover(checkpoint, Settings(input_size=(1, 8, 8), assume=True)).runnable


def test_consent_makes_no_difference_to_a_network_that_needs_none():
    for net in NETS.values():
        plain, allowed = (found(net.weights(), assume=assume) for assume in (False, True))
        assert [node.name for node in plain.nodes] == [node.name for node in allowed.nodes]


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"steps": torch.tensor(3)},
        {"a.weight": torch.ones(3, 3, dtype=torch.int64), "b.weight": torch.ones(2, 2, 3, 3, dtype=torch.int8)},
        {"bn.weight": torch.ones(4), "bn.running_mean": torch.ones(4), "bn.running_var": torch.ones(4)},
    ],
    ids=["empty", "a counter", "integers", "norms only"],
)
def test_without_any_weight_layer_there_is_nothing_to_analyse(state):
    with pytest.raises(NothingToAnalyse, match="nothing to analyse"):
        found(state)


# real files, trained by others ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "layers", "blocks"), [("picklescan_pytorch_model.bin", 15, 4), ("cgcnn_bandgap.pth.tar", 7, 0)]
)  # the matrices in each file, and the sums that names or shapes show
def test_real_files_of_other_kinds_do_not_run(checkpoints, file, layers, blocks):
    checkpoint = load(str(checkpoints / file))
    graph = discover(checkpoint, Settings())
    assert (len(graph.blocks), graph.runnable, len(graph.loose)) == (blocks, False, layers)
    result = describe(checkpoint, graph)
    assert (result.block_count, result.runnable, result.stem, result.head) == (blocks, False, (), ())
    assert {block.input_shape for block in result.blocks} <= {None}
    assert result.unplaced_count == len(graph.unplaced)
    assert result.runnable_reason == graph.runnable_reason


def test_a_real_file_of_1d_convolutions_claims_no_block(checkpoints):
    checkpoint = load(str(checkpoints / "silero_vad_16k.safetensors"))
    try:
        graph = discover(checkpoint, Settings())
    except NothingToAnalyse:
        return
    assert (graph.blocks, graph.runnable) == ((), False)


def test_a_real_file_of_one_integer_has_nothing_to_analyse(checkpoints):
    with pytest.raises(NothingToAnalyse):
        discover(load(str(checkpoints / "candle_with_key.pt")), Settings())
