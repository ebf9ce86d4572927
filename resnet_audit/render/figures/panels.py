"""One chart on one pair of axes: rows of densities, marks or bars, and curves over depth."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter

from resnet_audit.render import words
from resnet_audit.render.charts import Bars, Curves, Densities, Marks
from resnet_audit.render.names import short_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resnet_audit.render.charts import Chart

ROW, FRAME, CURVES = 0.16, 0.48, 2.6
"""Inches of height: a row, what is around the rows, a panel of curves."""
LETTER, LONGEST, ALONE = 0.068, 34, 64
"""Inches of a letter of a name, and the letters of the longest that is shown: in a column, and over the whole width."""
COLOURS = ("#2463b4", "#b4561f", "#3b7d4f", "#8250a8", "#6b6f76")


def height(chart: Chart) -> float:
    """Inches of the drawing with its axis."""
    if isinstance(chart, (Densities, Marks, Bars)):
        return FRAME + ROW * (max(2, len(chart.names)) + _keyed(chart))
    return CURVES


def _keyed(chart: Chart) -> bool:
    """Whether a row of its own below the others is left to a key."""
    return isinstance(chart, Bars) and len(chart.series) > 1


def gutter(chart: Chart, *, alone: bool) -> float:
    """Inches that the labels of the vertical axis take."""
    if isinstance(chart, (Densities, Marks, Bars)):
        return 0.15 + LETTER * max(map(len, labels(chart.names, alone=alone)))
    return 0.5


def labels(names: Sequence[str], *, alone: bool = False) -> list[str]:
    """Names beside their rows; where one is too long, without what all share, and else their places in the order.

    Letters that no font at hand may have are escaped.
    """
    shown = [words.clean(name, "latin-1") for name in names]
    apart = [name.replace("/", ".") for name in short_names([name.replace(".", "/") for name in shown])[1]]
    for tried in (shown, apart):
        if max(map(len, tried)) <= (ALONE if alone else LONGEST) and len(set(tried)) == len(set(shown)):
            return tried
    return [f"row {place}" for place in range(1, len(shown) + 1)]


def draw(axes: Any, chart: Chart, *, alone: bool) -> None:  # noqa: ANN401 - matplotlib has no types
    """The chart on these axes; `alone` on its sheet it has room for longer names."""
    axes.tick_params(labelsize=7, length=2)
    axes.set_axisbelow(True)
    if isinstance(chart, (Densities, Marks, Bars)):
        _rows(axes, labels(chart.names, alone=alone), keyed=_keyed(chart))
    match chart:
        case Densities():
            _densities(axes, chart)
        case Marks():
            _marks(axes, chart)
        case Bars():
            _bars(axes, chart)
        case Curves():
            _curves(axes, chart)


def _rows(axes: Any, names: Sequence[str], *, keyed: bool) -> None:  # noqa: ANN401 - as above
    """A row a name from the top."""
    axes.set_ylim(len(names) - 0.4 + keyed, -0.8)
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color="0.88", linewidth=0.6)


def _densities(axes: Any, chart: Densities) -> None:  # noqa: ANN401 - as above
    for place, row in enumerate(chart.rows):
        if row is not None:
            top = max(row.share) or 1.0
            tops = [place + 0.35 - 0.85 * share / top for share in row.share]
            axes.stairs(tops, row.log10_edges, baseline=place + 0.35, fill=True, color=COLOURS[0])
    axes.axvline(0.0, color="0.4", linewidth=0.8)
    axes.set_xlabel("log10 sigma", fontsize=7)


def _marks(axes: Any, chart: Marks) -> None:  # noqa: ANN401 - as above
    axes.set_xscale("log", base=2)
    axes.axvline(1.0, color="0.4", linewidth=0.8)
    hollow = chart.hollow or (False,) * len(chart.names)
    for place, value in enumerate(chart.values):
        if chart.low and (low := chart.low[place]) and (high := chart.high[place]):
            axes.plot([low, high], [place, place], color=COLOURS[0], alpha=0.5, linewidth=1.5)
        if value and math.isfinite(value):
            face = "white" if hollow[place] else COLOURS[0]
            axes.plot([value], [place], "o", markersize=4, markerfacecolor=face, markeredgecolor=COLOURS[0])
    if chart.also is not None:
        points = [(value, place) for place, value in enumerate(chart.also[1]) if value]
        axes.plot(*zip(*points, strict=True), "x", markersize=4, color=COLOURS[1])
    low, high = axes.get_xlim()
    low, high = min(low, 0.5), max(high, 2.0)
    axes.set_xlim(low, high)
    step = max(1, round((math.log2(high) - math.log2(low)) / 8))
    powers = range(math.ceil(math.log2(low) / step) * step, math.floor(math.log2(high)) + 1, step)
    axes.xaxis.set_major_locator(FixedLocator([2.0**power for power in powers]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([octave(power) for power in powers])


def octave(power: int) -> str:
    """A power of two in words."""
    if abs(power) > 9:
        return f"2^{power}"
    return str(2**power) if power >= 0 else f"1/{2**-power}"


def _bars(axes: Any, chart: Bars) -> None:  # noqa: ANN401 - as above
    tall = 0.8 / len(chart.series)
    for index, (label, series) in enumerate(chart.series):
        values = [value if value is not None and math.isfinite(value) else 0.0 for value in series]
        places = [place - 0.4 + tall * (index + 0.5) for place in range(len(values))]
        axes.barh(places, values, height=tall * 0.9, color=COLOURS[index], label=label)
    axes.axvline(0.0, color="0.4", linewidth=0.8)
    if chart.unit == "share":
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    axes.locator_params(axis="x", nbins=6)
    if len(chart.series) > 1:
        axes.legend(frameon=False, fontsize=6.5, loc="lower right", ncols=2, borderaxespad=0)


def _curves(axes: Any, chart: Curves) -> None:  # noqa: ANN401 - as above
    for index, curve in enumerate(chart.curves):
        depths = range(chart.start, chart.start + len(curve.values))
        values = [math.nan if value is None else value for value in curve.values]
        if curve.look == "bars":
            axes.bar(depths, values, color=COLOURS[index], width=0.8, alpha=0.85, label=curve.label)
        else:
            style = "--" if curve.look == "dashed" else "-"
            axes.plot(depths, values, style, color=COLOURS[index], linewidth=1.2, label=curve.label)
    axes.set_xlabel(chart.x, fontsize=7)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    axes.locator_params(axis="x", integer=True)
    axes.grid(axis="y", color="0.88", linewidth=0.6)
    # Room for the key above what it names.
    low, high = axes.get_ylim()
    axes.set_ylim(low, low + 1.3 * (high - low))
    axes.legend(frameon=False, fontsize=6.5, ncols=2, loc="upper right")
