"""A document on a terminal: for every checkpoint a header, the parts of its analyses, and its notes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.text import Text

from . import words
from .console import ascii_only, encoding
from .fit import Column, fit, lay_out
from .outline import Chapter, beside, chapter_of, note_line
from .parts import Line, Look, Part, Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from resnet_audit.results import Document

CAPTION = 76
STYLES = {"plain": "", "strong": "bold", "dim": "dim", "warning": "yellow"}


def render(document: Document, console: Console) -> None:
    """Print every checkpoint that has anything to show; errors are the command line's to report."""
    look = Look(ascii_only=ascii_only(console), blocks=tuple(document["settings"]["blocks"]))
    if (found := beside(document, look)) is not None:
        title, parts = found
        _line(title, console)
        _parts(parts, console)
        return
    chapters = [chapter_of(entry, document["command"], look) for entry in document["checkpoints"]]
    for index, chapter in enumerate(chapter for chapter in chapters if chapter.sections):
        if index:
            _blank(console)
        _chapter(chapter, console)


def _chapter(chapter: Chapter, console: Console) -> None:
    """One checkpoint: header, sections, and the notes that no section has taken."""
    _header(chapter, console)
    for section in chapter.sections:
        if len(chapter.sections) > 1:
            _blank(console)
            _line(Line(section.name, "strong"), console)
        _parts(section.parts, console)
    if chapter.notes:
        _blank(console)
    for note in chapter.notes:
        _line(note_line(note), console)


def _header(chapter: Chapter, console: Console) -> None:
    """The path as given and what the file holds, on one line if both fit."""
    path = words.clean(chapter.entry["path"], encoding(console))
    facts = chapter.facts
    apart = cell_len(path) + 2 + cell_len(facts) > console.width
    line = Text(path, style="bold")
    if facts and not apart:
        line.append(f"  {facts}", style="not bold")
    _print(line, console)
    if facts and apart:
        _line(Line(f"  {facts}"), console)


def _parts(parts: Sequence[Part], console: Console) -> None:
    """Parts in order, a blank line between a table and what is around it."""
    previous: Part | None = None
    for part in parts:
        if isinstance(part, Table) or isinstance(previous, Table) or previous is None:
            _blank(console)
        if isinstance(part, Table):
            _table(part, console)
        else:
            _line(part, console)
        previous = part


def _table(table: Table, console: Console) -> None:
    """A table at the width of the console, its caption, and which columns are not shown."""
    fitted = fit([_cleaned(column, console) for column in table.columns], console.width)
    for line in lay_out(fitted.columns, "-" if ascii_only(console) else "─"):
        _print(line, console)
    captions = [table.caption] if table.caption else []
    if fitted.hidden:
        captions.append(f"hidden at {console.width} columns: {', '.join(fitted.hidden)} (use --wide or --format json)")
    if fitted.empty:
        captions.append(f"no value here: {', '.join(fitted.empty)}")
    for caption in captions:
        _line(Line(caption, "dim"), console)


def _cleaned(column: Column, console: Console) -> Column:
    name = encoding(console)
    cells = tuple(cell if isinstance(cell, Text) else words.clean(cell, name) for cell in column.cells)
    return replace(column, cells=cells)


def _line(line: Line, console: Console) -> None:
    text = words.clean(line.text, encoding(console))
    for wrapped in words.wrap(text, min(CAPTION, console.width), line.hang):
        _print(Text(wrapped, style=STYLES[line.level]), console)


def _blank(console: Console) -> None:
    _print(Text(""), console)


def _print(text: Text, console: Console) -> None:
    """One line as it is: Rich neither wraps, crops nor ends it in an ellipsis."""
    console.print(text, no_wrap=True, overflow="ignore", crop=False)
