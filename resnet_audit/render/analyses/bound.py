"""The bound: what every layer adds to the covering number, what the covers give, and what it does not say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resnet_audit.render import glyphs, words
from resnet_audit.render.analyses.bound_beside import advice_parts, beside_parts
from resnet_audit.render.fit import Column
from resnet_audit.render.parts import Line, Look, Part, Table, bar, optional

if TYPE_CHECKING:
    from resnet_audit.results import BoundLayer, BoundResult, Covers, DataUsed

BAR = 12
VACUOUS = "VACUOUS: says nothing about the error of this model; use it to compare models of one shape"


def bound_parts(result: BoundResult, look: Look) -> list[Part]:
    """A row per layer, the advice, a row per cover, what stands beside it, the verdict and the assumptions."""
    parts: list[Part] = []
    if result.layers:
        parts.append(Table(columns=_layers(result.layers, look), caption=look.filter))
        parts += advice_parts(result.layers)
    else:
        parts.append(Line(f"no weight layer to show {look.filter}".rstrip()))
    if result.covers is not None:
        parts.append(_covers(result.covers, _legend(result)))
    parts += beside_parts(result)
    parts.append(_factors(result))
    parts.append(_verdict(result))
    parts += _data(result)
    parts.append(Line(_assumed(result)))
    if result.unsupported:
        names = words.listed([f"{node.name} ({node.op})" for node in result.unsupported])
        parts.append(Line(f"no covering rule for: {names}", "warning"))
    return parts


def _layers(layers: tuple[BoundLayer, ...], look: Look) -> tuple[Column, ...]:
    patch = [layer.share.patch if layer.share else None for layer in layers]
    operator = [layer.share.operator if layer.share else None for layer in layers]
    top = max((value for value in patch if value is not None), default=0.0)
    bars = [glyphs.thin_bar(value, top, BAR, ascii_only=look.ascii_only) for value in patch]
    return (
        Column(header="layer", cells=tuple(layer.name for layer in layers), priority=0, align="left"),
        Column(header="place", cells=tuple(layer.placement for layer in layers), priority=5, align="left"),
        Column(header="at most", cells=words.numbers([layer.sigma_upper for layer in layers]), priority=1),
        Column(header="b operator", cells=words.numbers([layer.b_operator for layer in layers]), priority=3),
        Column(header="b patch", cells=words.numbers([layer.b_patch for layer in layers]), priority=3),
        Column(header="windows", cells=tuple(str(layer.windows) for layer in layers), priority=4),
        Column(header="patch share", cells=tuple(words.share(value) for value in patch), priority=2),
        Column(header="of R^(1/3)", cells=tuple(bar(text.ljust(BAR)) for text in bars), priority=2, align="left"),
        Column(header="operator share", cells=tuple(words.share(value) for value in operator), priority=6),
    )


def _covers(covers: Covers, caption: str) -> Table:
    named = {
        "operator": covers.operator,
        "patch": covers.patch,
        "operator, biases": covers.operator_biases,
        "patch, biases": covers.patch_biases,
    }
    verdicts = {True: "vacuous", False: "no", None: words.UNDEFINED}
    rows = named.values()
    columns = (
        Column(header="log10, cover", cells=tuple(named), priority=0, align="left"),
        Column(header="complexity", cells=tuple(words.log10(c.log10_spectral_complexity) for c in rows), priority=1),
        Column(header="R", cells=tuple(words.log10(c.log10_R) for c in rows), priority=3),
        Column(header="R chain", cells=tuple(words.log10(c.log10_R_chain) for c in rows), priority=5),
        Column(header="ln N", cells=tuple(words.log10(c.log10_ln_covering) for c in rows), priority=4),
        Column(header="term", cells=tuple(words.log10(c.log10_complexity_term) for c in rows), priority=2),
        Column(header="N needed", cells=tuple(words.log10(c.log10_n_needed) for c in rows), priority=3),
        Column(header="margin needed", cells=tuple(words.log10(c.log10_margin_needed) for c in rows), priority=6),
        Column(header="vacuous", cells=tuple(verdicts[c.vacuous] for c in rows), priority=7, align="left"),
    )
    return Table(columns=columns, caption=caption)


def _legend(result: BoundResult) -> str:
    text = "complexity: sqrt(R) / norm of the data, needs no data; N needed: examples from which the term is below 1"
    if result.n_train is not None:
        text += (
            "; ln N(eps) <= R / eps^2; chain: the same layers without shortcuts; "
            f"ln N: at eps {words.number(result.epsilon)}; term: what the bound adds to the error"
        )
    text += "; biases: the class that was trained"
    return text if result.reference is None else f"{text}; distances from {result.reference}"


def _factors(result: BoundResult) -> Line:
    shortcuts = f"{words.count(result.identity_vines, 'shortcut')} without weights"
    factors = f"{words.count(result.weight_factors, 'weight factor')}; no factor from {shortcuts}"
    if result.log10_residual_over_chain is not None:
        factors += f"; shortcuts multiply R by {words.power(result.log10_residual_over_chain)} over the chain"
    return Line(factors)


def _verdict(result: BoundResult) -> Line:
    if result.vacuous:
        return Line(VACUOUS, "warning")
    if result.bound is not None:
        parts = optional(
            [
                ("empirical margin risk", words.number(result.empirical_margin_risk, 3)),
                ("tail", words.number(result.tail, 3)),
            ]
        )
        return Line(
            f"error at most {words.number(result.bound, 3)}, certified under the assumptions; {parts}", "strong"
        )
    if result.covers is None:
        return Line("no covering number for this network", "warning")
    if result.vacuous is False:
        return Line("the complexity term is below 1; a bound on the error also needs the margin risk on training data")
    return Line("no bound on the error was asked for; the complexity compares models of one shape")


def _data(result: BoundResult) -> list[Part]:
    """What was measured on the data: norms, error, the risk at the margin, and the best margin of the grid."""
    data = result.data
    if data is None:
        return []
    norms = optional(
        [
            ("rms", words.number(data.x_rms)),
            ("largest norm", words.number(data.largest_norm)),
            ("largest entry", words.number(data.largest_entry)),
        ],
        ", ",
    )
    parts: list[Part] = [Line(f"data: {words.count(data.count, 'input')}, measured: {norms}")]
    if data.error is not None:
        risk = f"empirical margin risk {words.number(result.empirical_margin_risk, 3)} at margin {result.margin:g}"
        parts.append(Line(f"error on the data {words.number(data.error, 3)}; {risk}"))
    return parts + _best_margin(data)


def _best_margin(data: DataUsed) -> list[Part]:
    best = next((point for point in data.margins if point.margin == data.best_margin), None)
    if best is None:
        return []
    text = (
        f"best of {words.count(len(data.margins), 'margin')}: {words.number(best.margin, 3)}, with risk "
        f"{words.number(best.risk, 3)} and the whole bound {words.power(best.log10_bound)}"
    )
    return [Line(text)]


def _assumed(result: BoundResult) -> str:
    measured = result.data is not None and result.data.x_rms == result.x_rms
    facts = optional(
        [
            ("input", words.shape(result.input_size)),
            ("N", words.number(result.n_train)),
            ("x rms", words.UNDEFINED if measured else f"{result.x_rms:g}"),
            ("margin", f"{result.margin:g}"),
            ("delta", f"{result.delta:g}"),
            ("epsilon", words.number(result.epsilon)),
            ("preset", result.preset),
        ],
        ", ",
    )
    norms = "norms paid for as chosen after training" if result.post_hoc_union else "norms taken as fixed in advance"
    return f"assumed: {facts}; {norms}"
