"""The coefficients of the backward polynomial are sums over paths: by enumeration, by evaluation, by their sum."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from graph_builders import Nodes, found, graph_of, recorded
from graph_gradients import OnePath, ScaledBranches, ScaledLayers, input_gradient
from graph_nets import (
    NETS,
    option_a,
    option_a_state,
    preact_downsample,
    preact_shortcut,
    preact_state,
    projection,
    projection_state,
)
from graph_oracles import Oracle, normal
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_audit.errors import NoRule
from resnet_audit.graph.backward import Polynomial, add, propagate, times_z
from resnet_audit.graph.fold import fold_norms
from resnet_audit.graph.ir import Scale, is_weight

each_net = pytest.mark.parametrize("name", NETS)
each_z = pytest.mark.parametrize("z", [0.0, 0.5, -1.0, 2.0])


def branch_edges(graph):
    return frozenset(edge for block in graph.blocks for edge in block.branch_edges)


def layer_edges(nodes):
    return frozenset((node.name, 0) for node in nodes if is_weight(node))


def coefficients(nodes, images, cotangent, edges, stop=None, visit=None):
    """Coefficient of z^k of the cotangent at `stop` (default: the input), by k, as one tensor from k = 0."""
    _, saved = recorded(nodes, images)
    parts = propagate(
        nodes, saved, (nodes[-1].name, cotangent), stop=stop or nodes[0].name, marks=times_z(edges), visit=visit
    )
    return torch.cat([parts.coefficients.new_zeros(parts.low, *parts.coefficients.shape[1:]), parts.coefficients])


def close(got, expected, tolerance=1e-12):
    scale = max(float(expected.abs().max()), float(got.abs().max()), 1e-300)
    assert got.shape == expected.shape
    assert float((got - expected).abs().max()) <= tolerance * scale


def enumerated(forward, weights, images, cotangent, blocks):
    """For each k the sum of the gradients along all paths through exactly k branches, one path at a time."""
    return torch.stack(
        [
            sum(
                input_gradient(forward, OnePath(weights, through), images, cotangent)
                for through in combinations(range(blocks), k)
            )
            for k in range(blocks + 1)
        ]
    )


def at(polynomial, z):
    return sum(coefficient * z**k for k, coefficient in enumerate(polynomial))


def padded(polynomial, length):
    """The same with zeros up to `length` coefficients."""
    return torch.cat([polynomial, polynomial.new_zeros(length - len(polynomial), *polynomial.shape[1:])])


@each_net
def test_a_coefficient_is_the_sum_over_all_choices_of_that_many_branches(name):
    net, graph = NETS[name], graph_of(name)
    weights, images = net.weights(), net.images()
    cotangent = normal(2, 5, seed=5)
    expected = enumerated(net.forward, weights, images, cotangent, len(graph.blocks))
    close(coefficients(graph.nodes, images, cotangent, branch_edges(graph)), expected)
    close(coefficients(fold_norms(graph.nodes).nodes, images, cotangent, branch_edges(graph)), expected, 1e-11)


@st.composite
def small_nets(draw):
    seed = draw(st.integers(0, 2**16))
    counts = draw(st.sampled_from([(1, 1, 0), (2, 1, 0), (3, 1, 0), (1, 2, 0), (1, 1, 1), (2, 1, 1)]))
    state, forward = draw(
        st.sampled_from(
            [
                (option_a_state, option_a),
                (projection_state, projection),
                (preact_state, preact_shortcut),
                (lambda s, c: preact_state(s, c, member="downsample", final=True), preact_downsample),
            ]
        )
    )
    return state(seed, counts), forward, seed


@settings(max_examples=25, deadline=None)
@given(small_nets(), st.integers(4, 8), st.integers(4, 8))
def test_coefficients_of_random_networks_equal_enumeration_and_sum_to_the_gradient(net, height, width):
    weights, forward, seed = net
    images, cotangent = normal(2, 3, height, width, seed=seed), normal(2, 5, seed=seed + 1)
    graph = found(weights, input_size=(3, height, width))
    got = coefficients(graph.nodes, images, cotangent, branch_edges(graph))
    expected = enumerated(forward, weights, images, cotangent, len(graph.blocks))
    close(padded(got, len(expected)), expected)
    close(got.sum(0), input_gradient(forward, Oracle(weights), images, cotangent))


@each_net
def test_coefficients_sum_to_the_gradient_in_both_units(name):
    net, graph = NETS[name], graph_of(name, seed=2)
    images, cotangent = net.images(3), normal(3, 5, seed=5)
    expected = input_gradient(net.forward, Oracle(net.weights(2)), images, cotangent)
    for edges in (branch_edges(graph), layer_edges(graph.nodes), frozenset()):
        close(coefficients(graph.nodes, images, cotangent, edges).sum(0), expected)


@each_net
def test_coefficients_sum_to_the_gradient_in_single_precision(name):
    net, graph = NETS[name], graph_of(name)
    images, cotangent = net.images(), normal(2, 5, seed=5)
    expected = input_gradient(net.forward, Oracle(net.weights()), images, cotangent).float()
    got = coefficients(graph.nodes, images.float(), cotangent.float(), branch_edges(graph))
    assert got.dtype == torch.float32
    close(got.sum(0), expected, 1e-4)


@each_net
@each_z
def test_the_polynomial_at_z_is_the_gradient_with_branches_scaled_by_z(name, z):
    net, graph = NETS[name], graph_of(name)
    images, cotangent = net.images(), normal(2, 5, seed=5)
    expected = input_gradient(net.forward, ScaledBranches(net.weights(), z), images, cotangent)
    close(at(coefficients(graph.nodes, images, cotangent, branch_edges(graph)), z), expected)


@each_net
@each_z
def test_the_polynomial_in_layers_at_z_is_the_gradient_with_layers_scaled_by_z(name, z):
    net, graph = NETS[name], graph_of(name)
    images, cotangent = net.images(), normal(2, 5, seed=5)
    expected = input_gradient(net.forward, ScaledLayers(net.weights(), z), images, cotangent)
    close(at(coefficients(graph.nodes, images, cotangent, layer_edges(graph.nodes)), z), expected, 1e-11)


def longest(nodes):
    """The most and the fewest weight layers on a path from input to output."""
    most, fewest = {}, {}
    for node in nodes:
        most[node.name] = max((most[name] for name in node.inputs), default=0) + is_weight(node)
        fewest[node.name] = min((fewest[name] for name in node.inputs), default=0) + is_weight(node)
    return most[nodes[-1].name], fewest[nodes[-1].name]


@each_net
def test_the_degrees_in_layers_are_the_longest_and_the_shortest_path(name):
    net, graph = NETS[name], graph_of(name)
    images, cotangent = net.images(), normal(2, 5, seed=5)
    most, fewest = longest(graph.nodes)
    got = coefficients(graph.nodes, images, cotangent, layer_edges(graph.nodes))
    assert len(got) == most + 1
    assert got[:fewest].abs().max() == 0
    assert got[fewest].abs().max() > 0
    assert got[most].abs().max() > 0
    projected = sum(block.skip_kind == "projection" for block in graph.blocks)
    assert most == 2 + len(graph.blocks) * net.weight_layers
    assert fewest == 2 + projected


def test_with_skips_without_layers_depth_in_layers_is_twice_the_blocks_plus_two():
    net, graph = NETS["option A"], graph_of("option A")
    images, cotangent = net.images(), normal(2, 5, seed=5)
    layers = coefficients(graph.nodes, images, cotangent, layer_edges(graph.nodes))
    blocks = coefficients(graph.nodes, images, cotangent, branch_edges(graph))
    assert layers[1::2].abs().max() == 0
    close(layers[2::2], blocks)


def test_the_gradient_at_the_first_fork_is_that_of_autograd_there():
    captured = []

    class Watching(Oracle):
        def join(self, _index, branch, skip):
            captured.append(skip)
            return branch + skip

    net, graph = NETS["option A"], graph_of("option A")
    images, cotangent = net.images().requires_grad_(requires_grad=True), normal(2, 5, seed=5)
    logits = net.forward(Watching(net.weights()), images)
    (expected,) = torch.autograd.grad(logits, captured[0], cotangent)
    got = coefficients(graph.nodes, images.detach(), cotangent, branch_edges(graph), stop=graph.blocks[0].fork)
    close(got.sum(0), expected)
    assert len(got) == len(graph.blocks) + 1


def test_samples_of_a_batch_do_not_mix():
    net, graph = NETS["bottlenecks, 7x7 stem"], graph_of("bottlenecks, 7x7 stem")
    images, cotangent = net.images(3), normal(3, 5, seed=5)
    together = coefficients(graph.nodes, images, cotangent, branch_edges(graph))
    alone = [coefficients(graph.nodes, images[i : i + 1], cotangent[i : i + 1], branch_edges(graph)) for i in range(3)]
    close(together, torch.cat(alone, dim=1))


def test_the_polynomial_is_linear_in_the_seed():
    net, graph = NETS["wide"], graph_of("wide")
    images, first, second = net.images(), normal(2, 5, seed=5), normal(2, 5, seed=6)
    one, other, both = (
        coefficients(graph.nodes, images, seed, branch_edges(graph)) for seed in (first, second, first - 3 * second)
    )
    close(both, one - 3 * other)


def test_a_chain_has_one_coefficient_in_blocks_and_one_that_is_not_zero_in_layers():
    nodes = Nodes()
    last = "x"
    for index in range(4):
        last = nodes.relu(f"r{index}", nodes.conv(f"c{index}", last, size=3, seed=index))
    shaped = nodes.shaped
    images, cotangent = normal(2, *nodes.size), normal(2, *nodes.size, seed=1)
    assert len(coefficients(shaped, images, cotangent, frozenset())) == 1
    layers = coefficients(shaped, images, cotangent, layer_edges(shaped))
    assert [bool(part.abs().max() > 0) for part in layers] == [False, False, False, False, True]


def test_scalar_branches_give_binomial_coefficients():
    nodes, factor, last = Nodes(), 0.5, "x"
    for index in range(6):
        nodes.put(f"b{index}", Scale(factor=factor), last)
        last = nodes.add(f"sum{index}", last, f"b{index}")
    shaped, cotangent = nodes.shaped, normal(2, *nodes.size, seed=1)
    edges = frozenset((f"sum{index}", 1) for index in range(6))
    got = coefficients(shaped, normal(2, *nodes.size), cotangent, edges)
    for k, binomial in enumerate((1, 6, 15, 20, 15, 6, 1)):
        close(got[k], binomial * factor**k * cotangent)


def test_every_visit_sees_parts_that_add_up_to_the_cotangent():
    net, graph = NETS["pre-activation, shortcut"], graph_of("pre-activation, shortcut")
    images, cotangent, seen = net.images(), normal(2, 5, seed=5), []

    def visit(name, total, parts):
        seen.append(name)
        close(total.at_one(), sum(part.cotangent.at_one() for part in parts))
        readers = {(node.name, i) for node in graph.nodes for i, source in enumerate(node.inputs) if source == name}
        assert {(part.reader, part.position) for part in parts} == (readers or {("", 0)})

    coefficients(graph.nodes, images, cotangent, branch_edges(graph), visit=visit)
    assert seen == [node.name for node in reversed(graph.nodes)]


def test_a_value_read_twice_by_one_sum_gets_both_shares():
    nodes = Nodes()
    nodes.relu("r", "x")
    nodes.add("sum", "r", "r")
    shaped, cotangent = nodes.shaped, normal(2, *nodes.size, seed=1)
    images = normal(2, *nodes.size)
    got = coefficients(shaped, images, cotangent, frozenset({("sum", 1)}))
    close(got[0], cotangent * (images > 0))
    close(got[1], cotangent * (images > 0))


def test_what_does_not_depend_on_the_stop_is_left_out():
    nodes = Nodes()
    nodes.relu("side", "x")
    nodes.relu("main", "x")
    nodes.put("double", Scale(factor=2.0), "main")
    nodes.add("sum", "side", "double")
    visited = []
    cotangent = normal(2, *nodes.size, seed=1)
    got = coefficients(
        nodes.shaped, normal(2, *nodes.size), cotangent, frozenset(), stop="main", visit=lambda n, *_: visited.append(n)
    )
    close(got, 2 * cotangent[None])
    assert visited == ["sum", "double", "main"]


def test_a_seed_that_does_not_depend_on_the_stop_is_an_error():
    nodes = Nodes()
    nodes.put("side", Scale(factor=2.0), "x")
    nodes.put("main", Scale(factor=3.0), "x")
    with pytest.raises(ValueError, match="main does not depend on side"):
        propagate(nodes.shaped, {}, ("main", normal(2, *nodes.size)), stop="side")


def test_an_operation_without_a_record_of_its_mask_stops_the_backward_pass():
    nodes = Nodes()
    nodes.relu("r", "x")
    with pytest.raises(NoRule):
        propagate(nodes.shaped, {}, ("r", normal(1, *nodes.size)), stop="x")


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4)), min_size=1, max_size=4))
def test_adding_polynomials_adds_their_values_everywhere(terms):
    polynomials = [Polynomial(low, normal(count, 2, 3, seed=i)) for i, (low, count) in enumerate(terms)]
    copies = [term.coefficients.clone() for term in polynomials]

    def value(term, z):
        return sum(part * z ** (term.low + k) for k, part in enumerate(term.coefficients))

    total = add(polynomials)
    for z in (0.5, 1.0, -2.0):
        torch.testing.assert_close(value(total, z), sum(value(term, z) for term in polynomials))
    torch.testing.assert_close(total.at_one(), value(total, 1.0))
    torch.testing.assert_close(value(total.shifted(2), 3.0), 9 * value(total, 3.0))
    assert all(torch.equal(term.coefficients, copy) for term, copy in zip(polynomials, copies, strict=True))
