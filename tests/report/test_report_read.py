"""Reading a report: what is refused, with which sentence, and what an earlier version may lack."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_audit.errors import UnreadableCheckpoint
from resnet_audit.render.json import to_json
from resnet_audit.report import read
from resnet_audit.report.read import read_document
from resnet_audit.results import SCHEMA_VERSION

BLOCK = {
    "name": "layer1.0",
    "skip": "identity",
    "weight_layers": 2,
    "layers": ["layer1.0.conv1", "layer1.0.conv2"],
    "skip_layers": [],
    "stage": 1,
    "transition": False,
    "input_shape": [8, 8, 8],
    "output_shape": None,
    "evidence": "named",
    "branch_gamma": 0.1,
}
GRAPH = {
    "source": "weights",
    "family": None,
    "runnable": True,
    "runnable_reason": None,
    "stem": [],
    "between": [],
    "head": [],
    "unplaced": [],
    "block_count": 1,
    "unplaced_count": 0,
    "nonfinite_count": 0,
    "dangerous_globals": [],
    "dangerous_globals_count": 0,
    "assumptions": [],
    "branch_gamma": 0.1,
    "blocks": [BLOCK],
}
ENTRY = {
    "path": "a.pt",
    "sha256": "0",
    "format": "torch-zip",
    "parameters": 1,
    "error": None,
    "graph": GRAPH,
    "notes": [],
}
DOCUMENT = {
    "schema_version": SCHEMA_VERSION,
    "tool": {"name": "resnet-audit", "version": "1", "torch": "2", "threads": 1},
    "command": "graph",
    "settings": {
        "seed": 0,
        "samples": 32,
        "input_size": None,
        "inputs": "auto",
        "dtype": "float32",
        "device": "cpu",
        "blocks": [],
    },
    "checkpoints": [ENTRY],
}


def changed(**places: Any) -> dict[str, Any]:
    """The document with other values at its places, `__` for a dot; `...` takes the key away."""
    document = copy.deepcopy(DOCUMENT)
    for place, value in places.items():
        *above, key = [int(step) if step.isdecimal() else step for step in place.split("__")]
        owner: Any = document
        for step in above:
            owner = owner[step]
        if value is ...:
            del owner[key]
        else:
            owner[key] = value
    return document


def refused(text: str) -> str:
    """The line that a text is refused with: path, what, why, what to do."""
    with pytest.raises(UnreadableCheckpoint) as stopped:
        read_document(text, "r.json")
    line = str(stopped.value)
    assert "\n" not in line
    path, *parts = line.split("; ")
    assert path.startswith("r.json: ")
    assert len(parts) >= 2
    return line


def test_a_report_comes_back() -> None:
    assert to_json(read_document(json.dumps(DOCUMENT))) == json.dumps(DOCUMENT, indent=2) + "\n"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("{", "no JSON (line 1"),
        (json.dumps(DOCUMENT)[:-40], "no JSON"),
        (json.dumps(DOCUMENT) + "x", "no JSON"),
        ("PK\x03\x04", "no JSON"),
        ('{"a": NaN}', "no JSON (NaN"),
        ('{"a": 1e999}', "no JSON (1e999"),
        ('{"a": ' + "1" * 5000 + "}", "no JSON"),
        ('{"a":' * 100_000, "nested too deep"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_no_json_is_refused(text, what) -> None:
    assert what in refused(text)


@pytest.mark.parametrize(
    "value",
    [
        [],
        None,
        3,
        "report",
        {},
        {"runs": [], "version": "2.1.0"},
        changed(tool__name="another"),
        changed(tool=...),
        changed(tool="resnet-audit"),
        changed(schema_version=...),
        changed(schema_version=1.0),
    ],
    ids=lambda value: json.dumps(value)[:30],
)
def test_the_json_of_another_tool_is_refused(value) -> None:
    assert "no report of resnet-audit" in refused(json.dumps(value))


@pytest.mark.parametrize("version", ["1.1", "2.0", "1.10", "10.0"])
def test_a_newer_schema_is_refused_with_the_one_that_is_known(version) -> None:
    line = refused(json.dumps(changed(schema_version=version)))
    assert f"schema {version}" in line
    assert f"up to {SCHEMA_VERSION}" in line
    assert "update" in line


@pytest.mark.parametrize("version", ["0.9", "0.0"])
def test_an_older_major_schema_is_refused(version) -> None:
    assert "means other things" in refused(json.dumps(changed(schema_version=version)))


@pytest.mark.parametrize("version", ["", "1", "1.0.0", "one", "1.0 ", "v1.0"])
def test_a_version_that_is_none_is_refused(version) -> None:
    assert "no version" in refused(json.dumps(changed(schema_version=version)))


def test_a_previous_minor_schema_is_read_without_the_keys_that_it_did_not_have(monkeypatch) -> None:
    monkeypatch.setattr(read, "SCHEMA_VERSION", "1.3")
    old = changed(
        schema_version="1.2",
        checkpoints__0__graph__branch_gamma=...,
        checkpoints__0__graph__blocks__0__branch_gamma=...,
        settings__input_size=...,
    )
    document = read_document(json.dumps(old))
    graph = document["checkpoints"][0]["graph"]
    assert graph is not None
    assert (graph.branch_gamma, graph.blocks[0].branch_gamma, graph.blocks[0].name) == (None, None, "layer1.0")
    assert document["settings"]["input_size"] is None
    assert document["schema_version"] == "1.2"


@pytest.mark.parametrize(
    ("places", "where"),
    [
        ({"checkpoints": ...}, "checkpoints"),
        ({"checkpoints": {}}, "checkpoints"),
        ({"command": ...}, "command"),
        ({"checkpoints__0__notes": ...}, "checkpoints.0.notes"),
        ({"checkpoints__0": 7}, "checkpoints.0"),
        ({"checkpoints__0__graph__block_count": ...}, "checkpoints.0.graph.block_count"),
        ({"checkpoints__0__graph__block_count": "1"}, "checkpoints.0.graph.block_count"),
        ({"checkpoints__0__graph__block_count": 1.5}, "checkpoints.0.graph.block_count"),
        ({"checkpoints__0__graph__branch_gamma": "nan"}, "checkpoints.0.graph.branch_gamma"),
        ({"checkpoints__0__graph__branch_gamma": True}, "checkpoints.0.graph.branch_gamma"),
        ({"checkpoints__0__graph__blocks__0__skip": "none"}, "checkpoints.0.graph.blocks.0.skip"),
    ],
    ids=str,
)
def test_a_value_against_the_schema_is_refused_with_its_place(places, where) -> None:
    assert f"; {where}: " in refused(json.dumps(changed(**places)))


def test_the_lines_of_one_run_are_one_document() -> None:
    lines = [changed(checkpoints__0__path=path) for path in ("a.pt", "b.pt", "c.pt")]
    document = read_document("\n".join(map(json.dumps, lines)) + "\n")
    assert [entry["path"] for entry in document["checkpoints"]] == ["a.pt", "b.pt", "c.pt"]


@pytest.mark.parametrize("places", [{"command": "bound"}, {"settings__seed": 1}, {"tool__version": "2"}], ids=str)
def test_lines_of_several_runs_are_refused(places) -> None:
    line = refused(json.dumps(DOCUMENT) + "\n" + json.dumps(changed(**places)))
    assert "several runs" in line
    assert next(iter(places)).partition("__")[0] in line


def test_only_the_last_line_may_have_what_stands_beside() -> None:
    compared = changed(comparison=None)
    assert "several runs" in refused(json.dumps(compared) + json.dumps(DOCUMENT))
    assert "comparison" in read_document(json.dumps(DOCUMENT) + json.dumps(compared | {"checkpoints": []}))


@given(st.text(alphabet='a"\\\n\x00é層\udc80\udcff\U0001f600\ufeff', max_size=20), st.floats(allow_nan=False))
def test_any_name_and_any_number_come_back(name, number) -> None:
    text = to_json(read_document(json.dumps(DOCUMENT)))
    document = read_document(text)
    document["checkpoints"][0]["path"] = name
    document["checkpoints"][0]["notes"] = ()
    document["settings"]["seed"] = 2**70
    written = to_json(document)
    assert to_json(read_document(written)) == written
    value = changed(checkpoints__0__graph__branch_gamma=number)
    if abs(number) < float("inf"):
        back = read_document(json.dumps(value))["checkpoints"][0]["graph"]
        assert back is not None
        assert back.branch_gamma == number


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)
    )
)
def test_no_json_escapes_as_another_error(value) -> None:
    refused(json.dumps(value))
    for key in DOCUMENT:
        try:
            read_document(json.dumps(DOCUMENT | {key: value}))
        except UnreadableCheckpoint:
            continue
