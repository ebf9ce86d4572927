"""The torch.export front end: from a module, or from a program that torch.export saved, to the residual graph.

A program is first freed of in-place operations. Then every value that does not depend on the network's input (weights,
masks, position numbers) is computed once and bound into the operations that read it; what is left are the nodes.
Of several inputs the one that reaches most operations is the network's; the others are constants.
"""

from __future__ import annotations

import inspect
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from resnet_audit.errors import NotRunnable, UsageError
from resnet_audit.graph.blocks import find_blocks
from resnet_audit.graph.fx import Reader
from resnet_audit.graph.ir import Node, Opaque
from resnet_audit.graph.residual import ResidualGraph

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch.export import ExportedProgram

    from resnet_audit.results import Source


def from_module(module: nn.Module, example: Tensor | tuple[Tensor, ...]) -> ResidualGraph:
    """The residual graph of a module for inputs like `example`, batch first; the batch is the graph's for good.

    Raises UsageError where the module does not take such inputs, NotRunnable where torch.export cannot follow it.
    """
    inputs = example if isinstance(example, tuple) else (example,)
    wrapped = _FirstOutput(module.eval())
    return _graph(_exported(wrapped, inputs), "module", {}, root="net.")


def from_program(program: ExportedProgram, names: Mapping[str, str] | None = None) -> ResidualGraph:
    """The residual graph of an exported program. names: what to call its parameters, where not by their own names.

    A program of any batch size is specialised to that of its example. Raises NotRunnable without such an example.
    """
    with _quiet():
        if any(isinstance(value, Tensor) and _symbolic(value) for value in _placeholders(program)):
            if program.example_inputs is None:
                raise NotRunnable("the program takes inputs of any size and holds no example; export it for one size")
            positional, named = program.example_inputs
            program = _export(program.module(), positional, named)
        program = program.run_decompositions({})
    return _graph(program, "export", names or {})


class _FirstOutput(nn.Module):
    """A module whose value is one tensor: of several outputs the logits, else the first."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        known = inspect.signature(net.forward).parameters
        # A cache of keys and values is for the next token; nothing here asks for one.
        self.options = {"use_cache": False} if "use_cache" in known else {}

    def forward(self, *inputs: Tensor) -> Tensor:
        found = self.net(*inputs, **self.options)
        if isinstance(found, dict):
            found = next((found[key] for key in ("logits", "out") if key in found), next(iter(found.values())))
        while not isinstance(found, Tensor):
            found = found[0]
        return found


def _exported(module: nn.Module, inputs: tuple[Tensor, ...]) -> ExportedProgram:
    with _quiet():
        try:
            with torch.no_grad():
                module(*inputs)
        except Exception as error:  # the user's module may raise anything
            size = "x".join(map(str, inputs[0].shape[1:]))
            raise UsageError(f"an input of {size} does not fit the network; {_line(error)}; give its size") from error
        try:
            program: ExportedProgram = _export(module, inputs, {}).run_decompositions({})
        except Exception as error:  # torch.export has no exception of its own for what it cannot follow
            raise NotRunnable(f"torch.export cannot follow the network: {_line(error)}") from error
    return program


def _export(module: nn.Module, positional: tuple[Any, ...], named: Mapping[str, Any]) -> ExportedProgram:
    from torch.export import export  # noqa: PLC0415 (half a second that only programs need)

    with torch.enable_grad():
        program: ExportedProgram = export(module, positional, dict(named))
    return program


@contextmanager
def _quiet() -> Iterator[None]:
    """Neither torch's warnings about itself, nor its fused attention, whose one operation hides all layers."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(value=False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(value=before)


def _line(error: BaseException) -> str:
    """The first line of what an error says."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _placeholders(program: ExportedProgram) -> Iterator[object]:
    return (node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder")


def _symbolic(value: Tensor) -> bool:
    return any(isinstance(size, torch.SymInt) for size in value.shape)


# the graph --------------------------------------------------------------------------------------------------


def _graph(program: ExportedProgram, source: Source, names: Mapping[str, str], root: str = "") -> ResidualGraph:
    reader = Reader(program, names, root)
    nodes = reader.nodes
    size = "x".join(map(str, nodes[0].shape or ()))
    assumptions = [f"input size {size} (of the example that the network was exported with)"]
    assumptions += [f"the input {name} is held at its example" for name in reader.constant_inputs]
    if reader.fixed_batch is not None:
        assumptions.append(f"batch of {reader.fixed_batch} (of the example; the program has no other)")
    return ResidualGraph(
        source=source,
        family=None,
        nodes=nodes,
        blocks=find_blocks(nodes, "graph"),
        unplaced=reader.unplaced,
        assumptions=tuple(assumptions),
        runnable_reason=next((_random(node) for node in nodes if _cannot_run(node)), None),
        batch=reader.fixed_batch,
    )


def _cannot_run(node: Node) -> bool:
    return isinstance(node.op, Opaque) and node.op.function is None


def _random(node: Node) -> str:
    return f"{node.name} was exported in training mode: it draws random numbers or reads its batch's statistics"
