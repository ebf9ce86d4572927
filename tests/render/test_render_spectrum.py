"""The page of `spectrum`: its axes, its shares with their errors, and what is said where nothing was measured."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from render_factory import document, histogram, matches_golden, printed, spectrum

from resnet_audit.results import Histogram, SpectrumBlock, SpectrumResult

CERTIFIED = {"name", "branch_upper", "interval"}


def unmeasured(found: SpectrumResult, keep: set[str]) -> SpectrumResult:
    """The result with every number of its blocks but those to keep undefined."""
    none = {field.name: None for field in fields(SpectrumBlock) if field.name not in keep}
    return replace(found, blocks=tuple(replace(block, **none) for block in found.blocks), inputs=None)


def test_the_page_at_100_columns_looks_as_it_did() -> None:
    text = printed(document("spectrum"), width=100)
    assert matches_golden("render_spectrum_100.txt", text)
    assert max(map(len, text.splitlines())) <= 100


def test_powers_of_ten_stand_over_their_places_in_the_density() -> None:
    lines = printed(document("spectrum")).splitlines()
    header = next(line for line in lines if line.startswith("layer "))
    start = header.index("-3")
    assert header[start : start + 16] == "-3  -2  -1  0  1"
    at_one = Histogram(log10_edges=histogram(0).log10_edges, share=tuple(float(i == 24) for i in range(32)))
    (first, *rest) = spectrum().layers
    text = printed(document("spectrum", spectrum=replace(spectrum(), layers=(replace(first, histogram=at_one), *rest))))
    row = next(line for line in text.splitlines() if line.startswith("conv1 "))
    assert row[start + 12] == "▇"
    assert header[start + 12] == "0"


@pytest.mark.parametrize(("encoding", "sign"), [("utf-8", "±"), ("ascii", "+-")])
def test_a_share_has_its_error_beside_it(encoding: str, sign: str) -> None:
    text = printed(document("spectrum"), encoding=encoding)
    assert f"72 {sign} 4 %" in text
    exact = replace(spectrum().blocks[0], near_one=1.0, near_one_error=0.0)
    assert "  100 ± 0 %  " in printed(document("spectrum", spectrum=replace(spectrum(), blocks=(exact,))))


def test_blocks_say_on_what_they_were_measured() -> None:
    text = " ".join(printed(document("spectrum")).split())
    assert (
        "blocks: at 32 inputs (pink), up to the sum; sigma max: the largest over them, an estimate from below" in text
    )


def test_blocks_that_were_not_measured_have_their_certificates_alone() -> None:
    text = printed(document("spectrum", spectrum=unmeasured(spectrum(), CERTIFIED)))
    assert "branch at most  certified within" in text
    assert "blocks: at" not in text
    bare = printed(document("spectrum", spectrum=unmeasured(spectrum(), {"name"})))
    assert "\nblock " not in bare


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("power iteration (estimate from below)", "an estimate from below"),
        ("largest of the symbol, circular grid", "exact on the circular grid"),
    ],
)
def test_the_largest_value_says_what_kind_of_number_it_is(method: str, kind: str) -> None:
    found = spectrum()
    quick = tuple(replace(layer, method=method, histogram=None, folded=None) for layer in found.layers)
    text = " ".join(printed(document("spectrum", spectrum=replace(found, layers=quick))).split())
    assert f"in {found.sigma_max_where}; {kind}" in text
    assert "density" not in text
    assert "folded: with" not in text
