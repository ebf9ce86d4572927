"""Shortcut depth: how many weight layers every shortcut bypasses, and what that means for the Hessian at the start.

Source   Li, Jiao, Han, Weissman 2016 (arXiv 1611.01186), of which only the abstract was used; all formulas are derived
         (theory note `shortcut-scaling`, A).
Formula  n = 2: loss = loss_0 + sum_l <W_l2 W_l1, B_l> + O(|W|^4); spectrum of the Hessian +-s(B_l), condition s_1 / s_r
         n >= 3: gradient and Hessian are 0;  n = 1: condition |R (s + e) - e| / |e|, linear in the number of blocks R
         leaving a zero point of n >= 3 layers takes time ~ eps^(2 - n) / (n - 2)
Symbols  n  weight layers that a shortcut bypasses; B_l  gradient at the sum times the input of the branch, summed over
         samples and pixels; s_i  its singular values, r  its rank; eps  geometric mean of the layers' norms
Reads    n = 2 is well conditioned at any depth: every block of a stage has the same B. n >= 3 is a note, not a fault:
         with batch normalisation, or away from zero weights, the statement does not apply.
Status   zero point: exact for bare branches on these inputs. Measured Hessian: Lanczos estimates with residuals, for
         these inputs and in evaluation mode. Its condition number is never given: the least |lambda| is about 0.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from resnet_audit.errors import NoBlocks, NonFinite, Unavailable
from resnet_audit.linear import one_library_thread
from resnet_audit.measure.branch import Vanishing, fewest_layers, zero_point
from resnet_audit.measure.passes import cotangent_at_logits
from resnet_audit.measure.zero_hessian import Pair, pair_of, zero_spectra
from resnet_audit.results import Note, ShortcutBlock, ShortcutResult, ZeroHessian
from resnet_audit.theory.shortcut_hessian import measured_hessian

if TYPE_CHECKING:
    from torch import Tensor

    from resnet_audit.graph.blocks import Block
    from resnet_audit.measure import Subject
    from resnet_audit.measure.zero_hessian import ZeroSpectrum
    from resnet_audit.results import DepthLevel, MeasuredHessian, Target, ZeroPoint

NEAR = 0.1
"""Geometric mean norm of the layers below which a branch counts as near zero: escape then takes ten times or more."""

ONE = (
    "bypass one weight layer: at the zero point of a net without norms such shortcuts are no better conditioned than "
    "none, the condition number grows with the number of blocks"
)
DEEP = (
    "bypass three or more weight layers: in a net without norms the point of zero weights is flat there, gradient and "
    "Hessian are 0. That is no fault of a net that never starts there: blocks of three layers with batch normalisation "
    "and He initialisation train well"
)
NEAR_ZERO = "three or more weight layers near zero and no gamma or factor behind them: the loss is flat here"


def analyse(subject: Subject) -> ShortcutResult:
    """Shortcut depths, the Hessian at the zero point and, where asked for, the one at the checkpoint.

    What needs a run is left out with a note where the graph does not run, but the measured Hessian raises. Raises
    NoBlocks, NotRunnable, NonFinite, NoRule, UsageError.
    """
    graph = subject.graph
    if not graph.blocks:
        raise NoBlocks("no residual block was found, so there is no shortcut depth; spectrum and bound need none")
    blocks = tuple(_row(subject, block) for block in graph.blocks)
    notes = _levels(blocks)
    zero: tuple[ZeroHessian, ...] = ()
    hessian: MeasuredHessian | None = None
    try:
        zero = _zero(subject, notes)
    except Unavailable as reason:
        if subject.settings.hessian:
            raise
        notes.append(Note(code=reason.code, message=f"no Hessian: {reason}", where="zero_hessian"))
    if subject.settings.hessian:
        hessian = measured_hessian(subject, _targets(subject), notes)
    ran = bool(zero) or hessian is not None
    return ShortcutResult(
        depths={str(depth): count for depth, count in sorted(Counter(row.depth for row in blocks).items())},
        inputs=subject.recording.inputs if ran else None,
        target=_target(subject) if ran else None,
        blocks=blocks,
        zero_hessian=zero,
        hessian=hessian,
        notes=(*notes, *subject.notes) if ran else tuple(notes),
    )


# structure -----------------------------------------------------------------------------------------------------------


def _row(subject: Subject, block: Block) -> ShortcutBlock:
    graph, depth = subject.graph, block.weight_layers
    least: int | None = depth if depth == len(block.layers) else None
    point: Vanishing | None = None
    if block.join in graph.by_name:
        least, point = fewest_layers(graph, block), zero_point(graph, block)
    scale = None if point is None else _scale(subject, block) if point.kind == "weights" else point.size
    return ShortcutBlock(
        name=block.name,
        depth=depth,
        depth_min=least,
        skip=block.skip_kind,
        zero_point=None if point is None else point.kind,
        level=level(depth, None if point is None else point.kind, scale),
        scale=scale,
    )


def level(depth: int, point: ZeroPoint | None, scale: float | None) -> DepthLevel:
    """`ok` for two layers, `note` for any other number, `warn` for three or more whose weights are near zero."""
    near = point == "weights" and scale is not None and scale < NEAR
    return "ok" if depth == 2 else "warn" if depth > 2 and near else "note"


def _scale(subject: Subject, block: Block) -> float | None:
    """Geometric mean of the certified norms of the branch's layers, norms folded; None where one is unknown."""
    if not subject.graph.runnable or not block.layers:
        return None
    try:
        logs = [subject.log_norms.get(name, math.nan) for name in block.layers]
    except NonFinite:
        return None
    mean = math.fsum(logs) / len(logs) if -math.inf not in logs else -math.inf
    return None if math.isnan(mean) else math.exp(mean)


def _levels(rows: tuple[ShortcutBlock, ...]) -> list[Note]:
    notes = []
    for code, message, found in (
        ("shortcut_depth_one", ONE, [row for row in rows if row.depth == 1]),
        ("shortcut_depth_three", DEEP, [row for row in rows if row.depth > 2]),
    ):
        if found:
            notes.append(Note(code=code, message=f"{len(found)} of {len(rows)} shortcuts {message}"))
    return notes + [Note(code="near_zero", message=NEAR_ZERO, where=row.name) for row in rows if row.level == "warn"]


# the zero point ------------------------------------------------------------------------------------------------------


def _target(subject: Subject) -> Target:
    return "prediction" if subject.inputs.labels is None else "labels"


def _targets(subject: Subject) -> Tensor:
    """The labels of the data, else what the network predicts. Raises UsageError for labels of other classes."""
    logits, labels = subject.recording.logits, subject.inputs.labels
    if labels is not None:
        cotangent_at_logits(logits, "ce", labels, 0)
    return logits.argmax(-1) if labels is None else labels


def _zero(subject: Subject, notes: list[Note]) -> tuple[ZeroHessian, ...]:
    graph = subject.graph
    graph.require_runnable()
    if any(block.skip_kind == "concat" for block in graph.blocks):
        message = "a shortcut that is concatenated is not left alone by a branch of zeros: there is no zero point"
        notes.append(Note(code="no_zero_point", message=message))
        return ()
    pairs = _one_a_stage(subject)
    if not pairs:
        message = (
            "no branch is two plain weight layers, for which alone the Hessian at the zero point has a closed form; "
            "for three and more it is 0"
        )
        notes.append(Note(code="no_zero_hessian", message=message))
        return ()
    with one_library_thread():
        found = zero_spectra(
            graph, pairs, _double(subject.inputs.values), _targets(subject), subject.settings.thread_count
        )
    return tuple(map(_zero_row, found))


def _double(values: Tensor) -> Tensor:
    return values.double() if values.is_floating_point() else values


def _one_a_stage(subject: Subject) -> list[Pair]:
    """For every stage its first block of two plain layers, one that keeps its shape if there is any.

    Blocks inside the branch of another are left out: with that branch at zero they do nothing.
    """
    graph = subject.graph
    inside = {name for block in graph.blocks for name in block.branch}
    found: dict[int, Pair] = {}
    for block in graph.blocks:
        pair = pair_of(graph, block)
        if pair is None or block.join in inside:
            continue
        if block.stage not in found or (found[block.stage].block.transition and not block.transition):
            found[block.stage] = pair
    return list(found.values())


def _zero_row(found: ZeroSpectrum) -> ZeroHessian:
    tolerance = found.tolerance
    above = [value for value in found.values.tolist() if value > tolerance]
    return ZeroHessian(
        stage=found.block.stage,
        block=found.block.name,
        rows=found.rows,
        columns=found.columns,
        sigma_max=above[0] if above else 0.0,
        rank=len(above),
        condition=above[0] / above[-1] if above else None,
        tolerance=tolerance,
    )
