"""The remedy for transition layers: which kernels to make norm-preserving, and each of them projected.

Source   Zaeemzadeh, Rahnavard, Shah 2020 (arXiv 1805.07477): blocks that keep their shape preserve the norm of a
         gradient by their shortcut; those that change it cannot, so their own kernels go to the nearest isometry.
Formula  `linear/procrustes.py`: K -> nearest kernel to c times a co-isometry, strides included, by alternation
Symbols  transition layer: in the branch the first convolution with a stride, or without one the first that widens; in
         the shortcut every convolution. c  target singular value
Reads    mean |sigma / c - 1| near 0 and gain near 1: a random gradient keeps its norm through the layer.
Status   exact for circular padding. The kernels are raw: the batch normalisation behind them is not folded in and keeps
         statistics of the old kernels, so the network is to be trained on or recalibrated.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch

from resnet_audit.errors import NoBlocks, UsageError
from resnet_audit.graph.ir import Conv, Node, Norm, Opaque
from resnet_audit.linear import Projected, circular_grid, procrustes
from resnet_audit.results import Note, ProcrustesLayer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

    from resnet_audit.graph import ResidualGraph
    from resnet_audit.graph.blocks import Block
    from resnet_audit.measure import Subject
    from resnet_audit.results import TargetRule

OLD_STATISTICS = "batch normalisation keeps the statistics of the old kernels: recalibrate it or train on before use"

Part = Literal["branch", "shortcut"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """One convolution to project, and the part of the block that it lies in."""

    node: Node
    op: Conv
    block: Block
    part: Part


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """The projected kernels by the names of their tensors, in the dtype as stored; the network with them; the rows."""

    kernels: Mapping[str, Tensor]
    graph: ResidualGraph
    layers: tuple[ProcrustesLayer, ...]
    notes: tuple[Note, ...]


def chosen_layers(subject: Subject, blocks: Iterable[str] | None = None) -> tuple[Chosen, ...]:
    """The transition layers of all blocks that change the shape, or those of the named `blocks`.

    Of a named block without a transition layer, all convolutions. Raises NoBlocks if there is nothing to project.
    """
    names = None if blocks is None else set(blocks)
    found: list[Chosen] = []
    for block in subject.graph.blocks:
        if names is None and block.transition and block.skip_kind != "concat":
            found += _transition(subject, block)
        elif names is not None and block.name in names:
            found += _transition(subject, block) or _convolutions(subject, block)
    if not found:
        where = "" if names is None else f" in {', '.join(sorted(names))}"
        raise NoBlocks(f"no transition layer was found{where}, so there is nothing to project; name blocks by --blocks")
    return tuple({chosen.node.name: chosen for chosen in found}.values())


def remedy(
    subject: Subject,
    tensors: Mapping[str, Tensor],
    *,
    blocks: Iterable[str] | None,
    target: TargetRule | float,
    iterations: int,
) -> Remedy:
    """The projections of the chosen layers. tensors: the weights as stored, by the names of the checkpoint.

    Raises NotRunnable where the grids are unknown, NoBlocks without a layer to project, and UsageError for a kernel
    that has no projection or is not stored as the network uses it.
    """
    subject.graph.require_runnable()
    layers = chosen_layers(subject, blocks)
    chosen = {layer.node.name: layer for layer in layers}
    stored = {name: _stored(layer, tensors) for name, layer in chosen.items()}

    def project(node: Node) -> tuple[Projected, ProcrustesLayer]:
        return _project(subject, chosen[node.name], tensors[stored[node.name]], target, iterations)

    found = subject.map_layers("projections", project, [layer.node for layer in layers])
    rows = tuple(row for _, row in found)
    kernels = {stored[row.name]: projected.weight for projected, row in found}
    _require_one_kernel(kernels, tensors)
    return Remedy(
        kernels=kernels,
        graph=with_kernels(subject.graph, layers, kernels.values()),
        layers=rows,
        notes=tuple(_notes(subject, rows, kernels, tensors)),
    )


def with_kernels(graph: ResidualGraph, chosen: Iterable[Chosen], kernels: Iterable[Tensor]) -> ResidualGraph:
    """The graph with a new kernel in each chosen layer, and in every layer that shares its weight."""
    new = {_place(layer.op.weight): kernel for layer, kernel in zip(chosen, kernels, strict=True)}

    def changed(node: Node) -> Node:
        op = node.op
        if isinstance(op, Opaque) and not new.keys().isdisjoint(map(_place, op.weights)):
            raise UsageError(f"{node.name} shares a kernel that is to be projected, in a way that cannot be followed")
        if not isinstance(op, Conv) or _place(op.weight) not in new:
            return node
        return replace(node, op=replace(op, weight=new[_place(op.weight)].to(op.weight.dtype)))

    return replace(graph, nodes=tuple(map(changed, graph.nodes)))


def _transition(subject: Subject, block: Block) -> list[Chosen]:
    """The layers of a block that change the shape of what they read; none where the block keeps it."""
    branch = _chosen(subject, block, block.layers, "branch")
    strided = [layer for layer in branch if layer.op.stride != (1, 1)]
    widening = [layer for layer in branch if len(layer.op.weight) > layer.op.weight.shape[1] * layer.op.groups]
    if not block.transition:
        return []
    return (strided or widening)[:1] + _chosen(subject, block, block.skip_layers, "shortcut")


def _convolutions(subject: Subject, block: Block) -> list[Chosen]:
    return [
        *_chosen(subject, block, block.layers, "branch"),
        *_chosen(subject, block, block.skip_layers, "shortcut"),
    ]


def _chosen(subject: Subject, block: Block, names: Iterable[str], part: Part) -> list[Chosen]:
    nodes = [subject.graph.by_name[name] for name in names]
    return [Chosen(node=n, op=n.op, block=block, part=part) for n in nodes if isinstance(n.op, Conv)]


def _stored(layer: Chosen, tensors: Mapping[str, Tensor]) -> str:
    """The name of the tensor that is this layer's kernel. Raises UsageError where the file has none that is it."""
    for name in (f"{layer.node.name}.weight", layer.node.name):
        tensor = tensors.get(name)
        if tensor is not None and _same(tensor, layer.op.weight):
            return name
    raise UsageError(
        f"the kernel of {layer.node.name} is not stored as the network uses it, so no other can be put in its place; "
        f"leave its block out by --blocks, or give the state dict that the program was made of"
    )


def _same(stored: Tensor, used: Tensor) -> bool:
    """Whether they hold the same numbers; NaN are left to the projection, which counts them."""
    return stored.shape == used.shape and torch.equal(stored.to(used.dtype).nan_to_num(), used.nan_to_num())


def _require_one_kernel(kernels: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Raise UsageError where layers that share a kernel need different ones."""
    first: dict[tuple[object, ...], str] = {}
    for name, kernel in kernels.items():
        other = first.setdefault(_place(tensors[name]), name)
        if not torch.equal(kernels[other], kernel):
            raise UsageError(
                f"{other} and {name} are one tensor, and on their grids its projections differ; "
                f"leave one of their blocks out by --blocks"
            )


def _project(
    subject: Subject, layer: Chosen, weight: Tensor, target: TargetRule | float, iterations: int
) -> tuple[Projected, ProcrustesLayer]:
    op = layer.op
    _, height, width = subject.shapes[layer.node.inputs[0]]
    grid = circular_grid((height, width), op.stride)
    try:
        projected = procrustes(weight, grid, op.stride, op.groups, op.dilation, target=target, iterations=iterations)
    except ValueError as error:
        raise UsageError(f"{layer.node.name} has no projection: {error}; leave its block out by --blocks") from error
    row = ProcrustesLayer(
        name=layer.node.name,
        block=layer.block.name,
        placement=layer.part,
        shape=tuple(weight.shape),
        stride=op.stride,
        groups=op.groups,
        grid=grid,
        target=projected.target,
        iterations=projected.iterations,
        deficient=projected.deficient,
        before=projected.before,
        after=projected.after,
        kernel_change=projected.kernel_change,
    )
    return projected, row


def _notes(
    subject: Subject, rows: Iterable[ProcrustesLayer], kernels: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> list[Note]:
    notes = []
    for row in rows:
        node = subject.graph.by_name[row.name]
        if row.grid != subject.shapes[node.inputs[0]][1:]:
            message = "grid rounded up to a multiple of the stride"
            notes.append(Note(code="grid_rounded", message=message, where=row.name))
        if row.deficient:
            message = f"{row.deficient} singular values were zero to rounding: any of the nearest isometries was taken"
            notes.append(Note(code="rank_deficient", message=message, where=row.name))
    places = {_place(tensors[name]): name for name in kernels}
    for name, tensor in tensors.items():
        if name not in kernels and _place(tensor) in places:
            message = f"tied to {places[_place(tensor)]}, and changes with it"
            notes.append(Note(code="tied", message=message, where=name))
    if any(isinstance(node.op, Norm) for node in subject.graph.nodes):
        notes.append(Note(code="old_statistics", message=OLD_STATISTICS))
    return notes


def _place(tensor: Tensor) -> tuple[object, ...]:
    """What tied tensors have in common."""
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()
