"""The blocks, places and names that are found in weights are those of the network, in whatever order the file is."""

from __future__ import annotations

import pytest
from graph_builders import found, graph_of
from graph_nets import NETS, option_a_state
from graph_oracles import CLASSES, Writer, shuffled

from resnet_audit.checkpoint import load
from resnet_audit.graph import discover
from resnet_audit.graph.ir import Activation, Input, is_weight
from resnet_audit.settings import Settings

each_net = pytest.mark.parametrize("name", NETS)


def outline(graph):
    """Everything about a graph but its tensors."""
    nodes = tuple((node.name, type(node.op).__name__, node.inputs, node.shape) for node in graph.nodes)
    return nodes, graph.blocks, graph.family, graph.assumptions, graph.unplaced, graph.runnable_reason, graph.placement


def places(graph):
    """The place of every weight layer."""
    return {node.name: graph.placement[node.name] for node in graph.nodes if is_weight(node)}


def layer_names(weights):
    """Names of the weight layers of a state dict, from the ranks alone."""
    return sorted(name.removesuffix(".weight") for name, tensor in weights.items() if tensor.ndim in {2, 4})


@each_net
def test_blocks_have_the_skips_stages_and_depth_of_the_network(name):
    net, graph = NETS[name], graph_of(name)
    assert tuple(block.skip_kind for block in graph.blocks) == net.skips
    assert tuple(block.stage for block in graph.blocks) == net.stages
    assert {block.weight_layers for block in graph.blocks} == {net.weight_layers}
    assert {len(block.layers) for block in graph.blocks} == {net.weight_layers}
    assert tuple(len(block.skip_layers) for block in graph.blocks) == tuple(kind == "projection" for kind in net.skips)
    assert tuple(block.transition for block in graph.blocks) == tuple(kind != "identity" for kind in net.skips)
    assert {block.evidence for block in graph.blocks} == {"named"}


@each_net
def test_blocks_carry_the_names_of_their_modules(name):
    graph, weights = graph_of(name), NETS[name].weights()
    expected = sorted({key[: key.index(".conv2")] for key in weights if ".conv2." in key})
    if name == "sequential names":
        expected = [f"{block}.residual_function" for block in ("conv2_x.0", "conv2_x.1", "conv3_x.0", "conv4_x.0")]
    assert [block.name for block in graph.blocks] == expected
    for block in graph.blocks:
        assert all(layer.startswith(f"{block.name}.") for layer in block.layers)
        assert all(graph.block_of(layer) == block.name for layer in (*block.layers, *block.skip_layers))


@each_net
def test_every_weight_layer_has_exactly_one_place(name):
    graph = graph_of(name)
    branches = [layer for block in graph.blocks for layer in block.layers]
    skips = [layer for block in graph.blocks for layer in block.skip_layers]
    others = [layer for layer, place in places(graph).items() if place in {"stem", "between", "head"}]
    everywhere = [*branches, *skips, *others, *graph.unplaced]
    assert sorted(everywhere) == layer_names(NETS[name].weights())
    assert {layer for layer, place in places(graph).items() if place == "vine"} == {*branches, *skips}
    assert sorted(node.name for node in graph.weight_nodes) == sorted(everywhere)


@each_net
def test_stem_and_head_are_the_first_and_last_layers(name):
    placement = places(graph_of(name))
    stem = "conv1.0" if name == "sequential names" else "conv1"
    assert [layer for layer, place in placement.items() if place == "stem"] == [stem]
    assert [layer for layer, place in placement.items() if place == "head"] in (["fc"], ["linear"])
    assert "between" not in placement.values()


@each_net
def test_a_block_ends_in_its_activation_unless_it_is_preactivated(name):
    graph = graph_of(name)
    after = {graph.by_name[block.output].op.__class__ for block in graph.blocks if block.output != block.join}
    if NETS[name].preactivation:
        assert {block.output for block in graph.blocks[:-1]} == {block.join for block in graph.blocks[:-1]}
        assert graph.family.startswith("preactivation ")
    else:
        assert after == {Activation}
        assert all(block.output != block.join for block in graph.blocks)
        assert not graph.family.startswith("preactivation ")


@each_net
def test_the_fork_of_a_block_is_the_output_of_the_one_before(name):
    graph = graph_of(name)
    on_active = name in {"wide", "pre-activation, shortcut"}  # there a projection reads relu(bn1(x)): the fork is later
    for before, block in zip(graph.blocks, graph.blocks[1:], strict=False):
        if on_active and block.skip_kind == "projection":
            assert graph.by_name[block.fork].op.__class__ is Activation
        else:
            assert block.fork == before.output


@each_net
def test_nodes_are_topological_and_shaped_from_input_to_logits(name):
    graph, seen = graph_of(name), set()
    for node in graph.nodes:
        assert seen.issuperset(node.inputs)
        assert node.name not in seen
        assert node.shape is not None
        seen.add(node.name)
    assert isinstance(graph.nodes[0].op, Input)
    assert graph.by_name[graph.output].shape == (CLASSES,)


@each_net
def test_every_guess_is_an_assumption_in_words(name):
    words = " ".join(graph_of(name).assumptions)
    for fact in ("input size", "stride 2", "ReLU", "eps is 1e-5", "order inside a block", "averaged", "stem: "):
        assert fact in words
    assert ("zero channels" in words) == ("resample" in NETS[name].skips)
    projected = NETS[name].preactivation and "projection" in NETS[name].skips
    assert ("pre-activated input of their block" in words) == (
        projected and name in {"wide", "pre-activation, shortcut"}
    )
    assert ("raw input of their block" in words) == (projected and name not in {"wide", "pre-activation, shortcut"})


@each_net
def test_the_order_of_the_file_changes_nothing(name):
    net = NETS[name]
    weights = net.weights()
    expected = outline(found(weights, input_size=net.size))
    for other in (
        dict(sorted(weights.items())),
        dict(reversed(weights.items())),
        *(shuffled(weights, s) for s in (1, 2)),
    ):
        assert outline(found(other, input_size=net.size)) == expected


def test_the_eleventh_block_comes_after_the_tenth():
    weights = option_a_state(counts=(12, 1, 1))
    for order in (weights, dict(sorted(weights.items()))):
        names = [block.name for block in found(order).blocks]
        assert names == [*(f"layer1.{index}" for index in range(12)), "layer2.0", "layer3.0"]


def test_a_grouped_network_is_called_resnext_and_bottlenecks_are_named():
    assert graph_of("ResNeXt").family == "ResNeXt, bottleneck blocks"
    assert graph_of("bottlenecks, 7x7 stem").family == "ResNet, bottleneck blocks"
    assert graph_of("option A").family == "ResNet, basic blocks"
    assert graph_of("wide").family == "preactivation ResNet, basic blocks"


def test_a_norm_of_the_stem_alone_means_post_activation_where_shapes_leave_it_open():
    write = Writer()
    write.conv("conv1", 4, 3, 3)
    write.norm("bn1", 4)
    for index in (0, 1):
        for layer in (1, 2):
            write.conv(f"layer1.{index}.conv{layer}", 4, 4, 3)
            write.norm(f"layer1.{index}.bn{layer}", 4)
    write.linear("fc", CLASSES, 4)
    graph = found(write.state)
    assert [block.skip_kind for block in graph.blocks] == ["identity", "identity"]
    assert "shapes leave it open" in " ".join(graph.assumptions)
    assert graph.family == "ResNet, basic blocks"


# real files, trained by others ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("file", "count"), [("resnet20", 9), ("resnet32", 15), ("resnet44", 21), ("resnet56", 27)])
def test_real_cifar_resnets_have_their_blocks_and_two_resampling_skips(checkpoints, file, count):
    graph = discover(load(str(checkpoints / f"{file}.th")), Settings())
    assert len(graph.blocks) == count
    assert [block.name for block in graph.blocks if block.skip_kind == "resample"] == ["layer2.0", "layer3.0"]
    assert {block.skip_kind for block in graph.blocks} == {"identity", "resample"}
    assert {block.weight_layers for block in graph.blocks} == {2}
    assert [sum(block.stage == stage for block in graph.blocks) for stage in (1, 2, 3)] == [count // 3] * 3
    assert (graph.unplaced, graph.loose) == ((), ())
    assert sum(map(is_weight, graph.nodes)) == 2 * count + 2


def test_the_real_resnet_with_projections_has_nine_blocks_and_two_of_them(checkpoints):
    graph = discover(load(str(checkpoints / "pyhessian_net.pkl")), Settings())
    assert [block.skip_kind for block in graph.blocks].count("projection") == 2
    assert [block.skip_kind for block in graph.blocks].count("identity") == 7
    assert [block.name for block in graph.blocks if block.skip_layers] == ["layer2.0", "layer3.0"]
    assert graph.unplaced == ()


@pytest.mark.parametrize(
    ("file", "count", "changes"),
    [
        ("digits_resnet/epoch24.pt", 9, "resample"),
        ("digits_preact.safetensors", 9, "projection"),
        ("digits_bottleneck_training.pth", 6, "projection"),
    ],
)
def test_samples_have_the_blocks_that_their_page_says(samples, file, count, changes):
    graph = discover(load(str(samples / file)), Settings(input_size=(1, 8, 8)))
    assert len(graph.blocks) == count
    assert {block.skip_kind for block in graph.blocks} == {"identity", changes}
    assert graph.unplaced == ()


def test_a_plain_chain_has_no_block_and_ends_in_a_head(samples):
    graph = discover(load(str(samples / "digits_plain.pt")), Settings(input_size=(1, 8, 8), assume=True))
    assert graph.blocks == ()
    assert (graph.family, graph.runnable) == ("plain chain", True)
    assert [layer for layer, place in places(graph).items() if place == "head"] == ["linear"]
    assert [layer for layer, place in places(graph).items() if place == "stem"] == [f"conv{k}" for k in range(1, 20)]
