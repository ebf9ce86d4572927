from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from resnet_audit.render import words

FLOATS = st.floats(-1e300, 1e300)


@given(FLOATS)
def test_a_number_keeps_its_first_digits(value) -> None:
    assert float(words.number(value).replace(",", "")) == pytest.approx(value, rel=6e-3)


@given(st.lists(st.none() | FLOATS, min_size=1, max_size=8))
def test_a_column_of_numbers_keeps_the_digits_that_it_shows(values) -> None:
    for value, text in zip(values, words.numbers(values), strict=True):
        if value is None:
            assert text == "-"
        else:
            assert float(text) == pytest.approx(value, rel=6e-2)


def test_ordinary_numbers_of_a_column_share_their_decimal_point() -> None:
    assert words.numbers([31.178, 1.471, 0.000018, 0.0, None]) == ("31.18", "1.47", "1.80e-05", "0", "-")
    assert words.numbers([5.395, 0.994]) == ("5.395", "0.994")


def test_what_is_not_finite_is_said() -> None:
    assert words.numbers([math.inf, -math.inf, math.nan, 1.0]) == ("inf", "-inf", "nan", "1.000")
    assert words.number(-0.0) == "0"
    assert words.share(-0.0) == "0.0 %"


@given(st.text(alphabet="ab ", max_size=60), st.integers(1, 30), st.integers(0, 6))
def test_wrapping_keeps_the_words_and_the_width(text, width, hang) -> None:
    lines = words.wrap(text, width, hang)
    assert " ".join(lines).split() == text.split()
    assert all(cell_len(line) <= width or len(line.split()) <= 1 for line in lines)


@given(st.text(), st.sampled_from(["utf-8", "ascii", "latin-1", "cp1252"]))
def test_a_clean_name_encodes_and_moves_nothing(name, encoding) -> None:
    cleaned = words.clean(name, encoding)
    cleaned.encode(encoding)
    assert not set(cleaned) & set("\n\r\t\x1b\x9b\u202e\u2028")


def test_a_clean_name_is_itself_if_nothing_is_wrong_with_it() -> None:
    assert words.clean("layer1.0.conv1 é", "utf-8") == "layer1.0.conv1 é"
    assert words.clean("a\x1b[31mb\udcff", "utf-8") == "a\\x1b[31mb\\udcff"


def test_a_long_list_says_how_many_more() -> None:
    assert words.listed([]) == "none"
    assert words.listed(["a", "b", "c"], 2) == "a, b and 1 more (all with --format json)"
