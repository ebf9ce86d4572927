"""The spectrum: the size and the density of the singular values of every layer, then of every block."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from resnet_audit.render import glyphs, words
from resnet_audit.render.fit import Column
from resnet_audit.render.parts import Line, Look, Part, Table, bar

if TYPE_CHECKING:
    from resnet_audit.results import Histogram, SpectrumBlock, SpectrumLayer, SpectrumNumbers, SpectrumResult

BAR = 10
SPARK_BINS = 2


def spectrum_parts(result: SpectrumResult, look: Look) -> list[Part]:
    """A row per layer, a row per block, and what kind of number each is."""
    parts: list[Part] = []
    if result.layers:
        columns = _sizes(result.layers, look) + _shapes(result.layers) + _folded(result.layers)
        parts.append(Table(columns=columns, caption=look.filter))
    else:
        parts.append(Line(f"no weight layer to show {look.filter}".rstrip()))
    if any(b.branch_upper is not None or b.block_sigma_max is not None for b in result.blocks):
        columns = _measured(result.blocks, look) + _certified(result.blocks)
        parts.append(Table(columns=columns, caption=look.filter))
    return parts + _summary(result)


def _sizes(layers: tuple[SpectrumLayer, ...], look: Look) -> tuple[Column, ...]:
    """Columns that a reader looks at first: the extremes and the density."""
    top = max((layer.sigma_max for layer in layers if layer.sigma_max is not None), default=0.0)
    bars = [glyphs.thin_bar(layer.sigma_max, top, BAR, ascii_only=look.ascii_only) for layer in layers]
    return (
        Column(header="layer", cells=tuple(layer.name for layer in layers), priority=0, align="left"),
        Column(header="kernel", cells=tuple(_kernel(layer) for layer in layers), priority=5, align="left"),
        Column(header="sigma max", cells=words.numbers([layer.sigma_max for layer in layers]), priority=1),
        Column(
            header=f"0 to {words.number(top, 3)}",
            cells=tuple(bar(text.ljust(BAR)) for text in bars),
            priority=2,
            align="left",
        ),
        Column(header="sigma min", cells=words.numbers([layer.sigma_min for layer in layers]), priority=3),
        Column(
            header=_density_header(layers),
            cells=tuple(_density(layer.histogram, look) for layer in layers),
            priority=4,
            align="left",
        ),
    )


def _shapes(layers: tuple[SpectrumLayer, ...]) -> tuple[Column, ...]:
    """Columns of the statistics of the raw kernel."""
    return (
        Column(header="at most", cells=words.numbers([layer.sigma_upper for layer in layers]), priority=6),
        Column(header="condition", cells=words.numbers([layer.condition for layer in layers]), priority=9),
        Column(header="rms", cells=words.numbers([layer.rms for layer in layers], 3), priority=9),
        Column(header="near 1", cells=tuple(words.share(layer.near_one) for layer in layers), priority=8),
        Column(header="off 1", cells=words.numbers([layer.mean_deviation for layer in layers], 3), priority=9),
        Column(header="stable rank", cells=words.numbers([layer.stable_rank for layer in layers], 3), priority=10),
        Column(header="eff. rank", cells=words.numbers([layer.effective_rank for layer in layers], 3), priority=10),
        Column(
            header="rank",
            cells=tuple(f"{words.number(layer.rank)} of {words.number(layer.count)}" for layer in layers),
            priority=11,
        ),
    )


def _folded(layers: tuple[SpectrumLayer, ...]) -> tuple[Column, ...]:
    """Columns of the same layers with their batch normalisation folded in, and how they were computed."""
    folds: list[SpectrumNumbers | None] = [layer.folded for layer in layers]
    return (
        Column(
            header="folded max", cells=words.numbers([fold.sigma_max if fold else None for fold in folds]), priority=7
        ),
        Column(
            header="folded at most",
            cells=words.numbers([fold.sigma_upper if fold else None for fold in folds]),
            priority=9,
        ),
        Column(header="grid", cells=tuple(words.shape(layer.grid) for layer in layers), priority=12, align="left"),
        Column(header="method", cells=tuple(layer.method for layer in layers), priority=13, align="left"),
    )


def _measured(blocks: tuple[SpectrumBlock, ...], look: Look) -> tuple[Column, ...]:
    """Columns of what was measured of every block: how far it can stretch, and how much of it keeps norms."""
    top = max((b.block_sigma_max for b in blocks if b.block_sigma_max is not None), default=0.0)
    stretches = [glyphs.thin_bar(b.block_sigma_max, top, BAR, ascii_only=look.ascii_only) for b in blocks]
    kept = [glyphs.thin_bar(b.near_one, 1.0, BAR, ascii_only=look.ascii_only) for b in blocks]
    return (
        Column(header="block", cells=tuple(b.name for b in blocks), priority=0, align="left"),
        Column(header="sigma max", cells=words.numbers([b.block_sigma_max for b in blocks]), priority=1),
        _bars(f"0 to {words.number(top, 3)}", stretches),
        Column(header="near 1", cells=tuple(_share(b, look) for b in blocks), priority=2),
        _bars("0 to 100 %", kept),
        Column(header="off 1", cells=words.numbers([b.mean_deviation for b in blocks], 3), priority=4),
        Column(header="branch max", cells=words.numbers([b.branch_sigma_max for b in blocks]), priority=3),
    )


def _bars(header: str, bars: list[str]) -> Column:
    return Column(header=header, cells=tuple(bar(text.ljust(BAR)) for text in bars), priority=2, align="left")


def _share(block: SpectrumBlock, look: Look) -> str:
    """The share near 1 in percent with its standard error."""
    if block.near_one is None:
        return words.UNDEFINED
    sign = "+-" if look.ascii_only else "±"
    return f"{100 * block.near_one:.0f} {sign}{round(100 * (block.near_one_error or 0.0)):>2} %"


def _certified(blocks: tuple[SpectrumBlock, ...]) -> tuple[Column, ...]:
    """Columns of what the weights allow, and of how the numbers were found."""
    return (
        Column(header="branch at most", cells=words.numbers([b.branch_upper for b in blocks]), priority=5),
        Column(header="within", cells=tuple(words.interval(b.interval_measured) for b in blocks), priority=6),
        Column(header="certified within", cells=tuple(words.interval(b.interval) for b in blocks), priority=7),
        Column(header="residual", cells=words.numbers([b.block_residual for b in blocks], 3), priority=8),
        Column(header="count", cells=tuple(words.number(b.count) for b in blocks), priority=9),
        Column(header="inputs", cells=tuple(words.number(b.samples) for b in blocks), priority=9),
        Column(header="method", cells=tuple(b.method or words.UNDEFINED for b in blocks), priority=10, align="left"),
    )


def _kernel(layer: SpectrumLayer) -> str:
    """The weight's shape as 32<-16 3x3/2: outputs, inputs of one group, kernel, stride."""
    if len(layer.shape) < 2:
        return words.shape(layer.shape)
    text = f"{layer.shape[0]}<-{layer.shape[1] * layer.groups}"
    if layer.kind == "conv":
        text += f" {words.shape(layer.shape[2:])}"
        strides = set(layer.stride)
        if strides - {1}:
            text += f"/{words.shape(layer.stride) if len(strides) > 1 else layer.stride[0]}"
        if layer.groups > 1:
            text += f" g{layer.groups}"
    return text


def _density_header(layers: tuple[SpectrumLayer, ...]) -> str:
    """The axis of the sparklines, log10 of every power of ten at its place; bare where the layers do not share one."""
    edges = {layer.histogram.log10_edges for layer in layers if layer.histogram and layer.histogram.log10_edges}
    if len(edges) != 1:
        return "log10 sigma"
    (shared,) = edges
    low, high, width = shared[0], shared[-1], (len(shared) - 1) // SPARK_BINS
    line = [" "] * width
    for power in range(math.ceil(low), math.floor(high) + 1):
        at = min(round((power - low) / (high - low) * width), width - len(str(power)))
        line[at : at + len(str(power))] = str(power)
    return "".join(line)


def _density(histogram: Histogram | None, look: Look) -> str:
    return glyphs.spark(histogram.share, merge=SPARK_BINS, ascii_only=look.ascii_only) if histogram else ""


def _summary(result: SpectrumResult) -> list[Part]:
    where = f" in {result.sigma_max_where}" if result.sigma_max_where else ""
    if result.sigma_max is None:
        parts: list[Part] = [Line("largest sigma max: undefined, no layer has finite weights", "warning")]
    else:
        parts = [Line(f"largest sigma max {words.number(result.sigma_max, 3)}{where}; {_kind(result)}", "strong")]
    folded = (
        "; folded: with the batch normalisation that follows" if any(layer.folded for layer in result.layers) else ""
    )
    parts.append(Line(f"at most: certified for zero padding{folded}", "dim"))
    if any(layer.histogram for layer in result.layers):
        text = (
            "-3 to 1: density of the singular values over log10 sigma, each row to its own peak; outliers in the ends"
        )
        parts.append(Line(text, "dim"))
    return parts + _block_lines(result)


def _kind(result: SpectrumResult) -> str:
    """What kind of number the largest value is, as the method of its layer says."""
    methods = [layer.method for layer in result.layers if layer.name == result.sigma_max_where]
    return "an estimate from below" if "estimate from below" in "".join(methods) else "exact on the circular grid"


def _block_lines(result: SpectrumResult) -> list[Part]:
    parts: list[Part] = []
    if result.inputs is not None:
        on = f"{words.count(result.inputs.n, 'input')} ({result.inputs.kind})"
        text = (
            f"blocks: at {on}, up to the sum; sigma max: the largest over them, an estimate from below; near 1: share "
            "of singular values in 0.9 to 1.1; off 1: mean |sigma - 1|; both estimates"
        )
        parts.append(Line(text, "dim"))
    if any(b.branch_upper is not None for b in result.blocks):
        text = "branch at most, certified within: for every input; within: at these, by the measured branch"
        parts.append(Line(text, "dim"))
    return parts
