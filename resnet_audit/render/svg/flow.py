"""The residual blocks as a line of small drawings that breaks where the page ends, as words do."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from resnet_audit.render import words

from .draw import line, picture, rect, safe, tag, text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resnet_audit.render.charts import Flow
    from resnet_audit.results import BlockEntry

CELL, HEIGHT, TRUNK = 52, 46, 38
"""Units of a block's drawing; the height at which the shortcut runs."""
MOST = 4
"""Boxes that fit a branch."""
SHORT = 8
"""Letters of a name that fit below its block; longer ones give way to the place in the order."""


def flow(chart: Flow) -> str:
    """A list of stages, each with a drawing a block; a key of the shortcut kinds that occur."""
    widths = [block.output_shape[0] for stage in chart.stages for block in stage if block.output_shape]
    kinds = dict.fromkeys(block.skip for stage in chart.stages for block in stage)
    stages = []
    place = 0
    for stage in chart.stages:
        cells = []
        shown = names_below(stage)
        for block, name in zip(stage, shown, strict=True):
            cells.append(_cell(block, name or str(place), widths))
            place += 1
        stages.append(tag("li", tag("p", safe(heading(stage))), tag("ol", *cells)))
    key = "".join(tag("span", _sample(kind), safe(kind)) for kind in kinds)
    return tag("ol", *stages, class_="flow") + tag("p", key, class_="key")


def names_below(stage: Sequence[BlockEntry]) -> list[str]:
    """What stands below the blocks of a stage: the end of each name, or nothing for any if one is too long."""
    ends = [words.clean(block.name, "utf-8") for block in stage]
    if max(map(len, ends)) > SHORT:
        ends = [name.rpartition(".")[2] for name in ends]
    return ends if max(map(len, ends)) <= SHORT and len(set(ends)) == len(ends) else [""] * len(ends)


def heading(stage: Sequence[BlockEntry], most: int = 10**6) -> str:
    """`stage 1: 3 blocks, layer1.0 to layer1.2, 16x32x32`; no names where it has more than `most` letters."""
    first, last = stage[0].name, stage[-1].name
    names = first if first == last else f"{first} to {last}"
    shapes = list(dict.fromkeys(words.shape(block.output_shape) for block in stage if block.output_shape))
    size = f", {' then '.join(shapes)}" if shapes and len(shapes) < 4 else ""
    counted = f"stage {stage[0].stage}: {words.count(len(stage), 'block')}"
    told = f"{counted}, {names}{size}"
    return told if len(told) <= most else f"{counted}{size}"


def _cell(block: BlockEntry, name: str, widths: Sequence[int]) -> str:
    channels = block.output_shape[0] if block.output_shape else None
    told = f"{block.name}: {block.skip} shortcut, {words.count(block.weight_layers, 'weight layer')}"
    if block.output_shape:
        told += f", {words.shape(block.input_shape)} to {words.shape(block.output_shape)}"
    drawing = picture(CELL, HEIGHT, told, _block(block, channels, widths), "block")
    return tag("li", drawing, tag("span", safe(name)), title=told)


def _block(block: BlockEntry, channels: int | None, widths: Sequence[int]) -> list[str]:
    """The trunk by the kind of the shortcut, the branch above it, and the sum."""
    height = _height(channels, widths)
    roof = TRUNK - 8 - height / 2
    shown = boxes(block)
    pitch = 30 / shown
    width = 22 if block.weight_layers > MOST else min(pitch - 3, 12)
    parts = [line(0, TRUNK, 5, TRUNK, "wire"), line(5, TRUNK, 45, TRUNK, f"wire skip-{block.skip}")]
    parts += [line(45, TRUNK, CELL, TRUNK, "wire"), tag("path", d=f"M5 {TRUNK}V{roof}H45V{TRUNK}", class_="wire")]
    for index in range(shown):
        parts.append(rect(10 + pitch * (index + 0.5) - width / 2, roof - height / 2, width, height, "box"))
    if block.weight_layers > MOST:
        parts.append(text(25, roof + 3.5, str(block.weight_layers), "t inbox", anchor="middle"))
    parts.append(tag("circle", cx=45, cy=TRUNK, r=3.4, class_="sum full" if block.transition else "sum"))
    return parts


def boxes(block: BlockEntry) -> int:
    """Boxes of a branch: one a weight layer, or one with the number in it where there are too many."""
    return max(1, block.weight_layers) if block.weight_layers <= MOST else 1


def _height(channels: int | None, widths: Sequence[int]) -> float:
    """The height of a block's boxes by the logarithm of its channels."""
    if channels is None or channels < 1:
        return 12.0
    low, high = math.log2(max(1, min(widths))), math.log2(max(1, *widths))
    return 8.0 + 14.0 * ((math.log2(channels) - low) / (high - low) if high > low else 0.3)


def _sample(kind: str) -> str:
    return picture(30, 10, kind, [line(0, 5, 30, 5, f"wire skip-{kind}")], "sample")
