"""Branch scaling: how strong every branch is, what kernel that predicts at this depth, and what to train next with.

Source   the setting is that of arXiv 2403.04545, "Improve Generalization Ability of Deep Wide Residual Network with A
         Suitable Scaling Factor", later "Branch Scaling Manifests as Implicit Architectural Regularization for
         Improving Generalization in Overparameterized ResNets"; before it Huang, Wang, Tao, Zhao 2020 (NeurIPS). The
         numbers are derived (theory note `shortcut-scaling`, B).
Formula  alpha_l = RMS(branch) / RMS(shortcut),   S = sum_l alpha_l^2 / (1 + alpha_l^2)
         spread = max - min of the normalised kernel over angles (`measure/rntk.py`)
Symbols  alpha_l  branch scale of block l, both terms taken at the sum, before the ReLU behind it;  S  residual time
Reads    S << 1: like one hidden layer, which cannot learn some targets. S -> infinity: the kernel is 1/4 off the
         diagonal and cannot learn at all. In between lies S = 1, the default target; smaller is not better.
Status   alpha measured: exact on these inputs; from weights: prediction. S, spread, level: predictions for infinite
         width at initialisation without normalisation, applied to a trained network: compare networks by them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from resnet_audit.errors import NoBlocks, NoRule, NotRunnable, Unavailable
from resnet_audit.measure.addends import addends_of
from resnet_audit.measure.branch_scales import chain, parameters_at_the_end, weight_scales
from resnet_audit.measure.rntk import kernel_spread, residual_time
from resnet_audit.results import Note, Recommended, ReferenceScheme, ScalingBlock, ScalingResult

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from resnet_audit.graph.blocks import Block
    from resnet_audit.measure import Subject
    from resnet_audit.measure.addends import Addends
    from resnet_audit.measure.branch_scales import WeightScale
    from resnet_audit.results import AlphaMethod, ScalingLevel

    Scheme = Callable[[int, int], float]
    """The scale of block l = 1..L from (l, L)."""

TARGET = 1.0
"""Residual time to aim at: 92 % of the one-layer spread is left, and targets that one layer cannot learn come back."""

LEVELS: tuple[tuple[float, ScalingLevel], ...] = ((1.1, "ok"), (7.3, "mild"), (62.0, "degrading"))
"""Largest residual time of each level: 90, 50 and 10 % of the one-layer spread are left there."""

SCHEMES: tuple[tuple[str, Scheme], ...] = (
    ("1 (plain)", lambda _, __: 1.0),
    ("1/sqrt l (batch normalisation at init)", lambda block, _: block**-0.5),
    ("L^-1/4", lambda _, blocks: blocks**-0.25),
    ("1/sqrt L (depth-muP)", lambda _, blocks: blocks**-0.5),
    ("1/L (ODE limit)", lambda _, blocks: 1.0 / blocks),
    ("0.2 (NFNet)", lambda _, __: 0.2),
    ("0.1 (LayerScale)", lambda _, __: 0.1),
    ("1e-5 (LayerScale, deep)", lambda _, __: 1e-5),
    ("0 (Fixup, SkipInit, ReZero, zero gamma)", lambda _, __: 0.0),
)
"""Branch scales before training."""


def analyse(subject: Subject) -> ScalingResult:
    """Branch scales, residual time, kernel spread, and scales for a new run.

    Raises NoBlocks, NotRunnable, NonFinite, UsageError, and NoRule where weights alone give no scale at all.
    """
    graph, blocks, method = subject.graph, chain(subject.graph), _method(subject)
    if not graph.blocks:
        raise NoBlocks("no residual block was found, so no branch has a scale; spectrum and bound need none")
    if not graph.nodes:
        raise NotRunnable(graph.runnable_reason or "the structure holds names of layers alone")
    if not blocks:
        raise NoBlocks("no block ends in a sum, and the scale of a branch is that of a term; graph lists the blocks")
    notes = _left_out(len(graph.blocks) - len(blocks))
    estimates = _estimates(subject, blocks, method, notes)
    measured = addends_of(subject, blocks) if method == "measured" else [None] * len(blocks)
    rows = tuple(
        _row(subject, block, estimate, found, method)
        for block, estimate, found in zip(blocks, estimates, measured, strict=True)
    )
    alphas = [row.alpha for row in rows]
    notes += [_undefined(row) for row in rows if row.alpha is None]
    known = [alpha for alpha in alphas if alpha is not None]
    time, spread, rms = _kernel(known) if len(known) == len(alphas) else (None, None, None)
    if time == 0.0:
        message = "every branch is 0: the network is its shortcuts, and its kernel is 0 / 0"
        notes.append(Note(code="identity", message=message, where="scaling"))
    return ScalingResult(
        method=method,
        inputs=subject.recording.inputs if method == "measured" else None,
        residual_time=time,
        spread=spread,
        spread_relative=None if spread is None else spread / _one_layer(),
        level=level(time) if time else None,
        rms_alpha=rms,
        recommended=recommended(known) if len(known) == len(alphas) else _uniform(len(alphas)),
        blocks=rows,
        references=references(len(blocks)),
        notes=tuple(notes),
    )


def _method(subject: Subject) -> AlphaMethod:
    asked = subject.settings.method
    if asked == "auto":
        return "measured" if subject.graph.runnable else "weights"
    if asked == "measured":
        subject.graph.require_runnable()
    return asked


def _left_out(count: int) -> list[Note]:
    message = f"{count} blocks inside other blocks, or joined by concatenation, have no row and do not enter"
    return [Note(code="nested_blocks", message=message, where="scaling")] if count else []


def _estimates(
    subject: Subject, blocks: Sequence[Block], method: AlphaMethod, notes: list[Note]
) -> list[WeightScale | None]:
    """The scales from weights. Raises why there is none at all if they are the method; else that is a note."""
    try:
        found = weight_scales(subject, blocks)
    except Unavailable as reason:
        if method == "weights":
            raise
        notes.append(Note(code=reason.code, message=f"no scale from weights: {reason}", where="scaling"))
        return [None] * len(blocks)
    refusals = [one for one in found if isinstance(one, NoRule)]
    if len(refusals) == len(found) and method == "weights":
        raise refusals[0]
    if refusals:
        message = f"{len(refusals)} of {len(found)} blocks have no scale from weights: {refusals[0]}"
        notes.append(Note(code="no_rule", message=message, where="scaling"))
    return [None if isinstance(one, NoRule) else one for one in found]


def _row(
    subject: Subject, block: Block, estimate: WeightScale | None, found: Addends | None, method: AlphaMethod
) -> ScalingBlock:
    weights = estimate.alpha if estimate else None
    measured = _quotient(found.branch, found.skip) if found else None
    return ScalingBlock(
        name=block.name,
        stage=block.stage,
        alpha=measured if method == "measured" else weights,
        alpha_weights=weights,
        alpha_measured=measured,
        alpha_centred=_quotient(*found.centred) if found else None,
        alpha_worst=estimate.worst if estimate else None,
        cosine=found.cosine if found else None,
        rule=estimate.rule if estimate else None,
        parameters=parameters_at_the_end(subject.graph, block),
    )


def _undefined(row: ScalingBlock) -> Note:
    message = "no scale is defined here, so no number of the whole network is"
    return Note(code="no_alpha", message=message, where=row.name)


def _quotient(a: float, b: float) -> float | None:
    return a / b if b > 0.0 else None


def _kernel(alphas: Sequence[float]) -> tuple[float, float | None, float]:
    rms = math.hypot(*alphas) / math.sqrt(len(alphas))
    return residual_time(alphas), kernel_spread(alphas), rms


def _one_layer() -> float:
    """The spread of one hidden layer: L = 1 has it for every scale."""
    return kernel_spread([1.0]) or math.nan


def level(time: float) -> ScalingLevel:
    """How far the kernel of a residual time (dimensionless, > 0) has degenerated, in words."""
    return next((name for largest, name in LEVELS if time <= largest), "degenerate")


def recommended(alphas: Sequence[float], target: float = TARGET) -> Recommended:
    """The scales for a new run that have the residual time `target`, which must lie below the number of branches."""
    return Recommended(
        target_S=target,
        uniform_alpha=_uniform(len(alphas), target).uniform_alpha,
        factor=_factor(alphas, target),
    )


def _uniform(blocks: int, target: float = TARGET) -> Recommended:
    alpha = math.sqrt(target / (blocks - target)) if target < blocks else None
    return Recommended(target_S=target, uniform_alpha=alpha, factor=None)


def _factor(alphas: Sequence[float], target: float) -> float | None:
    """c with S(c alphas) = target by bisection, S growing with c to the number of branches that are not 0."""
    alive = [alpha for alpha in alphas if alpha > 0.0]
    if target >= len(alive):
        return None
    high = 1.0 / max(alive)
    while residual_time([high * alpha for alpha in alive]) < target:
        high *= 2.0
    low = 0.0
    while low < (middle := (low + high) / 2.0) < high:
        low, high = (middle, high) if residual_time([middle * alpha for alpha in alive]) < target else (low, middle)
    return high


def references(blocks: int) -> tuple[ReferenceScheme, ...]:
    """What known schemes have at this number of blocks, before training."""
    found = []
    for scheme, scale in SCHEMES:
        alphas = [scale(block, blocks) for block in range(1, blocks + 1)]
        found.append(ReferenceScheme(scheme=scheme, residual_time=residual_time(alphas), spread=kernel_spread(alphas)))
    return tuple(found)
