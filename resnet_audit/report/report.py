"""Auditing: checkpoints in, one document of plain results out. The only place that decides what counts as a failure."""

from __future__ import annotations

import importlib
import traceback
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, cast

from resnet_audit.errors import AuditError, NonFinite, Unavailable
from resnet_audit.report.registry import analysis
from resnet_audit.report.rows import chosen_blocks, only
from resnet_audit.results import SCHEMA_VERSION, CheckpointEntry, Document, Note, SettingsUsed, Tool
from resnet_audit.settings import no_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from resnet_audit.checkpoint import Checkpoint
    from resnet_audit.measure import Subject
    from resnet_audit.results import GraphResult, Result
    from resnet_audit.settings import Progress, Settings

    Analyse = Callable[[str, Subject, Checkpoint], Result]
    """What an analysis by that name makes of a checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A document and, for stderr, one line for everything that could not be done (none: exit 0).

    tracebacks: one for every file that failed, for whoever looks for a defect.
    """

    document: Document
    failures: tuple[str, ...]
    tracebacks: tuple[str, ...]


def audit(
    paths: Sequence[str],
    command: str,
    analyses: Sequence[str],
    settings: Settings,
    *,
    progress: Progress = no_progress,
    analyse: Analyse | None = None,
) -> Outcome:
    """The document of `command` over all `paths`. A file that fails never takes the others with it.

    With one analysis its absence is a failure; with several, only the absence of all. `analyse` stands in for the
    registry.
    """
    torch = importlib.import_module("torch")
    torch.set_num_threads(settings.thread_count)
    entries: list[CheckpointEntry] = []
    failures: list[str] = []
    tracebacks: list[str] = []
    for path in paths:
        entry = _blank(path)
        try:
            _fill(entry, analyses, settings, progress, failures, analyse or registered)
        except Exception as error:  # noqa: BLE001 - any failure of one file is its own
            tracebacks.append("".join(traceback.format_exception(error)))
            line = _one_line(path, error)
            entry["error"] = line
            failures.append(line)
        entries.append(entry)
    document = Document(
        schema_version=SCHEMA_VERSION,
        tool=_tool(settings),
        command=command,
        settings=_settings_used(settings),
        checkpoints=entries,
    )
    return Outcome(document=document, failures=tuple(failures), tracebacks=tuple(tracebacks))


def empty(command: str, settings: Settings) -> Document:
    """The document of an audit that could not even start."""
    return Document(
        schema_version=SCHEMA_VERSION,
        tool=_tool(settings),
        command=command,
        settings=_settings_used(settings),
        checkpoints=[],
    )


def registered(name: str, subject: Subject, checkpoint: Checkpoint) -> Result:
    """The result of an analysis of the registry, which knows the graph alone."""
    del checkpoint
    return analysis(name)(subject)


def _fill(
    entry: CheckpointEntry,
    analyses: Sequence[str],
    settings: Settings,
    progress: Progress,
    failures: list[str],
    analyse: Analyse,
) -> None:
    """Audit one file into its entry. Raises whatever keeps the whole file from being audited."""
    subject, checkpoint, graph, notes = _open(entry, settings, progress)
    entry["graph"] = graph
    kept = chosen_blocks(graph, settings.blocks)
    refusals: list[str] = []
    for name in analyses:
        try:
            result = _hoisted(analyse(name, subject, checkpoint), notes)
            entry[name] = only(result, graph, kept)  # type: ignore[literal-required]  # the registry's names are keys
        except Unavailable as reason:
            entry[name] = None  # type: ignore[literal-required]  # as above
            notes.append(Note(code=reason.code, message=str(reason), where=name))
            if not isinstance(reason, NonFinite):
                refusals.append(f"{entry['path']}: {reason}")
    entry["graph"] = cast("GraphResult", only(graph, graph, kept))
    entry["notes"] = tuple(notes)
    if refusals and len(refusals) == len(analyses):
        failures.append(refusals[0])


def _open(
    entry: CheckpointEntry, settings: Settings, progress: Progress
) -> tuple[Subject, Checkpoint, GraphResult, list[Note]]:
    """Load the file and find its graph; what is known of it goes into the entry at once."""
    checkpoint = importlib.import_module("resnet_audit.checkpoint").load(entry["path"], settings.key)
    entry["sha256"], entry["format"] = checkpoint.sha256, checkpoint.format
    entry["parameters"] = checkpoint.parameters
    entry["notes"] = checkpoint.notes
    if settings.data is not None and settings.input_size is None:
        size = importlib.import_module("resnet_audit.measure.inputs").data_size(settings.data)
        settings = replace(settings, input_size=size)
    graph = importlib.import_module("resnet_audit.graph").discover(checkpoint, settings)
    notes = list(checkpoint.notes)
    described = _hoisted(importlib.import_module("resnet_audit.graph.describe").describe(checkpoint, graph), notes)
    subject = importlib.import_module("resnet_audit.measure").Subject(graph, settings, progress)
    return subject, checkpoint, cast("GraphResult", described), notes


def _hoisted(result: Result, notes: list[Note]) -> Result:
    """The result without its notes, which join those of the checkpoint."""
    notes += [note for note in result.notes if note not in notes]
    return replace(result, notes=())


def _one_line(path: str, error: Exception) -> str:
    """`PATH: what; why; what to do`, for errors of ours and of anybody else's."""
    if not isinstance(error, AuditError):
        what = " ".join(str(error).split())[:200] or "no message"
        return f"{path}: internal error ({type(error).__name__}: {what}); this is a defect; --debug shows where"
    text = str(error)
    return text if text.startswith(f"{path}: ") else f"{path}: {text}"


def _blank(path: str) -> CheckpointEntry:
    return CheckpointEntry(path=path, sha256=None, format=None, parameters=None, error=None, notes=())


def _tool(settings: Settings) -> Tool:
    versions = {name: version(name) for name in ("resnet-audit", "torch")}
    return Tool(
        name="resnet-audit",
        version=versions["resnet-audit"],
        torch=versions["torch"],
        threads=settings.thread_count,
    )


def _settings_used(settings: Settings) -> SettingsUsed:
    return SettingsUsed(
        seed=settings.seed,
        samples=settings.samples,
        input_size=settings.input_size,
        inputs=settings.inputs,
        dtype=settings.dtype,
        device=settings.device,
        blocks=settings.blocks,
    )
