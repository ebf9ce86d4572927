"""The residual blocks in lines, a stage a heading: the trunk by the kind of the shortcut, the branch above it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from matplotlib.patches import Circle, Rectangle

from resnet_audit.render import words
from resnet_audit.render.svg.flow import MOST, boxes, heading, names_below

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resnet_audit.render.charts import Chart, Flow
    from resnet_audit.results import BlockEntry

CELL, LINE, HEADING, KEY = 0.6, 0.68, 0.22, 0.3
"""Inches: width of a block, height of a line of blocks, of a stage's heading, of the key below all."""
LONGEST = 100
"""Letters of a stage's heading with the names of its first and last block; longer ones go without."""
SKIPS = {
    "identity": {"color": "black", "linewidth": 1.2},
    "projection": {"color": "#b4561f", "linewidth": 2.6},
    "resample": {"color": "#3b7d4f", "linewidth": 2.0, "linestyle": (0, (1, 1))},
    "norm": {"color": "#8250a8", "linewidth": 2.0, "linestyle": (0, (4, 1.5))},
    "concat": {"color": "#6b6f76", "linewidth": 3.2, "linestyle": (0, (0.5, 0.7))},
}


def flow_height(chart: Chart, width: float) -> float:
    """Inches of all lines at this width."""
    stages = getattr(chart, "stages", ())
    return KEY + sum(HEADING + LINE * len(_lines(stage, width)) for stage in stages)


def draw_flow(axes: Any, chart: Flow, width: float) -> None:  # noqa: ANN401 - matplotlib has no types
    """All stages on axes of this width; one unit of the axes is an inch."""
    tall = flow_height(chart, width)
    page = axes.get_position().bounds
    size = axes.figure.get_size_inches()
    # The whole box is for the drawing: there is no axis below.
    axes.set_position((page[0], page[1] - (tall / size[1] - page[3]), page[2], tall / size[1]))
    axes.set_xlim(0, width)
    axes.set_ylim(tall, 0)
    axes.set_axis_off()
    channels = [block.output_shape[0] for stage in chart.stages for block in stage if block.output_shape]
    top, place = 0.0, 0
    for stage in chart.stages:
        told = words.clean(heading(stage, most=LONGEST), "latin-1")
        axes.text(0, top + 0.04, told, fontsize=7.5, va="top", parse_math=False)
        top += HEADING
        names = names_below(stage)
        for line in _lines(stage, width):
            for column, (index, block) in enumerate(line):
                _block(axes, (column * CELL, top), block, channels)
                name = words.clean(names[index] or str(place), "latin-1")
                middle = (column + 0.5) * CELL
                axes.text(middle, top + 0.54, name, fontsize=5.5, ha="center", va="top", color="0.35", parse_math=False)
                place += 1
            top += LINE
    kinds = dict.fromkeys(block.skip for stage in chart.stages for block in stage)
    for index, kind in enumerate(kinds):
        axes.plot([index * 1.2, index * 1.2 + 0.35], [top + 0.12] * 2, **SKIPS[kind])
        axes.text(index * 1.2 + 0.42, top + 0.12, kind, fontsize=7, va="center")


def _lines(stage: Sequence[BlockEntry], width: float) -> list[list[tuple[int, BlockEntry]]]:
    """The blocks of a stage with their places in it, broken into lines."""
    most = int(width / CELL + 1e-9)
    numbered = list(enumerate(stage))
    return [numbered[at : at + most] for at in range(0, len(numbered), most)]


def _block(axes: Any, corner: tuple[float, float], block: BlockEntry, channels: Sequence[int]) -> None:  # noqa: ANN401 - as above
    left, top = corner
    trunk = top + 0.46
    tall = _height(block, channels)
    roof = trunk - 0.1 - tall / 2
    fork, join = left + 0.06, left + 0.52
    axes.plot([left, fork], [trunk] * 2, color="black", linewidth=1)
    axes.plot([join, left + CELL], [trunk] * 2, color="black", linewidth=1)
    axes.plot([fork, join], [trunk] * 2, solid_capstyle="butt", **SKIPS[block.skip])
    axes.plot([fork, fork, join, join], [trunk, roof, roof, trunk], color="black", linewidth=0.9)
    count = boxes(block)
    pitch = 0.36 / count
    wide = 0.28 if block.weight_layers > MOST else min(pitch - 0.03, 0.14)
    for index in range(count):
        start = left + 0.11 + pitch * (index + 0.5) - wide / 2
        axes.add_patch(Rectangle((start, roof - tall / 2), wide, tall, color="#2463b4", linewidth=0, zorder=3))
    if block.weight_layers > MOST:
        where = {"ha": "center", "va": "center", "zorder": 4}
        axes.text(left + 0.29, roof, str(block.weight_layers), fontsize=6, color="white", **where)
    face = "black" if block.transition else "white"
    axes.add_patch(Circle((join, trunk), 0.042, facecolor=face, edgecolor="black", linewidth=0.9, zorder=4))


def _height(block: BlockEntry, channels: Sequence[int]) -> float:
    """Inches of a block's boxes by the logarithm of its channels."""
    if not block.output_shape or not channels:
        return 0.16
    low, high = math.log2(max(1, min(channels))), math.log2(max(1, *channels))
    own = math.log2(max(1, block.output_shape[0]))
    return 0.1 + 0.2 * ((own - low) / (high - low) if high > low else 0.3)
