"""What the margin bound needs from data: norms of all the inputs and, with labels, the margin of every one.

Source     the margin of arXiv 1706.08498 (before its eq. 1.1); theory note `bound`, 2.5.
Formula    M_i = f(x_i)_y - max_{j != y} f(x_i)_j,   x_rms = ||X||_F / sqrt(N d),   error = share of M_i <= 0
Symbols    X  the N inputs as given, normalised as in training; d  numbers of one input; f  logits; y  label
Guarantee  every row is used, and float64 is, whatever --dtype says: a margin decides a certified number.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from resnet_audit.errors import NonFinite, UsageError
from resnet_audit.graph.ir import Conv, Input
from resnet_audit.linear import map_layers
from resnet_audit.measure.inputs import DATA_OF_TOKENS, read_images, require_finite
from resnet_audit.settings import no_progress

if TYPE_CHECKING:
    from torch import Tensor

    from resnet_audit.graph import ResidualGraph
    from resnet_audit.settings import Progress, Settings

CHUNK = 2_000_000
"""Numbers (of 8 bytes) that the pass of a thread works on at once: eight times as many took twice the time (seen)."""

STAGE = "training data"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingData:
    """The norms of `count` inputs of `dimension` numbers each, and their margins (count,) in float64 if labelled.

    squares: ||X||_F^2; largest_norm: of one input, l2; largest_entry: absolute. Row i of the file has margin i.
    """

    count: int
    dimension: int
    squares: float
    largest_norm: float
    largest_entry: float
    margins: Tensor | None = None

    @property
    def x_rms(self) -> float:
        """Root mean square of one entry of an input."""
        return math.sqrt(self.squares / (self.count * self.dimension))

    @property
    def error(self) -> float | None:
        """Share of the inputs whose label does not have the one largest logit; a tie is an error."""
        return None if self.margins is None else float((self.margins <= 0.0).double().mean())


def read_training_data(graph: ResidualGraph, settings: Settings, progress: Progress = no_progress) -> TrainingData:
    """The facts about all rows of `settings.data`; with labels they take one pass through the network.

    Raises UsageError where the data do not fit the network, UnreadableCheckpoint where they cannot be read, NonFinite
    where the pass overflows, and NotRunnable.
    """
    path, size = settings.data, graph.input_size
    if path is None:
        raise UsageError("there is no training data without --data; give a file of inputs")
    source = graph.nodes[0].op
    if isinstance(source, Input) and source.vocabulary is not None:
        raise UsageError(DATA_OF_TOKENS)
    inputs, labels = read_images(path, size)
    if labels is not None:
        _require_classes(graph, labels, path)
    rows = graph.batch or rows_at_once(graph)

    starts = range(0, len(inputs), rows)
    done = itertools.count(1)

    def facts(start: int) -> _Facts:
        values = inputs[start : start + rows].double()
        require_finite(values, path)
        found = None if labels is None else margins(_logits(graph, values), labels[start : start + rows])
        progress(STAGE, next(done), len(starts))
        flat = values.flatten(1)
        return _Facts(squares=flat.square().sum(1), largest_entry=float(flat.abs().max()), margins=found)

    # Each chunk is computed by one thread, so the bits do not depend on their number.
    return _together(map_layers(facts, starts, settings.thread_count), math.prod(size), path)


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """How far the logit of its label lies above the largest other one, (N,), for logits (N, classes) of 2 or more."""
    own = labels[:, None]
    others: Tensor = logits.scatter(1, own, -math.inf).amax(1)
    return logits.gather(1, own)[:, 0] - others


def rows_at_once(graph: ResidualGraph) -> int:
    """Rows whose widest values, and the patches that a convolution unfolds them to, are CHUNK numbers together."""
    shapes = {node.name: node.shape or () for node in graph.nodes}
    widest = max(math.prod(shape) for shape in shapes.values())
    patches = max((_patches(node.op, node.shape) for node in graph.nodes if node.shape is not None), default=0)
    # Three values are alive in a residual block: what a layer reads, what it writes, and the shortcut.
    return max(1, CHUNK // (3 * widest + patches))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """The facts of some rows; squares: of each row."""

    squares: Tensor
    largest_entry: float
    margins: Tensor | None


def _together(parts: list[_Facts], dimension: int, path: str) -> TrainingData:
    squares = torch.cat([part.squares for part in parts])
    total = math.fsum(squares.tolist())
    if not 0.0 < total < math.inf:
        what = "inputs that are all 0" if total == 0.0 else "inputs whose squares overflow"
        raise UsageError(f"{path}: {what}; they are not normalised as in training; save those that the network saw")
    found = [part.margins for part in parts if part.margins is not None]
    if not all(bool(margin.isfinite().all()) for margin in found):
        raise NonFinite(f"the pass on {path} overflows float64, so its margins are undefined")
    return TrainingData(
        count=len(squares),
        dimension=dimension,
        squares=total,
        largest_norm=math.sqrt(float(squares.max())),
        largest_entry=max(part.largest_entry for part in parts),
        margins=torch.cat(found) if found else None,
    )


def _require_classes(graph: ResidualGraph, labels: Tensor, path: str) -> None:
    """Raise UsageError unless the network gives each input one logit for each of its classes, two at least."""
    shape = graph.by_name[graph.output].shape or ()
    if len(shape) != 1 or shape[0] < 2:
        given = "x".join(map(str, shape)) or "unknown shape"
        raise UsageError(
            f"{path}: labels for a network whose output is {given}; a margin needs one logit for each of two or more "
            "classes; leave the labels out"
        )
    if int(labels.min()) < 0 or int(labels.max()) >= shape[0]:
        raise UsageError(f"{path}: a label lies outside the {shape[0]} classes of the network; give it its own labels")


@torch.no_grad()
def _logits(graph: ResidualGraph, values: Tensor) -> Tensor:
    """The network's output for `values`; a graph of one fixed batch gets it filled up by the last row."""
    missing = (graph.batch or len(values)) - len(values)
    padded = torch.cat([values, values[-1:].expand(missing, *values.shape[1:])]) if missing else values
    return graph.forward(padded)[: len(values)]


def _patches(op: object, shape: tuple[int, ...]) -> int:
    """Numbers of the patches of one row that a convolution with a value of `shape` reads."""
    if not isinstance(op, Conv):
        return 0
    return math.prod(shape[1:]) * math.prod(op.weight.shape[1:]) * op.groups
