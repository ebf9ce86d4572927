"""What the page and the Markdown share: titles, what stands in place of checkpoints, and which columns are drawings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import words
from .glyphs import EIGHTHS, LEVELS
from .outline import beside
from .parts import Line

if TYPE_CHECKING:
    from resnet_audit.results import Document

    from .fit import Column
    from .parts import Look, Part

UNLIMITED = 10**9
"""A width that any table fits."""

TITLES = {"report": "Audit of residual networks", "compare": "Comparison of checkpoints", "check": "Check"}

DRAWN = frozenset(LEVELS + EIGHTHS + "━╸╺│▸◂")
"""What bars and sparklines are made of."""


def title_of(command: str) -> str:
    """The title of a command's document."""
    return TITLES.get(command, f"Audit of residual networks: {command}")


def is_drawing(column: Column) -> bool:
    """Whether a column holds bars or sparklines: nothing in it can be read or sorted as text."""
    cells = [str(cell) for cell in column.cells]
    drawn = [cell for cell in cells if cell.strip() not in ("", words.UNDEFINED)]
    return bool(drawn) and all(set(cell) <= DRAWN for cell in drawn)


def beside_of(document: Document, look: Look) -> tuple[Line, list[Part]] | None:
    """The title and the parts of a verdict or of a comparison, with what the terminal says on stderr; else None."""
    found = beside(document, look)
    if found is None:
        return None
    title, parts = found
    problems = document["summary"].problems if "summary" in document else ()
    return title, [*parts, *(Line(f"not judged: {problem}", "warning") for problem in problems)]
