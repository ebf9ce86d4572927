"""The margin bound of a residual network, from its covering numbers.

Source   after He, Liu, Tao 2019 (arXiv 1904.01367) and Bartlett, Foster, Telgarsky 2017 (arXiv 1706.08498, Lemma 3.1);
         the covering numbers are those of `covering.py`.
Formula  error <= margin risk + 8 / N^(3/2) + (36 / N) (2 sqrt(R) / margin) ln N + 3 sqrt(ln(1/delta) / (2N))
Symbols  R      ln N(eps) <= R / eps^2, the covering number of the network on the N training inputs
         C      sqrt(R) / ||X||_F, the spectral complexity: needs no data
         delta  the probability with which the bound may fail
Reads    compare networks of one input shape; the bound itself is vacuous (at least 1) for all trained nets seen so far.
Status   certified for the norms taken as fixed in advance; N, ||X||_F and the margin are assumed as the user gave them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from resnet_audit.errors import NoRule, UsageError
from resnet_audit.graph.ir import Add, Concat, Input, kind_of
from resnet_audit.measure.lipschitz import log, log_constant
from resnet_audit.measure.pathnorm import PathNorm, path_norm_l1
from resnet_audit.results import BoundLayer, BoundResult, Cover, Covers, Note, PerCover, Unsupported
from resnet_audit.theory.covering import (
    OPERATOR,
    OPERATOR_BIASES,
    PATCH,
    PATCH_BIASES,
    VARIANTS,
    Covering,
    Factor,
    Variant,
    covering,
    factors_of,
    is_factor,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from resnet_audit.measure import Subject
    from resnet_audit.settings import Settings

LN10 = math.log(10.0)
RAMP_LIPSCHITZ = 2.0
"""Lipschitz constant of margin times ramp as published; sqrt 2 is the exact one."""


def analyse(subject: Subject) -> BoundResult:
    """The bound of the subject's network; nodes without a rule leave `covers` null. Raises NotRunnable, NonFinite."""
    graph, settings = subject.graph, subject.settings
    graph.require_runnable()
    if (complaint := settings.complaint()) is not None:
        raise UsageError(complaint)
    factors = factors_of(subject.folded, subject.norms)
    unsupported, notes = _unsupported(subject), []
    known = not unsupported
    chain_drops = _shortcut_edges(subject)
    if chain_drops is None:
        notes.append(Note(code="no_chain", message="a shortcut is more than a sum: no chain has the same layers"))
    coverings = _all_coverings(subject, factors, frozenset()) if known else None
    chains = _all_coverings(subject, factors, chain_drops) if known and chain_drops is not None else None
    if settings.n_train is None:
        notes.append(
            Note(code="needs_n_train", message="what needs the number of training examples is null: give --n-train")
        )
    covers = None if coverings is None else _covers(coverings, chains, graph.input_size, settings)
    path = _path_norm(subject, notes) if known else None
    return BoundResult(
        input_size=graph.input_size,
        n_train=settings.n_train,
        x_rms=settings.x_rms,
        margin=settings.margin,
        delta=settings.delta,
        epsilon=_epsilon(settings),
        preset=settings.preset,
        weight_factors=sum(is_factor(node) for node in subject.folded),
        identity_vines=sum(not block.skip_layers for block in graph.blocks),
        covers=covers,
        log10_residual_over_chain=_over_chain(covers),
        log10_lipschitz=subject.log10_lipschitz(),
        tail=_tail(settings),
        empirical_margin_risk=None,
        bound=None,
        vacuous=_vacuous(covers),
        log10_path_norm_l1=None if path is None else _log10(path.log_sum),
        log10_path_norm_l1_max_logit=None if path is None else _log10(path.log_max),
        unsupported=unsupported,
        layers=_layers(subject, factors, coverings),
        notes=tuple(notes),
    )


def _path_norm(subject: Subject, notes: list[Note]) -> PathNorm | None:
    try:
        return path_norm_l1(subject.folded)
    except NoRule as reason:
        notes.append(Note(code="no_path_norm", message=str(reason)))
        return None


def _all_coverings(
    subject: Subject, factors: Mapping[str, Factor], drop: frozenset[tuple[str, int]]
) -> dict[Variant, Covering]:
    unit = -math.log(subject.settings.x_rms) - 0.5 * math.log(math.prod(subject.graph.input_size))
    return {v: covering(subject.folded, factors, v, log_bias_unit=unit, drop=drop) for v in VARIANTS}


def _shortcut_edges(subject: Subject) -> frozenset[tuple[str, int]] | None:
    """The inputs of sums that carry shortcuts, or None where leaving them out leaves no chain of the same layers."""
    if any(block.skip_kind not in {"identity", "resample"} for block in subject.blocks):
        return None
    return frozenset(block.skip_edge for block in subject.blocks)


# from the cover to probability ---------------------------------------------------------------------------------------


def _covers(
    coverings: Mapping[Variant, Covering],
    chains: Mapping[Variant, Covering] | None,
    input_size: tuple[int, ...],
    settings: Settings,
) -> Covers:
    def cover(variant: Variant) -> Cover:
        chain = None if chains is None else chains[variant].log_complexity
        return _cover(coverings[variant].log_complexity, chain, math.prod(input_size), settings)

    return Covers(
        operator=cover(OPERATOR),
        patch=cover(PATCH),
        operator_biases=cover(OPERATOR_BIASES),
        patch_biases=cover(PATCH_BIASES),
    )


def _cover(log_c: float, log_chain: float | None, dimension: int, settings: Settings) -> Cover:
    """Everything that follows from ln C: R, ln N, the complexity term and the N at which that term reaches 1."""
    log_x_per_root_n = math.log(settings.x_rms) + 0.5 * math.log(dimension)
    log_term_rest = math.log(36.0 * RAMP_LIPSCHITZ / settings.margin) + log_c + log_x_per_root_n
    n, tail = settings.n_train, _tail(settings)
    if n is None or tail is None:
        log_r = log_r_chain = log_covering = log_term = vacuous = None
    else:
        log_x = log_x_per_root_n + 0.5 * math.log(n)
        log_r = 2.0 * (log_c + log_x)
        log_r_chain = None if log_chain is None else 2.0 * (log_chain + log_x)
        log_covering = log_r - 2.0 * math.log(_epsilon(settings) or 1.0)
        log_term = log_term_rest + log(math.log(n)) - 0.5 * math.log(n)
        vacuous = log_term >= 0.0 or math.exp(log_term) + 8.0 / n**1.5 + tail >= 1.0
    return Cover(
        log10_spectral_complexity=_log10(log_c),
        log10_R=_log10(log_r),
        log10_R_chain=_log10(log_r_chain),
        log10_ln_covering=_log10(log_covering),
        log10_complexity_term=_log10(log_term),
        log10_n_needed=_log10(_log_n_needed(log_term_rest)),
        vacuous=vacuous,
    )


def _log_n_needed(log_rest: float) -> float:
    """ln of the N from which exp(log_rest) ln N / sqrt N stays at most 1; the quotient falls for ln N > 2."""
    if log_rest == -math.inf or log_rest + math.log(2.0) - 1.0 <= 0.0:
        return 0.0
    low, high = 2.0, 4.0
    while log_rest + math.log(high) - high / 2.0 > 0.0:
        low, high = high, 2.0 * high
    for _ in range(100):
        middle = (low + high) / 2.0
        low, high = (middle, high) if log_rest + math.log(middle) - middle / 2.0 > 0.0 else (low, middle)
    return high


def _epsilon(settings: Settings) -> float | None:
    """The resolution of the covering number, in the norm of all N outputs together; sqrt N by default."""
    if settings.epsilon is not None:
        return settings.epsilon
    return None if settings.n_train is None else math.sqrt(settings.n_train)


def _tail(settings: Settings) -> float | None:
    return (
        None if settings.n_train is None else 3.0 * math.sqrt(math.log(1.0 / settings.delta) / (2.0 * settings.n_train))
    )


# the result ----------------------------------------------------------------------------------------------------------


def _over_chain(covers: Covers | None) -> float | None:
    """Decades of R that the shortcuts add to the chain of the same layers (operator cover)."""
    if covers is None or covers.operator.log10_R is None or covers.operator.log10_R_chain is None:
        return None
    return covers.operator.log10_R - covers.operator.log10_R_chain


def _vacuous(covers: Covers | None) -> bool | None:
    if covers is None or covers.operator.vacuous is None:
        return None
    return all(cover.vacuous for cover in (covers.operator, covers.patch, covers.operator_biases, covers.patch_biases))


def _unsupported(subject: Subject) -> tuple[Unsupported, ...]:
    """The nodes that the recursion has no rule for."""
    found = []
    for node in subject.folded:
        if is_factor(node) or isinstance(node.op, Input | Add | Concat):
            continue
        try:
            log_constant(node, [subject.shapes[name] for name in node.inputs])
        except NoRule:
            found.append(Unsupported(name=node.name, op=kind_of(node.op)))
    return tuple(found)


def _layers(
    subject: Subject, factors: Mapping[str, Factor], coverings: Mapping[Variant, Covering] | None
) -> tuple[BoundLayer, ...]:
    placement = subject.graph.placement
    rows = []
    for node in subject.folded:
        if not is_factor(node):
            continue
        factor = factors[node.name]
        rows.append(
            BoundLayer(
                name=node.name,
                placement=placement[node.name],
                sigma_upper=factor.sigma,
                b_operator=factor.b[OPERATOR],
                b_patch=factor.b[PATCH],
                windows=factor.windows,
                share=None
                if coverings is None
                else PerCover(
                    operator=coverings[OPERATOR].share[node.name],
                    patch=coverings[PATCH].share[node.name],
                ),
            )
        )
    return tuple(rows)


def _log10(natural: float | None) -> float | None:
    """log10 from ln; None for an undefined number and for the logarithm of 0."""
    return None if natural is None or natural == -math.inf else natural / LN10
