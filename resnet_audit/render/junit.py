"""A verdict as JUnit XML, which every CI service shows as a table of tests.

A suite is a checkpoint, a test is one number against one limit: its class is the metric, its name the location and the
rule, so that a service can follow it from run to run. A failed finding is a failure, a held one is skipped, and what
could not be judged is a suite of errors.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from . import verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resnet_audit.results import Document, Finding

ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no XML 1.0 document may hold, not even escaped."""


def to_junit(document: Document) -> str:
    """The verdict of a document; one without a verdict has no suites."""
    summary = document.get("summary")
    findings = document.get("findings", [])
    suites = ET.Element("testsuites", {"name": "resnet-audit check"})
    for path in dict.fromkeys(finding.checkpoint for finding in findings):
        _suite(suites, path, [finding for finding in findings if finding.checkpoint == path])
    if summary is not None and summary.problems:
        counts = {"tests": len(summary.problems), "failures": 0, "errors": len(summary.problems), "skipped": 0}
        suite = _element(suites, "testsuite", name="not judged", **counts)
        for problem in summary.problems:
            case = _element(suite, "testcase", classname="check", name=problem)
            _element(case, "error", message=problem)
    for count in ("tests", "failures", "errors", "skipped"):
        suites.set(count, str(sum(int(suite.get(count, "0")) for suite in suites)))
    ET.indent(suites)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ET.tostring(suites, encoding="unicode")}\n'


def _suite(suites: ET.Element, path: str, findings: Sequence[Finding]) -> None:
    """One checkpoint with its tests."""
    status = [finding.status for finding in findings]
    counts = {"tests": len(status), "failures": status.count("fail"), "errors": 0, "skipped": status.count("held")}
    suite = _element(suites, "testsuite", name=path, **counts)
    for finding in findings:
        name = finding.rule if finding.where is None else f"{finding.where} {finding.rule}"
        case = _element(suite, "testcase", classname=finding.metric, name=name)
        if finding.status == "fail":
            _element(case, "failure", type=finding.rule, message=verdict.sentence(finding))
        elif finding.status == "held":
            _element(case, "skipped", message=verdict.sentence(finding))


def _element(parent: ET.Element, tag: str, **attributes: str | int) -> ET.Element:
    """A new last child, without what XML cannot hold."""
    return ET.SubElement(parent, tag, {name: ILLEGAL.sub("", str(value)) for name, value in attributes.items()})
