"""A verdict as SARIF 2.1.0, for code scanning and archives.

Source   Static Analysis Results Interchange Format (SARIF) Version 2.1.0, OASIS Standard.

A rule is a metric path with its explanation. A failed finding is a result of level error. A held one is a note with an
accepted suppression, whose justification is the baseline. What passed is no result: scanners show every result as an
alert. What could not be judged is a notification of the invocation, which then was not successful.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from resnet_audit.errors import UsageError
from resnet_audit.explain import find

from . import verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resnet_audit.results import CheckpointEntry, Document, Finding

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def to_sarif(document: Document) -> str:
    """The verdict of a document; one without a verdict gives a run that was not successful."""
    summary = document.get("summary")
    findings = document.get("findings", [])
    metrics = list(dict.fromkeys(finding.metric for finding in findings))
    problems = list(summary.problems) if summary is not None else ["nothing was judged"]
    run = {
        "tool": {
            "driver": {
                "name": document["tool"]["name"],
                "version": document["tool"]["version"],
                "rules": [_rule(metric) for metric in metrics],
            }
        },
        "invocations": [
            {
                "executionSuccessful": not problems,
                "toolExecutionNotifications": [{"level": "error", "message": {"text": text}} for text in problems],
            }
        ],
        "artifacts": [_artifact(entry) for entry in document["checkpoints"]],
        "results": [_result(finding, metrics) for finding in findings if finding.status != "pass"],
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2, allow_nan=False) + "\n"


def _rule(metric: str) -> dict[str, Any]:
    """A metric with what it means."""
    try:
        entry = find(metric).entry
    except UsageError:
        entry = None  # a number of the file itself, such as its parameters
    if entry is None:
        return {"id": metric, "shortDescription": {"text": metric}}
    texts = (entry.formula, f"unit: {entry.unit}", f"status: {entry.status}", f"source: {entry.source}", entry.read)
    return {
        "id": metric,
        "shortDescription": {"text": entry.meaning},
        "fullDescription": {"text": f"{entry.meaning}. {entry.read}"},
        "help": {"text": "\n".join(text for text in texts if text)},
    }


def _artifact(entry: CheckpointEntry) -> dict[str, Any]:
    """A checkpoint as a file with its digest, if that is known."""
    hashes = {} if entry["sha256"] is None else {"hashes": {"sha-256": entry["sha256"]}}
    return {"location": {"uri": uri_of(entry["path"])}, **hashes}


def _result(finding: Finding, metrics: Sequence[str]) -> dict[str, Any]:
    """A number beyond its limit."""
    location: dict[str, Any] = {"physicalLocation": {"artifactLocation": {"uri": uri_of(finding.checkpoint)}}}
    if finding.where is not None:
        location["logicalLocations"] = [{"fullyQualifiedName": finding.where}]
    result = {
        "ruleId": finding.metric,
        "ruleIndex": metrics.index(finding.metric),
        "kind": "fail",
        "level": "error" if finding.status == "fail" else "note",
        "message": {"text": verdict.sentence(finding)},
        "locations": [location],
        "partialFingerprints": {"metricWhereRule/v1": _fingerprint(finding)},
    }
    if finding.status == "held":
        why = f"no worse than the baseline, {finding.baseline!r}"
        result["suppressions"] = [{"kind": "external", "status": "accepted", "justification": why}]
    return result


def _fingerprint(finding: Finding) -> str:
    """What stays the same as long as the same limit is broken at the same place, whatever the numbers."""
    parts = (finding.metric, finding.where or "", finding.rule)
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def uri_of(path: str) -> str:
    """A path as a URI reference, relative wherever it can be; what is no text keeps its bytes, percent-encoded."""
    here = Path.cwd()
    if Path(path).is_relative_to(here):
        path = str(Path(path).relative_to(here))
    try:
        content = os.fsencode(path)
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        content = path.encode("utf-8", "surrogatepass")
    encoded = quote(content.removeprefix(b"./"))
    return f"file://{encoded}" if Path(path).is_absolute() else encoded
