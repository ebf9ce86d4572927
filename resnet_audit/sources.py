"""What `check` is given: checkpoints, which are audited, and finished reports, for which torch is never imported."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_audit.errors import AuditError, UnreadableCheckpoint
from resnet_audit.report.read import read_document
from resnet_audit.report.rows import chosen_blocks, only
from resnet_audit.results import CheckpointEntry, Result

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resnet_audit.results import Document

STDIN = "-"
HEAD = 8
"""Bytes that tell a report from a checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One MODEL. document: None of a checkpoint, and of a report that cannot be read.

    entries: those of the report; of a checkpoint, and of what cannot be read, the one that it will have.
    """

    path: str
    is_checkpoint: bool
    document: Document | None
    entries: tuple[CheckpointEntry, ...]


def found_at(path: str, globs: Sequence[str]) -> Source:
    """What lies at a path. Of a report only the rows of blocks that match the `globs`, if there are any.

    What cannot be read is an entry that says so, so that the others are still judged.
    """
    try:
        if not _is_report(path):
            return Source(path=path, is_checkpoint=True, document=None, entries=(_blank(path, None),))
        document = read_document(_text(path), path)
        entries = tuple(_kept(entry, globs) for entry in document["checkpoints"])
        if not entries:
            todo = "audit at least one file"
            raise UnreadableCheckpoint(path, "a report of no checkpoint", "there is nothing to judge in it", todo)
    except AuditError as error:
        return Source(path=path, is_checkpoint=False, document=None, entries=(_blank(path, str(error)),))
    return Source(path=path, is_checkpoint=False, document=document, entries=entries)


def _is_report(path: str) -> bool:
    """Whether the first byte is that of a JSON object. A safetensors file may begin with it too, and then has a NUL."""
    try:
        if path == STDIN:
            head = _standard_input().peek(HEAD)[:HEAD]
        elif not Path(path).is_file():
            return False  # what it is, reading says
        else:
            with Path(path).open("rb") as file:
                head = file.read(HEAD)
    except OSError:
        return False  # as above
    return head[:1] == b"{" and b"\0" not in head


def _text(path: str) -> str:
    """The text of a report. Raises UnreadableCheckpoint."""
    try:
        content = _standard_input().read() if path == STDIN else Path(path).read_bytes()
        return content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        what = error.strerror if isinstance(error, OSError) and error.strerror else "no text in UTF-8"
        raise UnreadableCheckpoint(path, what.lower(), "a report is JSON in UTF-8", "make it anew") from None


def _standard_input() -> Any:  # noqa: ANN401 - a buffered reader, which typeshed calls a BinaryIO
    return sys.stdin.buffer


def _kept(entry: CheckpointEntry, globs: Sequence[str]) -> CheckpointEntry:
    """The entry with the rows of the blocks that match; one that tells of an error if none does."""
    graph = entry.get("graph")
    if not globs or graph is None:
        return entry
    try:
        kept = chosen_blocks(graph, globs)
    except AuditError as error:
        return _blank(entry["path"], f"{entry['path']}: {error}")
    rows: Any = {name: only(value, graph, kept) for name, value in entry.items() if isinstance(value, Result)}
    return {**entry, **rows}


def _blank(path: str, error: str | None) -> CheckpointEntry:
    return CheckpointEntry(path=path, sha256=None, format=None, parameters=None, error=error, notes=())
