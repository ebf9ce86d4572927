"""The margin bound on the data that there are: the risk at a margin, the best margin of a grid, and the verdict.

Source     theory note `bound`, 1.6 and 2.5; the bound is that of `margin_bound.py`.
Formula    bound(margin) = ramp risk(margin) + chaining(margin) + tail(nats)
Symbols    nats  ln of what the tail pays for a choice made after seeing the data: the norms under `strict`, and every
           margin of the grid under both presets
Reads      without labels there is no risk, so no bound; it may still be known to be vacuous.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from resnet_audit.results import DataUsed, MarginPoint
from resnet_audit.theory.margin_bound import FORMS, Sample, bound, log_bound, margin_grid, ramp_risk, tail
from resnet_audit.theory.norm_grid import round_down

if TYPE_CHECKING:
    from resnet_audit.measure.training_data import TrainingData
    from resnet_audit.settings import Settings
    from resnet_audit.theory.covering import Covering
    from resnet_audit.theory.norm_class import NormClass
    from resnet_audit.theory.training_set import TrainingSet


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What the data say: risk at the margin of the class, tail, bound (None where vacuous or unknown) and verdict."""

    data: DataUsed | None
    risk: float | None
    tail: float | None
    bound: float | None
    vacuous: bool | None


def evidence(covering: Covering | None, given: TrainingSet, limits: NormClass, settings: Settings) -> Evidence:
    """The bound of one cover. covering: of the class `limits`; None where the covers have no rule."""
    margins = None if given.data is None else given.data.margins
    risk = None if margins is None else ramp_risk(margins.numpy(), limits.margin)
    log_value = None
    if covering is not None and given.count is not None:
        log_value = _log_value(covering, given, settings, limits.margin, risk or 0.0, limits.nats or 0.0)
    return Evidence(
        data=None if given.data is None else _used(given.data, _points(covering, given, limits, settings)),
        risk=risk,
        tail=None
        if given.count is None
        else tail(given.count, settings.delta, FORMS[settings.preset], union=limits.nats or 0.0),
        bound=None if log_value is None or risk is None else bound(log_value),
        vacuous=None if log_value is None else log_value >= 0.0,
    )


def _log_value(
    covering: Covering, given: TrainingSet, settings: Settings, margin: float, risk: float, nats: float
) -> float:
    sample = Sample(count=given.count or 1, dimension=given.dimension, x_rms=given.x_rms)
    form = FORMS[settings.preset]
    log_c = covering.log_complexity
    return log_bound(log_c, sample, margin=margin, risk=risk, delta=settings.delta, form=form, union=nats)


def _points(
    covering: Covering | None, given: TrainingSet, limits: NormClass, settings: Settings
) -> tuple[MarginPoint, ...]:
    """The bound at every margin of the grid, each paying for its own choice."""
    if covering is None or given.count is None or given.data is None or given.data.margins is None:
        return ()
    margins, layers = given.data.margins.numpy(), len(limits.factors)
    norms = 0.0 if limits.nats is None else limits.nats - round_down(settings.margin, layers).nats
    points = []
    for cell in margin_grid(margins, layers):
        risk = ramp_risk(margins, cell.value)
        log_value = _log_value(covering, given, settings, cell.value, risk, norms + cell.nats)
        points.append(MarginPoint(margin=cell.value, risk=risk, log10_bound=log_value / math.log(10.0)))
    return tuple(points)


def _used(data: TrainingData, points: tuple[MarginPoint, ...]) -> DataUsed:
    best = min(points, key=lambda point: point.log10_bound, default=None)
    return DataUsed(
        count=data.count,
        x_rms=data.x_rms,
        largest_norm=data.largest_norm,
        largest_entry=data.largest_entry,
        error=data.error,
        margins=points,
        best_margin=None if best is None else best.margin,
    )
