"""The shipped schema says what the result types say, and nothing of what is not in the JSON."""

from __future__ import annotations

import json

from resnet_audit.report.schema import generate, schema_text
from resnet_audit.results import SCHEMA_VERSION


def test_the_shipped_schema_is_the_generated_one() -> None:
    assert schema_text() == generate()


def test_the_schema_names_its_version_and_dialect() -> None:
    schema = json.loads(schema_text())
    assert SCHEMA_VERSION in schema["title"]
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_results_have_no_notes_and_checkpoints_do() -> None:
    definitions = json.loads(schema_text())["$defs"]
    results = [name for name in definitions if name.endswith("Result")]
    assert len(results) == 8
    for name in results:
        assert "notes" not in definitions[name]["properties"], name
        assert "notes" not in definitions[name].get("required", []), name
    assert "notes" in definitions["CheckpointEntry"]["required"]


def test_analyses_are_optional_and_what_identifies_a_checkpoint_is_not() -> None:
    entry = json.loads(schema_text())["$defs"]["CheckpointEntry"]
    assert set(entry["required"]) == {"path", "sha256", "format", "parameters", "error", "notes"}
    assert {"graph", "bound", "spectrum", "gradient", "ensemble"} <= entry["properties"].keys()
