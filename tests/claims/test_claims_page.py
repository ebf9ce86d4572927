"""What the scripts share: tables, numbers, pictures without a date, and the markers of the page."""

from __future__ import annotations

import re
from pathlib import Path

import claims_page
import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
SCRIPTS = ("condition", "escape", "kernel", "regression")


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(0.0, 3, "0"), (1574.93, 5, "1574.9"), (31.1234, 5, "31.123"), (0.04, 3, "0.0400"), (108.2, 3, "108")],
)
def test_a_number_has_the_figures_that_count(value, digits, text) -> None:
    assert claims_page.number(value, digits) == text


def test_a_number_far_from_one_has_an_exponent() -> None:
    assert claims_page.number(1.5e-6, 2) == "1.5e-06"
    assert claims_page.number(31410000.0) == "3.14e+07"
    assert claims_page.number(float("inf")) == "inf"


def test_a_table_has_a_line_a_row() -> None:
    assert claims_page.table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_a_picture_is_the_same_bytes_every_time_and_has_no_date(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    for name in ("a.svg", "b.svg"):
        with claims_page.picture(str(tmp_path / name), 2) as (left, _):
            left.plot([1, 2], [3, 4])
    first, second = ((tmp_path / name).read_bytes() for name in ("a.svg", "b.svg"))
    assert first == second
    assert not re.search(rb"<dc:date>|20\d\d-\d\d-\d\d", first)


def test_only_what_is_between_the_markers_is_written(tmp_path, monkeypatch) -> None:
    page = tmp_path / "claims.md"
    page.write_text("a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb\n")
    monkeypatch.setattr(claims_page, "CLAIMS", page)
    claims_page.write("x", "new")
    assert page.read_text() == "a\n<!-- x: begin -->\nnew\n<!-- x: end -->\nb\n"
    with pytest.raises(SystemExit, match="no <!-- y: begin -->"):
        claims_page.write("y", "new")
    assert "new" in page.read_text()


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_page_names_every_script_and_holds_its_table_and_picture(name) -> None:
    page = (DOCS / "claims.md").read_text(encoding="utf-8")
    table = page.partition(f"<!-- {name}: begin -->\n")[2].partition(f"\n<!-- {name}: end -->")[0]
    assert f"python benchmarks/claims_{name}.py" in page
    assert table.startswith("| ")
    assert f"](claims_{name}.svg)" in page
    assert not re.search(r"<dc:date>|20\d\d-\d\d-\d\d", (DOCS / f"claims_{name}.svg").read_text())


def test_every_link_within_the_page_has_its_heading() -> None:
    page = (DOCS / "claims.md").read_text(encoding="utf-8")
    headings = {line.lstrip("# ").lower().replace(" ", "-") for line in page.splitlines() if line.startswith("#")}
    assert set(re.findall(r"\]\(#([\w-]+)\)", page)) <= headings
