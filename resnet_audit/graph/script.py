"""Reading a TorchScript graph: every value that no input decides is computed, every other becomes nodes.

A value is a Python object: a number, a list, a tensor of the file, a `Module` of it, or `Live` where it depends on the
network's input; then it carries a fake tensor, which knows its shape and holds no numbers. Conditions on shapes and
flags fold away so; a condition on numbers does not, and stops the reading.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from resnet_audit.checkpoint.names import quoted, safe
from resnet_audit.graph.aten import convert
from resnet_audit.graph.aten_arguments import Live
from resnet_audit.graph.execute import apply
from resnet_audit.graph.ir import Input, Node, Op, Opaque, is_norm, is_weight
from resnet_audit.graph.script_values import (
    ABOUT,
    PLAIN,
    Misfit,
    Refused,
    computed,
    constant_of,
    function_of,
    leaves,
    line_of,
    split_arguments,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch._subclasses import FakeTensorMode

_STEPS = 100_000
"""Operations read before a program is given up: its loops may have no end."""

_MEMBERS = (".weight", ".running_mean", ".running_var", ".bias")
_NEVER = frozenset({"save", "from_file", "_save", "set_", "record_stream", "resize_", "_print", "warn"})
_NUMBERS = frozenset(
    {*(f"aten::{name}" for name in ("Bool", "Int", "Float", "item", "ScalarImplicit")), "aten::IntImplicit"}
)
_VIEWS = frozenset({"slice", "select", "narrow", "view", "permute", "transpose", "split", "chunk", "unbind", "expand"})


@dataclass(frozen=True, slots=True)
class Module:
    """A module of the program and its path."""

    value: Any
    path: str


class ScriptReader:
    """Walks a graph; `known` says what every value is by its name in the graph, `nodes` what became of live ones."""

    def __init__(self, module: Any, mode: FakeTensorMode) -> None:  # noqa: ANN401 (a ScriptModule, which has no types)
        self.module = module
        self.mode = mode
        self.known: dict[str, Any] = {}
        self.nodes: dict[str, Node] = {}
        self.fakes: dict[str, Tensor] = {}
        self.steps = 0
        self.paths = {id(tensor): name for name, tensor in self._tensors()}
        self.layers = {_layer(path) for path in self.paths.values()}
        self.kept: list[Tensor] = []  # so that no identity in `paths` is given away again

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        named = [*self.module.named_parameters(), *self.module.named_buffers()]
        self.held = {name: tensor.detach() for name, tensor in named}
        return iter(self.held.items())

    def read(self, graph: Any, example: Tensor) -> Live:  # noqa: ANN401 (torch's graphs have no types)
        """Read the whole graph for an input like `example`; the live value that it returns first.

        Raises Refused and Misfit.
        """
        itself, source, *others = list(graph.inputs())
        self.known[itself.debugName()] = Module(self.module, "")
        self.known[source.debugName()] = self._put("input", Input(), (), example)
        for other in others:
            if not str(other.type()).startswith(("Optional", "NoneType")):
                raise Refused(f"the program takes {1 + len(others)} inputs, and only the first can be made up")
            self.known[other.debugName()] = None
        self._block(graph)
        found = self.known[next(iter(graph.outputs())).debugName()]
        while isinstance(found, list | tuple | dict) and found:
            found = next(iter(found.values())) if isinstance(found, dict) else found[0]
        if not isinstance(found, Live):
            raise Refused("what the program returns does not depend on its input")
        return found

    # control ----------------------------------------------------------------------------------------------------------

    def _block(self, block: Any) -> None:  # noqa: ANN401 (as above)
        for node in block.nodes():
            self.steps += 1
            if self.steps > _STEPS:
                raise Refused("the program is too long to be read, or its loops have no end")
            self._node(node)

    def _node(self, node: Any) -> None:  # noqa: ANN401 (as above)
        kind, outputs = node.kind(), [value.debugName() for value in node.outputs()]
        arguments = [self.known[value.debugName()] for value in node.inputs()]
        match kind:
            case "prim::Constant":
                self.known[outputs[0]] = constant_of(node)
            case "prim::GetAttr":
                self.known[outputs[0]] = self._attribute(arguments[0], node.s("name"))
            case "prim::If":
                self._if(node, arguments[0], outputs)
            case "prim::Loop":
                self._loop(node, arguments, outputs)
            case "prim::ListUnpack" | "prim::TupleUnpack":
                if not isinstance(arguments[0], list | tuple) or len(arguments[0]) != len(outputs):
                    raise Misfit(f"{kind} cannot take {len(outputs)} values from what reaches it")
                self.known.update(zip(outputs, arguments[0], strict=True))
            case "aten::append":
                arguments[0].append(arguments[1])
                self.known.update((name, arguments[0]) for name in outputs)
            case "prim::RaiseException":
                raise Misfit("the program raises an error for such an input")
            case "prim::SetAttr":
                raise Refused("the program changes a state of its own")
            case _:
                self._value(node, kind, arguments, outputs)

    def _attribute(self, owner: object, name: str) -> object:
        if not isinstance(owner, Module):
            raise Refused("the program reads a member of something that is no module")
        found = getattr(owner.value, name)
        if isinstance(found, torch.jit.ScriptModule):
            return Module(found, f"{owner.path}{name}.")
        if isinstance(found, Tensor):
            # Tensors are wrapped anew at every reading: the one that was listed at first has the name.
            return self.held.get(f"{owner.path}{name}", found)
        return found

    def _if(self, node: Any, condition: object, outputs: list[str]) -> None:  # noqa: ANN401 (as above)
        if isinstance(condition, Live):
            raise Refused("the program takes a decision (prim::If) by the numbers that pass through it")
        chosen = list(node.blocks())[0 if condition else 1]
        self._block(chosen)
        values = [self.known[value.debugName()] for value in chosen.outputs()]
        self.known.update(zip(outputs, values, strict=True))

    def _loop(self, node: Any, arguments: list[Any], outputs: list[str]) -> None:  # noqa: ANN401 (as above)
        most, going, *carried = arguments
        (body,) = node.blocks()
        counter, *inner = [value.debugName() for value in body.inputs()]
        turn = 0
        while not isinstance(most, Live) and not isinstance(going, Live) and turn < most and going:
            self.steps += 1
            if self.steps > _STEPS:
                raise Refused("the program is too long to be read, or its loops have no end")
            self.known[counter] = turn
            self.known.update(zip(inner, carried, strict=True))
            self._block(body)
            going, *carried = [self.known[value.debugName()] for value in body.outputs()]
            turn += 1
        if isinstance(most, Live) or isinstance(going, Live):
            raise Refused("the program repeats (prim::Loop) by the numbers that pass through it")
        self.known.update(zip(outputs, carried, strict=True))

    # values -----------------------------------------------------------------------------------------------------------

    def _value(self, node: Any, kind: str, arguments: list[Any], outputs: list[str]) -> None:  # noqa: ANN401 (as above)
        first = arguments[0] if arguments else None
        tensors = any(isinstance(leaf, Live | Tensor) for leaf in leaves(arguments))
        if isinstance(first, Live | Tensor) and kind in ABOUT:
            known = first.value if isinstance(first, Live) else first
            self.known[outputs[0]] = computed(kind, ABOUT[kind], [known, *arguments[1:]], {})
            return
        if kind in PLAIN and (not tensors or kind.startswith("prim::") or isinstance(first, list | dict | tuple)):
            self.known[outputs[0]] = computed(kind, PLAIN[kind], arguments, {})
            return
        if kind in _NUMBERS and isinstance(first, Live):
            raise Refused(f"the program decides (prim::If, prim::Loop) by the numbers it computes ({quoted(kind)})")
        target = kind.removeprefix("aten::")
        if kind.startswith("prim::") or target in _NEVER:
            raise Refused(f"the program uses {quoted(kind)}, which has no place in a graph")
        positional, named = split_arguments(node, arguments)
        if any(isinstance(leaf, Live) for leaf in leaves(arguments)):
            self._live(target, positional, named, outputs)
            return
        found = computed(kind, function_of(target), positional, named)
        self._remember(found, arguments)
        values = found if len(outputs) > 1 else (found,)
        self.known.update(zip(outputs, values, strict=True))

    def _remember(self, found: object, arguments: list[Any]) -> None:
        """What is made of one parameter alone keeps its name."""
        sources = {self.paths[id(leaf)] for leaf in leaves(arguments) if id(leaf) in self.paths}
        if isinstance(found, Tensor) and len(sources) == 1:
            self.kept.append(found)
            self.paths.setdefault(id(found), sources.pop())

    def _live(self, target: str, positional: list[Any], named: dict[str, Any], outputs: list[str]) -> None:
        """Write the nodes of one operation on live values, and of each of its outputs."""
        first = positional[0] if positional else None
        in_place = target.endswith("_") and not target.endswith("__")
        changed = first.name if in_place and isinstance(first, Live) else None
        if changed is not None and _is_view(self.nodes[changed].op):
            raise Refused(f"the program writes into a part of a value ({quoted(target)})")
        layer = self._layer_of(positional, named)
        ops, inputs = self._converted(target, positional, named, None)
        plain = self._try(ops, inputs)
        if isinstance(plain, list | tuple):
            parts = [
                self._written(target, positional, named, layer, index) if isinstance(part, Tensor) else part
                for index, part in enumerate(plain)
            ]
            values: Sequence[Any] = parts if len(outputs) > 1 else [parts]
        else:
            values = [self._append(target, ops, inputs, layer)]
        self.known.update(zip(outputs, values, strict=False))
        if changed is not None:
            aliases = [name for name, value in self.known.items() if isinstance(value, Live) and value.name == changed]
            self.known.update((name, values[0]) for name in aliases)

    def _converted(
        self, target: str, positional: list[Any], named: dict[str, Any], output: int | None
    ) -> tuple[tuple[Op, ...], tuple[str, ...]]:
        try:
            return convert(target, positional, named, output)
        except Exception as error:  # noqa: BLE001 (a rule meets arguments of any type and any value)
            raise Misfit(f"{quoted(target)} cannot take what reaches it: {line_of(error)}") from None

    def _written(self, target: str, positional: list[Any], named: dict[str, Any], layer: str, index: int) -> Live:
        ops, inputs = self._converted(target, positional, named, index)
        return self._append(target, ops, inputs, layer)

    def _try(self, ops: Sequence[Op], inputs: Sequence[str]) -> Any:  # noqa: ANN401 (a tensor, or several)
        """What the operations give on fake tensors."""
        values: list[Any] = [self.fakes[name] for name in inputs]
        for op in ops:
            if isinstance(op, Opaque) and op.function is None:
                return values[0]
            try:
                with self.mode, torch.no_grad():
                    values = [apply(op, values)]
            except Exception as error:  # noqa: BLE001 (torch raises nearly anything where shapes do not fit)
                raise Misfit(line_of(error)) from None
        return values[0]

    def _append(self, target: str, ops: Sequence[Op], inputs: tuple[str, ...], layer: str) -> Live:
        if not ops:
            return Live(inputs[0], self.fakes[inputs[0]])
        for op in ops:
            fake = self._try((op,), inputs)
            weighs = is_weight(Node(name="", op=op)) or is_norm(Node(name="", op=op))
            live = self._put(
                layer if weighs and layer else safe(target), op, inputs, fake, layer=bool(weighs and layer)
            )
            inputs = (live.name,)
        return live

    def _put(self, name: str, op: Op, inputs: tuple[str, ...], fake: Tensor, *, layer: bool = False) -> Live:
        base, count = name, 1
        while name in self.nodes or (name in self.layers and not layer):
            count += 1
            name = f"{base}_{count}"
        shape = tuple(fake.shape[1:])
        self.nodes[name] = Node(name=name, op=op, inputs=inputs, shape=shape)
        self.fakes[name] = fake
        return Live(name, fake)

    def _layer_of(self, positional: list[Any], named: dict[str, Any]) -> str:
        """The layer whose parameters an operation reads: its weight's, else that of any other."""
        paths = [self.paths[id(leaf)] for leaf in leaves([positional, list(named.values())]) if id(leaf) in self.paths]
        best = next((path for path in paths if path.rpartition(".")[2] == "weight"), paths[0] if paths else "")
        return _layer(best)

    def kept_nodes(self, output: str) -> tuple[Node, ...]:
        """The nodes that lead to `output`, in order."""
        wanted = {output}
        for node in reversed(self.nodes.values()):
            if node.name in wanted:
                wanted.update(node.inputs)
        return tuple(replace(node) for node in self.nodes.values() if node.name in wanted)


def _layer(path: str) -> str:
    member = next((member for member in _MEMBERS if path.endswith(member)), "")
    return safe(path.removesuffix(member))


def _is_view(op: Op) -> bool:
    return isinstance(op, Opaque) and op.name in _VIEWS
