"""The two terms of every residual sum, measured in one forward pass: how large, and how much alike."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from resnet_audit.graph.execute import run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from resnet_audit.graph.blocks import Block
    from resnet_audit.graph.ir import Node
    from resnet_audit.measure.subject import Subject


@dataclass(frozen=True, slots=True, kw_only=True)
class Addends:
    """Root mean squares over samples, channels and positions of a block's branch and shortcut, where they are added.

    centred: the same two without the mean of each channel. cosine: between the two; None where one of them is 0.
    """

    branch: float
    skip: float
    centred: tuple[float, float]
    cosine: float | None


def addends_of(subject: Subject, blocks: Sequence[Block]) -> list[Addends | None]:
    """The addends of `blocks` of the subject's graph on its inputs; None for a sum that the output does not need.

    The pass begins with the recorded value at the first block. Raises NotRunnable, NonFinite, UsageError.
    """
    graph, recording = subject.graph, subject.recording
    parts: dict[str, list[tuple[int, bool, int]]] = {}
    for index, block in enumerate(blocks):
        for edge, is_skip in ((block.skip_edge, True), *((edge, False) for edge in block.branch_edges)):
            parts.setdefault(edge[0], []).append((index, is_skip, edge[1]))
    missing = [1 + len(block.branch_edges) for block in blocks]
    sums: dict[tuple[int, bool], Tensor] = {}
    found: list[Addends | None] = [None for _ in blocks]

    def visit(node: Node, read: list[Tensor], _: Tensor) -> None:
        for index, is_skip, position in parts.get(node.name, ()):
            key = (index, is_skip)
            sums[key] = sums[key] + read[position] if key in sums else read[position]
            missing[index] -= 1
            if missing[index] == 0:
                found[index] = _addends(sums.pop((index, False)), sums.pop((index, True)))

    known = {graph.nodes[0].name: subject.inputs.values, recording.start: recording.value}
    with torch.no_grad():
        run(graph.nodes, known, graph.output, visit)
    return found


def _addends(branch: Tensor, skip: Tensor) -> Addends:
    """Both (N, C, ...) where they have rows and columns, else (N, ..., C)."""
    branch, skip = branch.double(), skip.double()
    sizes = [float(part.norm()) for part in (branch, skip)]
    count = math.sqrt(branch.numel())
    axes = [axis for axis in range(branch.ndim) if axis != (1 if branch.ndim == 4 else branch.ndim - 1)]
    first, second = (float((part - part.mean(axes, keepdim=True)).norm()) / count for part in (branch, skip))
    return Addends(
        branch=sizes[0] / count,
        skip=sizes[1] / count,
        centred=(first, second),
        cosine=float((branch * skip).sum()) / (sizes[0] * sizes[1]) if all(sizes) else None,
    )
