"""A document as one page of HTML that needs nothing else: no network, no font, no script but its own few lines.

Whatever a checkpoint says is text here: the template escapes it, and a policy in the page forbids every style and
script but the two whose digests it names.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from resnet_audit.explain import chapters

from . import words
from .charts import Flow, charts_of, courses, depth_map
from .explain import STATUS
from .fit import Column, fit
from .headlines import Headline, headlines
from .outline import Chapter, chapter_of, note_line
from .page import UNLIMITED, beside_of, is_drawing, title_of
from .parts import Line, Look, Part, Table
from .svg import svg_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from resnet_audit.results import CheckpointEntry, Document

    from .charts import Chart


LONG = 24
"""Letters of a name from which it is broken into lines on a narrow page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One chart in its frame."""

    title: str
    note: str
    svg: Markup
    wide: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """One column of a table: its header and how its cells are set."""

    header: str
    kind: Literal["num", "text", "text long", "bar"]
    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A part on the page: a paragraph, or a table with its captions."""

    text: str = ""
    level: str = ""
    columns: tuple[Cells, ...] = ()
    captions: tuple[str, ...] = ()

    @property
    def rows(self) -> list[tuple[tuple[str, str], ...]]:
        """(kind, cell) by row."""
        kinds = [column.kind for column in self.columns]
        return [tuple(zip(kinds, row, strict=True)) for row in zip(*(c.cells for c in self.columns), strict=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One analysis on the page."""

    name: str
    meaning: str
    pictures: tuple[Picture, ...]
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One checkpoint on the page."""

    entry: CheckpointEntry
    facts: str
    headlines: tuple[Headline, ...]
    sections: tuple[Section, ...]
    notes: tuple[str, ...]


def to_html(document: Document) -> str:
    """The whole page as text; the same bytes for the same document."""
    look = Look(ascii_only=False, blocks=tuple(document["settings"]["blocks"]))
    whole = _beside(document, look)
    told = [] if whole else [chapter_of(entry, document["command"], look) for entry in document["checkpoints"]]
    style, script = _asset("page.css"), _asset("page.js")
    text = (
        _environment()
        .get_template("page.html")
        .render(
            title=title_of(document["command"]),
            document=document,
            pages=[_page(chapter) for chapter in told],
            beside=whole,
            statuses=STATUS,
            style=Markup(style),  # noqa: S704 - our own file
            script=Markup(script),  # noqa: S704 - our own file
            policy=_policy(style, script),
        )
    )
    return text.rstrip("\n") + "\n"


def _beside(document: Document, look: Look) -> tuple[Section, ...]:
    """What a document says beside its checkpoints."""
    found = beside_of(document, look)
    if found is None:
        return ()
    title, parts = found
    drawn: tuple[Chart, ...] = ()
    if (comparison := document.get("comparison")) is not None and comparison.rows:
        there = depth_map(comparison, document["checkpoints"])
        drawn = (*courses(comparison), *([there] if there else []))
    return (Section(name="beside", meaning=title.text, pictures=_pictures(drawn), blocks=_blocks(parts)),)


def _page(chapter: Chapter) -> Page:
    meanings = {text.name: text.meaning for text in chapters()}
    return Page(
        entry=chapter.entry,
        facts=chapter.facts,
        headlines=headlines(chapter.sections),
        sections=tuple(
            Section(
                name=section.name,
                meaning=meanings.get(section.name, ""),
                pictures=_pictures(charts_of(section.result) if section.result is not None else ()),
                blocks=_blocks(section.parts),
            )
            for section in chapter.sections
        ),
        notes=tuple(note_line(note).text.removeprefix("note: ") for note in chapter.notes),
    )


def _pictures(charts: Iterable[Chart]) -> tuple[Picture, ...]:
    return tuple(
        Picture(
            title=chart.title,
            note=chart.note,
            svg=Markup(svg_of(chart)),  # noqa: S704 - every text in it is escaped where it is drawn
            wide=isinstance(chart, Flow),
        )
        for chart in charts
    )


def _blocks(parts: Sequence[Part]) -> tuple[Block, ...]:
    return tuple(_table(part) if isinstance(part, Table) else _line(part) for part in parts)


def _line(line: Line) -> Block:
    item = line.text.startswith("  - ")
    return Block(text=line.text.removeprefix("  - "), level=f"{line.level} item" if item else line.level)


def _table(table: Table) -> Block:
    """All columns that hold a value."""
    fitted = fit(table.columns, UNLIMITED)
    captions = [table.caption] if table.caption else []
    if fitted.empty:
        captions.append(f"no value here: {', '.join(fitted.empty)}")
    return Block(columns=tuple(_cells(column) for column in fitted.columns), captions=tuple(captions))


def _cells(column: Column) -> Cells:
    kind: Literal["num", "text", "text long", "bar"] = "num" if column.align == "right" else "text"
    if is_drawing(column):
        kind = "bar"
    elif kind == "text" and max((len(str(cell)) for cell in column.cells), default=0) > LONG:
        kind = "text long"
    return Cells(header=column.header, kind=kind, cells=tuple(map(str, column.cells)))


def _environment() -> Environment:
    """Templates that escape every text, after what would move or turn its neighbours has been made visible."""
    return Environment(
        loader=PackageLoader("resnet_audit.render", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )


def _visible(value: object) -> object:
    return value if isinstance(value, Markup) else words.clean(str(value), "utf-8")


@cache
def _asset(name: str) -> str:
    return files("resnet_audit.render").joinpath("templates", name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """A content security policy that allows these two texts and nothing else."""
    return "; ".join(
        [
            "default-src 'none'",
            f"style-src '{_digest(style)}'",
            f"script-src '{_digest(script)}'",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
