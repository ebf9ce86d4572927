"""The remedy as a command: project, compare the network before and after, and only then write the file."""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from resnet_audit.errors import Unavailable, UsageError
from resnet_audit.report.registry import analysis
from resnet_audit.report.rows import matching
from resnet_audit.results import Accuracy, BlockRatios, GradientResult, Note, ProcrustesBlock, ProcrustesResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resnet_audit.checkpoint import Checkpoint
    from resnet_audit.measure import Subject
    from resnet_audit.results import TargetRule
    from resnet_audit.settings import Settings


RULES: dict[str, TargetRule] = {"auto": "auto", "rms": "rms"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """What `procrustes` does to one checkpoint: `audit` calls it in place of an analysis."""

    output: str
    target: TargetRule | float
    iterations: int

    def require(self, paths: Sequence[str], settings: Settings) -> None:
        """Raise UsageError unless there is one model, and an output that is none of the files that are read."""
        if len(paths) != 1:
            raise UsageError(f"procrustes writes one model, and {len(paths)} were given; name one of them")
        if paths[0] == "-":
            raise UsageError("procrustes reads its model twice; save standard input to a file and name that")
        read = [paths[0], *([settings.data] if settings.data else [])]
        importlib.import_module("resnet_audit.checkpoint.writer").check_output(self.output, read)

    def __call__(self, name: str, subject: Subject, checkpoint: Checkpoint) -> ProcrustesResult:
        """The projection of the checkpoint's transition layers, written to `output`; nothing is written if this raises.

        Raises UsageError, Unavailable, UnreadableCheckpoint, AuditError.
        """
        del name
        settings = subject.settings
        theory = importlib.import_module("resnet_audit.theory.procrustes")
        blocks = matching([block.name for block in subject.graph.blocks], settings.blocks)
        found = theory.remedy(
            subject, checkpoint.tensors, blocks=blocks, target=self.target, iterations=self.iterations
        )
        after = type(subject)(found.graph, settings, subject.progress)
        notes = list(found.notes)
        gradients = _gradients(subject, after, notes)
        result = ProcrustesResult(
            kernels="raw",
            layers=found.layers,
            blocks=_blocks(gradients, tuple(dict.fromkeys(layer.block for layer in found.layers))),
            objective=None if gradients is None else gradients[0].objective,
            inputs=None if gradients is None else gradients[0].inputs,
            accuracy=_accuracy(subject, after, notes),
            iterations=self.iterations,
            target=self.target,
            output=self.output,
        )
        writer = importlib.import_module("resnet_audit.checkpoint.writer")
        notes += writer.rewrite(checkpoint.path, self.output, found.kernels, settings.key)
        return replace(result, notes=tuple(notes))


def target_of(text: str) -> TargetRule | float:
    """The target that `--target` says. Raises UsageError."""
    if text in RULES:
        return RULES[text]
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 < value < math.inf:
        raise UsageError(f"--target {text} is neither auto, rms nor a positive number")
    return value


def _gradients(before: Subject, after: Subject, notes: list[Note]) -> tuple[GradientResult, GradientResult] | None:
    """The gradient ratios of both networks; None, with a note, where one of them has none."""
    try:
        results = [analysis("gradient")(subject) for subject in (before, after)]
    except Unavailable as reason:
        notes.append(Note(code=reason.code, message=f"no gradient ratios: {reason}"))
        return None
    first, second = (result for result in results if isinstance(result, GradientResult))
    return first, second


def _blocks(
    gradients: tuple[GradientResult, GradientResult] | None, names: tuple[str, ...]
) -> tuple[ProcrustesBlock, ...]:
    """The ratios of the blocks whose layers were projected; a block inside another has none of its own."""
    if gradients is None:
        return ()
    old, new = (
        {block.name: BlockRatios(ratio=block.ratio, ratio_rms=block.ratio_rms) for block in result.blocks}
        for result in gradients
    )
    return tuple(ProcrustesBlock(name=name, before=old[name], after=new[name]) for name in names if name in old)


def _accuracy(before: Subject, after: Subject, notes: list[Note]) -> Accuracy | None:
    """The share of all labelled inputs of `--data` that each network names rightly; None without labels."""
    if before.settings.data is None:
        return None
    read = importlib.import_module("resnet_audit.measure.training_data").read_training_data
    try:
        old, new = (read(subject.graph, subject.settings, subject.progress) for subject in (before, after))
    except Unavailable as reason:
        notes.append(Note(code=reason.code, message=f"no accuracy: {reason}"))
        return None
    if old.margins is None or new.margins is None:
        return None
    # A tie is an error.
    shares = [float((data.margins > 0).double().mean()) for data in (old, new)]
    return Accuracy(n=old.count, before=shares[0], after=shares[1])
