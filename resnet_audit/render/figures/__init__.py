"""Charts drawn with matplotlib, one file a kind of drawing; only these files and `figure.py` know matplotlib."""

from .comparison import comparison_figure
from .sheet import sheet_figures

__all__ = ["comparison_figure", "sheet_figures"]
