"""What is drawn, as data: a few kinds of charts. The page draws them as SVG, `--figure` with matplotlib."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from resnet_audit.results import BlockEntry, Histogram

Maybe = float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """The residual blocks in the order of the data. stages: those of one stage together."""

    title: str
    note: str
    stages: tuple[tuple[BlockEntry, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Densities:
    """A density a row over log10 sigma, each to its own peak; None where a row has none."""

    title: str
    note: str
    names: tuple[str, ...]
    rows: tuple[Histogram | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """A point a row on a log axis around 1, with the interval low to high where there is one.

    hollow: rows that are not compared with the others. also: a second point a row, as (what it is, values).
    """

    title: str
    note: str
    names: tuple[str, ...]
    values: tuple[Maybe, ...]
    low: tuple[Maybe, ...] = ()
    high: tuple[Maybe, ...] = ()
    hollow: tuple[bool, ...] = ()
    what: str = ""
    also: tuple[str, tuple[Maybe, ...]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars:
    """Bars from 0, a row a name; the second series stands below the first. unit: how values are written."""

    title: str
    note: str
    names: tuple[str, ...]
    series: tuple[tuple[str, tuple[Maybe, ...]], ...]
    unit: Literal["share", "number"] = "number"


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Values at whole numbers from `start`. look: `bars` is the subject, a `line` beside it, `dashed` a prediction."""

    label: str
    values: tuple[Maybe, ...]
    look: Literal["bars", "line", "dashed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """Shares over depths from `start`."""

    title: str
    note: str
    x: str
    start: int
    curves: tuple[Curve, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """One metric, or some of one kind, along x: a small panel. ordered: whether x rises from row to row."""

    title: str
    x: str
    xs: tuple[float, ...]
    series: tuple[tuple[str, tuple[Maybe, ...]], ...]
    ordered: bool
    note: str = field(default="", init=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Map:
    """Shares by depth (upwards), a column a checkpoint, and the mean depth of each. depths: the rows shown."""

    title: str
    note: str
    paths: tuple[str, ...]
    columns: tuple[tuple[float, ...], ...]
    means: tuple[Maybe, ...]
    depths: range


Chart = Flow | Densities | Marks | Bars | Curves | Course | Map
