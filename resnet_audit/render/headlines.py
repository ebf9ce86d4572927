"""The few numbers that a reader looks for first, each with the word for what kind of number it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from resnet_audit.explain import find
from resnet_audit.results import (
    BoundResult,
    EnsembleResult,
    GradientResult,
    GraphResult,
    ProcrustesResult,
    ScalingResult,
    ShortcutResult,
    SpectrumResult,
)

from . import words

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from resnet_audit.results import Result

    from .outline import Section

Fact = tuple[str, str, str]
"""(path of a metric in its result, the number in words, what is beside it)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """One number. path: of the metric, as `explain` takes it; beside: where it is, or what it is compared with.

    status: certified, exact, estimate, prediction or assumed; meaning: one line. Both are those of `explain`.
    """

    path: str
    value: str
    beside: str
    status: str
    meaning: str


def headlines(sections: Iterable[Section]) -> tuple[Headline, ...]:
    """The headline numbers of some analyses, those without a value left out; the words are those of `explain`."""
    found = []
    for section in sections:
        for field, value, beside in _facts(section.result):
            path = f"{section.name}.{field}"
            entry = find(path).entry
            if value != words.UNDEFINED and entry is not None:
                found.append(
                    Headline(path=path, value=value, beside=beside, status=entry.status, meaning=entry.meaning)
                )
    return tuple(found)


def _facts(result: Result | None) -> Iterator[Fact]:
    match result:
        case GraphResult():
            yield "block_count", words.number(result.block_count), f"evidence: {_evidence(result)}"
        case BoundResult():
            yield from _bound(result)
        case SpectrumResult():
            yield "sigma_max", words.number(result.sigma_max), f"in {result.sigma_max_where or 'no layer'}"
        case GradientResult():
            yield "ratio_median", words.number(result.ratio_median), "on these inputs; 1: the norm is kept"
            yield "ratio_worst", words.number(result.ratio_worst), "on these inputs; 1: no block changes it"
        case EnsembleResult():
            total = f"of {len(result.distribution.norm) - 1} " if result.distribution else ""
            of = f"{total}{result.unit}, on these inputs"
            yield "depth_mean", words.number(result.depth_mean, 3), of
            yield "projection_mean", words.number(result.projection_mean, 3), of
        case ShortcutResult():
            yield "depths", ", ".join(result.depths), "weight layers past one shortcut"
            if result.hessian is not None:
                yield "hessian.lambda_max", words.number(result.hessian.lambda_max), "at the checkpoint"
        case ScalingResult():
            yield "residual_time", words.number(result.residual_time, 3), "compare networks by it"
            yield "spread_relative", words.share(result.spread_relative), f"level {result.level or 'unknown'}"
        case ProcrustesResult():
            count = words.count(len(result.layers), "layer")
            yield "output", result.output, f"{count} projected"


def _evidence(result: GraphResult) -> str:
    return ", ".join(dict.fromkeys(block.evidence for block in result.blocks)) or "none"


def _bound(result: BoundResult) -> Iterator[Fact]:
    verdict = {True: "the bound is vacuous", False: "the term is below 1", None: "needs no data"}[result.vacuous]
    if result.covers is not None:
        operator, patch = result.covers.operator, result.covers.patch
        name = "covers.{}.log10_spectral_complexity"
        yield name.format("operator"), words.power(operator.log10_spectral_complexity), "operator cover"
        yield name.format("patch"), words.power(patch.log10_spectral_complexity), f"patch cover; {verdict}"
    yield "log10_lipschitz", words.power(result.log10_lipschitz), "of the whole network, l2"
    yield "bound", words.number(result.bound, 3), "on the error, under the assumptions"
