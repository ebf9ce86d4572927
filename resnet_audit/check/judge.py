"""The verdict: every number that a threshold or the baseline names against its limit. What cannot be judged is told."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from resnet_audit.check.baseline import Key, no_worse_than
from resnet_audit.check.paths import Reading, look_up
from resnet_audit.check.why import nothing_found, null_found, unknown_found
from resnet_audit.results import Document, Finding, Summary

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from resnet_audit.check.baseline import Baseline
    from resnet_audit.check.ignores import Ignore
    from resnet_audit.check.thresholds import Threshold
    from resnet_audit.results import CheckpointEntry, Op, Status

Recording = Literal["no", "tighten", "force"]
"""What a run does to the baseline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What to judge by. baseline: None without one; recording: whether this run changes it, before it is judged by."""

    thresholds: tuple[Threshold, ...] = ()
    baseline: Baseline | None = None
    ignored: tuple[Ignore, ...] = ()
    recording: Recording = "no"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How every number ended, one line for all that could not be judged, and for what a person should know.

    baseline: as it is after this run.
    """

    findings: tuple[Finding, ...]
    problems: tuple[str, ...]
    notices: tuple[str, ...]
    baseline: Baseline | None

    @property
    def summary(self) -> Summary:
        """The findings counted."""
        counts = Counter(finding.status for finding in self.findings)
        return Summary(failed=counts["fail"], held=counts["held"], passed=counts["pass"], problems=tuple(self.problems))

    @property
    def exit_code(self) -> int:
        """0: all hold. 1: a limit is broken. 2: something could not be judged, whatever else was found."""
        return 2 if self.problems else int(any(finding.status == "fail" for finding in self.findings))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    """One finite number, the threshold on it (None: the baseline alone), and what it is of in the baseline."""

    value: float
    where: str | None
    threshold: Threshold | None
    key: Key
    path: str


def judge(document: Document, names: Sequence[str], rules: Rules) -> Verdict:
    """The verdict on a document whose checkpoints have these `names` in the baseline."""
    problems: list[str] = []
    measured: list[_Measured] = []
    for entry, name in zip(document["checkpoints"], names, strict=True):
        if entry["error"] is not None:
            problems.append(entry["error"])
        else:
            measured += _measured(entry, name, rules, problems)
    baseline = rules.baseline
    if baseline is not None and rules.recording != "no":
        baseline = baseline.updated({one.key: one.value for one in measured}, force=rules.recording == "force")
    findings: list[Finding] = []
    unknown: dict[tuple[str, str, str], list[str | None]] = {}
    for one in measured:
        finding = _finding(one, None if baseline is None else baseline.number(one.key))
        if finding is None:
            unknown.setdefault((one.path, one.key.name, one.key.metric), []).append(one.where)
        else:
            findings.append(finding)
    problems += [unknown_found(*what, places) for what, places in unknown.items()]
    return Verdict(
        findings=tuple(findings),
        problems=tuple(dict.fromkeys(problems)),
        notices=tuple(_gone(rules.baseline, measured)),
        baseline=baseline,
    )


def metrics_of(rules: Rules, names: Sequence[str]) -> tuple[str, ...]:
    """Every metric that checkpoints with these `names` are judged by."""
    return tuple(dict.fromkeys(metric for name in names for metric, _, _ in _asked(name, rules)))


def judged(document: Document, verdict: Verdict) -> Document:
    """The document of `check`: what was found, and how it was judged."""
    return {**document, "command": "check", "findings": list(verdict.findings), "summary": verdict.summary}


def _measured(entry: CheckpointEntry, name: str, rules: Rules, problems: list[str]) -> Iterator[_Measured]:
    """The numbers of a checkpoint that have a limit; a line for each metric that has none or is null."""
    asked = list(_asked(name, rules))
    if not asked:
        what = "is ignored" if rules.thresholds else f"is in the baseline under {name}"
        nothing = "everything" if rules.thresholds else "nothing"
        problems.append(f"{entry['path']}: {nothing} {what}; there is nothing to judge; give a threshold, or --name")
    for metric, op, threshold in asked:
        readings = look_up(entry, metric)
        kept = [one for one in readings if not any(ignore.covers(metric, one.where) for ignore in rules.ignored)]
        if not kept:
            problems.append(nothing_found(entry, metric, ignored=bool(readings)))
        null = [one for one in kept if not _is_number(one)]
        if null:
            problems.append(null_found(entry, metric, null, len(kept)))
        for one in kept:
            if one.value is not None and math.isfinite(one.value):
                key = Key(name, metric, op, one.where or "")
                yield _Measured(value=one.value, where=one.where, threshold=threshold, key=key, path=entry["path"])


def _is_number(reading: Reading) -> bool:
    return reading.value is not None and math.isfinite(reading.value)


def _asked(name: str, rules: Rules) -> Iterator[tuple[str, Op, Threshold | None]]:
    """What a checkpoint is judged by: the thresholds, and where none is on a side of a metric, the baseline."""
    whole = {ignore.metric for ignore in rules.ignored if ignore.glob is None}
    for one in rules.thresholds:
        if one.metric not in whole:
            yield one.metric, one.op, one
    by_threshold = {(one.metric, one.op) for one in rules.thresholds}
    for metric, op in rules.baseline.metrics(name) if rules.baseline is not None else ():
        if (metric, op) not in by_threshold and metric not in whole:
            yield metric, op, None


def _finding(one: _Measured, number: float | None) -> Finding | None:
    """One number against its limit; `number` is that of the baseline. None if a limit needs one and there is none."""
    op, threshold = one.key.op, one.threshold
    no_worse = None if number is None else no_worse_than(number, op)
    limit = no_worse if threshold is None else threshold.limit(number)
    if limit is None:
        return None
    status: Status = "pass"
    if not _holds(one.value, op, limit):
        absolute = threshold is not None and not threshold.is_relative
        status = "held" if absolute and no_worse is not None and _holds(one.value, op, no_worse) else "fail"
    return Finding(
        metric=one.key.metric,
        where=one.where,
        value=one.value,
        limit=limit,
        op=op,
        rule="baseline" if threshold is None else threshold.rule,
        baseline=number,
        status=status,
        checkpoint=one.path,
    )


def _holds(value: float, op: Op, limit: float) -> bool:
    return value <= limit if op == "le" else value >= limit


def _gone(baseline: Baseline | None, measured: Sequence[_Measured]) -> Iterator[str]:
    """A line for every metric with locations that only the baseline has."""
    there: dict[tuple[str, str, Op], set[str]] = {}
    for one in measured:
        there.setdefault(one.key[:3], set()).add(one.key.where)
    values: Mapping[Key, float] = baseline.values if baseline is not None else {}
    gone = Counter(key[:3] for key in values if key[:3] in there and key.where not in there[key[:3]])
    for (name, metric, _), times in gone.items():
        places = f"{times} location{'s' if times > 1 else ''}"
        yield f"{name}: the baseline has {places} of {metric} that are not here; --update-baseline --force drops them"
