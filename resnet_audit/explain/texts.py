"""The explanations as they are written: one TOML file for each analysis.

A table of such a file is one `Explanation`; its name is the metric's path below the analysis. A name in capitals in a
path stands for any of its `sets`, and one text serves them all.
"""

from __future__ import annotations

import itertools
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ANALYSES = ("graph", "bound", "spectrum", "gradient", "ensemble", "shortcut", "scaling", "procrustes")
CHAPTERS = (*ANALYSES, "comparison", "findings", "summary")
HEADER = ("meaning", "command", "sets")

Status = Literal["certified", "exact", "estimate", "prediction", "assumed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What one metric means.

    path: the JSON path, the analysis first. meaning: one line. symbols: (symbol, what it is).
    null: when there is no value, or one that says nothing. also: further paths of which all this is true.
    """

    path: str
    meaning: str
    formula: str
    symbols: tuple[tuple[str, str], ...]
    unit: str
    status: Status
    source: str
    read: str
    null: str
    command: str
    also: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chapter:
    """The metrics of one analysis, in the order of the file. sets: what a name in capitals stands for."""

    name: str
    meaning: str
    sets: tuple[tuple[str, tuple[str, ...]], ...]
    entries: tuple[Explanation, ...]

    def concrete(self, path: str) -> Iterator[str]:
        """Every JSON path that `path` stands for."""
        sets = dict(self.sets)
        for parts in itertools.product(*(sets.get(part, (part,)) for part in path.split("."))):
            yield ".".join(parts)


@cache
def chapters() -> tuple[Chapter, ...]:
    """All explanations, an analysis each, and what stands beside the checkpoints."""
    return tuple(_chapter(name) for name in CHAPTERS)


def _chapter(name: str) -> Chapter:
    content = tomllib.loads(files("resnet_audit.explain").joinpath(f"{name}.toml").read_text(encoding="utf-8"))
    header = {key: content.pop(key) for key in HEADER if key in content}
    return Chapter(
        name=name,
        meaning=_line(header["meaning"]),
        sets=tuple((capitals, tuple(members)) for capitals, members in header.get("sets", {}).items()),
        entries=tuple(_explanation(name, path, {"command": header["command"]} | t) for path, t in content.items()),
    )


def _explanation(analysis: str, path: str, table: Mapping[str, Any]) -> Explanation:
    """One table as a value. Raises TypeError for a key that is missing or unknown, ValueError for a status of none."""
    given = dict(table)
    formula, symbols, also = given.pop("formula", ""), given.pop("symbols", {}), given.pop("also", [])
    lines = {key: _line(text) for key, text in ({"null": ""} | given).items()}
    if lines.get("status") not in get_args(Status):
        raise ValueError(f"{analysis}.{path}: {lines.get('status')} is no status")
    return Explanation(
        path=f"{analysis}.{path}",
        formula="\n".join(line.rstrip() for line in formula.strip().splitlines()),
        symbols=tuple((symbol, _line(what)) for symbol, what in symbols.items()),
        also=tuple(f"{analysis}.{other}" for other in also),
        **lines,  # type: ignore[arg-type]  # the status was checked, every other field is text
    )


def _line(text: str) -> str:
    """`text` without the line ends of its file."""
    return " ".join(text.split())
