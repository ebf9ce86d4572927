from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from render_factory import bound, document, hostile, spectrum

from resnet_audit.render import plain, to_json
from resnet_audit.results import CheckpointEntry, GraphResult, Note


def refuse(constant: str) -> None:
    raise AssertionError(constant)


def read(text: str) -> dict:
    return json.loads(text, parse_constant=refuse)


def test_the_document_comes_back_as_it_was() -> None:
    shown = document()
    assert read(to_json(shown)) == plain(shown)[0]


def test_objects_have_the_keys_of_their_types_in_order() -> None:
    shown = document("graph")
    entry = dict(reversed(shown["checkpoints"][0].items()))
    made = read(to_json({**dict(reversed(shown.items())), "checkpoints": [entry]}))
    assert list(made) == ["schema_version", "tool", "command", "settings", "checkpoints"]
    assert list(made["settings"]) == ["seed", "samples", "input_size", "inputs", "dtype", "device", "blocks"]
    order = [key for key in CheckpointEntry.__annotations__ if key in entry]
    assert list(made["checkpoints"][0]) == order
    fields = [field.name for field in dataclasses.fields(GraphResult) if field.name != "notes"]
    assert list(made["checkpoints"][0]["graph"]) == fields


def test_a_key_that_no_type_names_is_kept() -> None:
    made = read(to_json({**document("graph"), "comparison": {"rows": ()}}))
    assert made["comparison"] == {"rows": []}


def test_notes_are_the_checkpoints_only() -> None:
    made = read(
        to_json(
            document(
                "graph", graph=replace(document()["checkpoints"][0]["graph"], notes=(Note(code="a", message="b"),))
            )
        )
    )
    assert "notes" not in made["checkpoints"][0]["graph"]
    assert made["checkpoints"][0]["notes"][0]["code"] == "prefix"


def test_a_number_that_is_not_finite_is_null_with_a_note() -> None:
    layers = spectrum().layers
    broken = replace(spectrum(), layers=(replace(layers[0], sigma_max=math.nan, rms=-math.inf), *layers[1:]))
    shown = document("spectrum", spectrum=broken)
    value, lost = plain(shown)
    assert lost == ["checkpoints[0].spectrum.layers[0].sigma_max", "checkpoints[0].spectrum.layers[0].rms"]
    assert value["checkpoints"][0]["spectrum"]["layers"][0]["sigma_max"] is None
    note = read(to_json(shown))["checkpoints"][0]["notes"][-1]
    assert note["code"] == "not_finite"
    assert note["where"] == "spectrum.layers[0].sigma_max"


def test_minus_zero_is_zero_and_floats_are_their_repr() -> None:
    text = to_json(document("bound", bound=replace(bound(), log10_lipschitz=-0.0, tail=0.1 + 0.2)))
    assert "-0.0," not in text
    assert '"log10_lipschitz": 0.0' in text
    assert '"tail": 0.30000000000000004' in text


@given(st.text(alphabet='a"\\\n\x00é層\ud800\udcff\U0001f600', max_size=20))
def test_any_name_is_valid_json_that_encodes(name) -> None:
    text = to_json(hostile(name))
    text.encode("utf-8")
    assert text.endswith("}\n")
    assert "\r" not in text
    # The escapes of two surrogates that meet are one character to a reader.
    same = name.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    assert read(text)["checkpoints"][0]["bound"]["layers"][0]["name"] == same


def test_names_are_written_as_they_are() -> None:
    assert '"層é"' in to_json(hostile("層é"))
