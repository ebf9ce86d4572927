"""A document as it is read: for every checkpoint its sections of parts, then its notes; all pages are made from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from resnet_audit.errors import Unavailable
from resnet_audit.results import Result

from . import words
from .analyses import parts_of
from .analyses.check import check_parts
from .analyses.comparison import comparison_parts
from .parts import Line, Look, Part

if TYPE_CHECKING:
    from resnet_audit.results import CheckpointEntry, Document, GraphResult, Note

ANALYSES = ("graph", "bound", "spectrum", "gradient", "ensemble", "shortcut", "scaling", "procrustes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One analysis of one checkpoint. result: None where it has no answer; then the one part says why."""

    name: str
    result: Result | None
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chapter:
    """One checkpoint. facts: what the file holds, in words; notes: those that no section has taken."""

    entry: CheckpointEntry
    facts: str
    sections: tuple[Section, ...]
    notes: tuple[Note, ...]


def beside(document: Document, look: Look) -> tuple[Line, list[Part]] | None:
    """The title and the parts of a verdict or of a comparison, which stand in place of the checkpoints; else None."""
    if (summary := document.get("summary")) is not None:
        return check_parts(document.get("findings", []), summary)
    if (comparison := document.get("comparison")) is not None:
        return comparison_parts(comparison, document["checkpoints"], look)
    return None


def chapter_of(entry: CheckpointEntry, command: str, look: Look) -> Chapter:
    """What there is to say of a checkpoint; one that could not be read has sections only for what was found before."""
    asked = (command,) if command in ANALYSES else tuple(name for name in ANALYSES if name in entry)
    if entry["error"] is not None and not any(result_of(entry, name) for name in asked):
        asked = ()
    told: list[Note] = []
    sections = []
    for name in asked:
        result = result_of(entry, name)
        if result is not None:
            sections.append(Section(name=name, result=result, parts=tuple(parts_of(result, look))))
            continue
        reasons = _reasons(name, entry["notes"])
        told += reasons
        text = "; ".join(note.message for note in reasons) or "no reason is on record"
        sections.append(Section(name=name, result=None, parts=(Line(f"{name} is not available: {text}", "warning"),)))
    return Chapter(
        entry=entry,
        facts=_facts(entry, filtered=bool(look.blocks)),
        sections=tuple(sections),
        notes=tuple(note for note in entry["notes"] if note not in told),
    )


def note_line(note: Note) -> Line:
    """A note of a checkpoint with its place."""
    where = f"{note.where}: " if note.where else ""
    return Line(f"note: {where}{note.message}", hang=6)


def result_of(entry: CheckpointEntry, name: str) -> Result | None:
    """The result of an analysis; None if it has no answer, was not asked for or is of a kind unknown here."""
    result = entry.get(name)
    return result if isinstance(result, get_args(Result)) else None


def _reasons(name: str, notes: tuple[Note, ...]) -> list[Note]:
    """The notes that say why an analysis has no answer: those about it, else those of a refusal of any."""
    about = [note for note in notes if note.where == name]
    codes = {Unavailable.code, *(kind.code for kind in Unavailable.__subclasses__())}
    return about or [note for note in notes if note.code in codes and note.where not in ANALYSES]


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
