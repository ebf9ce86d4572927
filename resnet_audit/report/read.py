"""A document of ours read back: JSON text in, the frozen results out. No torch, and pydantic only when it is asked."""

from __future__ import annotations

import json
import math
import re
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn

from resnet_audit.errors import UnreadableCheckpoint
from resnet_audit.results import SCHEMA_VERSION, Document

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})")
SURROGATE = re.compile("[\ud800-\udfff]")
BLANK = re.compile(r"\s*")
SAME = ("schema_version", "tool", "command", "settings")
"""What all lines of one run share."""

BESIDE = ("comparison", "findings", "summary")
"""What a document holds beside its checkpoints; in lines, the last one has it."""


def read_document(text: str, path: str = "report") -> Document:
    """The document that `text` is the JSON of, or whose checkpoints are its lines; `to_json` of it is `text` again.

    A key that an earlier version did not write and that may be null is read as null. Raises UnreadableCheckpoint, which
    names `path`, for what is no JSON, no document of ours, of a schema unknown here, or not what the schema says.
    """
    values = _values(text, path)
    for value in values:
        _require_ours(value, path)
    return _validated(_merged(values, path), path)


def _values(text: str, path: str) -> list[Any]:
    """Every JSON value of `text`, one or one a line."""
    decoder = json.JSONDecoder(parse_constant=_no_number, parse_float=_finite)
    text = text.removeprefix("\ufeff").strip()
    values: list[Any] = []
    place = 0
    try:
        while place < len(text):
            value, end = decoder.raw_decode(text, place)
            values.append(value)
            found = BLANK.match(text, end)
            place = found.end() if found else end
    except RecursionError:
        _refuse(path, "JSON that is nested too deep", "no report of resnet-audit is")
    except ValueError as error:
        where = f"line {error.lineno}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        _refuse(path, f"no JSON ({where})", "a report may have been cut off")
    return values or _refuse(path, "empty", "there is no report in it")


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name[:20]} is no number that we write")


def _finite(digits: str) -> float:
    value = float(digits)
    return value if math.isfinite(value) else _no_number(digits)


def _require_ours(value: object, path: str) -> None:
    """Raises UnreadableCheckpoint for another tool's JSON and for a schema that this version cannot read."""
    tool = value.get("tool") if isinstance(value, dict) else None
    version = value.get("schema_version") if isinstance(value, dict) else None
    if not isinstance(tool, dict) or tool.get("name") != "resnet-audit" or not isinstance(version, str):
        _refuse(path, "JSON, but no report of resnet-audit", "only its own reports say what their numbers mean")
    found = VERSION.fullmatch(version)
    if found is None:
        _refuse(path, f"a report of schema {version!r}", "that is no version")
    given, known = (int(found[1]), int(found[2])), tuple(map(int, SCHEMA_VERSION.split(".")))
    if given > known:
        todo = "update resnet-audit, or make the report anew with this one"
        _refuse(path, f"a report of schema {version}", f"this version knows schemas up to {SCHEMA_VERSION}", todo)
    if given[0] < known[0]:
        _refuse(path, f"a report of schema {version}", f"it means other things than those of schema {SCHEMA_VERSION}")


def _merged(values: list[dict[str, Any]], path: str) -> dict[str, Any]:
    """One document from the lines of one run: all checkpoints, and what stands beside them."""
    *earlier, last = values
    for line, value in enumerate(earlier, start=1):
        other = next((key for key in SAME if value.get(key) != last.get(key)), None)
        if other is not None or any(key in value for key in BESIDE):
            reason = (
                f"`{other}` is not the same in all" if other else f"document {line} has what only the last can have"
            )
            _refuse(path, "reports of several runs", reason, "give one run's report at a time")
    lists = [value.get("checkpoints") for value in values]
    if len(values) == 1 or not all(isinstance(entries, list) for entries in lists):
        return last
    return {**last, "checkpoints": [entry for entries in lists for entry in entries or ()]}


def _validated(value: dict[str, Any], path: str) -> Document:
    """The document of a JSON value. Keys that are absent become null, where null is allowed."""
    from pydantic import ValidationError  # noqa: PLC0415 - slow to import, and only reading needs it

    try:
        return _typed(value)
    except ValidationError as error:
        _fill(value, error)
    try:
        return _typed(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        why = f"{place}: {first['msg'][:1].lower()}{first['msg'][1:]}"
        _refuse(path, f"a report that is not of schema {SCHEMA_VERSION}", why)


def _typed(value: dict[str, Any]) -> Document:
    """The value as the result types. Raises ValidationError.

    Only text is checked strictly (lists for tuples, and yet no "3" for 3), but a lone surrogate, as in a file name that
    is no text, cannot stand in it. So a text without surrogates is checked, and then the value itself is taken.
    """
    adapter = _adapter()
    adapter.validate_json(SURROGATE.sub("?", json.dumps(value, ensure_ascii=False)), strict=True)
    return adapter.validate_python(value)


@cache
def _adapter() -> TypeAdapter[Document]:
    from pydantic import TypeAdapter  # noqa: PLC0415 - as above

    return TypeAdapter(Document)


def _fill(value: Any, error: ValidationError) -> None:  # noqa: ANN401 - JSON has no one type
    """Put null where a key is missing; whether it may be null is for the next look to say."""
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        if problem["type"] == "missing":
            *above, key = problem["loc"]
            owner = value
            for step in above:
                owner = owner[step]
            owner[key] = None


def _refuse(path: str, what: str, why: str, todo: str = "make it anew with `resnet-audit report -f json`") -> NoReturn:
    raise UnreadableCheckpoint(path, what, why, todo)
