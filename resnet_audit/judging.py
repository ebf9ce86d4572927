"""The command `check`: from checkpoints and finished reports to a verdict, the baseline written, and the exit code."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from resnet_audit.answer import audited, tell, trace, write
from resnet_audit.check import Baseline, Rules, judge, judged, metrics_of, names_of, read_baseline
from resnet_audit.check.ignores import ignores
from resnet_audit.check.thresholds import overridden, thresholds
from resnet_audit.errors import AuditError, UnreadableCheckpoint, UsageError
from resnet_audit.sources import found_at

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from resnet_audit.check import Configuration, Verdict
    from resnet_audit.check.judge import Recording
    from resnet_audit.check.thresholds import ThresholdRule
    from resnet_audit.options import Common
    from resnet_audit.results import Document
    from resnet_audit.sources import Source

WANTED = {("shortcut", "hessian"): "hessian", ("ensemble", "veit"): "veit", ("ensemble", "incoherent"): "veit"}
"""Metrics that are only there if they are asked for, by their first two steps, and the setting that asks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the flags of `check` say. limits: the texts of each threshold flag, by its name."""

    limits: Mapping[ThresholdRule, Sequence[str]]
    ignored: Sequence[str]
    baseline: str | None
    update: bool
    force: bool
    name: str | None


def check_models(models: Sequence[str] | None, asked: Asked, configuration: Configuration, shared: Common) -> None:
    """Judge, print the document with its findings, write the baseline, exit with 0, 1 or 2."""
    from resnet_audit.checkpoint import expand  # noqa: PLC0415 - commands import what they need
    from resnet_audit.report import empty  # noqa: PLC0415 - as above

    try:
        if (complaint := shared.settings.complaint()) is not None:
            raise UsageError(complaint)
        if shared.figure is not None:
            raise UsageError(f"--figure {shared.figure}: a verdict is no drawing; give --figure to `report`")
        rules, home = _rules(asked, configuration)
        paths, notices = expand(list(models or ()))
        sources = [found_at(path, shared.settings.blocks) for path in paths]
        there = [entry["path"] for source in sources for entry in source.entries]
        names = names_of(there, asked.name) if home is not None else tuple(there)
        document, more = _document(sources, metrics_of(rules, names), shared)
    except AuditError:
        if shared.format in {"json", "jsonl"}:
            write(empty("check", shared.settings), shared)
        raise
    if not shared.quiet:
        tell([*notices, *more])
    _finish(document, judge(document, names, rules), rules, home, shared)


def _finish(document: Document, verdict: Verdict, rules: Rules, home: str | None, shared: Common) -> None:
    """Write the baseline and the answer, say what could not be judged, and exit."""
    from resnet_audit.render import write_whole  # noqa: PLC0415 - commands import what they need

    if rules.recording != "no" and verdict.baseline is not None and home is not None:
        write_whole(home, verdict.baseline.to_text())
    write(judged(document, verdict), shared)
    if not shared.quiet:
        tell(verdict.notices)
    tell(verdict.problems)
    if verdict.exit_code:
        raise typer.Exit(verdict.exit_code)


def _rules(asked: Asked, configuration: Configuration) -> tuple[Rules, str | None]:
    """What to judge by, and the file of the baseline. Raises UsageError where that is nothing, or contradictory."""
    limits = overridden(thresholds(asked.limits), configuration.thresholds)
    home = asked.baseline or configuration.baseline
    if asked.force and not asked.update:
        raise UsageError("--force loosens a baseline and changes nothing without --update-baseline; give both")
    if home is None:
        if asked.update or asked.name is not None:
            raise UsageError("--update-baseline and --name are about a baseline; give --baseline FILE too")
        relative = next((one for one in limits if one.is_relative), None)
        if relative is not None:
            raise UsageError(f"--{relative.rule} {relative.metric} is measured from a baseline; give --baseline FILE")
        if not limits:
            raise UsageError("there is nothing to judge by; give --max PATH=NUMBER, --min, or --baseline FILE")
    recording: Recording = "no"
    if asked.update:
        recording = "force" if asked.force else "tighten"
    baseline = None if home is None else _read_baseline(home, new=asked.update)
    ignored = (*ignores(asked.ignored), *configuration.ignored)
    return Rules(thresholds=limits, baseline=baseline, ignored=ignored, recording=recording), home


def _read_baseline(path: str, *, new: bool) -> Baseline:
    """The baseline in a file; empty if there is none and it may be `new`."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        if new:
            return Baseline({})
        raise UnreadableCheckpoint(
            path, "no such baseline", "there is nothing to compare with", "make it with --update-baseline"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        what = (error.strerror or "unreadable").lower() if isinstance(error, OSError) else "no text in UTF-8"
        raise UnreadableCheckpoint(path, what, "a baseline is JSON in UTF-8", "name another file") from None
    return read_baseline(text, path)


def _document(sources: Sequence[Source], metrics: Sequence[str], shared: Common) -> tuple[Document, list[str]]:
    """All checkpoints in their order, and notices.

    Those that are in no report are audited, by the analyses that the metrics name and no others.
    """
    from resnet_audit.report import empty  # noqa: PLC0415 - commands import what they need
    from resnet_audit.report.registry import ANALYSES  # noqa: PLC0415 - as above

    documents = [source.document for source in sources if source.document is not None]
    paths = [source.path for source in sources if source.is_checkpoint]
    if paths:
        heads = {tuple(metric.split(".")[:2]) for metric in metrics}
        wanted = {setting: True for head, setting in WANTED.items() if head in heads}
        settings = replace(shared.settings, **wanted)  # type: ignore[arg-type]  # all of WANTED are switches
        named = {metric.partition(".")[0] for metric in metrics}
        analyses = [analysis for analysis in ANALYSES if analysis in named]
        outcome = audited(paths, "check", analyses, replace(shared, settings=settings))
        trace(outcome, shared)
        documents.append(outcome.document)
        fresh = iter(outcome.document["checkpoints"])
    entries = [next(fresh) if source.is_checkpoint else entry for source in sources for entry in source.entries]
    first = documents[0] if documents else empty("check", shared.settings)
    alike = all((one["tool"], one["settings"]) == (first["tool"], first["settings"]) for one in documents)
    whole = first if alike else empty("check", shared.settings)
    notices = [] if alike else ["the reports were made with other versions or settings than each other; see each"]
    return {**whole, "command": "check", "checkpoints": entries}, notices
