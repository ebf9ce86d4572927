"""Residual blocks found in random graphs whose paths are enumerated one by one."""

from __future__ import annotations

from graph_builders import SIZE, Nodes, conv, norm, relu
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_audit.graph.blocks import find_blocks
from resnet_audit.graph.ir import Activation, Add, Conv, Norm, Opaque


@st.composite
def graphs(draw):
    """Up to nine nodes after the input: layers, norms, activations, sums and constants, all of one shape."""
    nodes = Nodes()
    names = ["x"]
    kinds = st.sampled_from(["conv", "wide", "norm", "relu", "add", "add", "add", "sum3", "constant"])
    for index, kind in enumerate(draw(st.lists(kinds, min_size=3, max_size=9))):
        source = [draw(st.sampled_from(names[-4:])) for _ in range(3)]
        name = f"{kind}{index}"
        match kind:
            case "conv":
                nodes.put(name, conv(), source[0])
            case "wide":
                nodes.put(name, conv(size=3), source[0])
            case "norm":
                nodes.put(name, norm(), source[0])
            case "relu":
                nodes.put(name, relu(), source[0])
            case "add":
                nodes.put(name, Add(), *source[:2])
            case "sum3":
                nodes.put(name, Add(), *source)
            case "constant":
                nodes.put(name, Opaque(name="constant"), shape=SIZE)
        names.append(name)
    return nodes.shaped


class Paths:
    """Every path of a small graph, listed."""

    def __init__(self, nodes):
        self.nodes = {node.name: node for node in nodes}
        self.readers = {node.name: [r.name for r in nodes for i in r.inputs if i == node.name] for node in nodes}

    def between(self, start, end):
        if start == end:
            return [[end]]
        return [[*path, end] for source in self.nodes[end].inputs for path in self.between(start, source)]

    def inner(self, name):
        """Whether a sum is only read by one other sum, once."""
        readers = self.readers[name]
        return len(readers) == 1 and isinstance(self.nodes[readers[0]].op, Add)

    def operands(self, join):
        """The terms of a sum that depend on x, with sums of sums written as one."""
        terms = []
        for position, source in enumerate(self.nodes[join].inputs):
            if isinstance(self.nodes[source].op, Add) and self.inner(source):
                terms += self.operands(source)
            elif self.between("x", source):
                terms.append((join, position))
        return terms

    def source(self, edge):
        return self.nodes[edge[0]].inputs[edge[1]]

    def interior(self, fork, end):
        """Nodes on the paths from `fork` to `end`, without the fork."""
        return {name for path in self.between(fork, end) for name in path[1:]}

    def fork(self, join):
        """The last node that lies on every path to every live term of the sum."""
        paths = [path for edge in self.operands(join) for path in self.between("x", self.source(edge))]
        return [name for name in paths[0] if all(name in path for path in paths)][-1]

    def layers_on_a_path(self, fork, end):
        return max(sum(isinstance(self.nodes[n].op, Conv) for n in path[1:]) for path in self.between(fork, end))


@settings(max_examples=400, deadline=None)
@given(graphs())
def test_a_block_of_a_random_graph_is_what_its_paths_say(nodes):
    paths = Paths(nodes)
    for block in find_blocks(nodes, "graph"):
        assert block.fork == paths.fork(block.join)
        edges = paths.operands(block.join)
        assert set(block.branch_edges) < set(edges)
        (skip,) = set(edges) - set(block.branch_edges)
        assert set(block.skip) == paths.interior(block.fork, paths.source(skip))
        ends = [paths.source(edge) for edge in block.branch_edges]
        branch = set().union(*(paths.interior(block.fork, end) for end in ends)) - set(block.skip)
        assert set(block.branch) == branch
        assert block.weight_layers == max(paths.layers_on_a_path(block.fork, end) for end in ends)
        in_skip = paths.layers_on_a_path(block.fork, paths.source(skip))
        assert all(in_skip <= paths.layers_on_a_path(block.fork, end) for end in ends)
        assert block.layers == tuple(n.name for n in nodes if n.name in branch and isinstance(n.op, Conv))
        assert block.skip_layers == tuple(n.name for n in nodes if n.name in block.skip and isinstance(n.op, Conv))
        kinds = {type(paths.nodes[name].op) for name in block.skip}
        expected = (
            "identity" if not kinds else "projection" if Conv in kinds else "norm" if kinds == {Norm} else "resample"
        )
        assert block.skip_kind == expected


@settings(max_examples=400, deadline=None)
@given(graphs())
def test_a_sum_of_a_random_graph_that_is_no_block_has_a_reason(nodes):
    paths, joins = Paths(nodes), {block.join for block in find_blocks(nodes, "graph")}
    sums = [node.name for node in nodes if isinstance(node.op, Add)]
    assert joins <= set(sums)
    for join in sums:
        edges = paths.operands(join)
        if join in joins or paths.inner(join) or len(edges) < 2:
            assert join not in joins or (len(edges) >= 2 and not paths.inner(join))
            continue
        fork = paths.fork(join)
        ends = [paths.source(edge) for edge in edges]
        regions = [paths.interior(fork, end) for end in ends]
        bare = not any(isinstance(paths.nodes[n].op, Conv | Norm) for n in set().union(*regions))
        lightest = min(paths.layers_on_a_path(fork, end) for end in ends)
        activated = any(
            isinstance(paths.nodes[n].op, Activation)
            for end, region in zip(ends, regions, strict=True)
            if paths.layers_on_a_path(fork, end) == lightest > 0
            for n in region
        )
        # The branch may also hold nothing of its own: all of it lies on the shortcut's way.
        shared = any(
            not any(isinstance(paths.nodes[n].op, Conv | Norm) for n in set().union(*regions) - region)
            for region in regions
        )
        assert bare or lightest > 2 or activated or shared
