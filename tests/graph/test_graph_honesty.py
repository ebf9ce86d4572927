"""What looks like a residual network but may not be one is not run without consent, and nothing in a file is lost."""

from __future__ import annotations

import pytest
import torch
from graph_builders import SIZE, Nodes, found
from graph_nets import bottleneck_state, option_a_state, preact_shortcut, preact_state
from graph_oracles import CLASSES, Oracle, Writer, normal

from resnet_audit.graph.blocks import find_blocks
from resnet_audit.graph.ir import Opaque


def vgg_in_numbered_containers():
    write, inputs = Writer(), 4
    write.conv("conv1", 4, 3, 3)
    write.norm("bn1", 4)
    for stage, outputs in enumerate((8, 16, 32)):
        for layer, channels in ((1, inputs), (2, outputs)):
            write.conv(f"stages.{stage}.conv{layer}", outputs, channels, 3)
            write.norm(f"stages.{stage}.bn{layer}", outputs)
        inputs = outputs
    write.linear("fc", CLASSES, 32)
    return write.state


def flat_list_of_blocks():
    write, inputs = Writer(), 4
    write.conv("conv1", 4, 3, 3)
    write.norm("bn1", 4)
    for k, outputs in enumerate((4, 8, 8, 16)):
        for layer, channels in ((1, inputs), (2, outputs)):
            write.conv(f"blocks.{k}.conv{layer}", outputs, channels, 3)
            write.norm(f"blocks.{k}.bn{layer}", outputs)
        if inputs != outputs:
            write.conv(f"blocks.{k}.shortcut.0", outputs, inputs, 1)
            write.norm(f"blocks.{k}.shortcut.1", outputs)
        inputs = outputs
    write.linear("fc", CLASSES, 16)
    return write.state


@pytest.mark.parametrize("state", [vgg_in_numbered_containers(), flat_list_of_blocks()])
def test_a_structure_that_rests_on_a_guess_has_no_blocks_without_consent(state):
    graph = found(state)
    assert graph.blocks == ()
    assert "--assume" in str(graph.runnable_reason)


@pytest.mark.parametrize("state", [vgg_in_numbered_containers(), flat_list_of_blocks()])
def test_with_consent_its_blocks_say_that_they_are_guesses(state):
    graph = found(state, assume=True)
    assert graph.runnable
    assert {block.evidence for block in graph.blocks} == {"shape"}


def test_a_flat_list_strides_where_channels_grow_with_consent():
    shapes = [block.stage for block in found(flat_list_of_blocks(), assume=True).blocks]
    assert shapes == [1, 2, 2, 3]


def test_a_linear_shortcut_is_not_lost():
    write = Writer()
    write.state = option_a_state()
    write.linear("layer1.0.shortcut", 4, 4)
    graph = found(write.state)
    assert "layer1.0.shortcut" in {node.name for node in graph.weight_nodes}
    assert not graph.runnable


@pytest.mark.parametrize("key", ["layer1.0.conv1.alpha", "layer1.0.bn1.alpha", "layer1.0.alpha", "temperature"])
def test_an_unknown_tensor_stops_recognition_by_its_full_key(key):
    graph = found({**option_a_state(), key: torch.tensor(0.3)})
    assert key in str(graph.runnable_reason)


@pytest.mark.parametrize(
    "key", ["layer1.0.conv1.bias", "linear.bias", "layer1.0.bn2.running_var", "layer1.0.bn2.weight"]
)
def test_a_vector_of_another_length_stops_recognition_and_its_layer_is_named(key):
    assert key.rpartition(".")[0] in str(found({**option_a_state(), key: torch.rand(7)}).runnable_reason)


def test_an_open_order_inside_blocks_does_not_depend_on_the_order_of_the_file():
    write = Writer()
    write.conv("conv1", 4, 3, 3)
    write.norm("bn1", 4)
    for block in (0, 1):
        for k in (1, 2):
            write.norm(f"layer1.{block}.bn{k}", 4)
            write.conv(f"layer1.{block}.conv{k}", 4, 4, 3)
    write.norm("bn", 4)
    write.linear("fc", CLASSES, 4)
    assert found(write.state).family == found(dict(sorted(write.state.items()))).family


def test_one_preactivated_stage_is_not_run_as_post_activation():
    weights, images = preact_state(counts=(2, 0, 0)), normal(1, 3, 8, 8)
    graph = found(weights)
    assert torch.allclose(graph.forward(images), preact_shortcut(Oracle(weights), images), atol=1e-5)


def test_a_constant_after_a_residual_sum_does_not_hide_it():
    nodes = Nodes()
    nodes.put("k", Opaque(name="c"), shape=SIZE)
    nodes.conv("c", "x", size=3)
    nodes.add("s", "c", "x")
    nodes.add("o", "s", "k")
    assert [block.fork for block in find_blocks(nodes.shaped, "graph")] == ["x"]


def test_a_weight_node_keeps_its_name_where_a_helper_node_has_it():
    state = {name.replace("fc.", "pool."): value for name, value in bottleneck_state().items()}
    assert found(state).weight_nodes[-1].name == "pool"


def test_a_tensor_without_a_module_is_unplaced_under_its_own_name():
    assert "temperature" in found({**option_a_state(), "temperature": torch.tensor(0.3)}).unplaced


@pytest.mark.parametrize("key", ["conv1.weight", "layer1.0.conv1.weight", "layer1.0.bn1.weight", "linear.weight"])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_weight_without_entries_is_no_layer_and_no_crash(key, axis):
    state = option_a_state()
    shape = list(state[key].shape)
    shape[min(axis, len(shape) - 1)] = 0
    graph = found({**state, key: torch.empty(shape)})
    assert not graph.runnable
    assert key.removesuffix(".weight") not in {node.name for node in graph.weight_nodes}
    assert any(key.removesuffix(".weight") in name for name in graph.unplaced)
