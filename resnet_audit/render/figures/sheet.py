"""The charts of each checkpoint on a sheet: two columns of panels, laid out in inches without a solver."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from resnet_audit.render import words
from resnet_audit.render.charts import Bars, Curves, Densities, Flow, Marks

from .flow import draw_flow, flow_height
from .panels import draw, gutter, height

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resnet_audit.render.charts import Chart

WIDTH, EDGE, BETWEEN = 9.0, 0.25, 0.35
"""Inches: of the sheet, of its margin, between the columns."""
HEAD, TITLE, NOTE = 0.45, 0.26, 0.14
"""Inches of height: the name of the checkpoint, a panel's title, one line of a panel's note."""
LETTERS, LONGEST = 18, 85
"""Letters of a note that fit an inch, and of a checkpoint's name that fit a line."""

Sheet = tuple[str, tuple["Chart", ...]]
"""The name of a checkpoint and what to draw of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A chart and the inches of its panel: from the left, from the top, and its width."""

    chart: Chart
    left: float
    top: float
    width: float

    @property
    def alone(self) -> bool:
        """Whether the panel has the whole width."""
        return self.width > WIDTH / 2


def sheet_figures(sheets: Sequence[Sheet], *, together: bool) -> list[Figure]:
    """A figure a checkpoint, or one with all of them below each other."""
    groups = [list(sheets)] if together else [[sheet] for sheet in sheets]
    return [_figure(group) for group in groups]


def _figure(sheets: Sequence[Sheet]) -> Figure:
    heads, placed, top = [], [], EDGE
    for name, charts in sheets:
        head = textwrap.wrap(words.clean(name, "latin-1"), LONGEST)
        heads += [(line, top + place * HEAD / 2) for place, line in enumerate(head)]
        panels, top = _arranged(charts, top + HEAD * (1 + len(head)) / 2)
        placed += panels
    whole = Figure(figsize=(WIDTH, top + EDGE))
    for name, at in heads:
        _text(whole, EDGE, at, name, size=11, weight="bold")
    for panel in placed:
        _draw(whole, panel)
    return whole


def _arranged(charts: Sequence[Chart], top: float) -> tuple[list[Placed], float]:
    """Panels below `top` and where they end: wide ones over both columns, others in the shorter column."""
    column = (WIDTH - 2 * EDGE - BETWEEN) / 2
    ends = [top, top]
    placed = []
    drawn = [chart for chart in charts if isinstance(chart, (Flow, Densities, Marks, Bars, Curves))]
    # A single panel has the sheet for itself.
    alone = len(drawn) == 1
    for chart in drawn:
        wide = isinstance(chart, Flow) or alone
        width = WIDTH - 2 * EDGE if wide else column
        side = 0 if wide or ends[0] <= ends[1] else 1
        start = max(ends) if wide else ends[side]
        tall = TITLE + _inside(chart, width) + NOTE * len(_note(chart, width)) + 0.2
        placed.append(Placed(chart=chart, left=EDGE + side * (column + BETWEEN), top=start, width=width))
        ends[side] = start + tall
        if wide:
            ends = [start + tall] * 2
    return placed, max(ends)


def _inside(chart: Chart, width: float) -> float:
    return flow_height(chart, width) if isinstance(chart, Flow) else height(chart)


def _note(chart: Chart, width: float) -> list[str]:
    return textwrap.wrap(chart.note, int(width * LETTERS))


def _draw(whole: Figure, panel: Placed) -> None:
    """Title, drawing, note."""
    chart, top = panel.chart, panel.top
    _text(whole, panel.left, top, chart.title, size=9, weight="bold")
    inside = _inside(chart, panel.width)
    left = panel.left if isinstance(chart, Flow) else panel.left + gutter(chart, alone=panel.alone)
    axes = _axes(whole, left, top + TITLE, panel.left + panel.width - left, inside)
    if isinstance(chart, Flow):
        draw_flow(axes, chart, panel.width)
    else:
        draw(axes, chart, alone=panel.alone)
    below = top + TITLE + inside + (0.0 if isinstance(chart, Flow) else 0.1)
    for index, line in enumerate(_note(chart, panel.width)):
        _text(whole, panel.left, below + NOTE * index, line, size=7, color="0.35")


def _axes(whole: Figure, left: float, top: float, width: float, tall: float) -> Any:  # noqa: ANN401 - matplotlib has no types
    """Axes whose box, labels of the lower axis included, fills these inches."""
    page = whole.get_figheight()
    below = 0.0 if tall <= 0 else 0.32
    return whole.add_axes((left / WIDTH, (page - top - tall + below) / page, width / WIDTH, (tall - below) / page))


def _text(whole: Figure, left: float, top: float, text: str, **look: Any) -> None:  # noqa: ANN401 - as above
    """Text whose upper left corner is there, never read as a formula."""
    page = whole.get_figheight()
    whole.text(left / WIDTH, (page - top) / page, text, va="top", ha="left", parse_math=False, **look)
