from __future__ import annotations

import pytest
from render_factory import Stream, document

from resnet_audit.render import ascii_only, console, render

ESCAPE = "\x1b"


def shown() -> str:
    stream = Stream()
    render(document("gradient"), console(stream))
    return stream.getvalue()


def test_the_width_off_a_terminal_is_80() -> None:
    assert console(Stream()).width == 80


def test_columns_is_honoured(monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "132")
    assert console(Stream()).width == 132
    monkeypatch.setenv("COLUMNS", "wide")
    assert console(Stream()).width == 80


def test_wide_has_no_limit_and_an_explicit_width_is_taken() -> None:
    assert console(Stream(), wide=True).width > 10_000
    assert console(Stream(), width=100).width == 100


def test_a_dumb_terminal_keeps_the_width_and_has_no_escape(monkeypatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert console(Stream(), width=120).width == 120
    assert ESCAPE not in shown()


def test_off_a_terminal_there_is_no_escape() -> None:
    assert ESCAPE not in shown()


def test_force_color_gives_colour_and_the_same_words(monkeypatch) -> None:
    plain = shown()
    monkeypatch.setenv("FORCE_COLOR", "1")
    stream = Stream()
    made = console(stream)
    render(document("gradient"), made)
    assert ESCAPE in stream.getvalue()
    with made.capture() as capture:
        render(document("gradient"), made)
    bare = "".join(part.partition("m")[2] if index else part for index, part in enumerate(capture.get().split("\x1b[")))
    assert bare == plain


def test_no_color_beats_force_color(monkeypatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    assert ESCAPE not in shown()


@pytest.mark.parametrize(("encoding", "plain"), [("utf-8", False), ("UTF8", False), ("ascii", True), ("latin-1", True)])
def test_the_encoding_decides_about_glyphs(encoding, plain) -> None:
    assert ascii_only(console(Stream(encoding))) is plain
