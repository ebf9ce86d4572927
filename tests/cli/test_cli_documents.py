"""The look at every document: it sees what is wrong with one, wherever it was printed or written."""

from __future__ import annotations

import json

import jsonschema
import pytest
from cli_documents import look_at, require_valid
from cli_runner import SMALL, TRAINED, invoke, sample


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_the_documents_of_a_run_are_counted(form) -> None:
    both = ("graph", TRAINED, TRAINED, *SMALL, "-f", form)
    assert look_at(both, sample(*both).out) == {"json": 1, "jsonl": 2}[form]


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_a_file_that_a_run_writes_is_looked_at(suffix, tmp_path) -> None:
    target = tmp_path / f"report.{suffix}"
    arguments = ("graph", TRAINED, *SMALL, "-o", str(target))
    assert invoke(*arguments).out == ""
    assert look_at(arguments, "") == 1
    target.write_text(target.read_text(encoding="utf-8").replace('"named"', '"rumour"'), encoding="utf-8")
    with pytest.raises(jsonschema.ValidationError, match="rumour"):
        look_at(arguments, "")


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_a_document_without_a_key_is_seen(form) -> None:
    document = json.loads(sample("graph", TRAINED, *SMALL, "-f", "json").out)
    assert require_valid(json.dumps(document), form) == 1
    del document["checkpoints"][0]["graph"]["unplaced"]
    with pytest.raises(jsonschema.ValidationError, match="unplaced"):
        look_at(("graph", "-f", form), json.dumps(document))


def test_what_is_no_document_is_left_alone() -> None:
    assert look_at(("schema",), "{}") == 0
    assert look_at(("graph", TRAINED), "a table") == 0
    assert look_at(("graph", TRAINED, "-f", "json"), "") == 0
