"""The nodes of an ONNX file: attributes, subgraphs, what each reads, and an order in which they can be visited."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from resnet_audit.checkpoint.names import quoted
from resnet_audit.graph.onnx_values import Constant, Unknown, Value, array_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from onnx import GraphProto, NodeProto


class Broken(Exception):
    """The nodes of the file do not make a graph; the text says why."""


def attributes_of(node: NodeProto) -> dict[str, Any]:
    """The attributes by name, texts decoded."""
    from onnx import helper  # noqa: PLC0415 (an optional extra)

    found = {}
    for attribute in node.attribute:
        try:
            value = helper.get_attribute_value(attribute)
        except ValueError:
            continue
        found[attribute.name] = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return found


def constant_of(name: str, attributes: dict[str, Any]) -> Value:
    """The value of a Constant node."""
    for key, value in attributes.items():
        if key == "value":
            array = array_of(value)
            return Unknown(name) if array is None else Constant(array, name)
        if key in {"value_float", "value_floats", "value_int", "value_ints"}:
            dtype = np.float32 if "float" in key else np.int64
            return Constant(np.array(value, dtype=dtype), name)
    return Unknown(name)


def subgraphs_of(node: NodeProto) -> list[GraphProto]:
    """The graphs in its attributes: branches of an If, the body of a Loop."""
    found = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return found + [graph for attribute in node.attribute for graph in attribute.graphs]


def every_node(graph: GraphProto) -> Iterator[NodeProto]:
    """The nodes of a graph and of all graphs inside them."""
    for node in graph.node:
        yield node
        for inner in subgraphs_of(node):
            yield from every_node(inner)


def captured_by(graph: GraphProto) -> list[str]:
    """Names that a subgraph reads and does not give itself."""
    own = {name for node in every_node(graph) for name in node.output} | {value.name for value in graph.input}
    own |= {tensor.name for tensor in graph.initializer}
    read = [name for node in every_node(graph) for name in node.input] + [value.name for value in graph.output]
    return [name for name in dict.fromkeys(read) if name and name not in own]


def reads_of(node: NodeProto) -> list[str]:
    """The names of all values that a node reads, those of its subgraphs included."""
    return [name for name in node.input if name] + [name for graph in subgraphs_of(node) for name in captured_by(graph)]


def reached_from(nodes: Sequence[NodeProto], name: str) -> set[int]:
    """The positions of the nodes that depend on the value `name`, in a file whose nodes are in order."""
    touched, found = {name}, set()
    for index, node in enumerate(nodes):
        if not touched.isdisjoint(reads_of(node)):
            found.add(index)
            touched.update(node.output)
    return found


def in_order(nodes: Sequence[NodeProto], known: set[str]) -> list[NodeProto]:
    """The nodes so that each comes after what it reads. Raises Broken for a cycle and for a value that nobody gives."""
    made = {name for node in nodes for name in node.output if name}
    waiting = [(node, set(reads_of(node)) - known) for node in nodes]
    for node, needs in waiting:
        absent = sorted(needs - made)
        if absent:
            raise Broken(f"its node {quoted(node.name or node.op_type)} reads {quoted(absent[0])}, which nothing gives")
    readers: dict[str, list[int]] = {}
    for index, (_, needs) in enumerate(waiting):
        for name in needs:
            readers.setdefault(name, []).append(index)
    ready = [index for index, (_, needs) in enumerate(waiting) if not needs]
    order: list[NodeProto] = []
    for index in ready:  # grows while it is walked
        node = waiting[index][0]
        order.append(node)
        for name in dict.fromkeys(node.output):
            for reader in readers.get(name, ()):
                needs = waiting[reader][1]
                if name in needs:
                    needs.discard(name)
                    if not needs:
                        ready.append(reader)
    if len(order) < len(waiting):
        stuck = next(node for node, needs in waiting if needs)
        raise Broken(f"its nodes form a cycle through {quoted(stuck.name or stuck.op_type)}")
    return order
