"""Branch scaling: how strong every branch is, what known schemes would give, and what to train next with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resnet_audit.render import glyphs, words
from resnet_audit.render.fit import Column
from resnet_audit.render.parts import MISMATCH_WARNING, Line, Look, Part, Table, bar, optional

if TYPE_CHECKING:
    from resnet_audit.results import InputsUsed, ReferenceScheme, ScalingBlock, ScalingResult

HALF = 10
STATUS = {"measured": "exact on these inputs", "weights": "prediction from the weights"}
LEVELS = {
    "ok": "ok: near that of one hidden layer",
    "mild": "mild: at least half of the one-layer spread is left",
    "degrading": "degrading: between a tenth and a half of the one-layer spread is left",
    "degenerate": "degenerate: under a tenth of the one-layer spread is left",
}


def scaling_parts(result: ScalingResult, look: Look) -> list[Part]:
    """A row per block, the predicted kernel, known schemes beside it, and the scales for a new run."""
    parts: list[Part] = []
    if result.blocks:
        parts.append(Table(columns=_columns(result.blocks, look), caption=look.filter))
    else:
        parts.append(Line(f"no block to show {look.filter}".rstrip()))
    parts += _summary(result)
    if result.inputs is not None:
        parts += _inputs(result.inputs)
    parts.append(_references(result))
    return parts + _advice(result)


def _columns(blocks: tuple[ScalingBlock, ...], look: Look) -> tuple[Column, ...]:
    bars = [glyphs.diverging_bar(b.alpha, HALF, ascii_only=look.ascii_only) for b in blocks]
    return (
        Column(header="block", cells=tuple(b.name for b in blocks), priority=0, align="left"),
        Column(header="stage", cells=tuple(str(b.stage) for b in blocks), priority=6),
        Column(header="alpha", cells=words.numbers([b.alpha for b in blocks], 3), priority=1),
        Column(
            header=glyphs.axis(HALF, ascii_only=look.ascii_only),
            cells=tuple(bar(text) for text in bars),
            priority=3,
            align="left",
        ),
        Column(header="measured", cells=words.numbers([b.alpha_measured for b in blocks], 3), priority=7),
        Column(header="weights", cells=words.numbers([b.alpha_weights for b in blocks], 3), priority=2),
        Column(header="by", cells=tuple(b.rule or words.UNDEFINED for b in blocks), priority=4, align="left"),
        Column(header="centred", cells=words.numbers([b.alpha_centred for b in blocks], 3), priority=5),
        Column(header="cosine", cells=words.numbers([b.cosine for b in blocks], 3), priority=5),
        Column(header="at most", cells=words.numbers([b.alpha_worst for b in blocks], 3), priority=8),
        Column(header="multiply", cells=tuple(_parameters(b) for b in blocks), priority=9, align="left"),
    )


def _parameters(block: ScalingBlock) -> str:
    return ", ".join(block.parameters) or "a scalar behind the branch"


def _summary(result: ScalingResult) -> list[Part]:
    told = [
        ("rms alpha", words.number(result.rms_alpha, 3)),
        ("residual time S", words.number(result.residual_time, 3)),
    ]
    parts: list[Part] = []
    if totals := optional(told, ", "):
        parts.append(Line(totals, "strong"))
    if result.spread is not None and result.level is not None:
        share = words.share(result.spread_relative)
        text = f"predicted kernel at these alphas: spread {words.number(result.spread, 3)}, {share} of one layer's; "
        parts.append(Line(text + LEVELS[result.level], "plain" if result.level in {"ok", "mild"} else "warning"))
    parts.append(
        Line(
            f"alpha: RMS of the branch over that of the shortcut, at the sum; {STATUS[result.method]}. S and spread: a "
            "prediction for infinite width at initialisation without normalisation; compare networks by it",
            "dim",
        )
    )
    return parts


def _inputs(inputs: InputsUsed) -> list[Line]:
    mean, logsd = inputs.bn_mismatch_mean, inputs.bn_mismatch_logsd
    mismatch = f"mean {words.number(mean, 3)}, log sd {words.number(logsd, 3)}"
    lines = [Line(f"inputs: {inputs.kind}, {words.count(inputs.n, 'sample')}; BN mismatch {mismatch}")]
    if mean is not None and mean > MISMATCH_WARNING:
        text = (
            f"warning: BN mismatch {words.number(mean, 3)} is above {MISMATCH_WARNING}: these inputs are unlike the "
            "training data, so take the numbers as rough; --data gives real inputs"
        )
        lines.append(Line(text, "warning"))
    return lines


def _references(result: ScalingResult) -> Table:
    rows = sorted(result.references, key=lambda row: -row.residual_time)
    names = [row.scheme for row in rows]
    times: list[float | None] = [row.residual_time for row in rows]
    spreads = [_spread(row) for row in rows]
    if result.residual_time is not None:
        place = sum(row.residual_time > result.residual_time for row in rows)
        names.insert(place, "this network")
        times.insert(place, result.residual_time)
        spreads.insert(place, words.number(result.spread, 3))
    columns = (
        Column(header="alpha of block l of L, before training", cells=tuple(names), priority=0, align="left"),
        Column(header="S", cells=tuple(words.number(time, 3) for time in times), priority=0),
        Column(header="spread", cells=tuple(spreads), priority=0),
    )
    return Table(
        columns=columns, caption="schemes at this number of blocks; some train the scale, or normalise as well"
    )


def _spread(row: ReferenceScheme) -> str:
    return "identity" if row.spread is None else words.number(row.spread, 3)


def _advice(result: ScalingResult) -> list[Part]:
    new = result.recommended
    told = optional(
        [
            ("alpha", words.number(new.uniform_alpha, 3)),
            ("these alphas times", words.number(new.factor, 3)),
        ],
        " in every block, or ",
    )
    if not told:
        return []
    text = (
        f"for a NEW training run with S = {new.target_S:g}: {told}. Multiply scale and shift of the last "
        "normalisation of a branch, else weight and bias of its last layer, or put a scalar behind the branch. That "
        "changes the function: it repairs no trained network. Smaller is not better: S near 0 is one hidden layer"
    )
    return [Line(text)]
