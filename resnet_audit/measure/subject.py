"""A graph with its settings and the facts that several analyses need, each computed once, on first use."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from resnet_audit.errors import NonFinite, NotCalibrated, UsageError
from resnet_audit.graph.fold import Folded, finite, fold_norms, gains
from resnet_audit.graph.ir import Conv, Input, Linear, Node, Norm, consumers_of
from resnet_audit.linear import conv_norm_upper, map_layers, matrix_norm_upper, one_library_thread
from resnet_audit.measure.image_folder import assumption, is_folder
from resnet_audit.measure.inputs import Inputs, make_inputs
from resnet_audit.measure.lipschitz import log, log_lipschitz
from resnet_audit.measure.matched import matched, require_matchable
from resnet_audit.measure.passages import Passage, passages_of
from resnet_audit.measure.passes import Recording, autograd_gradient, cotangent_at_logits, record, record_on_tape
from resnet_audit.measure.recalibrate import Recalibration, is_calibrated, recalibrated
from resnet_audit.measure.reference import Reference, read_reference
from resnet_audit.measure.training_data import TrainingData, read_training_data
from resnet_audit.settings import Settings, no_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from resnet_audit.graph import ResidualGraph
    from resnet_audit.graph.blocks import Block
    from resnet_audit.results import Note
    from resnet_audit.settings import Progress

Value = TypeVar("Value")

LARGEST_LOG = 709.0
"""ln of about the largest float64."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """Lipschitz constants, for every input, of a block's branch and of the whole block up to its join."""

    branch: float
    block: float


class Subject:
    """What is audited. Raises UsageError for settings that define nothing.

    Its properties raise NotRunnable, NonFinite or UsageError where they cannot be had.
    """

    def __init__(
        self, graph: ResidualGraph, settings: Settings | None = None, progress: Progress = no_progress
    ) -> None:
        self.found = graph
        self.settings = settings or Settings()
        if (complaint := self.settings.complaint()) is not None:
            raise UsageError(complaint)
        self.progress = progress

    @property
    def graph(self) -> ResidualGraph:
        """The graph as found or, where that was asked for, with the batch statistics of all the data."""
        return self.found if self._recalibration is None else self._recalibration.graph

    @cached_property
    def _recalibration(self) -> Recalibration | None:
        return recalibrated(self.found, self.settings, self.progress) if self.settings.recalibrate else None

    @property
    def notes(self) -> tuple[Note, ...]:
        """What a reader of measured numbers must know of the data behind them."""
        path, found = self.settings.data, []
        if path is not None and is_folder(path):
            found.append(assumption(path, self.graph.input_size[0]))
        if path is not None and self._recalibration is not None:
            found.append(self._recalibration.note(path))
        return tuple(found)

    @cached_property
    @one_library_thread()
    def fold(self) -> Folded:
        """The nodes with every norm that follows a weight layer folded into it."""
        folded = fold_norms(self._sound.nodes)
        self._require_finite(folded.nodes)
        return folded

    @cached_property
    @one_library_thread()
    def _sound(self) -> ResidualGraph:
        """The graph, which can be run and holds finite numbers alone."""
        self.graph.require_runnable()
        self._require_finite(self.graph.nodes)
        return self.graph

    def _require_finite(self, nodes: tuple[Node, ...]) -> None:
        broken = next((node.name for node in nodes if not finite(node.op)), None)
        if broken is not None:
            raise NonFinite(f"{broken} holds NaN or infinite numbers, so nothing is defined that passes through it")

    @property
    def folded(self) -> tuple[Node, ...]:
        """The folded nodes."""
        return self.fold.nodes

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The graph's blocks in terms of the folded nodes."""
        name = self.fold.name
        return tuple(
            replace(
                block,
                fork=name(block.fork),
                branch=tuple(dict.fromkeys(map(name, block.branch))),
                skip=tuple(dict.fromkeys(map(name, block.skip))),
            )
            for block in self.graph.blocks
        )

    @property
    def start(self) -> str:
        """The folded node whose value enters the first block; without blocks, the input."""
        return self.blocks[0].fork if self.blocks else self.graph.nodes[0].name

    @cached_property
    def readers(self) -> dict[str, list[tuple[Node, int]]]:
        """For each node of the graph as found, what reads it."""
        return consumers_of(self.graph.nodes)

    @cached_property
    def places(self) -> dict[str, int]:
        """Where each folded node stands in their order."""
        return {node.name: place for place, node in enumerate(self.folded)}

    @cached_property
    def folded_readers(self) -> dict[str, list[tuple[Node, int]]]:
        """For each folded node, what reads it."""
        return consumers_of(self.folded)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every node, without batch."""
        return {node.name: node.shape or () for node in self.graph.nodes}

    @cached_property
    def norms(self) -> dict[str, float]:
        """Certified l2 norms of the folded weight nodes (zero padding, real input size) and of the norms left alone."""
        jobs = [node for node in self.folded if isinstance(node.op, Conv | Linear)]
        uppers = self.map_layers("operator norms", self.norm_upper, jobs)
        alone = {node.name: float(gains(node.op)[0].abs().max()) for node in self.folded if isinstance(node.op, Norm)}
        return {**dict(zip((job.name for job in jobs), uppers, strict=True)), **alone}

    def norm_upper(self, node: Node) -> float:
        """The certified l2 norm of one weight node, as it stands."""
        if isinstance(node.op, Linear):
            return matrix_norm_upper(node.op.weight)
        op = node.op
        if not isinstance(op, Conv):
            raise TypeError(f"{node.name} is not a weight node")
        _, height, width = self.shapes[node.inputs[0]]
        return conv_norm_upper(
            op.weight,
            size=(height, width),
            stride=op.stride,
            padding=op.padding,
            dilation=op.dilation,
            groups=op.groups,
        )

    def map_layers(self, stage: str, function: Callable[[Node], Value], jobs: Sequence[Node]) -> list[Value]:
        """`function` of every job on all threads, reported as progress of `stage`."""
        done = itertools.count(1)

        def counted(job: Node) -> Value:
            value = function(job)
            self.progress(stage, next(done), len(jobs))
            return value

        return map_layers(counted, jobs, self.settings.thread_count)

    @cached_property
    def log_norms(self) -> dict[str, float]:
        """ln of `norms`; -inf for a layer of zeros."""
        return {name: log(value) for name, value in self.norms.items()}

    def log10_lipschitz(self) -> float | None:
        """log10 of a certified Lipschitz constant of the whole network; None where a node has no rule or it is 0."""
        found = log_lipschitz(self.folded, self.log_norms, self.folded[0].name, shapes=self.shapes)
        value = found.get(self.graph.output, -math.inf)
        return None if value == -math.inf else value / math.log(10.0)

    def certificate(self, block: Block) -> Certificate | None:
        """Certified constants of one of `blocks`; None where an operation has no rule or a constant overflows."""
        order = {node.name: index for index, node in enumerate(self.folded)}
        inside = self.folded[order[block.fork] : order[block.join] + 1]
        found = log_lipschitz(inside, self.log_norms, block.fork, shapes=self.shapes)
        if block.join not in found:
            return None
        by_name = {node.name: node for node in inside}
        logs = [found[by_name[name].inputs[position]] for name, position in block.branch_edges]
        if max(found[block.join], *logs) > LARGEST_LOG:
            return None
        return Certificate(branch=math.fsum(map(math.exp, logs)), block=math.exp(found[block.join]))

    @cached_property
    def inputs(self) -> Inputs:
        """The inputs of every measured number."""
        graph, settings = self.graph, self.settings
        match = settings.inputs == "matched" and settings.data is None
        if match:
            require_matchable(graph)
        source = graph.nodes[0].op
        vocabulary = source.vocabulary if isinstance(source, Input) else None
        made = make_inputs(graph.input_size, replace(settings, samples=graph.batch or settings.samples), vocabulary)
        return matched(graph, made, self.progress) if match else made

    @cached_property
    def training_data(self) -> TrainingData | None:
        """The norms and the margins of all the data, as the training set of a bound; None without `--data`."""
        if self.settings.data is None:
            return None
        return read_training_data(self._sound, self.settings, self.progress)

    @property
    def reference(self) -> Mapping[str, Node] | None:
        """The folded weight nodes, and the norms left alone, to measure from, by name; None without `--reference`."""
        return None if self._reference is None else self._reference.layers

    @property
    def reference_notes(self) -> tuple[Note, ...]:
        """What a person should know of the file of the reference, its path in every message."""
        return () if self._reference is None else self._reference.notes

    @cached_property
    def _reference(self) -> Reference | None:
        return None if self.settings.reference is None else read_reference(self.graph, self.folded, self.settings)

    @cached_property
    def recording(self) -> Recording:
        """One recorded forward pass on the inputs."""
        recording = record(self._sound, self.inputs)
        self._require_no_overflow(recording.logits)
        return recording

    @cached_property
    def torch_gradient(self) -> Tensor:
        """The gradient of the objective at the first block's input by torch's autograd, through the graph as found.

        Asked for before the recording, both come from one forward pass.
        """
        if "recording" in vars(self):
            return autograd_gradient(self.graph, self.recording, self.cotangent)
        recording, tape = record_on_tape(self._sound, self.inputs)
        self._require_no_overflow(recording.logits)
        self.recording = recording
        return tape.gradient(self.cotangent)

    @cached_property
    def cotangent(self) -> Tensor:
        """The gradient of the objective with respect to the logits, (N, classes).

        Raises NotCalibrated for a network whose normalisations have seen no batch: its gradient is not that of the
        network in training.
        """
        self._require_calibrated()
        settings = self.settings
        return cotangent_at_logits(self.recording.logits, settings.objective, self.inputs.labels, settings.seed)

    @cached_property
    def passages(self) -> tuple[Passage, ...]:
        """How the gradient of the objective passes each block, in the order of the blocks."""
        seed = (self.graph.output, self.cotangent)
        passages = passages_of(self.folded, self.blocks, self.recording, seed) if self.blocks else ()
        for passage in passages:
            self._require_no_overflow(passage.fork.double().square().sum())
        return passages

    def _require_calibrated(self) -> None:
        if not is_calibrated(self.graph):
            raise NotCalibrated(
                "every batch normalisation holds mean 0 and variance 1, as before its first batch; a measured gradient "
                "would be that of another network than the one in training; use gradient or ensemble with "
                "--recalibrate --data"
            )

    def _require_no_overflow(self, values: Tensor) -> None:
        if not bool(values.isfinite().all()):
            raise NonFinite(f"the pass overflows {self.settings.dtype}; --dtype float64 reaches further")
