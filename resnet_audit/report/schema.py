"""The JSON Schema of the document, generated from the result types: one source for data, schema and validation."""

from __future__ import annotations

import json
from importlib.resources import files


def generate() -> str:
    """The schema's text as the result types imply it; what `schema.json` must hold."""
    # pydantic is slow to import and only needed to write the schema, never to print it.
    from pydantic import TypeAdapter  # noqa: PLC0415 - as above

    from resnet_audit.results import SCHEMA_VERSION, Document  # noqa: PLC0415 - as above

    schema = TypeAdapter(Document).json_schema(mode="serialization")
    _drop_notes_of_results(schema)
    opening = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"resnet-audit report, schema {SCHEMA_VERSION}",
    }
    return json.dumps(opening | {key: value for key, value in schema.items() if key != "title"}, indent=2) + "\n"


def schema_text() -> str:
    """The schema as shipped."""
    return files("resnet_audit.report").joinpath("schema.json").read_text(encoding="utf-8")


def _drop_notes_of_results(schema: dict[str, dict[str, dict[str, dict[str, object]]]]) -> None:
    """Results carry their notes only until the document is put together; they are not in the JSON."""
    for name, definition in schema["$defs"].items():
        if name.endswith("Result"):
            definition["properties"].pop("notes", None)
