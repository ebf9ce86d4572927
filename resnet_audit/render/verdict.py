"""A finding in words: the same sentence in every format."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import words

if TYPE_CHECKING:
    from resnet_audit.results import Finding, Summary

DIGITS = (4, 17)
"""Significant digits of a value: the first number of them that tells it from its limit."""

WHOLE = 1e9
"""Below this a whole number is written as one."""


def measured(finding: Finding) -> str:
    """The value, with as many digits as it takes to see on which side of the limit it lies."""
    if finding.value.is_integer() and abs(finding.value) < WHOLE:
        return words.number(int(finding.value))
    least, most = DIGITS
    for digits in range(least, most):
        text = words.number(finding.value, digits)
        if text != words.number(finding.limit, digits):
            return text
    return repr(finding.value) if finding.value != finding.limit else words.number(finding.value, least)


def limit(finding: Finding) -> str:
    """The limit with what it rests on, as `max 4`, `min 2`, `max 8.26, baseline 7.87`."""
    baseline = "" if finding.baseline is None else f"baseline {short(finding.baseline)}"
    if finding.rule == "baseline":
        return baseline
    own = f"{'max' if finding.op == 'le' else 'min'} {short(finding.limit)}"
    shown = finding.status == "held" or finding.rule in {"max-increase", "max-decrease"}
    return f"{own}, {baseline}" if baseline and shown else own


def short(value: float) -> str:
    """A number as it was written, if that is short."""
    text = f"{value:g}"
    return text if float(text) == value else words.number(value)


def sentence(finding: Finding) -> str:
    """What was found, where, and against which limit."""
    at = f" at {finding.where}" if finding.where is not None else ""
    beyond = "above" if finding.op == "le" else "below"
    state = {"fail": f"{beyond} the limit", "held": f"{beyond} the limit and no worse than before", "pass": "within"}
    return f"{finding.metric}{at} is {measured(finding)}, {state[finding.status]}: {limit(finding)}"


def closing(summary: Summary) -> str:
    """The counts on one line."""
    held = f", {summary.held} held by baseline" if summary.held else ""
    more = f", {len(summary.problems)} not judged" if summary.problems else ""
    return f"{summary.failed} failed{held}, {summary.passed} passed{more}"
