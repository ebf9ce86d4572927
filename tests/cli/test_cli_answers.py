"""stdout is the answer: valid, complete, the same every time, and about what was asked."""

from __future__ import annotations

import json

import jsonschema
import pytest
from cli_runner import COMMANDS, SAMPLES, SMALL, TRAINED, Ran, invoke, sample, small
from pydantic import TypeAdapter, ValidationError

from resnet_audit.report.schema import generate
from resnet_audit.results import Document

ANALYSES = ("bound", "spectrum", "gradient", "ensemble", "shortcut", "scaling")


def of(command: str, form: str) -> Ran:
    return sample(command, TRAINED, *SMALL, "-f", form)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_good_checkpoint_gives_a_table_and_nothing_on_stderr(command) -> None:
    ran = of(command, "table")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(TRAINED)
    assert "9 blocks" in ran.out
    assert "layer3.2" in ran.out
    assert "not available" not in ran.out


@pytest.mark.parametrize("command", COMMANDS)
def test_json_is_all_of_stdout_and_nothing_is_on_stderr(command) -> None:
    ran = of(command, "json")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.endswith("}\n")
    assert ran.json["command"] == command


def test_a_table_is_the_default() -> None:
    assert invoke("graph", TRAINED, *SMALL).out == of("graph", "table").out


@pytest.mark.parametrize("command", COMMANDS)
def test_the_document_is_valid_by_the_printed_schema_and_by_the_types(command) -> None:
    schema = sample("schema").json
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(small(command), schema, cls=jsonschema.Draft202012Validator)
    TypeAdapter(Document).validate_json(of(command, "json").out)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("command",), None),
        (("tool", "threads"), "two"),
        (("checkpoints", 0, "graph", "block_count"), "nine"),
        (("checkpoints", 0, "spectrum", "layers", 0, "sigma_max"), "large"),
        (("checkpoints", 0, "graph", "blocks", 0, "skip"), "unheard of"),
    ],
)
def test_the_schema_refuses_a_wrong_document(path, value) -> None:
    document = json.loads(of("spectrum", "json").out)
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, sample("schema").json, cls=jsonschema.Draft202012Validator)
    with pytest.raises(ValidationError):
        TypeAdapter(Document).validate_json(json.dumps(document))


def test_the_printed_schema_is_the_one_that_the_types_imply() -> None:
    assert sample("schema").code == 0
    assert sample("schema").out == generate()


@pytest.mark.parametrize("command", COMMANDS)
def test_the_graph_is_always_there_and_other_analyses_only_if_asked_for(command) -> None:
    (entry,) = small(command)["checkpoints"]
    asked = ANALYSES if command == "report" else tuple(name for name in ANALYSES if name == command)
    assert [name for name in ("graph", *ANALYSES) if name in entry] == ["graph", *asked]
    assert all(entry[name] is not None for name in ("graph", *asked))
    assert "procrustes" not in entry


def test_the_document_says_what_was_asked_and_of_what() -> None:
    document = small("gradient")
    assert document["schema_version"] == "1.0"
    assert document["tool"]["name"] == "resnet-audit"
    assert document["settings"] == {
        "seed": 0,
        "samples": 4,
        "input_size": [1, 8, 8],
        "inputs": "auto",
        "dtype": "float32",
        "device": "cpu",
        "blocks": [],
    }
    (entry,) = document["checkpoints"]
    assert entry["path"] == TRAINED
    assert entry["parameters"] == 67_906
    assert entry["error"] is None


def test_report_holds_the_numbers_of_the_single_commands() -> None:
    (whole,) = small("report")["checkpoints"]
    for command in ("graph", *ANALYSES):
        (entry,) = small(command)["checkpoints"]
        assert whole[command] == entry[command], command


@pytest.mark.parametrize(("command", "form"), [*((command, "json") for command in COMMANDS), ("report", "table")])
def test_the_same_command_gives_the_same_bytes_twice(command, form) -> None:
    assert invoke(command, TRAINED, *SMALL, "-f", form).out == of(command, form).out


@pytest.mark.parametrize("command", ["bound", "spectrum"])
def test_one_thread_and_two_give_the_same_numbers(command) -> None:
    one, two = (invoke(command, TRAINED, "-f", "json", "--threads", n).json for n in ("1", "2"))
    assert (one["tool"]["threads"], two["tool"]["threads"]) == (1, 2)
    assert one["checkpoints"] == two["checkpoints"]


def test_another_seed_gives_other_inputs_and_the_same_graph() -> None:
    (other,) = invoke("gradient", TRAINED, *SMALL, "-f", "json", "--seed", "1").json["checkpoints"]
    (usual,) = small("gradient")["checkpoints"]
    assert other["graph"] == usual["graph"]
    assert other["gradient"]["norms"] != usual["gradient"]["norms"]


def test_real_inputs_give_the_input_size_and_are_named() -> None:
    ran = invoke("gradient", TRAINED, "--data", str(SAMPLES / "digits.npz"), "--samples", "4", "-f", "json")
    (entry,) = ran.json["checkpoints"]
    assert entry["gradient"]["inputs"]["kind"] == "data"
    assert entry["gradient"]["inputs"]["n"] == 4
    assert any("1x8x8" in text for text in entry["graph"]["assumptions"])


# --blocks ---------------------------------------------------------------------------------------------------

ROWS = {"blocks", "layers"}


def totals(result: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in result.items() if name not in ROWS}


def test_a_block_filter_takes_rows_and_leaves_totals() -> None:
    (whole,) = small("report")["checkpoints"]
    ran = invoke("report", TRAINED, *SMALL, "-f", "json", "--blocks", "layer2.*")
    assert ran.json["settings"]["blocks"] == ["layer2.*"]
    (entry,) = ran.json["checkpoints"]
    kept = ["layer2.0", "layer2.1", "layer2.2"]
    for name in ("graph", *ANALYSES):
        assert totals(entry[name]) == totals(whole[name]), name
        if "blocks" in entry[name]:
            assert [row["name"] for row in entry[name]["blocks"]] == kept, name
    for name in ("bound", "spectrum"):
        layers = [row["name"] for row in entry[name]["layers"]]
        assert layers == [f"{block}.{conv}" for block in kept for conv in ("conv1", "conv2")], name
        assert all(row in whole[name]["layers"] for row in entry[name]["layers"]), name


def test_block_filters_add_up_and_their_case_counts() -> None:
    ran = invoke("graph", TRAINED, "-f", "json", "--blocks", "layer1.0", "--blocks", "layer3.[12]")
    (entry,) = ran.json["checkpoints"]
    assert [row["name"] for row in entry["graph"]["blocks"]] == ["layer1.0", "layer3.1", "layer3.2"]
    assert invoke("graph", TRAINED, "--blocks", "LAYER1.*").code == 2


def test_the_filter_stands_in_the_caption() -> None:
    ran = invoke("gradient", TRAINED, *SMALL, "--blocks", "layer2.*")
    assert "rows: --blocks layer2.*; totals are of the whole network" in " ".join(ran.out.split())
    assert "layer3.0 " not in ran.out


def test_a_filter_that_matches_no_block_is_refused_with_the_names_that_are_there() -> None:
    ran = invoke("spectrum", TRAINED, *SMALL, "--blocks", "stage*", "-f", "json")
    assert ran.code == 2
    assert ran.lines == [ran.json["checkpoints"][0]["error"]]
    assert ran.lines[0].startswith(f"{TRAINED}: --blocks stage* matches no block")
    assert "layer1.0" in ran.lines[0]


def test_fast_gives_the_same_largest_values_without_the_spectrum() -> None:
    command = ("spectrum", str(TRAINED), "--input-size", "1x8x8", "-f", "json")
    whole, fast = (invoke(*command, *flag).json["checkpoints"][0]["spectrum"] for flag in ((), ("--fast",)))
    assert [row["name"] for row in fast["layers"]] == [row["name"] for row in whole["layers"]]
    for quick, full in zip(fast["layers"], whole["layers"], strict=True):
        assert quick["sigma_max"] == pytest.approx(full["sigma_max"], rel=2e-2 if full["kind"] == "linear" else 1e-10)
        assert quick["count"] == full["count"]
        assert quick["quantiles"] is None or min(quick["grid"]) < 3  # a kernel that wraps needs the whole spectrum
        assert quick["rms"] == pytest.approx(full["rms"], rel=1e-6)
