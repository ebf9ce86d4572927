"""A document on a terminal: for every checkpoint a header, the parts of its analyses, and its notes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, get_args

from rich.cells import cell_len
from rich.text import Text

from resnet_audit.errors import Unavailable
from resnet_audit.results import Result

from . import words
from .analyses import parts_of
from .analyses.comparison import comparison_parts
from .console import ascii_only, encoding
from .fit import Column, fit, lay_out
from .parts import Line, Look, Part, Table

if TYPE_CHECKING:
    from rich.console import Console

    from resnet_audit.results import CheckpointEntry, Document, GraphResult, Note

ANALYSES = ("graph", "bound", "spectrum", "gradient", "ensemble", "shortcut", "scaling", "procrustes")
CAPTION = 76
STYLES = {"plain": "", "strong": "bold", "dim": "dim", "warning": "yellow"}


def render(document: Document, console: Console) -> None:
    """Print every checkpoint that has anything to show; errors are the command line's to report."""
    look = Look(ascii_only=ascii_only(console), blocks=tuple(document["settings"]["blocks"]))
    command = document["command"]
    if (comparison := document.get("comparison")) is not None:
        title, parts = comparison_parts(comparison, document["checkpoints"], look)
        _line(title, console)
        _parts(parts, console)
        return
    first = True
    for entry in document["checkpoints"]:
        asked = (command,) if command in ANALYSES else tuple(name for name in ANALYSES if name in entry)
        if entry["error"] is not None and not any(_result(entry, name) for name in asked):
            continue
        if not first:
            _blank(console)
        first = False
        _entry(entry, asked, console, look)


def _entry(entry: CheckpointEntry, asked: tuple[str, ...], console: Console, look: Look) -> None:
    """One checkpoint: header, sections, and the notes that no section has taken."""
    _header(entry, console, look)
    told: list[Note] = []
    for name in asked:
        result = _result(entry, name)
        if len(asked) > 1:
            _blank(console)
            _line(Line(name, "strong"), console)
        if result is not None:
            _parts(parts_of(result, look), console)
            continue
        reasons = _reasons(name, entry["notes"])
        told += reasons
        text = "; ".join(note.message for note in reasons) or "no reason is on record"
        _blank(console)
        _line(Line(f"{name} is not available: {text}", "warning"), console)
    _notes([note for note in entry["notes"] if note not in told], console)


def _result(entry: CheckpointEntry, name: str) -> Result | None:
    """The result of an analysis; None if it has no answer, was not asked for or is of a kind unknown here."""
    result = entry.get(name)
    return result if isinstance(result, get_args(Result)) else None


def _reasons(name: str, notes: tuple[Note, ...]) -> list[Note]:
    """The notes that say why an analysis has no answer: those about it, else those of a refusal of any."""
    about = [note for note in notes if note.where == name]
    codes = {Unavailable.code, *(kind.code for kind in Unavailable.__subclasses__())}
    return about or [note for note in notes if note.code in codes and note.where not in ANALYSES]


def _header(entry: CheckpointEntry, console: Console, look: Look) -> None:
    """The path as given and what the file holds, on one line if both fit."""
    facts = _facts(entry, filtered=bool(look.blocks))
    path = words.clean(entry["path"], encoding(console))
    apart = cell_len(path) + 2 + cell_len(facts) > console.width
    line = Text(path, style="bold")
    if facts and not apart:
        line.append(f"  {facts}", style="not bold")
    _print(line, console)
    if facts and apart:
        _line(Line(f"  {facts}"), console)


def _facts(entry: CheckpointEntry, *, filtered: bool) -> str:
    """Blocks, layers and parameters, as far as they are known; rows that were `filtered` count nothing."""
    facts = []
    graph = entry.get("graph")
    spectrum = entry.get("spectrum")
    if graph is not None:
        facts.append(words.count(graph.block_count, "block"))
    kinds = [layer.kind for layer in spectrum.layers] if spectrum is not None else []
    if "conv" in kinds and not filtered:
        facts.append(words.count(kinds.count("conv"), "convolution"))
    elif graph is not None and graph.runnable and not filtered:
        facts.append(words.count(_weight_layers(graph), "weight layer"))
    if entry["parameters"] is not None:
        facts.append(words.count(entry["parameters"], "parameter"))
    return ", ".join(facts)


def _weight_layers(graph: GraphResult) -> int:
    """How many weight layers have a place."""
    inside = [name for block in graph.blocks for name in (*block.layers, *block.skip_layers)]
    return len({*graph.stem, *graph.between, *graph.head, *inside})


def _parts(parts: list[Part], console: Console) -> None:
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


def _notes(notes: list[Note], console: Console) -> None:
    if notes:
        _blank(console)
    for note in notes:
        where = f"{note.where}: " if note.where else ""
        _line(Line(f"note: {where}{note.message}", hang=6), console)


def _line(line: Line, console: Console) -> None:
    text = words.clean(line.text, encoding(console))
    for wrapped in words.wrap(text, min(CAPTION, console.width), line.hang):
        _print(Text(wrapped, style=STYLES[line.level]), console)


def _blank(console: Console) -> None:
    _print(Text(""), console)


def _print(text: Text, console: Console) -> None:
    """One line as it is: Rich neither wraps, crops nor ends it in an ellipsis."""
    console.print(text, no_wrap=True, overflow="ignore", crop=False)
