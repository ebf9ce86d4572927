"""The ONNX front end: from the nodes of a model to a residual graph.

Nodes whose values no input changes are computed, nodes with a rule become operations, and any other node is opaque:
then the graph has structure and weights but cannot run. Nothing of the file is executed as a program.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from resnet_audit.checkpoint.names import listed, safe
from resnet_audit.errors import NothingToAnalyse, UsageError
from resnet_audit.graph.blocks import find_blocks
from resnet_audit.graph.execute import apply
from resnet_audit.graph.ir import Input, Node, Op, Opaque, is_norm, is_weight
from resnet_audit.graph.onnx_layers import RULES, part, unknown
from resnet_audit.graph.onnx_nodes import (
    Broken,
    attributes_of,
    captured_by,
    constant_of,
    every_node,
    in_order,
    reached_from,
    subgraphs_of,
)
from resnet_audit.graph.onnx_ops import Found, Step
from resnet_audit.graph.onnx_values import (
    BATCH,
    Constant,
    Live,
    Unknown,
    Value,
    array_of,
    compute,
    inferred_shapes,
)
from resnet_audit.graph.residual import ResidualGraph

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto
    from torch import Tensor

_OURS = frozenset({"", "ai.onnx"})
_WHOLE_NUMBERS = frozenset({6, 7})  # int32 and int64 of TensorProto: tokens


def from_onnx(model: ModelProto, *, input_size: tuple[int, ...] | None = None) -> ResidualGraph:
    """The residual graph of an ONNX model. input_size: of one input, where the file leaves it open.

    Raises NothingToAnalyse without weight layers, UsageError where `input_size` contradicts the file.
    """
    reader = _Reader(_inlined(model), input_size)
    try:
        reader.read()
        nodes, reasons = reader.result()
        blocks = find_blocks(nodes, "graph")
    except (Broken, RecursionError) as problem:
        reason = str(problem) if isinstance(problem, Broken) else "its sums are nested too deeply"
        nodes, reasons, blocks = (), [reason], ()
        reader.loose, reader.nodes = [], {}
        reader.loose = list(reader.inner_layers(reader.graph, {}))
    if not reader.loose and not any(is_weight(node) for node in nodes):
        raise NothingToAnalyse("no weight layer was found among the operators; there is nothing to analyse")
    return ResidualGraph(
        source="onnx",
        family=None,
        nodes=nodes,
        blocks=blocks,
        loose=tuple(reader.loose),
        unplaced=tuple(node.name for node in reader.loose),
        assumptions=tuple(dict.fromkeys(reader.assumptions)),
        runnable_reason="; ".join(reasons) or None,
    )


def _inlined(model: ModelProto) -> ModelProto:
    """The model with the functions that it defines itself written out; as it is where that fails."""
    if not model.functions:
        return model
    from onnx import inliner  # noqa: PLC0415 (an optional extra)

    try:
        return inliner.inline_local_functions(model)
    except Exception:  # noqa: BLE001 (hostile functions make it raise nearly anything; they are opaque then)
        return model


class _Reader:
    """Walks the nodes in order; `values` says what is known of every value, `nodes` what became of live ones."""

    def __init__(self, model: ModelProto, input_size: tuple[int, ...] | None) -> None:
        self.model = model
        self.graph = model.graph
        self.opset = max((entry.version for entry in model.opset_import if entry.domain in _OURS), default=1)
        self.values: dict[str, Value] = {}
        self.nodes: dict[str, Node] = {}
        self.metas: dict[str, Tensor | None] = {}
        self.loose: list[Node] = []
        self.assumptions: list[str] = []
        self.reads = Counter(name for node in every_node(self.graph) for name in node.input)
        self.reads.update(value.name for value in self.graph.output)
        self.holders: Counter[str] = Counter()
        self.batch: int | None = None
        self.source: str = ""
        self.given = input_size
        self.layers = {
            safe(tensor.name).removesuffix(".weight") for tensor in self.graph.initializer if len(tensor.dims) > 0
        }

    # the walk ---------------------------------------------------------------------------------------------------------

    def read(self) -> None:
        """Look at every node once. Raises Broken."""
        self._constants(self.graph)
        self._inputs()
        for node in in_order(self.graph.node, set(self.values)):
            self._visit(node)

    def _constants(self, graph: GraphProto) -> None:
        for tensor in graph.initializer:
            array = array_of(tensor)
            self.values[tensor.name] = Unknown(tensor.name) if array is None else Constant(array, tensor.name)
        for sparse in graph.sparse_initializer:
            self.values[sparse.values.name] = Unknown(sparse.values.name)

    def _inputs(self) -> None:
        """The input that reaches most nodes is the network's; the others are unknown constants."""
        inputs = [value for value in self.graph.input if value.name not in self.values]
        if not inputs:
            raise Broken("the model has no input")
        reach = {value.name: len(reached_from(self.graph.node, value.name)) for value in inputs}
        main = max(inputs, key=lambda value: reach[value.name])
        for value in inputs:
            self.values[value.name] = Unknown(value.name)
        meta = self._input_meta(main)
        self.source = main.name
        name = self._free(safe(main.name) or "input", layer=False)
        self._put(main.name, Node(name=name, op=Input()), meta)

    def _input_meta(self, value: ValueInfoProto) -> Tensor | None:
        tensor = value.type.tensor_type
        dims = [dim.dim_value if dim.dim_value > 0 else None for dim in tensor.shape.dim]
        if dims:
            self.batch, *stated = dims
        else:
            stated = [None] * len(self.given or ())
        size: tuple[int | None, ...] = self.given or tuple(stated)
        if len(size) != len(stated) or any(there not in {None, here} for here, there in zip(size, stated, strict=True)):
            there = "x".join("?" if entry is None else str(entry) for entry in stated) or "nothing"
            here = "x".join(map(str, size))
            raise UsageError(
                f"the model takes inputs of {there} and --input-size gives {here}; leave it out or change it"
            )
        sizes = [entry for entry in size if entry is not None]
        if not sizes or len(sizes) < len(size):
            return None
        dtype = torch.int64 if tensor.elem_type in _WHOLE_NUMBERS else torch.float32
        return torch.empty((BATCH, *sizes), dtype=dtype, device="meta")

    def _visit(self, node: NodeProto) -> None:
        attributes = attributes_of(node)
        if node.op_type == "Constant" and node.domain in _OURS:
            self.values[node.output[0]] = constant_of(node.output[0], attributes)
            return
        inputs = tuple(self.values[name] if name else None for name in node.input)
        computed = compute(node, inputs, attributes, self.opset)
        inner = [graph for graph in subgraphs_of(node) if graph is not None]
        if computed is not None:
            self.values.update(zip(node.output, computed, strict=False))
            return
        if inner and node.op_type == "If" and isinstance(inputs[0], Constant) and inputs[0].array.size == 1:
            chosen = "then_branch" if inputs[0].array.reshape(-1)[0] else "else_branch"
            self._inline(attributes[chosen], node)
            return
        for graph in inner:
            self.loose += self.inner_layers(graph, self.values)
        captured = [self.values[name] for graph in inner for name in captured_by(graph) if name in self.values]
        step = self._step(node, (*inputs, *captured), attributes)
        if not step.live:
            self.loose += self._layers_of(step)
            self.values.update((name, Unknown(name)) for name in node.output)
        else:
            self._convert(node, step)

    def _inline(self, graph: GraphProto, node: NodeProto) -> None:
        """The branch that a constant condition takes, as if it stood in place of the node."""
        self._constants(graph)
        for inner in in_order(graph.node, set(self.values)):
            self._visit(inner)
        for outer, value in zip(node.output, graph.output, strict=False):
            self.values[outer] = self.values.get(value.name, Unknown(value.name))

    def _step(self, node: NodeProto, inputs: tuple[Value | None, ...], attributes: dict[str, Any]) -> Step:
        kind = node.op_type if node.domain in _OURS else f"{node.domain}.{node.op_type}"
        return Step(safe(kind), inputs, attributes, self.opset, self.batch, self._sole, self.nodes.__getitem__)

    def _sole(self, name: str) -> Node | None:
        """The node of that name if one value alone is its, and that value is read once."""
        return self.nodes.get(name) if self.holders[name] == 1 else None

    # writing nodes ----------------------------------------------------------------------------------------------------

    def _convert(self, node: NodeProto, step: Step) -> None:
        """Write what the step computes; if its rule does not hold on shapes, an opaque node."""
        outputs = [name for name in node.output if name]
        if step.kind == "Split":
            for index, output in enumerate(outputs):
                self._write(output, step, _tried(lambda index=index: part(step, index, len(outputs))))
            return
        rule = RULES.get(step.kind)
        alone = len(outputs) == 1 or step.kind in {"Dropout", "BatchNormalization"}
        self._write(outputs[0], step, _tried(lambda: rule(step)) if rule is not None and alone else None)
        for other in outputs[1:]:
            self.values[other] = self.values[outputs[0]]

    def _write(self, output: str, step: Step, found: Found | None) -> None:
        if found is not None and not self._add(output, found):
            found = None
        if found is None:
            found = unknown(step)
            inputs = found.inputs
            node = Node(name=self._name(output, found, found.ops[0]), op=found.ops[0], inputs=inputs)
            self._put(output, node, self._stated(output))

    def _add(self, output: str, found: Found) -> bool:
        """Append the operations of a rule; False, and nothing appended, if they do not fit the shapes."""
        metas = [self.metas[name] for name in found.inputs]
        passed: list[Tensor | None] = []
        for op in found.ops:
            meta = _run_on_shapes(op, metas)
            if meta is None and None not in metas:
                return False
            passed.append(meta)
            metas = [meta]
        if found.note is not None:
            self.assumptions.append(found.note)
        if not found.ops:
            self.values[output] = Live(found.inputs[0], self.metas[found.inputs[0]])
            self.holders[found.inputs[0]] += 1
            return True
        if found.replaces is not None:
            del self.nodes[found.replaces]
        inputs = found.inputs
        for op, meta in zip(found.ops, passed, strict=True):
            node = Node(name=self._name(output, found, op), op=op, inputs=inputs)
            self._put(output, node, meta if meta is not None else self._stated(output))
            inputs = (node.name,)
        return True

    def _put(self, output: str, node: Node, meta: Tensor | None) -> None:
        self.nodes[node.name] = replace(node, shape=None if meta is None else tuple(meta.shape[1:]))
        self.metas[node.name] = meta
        self.values[output] = Live(node.name, meta)
        self.holders[node.name] = self.reads[output]

    def _name(self, output: str, found: Found, op: Op) -> str:
        layer = found.layer is not None and (is_weight(node := Node(name="", op=op)) or is_norm(node))
        return self._free(found.layer if layer and found.layer else safe(output), layer=layer)

    def _free(self, name: str, *, layer: bool) -> str:
        """The name, changed where another node has it, or where it is a layer's and this node is none."""
        while name in self.nodes or (name in self.layers and not layer):
            name += "_"
        return name

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return inferred_shapes(self.model, self.source, self.metas[next(iter(self.nodes))])

    def _stated(self, output: str) -> Tensor | None:
        """A tensor without storage of the shape that onnx infers for a value, if it begins with the batch."""
        shape = self._shapes.get(output, ())
        if not shape or shape[0] not in {BATCH, self.batch} or any(size % BATCH == 0 for size in shape[1:]):
            return None
        return torch.empty((BATCH, *shape[1:]), device="meta")

    # layers without a place -------------------------------------------------------------------------------------------

    def inner_layers(self, graph: GraphProto, scope: dict[str, Value]) -> Iterator[Node]:
        """The weight layers of a graph whose nodes are not followed, subgraphs included."""
        local = dict(scope)
        for tensor in graph.initializer:
            array = array_of(tensor)
            if array is not None:
                local[tensor.name] = Constant(array, tensor.name)
        for node in graph.node:
            attributes = attributes_of(node)
            if node.op_type == "Constant" and node.output:
                local[node.output[0]] = constant_of(node.output[0], attributes)
                continue
            found = [local.get(name, Unknown(name)) for name in node.input]
            inputs = tuple(Live("", None) if not isinstance(value, Constant) else value for value in found)
            yield from self._layers_of(self._step(node, inputs, attributes))
            for inner in subgraphs_of(node):
                yield from self.inner_layers(inner, local)

    def _layers_of(self, step: Step) -> list[Node]:
        """The step as a layer without a place, if it is a weight layer."""
        rule = RULES.get(step.kind)
        found = _tried(lambda: rule(step)) if rule is not None else None
        found = found or unknown(step)
        taken = {node.name for node in self.loose} | set(self.nodes)
        return [
            Node(name=_apart(found.layer or step.kind, taken), op=op)
            for op in found.ops
            if is_weight(Node(name="", op=op))
        ]

    # the result -------------------------------------------------------------------------------------------------------

    def result(self) -> tuple[tuple[Node, ...], list[str]]:
        """The nodes that lead to the output, in order, and why they cannot run. Raises Broken."""
        outputs = [value for output in self.graph.output if isinstance(value := self.values.get(output.name), Live)]
        if not outputs:
            raise Broken("no output of the model depends on its input")
        reach = {value.node: self._ancestors(value.node) for value in outputs}
        output = max(reach, key=lambda name: len(reach[name]))
        kept = tuple(node for node in self.nodes.values() if node.name in reach[output])
        left = [node for node in self.nodes.values() if node.name not in reach[output] and is_weight(node)]
        if left:
            self.assumptions.append(
                f"of the outputs, {output} is followed; {len(left)} weight layers lead only to others"
            )
            self.loose += [replace(node, inputs=()) for node in left]
        source, *others = kept
        tables = [
            node.op.weights[0].shape[0]
            for node in others
            if node.inputs == (source.name,) and isinstance(node.op, Opaque) and node.op.name == "embedding"
        ]
        source = replace(source, op=Input(vocabulary=min(tables, default=None)))
        return (source, *others), self._reasons(kept)

    def _ancestors(self, name: str) -> set[str]:
        found, pending = {name}, [name]
        while pending:
            for parent in self.nodes[pending.pop()].inputs:
                if parent not in found:
                    found.add(parent)
                    pending.append(parent)
        return found

    def _reasons(self, nodes: Sequence[Node]) -> list[str]:
        reasons = []
        if nodes[0].shape is None:
            reasons.append("the file leaves the size of its input open; give it with --input-size")
        closed = dict.fromkeys(
            node.op.name for node in nodes if isinstance(node.op, Opaque) and node.op.function is None
        )
        if closed:
            reasons.append(f"the file uses operators that are not run here: {listed(closed)}")
        elif not reasons and any(node.shape is None for node in nodes):
            reasons.append("the shapes of its values are not known")
        return reasons


def _run_on_shapes(op: Op, metas: Sequence[Tensor | None]) -> Tensor | None:
    """What the operation gives on tensors without storage; None if it fails or does not keep the batch in front."""
    inputs = [meta for meta in metas if meta is not None]
    if len(inputs) < len(metas):
        return None
    try:
        value = apply(op, inputs)
    except Exception:  # noqa: BLE001 (torch raises nearly anything where shapes do not fit)
        return None
    fits = value.ndim > 0 and value.shape[0] == BATCH and not any(size % BATCH == 0 for size in value.shape[1:])
    return value if fits else None


def _tried(rule: Any) -> Found | None:  # noqa: ANN401 (a call without arguments)
    try:
        found: Found | None = rule()
    except Exception:  # noqa: BLE001 (attributes of a hostile file have any type and any value)
        return None
    return found


def _apart(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name
