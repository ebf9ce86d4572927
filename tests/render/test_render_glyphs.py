from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from resnet_audit.render import glyphs

WIDTHS = st.integers(1, 60)
VALUES = st.floats(0, 1e300)
TOPS = st.floats(1e-300, 1e300)
BARS = st.sampled_from([glyphs.thin_bar, glyphs.block_bar])
HALF_STEPS = {"━": 2, "╸": 1, "=": 2, "-": 1, "█": 8, "#": 1}


def ink(bar: str) -> int:
    return sum(HALF_STEPS.get(char, glyphs.EIGHTHS.find(char)) for char in bar)


@given(BARS, st.tuples(VALUES, VALUES).map(sorted), TOPS, WIDTHS, st.booleans())
def test_a_larger_value_never_has_a_shorter_bar(bar, values, top, width, plain) -> None:
    small, large = values
    assert ink(bar(small, top, width, ascii_only=plain)) <= ink(bar(large, top, width, ascii_only=plain))


@given(BARS, st.floats(), st.floats(), WIDTHS, st.booleans())
def test_no_bar_is_longer_than_its_width(bar, value, top, width, plain) -> None:
    drawn = bar(value, top, width, ascii_only=plain)
    assert cell_len(drawn) == len(drawn) <= width
    assert not plain or drawn.isascii()


@given(BARS, TOPS, WIDTHS)
def test_the_top_fills_the_bar_and_a_positive_value_is_seen(bar, top, width) -> None:
    assert len(bar(top, top, width)) == width
    assert bar(math.ulp(0.0), top, width)
    assert bar(0.0, top, width) == bar(None, top, width) == bar(math.nan, top, width) == ""


@given(st.none() | st.floats(), st.integers(1, 20), st.booleans())
def test_a_diverging_bar_has_its_rule_in_the_middle(ratio, half, plain) -> None:
    drawn = glyphs.diverging_bar(ratio, half, ascii_only=plain)
    assert cell_len(drawn) == len(drawn) == 2 * half + 1
    assert drawn[half] == ("|" if plain else "│")
    left, right = drawn[:half].strip(), drawn[half + 1 :].strip()
    assert not (left and right)
    if ratio is not None and ratio >= 0 and abs(math.log2(ratio or 1)) > 0.01:
        assert bool(left) == (ratio < 1)


@given(st.floats(1e-3, 1e3), st.integers(2, 20))
def test_a_ratio_and_its_inverse_are_mirror_images(ratio, half) -> None:
    swap = str.maketrans("<>", "><")
    drawn = glyphs.diverging_bar(ratio, half, ascii_only=True)
    mirrored = glyphs.diverging_bar(1 / ratio, half, ascii_only=True)[::-1].translate(swap)
    assert drawn == mirrored


def test_the_axis_labels_stand_above_their_ticks() -> None:
    labels = glyphs.axis(14)
    assert (labels[0], labels[7], labels[14], labels[21], labels[28]) == ("¼", "½", "1", "2", "4")
    assert glyphs.axis(14, ascii_only=True).split() == ["1/4", "1/2", "1", "2", "4"]


def test_only_a_ratio_beyond_the_axis_has_an_arrow() -> None:
    assert "▸" in glyphs.diverging_bar(4.01, 8)
    assert "▸" not in glyphs.diverging_bar(4.0, 8)
    assert "◂" in glyphs.diverging_bar(0.0, 8)


@given(st.lists(st.floats(0, 1) | st.just(math.nan), max_size=40), st.integers(1, 4), st.booleans())
def test_a_sparkline_has_one_character_for_every_group(shares, merge, plain) -> None:
    drawn = glyphs.spark(shares, merge=merge, ascii_only=plain)
    assert len(drawn) == math.ceil(len(shares) / merge)
    assert not plain or drawn.isascii()


def test_a_sparkline_follows_its_shares() -> None:
    assert glyphs.spark([0.0, 1e-9, 0.5, 1.0]) == "·▁▄▇"


def test_only_small_shares_at_the_ends_are_left_out() -> None:
    assert glyphs.rows_to_show([0.0, 0.5, 0.0, 0.5, 0.0], 0.1) == range(1, 4)
    assert glyphs.rows_to_show([0.0, 0.0], 0.1) == range(2)
