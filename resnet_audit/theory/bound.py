"""The covering-number bound of a residual network: its covers, the margin bound from them, and where decay acts.

Source   after He, Liu, Tao 2019 (arXiv 1904.01367) and Bartlett, Foster, Telgarsky 2017 (arXiv 1706.08498, Lemma 3.1);
         the covering numbers are those of `covering.py`, the step to a probability is `margin_bound.py`.
Formula  error <= margin risk + 8 / N^(3/2) + (36 / N) (2 sqrt(R) / margin) ln N + 3 sqrt(ln(1/delta) / (2N))
Symbols  R      ln N(eps) <= R / eps^2, the covering number of the network on the N training inputs
         C      sqrt(R) / ||X||_F, the spectral complexity: needs no data
         delta  the probability with which the bound may fail
Reads    compare networks of one input shape; the bound itself is vacuous (at least 1) for all trained nets seen so far.
Status   preset `paper`: the published form, for norms taken as fixed in advance. Preset `strict`: certified, with
         biases, ceilings, both sides of delta and the union over the norms (`norm_class.py`). N, ||X||_F and the margin
         are assumed as the user gave them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from resnet_audit.errors import NoRule
from resnet_audit.graph.ir import Add, Concat, Input, kind_of
from resnet_audit.measure.lipschitz import log_constant
from resnet_audit.results import BoundLayer, BoundResult, Cover, Covers, Note, PerCover, Unsupported
from resnet_audit.theory.beside import beside
from resnet_audit.theory.covering import Covering, coverings, log_cardinality
from resnet_audit.theory.evidence import evidence
from resnet_audit.theory.factors import (
    OPERATOR,
    OPERATOR_BIASES,
    PATCH,
    PATCH_BIASES,
    Factor,
    Variant,
    factors_of,
    frobenius,
    is_factor,
)
from resnet_audit.theory.margin_bound import (
    FORMS,
    Sample,
    log_bound,
    log_complexity_term,
    log_margin_needed,
    log_n_needed,
)
from resnet_audit.theory.norm_class import NormClass, norm_class
from resnet_audit.theory.training_set import TrainingSet, notes_on, training_set
from resnet_audit.theory.weight_decay import Advice, actionable, advice

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from resnet_audit.measure import Subject
    from resnet_audit.settings import Preset, Settings

LN10 = math.log(10.0)
BOUND_COVER: Mapping[Preset, tuple[Literal["patch", "patch_biases"], Variant]] = {
    "paper": ("patch", PATCH),
    "strict": ("patch_biases", PATCH_BIASES),
}
"""The cover that the bound is of: the smaller one; `strict` is of the class that was trained, which has biases."""


def analyse(subject: Subject) -> BoundResult:
    """The bound of the subject's network; nodes without a rule leave `covers` null. Raises NotRunnable, NonFinite."""
    graph, settings = subject.graph, subject.settings
    graph.require_runnable()
    given = training_set(subject)
    factors = factors_of(subject.folded, subject.norms, subject.reference)
    limits = norm_class(factors, settings.margin, settings.preset)
    unsupported = _unsupported(subject)
    covered = None if unsupported else _coverings(subject, limits.factors, given)
    chains = None if covered is None else _chains(subject, covered, limits, given)
    cover, variant = BOUND_COVER[settings.preset]
    seen = evidence(None if covered is None else covered[variant], given, limits, settings)
    others = beside(subject, None if unsupported else factors, given)
    layers = _layers(subject, factors, None if unsupported else _coverings(subject, factors, given, sensitivities=True))
    return BoundResult(
        input_size=graph.input_size,
        n_train=given.count,
        x_rms=given.x_rms,
        margin=settings.margin,
        delta=settings.delta,
        epsilon=given.epsilon,
        preset=settings.preset,
        reference=settings.reference,
        data=seen.data,
        weight_factors=len(factors),
        identity_vines=sum(not block.skip_layers for block in graph.blocks),
        covers=None if covered is None else _covers(covered, chains, settings, limits, given),
        bound_cover=cover,
        log10_residual_over_chain=_over_chain(covered, chains),
        log10_lipschitz=subject.log10_lipschitz(),
        post_hoc_union=limits.nats is not None,
        union_nats=limits.nats,
        tail=seen.tail,
        empirical_margin_risk=seen.risk,
        bound=seen.bound,
        vacuous=seen.vacuous,
        log10_path_norm_l1=None if others.path_l1 is None else _log10(others.path_l1.log_sum),
        log10_path_norm_l1_max_logit=None if others.path_l1 is None else _log10(others.path_l1.log_max),
        log10_path_norm_l2=None if others.path_l2 is None else _log10(others.path_l2.log_sum),
        log10_path_norm_term=_log10(others.log_path_norm_term),
        occam=others.occam,
        parameter_count_bound=others.parameter_count_bound,
        measures=others.measures,
        unsupported=unsupported,
        layers=layers,
        notes=(*_notes(subject, limits, given), *others.notes, *_undecayed(layers)),
    )


# covering numbers ----------------------------------------------------------------------------------------------------


def _coverings(
    subject: Subject,
    factors: Mapping[str, Factor],
    given: TrainingSet,
    *,
    drop: frozenset[tuple[str, int]] = frozenset(),
    sensitivities: bool = False,
) -> dict[Variant, Covering]:
    return coverings(subject.folded, factors, log_bias_unit=given.log_bias_unit, drop=drop, sensitivities=sensitivities)


def _chains(
    subject: Subject, covered: dict[Variant, Covering], limits: NormClass, given: TrainingSet
) -> dict[Variant, Covering] | None:
    """The coverings of the chain of the same layers; None where leaving the shortcuts out leaves no such chain."""
    drop = _shortcut_edges(subject)
    if drop is None:
        return None
    return _coverings(subject, limits.factors, given, drop=drop) if drop else covered


def _shortcut_edges(subject: Subject) -> frozenset[tuple[str, int]] | None:
    """The inputs of sums that carry shortcuts, or None where leaving them out leaves no chain of the same layers."""
    if any(block.skip_kind not in {"identity", "resample"} for block in subject.blocks):
        return None
    return frozenset(block.skip_edge for block in subject.blocks)


def _covers(
    covered: Mapping[Variant, Covering],
    chains: Mapping[Variant, Covering] | None,
    settings: Settings,
    limits: NormClass,
    given: TrainingSet,
) -> Covers:
    """The columns of all covers of the class."""

    def cover(variant: Variant) -> Cover:
        return _cover(covered[variant], None if chains is None else chains[variant], settings, limits, given)

    return Covers(
        operator=cover(OPERATOR),
        patch=cover(PATCH),
        operator_biases=cover(OPERATOR_BIASES),
        patch_biases=cover(PATCH_BIASES),
    )


def _cover(
    covering: Covering, chain: Covering | None, settings: Settings, limits: NormClass, given: TrainingSet
) -> Cover:
    """Everything that follows from ln C: R, ln N, the complexity term, the N and the margin at which it reaches 1."""
    form, log_c, margin = FORMS[settings.preset], covering.log_complexity, limits.margin
    log_r = log_r_chain = log_covering = log_term = log_margin = vacuous = None
    if given.count is not None:
        sample = Sample(count=given.count, dimension=given.dimension, x_rms=given.x_rms)
        log_r = 2.0 * (log_c + sample.log_norm)
        log_r_chain = None if chain is None else 2.0 * (chain.log_complexity + sample.log_norm)
        log_radius = sample.log_norm - math.log(given.epsilon or 1.0)
        log_covering = log_cardinality(covering, log_radius) if form.ceil > 1.0 else 2.0 * (log_c + log_radius)
        log_term = log_complexity_term(log_c, sample, margin=margin, form=form)
        log_margin = log_margin_needed(log_c, sample, form=form)
        nats, delta = limits.nats or 0.0, settings.delta
        vacuous = log_bound(log_c, sample, margin=margin, risk=0.0, delta=delta, form=form, union=nats) >= 0.0
    needed = log_n_needed(log_c, dimension=given.dimension, x_rms=given.x_rms, margin=margin, form=form)
    return Cover(
        log10_spectral_complexity=_log10(log_c),
        log10_R=_log10(log_r),
        log10_R_chain=_log10(log_r_chain),
        log10_ln_covering=_log10(log_covering),
        log10_complexity_term=_log10(log_term),
        log10_n_needed=_log10(needed),
        log10_margin_needed=_log10(log_margin),
        vacuous=vacuous,
    )


def _over_chain(covered: Mapping[Variant, Covering] | None, chains: Mapping[Variant, Covering] | None) -> float | None:
    """log10 of what the shortcuts multiply R by, over the chain of the same layers (operator cover)."""
    if covered is None or chains is None:
        return None
    return _log10(2.0 * (covered[OPERATOR].log_complexity - chains[OPERATOR].log_complexity))


# what a reader must know ---------------------------------------------------------------------------------------------


def _notes(subject: Subject, limits: NormClass, given: TrainingSet) -> list[Note]:
    """What the covers leave out, what was assumed, and what the class cost."""
    notes = [*subject.notes, *subject.reference_notes]
    if _shortcut_edges(subject) is None:
        notes.append(Note(code="no_chain", message="a shortcut is more than a sum: no chain has the same layers"))
    notes += notes_on(given, x_rms_given=subject.settings.x_rms is not None)
    if limits.nats is not None:
        message = (
            f"covers are of the norms rounded up and the margin rounded down, to {limits.margin:g}, on a grid fixed in "
            f"advance; the tail pays {limits.nats:.0f} nats for the choice"
        )
        notes.append(Note(code="post_hoc_union", message=message))
    return notes


def _undecayed(layers: tuple[BoundLayer, ...]) -> list[Note]:
    names = [layer.name for layer in layers if layer.actionable is None]
    message = "a norm without a scale undoes decay of the layer before it and has nothing to decay itself"
    return [Note(code="no_decay", message=message, where=", ".join(names))] if names else []


# the result ----------------------------------------------------------------------------------------------------------


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
    subject: Subject, factors: Mapping[str, Factor], covered: Mapping[Variant, Covering] | None
) -> tuple[BoundLayer, ...]:
    placement, acting = subject.graph.placement, actionable(subject.graph.nodes, subject.fold.renamed)
    rows = []
    for node in subject.folded:
        if not is_factor(node):
            continue
        name, factor, norm = node.name, factors[node.name], frobenius(node.op)
        advised = _advice(covered, name, norm)
        rows.append(
            BoundLayer(
                name=name,
                placement=placement[name],
                sigma_upper=factor.sigma,
                b_operator=factor.b[OPERATOR],
                b_patch=factor.b[PATCH],
                windows=factor.windows,
                frobenius=norm,
                share=None
                if covered is None
                else PerCover(operator=covered[OPERATOR].share[name], patch=covered[PATCH].share[name]),
                sensitivity=_per_cover(advised, lambda found: found.sensitivity),
                log10_change=_per_cover(advised, lambda found: found.log10_change),
                gain_per_square=_per_cover(advised, lambda found: found.gain_per_square),
                actionable=acting[name],
            )
        )
    return tuple(rows)


def _advice(covered: Mapping[Variant, Covering] | None, name: str, norm: float) -> dict[str, Advice]:
    """The advice for one layer by cover; none where the network is zero or has no covering number."""
    slopes = {} if covered is None else {variant.cover: covered[variant].sensitivity for variant in (OPERATOR, PATCH)}
    return {cover: advice(found[name], norm) for cover, found in slopes.items() if found is not None}


def _per_cover(advised: Mapping[str, Advice], number: Callable[[Advice], float | None]) -> PerCover | None:
    return PerCover(operator=number(advised["operator"]), patch=number(advised["patch"])) if advised else None


def _log10(natural: float | None) -> float | None:
    """log10 from ln; None for an undefined number and for the logarithm of 0 or of what float64 cannot hold."""
    return None if natural is None or not math.isfinite(natural) else natural / LN10
