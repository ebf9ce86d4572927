"""Every JSON document that a test makes is looked at: it must be valid by the schema that is shipped."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema

from resnet_audit.report.schema import schema_text

if TYPE_CHECKING:
    from collections.abc import Sequence

FORMS = {".json": "json", ".jsonl": "jsonl"}
NO_DOCUMENT = ("schema", "explain")
"""Commands whose JSON, if any, is not a document."""


@cache
def _validator() -> jsonschema.Draft202012Validator:
    """Compiled once for all documents of a session."""
    return jsonschema.Draft202012Validator(json.loads(schema_text()))


def documents(text: str, form: str) -> list[Any]:
    """The documents in a text: one, or one a line."""
    return [json.loads(part) for part in (text.splitlines() if form == "jsonl" else [text])]


def require_valid(text: str, form: str) -> int:
    """The number of documents in `text`. Raises jsonschema.ValidationError for one that breaks the schema."""
    found = documents(text, form)
    for document in found:
        _validator().validate(document)
    return len(found)


def value_of(arguments: Sequence[str], *names: str) -> str | None:
    """What a flag is given, as two words or behind `=`."""
    for index, word in enumerate(arguments):
        if word in names and index + 1 < len(arguments):
            return arguments[index + 1]
        flag, equals, value = word.partition("=")
        if equals and flag in names:
            return value
    return None


def look_at(arguments: Sequence[str], out: str, code: int = 0) -> int:
    """Check what a run printed or wrote, if it was asked for documents; how many there were.

    A run that failed may have left an older file as it was, which need not be a document.
    """
    if not arguments or arguments[0] in NO_DOCUMENT:
        return 0
    target = value_of(arguments, "-o", "--output") if arguments[0] != "procrustes" else None
    form = value_of(arguments, "-f", "--format") or (FORMS.get(Path(target).suffix) if target else None)
    if form not in FORMS.values():
        return 0
    if target is not None:
        out = Path(target).read_text(encoding="utf-8") if Path(target).is_file() else ""
        if code == 2 and not out.startswith("{"):
            return 0
    return require_valid(out, form) if out else 0
