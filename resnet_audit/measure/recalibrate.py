"""Batch normalisation whose running statistics are measured anew, on data.

Source   derived; what torch does in training mode with `momentum=None`, all the data as one batch.
Formula  mean = (1/n) sum x,   var = 1 / (n - 1) sum (x - mean)^2
Symbols  n  samples times pixels;  x  the values of a channel that reach the normalisation, when every one before it
         normalises by its own mean and by the variance with 1/n, as in training
Status   exact on the data given, accumulated in float64; how rows are cut into chunks changes rounding alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from resnet_audit.errors import UsageError
from resnet_audit.graph.execute import apply
from resnet_audit.graph.ir import Input, Node, Norm
from resnet_audit.measure.inputs import DATA_OF_TOKENS, read_images, require_finite
from resnet_audit.measure.training_data import rows_at_once
from resnet_audit.results import Note
from resnet_audit.settings import no_progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from resnet_audit.graph import ResidualGraph
    from resnet_audit.settings import Progress, Settings

LARGEST_VALUES = 2 << 30
"""Bytes of values held at once: every layer sees all rows before the next one sees any."""

STAGE = "batch statistics"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalibration:
    """A graph with new statistics, the number of rows they are of, and the rows that a fixed batch left over."""

    graph: ResidualGraph
    count: int
    left_out: int

    def note(self, path: str) -> Note:
        """What was done, in words; `path` is that of the data."""
        rest = f"; the graph runs on batches of one size, which leaves {self.left_out} out" if self.left_out else ""
        message = f"batch statistics are not those of the checkpoint but of {self.count} inputs of {path}{rest}"
        return Note(code="recalibrated", message=message)


def is_calibrated(graph: ResidualGraph) -> bool:
    """Whether any batch normalisation holds other statistics than the 0 and 1 that it was made with, or there is none.

    A network before its first step in training mode holds nothing else. Counters of batches are not asked: not every
    format has them, and a reset forgets them.
    """
    norms = [node.op for node in graph.nodes if isinstance(node.op, Norm)]
    return not norms or any(bool((op.mean != 0).any()) or bool((op.var != 1).any()) for op in norms)


def recalibrated(graph: ResidualGraph, settings: Settings, progress: Progress = no_progress) -> Recalibration:
    """The graph with the statistics of all rows of `settings.data` in every batch normalisation.

    Raises UsageError where there is nothing to recalibrate or the data do not fit the network or the memory,
    UnreadableCheckpoint where they cannot be read, NotRunnable, NoRule.
    """
    graph.require_runnable()
    path, source = settings.data, graph.nodes[0].op
    if path is None:
        raise UsageError("--recalibrate measures batch statistics on data; give it --data")
    if isinstance(source, Input) and source.vocabulary is not None:
        raise UsageError(DATA_OF_TOKENS)
    if not any(isinstance(node.op, Norm) for node in graph.nodes):
        raise UsageError("--recalibrate is about batch normalisation, and there is none; leave it out")
    inputs, _ = read_images(path, graph.input_size)
    size = graph.batch or rows_at_once(graph)
    left_out = len(inputs) % graph.batch if graph.batch else 0
    count = len(inputs) - left_out
    if count == 0:
        raise UsageError(f"{path}: {left_out} inputs; this graph runs on {size} at once; give more, or --samples fewer")
    values = inputs[:count].to(getattr(torch, settings.dtype))
    require_finite(values, path)
    with torch.no_grad():
        nodes = _Pass(graph, list(torch.split(values, size)), path, progress).nodes()
    return Recalibration(graph=replace(graph, nodes=nodes), count=count, left_out=left_out)


class _Pass:
    """One pass in which each node sees all chunks of rows before the next node sees any."""

    def __init__(self, graph: ResidualGraph, chunks: list[Tensor], path: str, progress: Progress) -> None:
        self.graph = graph
        self.path = path
        self.progress = progress
        self.needed = _needed(graph)
        self.uses = {name: 0 for node in self.needed for name in (node.name, *node.inputs)}
        for node in self.needed:
            for name in node.inputs:
                self.uses[name] += 1
        self.values = {graph.nodes[0].name: chunks}

    def nodes(self) -> tuple[Node, ...]:
        """The graph's nodes; the normalisations among them hold what was measured on the way."""
        found: dict[str, Node] = {}
        norms = sum(isinstance(node.op, Norm) for node in self.needed)
        for node in self.needed:
            read = [self.values[name] for name in node.inputs]
            op = node.op
            if isinstance(op, Norm):
                mean, biased, unbiased = statistics(read[0])
                op = replace(op, mean=mean, var=biased)
                found[node.name] = replace(node, op=replace(op, var=unbiased))
                self.progress(STAGE, len(found), norms)
            if node.inputs:
                self._require_room()
                self.values[node.name] = [apply(op, list(chunk)) for chunk in zip(*read, strict=True)]
            self._forget(node)
        return tuple(found.get(node.name, node) for node in self.graph.nodes)

    def _forget(self, node: Node) -> None:
        """Drop what no later node reads."""
        for name in node.inputs:
            self.uses[name] -= 1
        for name in (node.name, *node.inputs):
            if self.uses[name] == 0:
                self.values.pop(name, None)

    def _require_room(self) -> None:
        held = sum(chunk.nbytes for chunks in self.values.values() for chunk in chunks)
        if held > LARGEST_VALUES:
            raise UsageError(
                f"{self.path}: recalibration holds the values of all inputs at once, over {LARGEST_VALUES >> 30} GiB "
                "here; statistics need no more than some thousands; give --data fewer inputs"
            )


def statistics(chunks: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance with 1/n and variance with 1/(n - 1) over all chunks (n, C, ...), each (C,) in float64.

    Raises UsageError where a channel has one value alone.
    """
    axes = [axis for axis in range(chunks[0].ndim) if axis != 1]
    channels = chunks[0].shape[1]
    count = sum(chunk.numel() for chunk in chunks) // channels
    if count < 2:
        raise UsageError("one input leaves a channel one value, which has no variance; give --data more inputs")
    mean = torch.stack([chunk.sum(axes, dtype=torch.float64) for chunk in chunks]).sum(0) / count
    centre = mean.view(-1, *(1,) * (chunks[0].ndim - 2))
    squares = torch.stack([(chunk.double() - centre).square().sum(axes) for chunk in chunks]).sum(0)
    return mean, squares / count, squares / (count - 1)


def _needed(graph: ResidualGraph) -> list[Node]:
    """The nodes that the output depends on, in order."""
    wanted = {graph.output}
    for node in reversed(graph.nodes):
        if node.name in wanted:
            wanted.update(node.inputs)
    return [node for node in graph.nodes if node.name in wanted]
