"""Auditing: checkpoints in, one document of plain results out. The only place that decides what counts as a failure."""

from __future__ import annotations

import hashlib
import importlib
import traceback
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, cast

from resnet_audit.checkpoint.digest import content_of
from resnet_audit.checkpoint.remote import spooled
from resnet_audit.errors import AuditError, NonFinite, Unavailable
from resnet_audit.garbage import importing_torch
from resnet_audit.report.registry import analysis
from resnet_audit.report.rows import chosen_blocks, only
from resnet_audit.results import SCHEMA_VERSION, CheckpointEntry, Document, Note, SettingsUsed, Tool
from resnet_audit.settings import no_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from resnet_audit.checkpoint import Checkpoint
    from resnet_audit.measure import Subject
    from resnet_audit.results import GraphResult, Result
    from resnet_audit.settings import Progress, Settings

    Analyse = Callable[[str, Subject, Checkpoint], Result]
    """What an analysis by that name makes of a checkpoint."""
    Beside = Callable[[Subject, Mapping[str, Result]], object]
    """Plain JSON data from a network and the results of the analyses, whose rows no filter has touched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is done to every file. Another process can do it if `analyse` and `beside` are functions of a module.

    beside: what the command wants of a network beside its entry, as plain JSON data. run: what else decides the result,
    as a digest; held: keys of results that need not be computed again. Without `run` nothing has a key.
    """

    analyses: tuple[str, ...]
    settings: Settings
    analyse: Analyse
    beside: Beside | None = None
    run: str | None = None
    held: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class One:
    """What became of one file. failure: the line for stderr, if it is one; key: of file and run together.

    held: nothing was computed, since the result under `key` is there already; `entry` is blank then.
    """

    entry: CheckpointEntry
    failure: str | None = None
    traceback: str | None = None
    beside: object = None
    key: str | None = None
    held: bool = False


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
    """The document of `command` over all `paths`, one after the other.

    With one analysis its absence is a failure; with several, only the absence of all. `analyse` stands in for the
    registry.
    """
    work = Work(analyses=tuple(analyses), settings=settings, analyse=analyse or registered)
    return outcome_of(command, settings, [audit_one(path, work, progress) for path in paths])


def audit_one(path: str, work: Work, progress: Progress = no_progress) -> One:
    """What `work` makes of one file. Raises interrupts only: a file that fails never takes the others with it."""
    entry, key = _blank(path), None
    try:
        with spooled(path) as file:
            if work.run is not None:
                key = hashlib.sha256(f"{work.run} {content_of(file)}".encode()).hexdigest()
                if key in work.held:
                    return One(entry=entry, key=key, held=True)
            failure, beside = _fill(entry, file, work, progress)
    except Exception as error:  # noqa: BLE001 - any failure of one file is its own
        line = entry["error"] = _one_line(path, error)
        return One(entry=entry, failure=line, traceback="".join(traceback.format_exception(error)), key=key)
    return One(entry=entry, failure=failure, beside=beside, key=key)


def not_audited(path: str, reason: str) -> One:
    """What becomes of a file that nobody could finish."""
    line = f"{path}: not audited; {reason}"
    return One(entry={**_blank(path), "error": line}, failure=line)


def outcome_of(command: str, settings: Settings, ones: Sequence[One]) -> Outcome:
    """The document of a command and all that failed, in the order of `ones`."""
    document = empty(command, settings)
    document["checkpoints"] = [one.entry for one in ones]
    return Outcome(
        document=document,
        failures=tuple(one.failure for one in ones if one.failure is not None),
        tracebacks=tuple(one.traceback for one in ones if one.traceback is not None),
    )


def empty(command: str, settings: Settings) -> Document:
    """The document of a command without a checkpoint, as of an audit that could not even start."""
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


def _fill(entry: CheckpointEntry, file: str, work: Work, progress: Progress) -> tuple[str | None, object]:
    """(failure, beside): audit one local file into its entry. Raises whatever keeps the whole file from an audit."""
    with importing_torch():
        importlib.import_module("torch").set_num_threads(work.settings.thread_count)
    subject, checkpoint, graph, notes = _open(entry, file, work.settings, progress)
    entry["graph"] = graph
    kept = chosen_blocks(graph, work.settings.blocks)
    refusals: list[str] = []
    results: dict[str, Result] = {}
    for name in work.analyses:
        try:
            result = results[name] = _hoisted(work.analyse(name, subject, checkpoint), notes)
            entry[name] = only(result, graph, kept)  # type: ignore[literal-required]  # the registry's names are keys
        except Unavailable as reason:
            entry[name] = None  # type: ignore[literal-required]  # as above
            notes.append(Note(code=reason.code, message=str(reason), where=name))
            if not isinstance(reason, NonFinite):
                refusals.append(f"{entry['path']}: {reason}")
    entry["graph"] = cast("GraphResult", only(graph, graph, kept))
    entry["notes"] = tuple(notes)
    failure = refusals[0] if refusals and len(refusals) == len(work.analyses) else None
    return failure, None if work.beside is None else work.beside(subject, results)


def _open(
    entry: CheckpointEntry, file: str, settings: Settings, progress: Progress
) -> tuple[Subject, Checkpoint, GraphResult, list[Note]]:
    """Load the file and find its graph; what is known of it goes into the entry at once."""
    checkpoint = importlib.import_module("resnet_audit.checkpoint").load(file, settings.key)
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
