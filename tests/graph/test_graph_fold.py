"""Folding norms and deriving shapes change nothing that a network computes."""

from __future__ import annotations

import pytest
import torch
from graph_builders import Nodes, found, graph_of, recorded
from graph_nets import NETS
from graph_oracles import Oracle, normal

from resnet_audit.checkpoint import load
from resnet_audit.errors import UsageError
from resnet_audit.graph.blocks import find_blocks
from resnet_audit.graph.execute import run
from resnet_audit.graph.fold import fold_norms
from resnet_audit.graph.ir import Add, Concat, Conv, Flatten, Linear, Multiply, Norm, Opaque, Pool, is_weight
from resnet_audit.graph.shapes import with_shapes

each_net = pytest.mark.parametrize("name", NETS)


def close(got, expected, tolerance=1e-12):
    assert got.shape == expected.shape
    assert float((got - expected).abs().max()) <= tolerance * float(expected.abs().max())


@each_net
def test_the_folded_network_computes_the_same_logits(name):
    net, graph = NETS[name], graph_of(name)
    images, folded = net.images(), fold_norms(graph.nodes)
    got = run(folded.nodes, {folded.nodes[0].name: images}, folded.name(graph.output))
    close(got, net.forward(Oracle(net.weights()), images))


@each_net
def test_every_value_is_found_again_under_its_folded_name(name):
    net, graph = NETS[name], graph_of(name)
    before, _ = recorded(graph.nodes, net.images())
    folded = fold_norms(graph.nodes)
    after, _ = recorded(folded.nodes, net.images())
    vanished = {node.name for node in graph.nodes if node.name not in after}
    assert vanished == set(folded.renamed)
    gone = set(folded.renamed.values())  # a layer whose own value, before its norm, is no longer computed
    for value in before.keys() - gone:
        close(after[folded.name(value)], before[value])


@each_net
def test_folding_keeps_layers_and_shapes_and_removes_only_norms_behind_layers(name):
    graph = graph_of(name)
    folded = fold_norms(graph.nodes)
    shapes = {node.name: node.shape for node in graph.nodes}
    assert all(node.shape == shapes[node.name] for node in folded.nodes)
    layers = [node.name for node in graph.nodes if is_weight(node)]
    assert [node.name for node in folded.nodes if is_weight(node)] == layers
    assert all(isinstance(graph.by_name[norm].op, Norm) for norm in folded.renamed)
    assert all(graph.by_name[norm].inputs == (layer,) for norm, layer in folded.renamed.items())
    left = sum(isinstance(node.op, Norm) for node in folded.nodes)
    assert (left > 0) == NETS[name].preactivation


@each_net
def test_folding_does_not_change_the_blocks(name):
    graph = graph_of(name)
    folded = fold_norms(graph.nodes)
    again = find_blocks(folded.nodes, "named")
    assert [(b.name, b.join, b.layers, b.skip_layers, b.skip_kind, b.branch_edges) for b in again] == [
        (b.name, b.join, b.layers, b.skip_layers, b.skip_kind, b.branch_edges) for b in graph.blocks
    ]
    assert [block.fork for block in again] == [folded.name(block.fork) for block in graph.blocks]


@each_net
def test_folding_leaves_the_original_as_it_was(name):
    net, graph = NETS[name], graph_of(name)
    images = net.images()
    before = graph.forward(images)
    fold_norms(graph.nodes)
    assert torch.equal(graph.forward(images), before)


def test_a_layer_that_another_node_reads_keeps_its_norm_apart():
    nodes = Nodes()
    nodes.conv("c", "x", size=3)
    nodes.norm("n", "c")
    nodes.add("sum", "n", "c")
    shaped = nodes.shaped
    folded = fold_norms(shaped)
    assert not folded.renamed
    images = normal(2, *nodes.size)
    close(run(folded.nodes, {"x": images}, "sum"), run(shaped, {"x": images}, "sum"))


def test_a_norm_with_two_readers_is_folded_and_both_read_the_layer():
    nodes = Nodes()
    nodes.conv("stem", "x", size=3)
    nodes.norm("n", "stem")
    nodes.conv("b.c", "n", size=3, seed=3)
    nodes.norm("bn", "b.c")
    nodes.add("sum", "bn", "n")
    shaped = nodes.shaped
    (block,) = find_blocks(shaped, "graph")
    folded = fold_norms(shaped)
    assert block.fork == "n"
    assert folded.name(block.fork) == "stem"
    assert folded.name("sum") == "sum"
    assert [node.name for node in folded.nodes] == ["x", "stem", "b.c", "sum"]
    assert folded.nodes[-1].inputs == ("b.c", "stem")
    images = normal(2, *nodes.size)
    close(run(folded.nodes, {"x": images}, "sum"), run(shaped, {"x": images}, "sum"))


def test_two_norms_in_a_row_and_a_norm_at_the_end_are_still_right():
    nodes = Nodes()
    nodes.conv("c", "x", size=3)
    nodes.norm("n1", "c")
    nodes.norm("n2", "n1")
    nodes.conv("d", "n2")
    nodes.norm("last", "d")
    shaped = nodes.shaped
    folded = fold_norms(shaped)
    images = normal(2, *nodes.size)
    close(run(folded.nodes, {"x": images}, folded.name("last")), run(shaped, {"x": images}, "last"))
    assert folded.name("last") == "d"


def test_a_norm_before_its_layer_stays():
    nodes = Nodes()
    nodes.norm("n", "x")
    nodes.conv("c", "n", size=3)
    assert not fold_norms(nodes.shaped).renamed


def test_a_norm_behind_a_linear_layer_is_folded():
    nodes = Nodes((4, 1, 1))
    nodes.put("flat", Flatten(), "x")
    nodes.put("l", Linear(weight=normal(6, 4, seed=1), bias=normal(6, seed=2)), "flat")
    nodes.norm("n", "l", 6)
    shaped, images = nodes.shaped, normal(2, 4, 1, 1)
    folded = fold_norms(shaped)
    assert folded.renamed == {"n": "l"}
    close(run(folded.nodes, {"x": images}, "l"), run(shaped, {"x": images}, "n"))


# shapes ---------------------------------------------------------------------------------------------------------------


@each_net
@pytest.mark.parametrize("size", [None, (3, 32, 32), (3, 17, 40), (3, 1, 1)])
def test_shapes_are_those_of_a_run(name, size):
    graph = graph_of(name)
    size = NETS[name].size if size is None else size
    nodes = with_shapes(graph.nodes, size)
    values, _ = recorded(nodes, normal(2, *size))
    assert {node.name: node.shape for node in nodes} == {key: tuple(v.shape[1:]) for key, v in values.items()}


def test_a_real_network_has_the_shapes_of_a_run(checkpoints):
    for file in ("resnet20.th", "pyhessian_net.pkl"):
        graph = found(load(str(checkpoints / file)).tensors)
        values, _ = recorded(graph.nodes, normal(1, 3, 32, 32).float())
        assert {node.name: node.shape for node in graph.nodes} == {k: tuple(v.shape[1:]) for k, v in values.items()}
        assert [graph.by_name[block.join].shape for block in graph.blocks][::3] == [
            (16, 32, 32),
            (32, 16, 16),
            (64, 8, 8),
        ]


def misfits():
    nodes = Nodes()
    nodes.conv("c", "x", 4, 3)
    yield "other channels", nodes
    nodes = Nodes()
    nodes.norm("n", "x", 3)
    yield "a norm of other channels", nodes
    nodes = Nodes()
    nodes.conv("c", "x", 5, 4)
    nodes.add("sum", "c", "x")
    yield "a sum of two widths", nodes
    nodes = Nodes()
    nodes.conv("c", "x", 4, 4, 3, 2)
    nodes.put("y", Multiply(), "c", "x")
    yield "a product of two sizes", nodes
    nodes = Nodes()
    nodes.conv("c", "x", 4, 4, 3, 2)
    nodes.put("y", Concat(), "c", "x")
    yield "a concatenation of two sizes", nodes
    nodes = Nodes()
    nodes.put("y", Linear(weight=normal(2, 7), bias=None), "x")
    yield "a linear layer of other features", nodes
    nodes = Nodes()
    nodes.put("y", Pool(kind="max", kernel=(9, 9)), "x")
    yield "a window larger than its map", nodes
    nodes = Nodes()
    nodes.put("y", Conv(weight=normal(4, 4, 7, 1), bias=None, stride=(1, 1), padding=(0, 0)), "x")
    yield "a kernel larger than its map", nodes
    nodes = Nodes()
    nodes.put("y", Opaque(name="softmax"), "x")
    yield "an unknown operation without a shape", nodes


MISFITS = list(misfits())


@pytest.mark.parametrize(("what", "nodes"), MISFITS, ids=[what for what, _ in MISFITS])
def test_what_does_not_fit_is_refused_by_name(what, nodes):
    culprit = nodes.written[-1]
    with pytest.raises(UsageError, match=rf"\b{culprit.name}\b.*--input-size"):
        _ = nodes.shaped


def test_a_sum_of_equal_shapes_keeps_the_shape():
    nodes = Nodes()
    nodes.put("sum", Add(), "x", "x", "x")
    assert nodes.shaped[-1].shape == nodes.size
