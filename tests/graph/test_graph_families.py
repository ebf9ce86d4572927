"""Networks of further families run from their weights alone and give what their own forward gives."""

from __future__ import annotations

from types import SimpleNamespace

import families_nets as nets
import pytest
import torch
from graph_builders import found
from graph_oracles import shuffled

from resnet_audit.errors import UsageError
from resnet_audit.graph.from_weights import discover
from resnet_audit.graph.ir import is_weight
from resnet_audit.settings import Settings

IMAGE = (3, 24, 24)
FAMILIES = {
    "gates of linear layers": (lambda: nets.se_resnet(linear=True), IMAGE, "SE-ResNet, basic blocks", 4),
    "gates of convolutions": (lambda: nets.se_resnet(linear=False), IMAGE, "SE-ResNet, basic blocks", 4),
    "dense": (nets.densenet, (3, 32, 32), "DenseNet", 14),
    "inverted": (nets.mobilenet, (3, 40, 40), "MobileNetV2", 3),
    "convnext": (nets.convnext, (3, 32, 32), "ConvNeXt", 3),
    "vit": (nets.vit, (3, 12, 12), "ViT", 4),
    "gpt2": (nets.gpt2, (7,), "GPT-2", 4),
    "bert": (nets.bert, (7,), "BERT", 4),
}
each_family = pytest.mark.parametrize("name", FAMILIES)


def family(name):
    """The network in float64, its input, its graph, and what is true of it."""
    build, size, title, blocks = FAMILIES[name]
    torch.manual_seed(0)
    net = nets.trained(build()).double()
    x = torch.randint(0, 11, (2, *size)) if len(size) == 1 else torch.randn(2, *size).double()
    return net, x, found(net.state_dict(), input_size=size), title, blocks


@each_family
def test_the_graph_computes_what_the_network_computes(name):
    net, x, graph, _, _ = family(name)
    assert graph.runnable, graph.runnable_reason
    with torch.no_grad():
        expected, got = net(x), graph.forward(x)
    assert got.shape == expected.shape
    assert torch.allclose(got, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


@each_family
def test_family_blocks_and_evidence_are_named(name):
    _, _, graph, title, blocks = family(name)
    assert (graph.family, len(graph.blocks)) == (title, blocks)
    assert {block.evidence for block in graph.blocks} == {"named"}
    assert {block.skip_kind for block in graph.blocks} <= (
        {"concat"} if name == "dense" else {"identity", "projection"}
    )


@each_family
def test_every_weight_layer_has_one_place_and_every_guess_is_told(name):
    _, _, graph, _, _ = family(name)
    inside = [layer for block in graph.blocks for layer in (*block.layers, *block.skip_layers)]
    others = [node.name for node in graph.nodes if is_weight(node) and graph.placement[node.name] != "vine"]
    assert sorted([*inside, *others]) == sorted(node.name for node in graph.weight_nodes)
    words = " ".join(graph.assumptions)
    assert "input size" in words
    assert "eps" in words


@each_family
def test_the_order_of_the_file_changes_nothing(name):
    net, x, graph, _, _ = family(name)
    state, size = net.state_dict(), FAMILIES[name][1]
    for other in (dict(sorted(state.items())), shuffled(state, 3)):
        again = found(other, input_size=size)
        assert [node.name for node in again.nodes] == [node.name for node in graph.nodes]
        assert torch.equal(again.forward(x), graph.forward(x))


@each_family
@pytest.mark.parametrize("key", ["temperature.weight", "extra.layer.weight"])
def test_a_tensor_without_a_part_stops_it_and_is_named(name, key):
    net, _, _, _, _ = family(name)
    graph = found({**net.state_dict(), key: torch.rand(3)}, input_size=FAMILIES[name][1])
    assert not graph.runnable
    assert key.removesuffix(".weight") in graph.runnable_reason
    assert "--arch" in graph.runnable_reason


@each_family
def test_a_norm_that_lacks_a_vector_stops_it(name):
    net, _, _, _, _ = family(name)
    state = net.state_dict()
    vectors = [key for key, value in state.items() if value.ndim == 1 and key.endswith(("running_mean", "weight"))]
    for key in vectors[:: max(1, len(vectors) // 5)]:
        less = {other: value for other, value in state.items() if other != key}
        assert not found(less, input_size=FAMILIES[name][1]).runnable, key


def test_heads_come_from_the_configuration_where_there_is_one():
    net = nets.trained(nets.vit(width=32, heads=4)).double()
    x = torch.randn(2, 3, 12, 12).double()
    refused = found(net.state_dict())
    assert "heads" in refused.runnable_reason
    given = SimpleNamespace(tensors=net.state_dict(), format="torch-zip", config={"num_attention_heads": 4})
    with torch.no_grad():
        assert torch.allclose(discover(given, Settings()).forward(x), net(x))


def test_a_head_count_that_is_assumed_is_told():
    assert "2 heads of 64" in " ".join(family("vit")[2].assumptions)


def test_a_token_network_has_a_vocabulary_and_a_length():
    graph = found(nets.gpt2().state_dict())
    assert (graph.nodes[0].op.vocabulary, graph.input_size) == (11, (9,))


@pytest.mark.parametrize(("name", "size"), [("vit", (3, 16, 16)), ("gpt2", (10,)), ("bert", (3, 8, 8))])
def test_an_input_that_does_not_fit_the_positions_is_a_usage_error(name, size):
    with pytest.raises(UsageError, match="--input-size"):
        found(FAMILIES[name][0]().state_dict(), input_size=size)


def test_only_some_gates_are_refused():
    state = nets.se_resnet(linear=True).state_dict()
    some = {key: value for key, value in state.items() if not key.startswith("layer2.1.se")}
    assert "only some blocks have a gate" in found(some).runnable_reason
