"""A verdict as workflow commands of GitHub Actions: an annotation for each number beyond its limit.

A failed finding and what could not be judged are errors, a held finding is a notice, what passed is only counted on the
last line. Checkpoints are no text, so no annotation names a file and a line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import verdict, words

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from resnet_audit.results import Document

DATA = {"%": "%25", "\r": "%0D", "\n": "%0A"}
PROPERTY = {**DATA, ":": "%3A", ",": "%2C"}
"""What the runner would read as syntax, in a message and in a property."""


def to_github(document: Document) -> str:
    """The verdict of a document, the failures first: a step shows only its first few annotations."""
    return "".join(f"{line}\n" for line in _lines(document))


def _lines(document: Document) -> Iterator[str]:
    summary = document.get("summary")
    for status, command in (("fail", "error"), ("held", "notice")):
        for finding in document.get("findings", []):
            if finding.status == status:
                title = f"{finding.metric} in {finding.checkpoint}"
                yield annotation(command, title, verdict.sentence(finding))
    for problem in summary.problems if summary is not None else ("nothing was judged",):
        yield annotation("error", "not judged", problem)
    if summary is not None:
        yield verdict.closing(summary)


def annotation(command: str, title: str, message: str) -> str:
    """One workflow command on one line, whatever stands in its texts."""
    return f"::{command} title={_escaped(title, PROPERTY)}::{_escaped(message, DATA)}"


def _escaped(text: str, table: Mapping[str, str]) -> str:
    return words.clean("".join(table.get(char, char) for char in text), "utf-8")
