"""A metric path finds what a walk through the JSON finds, and a path that is none is told with what was meant."""

from __future__ import annotations

import json
from typing import Any

import pytest
from check_documents import block, brute_force, document, entry, gradient, shortcut
from hypothesis import given
from hypothesis import strategies as st

from resnet_audit.check.ignores import ignores
from resnet_audit.check.paths import kinds, look_up, numbers, resolve
from resnet_audit.errors import UsageError
from resnet_audit.explain.find import metrics
from resnet_audit.report.schema import schema_text

NUMBERS = st.none() | st.floats(-10, 10)
NAMES = st.sampled_from(["layer1.0", "layer1.1", "0", "a b"])
BLOCKS = st.lists(st.builds(block, NAMES, NUMBERS, st.none() | st.tuples(st.floats(0, 1), st.floats(1, 2))), max_size=5)
RESULTS = st.none() | st.builds(gradient, BLOCKS, st.lists(st.floats(0, 1), max_size=4).map(tuple), NUMBERS)
PATHS = [
    "parameters",
    "gradient.ratio_worst",
    "gradient.norms",
    "gradient.inputs.n",
    "gradient.inputs.bn_mismatch_mean",
    "gradient.blocks.ratio",
    "gradient.blocks.interval",
    "gradient.blocks.transition",
    "shortcut.depths.2",
    "shortcut.hessian.lambda_max",
    "shortcut.zero_hessian.sigma_max",
    "spectrum.sigma_max",
]


@given(RESULTS, st.dictionaries(st.sampled_from("123"), st.integers(0, 9)), st.sampled_from(PATHS))
def test_a_path_finds_what_a_walk_through_the_json_finds(result, depths, path) -> None:
    one = entry(gradient=result, shortcut=shortcut(depths))
    assert [(found.where, found.value) for found in look_up(one, path)] == brute_force(one, path)


@given(RESULTS, st.sampled_from(PATHS))
def test_locations_are_all_different(result, path) -> None:
    found = look_up(entry(gradient=result), path)
    assert len({one.where for one in found}) == len(found)


def test_a_list_in_a_list_adds_its_index() -> None:
    one = entry(gradient=gradient([block("a", 1.0, (0.5, 2.0)), block("a", 1.0, (0.1, 3.0))]))
    places = [(found.where, found.value) for found in look_up(one, "gradient.blocks.interval")]
    assert places == [("a[0]", 0.5), ("a[1]", 2.0), ("a#2[0]", 0.1), ("a#2[1]", 3.0)]


def of_schema() -> set[str]:
    """Every path to a number below a checkpoint, by walking the JSON Schema; `*` for free keys."""
    schema = json.loads(schema_text())
    found: set[str] = set()

    def walk(node: dict[str, Any], path: str) -> None:
        if "$ref" in node:
            walk(schema["$defs"][node["$ref"].rpartition("/")[2]], path)
        for inner in (*node.get("anyOf", ()), *node.get("prefixItems", ())):
            walk(inner, path)
        if isinstance(node.get("items"), dict):
            walk(node["items"], path)
        if isinstance(node.get("additionalProperties"), dict):
            walk(node["additionalProperties"], f"{path}.*")
        for name, inner in node.get("properties", {}).items():
            walk(inner, f"{path}.{name}" if path else name)
        if node.get("type") in {"number", "integer", "boolean"}:
            found.add(path)

    walk({"$ref": "#/$defs/CheckpointEntry"}, "")
    return {path for path in found if not path.startswith("notes")}


def test_the_known_paths_are_those_of_the_schema() -> None:
    assert set(numbers()) == of_schema()


def test_every_metric_has_a_text_but_those_of_the_file_and_of_free_keys() -> None:
    assert {path for path in numbers() if path not in metrics()} == {
        "parameters",
        "bound.measures.*",
        "shortcut.depths.*",
    }


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("spectrum.sigma_max", "spectrum.sigma_max"),
        ("checkpoints[].spectrum.sigma_max", "spectrum.sigma_max"),
        ("checkpoints.gradient.blocks.ratio", "gradient.blocks.ratio"),
        ("shortcut.depths.12", "shortcut.depths.12"),
        ("bound.measures.L2", "bound.measures.L2"),
        ("procrustes.target", "procrustes.target"),
        ("bound.vacuous", "bound.vacuous"),
    ],
)
def test_a_path_is_known(written, path) -> None:
    assert resolve(written) == path


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("spectrum.sigma_mx", "did you mean spectrum.sigma_max"),
        ("sigma_max", "did you mean spectrum.sigma_max"),
        ("gradient.block.ratio", "did you mean gradient.blocks.ratio"),
        ("bound.covers.operator", "holds several; did you mean bound.covers.operator."),
        ("graph.family", "this is text"),
        ("graph.unplaced", "this is text and a threshold needs a number; did you mean graph.unplaced_count"),
        ("path", "this is text"),
        ("", "no metric"),
        ("zzzzzz", "no metric has this path; `resnet-audit explain`"),
        ("comparison.rows.x", "no metric"),
        ("notes.code", "no metric"),
        ("gradient.notes", "no metric"),
        ("shortcut.depths", "holds several"),
        ("gradient.blocks.ratio.x", "no metric"),
    ],
)
def test_a_path_to_no_number_is_told_with_what_may_have_been_meant(written, meant) -> None:
    with pytest.raises(UsageError) as stopped:
        resolve(written)
    assert str(stopped.value).startswith(f"{written}: ")
    assert meant in str(stopped.value)
    assert "\n" not in str(stopped.value)


@given(st.text(max_size=30) | st.sampled_from(sorted(kinds())))
def test_any_text_is_a_path_or_a_usage_error(text) -> None:
    try:
        assert look_up(document(entry())["checkpoints"][0], resolve(text)) is not None
    except UsageError:
        assert kinds().get(text) != "number"


def test_an_ignored_place_is_a_metric_and_a_pattern_of_its_locations() -> None:
    plain, some = ignores(["spectrum.layers.condition", "checkpoints[].gradient.blocks.ratio[layer3.*]"])
    assert plain.covers("spectrum.layers.condition", "conv1")
    assert plain.covers("spectrum.layers.condition", None)
    assert not plain.covers("spectrum.layers.sigma_max", "conv1")
    assert some.covers("gradient.blocks.ratio", "layer3.2")
    assert not some.covers("gradient.blocks.ratio", "layer2.3")


@pytest.mark.parametrize("text", ["", "x[", "gradient.blocks.ratio[]", "[a]", "gradient.block.ratio[a]", "a]b"])
def test_what_is_no_metric_cannot_be_ignored(text) -> None:
    with pytest.raises(UsageError, match="--ignore"):
        ignores([text])
