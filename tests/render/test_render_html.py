"""The page: everything that the terminal says, nothing from elsewhere, and names that stay text."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from page_reader import Element, read
from render_documents import checked, every_document
from render_factory import ANALYSES, bound, document, ensemble, gradient, hostile, spectrum
from test_render_comparison import compare, one, series

from resnet_audit.explain import find
from resnet_audit.render import words
from resnet_audit.render.analyses import parts_of
from resnet_audit.render.fit import is_empty
from resnet_audit.render.html import to_html
from resnet_audit.render.parts import Look, Table
from resnet_audit.results import Note

LOOK = Look(ascii_only=False)
NASTY = st.text(alphabet="ab<>&\"'/;=\\`{}%\x00\x1b\x85\n\u202e\u2066\u2028\u05d0層\udc80 ", min_size=1, max_size=60)
SCRIPTS = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</title></style></script><svg onload=alert(1)>",
    "' onmouseover='alert(1)",
    "{{ 7 * 7 }}{% include 'x' %}",
    "</svg><a href='javascript:alert(1)'>",
)


def page(shown: Any) -> Element:
    return read(to_html(shown))


@pytest.mark.parametrize("name", every_document())
def test_a_page_is_well_formed_and_needs_nothing_from_elsewhere(name) -> None:
    text = to_html(every_document()[name])
    whole = read(text)
    assert text.startswith("<!DOCTYPE html>\n<html lang=")
    assert text.endswith("</html>\n")
    assert "url(" not in text
    assert "@import" not in text
    assert "://" not in text
    for element in whole.every():
        assert element.tag not in {"link", "img", "iframe", "object", "embed", "base", "form", "use", "image"}
        assert not {"src", "style", "srcset", "action", "xlink:href"} & set(element.attributes)
        assert not [name for name in element.attributes if name.startswith("on")]
        assert element.attributes.get("href", "#").startswith("#")


@pytest.mark.parametrize("name", ["report", "series", "check"])
def test_the_policy_allows_these_two_texts_and_nothing_else(name) -> None:
    whole = page(every_document()[name])
    (policy,) = [m.attributes["content"] for m in whole.all("meta") if "http-equiv" in m.attributes]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    (style,), (script,) = whole.all("style"), whole.all("script")
    assert rules == {
        "default-src": "'none'",
        "style-src": f"'sha256-{digest(style.text)}'",
        "script-src": f"'sha256-{digest(script.text)}'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    # It has to stand before whatever it forbids.
    head = whole.all("head")[0].every()
    assert next(i for i, e in enumerate(head) if "http-equiv" in e.attributes) < head.index(style)


def digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def harmless(text: str) -> None:
    """Fails unless names are text in this page, and every character in it is one that stands still."""
    whole = read(text)
    assert len(whole.all("script")) == len(whole.all("style")) == 1
    for element in whole.every():
        assert element.tag not in {"img", "a"} or element.attributes.get("href", "").startswith("#")
        assert not [name for name in element.attributes if name.startswith("on") or name == "style"]
    assert not set(text) & set("\x00\x1b\x85\u202e\u2066\u2028\udc80")
    text.encode()


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_name_that_is_a_script_is_text(name) -> None:
    text = to_html(hostile(name))
    harmless(text)
    whole = read(text)
    cells = [cell for table in whole.all("table") for row in table.table() for cell in row]
    assert cells.count(name) >= 5
    assert "49" not in {cell for cell in cells if "7 *" in cell}


@settings(max_examples=25, deadline=None)
@given(NASTY)
def test_any_name_and_any_path_is_text_without_effect_on_its_neighbours(name) -> None:
    shown = hostile(name)
    entry = {**shown["checkpoints"][0], "path": name, "format": name, "error": name}
    entry["notes"] = (Note(code="x", message=name, where=name),)
    text = to_html({**shown, "checkpoints": [entry]})
    harmless(text)
    visible = words.clean(name, "utf-8")
    assert visible in read(text).all("h2")[0].text
    harmless(to_html(compare(one(name), one(f"{name}b", 0.2))))


def shown_tables(result: Any) -> list[list[list[str]]]:
    """The tables of the terminal as cells, without columns that hold no value."""
    found = []
    for part in parts_of(result, LOOK):
        if isinstance(part, Table):
            columns = [c for c in part.columns if c.priority == 0 or not is_empty(c)]
            rows = zip(*(map(str, column.cells) for column in columns), strict=True)
            found.append([[column.header for column in columns], *(list(row) for row in rows)])
    return found


@pytest.mark.parametrize("command", ANALYSES)
def test_the_tables_and_sentences_are_those_of_the_terminal(command) -> None:
    shown = document(command)
    entry: Any = shown["checkpoints"][0]
    whole = page(shown)
    tables = [table.table() for table in whole.all("table")]
    expected = shown_tables(entry[command])
    assert expected
    assert [table for table in tables if table in expected] == expected
    said = {" ".join(p.text.split()) for p in whole.all("p")}
    lines = [part for part in parts_of(entry[command], LOOK) if not isinstance(part, Table)]
    assert {" ".join(line.text.removeprefix("  - ").split()) for line in lines} <= said


def test_the_header_says_what_was_audited_how_and_by_which_versions() -> None:
    shown = document(globs=("layer3.*", "<b>"))
    shown["settings"]["input_size"] = (3, 32, 32)
    facts = {row.all("dt")[0].text: row.all("dd")[0].text for row in page(shown).all("dl")[0].all("div")}
    assert facts["command"] == "resnet-audit report"
    assert facts["version"] == "0.1.0"
    assert facts["torch"] == "2.10.0, 2 threads"
    assert facts["input size"] == "3x32x32"
    assert facts["blocks"] == "layer3.* <b>"
    assert facts["seed"] == "0"
    whole = page(shown)
    assert "resnet20.th" in whole.all("h2")[0].text
    assert "ab" * 32 in whole.all("article")[0].text


def test_every_headline_has_the_word_of_its_metric() -> None:
    cards = page(document()).all("ul", "cards")[0].all("li")
    found = {card.all("span", "path")[0].text: card for card in cards}
    assert {"spectrum.sigma_max", "gradient.ratio_median", "ensemble.depth_mean", "scaling.residual_time"} <= set(found)
    for path, card in found.items():
        entry = find(path).entry
        assert entry is not None
        assert card.all("span", "status")[0].text == entry.status
    assert found["spectrum.sigma_max"].all("b")[0].text == "8.430"
    assert found["bound.log10_lipschitz"].all("b")[0].text == "10^10.39"
    assert found["ensemble.depth_mean"].all("b")[0].text == "14.0"
    statuses = {card.all("span", "status")[0].text for card in cards}
    assert {"certified", "exact", "prediction"} <= statuses
    legend = page(document()).all("footer")[0].text
    assert all(f"{word}:" in legend for word in ("certified", "exact", "estimate", "prediction", "assumed"))


def test_a_number_without_a_value_has_no_card() -> None:
    none = replace(ensemble(), distribution=None, depth_mean=None, depth_mode=None, projection_mean=None)
    paths = [span.text for span in page(document(ensemble=none)).all("span", "path")]
    assert "graph.block_count" in paths
    assert not any(path.startswith("ensemble") for path in paths)


def test_what_is_missing_says_why_and_what_failed_says_what() -> None:
    reason = Note(code="not_runnable", message="no input size is known; give --input-size")
    text = page(document("gradient", gradient=None, notes=(reason,))).text
    assert "gradient is not available: no input size is known; give --input-size" in text
    broken = page(document("graph", graph=None, error="x.pt: not a checkpoint"))
    assert "error: x.pt: not a checkpoint" in broken.text
    assert [title.text for title in broken.all("h3")] == ["notes"]


def test_several_checkpoints_have_a_place_each_that_the_top_leads_to() -> None:
    one_, two = document("graph"), document("graph", path="other <i>.th")
    whole = page({**one_, "checkpoints": [*one_["checkpoints"], *two["checkpoints"]]})
    links = [(link.attributes["href"], link.text) for link in whole.all("nav")[0].all("a")]
    assert links == [("#c1", "resnet20.th"), ("#c2", "other <i>.th")]
    ids = [element.attributes["id"] for element in whole.every() if "id" in element.attributes]
    assert len(set(ids)) == len(ids)
    assert {"c1", "c2"} <= set(ids)


def test_a_comparison_has_its_rows_its_panels_and_the_digests_of_the_files() -> None:
    whole = page(series())
    titles = [figure.all("figcaption")[0].text for figure in whole.all("figure")]
    assert "spectral complexity, log10" in titles
    assert "share of the gradient norm by path depth" in titles
    rows, *_, files = [table.table() for table in whole.all("table")]
    assert [row[0] for row in rows[1:]] == [f"epoch{e:02}" for e in (0, 1, 2, 4, 8, 16)]
    assert [row[3] for row in files[1:]] == ["ab" * 32] * 6


def test_a_verdict_is_in_words() -> None:
    whole = page(checked())
    assert "1 failed, 1 held by baseline, 1 passed, 1 not judged" in whole.text
    first = whole.all("table")[0].table()
    assert {"FAIL", "held", "ok"} <= {cell for row in first for cell in row}
    assert not whole.all("article")


@pytest.mark.parametrize("name", ["report", "family", "check"])
def test_the_same_document_gives_the_same_bytes_in_another_process(name) -> None:
    here = to_html(every_document()[name])
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from test_render_html import every_document, to_html; "
        "sys.modules['matplotlib'] = None; sys.stdout.buffer.write(to_html(every_document()[sys.argv[2]]).encode()); "
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent), name],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    assert done.stdout.decode() == here


def test_colours_are_variables_so_that_charts_follow_the_theme() -> None:
    whole = page(document())
    for element in [e for svg in whole.all("svg") for e in svg.every()]:
        assert not {"fill", "stroke", "color"} & set(element.attributes)
    style = whole.all("style")[0].text
    light, dark = re.findall(r":root \{([^}]*)\}", style)[:2]
    variables = {name: set(re.findall(r"(--[\w]+):", text)) for name, text in (("light", light), ("dark", dark))}
    assert variables["light"] == variables["dark"]
    assert set(re.findall(r"var\((--\w+)\)", style)) <= variables["light"]
    assert "@media print" in style


def test_an_empty_document_is_a_page_too() -> None:
    whole = page({**document(), "checkpoints": []})
    assert whole.all("h1")[0].text == "Audit of residual networks"


def test_nothing_to_draw_leaves_no_empty_frame() -> None:
    bare = replace(spectrum(), layers=(), blocks=(), sigma_max=None, sigma_max_where=None)
    none = replace(gradient(), blocks=())
    nothing = replace(bound(), layers=())
    for name, result in (("spectrum", bare), ("gradient", none), ("bound", nothing)):
        article = page(document(name, **{name: result})).all("section")[-2]
        assert not article.all("figure"), name
