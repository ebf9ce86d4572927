"""Charts with a row a name: densities, ratios on a log axis, bars, and shares by depth."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from resnet_audit.render import words
from resnet_audit.render.names import short_names

from .draw import LETTER, WIDTH, hint, line, path, picture, rect, tag, text, tick_label, ticks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resnet_audit.render.charts import Bars, Densities, Map, Marks
    from resnet_audit.results import Histogram

TOP, BOTTOM, GAP = 16, 4, 6
LONGEST = 130
"""Units that names may take beside their rows; longer ones stand above them."""
NAME = 11
"""Units of height of a name above its row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Where rows lie below `top`: names from 0 (or above), drawings from `left` to `right`, a row every `pitch`."""

    names: tuple[str, ...]
    left: float
    right: float
    pitch: float
    above: bool
    top: float = TOP

    @property
    def height(self) -> float:
        """Of the whole chart."""
        return self.top + self.pitch * len(self.names) + BOTTOM

    def base(self, index: int) -> float:
        """The lower edge of a row's drawing."""
        return self.top + self.pitch * (index + 1) - 1

    def label(self, index: int) -> str:
        """The name of a row."""
        name = self.names[index]
        if self.above:
            return text(0, self.top + self.pitch * index + NAME - 2, name, room=WIDTH)
        return text(self.left - GAP, self.base(index) - 2, name, anchor="end")


def rows_of(names: Sequence[str], pitch: float, margin: float = 8, top: float = TOP) -> Rows:
    """A row a name, `pitch` units high without a name above; `margin` units are left free at the right, `top` above."""
    widest = max((len(words.clean(name, "utf-8")) for name in names), default=0) * LETTER
    above = widest > LONGEST
    return Rows(
        names=tuple(names),
        left=4 if above else max(20, widest + GAP),
        right=WIDTH - margin,
        pitch=pitch + NAME if above else pitch,
        above=above,
        top=top,
    )


def densities(chart: Densities) -> str:
    """A silhouette a row over a shared axis of log10 sigma."""
    known = [row for row in chart.rows if row is not None]
    low, high = min(row.log10_edges[0] for row in known), max(row.log10_edges[-1] for row in known)
    rows = rows_of(chart.names, 13)
    scale = (rows.right - rows.left) / (high - low)

    def x(value: float) -> float:
        return rows.left + (value - low) * scale

    parts = []
    for tick in range(math.ceil(low), math.floor(high) + 1):
        parts += [line(x(tick), TOP, x(tick), rows.height, "rule one" if tick == 0 else "rule")]
        parts.append(text(x(tick), 10, f"1e{tick}" if tick else "1", "t s", anchor="middle"))
    for index, row in enumerate(chart.rows):
        parts.append(rows.label(index))
        if row is not None:
            parts.append(_silhouette(row, [x(edge) for edge in row.log10_edges], rows.base(index)))
    return picture(WIDTH, rows.height, chart.title, parts)


def _silhouette(row: Histogram, edges: Sequence[float], base: float) -> str:
    top = max(row.share) or 1.0
    points: list[tuple[float, float] | None] = [(edges[0], base)]
    for (left, right), share in zip(pairwise(edges), row.share, strict=True):
        height = 11 * share / top
        points += [(left, base - height), (right, base - height)]
    return path([*points, (edges[-1], base)], "area")


def marks(chart: Marks) -> str:
    """A point a row on an axis of powers of two, with its interval; the rule in the middle is 1."""
    rows = rows_of(chart.names, 13, margin=46)
    low, high, step = _octaves(chart)

    def x(value: float) -> float:
        octaves = math.log2(value) if 0 < value < math.inf else math.copysign(math.inf, value - 1)
        return rows.left + (max(low, min(high, octaves)) - low) / (high - low) * (rows.right - rows.left)

    parts = []
    for power in range(math.ceil(low / step) * step, high + 1, step):
        at = x(2.0**power)
        parts += [line(at, TOP, at, rows.height, "rule one" if power == 0 else "rule")]
        parts.append(text(at, 10, octave_label(power), "t s", anchor="middle"))
    lows, highs = chart.low or (None,) * len(rows.names), chart.high or (None,) * len(rows.names)
    hollow = chart.hollow or (False,) * len(rows.names)
    for index, value in enumerate(chart.values):
        middle, inside = rows.base(index) - 5, []
        first, last = lows[index], highs[index]
        if first is not None and last is not None:
            inside.append(line(x(first), middle, x(last), middle, "span"))
        if chart.also is not None and (beside := chart.also[1][index]) is not None:
            at = x(beside)
            inside.append(path([(at - 3, middle - 3), (at + 3, middle + 3)], "cross"))
            inside.append(path([(at - 3, middle + 3), (at + 3, middle - 3)], "cross"))
        if value is not None:
            inside.append(tag("circle", cx=x(value), cy=middle, r=3.4, class_="dot hollow" if hollow[index] else "dot"))
        parts += [rows.label(index), tag("g", hint(f"{rows.names[index]}: {words.number(value)}"), *inside)]
        parts.append(text(WIDTH, rows.base(index) - 2, words.number(value, 3), "t v", anchor="end"))
    return picture(WIDTH, rows.height, chart.title, parts)


def _octaves(chart: Marks) -> tuple[int, int, int]:
    """(low, high, step) of an axis of whole powers of two that holds every value, and 1/2 to 2 at least."""
    beside = chart.also[1] if chart.also else ()
    given = [value for value in (*chart.values, *chart.low, *chart.high, *beside) if value and 0 < value < math.inf]
    logs = [math.log2(value) for value in given]
    low, high = math.floor(min([-1.0, *logs])), math.ceil(max([1.0, *logs]))
    return low, high, max(1, -(-(high - low) // 7))


def octave_label(power: int) -> str:
    """A power of two in words."""
    if abs(power) > 9:
        return f"2^{power}"
    return str(2**power) if power >= 0 else f"1/{2**-power}"


def bars(chart: Bars) -> str:
    """Bars from 0 with the first value written at the right; a second series lies below in another colour."""
    two = len(chart.series) > 1
    rows = rows_of(chart.names, 16 if two else 13, margin=50, top=2 * TOP if two else TOP)
    told = words.share if chart.unit == "share" else words.number
    values = [value for _, series in chart.series for value in series if value is not None and math.isfinite(value)]
    low, high = min([0.0, *values]), max([0.0, *values])
    span = (high - low) or 1.0

    def x(value: float) -> float:
        return rows.left + (max(low, min(high, value)) - low) / span * (rows.right - rows.left)

    parts = _key(chart) if two else []
    for tick in ticks(low, high, 4):
        label = f"{tick * 100:g} %" if chart.unit == "share" else tick_label(tick)
        parts += [line(x(tick), rows.top, x(tick), rows.height, "rule one" if tick == 0 else "rule")]
        parts.append(text(x(tick), rows.top - 6, label, "t s", anchor="middle"))
    for index, name in enumerate(rows.names):
        inside = [hint("; ".join([name, *(f"{label}: {told(series[index])}" for label, series in chart.series)]))]
        for place, (_, series) in enumerate(chart.series):
            value = series[index]
            if value is not None:
                left, right = sorted((x(0), x(value)))
                top = rows.base(index) - (13 if two else 9) + 7 * place
                inside.append(rect(left, top, right - left, 4 if place else 7, f"bar{place + 1}"))
        parts += [rows.label(index), tag("g", *inside)]
        parts.append(text(WIDTH, rows.base(index) - 2, told(chart.series[0][1][index]), "t v", anchor="end"))
    return picture(WIDTH, rows.height, chart.title, parts)


def _key(chart: Bars) -> list[str]:
    """Which bar is whose; the numbers at the right are of the first."""
    parts, left = [], 0.0
    for place, (label, _) in enumerate(chart.series):
        told = label if place else f"{label} (in numbers)"
        parts += [rect(left, 3, 12, 4 if place else 7, f"bar{place + 1}"), text(left + 17, 10, told)]
        left += 30 + LETTER * len(told)
    return parts


def depth_rows(chart: Map) -> str:
    """A row a checkpoint, darker where more of the gradient passes at a depth; the mean as a circle."""
    rows = rows_of(short_names(chart.paths)[1], 13)
    width = (rows.right - rows.left) / len(chart.depths)

    def x(depth: float) -> float:
        return rows.left + (depth - chart.depths.start + 0.5) * width

    top = max(max(column, default=0.0) for column in chart.columns) or 1.0
    parts = []
    for tick in ticks(chart.depths.start, chart.depths.stop - 1, 8):
        if tick == int(tick):
            parts += [line(x(tick), TOP - 3, x(tick), rows.height, "rule")]
            parts.append(text(x(tick), 10, tick_label(tick), "t s", anchor="middle"))
    for index, column in enumerate(chart.columns):
        parts.append(rows.label(index))
        for depth in chart.depths:
            share = column[depth] if depth < len(column) else 0.0
            if share / top >= 0.01:
                cell = {"x": x(depth) - width / 2, "y": rows.base(index) - 10, "width": width, "height": 11}
                parts.append(tag("rect", class_="cell", fill_opacity=share / top, **cell))
        mean = chart.means[index]
        if mean is not None:
            parts.append(tag("circle", cx=x(mean), cy=rows.base(index) - 4.5, r=3, class_="dot mean"))
    return picture(WIDTH, rows.height, chart.title, parts)
