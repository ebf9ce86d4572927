"""Charts over a number: shares by depth, and one metric along the checkpoints."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from resnet_audit.render import words

from .draw import LETTER, WIDTH, hint, line, path, picture, rect, tag, text, tick_label, ticks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from resnet_audit.render.charts import Course, Curves

PANEL, GUTTER = 250, 34
"""Units of the width of a small panel, and of its labels of y: where they are short, neighbours line up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """From numbers to places: x from `left` to `right`, y from `bottom` up to `top`."""

    left: float
    right: float
    top: float
    bottom: float
    xs: tuple[float, float]
    ys: tuple[float, float]

    def x(self, value: float) -> float:
        """The place of a number along x."""
        return self.left + (value - self.xs[0]) / (self.xs[1] - self.xs[0]) * (self.right - self.left)

    def y(self, value: float) -> float:
        """The place of a number along y."""
        return self.bottom - (value - self.ys[0]) / (self.ys[1] - self.ys[0]) * (self.bottom - self.top)

    def at(self, x: float, y: float | None) -> tuple[float, float] | None:
        """The place of a point; None without a finite value."""
        return None if y is None or not math.isfinite(y) else (self.x(x), self.y(y))


def curves(chart: Curves) -> str:
    """Bars of the first, lines of the others, dashed where they are predictions; a key above."""
    values = [v for curve in chart.curves for v in curve.values if v is not None and math.isfinite(v)]
    low, high = min([0.0, *values]), max([0.0, *values]) or 1.0
    last = chart.start + max(len(curve.values) for curve in chart.curves) - 1
    top = 8 + 14 * len(chart.curves)
    plane = Plane(
        left=40, right=WIDTH - 4, top=top, bottom=top + 150, xs=(chart.start - 0.6, last + 0.6), ys=(low, high)
    )
    parts = []
    for tick in ticks(low, high, 4):
        parts += [line(plane.left, plane.y(tick), plane.right, plane.y(tick), "rule one" if tick == 0 else "rule")]
        parts.append(text(plane.left - 5, plane.y(tick) + 3.5, f"{100 * tick:g} %", "t s", anchor="end"))
    for tick in ticks(chart.start, last, 8):
        if tick == int(tick):
            parts.append(text(plane.x(tick), plane.bottom + 13, tick_label(tick), "t s", anchor="middle"))
    parts.append(text((plane.left + plane.right) / 2, plane.bottom + 27, chart.x, "t s", anchor="middle"))
    for place, curve in enumerate(chart.curves):
        kind = f"line line{place}" + (" dashed" if curve.look == "dashed" else "")
        if curve.look == "bars":
            parts += list(_bars(plane, chart.start, curve.values))
            parts.append(rect(plane.left, 5, 16, 8, "bar1"))
        else:
            parts.append(path((plane.at(chart.start + i, value) for i, value in enumerate(curve.values)), kind))
            parts.append(line(plane.left, 9 + 14 * place, plane.left + 16, 9 + 14 * place, kind))
        parts.append(text(plane.left + 22, 12.5 + 14 * place, curve.label))
    return picture(WIDTH, plane.bottom + 32, chart.title, parts)


def _bars(plane: Plane, start: int, values: Iterable[float | None]) -> Iterable[str]:
    width = 0.8 * (plane.x(1) - plane.x(0))
    for depth, value in enumerate(values, start):
        if value is not None:
            top, bottom = sorted((plane.y(value), plane.y(0)))
            bar = rect(plane.x(depth) - width / 2, top, width, bottom - top, "bar1")
            yield tag("g", hint(f"depth {depth}: {words.share(value)}"), bar)


def course(chart: Course) -> str:
    """A small panel: points, joined where x rises; a missing value is a gap."""
    values = [v for _, series in chart.series for v in series if v is not None and math.isfinite(v)]
    low, high = min(values, default=0.0), max(values, default=0.0)
    room = 0.06 * (high - low) or 0.5 * abs(high) or 0.5
    left, right = min(chart.xs), max(chart.xs)
    side = 0.05 * (right - left) or 0.5
    marks = ticks(low - room, high + room, 4)
    gutter = max(GUTTER, 8 + LETTER * max(len(tick_label(tick)) for tick in marks))
    plane = Plane(
        left=gutter, right=PANEL - 4, top=16, bottom=112, xs=(left - side, right + side), ys=(low - room, high + room)
    )
    parts = []
    for tick in marks:
        parts.append(line(plane.left, plane.y(tick), plane.right, plane.y(tick), "rule"))
        parts.append(text(plane.left - 5, plane.y(tick) + 3.5, tick_label(tick), "t s", anchor="end"))
    parts += [
        text(plane.x(tick), plane.bottom + 13, tick_label(tick), "t s", anchor="middle")
        for tick in ticks(left, right, 6)
    ]
    parts.append(text((plane.left + plane.right) / 2, plane.bottom + 26, chart.x, "t s", anchor="middle"))
    at = plane.left
    for place, (label, series) in enumerate(chart.series):
        points = [plane.at(x, value) for x, value in zip(chart.xs, series, strict=True)]
        if chart.ordered:
            parts.append(path(points, f"line course{place}"))
        for point, value in zip(points, series, strict=True):
            if point is not None:
                dot = tag("circle", hint(words.number(value)), cx=point[0], cy=point[1], r=2.6, class_=f"dot{place}")
                parts.append(dot)
        if label:
            parts += [tag("circle", cx=at + 3, cy=6, r=2.6, class_=f"dot{place}"), text(at + 9, 9.5, label, "t s")]
            at += 22 + LETTER * len(label)
    return picture(PANEL, plane.bottom + 30, chart.title, parts, "chart small")
