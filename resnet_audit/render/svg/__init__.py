"""Charts as inline SVG that follows the theme of the page: `svg_of`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resnet_audit.render.charts import Bars, Course, Curves, Densities, Flow, Map, Marks

from .curves import course, curves
from .flow import flow
from .rows import bars, densities, depth_rows, marks

if TYPE_CHECKING:
    from resnet_audit.render.charts import Chart

__all__ = ["svg_of"]


def svg_of(chart: Chart) -> str:
    """The markup of one chart, every text in it escaped."""
    match chart:
        case Flow():
            return flow(chart)
        case Densities():
            return densities(chart)
        case Marks():
            return marks(chart)
        case Bars():
            return bars(chart)
        case Curves():
            return curves(chart)
        case Course():
            return course(chart)
        case Map():
            return depth_rows(chart)
