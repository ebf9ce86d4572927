"""The verdict as tables: what failed first, what the baseline holds, and of what passed the nearest to its limit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from resnet_audit.render import verdict
from resnet_audit.render.console import WIDTH
from resnet_audit.render.fit import Column, natural_width
from resnet_audit.render.parts import Line, Part, Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from resnet_audit.results import Finding, Summary

WORDS = {"fail": ("FAIL", "bold red"), "held": ("held", "yellow"), "pass": ("ok", "green")}
"""A word for each status: colour never tells alone."""


def check_parts(findings: Sequence[Finding], summary: Summary) -> tuple[Line, list[Part]]:
    """The title; each checkpoint with its tables, then the counts."""
    closing = Line(verdict.closing(summary), "strong")
    paths = list(dict.fromkeys(finding.checkpoint for finding in findings))
    if not paths:
        return closing, []
    parts: list[Part] = []
    for path in paths:
        rows = list(_rows([finding for finding in findings if finding.checkpoint == path]))
        parts += [*([Line(path, "strong")] if path != paths[0] else []), *_tables(rows)]
    return Line(paths[0], "strong"), [*parts, closing]


def _rows(findings: Sequence[Finding]) -> Iterator[tuple[Finding, int]]:
    """Findings by status, each with the number of those that it stands for: one passed number for each limit."""
    for status in ("fail", "held"):
        yield from ((finding, 1) for finding in findings if finding.status == status)
    passed: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        if finding.status == "pass":
            passed.setdefault((finding.metric, finding.rule), []).append(finding)
    for alike in passed.values():
        yield min(alike, key=_room), len(alike)


def _room(finding: Finding) -> float:
    """How far inside its limit a number is."""
    return (finding.limit - finding.value) * (1 if finding.op == "le" else -1)


def _tables(rows: Sequence[tuple[Finding, int]]) -> list[Part]:
    """One table; if its metrics are too long for a terminal, a table for each of them under its name."""
    whole = _table(rows, with_metric=True)
    if natural_width(whole.columns) <= WIDTH:
        return [whole]
    parts: list[Part] = []
    for metric in dict.fromkeys(finding.metric for finding, _ in rows):
        parts += [Line(metric), _table([row for row in rows if row[0].metric == metric], with_metric=False)]
    return parts


def _table(rows: Sequence[tuple[Finding, int]], *, with_metric: bool) -> Table:
    findings = [finding for finding, _ in rows]
    states = tuple(Text(WORDS[finding.status][0], style=WORDS[finding.status][1]) for finding in findings)
    metric = Column(header="metric", cells=tuple(one.metric for one in findings), priority=1, align="left")
    where = Column(header="where", cells=tuple(_where(*row) for row in rows), priority=1, align="left")
    columns = [
        Column(header="", cells=states, priority=0, align="left"),
        *([metric] if with_metric else []),
        *([where] if any(where.cells) else []),
        Column(header="measured", cells=tuple(map(verdict.measured, findings)), priority=1),
        Column(header="limit", cells=tuple(map(verdict.limit, findings)), priority=1, align="left"),
    ]
    return Table(columns=tuple(columns))


def _where(finding: Finding, times: int) -> str:
    """The location; of several that passed, the one that is nearest to its limit."""
    where = finding.where or ""
    return f"{where}, nearest of {times:,}" if times > 1 else where
