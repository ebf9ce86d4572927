"""The TorchScript front end: from a traced or scripted program to a residual graph, read without running the program.

The program is read for an example of the given size whose numbers are not known. A trace may have its batch size
written into it; then the smallest that fits is found, and the graph runs on that batch alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from resnet_audit.checkpoint.names import safe
from resnet_audit.errors import NothingToAnalyse, UsageError
from resnet_audit.graph.blocks import find_blocks
from resnet_audit.graph.ir import Conv, Linear, Node, Op, Opaque, is_weight
from resnet_audit.graph.residual import ResidualGraph
from resnet_audit.graph.script import ScriptReader
from resnet_audit.graph.script_values import Misfit, Refused, line_of

if TYPE_CHECKING:
    from torch.jit import ScriptModule

    from resnet_audit.graph.aten_arguments import Live

_ANY = 7919
"""A batch that no program has by chance: what fits it fits every batch."""

_BATCHES = (_ANY, 1, 2, 4, 8, 16, 32, 64, 128, 256)
_STEM_OF_LARGE_IMAGES = 7


def from_torchscript(module: ScriptModule, *, input_size: tuple[int, ...] | None = None) -> ResidualGraph:
    """The residual graph of a TorchScript module in evaluation mode. input_size: of one input, which no program tells.

    Raises NothingToAnalyse without weight layers, UsageError where inputs of that size do not fit the program.
    """
    module.eval()
    loose = _loose(module)
    if not loose:
        raise NothingToAnalyse("no weight layer was found in the program; there is nothing to analyse")
    size, origin = (input_size, "given") if input_size is not None else _usual_size(loose)
    if size is None:
        return _structure_only(loose, "the program does not tell the size of its input; give it with --input-size")
    try:
        reader, output, batch = _read(module, size)
    except Refused as problem:
        return _structure_only(loose, str(problem))
    nodes = reader.kept_nodes(output.name)
    closed = [node for node in nodes if isinstance(node.op, Opaque) and node.op.function is None]
    assumptions = [f"input size {'x'.join(map(str, size))} ({origin})"]
    if batch != _ANY:
        assumptions.append(f"the batch size {batch} is written into the program; it runs on no other")
    return ResidualGraph(
        source="torchscript",
        family=None,
        nodes=nodes,
        blocks=find_blocks(nodes, "graph"),
        unplaced=_unplaced(loose, nodes),
        assumptions=tuple(assumptions),
        runnable_reason=f"{closed[0].name} was saved in training mode: it has no fixed value" if closed else None,
        batch=None if batch == _ANY else batch,
    )


def _read(module: ScriptModule, size: tuple[int, ...]) -> tuple[ScriptReader, Live, int]:
    """The reader after its work, the output, and the batch that fitted. Raises Refused, UsageError."""
    from torch._subclasses import FakeTensorMode  # noqa: PLC0415 (half a second that only programs need)

    try:
        graph = module.inlined_graph
    except Exception:  # noqa: BLE001 (a module without a forward raises what it likes)
        raise Refused("the program has no forward method") from None
    first: Misfit | None = None
    dtype = torch.int64 if len(size) == 1 and _reads_tokens(module) else torch.float32
    for batch in _BATCHES:
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        with mode:
            example = torch.empty((batch, *size), dtype=dtype)
        reader = ScriptReader(module, mode)
        try:
            output = reader.read(graph, example)
        except Misfit as problem:
            first = first or problem
            continue
        except (LookupError, ValueError, TypeError, AttributeError, RuntimeError) as problem:
            raise Refused(f"the program cannot be followed: {line_of(problem)}") from None
        if output.value.shape[:1] == (batch,):
            return reader, output, batch
        first = first or Misfit("the batch does not come first in what it returns")
    shown = "x".join(map(str, size))
    raise UsageError(f"an input of {shown} does not fit the network; {first}; give its size with --input-size")


def _reads_tokens(module: ScriptModule) -> bool:
    """Whether the first weight of the program is a table, as of an embedding."""
    name = next((name for name, weight in module.named_parameters() if weight.ndim > 1), "")
    owner = module
    for part in name.split(".")[:-1]:
        owner = getattr(owner, part)
    return getattr(owner, "original_name", "") == "Embedding"


def _usual_size(loose: tuple[Node, ...]) -> tuple[tuple[int, ...] | None, str]:
    """The size of inputs that the first layer suggests."""
    match loose[0].op:
        case Conv(weight=weight):
            side = 224 if weight.shape[2] == _STEM_OF_LARGE_IMAGES else 32
            stem = f"{weight.shape[2]}x{weight.shape[3]}"
            return (weight.shape[1], side, side), f"usual for nets with a {stem} stem; --input-size sets another"
    return None, ""


def _loose(module: ScriptModule) -> tuple[Node, ...]:
    """The weight layers by their parameters alone."""
    found = []
    for path, weight in module.named_parameters():
        if weight.ndim < 2 or not weight.is_floating_point() or not path.endswith("weight"):
            continue
        name = safe(path).removesuffix(".weight")
        found.append(Node(name=name, op=_op(weight.detach())))
    return tuple(found)


def _op(weight: Tensor) -> Op:
    if weight.ndim == 2:
        return Linear(weight=weight, bias=None)
    if weight.ndim == 4:
        around = (weight.shape[2] // 2, weight.shape[3] // 2)
        return Conv(weight=weight, bias=None, stride=(1, 1), padding=around)
    return Opaque(name=f"conv{weight.ndim - 2}d", weights=(weight,))


def _weights(op: Op) -> tuple[Tensor, ...]:
    return (op.weight,) if isinstance(op, Conv | Linear) else op.weights if isinstance(op, Opaque) else ()


def _unplaced(loose: tuple[Node, ...], nodes: tuple[Node, ...]) -> tuple[str, ...]:
    """Layers whose parameters no node has."""
    names = {node.name for node in nodes}
    held = {weight.data_ptr() for node in nodes if is_weight(node) for weight in _weights(node.op)}
    return tuple(node.name for node in loose if node.name not in names and _weights(node.op)[0].data_ptr() not in held)


def _structure_only(loose: tuple[Node, ...], reason: str) -> ResidualGraph:
    return ResidualGraph(
        source="torchscript",
        family=None,
        nodes=(),
        blocks=(),
        loose=loose,
        unplaced=tuple(node.name for node in loose),
        runnable_reason=reason,
    )
