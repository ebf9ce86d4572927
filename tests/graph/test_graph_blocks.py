"""Residual blocks found in graphs written by hand."""

from __future__ import annotations

from itertools import pairwise

import pytest
from graph_builders import SIZE, Nodes

from resnet_audit.graph.blocks import find_blocks
from resnet_audit.graph.ir import Concat, Multiply, Opaque, Pad, Slice


def only(nodes):
    """The one block of the graph."""
    (block,) = find_blocks(nodes.shaped, "graph")
    return block


def test_an_identity_skip_around_two_convolutions_is_a_block():
    nodes = Nodes()
    nodes.conv("a.conv1", "x", size=3)
    nodes.norm("n1", "a.conv1")
    nodes.relu("r", "n1")
    nodes.conv("a.conv2", "r", size=3)
    nodes.add("sum", "a.conv2", "x")
    nodes.relu("out", "sum")
    block = only(nodes)
    assert (block.fork, block.join, block.output, block.skip_kind) == ("x", "sum", "out", "identity")
    assert (block.branch, block.skip) == (("a.conv1", "n1", "r", "a.conv2"), ())
    assert (block.layers, block.skip_layers, block.weight_layers) == (("a.conv1", "a.conv2"), (), 2)
    assert block.branch_edges == (("sum", 0),)
    assert (block.name, block.stage, block.transition, block.evidence) == ("a", 1, False, "graph")


def test_the_branch_is_found_on_either_side_of_the_sum():
    for order, position in ((("c", "x"), 0), (("x", "c"), 1)):
        nodes = Nodes()
        nodes.conv("c", "x", size=3)
        nodes.add("sum", *order)
        block = only(nodes)
        assert block.branch_edges == (("sum", position),)
        assert (block.branch, block.name) == (("c",), "sum")


def test_a_lone_layer_names_its_block_by_its_parent():
    nodes = Nodes()
    nodes.conv("stage.3.conv", "x")
    nodes.add("sum", "stage.3.conv", "x")
    assert only(nodes).name == "stage.3"


def test_a_sum_that_something_else_reads_too_is_its_own_output():
    nodes = Nodes()
    nodes.conv("c", "x")
    nodes.add("sum", "c", "x")
    nodes.relu("r", "sum")
    nodes.put("both", Concat(), "r", "sum")
    block = next(block for block in find_blocks(nodes.shaped, "graph") if block.join == "sum")
    assert block.output == "sum"


def test_a_convolution_with_a_norm_is_a_projection():
    nodes = Nodes()
    nodes.conv("c1", "x", 8, 4, 3, 2)
    nodes.relu("r", "c1")
    nodes.conv("c2", "r", 8, 8, 3)
    nodes.conv("p", "x", 8, 4, 1, 2)
    nodes.norm("pn", "p", 8)
    nodes.add("sum", "c2", "pn")
    block = only(nodes)
    assert (block.skip_kind, block.skip, block.skip_layers) == ("projection", ("p", "pn"), ("p",))
    assert (block.transition, block.layers, block.weight_layers) == (True, ("c1", "c2"), 2)


def test_of_two_single_layers_the_smaller_kernel_is_the_shortcut():
    for order in (("big", "small"), ("small", "big")):
        nodes = Nodes()
        nodes.conv("big", "x", size=3)
        nodes.conv("small", "x", size=1)
        nodes.add("sum", *order)
        block = only(nodes)
        assert (block.skip, block.branch, block.skip_kind) == (("small",), ("big",), "projection")


def test_a_small_kernel_with_its_norm_is_a_shortcut_beside_a_large_kernel_alone():
    nodes = Nodes()
    nodes.conv("big", "x", size=3)
    nodes.conv("small", "x", size=1)
    nodes.norm("n", "small")
    nodes.add("sum", "n", "big")
    assert only(nodes).skip == ("small", "n")


def test_subsampling_and_zero_channels_are_a_resampling_skip():
    nodes = Nodes()
    nodes.conv("c", "x", 8, 4, 3, 2)
    nodes.put("s", Slice(step=(2, 2)), "x")
    nodes.put("p", Pad(before=2, after=2), "s")
    nodes.add("sum", "c", "p")
    block = only(nodes)
    assert (block.skip_kind, block.skip, block.transition) == ("resample", ("s", "p"), True)


def test_a_skip_of_nothing_but_a_norm_is_a_norm_skip():
    nodes = Nodes()
    nodes.conv("c", "x", size=3)
    nodes.norm("n", "x")
    nodes.add("sum", "c", "n")
    block = only(nodes)
    assert (block.skip_kind, block.skip, block.transition) == ("norm", ("n",), True)


def test_a_block_in_a_branch_is_a_block_of_its_own():
    nodes = Nodes()
    nodes.conv("o.first", "x")
    nodes.relu("r", "o.first")
    nodes.conv("o.in.c", "r", size=3)
    nodes.add("inner", "o.in.c", "r")
    nodes.relu("ir", "inner")
    nodes.conv("o.last", "ir")
    nodes.add("outer", "x", "o.last")
    inner, outer = find_blocks(nodes.shaped, "graph")
    assert (inner.join, inner.fork, inner.layers, inner.name) == ("inner", "r", ("o.in.c",), "o.in")
    assert (outer.join, outer.fork, outer.weight_layers, outer.name) == ("outer", "x", 3, "o")
    assert set(inner.branch) < set(outer.branch)


@pytest.mark.parametrize("written", ["at once", "left to right", "right to left"])
def test_three_terms_are_one_sum_however_they_are_written(written):
    nodes = Nodes()
    nodes.conv("a", "x", size=3, seed=1)
    nodes.conv("b", "x", size=3, seed=2)
    if written == "at once":
        nodes.add("sum", "x", "a", "b")
        edges = {("sum", 1), ("sum", 2)}
    elif written == "left to right":
        nodes.add("part", "x", "a")
        nodes.add("sum", "part", "b")
        edges = {("part", 1), ("sum", 1)}
    else:
        nodes.add("part", "a", "b")
        nodes.add("sum", "x", "part")
        edges = {("part", 0), ("part", 1)}
    block = only(nodes)
    assert (block.join, block.fork, block.skip_kind, block.skip) == ("sum", "x", "identity", ())
    assert (set(block.branch_edges), block.branch, block.weight_layers) == (edges, ("a", "b"), 1)


def test_blocks_without_activations_between_them_are_not_one_sum():
    nodes = Nodes()
    last = "x"
    for index in range(3):
        nodes.norm(f"n{index}", last)
        nodes.relu(f"r{index}", f"n{index}")
        nodes.conv(f"b{index}.c", f"r{index}", size=3)
        last = nodes.add(f"sum{index}", f"b{index}.c", last)
    blocks = find_blocks(nodes.shaped, "graph")
    assert [block.fork for block in blocks] == ["x", "sum0", "sum1"]
    assert {block.skip_kind for block in blocks} == {"identity"}
    assert [block.branch for block in blocks] == [(f"n{i}", f"r{i}", f"b{i}.c") for i in range(3)]


def test_a_shortcut_from_the_activated_value_forks_there():
    nodes = Nodes()
    nodes.norm("n", "x")
    nodes.relu("r", "n")
    nodes.conv("c1", "r", 8, 4, 3)
    nodes.relu("r2", "c1")
    nodes.conv("c2", "r2", 8, 8, 3)
    nodes.conv("p", "r", 8, 4, 1)
    nodes.add("sum", "c2", "p")
    block = only(nodes)
    assert (block.fork, block.skip, block.branch) == ("r", ("p",), ("c1", "r2", "c2"))


def test_a_shortcut_from_the_raw_value_forks_before_the_norm():
    nodes = Nodes()
    nodes.norm("n", "x")
    nodes.relu("r", "n")
    nodes.conv("c1", "r", 8, 4, 3)
    nodes.conv("p", "x", 8, 4, 1)
    nodes.add("sum", "c1", "p")
    block = only(nodes)
    assert (block.fork, block.skip, block.branch) == ("x", ("p",), ("n", "r", "c1"))


def test_a_dense_layer_is_a_concatenation_skip():
    nodes = Nodes()
    nodes.conv("d.0.c", "x", 3, 4, 3)
    nodes.put("cat0", Concat(), "x", "d.0.c")
    nodes.conv("d.1.c", "cat0", 3, 7, 3)
    nodes.put("cat1", Concat(), "cat0", "d.1.c")
    blocks = find_blocks(nodes.shaped, "graph")
    assert [(block.name, block.fork, block.skip_kind) for block in blocks] == [
        ("d.0", "x", "concat"),
        ("d.1", "cat0", "concat"),
    ]
    assert [block.branch_edges for block in blocks] == [(("cat0", 1),), (("cat1", 1),)]
    assert all(block.transition for block in blocks)


def test_a_concatenation_of_two_branches_is_no_block():
    nodes = Nodes()
    nodes.conv("a", "x", size=3)
    nodes.conv("b", "x")
    nodes.put("cat", Concat(), "a", "b")
    assert find_blocks(nodes.shaped, "graph") == ()


def test_parallel_activated_branches_are_no_block():
    nodes = Nodes()
    for side, size in (("a", 3), ("b", 1)):
        nodes.conv(f"{side}1", "x", size=size)
        nodes.relu(f"{side}r", f"{side}1")
        nodes.conv(f"{side}2", f"{side}r", size=size)
    nodes.add("sum", "a2", "b2")
    assert find_blocks(nodes.shaped, "graph") == ()


def test_a_shortcut_of_three_layers_is_no_shortcut():
    for depth, count in ((2, 1), (3, 0)):
        nodes = Nodes()
        ends = []
        for side, size in (("a", 3), ("b", 1)):
            last = "x"
            for index in range(depth):
                last = nodes.conv(f"{side}{index}", last, size=size)
            ends.append(last)
        nodes.add("sum", *ends)
        assert len(find_blocks(nodes.shaped, "graph")) == count


def test_a_constant_is_no_operand():
    nodes = Nodes()
    nodes.put("position", Opaque(name="arange"), shape=SIZE)
    nodes.conv("embedded", "position", size=3)
    nodes.add("constants", "position", "embedded")
    nodes.add("placed", "x", "constants")
    nodes.conv("c", "placed")
    nodes.add("biased", "c", "embedded")
    assert find_blocks(nodes.shaped, "graph") == ()


def test_a_constant_beside_a_block_does_not_hide_it():
    nodes = Nodes()
    nodes.put("position", Opaque(name="arange"), shape=SIZE)
    nodes.conv("c", "x", size=3)
    nodes.add("sum", "position", "c", "x")
    block = only(nodes)
    assert (block.skip_kind, block.branch_edges, block.fork) == ("identity", (("sum", 1),), "x")


def test_a_sum_without_layers_or_a_product_is_no_block():
    nodes = Nodes()
    nodes.relu("r", "x")
    nodes.add("sum", "r", "x")
    nodes.conv("gate", "sum")
    nodes.put("gated", Multiply(), "gate", "sum")
    assert find_blocks(nodes.shaped, "graph") == ()


def test_a_branch_of_only_a_norm_makes_a_block_without_layers():
    nodes = Nodes()
    nodes.norm("n", "x")
    nodes.relu("r", "n")
    nodes.add("sum", "r", "x")
    block = only(nodes)
    assert (block.layers, block.weight_layers, block.name) == ((), 0, "sum")


def test_the_stage_changes_after_a_block_that_ends_in_another_shape():
    nodes = Nodes()
    last, width = "x", 4
    for index, stride in enumerate((1, 2, 1, 2, 2)):
        outputs = width * stride
        nodes.conv(f"b{index}.c", last, outputs, width, 3, stride)
        nodes.conv(f"b{index}.p", last, outputs, width, 1, stride)
        nodes.add(f"sum{index}", f"b{index}.c", f"b{index}.p")
        last, width = nodes.relu(f"r{index}", f"sum{index}"), outputs
    assert [block.stage for block in find_blocks(nodes.shaped, "graph")] == [1, 2, 2, 3, 4]


def test_weight_layers_counts_the_longest_path_through_a_branch():
    nodes = Nodes()
    nodes.conv("a", "x")
    nodes.relu("r", "a")
    nodes.conv("b", "r", size=3)
    nodes.conv("gate1", "r")
    nodes.conv("gate2", "gate1")
    nodes.put("gated", Multiply(), "b", "gate2")
    nodes.add("sum", "gated", "x")
    block = only(nodes)
    assert (block.weight_layers, len(block.layers)) == (3, 4)


def test_blocks_of_a_chain_of_blocks_come_in_order():
    nodes = Nodes()
    last = "x"
    for index in range(12):
        nodes.conv(f"b{index}.c", last, size=3)
        last = nodes.relu(f"r{index}", nodes.add(f"sum{index}", last, f"b{index}.c"))
    blocks = find_blocks(nodes.shaped, "graph")
    assert [block.name for block in blocks] == [f"b{index}" for index in range(12)]
    assert all(before.output == block.fork for before, block in pairwise(blocks))
