"""Markdown: read back by a parser that is not ours, it says what the terminal says, and names stay text."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from render_documents import checked, every_document
from render_factory import ANALYSES, document, graph, hostile
from test_render_comparison import compare, one, series
from test_render_html import SCRIPTS, shown_tables

from resnet_audit.render import words
from resnet_audit.render.analyses import parts_of
from resnet_audit.render.markdown import LONG, paragraph, plain, to_markdown
from resnet_audit.render.parts import Look, Table
from resnet_audit.results import Note

markdown_it = pytest.importorskip("markdown_it", reason="rich brings it: it reads the Markdown back")

TRICKY = st.text(alphabet="ab_*`~|[]()<>&#@:!\\$-+=.1 \n\t\"'/\u202e\x1b層w", min_size=1, max_size=40)
ALLOWED = {"details", "summary", "code", "h1", "h2", "h3", "p", "ul", "li", "strong", "table", "thead", "tbody"} | {
    "tr",
    "th",
    "td",
}


class Words(HTMLParser):
    """The tags of a page, its tables as cells, and its text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.text: list[str] = []
        self.inside: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert all(name == "style" and tag in {"th", "td"} for name, _ in attrs), (tag, attrs)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in {"th", "td"}:
            self.inside = []

    def handle_endtag(self, tag: str) -> None:
        if tag in {"th", "td"} and self.inside is not None:
            self.tables[-1][-1].append("".join(self.inside))
            self.inside = None

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self.inside is not None:
            self.inside.append(data)


def rendered(text: str) -> Words:
    """What a reader sees: CommonMark with the tables of GitHub, raw HTML let through."""
    reader = Words()
    reader.feed(markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table").render(text))
    return reader


@pytest.mark.parametrize("name", every_document())
def test_every_document_is_markdown_of_known_elements(name) -> None:
    text = to_markdown(every_document()[name])
    assert "\x1b" not in text
    assert text.endswith("\n")
    assert "\n\n\n" not in text
    assert not [line for line in text.splitlines() if line != line.rstrip()]
    assert set(rendered(text).tags) <= ALLOWED
    assert text == to_markdown(every_document()[name])


@pytest.mark.parametrize("command", ANALYSES)
def test_the_tables_and_sentences_are_those_of_the_terminal(command) -> None:
    shown = document(command)
    result: Any = shown["checkpoints"][0][command]  # type: ignore[literal-required]
    seen = rendered(to_markdown(shown))
    expected = [[[cell.strip() for cell in row] for row in table] for table in shown_tables(result)]
    tables = [[[cell.replace("\xa0", " ").strip() for cell in row] for row in table] for table in seen.tables]
    assert [table for table in tables if table in expected] == expected
    text = " ".join("".join(seen.text).split())
    for part in parts_of(result, Look(ascii_only=False)):
        if not isinstance(part, Table):
            assert " ".join(part.text.removeprefix("  - ").split()) in text


def test_a_bar_keeps_its_blanks_so_that_it_stands_below_its_axis() -> None:
    text = to_markdown(document("gradient"))
    row = next(line for line in text.splitlines() if line.startswith("| layer3.2 |"))
    assert f"`{chr(0xA0) * 14}│━" in row
    header = next(line for line in text.splitlines() if line.startswith("| block |"))
    assert re.search(r"`¼\xa0+½\xa0+1\xa0+2\xa0+4`", header)


def test_a_long_table_is_folded_under_a_line_that_says_what_it_holds() -> None:
    short, long = document("graph"), graph(tuple(f"b{i}" for i in range(LONG)))
    assert "<details>" not in to_markdown(short)
    text = to_markdown(document("graph", graph=long))
    assert f"<details><summary>{LONG} rows: block, skip, weights" in text
    assert text.count("<details>") == text.count("</details>") == 1
    # A blank line on both sides, or GitHub takes the table for HTML.
    assert re.search(r"</summary>\n\n\| block", text)
    assert re.search(r"\|\n\n</details>", text)


@settings(max_examples=300, deadline=None)
@given(TRICKY)
def test_any_text_is_seen_as_it_is_in_a_line_and_in_a_cell(name) -> None:
    visible = " ".join(words.clean(name, "utf-8").split())
    line = rendered(paragraph(name))
    assert " ".join("".join(line.text).split()) == visible
    assert set(line.tags) <= {"p", "code"}
    cell = rendered(f"| a | b |\n|:--|--:|\n| {plain(name)} | x |\n")
    assert len(cell.tables) == 1
    assert [" ".join(text.split()) for text in cell.tables[0][1]] == [visible, "x"]
    assert set(cell.tags) <= {"table", "thead", "tbody", "tr", "th", "td", "code"}


@pytest.mark.parametrize(
    "text",
    [
        "https://example.org",
        "www.example.org",
        "http://a.b",
        "ftp://a",
        "$x^2$",
        "a@b.c",
        "@team",
        "~~a~~",
        "[a](b)",
        "![a](b)",
    ],
)
def test_what_github_alone_reads_as_more_is_broken_up(text) -> None:
    shown = plain(text)
    assert not re.search(r"://|www\.|\$|~|\]\(", shown)
    assert "@" not in shown.replace("<code>@</code>", "")


@pytest.mark.parametrize("name", [*SCRIPTS, "a|b", "`x`", "a\nb", "\u202eabc", "</details>"])
def test_a_hostile_name_is_text(name) -> None:
    seen = rendered(to_markdown(hostile(name)))
    assert set(seen.tags) <= ALLOWED
    cells = [" ".join(cell.split()) for table in seen.tables for row in table for cell in row]
    assert cells.count(" ".join(words.clean(name, "utf-8").split())) >= 5
    assert set(rendered(to_markdown(compare(one(name), one(f"{name}b", 0.2)))).tags) <= ALLOWED


def test_headlines_notes_and_errors_are_there() -> None:
    text = to_markdown(document())
    assert "| spectrum.sigma_max | **8.430** | in layer3.2.conv2 | exact: largest singular value" in text
    assert "\n### notes\n\n- the prefix module. was removed from 127 names\n" in text
    assert f"sha256 `{'ab' * 32}`" in text
    broken = to_markdown(document("graph", graph=None, error="x.pt: not a checkpoint; it is text; name another"))
    assert "**error:** x.pt: not a checkpoint; it is text; name another" in broken
    reason = Note(code="no_blocks", message="no residual block was found")
    missing = to_markdown(document("gradient", gradient=None, notes=(reason,)))
    assert "**gradient is not available: no residual block was found**" in missing


def test_a_verdict_and_a_comparison_stand_in_place_of_the_checkpoints() -> None:
    text = to_markdown(checked())
    assert re.search(r"\| FAIL \| spectrum.sigma_max \| layer3.2.conv2 \| 8.430 \| max 4 \|", text)
    assert "**1 failed, 1 held by baseline, 1 passed, 1 not judged**" in text
    assert "**not judged: x.pt: no number for gradient.c_hat**" in text
    told = to_markdown(series())
    assert "## 6 checkpoints in runs/first, each of 9 blocks and 269,721 parameters" in told
    assert "| epoch16 |" in told
    broken = {**one("b.pt"), "graph": None, "error": "b.pt: broken"}
    assert "**error:** b.pt: broken" in to_markdown(compare(one("a.pt"), one("c.pt", 0.1), broken))


def test_a_filter_of_rows_is_said() -> None:
    assert "rows of blocks layer3.&#42;" in to_markdown(document(globs=("layer3.*",)))


def test_rows_of_numbers_alone_are_not_taken_for_a_list() -> None:
    assert rendered(paragraph("1. not a list")).tags == ["p"]
    assert rendered(paragraph("- not a list")).tags == ["p"]
    assert rendered(paragraph("# no heading")).tags == ["p"]
    assert rendered("a\n" + paragraph("=====")).tags == ["p"]
    found = replace(graph(()), assumptions=("- odd", "2) odd"))
    assert rendered(to_markdown(document("graph", graph=found))).tags.count("li") == 3
