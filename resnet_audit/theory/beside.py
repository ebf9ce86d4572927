"""What stands beside the covering bound: path norms, counting bounds, and the measures of other studies.

Each has its file; this one gathers them, and says of every one that is missing why.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from resnet_audit.errors import NoRule
from resnet_audit.graph.fold import gains
from resnet_audit.graph.ir import Conv, Linear, Node, Norm
from resnet_audit.measure.pathnorm import PathNorm, path_norm
from resnet_audit.results import Note, Occam
from resnet_audit.theory.covering import covering
from resnet_audit.theory.factors import PATCH_BIASES, Factor
from resnet_audit.theory.measures import LARGEST_CIRCULAR_WORK, circular_work, measures
from resnet_audit.theory.occam import occam
from resnet_audit.theory.parameter_count import BallFactor, parameter_count_bound
from resnet_audit.theory.path_norm_bound import log_path_norm_term

if TYPE_CHECKING:
    from collections.abc import Mapping

    from resnet_audit.measure import Subject
    from resnet_audit.theory.training_set import TrainingSet

MARGIN_QUANTILE = 0.1
"""The share of training margins below the one that the measures over a margin divide by (arXiv 1912.02178)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """The numbers, logarithms natural; None where a number has no rule or was not asked for."""

    path_l1: PathNorm | None
    path_l2: PathNorm | None
    log_path_norm_term: float | None
    occam: Occam | None
    parameter_count_bound: float | None
    measures: Mapping[str, float | None]
    notes: tuple[Note, ...]


def beside(subject: Subject, factors: Mapping[str, Factor] | None, given: TrainingSet) -> Beside:
    """All of them. factors: of the folded graph; None where some node has no rule for the covers."""
    notes: list[Note] = []
    path_l1, path_l2 = _paths(subject, notes) if factors is not None else (None, None)
    return Beside(
        path_l1=path_l1,
        path_l2=path_l2,
        log_path_norm_term=_path_term(subject, path_l1, given),
        occam=_occam(subject, given, notes),
        parameter_count_bound=None if factors is None else _parameter_count(subject, factors, given),
        measures=_measures(subject, given, notes),
        notes=tuple(notes),
    )


def _paths(subject: Subject, notes: list[Note]) -> tuple[PathNorm | None, PathNorm | None]:
    try:
        return path_norm(subject.folded), path_norm(subject.folded, 2.0)
    except NoRule as reason:
        notes.append(Note(code="no_path_norm", message=str(reason)))
        return None, None


def _path_term(subject: Subject, path: PathNorm | None, given: TrainingSet) -> float | None:
    if path is None or given.count is None or given.data is None:
        return None
    return log_path_norm_term(
        subject.folded,
        log_path_norm=path.log_sum,
        largest_entry=given.data.largest_entry,
        n_train=given.count,
        margin=subject.settings.margin,
    )


def _occam(subject: Subject, given: TrainingSet, notes: list[Note]) -> Occam | None:
    if given.count is None:
        return None
    try:
        found = occam(subject.folded, n_train=given.count, delta=subject.settings.delta)
    except NoRule as reason:
        notes.append(Note(code="no_occam", message=str(reason)))
        return None
    lost = [name for name in ("fp32", "fp16", "zlib_fp16") if getattr(found, name) is None]
    if lost:
        message = f"some weights are too large to be stored in this format: {', '.join(lost)}"
        notes.append(Note(code="occam_overflow", message=message))
    return found


# counting parameters -------------------------------------------------------------------------------------------------


def _parameter_count(subject: Subject, factors: Mapping[str, Factor], given: TrainingSet) -> float | None:
    if given.count is None:
        return None
    settings = subject.settings
    balls = _balls(subject.folded, factors, given.largest_norm)
    return parameter_count_bound(balls, n_train=given.count, margin=settings.margin, delta=settings.delta)


def _balls(folded: tuple[Node, ...], factors: Mapping[str, Factor], largest_norm: float) -> list[BallFactor]:
    """Every weight node as a ball of its weights and biases, for one input of at most `largest_norm`."""
    log_radius = math.log(largest_norm)
    found = covering(folded, factors, PATCH_BIASES, log_bias_unit=-log_radius)
    balls = []
    for node in folded:
        if node.name not in factors:
            continue
        factor, parameters = factors[node.name], _parameters(node)
        log_size = found.log_entering[node.name] + log_radius
        has_bias = factor.positions if len(parameters) > 1 else 0
        balls.append(
            BallFactor(
                count=sum(tensor.numel() for tensor in parameters),
                radius=math.sqrt(sum(float(tensor.double().square().sum()) for tensor in parameters)),
                log_beta=_log_reach(log_size, factor.windows, has_bias),
                log_growth=found.log_growth[node.name],
            )
        )
    return balls


def _log_reach(log_size: float, windows: int, positions: int) -> float:
    """ln sqrt(mu B^2 + P): what a change of the weights by 1 can change, with a bias in P positions."""
    squared = torch.tensor([math.log(windows) + 2.0 * log_size, math.log(positions) if positions else -math.inf])
    return 0.5 * float(torch.logsumexp(squared.double(), dim=0))


def _parameters(node: Node) -> list[torch.Tensor]:
    """The weights, and the biases if there are any."""
    match node.op:
        case Conv(weight=weight, bias=bias) | Linear(weight=weight, bias=bias):
            return [weight] if bias is None else [weight, bias]
        case Norm() as norm:
            return list(gains(norm))
        case op:
            raise NoRule(op, "a ball of weights")


# measures of other studies -------------------------------------------------------------------------------------------


def _measures(subject: Subject, given: TrainingSet, notes: list[Note]) -> Mapping[str, float | None]:
    margins = None if given.data is None else given.data.margins
    if given.count is not None and circular_work(subject.folded, subject.graph.input_size) > LARGEST_CIRCULAR_WORK:
        message = "measures named _FFT are null: at the input's size for every layer they would take too long here"
        notes.append(Note(code="circular_norms_left_out", message=message))
    return measures(
        subject.folded,
        input_size=subject.graph.input_size,
        n_train=given.count,
        margin=None if margins is None else abs(float(margins.quantile(MARGIN_QUANTILE))),
        reference=subject.reference,
        threads=subject.settings.thread_count,
    )
