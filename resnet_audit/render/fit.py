"""Columns that fit a width: the least important go, and nothing is ever cut.

A table that is squeezed shows names that nobody can look up. So cells keep their width, whole columns are left out, and
what was left out is named. If even the first column and the most important other one are too wide, so is the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rich.cells import cell_len
from rich.text import Text

from .words import UNDEFINED

if TYPE_CHECKING:
    from collections.abc import Sequence

GAP = 2

Cell = str | Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column with its cells. priority: 0 stays always, 1 is the most important; equal ones go together."""

    header: str
    cells: tuple[Cell, ...]
    priority: int
    align: Literal["left", "right"] = "right"

    @property
    def width(self) -> int:
        """Cells of the widest entry, header included."""
        return max(map(plain_width, (self.header, *self.cells)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """The columns to show, and the headers of those that did not fit or hold no value."""

    columns: tuple[Column, ...]
    hidden: tuple[str, ...]
    empty: tuple[str, ...]


def plain_width(cell: Cell) -> int:
    """Terminal cells that an entry takes."""
    return cell.cell_len if isinstance(cell, Text) else cell_len(cell)


def natural_width(columns: Sequence[Column]) -> int:
    """Terminal cells of a table with these columns."""
    return sum(column.width for column in columns) + GAP * (len(columns) - 1)


def fit(columns: Sequence[Column], width: int) -> Fitted:
    """The columns that fit `width` together, in their order; columns of one priority stay or go together.

    A column without any value says nothing and goes before all others. The column of priority 0 and the most important
    of the others stay whatever the width.
    """
    valued = [column for column in columns if column.priority == 0 or not is_empty(column)]
    levels = sorted({column.priority for column in valued})
    while len(levels) > 2 and natural_width([c for c in valued if c.priority in levels]) > width:
        levels.pop()
    return Fitted(
        columns=tuple(column for column in valued if column.priority in levels),
        hidden=tuple(column.header for column in valued if column.priority not in levels),
        empty=tuple(column.header for column in columns if column not in valued),
    )


def is_empty(column: Column) -> bool:
    """Whether no row has a value in this column."""
    return bool(column.cells) and all(str(cell).strip() in ("", UNDEFINED) for cell in column.cells)


def lay_out(columns: Sequence[Column], rule: str) -> list[Text]:
    """The lines of a table: header, one rule, rows. No line ends in blanks."""
    lines = [_line(columns, [Text(column.header, style="bold") for column in columns])]
    lines.append(Text(rule * natural_width(columns), style="dim"))
    rows = zip(*(column.cells for column in columns), strict=True)
    return lines + [_line(columns, [cell if isinstance(cell, Text) else Text(cell) for cell in row]) for row in rows]


def _line(columns: Sequence[Column], cells: Sequence[Text]) -> Text:
    line = Text()
    for index, (column, cell) in enumerate(zip(columns, cells, strict=True)):
        pad = " " * (column.width - cell.cell_len)
        gap = " " * GAP if index else ""
        line.append(gap + (pad if column.align == "right" else ""))
        line.append_text(cell)
        line.append(pad if column.align == "left" else "")
    line.rstrip()
    return line
