"""The comparison as a picture: one small panel a metric, and the depth of paths as a map."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from resnet_audit.render import words
from resnet_audit.render.charts import courses, depth_map
from resnet_audit.render.charts.comparison import ALONG
from resnet_audit.render.names import short_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resnet_audit.render.charts import Course, Map
    from resnet_audit.results import CheckpointEntry, Comparison

COLUMNS = 3
PANEL, MAP, WIDTH = 1.9, 2.9, 9.0
"""Inches: height of a row of panels and of the map, width of all."""
LONGEST_NAME, LONGEST_TURNED = 12, 32
"""Letters of a name that fit below its column as it is, and turned; longer ones give way to the place in the order."""
MOST_NAMES = 30


def comparison_figure(comparison: Comparison, entries: Sequence[CheckpointEntry]) -> Figure:
    """A figure with all panels and, if any row has a distribution over depth, the map below them."""
    panels = courses(comparison)
    depths = depth_map(comparison, entries)
    lines = -(-len(panels) // COLUMNS)
    heights = [PANEL] * lines + ([MAP] if depths else [])
    whole = Figure(figsize=(WIDTH, sum(heights) + 0.3), layout="constrained")
    grid = whole.add_gridspec(len(heights), COLUMNS, height_ratios=heights)
    for index, panel in enumerate(panels):
        axes = whole.add_subplot(grid[index // COLUMNS, index % COLUMNS])
        _panel(axes, panel)
        if index + COLUMNS >= len(panels):
            axes.set_xlabel(panel.x)
    if depths:
        _map(whole, whole.add_subplot(grid[lines, :]), depths)
    _settle(whole)
    return whole


def _settle(whole: Figure) -> None:
    """Lay the panels out, then keep their places rounded: the solver's last digits differ from run to run."""
    whole.draw_without_rendering()
    whole.set_layout_engine("none")
    for axes in whole.axes:
        left, bottom, width, height = (round(edge, 5) for edge in axes.get_position(original=True).bounds)
        axes.set_position((left, bottom, width, height))


def _panel(axes: Any, panel: Course) -> None:  # noqa: ANN401 - matplotlib has no types
    """One metric, or two of one kind, along x; a missing value is a gap."""
    for label, series in panel.series:
        values = [math.nan if value is None else value for value in series]
        axes.plot(panel.xs, values, "o-" if panel.ordered else "o", markersize=3, linewidth=1, label=label)
    room = 0.05 * (max(panel.xs) - min(panel.xs)) or 0.5
    axes.set_xlim(min(panel.xs) - room, max(panel.xs) + room)
    axes.set_title(panel.title, loc="left")
    axes.locator_params(axis="y", nbins=5)
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.grid(axis="y", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    if all(float(x).is_integer() for x in panel.xs):
        axes.locator_params(axis="x", integer=True, nbins=6)
    if len(panel.series) > 1:
        axes.legend(frameon=False, fontsize=7)


def _map(whole: Figure, axes: Any, chart: Map) -> None:  # noqa: ANN401 - matplotlib has no types
    """Depth upwards, a column a checkpoint, darker the larger its share of the gradient; mean depths as points."""
    depths, count = chart.depths, len(chart.columns)
    cells = [[column[d] if d < len(column) else math.nan for column in chart.columns] for d in depths]
    image = axes.imshow(
        cells,
        origin="lower",
        aspect="auto",
        cmap="Blues",
        vmin=0.0,
        interpolation="nearest",
        extent=(-0.5, count - 0.5, depths[0] - 0.5, depths[-1] + 0.5),
    )
    means = [math.nan if mean is None else mean for mean in chart.means]
    axes.plot(range(count), means, "o", color="tab:orange", markersize=4, label="mean")
    axes.set_title(f"{chart.title} ({chart.note})", loc="left")
    axes.set_ylabel("depth, blocks")
    axes.locator_params(axis="y", integer=True)
    axes.legend(frameon=False, fontsize=7, loc="upper right")
    whole.colorbar(image, ax=axes, label="share", pad=0.01)
    _names(axes, chart.paths)


def _names(axes: Any, paths: Sequence[str]) -> None:  # noqa: ANN401 - matplotlib has no types
    """Names below the columns, as text and never as formulas; every so many of them where all would not fit.

    Letters that no font at hand may have are escaped.
    """
    names = [words.clean(name, "latin-1") for name in short_names(paths)[1]]
    if max(map(len, names)) > LONGEST_TURNED:
        names = [str(place) for place in range(len(names))]
        axes.set_xlabel(ALONG["position"])
    every = -(-len(names) // MOST_NAMES)
    long = max(map(len, names)) > LONGEST_NAME or len(names) > 10
    turn = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if long else {}
    axes.set_xticks(range(0, len(names), every), names[::every], parse_math=False, **turn)
