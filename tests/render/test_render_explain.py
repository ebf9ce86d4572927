"""Explanations at several widths: complete, plain, and as they looked before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from render_factory import Stream, matches_golden

from resnet_audit.explain import chapters, find
from resnet_audit.explain.find import metrics
from resnet_audit.render import console
from resnet_audit.render.explain import render_found, render_list

if TYPE_CHECKING:
    from resnet_audit.explain import Explanation

PATHS = sorted(metrics())
GOLDEN = {
    "bound": "bound",
    "cover": "bound.covers.patch",
    "term": "bound.covers.patch.log10_complexity_term",
    "tail": "bound.tail",
    "folded": "spectrum.layers.folded.quantiles.p05",
}


def told(path: str, *, width: int = 80, encoding: str = "utf-8") -> str:
    stream = Stream(encoding)
    render_found(find(path), console(stream, width=width))
    return stream.getvalue()


def in_order(entries: list[Explanation]) -> list[Explanation]:
    """The entries as a list shows them: those of one place together, places as they first come."""
    places = list(dict.fromkeys(entry.path.rpartition(".")[0] for entry in entries))
    return sorted(entries, key=lambda entry: places.index(entry.path.rpartition(".")[0]))


def listed(*, width: int = 80, encoding: str = "utf-8") -> str:
    stream = Stream(encoding)
    render_list(chapters(), console(stream, width=width))
    return stream.getvalue()


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", GOLDEN)
def test_a_text_looks_as_it_did(name, width) -> None:
    assert matches_golden(f"explain_{name}_{width}.txt", told(GOLDEN[name], width=width))


@pytest.mark.parametrize("width", [80, 120])
def test_the_list_looks_as_it_did(width) -> None:
    assert matches_golden(f"explain_list_{width}.txt", listed(width=width))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(PATHS), st.integers(80, 160), st.sampled_from(["utf-8", "ascii"]))
def test_a_text_fits_ends_in_no_blank_and_is_ascii(path, width, encoding) -> None:
    text = told(path, width=width, encoding=encoding)
    assert text.isascii()
    assert "..." not in text
    assert all(line == line.rstrip() and len(line) <= min(width, 100) for line in text.splitlines())
    assert "\n\n\n" not in text
    assert not text.endswith("\n\n")


@pytest.mark.parametrize("path", PATHS)
def test_a_text_holds_everything_that_is_known(path) -> None:
    found = find(path)
    entry = found.entry
    assert entry is not None
    text = told(path)
    words = " ".join(text.split())
    assert text.startswith(f"{path}  {entry.status}\n{entry.meaning.split()[0]}")
    for part in (entry.meaning, entry.unit, entry.source, entry.read, entry.null, entry.command):
        assert part in words
    assert all(line.strip() in text for line in entry.formula.splitlines())
    for symbol, what in entry.symbols:
        assert f"{symbol} {what}" in words
    assert ("limits" in text) == bool(entry.null)
    assert ("in JSON" in text) == ([path] != [entry.path, *entry.also])


def test_the_list_has_every_metric_once_and_fits() -> None:
    text = listed()
    assert max(map(len, text.splitlines())) <= 80
    entries = [entry for chapter in chapters() for entry in chapter.entries]
    rows = [line.split()[0] for line in text.splitlines() if line.startswith("  ") and line[2] != " "]
    assert rows == [entry.path.rpartition(".")[2] for entry in in_order(entries)]


def test_a_narrow_terminal_gets_longer_texts_and_loses_no_word() -> None:
    for path in ("bound.bound", "bound.covers.patch.log10_R", "ensemble.distribution"):
        assert sorted(told(path, width=40).split()) == sorted(told(path).split())


def test_color_marks_the_title_and_the_labels_only(monkeypatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    text = told("bound.tail")
    assert text.startswith("\x1b[1mbound.tail\x1b[0m  exact\n")
    assert "\x1b[1mlimits    \x1b[0mnull without" in text
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in told("bound.tail")
