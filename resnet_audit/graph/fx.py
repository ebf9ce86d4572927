"""The nodes of an exported program: its live operations in the closed set, everything else bound as constants."""

from __future__ import annotations

import operator
import re
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from resnet_audit.errors import NotRunnable
from resnet_audit.graph.aten import VALUE_FREE, bind, convert
from resnet_audit.graph.aten_arguments import Live
from resnet_audit.graph.execute import apply
from resnet_audit.graph.ir import Input, Node, Op, Opaque, Scale, is_norm, is_weight

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch.export import ExportedProgram

MEMBER = re.compile(r"\.(parametrizations\.\w+\.original\d*|weight_[gv]|weight_orig|weight|bias|running_mean)$")
"""What follows the layer's name in the name of its parameter."""

VIEWS = frozenset({"view", "reshape", "_unsafe_view"})
LINEAR = {"linear": 0, "mm": 0, "addmm": 1}
"""Operations of a linear layer, and where they take its input."""


class Reader:
    """Reads one program without in-place operations.

    nodes: the network. samples: the batch of its example; fixed_batch: that, where the network runs on no other.
    constant_inputs: the inputs besides the network's own. unplaced: layers that the output does not depend on.
    root: the prefix of every name that only the export put there.
    """

    def __init__(self, program: ExportedProgram, names: Mapping[str, str], root: str = "") -> None:
        self._program = program
        self._names = names
        self._root = root
        self._constants: dict[fx.Node, Any] = {}
        self._origins: dict[fx.Node, tuple[str, ...]] = {}
        self._live: dict[fx.Node, str] = {}
        self._restores: dict[fx.Node, fx.Node] = {}
        self._found: dict[str, Node] = {}
        self._layers = {self._layer(self._called(name)) for name in program.graph_signature.parameters}
        self.constant_inputs: tuple[str, ...] = ()
        result = self._result()
        used = _ancestors(result)
        self.samples = self._bind_inputs(used)
        for node in program.graph.nodes:
            if node in used and node.op in {"call_function", "get_attr"}:
                self._read(node)
        if result not in self._live:
            raise NotRunnable("the output of the program does not depend on its input")
        self.nodes = tuple(_upstream(self._found, self._live[result]))
        fixed = any(isinstance(node.op, Opaque) for node in self.nodes)
        self.fixed_batch = self.samples if fixed else None
        named = {self._layer(name) for node in used for name in self._origins.get(node, ())}
        self.unplaced = tuple(sorted(self._layers - named))

    # inputs, outputs, names

    def _result(self) -> fx.Node:
        """The node whose value is the network's: the first output of real numbers."""
        *_, last = self._program.graph.nodes
        wanted = set(self._program.graph_signature.user_outputs)
        for node in pytree.tree_leaves(last.args):
            if isinstance(node, fx.Node) and node.name in wanted and _value(node).is_floating_point():
                return node
        raise NotRunnable("the program gives no real numbers")

    def _bind_inputs(self, used: set[fx.Node]) -> int:
        """Weights, buffers and all inputs but one become constants; the one becomes the first node. Its batch."""
        program = self._program
        stored = {**program.constants, **program.state_dict}
        given = iter(pytree.tree_leaves(program.example_inputs or ()))
        inputs: list[tuple[fx.Node, object]] = []
        places = (node for node in program.graph.nodes if node.op == "placeholder")
        for node, spec in zip(places, program.graph_signature.input_specs, strict=True):
            if spec.target is not None:
                self._constants[node] = _detached(stored[spec.target])
                self._origins[node] = tuple(
                    self._called(name) for name, value in stored.items() if value is stored[spec.target]
                )
            elif isinstance(node.meta.get("val"), Tensor):
                inputs.append((node, next(given, None)))
            else:
                self._constants[node] = next(given, None) if node.meta.get("val") is None else node.meta["val"]
        if not inputs:
            raise NotRunnable("the program has no input")
        reached = {node: len(_descendants(node) & used) for node, _ in inputs}
        main = max(reached, key=reached.__getitem__)
        for node, example in inputs:
            if node is not main:
                self._constants[node] = example if isinstance(example, Tensor) else torch.ones_like(_empty(node))
        self.constant_inputs = tuple(node.name for node, _ in inputs if node is not main and reached[node])
        self._live[main] = "input"
        self._found["input"] = Node(name="input", op=Input(vocabulary=self._vocabulary(main)), shape=_shape(main))
        return int(_value(main).shape[0]) if _value(main).ndim else 1

    def _vocabulary(self, main: fx.Node) -> int | None:
        """The number of tokens, if the input is of whole numbers that embeddings read."""
        if _value(main).is_floating_point():
            return None
        readers = [node for node in _descendants(main) if _target(node) == "embedding"]
        sizes = [int(_value(node.args[0]).shape[0]) for node in readers if isinstance(node.args[0], fx.Node)]
        return min(sizes, default=None)

    def _called(self, parameter: str) -> str:
        return self._names.get(parameter, parameter.removeprefix(self._root))

    @staticmethod
    def _layer(parameter: str) -> str:
        return MEMBER.sub("", parameter)

    def _path(self, node: fx.Node) -> str:
        """The module that the operation is in."""
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        path = str(stack[-1][0]) if stack else ""
        return "" if f"{path}." == self._root else path.removeprefix(self._root)

    def _name(self, node: fx.Node, op: Op) -> str:
        """The layer's name of weights, norms and gains; otherwise the module and the operation."""
        step = Node(name="", op=op)
        layer = is_weight(step) or is_norm(step) or (isinstance(op, Scale) and isinstance(op.factor, Tensor))
        path = self._path(node)
        wanted = (self._parameter(node, path) if layer else None) or f"{path}/{_target(node)}".removeprefix("/")
        names = (wanted, *(f"{wanted}#{count}" for count in range(2, len(self._found) + 3)))
        return next(name for name in names if name not in self._found and (layer or name not in self._layers))

    def _parameter(self, node: fx.Node, path: str) -> str | None:
        """The layer that the weights of an operation belong to; of tied weights the one that it is in."""
        owners = [arg for arg in node.all_input_nodes if arg in self._origins]
        if not owners:
            return None
        main = max(owners, key=lambda arg: min(_value(arg).ndim, 2))
        layers = [self._layer(name) for name in self._origins[main]]
        return path if path in layers else layers[0]

    # operations

    def _read(self, node: fx.Node) -> None:
        if node.op == "get_attr":
            self._constants[node] = operator.attrgetter(str(node.target))(self._program.graph_module)
            return
        inputs = node.all_input_nodes
        several = [arg for arg in inputs if arg not in self._live and arg not in self._constants]
        if node.target is operator.getitem and several:
            self._emit_output(node, several[0], operator.index(cast("int", node.args[1])))
        elif several:
            raise NotRunnable(f"{_target(node)} reads several values at once from {several[0].name}")
        elif self._live.keys().isdisjoint(inputs) or _target(node) in VALUE_FREE:
            self._fold(node)
        elif node in self._restores:
            self._live[node] = self._live[self._restores[node]]
        elif isinstance(node.meta.get("val"), Tensor):
            self._emit(node, node)

    def _fold(self, node: fx.Node) -> None:
        """Compute a value that does not depend on the network's input."""

        def known(arg: fx.Node) -> Any:  # noqa: ANN401 (a constant may be an object of any class)
            return self._constants[arg] if arg in self._constants else _empty(arg)

        with torch.no_grad():
            call: Any = node.target
            self._constants[node] = call(*map_arg(node.args, known), **map_arg(node.kwargs, known))
        origins = {name for arg in node.all_input_nodes for name in self._origins.get(arg, ())}
        if origins:
            self._origins[node] = tuple(sorted(origins))

    def _emit_output(self, node: fx.Node, source: fx.Node, index: int) -> None:
        """One of the several values of `source`."""
        for arg in source.all_input_nodes:
            if arg not in self._live and arg not in self._constants:
                raise NotRunnable(f"{_target(source)} reads several values at once from {arg.name}")
        self._emit(node, source, index)

    def _emit(self, node: fx.Node, source: fx.Node, output: int | None = None) -> None:
        """The nodes that make the value of `node` by the operation of `source`."""
        lead = self._unmerged(source)

        def known(arg: fx.Node) -> Any:  # noqa: ANN401 (a constant may be an object of any class)
            if arg not in self._live:
                return self._constants[arg]
            merged = lead is not None and arg is source.args[LINEAR[_target(source)]]
            origin = cast("fx.Node", arg.args[0]) if merged else arg
            return Live(self._live[origin], _value(origin))

        arguments, keywords = map_arg(source.args, known), map_arg(source.kwargs, known)
        if isinstance(source.target, torch._ops.OpOverload):  # noqa: SLF001 (the only public way to tell it)
            ops, inputs = convert(_target(source), arguments, keywords, output)
        else:
            call: Any = source.target
            ops = (bind(_target(source), call, arguments, keywords, output),)
            inputs = tuple(self._live[arg] for arg in source.all_input_nodes if arg in self._live)
        if not ops:
            self._live[node] = inputs[0]
            return
        for op in ops[:-1]:
            value = apply(op, [torch.empty(1, *self._sizes(name), device="meta") for name in inputs])
            inputs = (self._append(source, op, inputs, tuple(value.shape[1:])),)
        shape = _shape(node) if lead is None else (*lead[1:], _shape(node)[-1])
        self._live[node] = self._append(source, ops[-1], inputs, shape)

    def _sizes(self, name: str) -> tuple[int, ...]:
        return self._found[name].shape or ()

    def _append(self, source: fx.Node, op: Op, inputs: tuple[str, ...], shape: tuple[int, ...]) -> str:
        name = self._name(source, op)
        self._found[name] = Node(name=name, op=op, inputs=inputs, shape=shape)
        return name

    def _unmerged(self, node: fx.Node) -> tuple[int, ...] | None:
        """The leading axes of a linear layer's input, where a view merges them before it and views restore them."""
        position = LINEAR.get(_target(node))
        view = node.args[position] if position is not None and len(node.args) > position else None
        if not isinstance(view, fx.Node) or _target(view) not in VIEWS or view not in self._live:
            return None
        origin = view.args[0]
        if not isinstance(origin, fx.Node) or origin not in self._live:
            return None
        before, after = _value(origin).shape, _value(view).shape
        wanted = (*before[:-1], _value(node).shape[-1])
        if len(after) != 2 or len(before) < 3 or before[-1] != after[-1]:
            return None
        if not all(_target(user) in VIEWS and tuple(_value(user).shape) == wanted for user in node.users):
            return None
        self._restores.update(dict.fromkeys(node.users, node))
        return tuple(before[:-1])


def _target(node: fx.Node) -> str:
    """ATen's name of the operation, without overload; with its library where that is another."""
    if isinstance(node.target, torch._ops.OpOverload):  # noqa: SLF001 (the only public way to tell it)
        return node.target._schema.name.removeprefix("aten::")  # noqa: SLF001 (it has no public name without overload)
    return str(getattr(node.target, "__name__", node.target))


def _value(node: object) -> Tensor:
    """What the program recorded of a node's value: its shape and dtype."""
    value = node.meta["val"] if isinstance(node, fx.Node) else node
    if not isinstance(value, Tensor):
        raise NotRunnable(f"{node} is no tensor")
    return value


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(int(size) for size in _value(node).shape[1:])


def _empty(node: fx.Node) -> Tensor:
    """Zeros of the shape and dtype of a node's value."""
    value = _value(node)
    return torch.zeros(tuple(value.shape), dtype=value.dtype)


def _detached(value: Any) -> Any:  # noqa: ANN401 (a program's constants may be objects of any class)
    return value.detach() if isinstance(value, Tensor) else value


def _ancestors(node: fx.Node) -> set[fx.Node]:
    return set(_closure(node, lambda at: at.all_input_nodes))


def _descendants(node: fx.Node) -> set[fx.Node]:
    return set(_closure(node, lambda at: at.users))


def _closure(start: fx.Node, neighbours: Any) -> Iterator[fx.Node]:  # noqa: ANN401 (a list, or a dict by its keys)
    seen, waiting = {start}, [start]
    while waiting:
        node = waiting.pop()
        yield node
        new = [other for other in neighbours(node) if other not in seen]
        seen.update(new)
        waiting += new


def _upstream(found: Mapping[str, Node], output: str) -> Iterator[Node]:
    """The nodes that `output` needs, in order, the input first."""
    wanted = {output, "input"}
    for node in reversed(list(found.values())):
        if node.name in wanted:
            wanted.update(node.inputs)
    return (node for node in found.values() if node.name in wanted)
