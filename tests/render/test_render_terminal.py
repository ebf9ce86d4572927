"""Every page on every kind of terminal: 80 and 120 columns, no colour, a dumb terminal, plain ASCII; nothing is cut."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from render_documents import checked, procrustes
from render_factory import ANALYSES, Stream, document, matches_golden, printed
from test_render_comparison import series

from resnet_audit.render import console, render
from resnet_audit.render.markdown import to_markdown

if TYPE_CHECKING:
    from collections.abc import Callable

ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


DOCUMENTS: dict[str, Callable[[], Any]] = {
    **{name: lambda name=name: document(name) for name in (*ANALYSES, "report")},  # type: ignore[misc]  # as a default
    "procrustes": lambda: document("procrustes", procrustes=procrustes()),
    "check": checked,
    "compare": series,
}


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", ["report", "procrustes"])
def test_a_page_looks_as_it_did(name, width) -> None:
    assert matches_golden(f"render_{name}_{width}.txt", printed(DOCUMENTS[name](), width=width))


@pytest.mark.parametrize("name", [name for name in DOCUMENTS if name != "compare"])
def test_a_page_in_plain_ascii_looks_as_it_did(name) -> None:
    text = printed(DOCUMENTS[name](), encoding="ascii")
    assert text.isascii()
    assert matches_golden(f"render_{name}_ascii.txt", text)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_no_page_has_an_ellipsis_anywhere(name) -> None:
    for width in (20, 40, 60, 80, 100, 120, 200):
        for encoding in ("utf-8", "ascii"):
            text = printed(DOCUMENTS[name](), width=width, encoding=encoding)
            assert "…" not in text
            assert "..." not in text


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize(
    "variables",
    [{"NO_COLOR": "1"}, {"NO_COLOR": "1", "FORCE_COLOR": "1"}, {"TERM": "dumb"}, {"TERM": "dumb", "COLUMNS": "80"}],
    ids=str,
)
def test_no_colour_and_a_dumb_terminal_have_the_same_words_without_escapes(name, variables, monkeypatch) -> None:
    expected = printed(DOCUMENTS[name](), width=80)
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    stream = Stream()
    render(DOCUMENTS[name](), console(stream))
    assert stream.getvalue() == expected
    assert "\x1b" not in expected


@pytest.mark.parametrize("name", DOCUMENTS)
def test_colour_adds_nothing_but_colour(name, monkeypatch) -> None:
    expected = printed(DOCUMENTS[name](), width=120)
    monkeypatch.setenv("FORCE_COLOR", "1")
    coloured = printed(DOCUMENTS[name](), width=120)
    assert "\x1b[" in coloured
    assert ESCAPE.sub("", coloured) == expected


@pytest.mark.parametrize("name", ["gradient", "compare", "check", "procrustes"])
def test_markdown_looks_as_it_did(name) -> None:
    assert matches_golden(f"render_{name}.md", to_markdown(DOCUMENTS[name]()))
