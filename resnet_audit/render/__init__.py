"""Documents as text: tables for a terminal, JSON for programs."""

from .console import ascii_only, console
from .files import write_whole
from .formats import text_of
from .json import plain, to_json
from .tables import render
from .words import clean

__all__ = ["ascii_only", "clean", "console", "plain", "render", "text_of", "to_json", "write_whole"]
