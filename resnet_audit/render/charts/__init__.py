"""What is drawn, as data: `charts_of` a result, `courses` and `depth_map` of a comparison."""

from .analyses import charts_of
from .comparison import courses, depth_map
from .kinds import Bars, Chart, Course, Curve, Curves, Densities, Flow, Map, Marks

__all__ = [
    "Bars",
    "Chart",
    "Course",
    "Curve",
    "Curves",
    "Densities",
    "Flow",
    "Map",
    "Marks",
    "charts_of",
    "courses",
    "depth_map",
]
