"""Documents as text: tables for a terminal, JSON for programs."""

from .console import ascii_only, console
from .json import plain, to_json
from .tables import render

__all__ = ["ascii_only", "console", "plain", "render", "to_json"]
