"""A document as JSON: valid whatever the numbers and the names, the same bytes for the same document."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from typing import TYPE_CHECKING, Any, cast, get_args

from resnet_audit.results import CheckpointEntry, Document, Result, SettingsUsed, Tool

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ORDER: tuple[tuple[str, ...], ...] = tuple(
    tuple(kind.__annotations__) for kind in (Document, Tool, SettingsUsed, CheckpointEntry)
)
"""Keys of the objects that are plain dictionaries, in the order of their types."""

SURROGATE = re.compile("[\ud800-\udfff]")
CHECKPOINT = re.compile(r"checkpoints\[(\d+)\]\.(.*)")
TOLD = 3

BESIDE = ("comparison", "findings", "summary")
"""What a document holds beside its checkpoints."""


def to_json(document: Document) -> str:
    """One valid JSON document with a trailing newline; what is not finite is null, and a note says where."""
    return _text(document, indent=2) + "\n"


def to_jsonl(document: Document) -> str:
    """A line a checkpoint, each a whole document of its own.

    What is beside the checkpoints, and a document without any, is a last line with no checkpoint.
    """
    shared = {key: value for key, value in document.items() if key not in BESIDE}
    lines = [{**shared, "checkpoints": [entry]} for entry in document["checkpoints"]]
    if not lines or any(key in document for key in BESIDE):
        lines.append({**document, "checkpoints": []})
    return "".join(_text(cast("Document", line), indent=None) + "\n" for line in lines)


def _text(document: Document, *, indent: int | None) -> str:
    value, lost = plain(document)
    for index, entry in enumerate(value.get("checkpoints", ())):
        places = [found[2] for found in map(CHECKPOINT.fullmatch, lost) if found and int(found[1]) == index]
        if places:
            entry["notes"].append(_nonfinite(places))
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    # A lone surrogate (a file name that is no text) has no UTF-8 form; its escape is valid and comes back as it was.
    return SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def plain(document: Document) -> tuple[dict[str, Any], list[str]]:
    """The document as dictionaries, lists and scalars, and the paths of the numbers that are not finite (now None).

    Dataclasses become dictionaries in the order of their fields; a result's `notes` are the checkpoint's already.
    """
    lost: list[str] = []
    value: dict[str, Any] = _plain(document, "", lost)
    return value, lost


def _plain(value: object, path: str, lost: list[str]) -> Any:  # noqa: ANN401 -- JSON has no one type
    if isinstance(value, float):
        if math.isfinite(value):
            return value + 0.0
        lost.append(path)
        return None
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{path}[{index}]", lost) for index, item in enumerate(value)]
    if isinstance(value, dict) or dataclasses.is_dataclass(value):
        prefix = f"{path}." if path else ""
        return {key: _plain(item, f"{prefix}{key}", lost) for key, item in _members(value)}
    return value


def _members(value: object) -> Iterator[tuple[str, object]]:
    """Keys and values in the order of the value's type."""
    if isinstance(value, dict):
        yield from ((key, value[key]) for key in _ordered(value))
        return
    for field in dataclasses.fields(value):  # type: ignore[arg-type]  # a dataclass here
        if not (field.name == "notes" and isinstance(value, get_args(Result))):
            yield field.name, getattr(value, field.name)


def _ordered(value: Mapping[str, object]) -> list[str]:
    """The keys in the order of the type that names most of them; a key that it does not name keeps its place after."""
    order = max(ORDER, key=lambda keys: len(value.keys() & set(keys)))
    return [*(key for key in order if key in value), *(key for key in value if key not in order)]


def _nonfinite(places: list[str]) -> dict[str, str | None]:
    """The note that stands for numbers that JSON cannot hold."""
    more = f" and {len(places) - TOLD:,} more" if len(places) > TOLD else ""
    message = f"not finite, given as null: {', '.join(places[:TOLD])}{more}"
    return {"code": "not_finite", "message": message, "where": places[0]}
