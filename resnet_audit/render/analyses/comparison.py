"""The comparison: a row a checkpoint with its blocks' ratios as a line of glyphs, and how each number moves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resnet_audit.render import glyphs, words
from resnet_audit.render.fit import Column
from resnet_audit.render.names import short_names
from resnet_audit.render.parts import MISMATCH_WARNING, OBJECTIVES, Line, Look, Part, Table, bar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from resnet_audit.results import CheckpointEntry, Comparison, ComparisonRow, FamilyFit, InputsUsed, Trend

UNITS = {"epoch": "epoch", "number": "unit", "blocks": "block", "position": "row"}
ALONG = {
    "epoch": "the epoch in the names",
    "number": "the number in the names",
    "blocks": "the number of blocks",
    "position": "the place in this order",
}
LABELS = {
    "log10_spectral_complexity": "log10 complexity",
    "log10_spectral_complexity_patch": "log10 patch cover",
    "log10_lipschitz": "log10 Lipschitz",
    "log10_path_norm_l1": "log10 path norm",
    "sigma_max": "sigma max",
    "ratio_median": "ratio, median",
    "ratio_worst": "ratio, worst",
    "c_hat": "c_hat",
    "depth_mean": "depth, mean",
    "projection_mean": "depth, projection",
    "cancellation": "cancellation",
    "branch_gamma": "branch gamma",
    "residual_time": "residual time",
}
"""Metrics in words, in the order of the page."""

SCALES = {"weights": "from weights", "measured": "measured"}
VERDICTS = {
    "fast": "fast: S stays bounded as the family grows deeper",
    "slow": "slow: S grows with depth, and the kernel degenerates",
    "inconclusive": "inconclusive: the interval holds 1/2",
}
OF_FAMILIES = {"family_fit", "family_fit_measured"}

OF_OTHERS = {"fast", "needs_n_train"}
"""Notes that speak of flags of other commands."""

SPARK = 40
"""The most glyphs of one row; past that a glyph stands for several blocks."""


def comparison_parts(comparison: Comparison, entries: Sequence[CheckpointEntry], look: Look) -> tuple[Line, list[Part]]:
    """The title; the rows, the trends, what was measured on what, and the notes of the checkpoints, each once."""
    rows = comparison.rows
    if not rows:
        return Line("no checkpoint could be compared", "warning"), []
    by_path = {entry["path"]: entry for entry in entries}
    there = [by_path[row.path] for row in rows]
    where, names = short_names([row.path for row in rows])
    parts: list[Part] = [_rows(rows, names, there, look), Line(_legend(there, look), "dim")]
    trends = [trend for trend in comparison.trends if trend.n]
    if any(trend.slope is not None for trend in trends):
        parts.append(_trends(comparison, trends, look))
        parts.append(Line(_method(comparison), "dim"))
    parts += _family(comparison, look)
    parts += _inputs(there)
    told = (note.message for note in comparison.notes if note.where not in OF_FAMILIES)
    parts += [Line(f"note: {message}", hang=6) for message in told]
    return Line(_title(comparison, where), "strong"), parts + list(_notes(names, there))


def _title(comparison: Comparison, where: str) -> str:
    """How many there are, where, what all of them have in common, and what they are ordered by."""
    rows = comparison.rows
    blocks, parameters = ({getattr(row, name) for row in rows} for name in ("block_count", "parameters"))
    same = [words.count(next(iter(blocks)), "block")] if len(blocks) == 1 else []
    same += [words.count(one, "parameter") for one in parameters if one is not None and len(parameters) == 1]
    each = f", each of {' and '.join(same)}" if same else ""
    return words.count(len(rows), "checkpoint") + (f" in {where}" if where else "") + each


def _rows(rows: Sequence[ComparisonRow], names: Sequence[str], there: Sequence[CheckpointEntry], look: Look) -> Table:
    """A row a checkpoint; what is the same in all of them stands in the title instead."""
    columns = [Column(header="checkpoint", cells=tuple(names), priority=0, align="left")]
    family = len({row.block_count for row in rows}) > 1
    if family:
        columns.append(Column(header="blocks", cells=tuple(words.number(r.block_count) for r in rows), priority=2))
    if len({row.parameters for row in rows}) > 1:
        columns.append(Column(header="parameters", cells=tuple(words.number(r.parameters) for r in rows), priority=6))
    columns += [
        Column(header="complexity", cells=tuple(words.power(r.log10_spectral_complexity) for r in rows), priority=1),
        Column(header="sigma max", cells=words.numbers([r.sigma_max for r in rows], 3), priority=4),
        Column(header="ratio", cells=words.numbers([r.ratio_median for r in rows]), priority=2),
        Column(header="depth", cells=words.numbers([r.depth_mean for r in rows], 3), priority=2),
        Column(header="S", cells=words.numbers([r.residual_time for r in rows], 3), priority=3 if family else 6),
        Column(header="ratio per block", cells=tuple(_sparks(there, look)), priority=3, align="left"),
        Column(header="worst", cells=words.numbers([r.ratio_worst for r in rows], 3), priority=5),
        Column(header="gamma", cells=words.numbers([r.branch_gamma for r in rows], 3), priority=5),
        Column(header="Lipschitz", cells=tuple(words.power(r.log10_lipschitz) for r in rows), priority=7),
        Column(header="c_hat", cells=words.numbers([r.c_hat for r in rows], 3), priority=8),
        Column(header="projection", cells=words.numbers([r.projection_mean for r in rows], 3), priority=9),
        Column(header="cancellation", cells=words.numbers([r.cancellation for r in rows], 3), priority=10),
        Column(header="path norm", cells=tuple(words.power(r.log10_path_norm_l1) for r in rows), priority=11),
        Column(
            header="patch cover",
            cells=tuple(words.power(r.log10_spectral_complexity_patch) for r in rows),
            priority=12,
        ),
        Column(header="residual", cells=words.numbers([r.identity_residual for r in rows], 3), priority=13),
    ]
    return Table(columns=tuple(columns), caption=look.filter)


def _sparks(entries: Sequence[CheckpointEntry], look: Look) -> Iterator[str]:
    """The ratios of every checkpoint's blocks; a glyph stands for as many blocks in all of them."""
    merge = _merge(entries)
    for entry in entries:
        yield glyphs.ratio_spark(_ratios(entry), merge=merge, ascii_only=look.ascii_only) or words.UNDEFINED


def _merge(entries: Sequence[CheckpointEntry]) -> int:
    return max(1, -(-max(len(_ratios(entry)) for entry in entries) // SPARK))


def _ratios(entry: CheckpointEntry) -> list[float | None]:
    gradient = entry.get("gradient")
    return [block.ratio for block in gradient.blocks if block.kind == "block"] if gradient else []


def _legend(entries: Sequence[CheckpointEntry], look: Look) -> str:
    low, one, high, missing = glyphs.ratio_marks(ascii_only=look.ascii_only)
    text = f"ratio per block: {low} 1/2 or less, {one} 1 (norm kept), {high} 2 or more"
    if any(ratio is None for entry in entries for ratio in _ratios(entry)):
        text += f", {missing} none"
    merge = _merge(entries)
    if merge > 1:
        text += f"; the one farthest from 1 of {merge} blocks each"
    scales = dict.fromkeys(scaling.method for entry in entries if (scaling := entry.get("scaling")))
    time = f"; S: residual time, alphas {' or '.join(SCALES[scale] for scale in scales)}" if scales else ""
    return f"{text}; ratio: the median over the blocks that are no transition; depth in blocks{time}"


def _trends(comparison: Comparison, trends: Sequence[Trend], look: Look) -> Table:
    """A row a metric: its course over the rows, both ends, the slope with half its interval, and a word."""
    courses = [[getattr(row, trend.metric) for row in comparison.rows] for trend in trends]
    merge = -(-len(comparison.rows) // SPARK)
    ends = [[value for value in course if value is not None] for course in courses]
    columns = (
        Column(header="metric", cells=tuple(LABELS[trend.metric] for trend in trends), priority=0, align="left"),
        Column(
            header="course",
            cells=tuple(bar(glyphs.course_spark(c, merge=merge, ascii_only=look.ascii_only)) for c in courses),
            priority=2,
            align="left",
        ),
        Column(header="first", cells=tuple(words.number(values[0], 3) for values in ends), priority=3),
        Column(header="last", cells=tuple(words.number(values[-1], 3) for values in ends), priority=3),
        Column(
            header=f"per {UNITS[comparison.trend_of]}", cells=tuple(_slope(trend, look) for trend in trends), priority=2
        ),
        Column(header="trend", cells=tuple(t.direction or words.UNDEFINED for t in trends), priority=1, align="left"),
    )
    return Table(columns=columns)


def _slope(trend: Trend, look: Look) -> str:
    """The slope and half of its interval, to two digits of the latter."""
    if trend.slope is None or trend.low is None or trend.high is None:
        return words.UNDEFINED
    return words.with_error(trend.slope, (trend.high - trend.low) / 2, "+-" if look.ascii_only else "±")


def _method(comparison: Comparison) -> str:
    return (
        f"trend along {ALONG[comparison.trend_of]}: a least-squares line and its 95 % interval by Student's t, which "
        "takes checkpoints as independent; those of one training run are not, and a curve is not a line: look at the "
        "course"
    )


def _family(comparison: Comparison, look: Look) -> Iterator[Line]:
    """How alpha falls with depth, by either method; where depths differ without a fit, why."""
    fits = [fit for fit in (comparison.family_fit, comparison.family_fit_measured) if fit]
    if fits:
        yield Line(
            "family fit: rms alpha = a L^-gamma for L blocks, with a 95 % interval. Above gamma = 1/2 S stays bounded, "
            "below it grows with depth"
        )
        yield from (_fit(fit, look) for fit in fits)
    if comparison.trend_of == "blocks":
        reasons = dict.fromkeys(note.message for note in comparison.notes if note.where in OF_FAMILIES)
        yield from (Line(f"note: {reason}", hang=6) for reason in reasons)


def _fit(fit: FamilyFit, look: Look) -> Line:
    gamma = words.with_error(fit.gamma, (fit.high - fit.low) / 2, "+-" if look.ascii_only else "±")
    text = f"  alphas {SCALES[fit.method]}, {words.count(fit.n, 'network')}: gamma {gamma}, {VERDICTS[fit.verdict]}"
    return Line(text, hang=4)


def _inputs(entries: Sequence[CheckpointEntry]) -> Iterator[Line]:
    """What was measured on what, with the largest mismatch of all checkpoints."""
    results = [result for entry in entries for result in (entry.get("gradient"), entry.get("ensemble")) if result]
    if not results:
        return
    objectives = dict.fromkeys(OBJECTIVES.get(result.objective, result.objective) for result in results)
    inputs = [result.inputs for result in results]
    kinds = dict.fromkeys(f"{one.kind}, {words.count(one.n, 'sample')}" for one in inputs)
    mean, logsd = (_largest(inputs, name) for name in ("bn_mismatch_mean", "bn_mismatch_logsd"))
    mismatch = f"largest BN mismatch mean {words.number(mean, 3)}, log sd {words.number(logsd, 3)}"
    sizes = dict.fromkeys(words.shape(bound.input_size) for entry in entries if (bound := entry.get("bound")))
    size = f" of {' or '.join(sizes)}" if sizes else ""
    yield Line(f"objective: {' or '.join(objectives)}; inputs: {' or '.join(kinds)}{size}; {mismatch}")
    if mean is not None and mean > MISMATCH_WARNING:
        text = (
            f"warning: BN mismatch {words.number(mean, 3)} is above {MISMATCH_WARNING}: these inputs are unlike the "
            "training data, so take ratios and depths as rough; --data gives real inputs"
        )
        yield Line(text, "warning")


def _largest(inputs: Sequence[InputsUsed], name: str) -> float | None:
    return max((value for one in inputs if (value := getattr(one, name)) is not None), default=None)


def _notes(names: Sequence[str], entries: Sequence[CheckpointEntry]) -> Iterator[Line]:
    """Each note once, with the checkpoints that it is about unless it is about all."""
    about: dict[str, list[str]] = {}
    for name, entry in zip(names, entries, strict=True):
        for note in entry["notes"]:
            if note.code not in OF_OTHERS:
                about.setdefault(f"{note.where}: {note.message}" if note.where else note.message, []).append(name)
    for text, named in about.items():
        who = "" if len(set(named)) == len(entries) else f"{words.listed(tuple(dict.fromkeys(named)), 4)}: "
        yield Line(f"note: {who}{text}", hang=6)
