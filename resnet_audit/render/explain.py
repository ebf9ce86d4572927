"""Explanations on a terminal: the list of metrics, and the text of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from . import words

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rich.console import Console

    from resnet_audit.explain import Chapter, Explanation, Found

WIDEST = 100
"""Columns past which lines of prose become hard to read."""
LABEL = 10
"""Columns of a label with its gap."""
INDENT = "  "


def render_list(chapters: Iterable[Chapter], console: Console) -> None:
    """Print every metric with its meaning, by analysis and by place."""
    for index, chapter in enumerate(chapters):
        if index:
            _print(Text(""), console)
        _chapter(chapter, chapter.entries, console)
    _print(Text(""), console)
    for line in words.wrap("`resnet-audit explain PATH` tells all of one, such as bound.tail", _width(console)):
        _print(Text(line), console)


def render_found(found: Found, console: Console) -> None:
    """Print what a path leads to: an analysis with its metrics, or the text of one metric and what lies below it."""
    if found.entry is None:
        _chapter(found.chapter, found.below, console)
        return
    _print(Text(found.path, style="bold").append(f"  {found.entry.status}", "not bold"), console)
    for line in words.wrap(found.entry.meaning, _width(console)):
        _print(Text(line), console)
    _print(Text(""), console)
    for label, lines in _fields(found, _width(console) - LABEL):
        for index, line in enumerate(lines):
            _print(Text((label if index == 0 else "").ljust(LABEL), style="bold").append(line, "not bold"), console)
    _rows(found.chapter, found.below, console)


def _fields(found: Found, width: int) -> Iterator[tuple[str, list[str]]]:
    """Labels with their lines, the empty ones left out."""
    entry = found.entry
    if entry is None:
        return
    yield "here", [line for path, what in found.differs for line in words.wrap(f"{path}: {what}", width)]
    yield "formula", [part for line in entry.formula.splitlines() for part in _formula(line, width)]
    yield "symbols", list(_symbols(entry.symbols, width))
    yield "unit", words.wrap(entry.unit, width)
    yield "status", words.wrap(STATUS[entry.status], width)
    yield "source", words.wrap(entry.source, width)
    yield "read", words.wrap(entry.read, width)
    yield "limits", words.wrap(entry.null, width) if entry.null else []
    yield "in JSON", list(_places(found, (entry.path, *entry.also), width))
    yield "command", words.wrap(entry.command, width)


STATUS = {
    "certified": "certified: a proved bound, under the conditions that are named here",
    "exact": "exact: what the formula says, up to rounding",
    "estimate": "estimate: near the truth, with an error that is not bounded",
    "prediction": "prediction: what a theory expects of such a network",
    "assumed": "assumed: taken as given, by you, by a default or by the family",
}


def _places(found: Found, paths: Sequence[str], width: int) -> Iterator[str]:
    """Where the metric stands in the JSON, and what names in capitals stand for; nothing if the title says it."""
    if list(paths) == [found.path]:
        return
    for path in paths:
        yield from words.wrap(path, width)
    for members in _members(found.chapter, paths):
        yield from words.wrap(members, width)


def _members(chapter: Chapter, paths: Iterable[str]) -> Iterator[str]:
    """What the names in capitals of some paths stand for."""
    parts = {part for path in paths for part in path.split(".")}
    yield from (f"{name}: {', '.join(members)}" for name, members in chapter.sets if name in parts)


def _formula(line: str, width: int) -> list[str]:
    """A line of a formula as it is written, if it fits."""
    return [line] if len(line) <= width else words.wrap(line, width, 2)


def _symbols(symbols: Sequence[tuple[str, str]], width: int) -> Iterator[str]:
    """Symbols in a column of their own, their meanings beside it."""
    column = max((len(symbol) for symbol, _ in symbols), default=0) + 2
    for symbol, what in symbols:
        lines = words.wrap(what, width - column)
        yield from (f"{(symbol if index == 0 else '').ljust(column)}{line}" for index, line in enumerate(lines))


def _chapter(chapter: Chapter, entries: Iterable[Explanation], console: Console) -> None:
    """An analysis: its name and meaning, then its metrics."""
    _titled(f"{chapter.name}: {chapter.meaning}", chapter.name, console)
    _rows(chapter, entries, console)


def _rows(chapter: Chapter, entries: Iterable[Explanation], console: Console) -> None:
    """Metrics with their meanings, under the place that they lie in."""
    places: dict[str, list[Explanation]] = {}
    for entry in entries:
        places.setdefault(entry.path.rpartition(".")[0], []).append(entry)
    for place, group in places.items():
        if "." in place:
            _print(Text(""), console)
            title = " ".join([place, *(f"({members})" for members in _members(chapter, [place]))])
            _titled(title, place, console)
        column = max(len(_leaf(entry)) for entry in group) + 2
        for entry in group:
            lines = words.wrap(entry.meaning, _width(console) - column - len(INDENT))
            for index, line in enumerate(lines):
                name = _leaf(entry) if index == 0 else ""
                _print(Text(f"{INDENT}{name.ljust(column)}{line}"), console)


def _titled(text: str, title: str, console: Console) -> None:
    """A line that begins with a title; later lines are indented past it."""
    for index, line in enumerate(words.wrap(text, _width(console), len(title) + 2)):
        head = len(title) if index == 0 else 0
        _print(Text(line[:head], style="bold").append(line[head:], "not bold"), console)


def _leaf(entry: Explanation) -> str:
    return entry.path.rpartition(".")[2]


def _width(console: Console) -> int:
    return min(WIDEST, console.width)


def _print(text: Text, console: Console) -> None:
    """One line as it is: Rich neither wraps, crops nor ends it in an ellipsis."""
    console.print(text, no_wrap=True, overflow="ignore", crop=False)
