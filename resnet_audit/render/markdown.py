"""A document as GitHub-flavoured Markdown, for a step summary or a comment: the parts of the terminal as tables.

Names inside a checkpoint are text here too: what Markdown or HTML would read as more is written as an entity.
"""

from __future__ import annotations

import re
from html import escape
from typing import TYPE_CHECKING

from . import words
from .fit import Column, fit
from .headlines import headlines
from .outline import chapter_of, note_line
from .page import UNLIMITED, beside_of, is_drawing, title_of
from .parts import Line, Look, Part, Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from resnet_audit.results import Document

    from .headlines import Headline
    from .outline import Chapter

LONG = 12
"""Rows from which a table is folded away behind a line that says what it holds."""

SPECIAL = re.compile(r"[\\`*<>&|~$]|\[(?=\^)|\](?=[(\[:])|(?<!\w)_|_(?!\w)|(?<=www)\.|(?<=:)/")
"""What could begin something inside a line: emphasis, code, a link, a tag, an entity, a formula, a cell, an address."""

START = re.compile(r"^(?:[-+#=\[]|\d+[.)](?=\s|$))")
"""What could begin a block at the start of a line: a list, a heading, a rule."""


def to_markdown(document: Document) -> str:
    """The whole document as text; the same bytes for the same document."""
    look = Look(ascii_only=False, blocks=tuple(document["settings"]["blocks"]))
    paragraphs = [f"# {plain(title_of(document['command']))}", _settings(document)]
    found = beside_of(document, look)
    if found is not None:
        title, parts = found
        paragraphs += [f"## {plain(title.text)}", *_parts(parts)]
        errors = [entry["error"] for entry in document["checkpoints"] if entry["error"] is not None]
        paragraphs += [f"**error:** {plain(error)}" for error in errors]
    else:
        for entry in document["checkpoints"]:
            paragraphs += _chapter(chapter_of(entry, document["command"], look))
    paragraphs.append("`resnet-audit explain PATH` tells formula, unit and source of every metric.")
    return "\n\n".join(paragraphs) + "\n"


def plain(text: str) -> str:
    """Text that Markdown shows as it is inside a line; control characters and marks of direction are made visible."""
    shown = SPECIAL.sub(_entity, words.clean(text, "utf-8"))
    # GitHub looks for people and teams to call in the finished page; it leaves code alone.
    return shown.replace("@", "<code>@</code>")


def paragraph(text: str) -> str:
    """A whole line of text that Markdown shows as it is."""
    text = text.strip(" ")
    return _entity_of(text[0]) + plain(text[1:]) if START.match(text) else plain(text)


def _entity(found: re.Match[str]) -> str:
    return _entity_of(found[0])


def _entity_of(char: str) -> str:
    return f"&#{ord(char)};"


def _settings(document: Document) -> str:
    tool, used = document["tool"], document["settings"]
    facts = [f"{tool['name']} {document['command']}", f"version {tool['version']}", f"torch {tool['torch']}"]
    facts += [words.count(tool["threads"], "thread"), f"seed {used['seed']}", words.count(used["samples"], "sample")]
    facts += [f"input size {words.shape(used['input_size'])}"] if used["input_size"] else []
    facts += [f"inputs {used['inputs']}", used["dtype"], used["device"]]
    facts += [f"rows of blocks {' '.join(used['blocks'])}"] if used["blocks"] else []
    return plain(", ".join(facts))


def _chapter(chapter: Chapter) -> Iterator[str]:
    """One checkpoint: heading, what the file is, the headline numbers, the sections, the notes."""
    entry = chapter.entry
    yield f"## {plain(entry['path'])}"
    if chapter.facts:
        yield paragraph(chapter.facts)
    if entry["sha256"] is not None:
        yield f"{plain(entry['format'] or 'unknown format')}, sha256 `{entry['sha256']}`"
    if entry["error"] is not None:
        yield f"**error:** {plain(entry['error'])}"
    found = headlines(chapter.sections)
    if found:
        yield "\n".join(_headlines(found))
    for section in chapter.sections:
        yield f"### {section.name}"
        yield from _parts(section.parts)
    if chapter.notes:
        yield "### notes"
        yield "\n".join(f"- {paragraph(note_line(note).text.removeprefix('note: '))}" for note in chapter.notes)


def _headlines(found: Sequence[Headline]) -> Iterator[str]:
    yield _row(["metric", "value", "", "what it is"])
    yield "|:--|--:|:--|:--|"
    for one in found:
        meaning = f"{one.status}: {plain(one.meaning)}"
        yield _row([plain(one.path), f"**{plain(one.value)}**", plain(one.beside), meaning])


def _parts(parts: Iterable[Part]) -> Iterator[str]:
    """A paragraph a part; items in a row are one list."""
    items: list[str] = []
    for part in parts:
        item = isinstance(part, Line) and part.text.startswith("  - ")
        if items and not item:
            yield "\n".join(items)
            items = []
        if isinstance(part, Table):
            yield from _table(part)
        elif item:
            items.append(f"- {paragraph(part.text.removeprefix('  - '))}")
        else:
            yield _line(part)
    if items:
        yield "\n".join(items)


def _line(line: Line) -> str:
    text = paragraph(line.text)
    return f"**{text}**" if line.level in {"strong", "warning"} else text


def _table(table: Table) -> Iterator[str]:
    """All columns that hold a value, folded away if there are many rows, and the captions."""
    fitted = fit(table.columns, UNLIMITED)
    rows = len(fitted.columns[0].cells)
    lines = "\n".join(_lines(fitted.columns))
    if rows >= LONG:
        headers = [" ".join(column.header.split()) for column in fitted.columns if not is_drawing(column)]
        told = escape(words.clean(f"{words.count(rows, 'row')}: {', '.join(headers)}", "utf-8"))
        yield f"<details><summary>{told}</summary>\n\n{lines}\n\n</details>"
    else:
        yield lines
    if table.caption:
        yield paragraph(table.caption)
    if fitted.empty:
        yield plain(f"no value here: {', '.join(fitted.empty)}")


def _lines(columns: Sequence[Column]) -> Iterator[str]:
    drawn = [is_drawing(column) for column in columns]
    yield _row(_cell(column.header, code=bar) for column, bar in zip(columns, drawn, strict=True))
    yield "|" + "|".join("--:" if column.align == "right" else ":--" for column in columns) + "|"
    for row in zip(*(column.cells for column in columns), strict=True):
        yield _row(_cell(str(cell), code=bar) for cell, bar in zip(row, drawn, strict=True))


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(text: str, *, code: bool) -> str:
    """A drawing keeps its blanks, so that bars stand below their axis."""
    if not code:
        return plain(text)
    kept = text.rstrip().replace(" ", "\N{NO-BREAK SPACE}")
    return f"`{kept}`" if kept else ""
