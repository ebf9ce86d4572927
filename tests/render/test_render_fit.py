from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from resnet_audit.render.fit import Column, fit, lay_out, natural_width

NAMES = st.text(alphabet="ab層é", min_size=1, max_size=12)


@st.composite
def tables(draw) -> list[Column]:
    rows = draw(st.integers(1, 4))
    count = draw(st.integers(2, 8))
    return [
        Column(
            header=f"{draw(NAMES)}{index}",
            cells=tuple(draw(NAMES) for _ in range(rows)),
            priority=index if index < 2 else draw(st.integers(2, 5)),
            align=draw(st.sampled_from(["left", "right"])),
        )
        for index in range(count)
    ]


@given(tables(), st.integers(1, 120))
def test_a_table_fits_unless_only_the_first_two_columns_are_left(columns, width) -> None:
    fitted = fit(columns, width)
    assert natural_width(fitted.columns) <= width or [c.priority for c in fitted.columns] == [0, 1]


@given(tables(), st.integers(1, 120))
def test_every_column_is_shown_or_named_as_hidden(columns, width) -> None:
    fitted = fit(columns, width)
    assert [c.header for c in columns if c in fitted.columns] == [c.header for c in fitted.columns]
    assert {c.header for c in fitted.columns} | set(fitted.hidden) == {c.header for c in columns}


@given(tables(), st.integers(1, 120))
def test_no_shown_column_is_less_important_than_a_hidden_one(columns, width) -> None:
    fitted = fit(columns, width)
    hidden = [column.priority for column in columns if column.header in fitted.hidden]
    assert not hidden or max(column.priority for column in fitted.columns) < min(hidden)


@given(tables())
def test_every_line_of_a_table_holds_its_cells_whole(columns) -> None:
    lines = lay_out(columns, "-")
    assert all(cell_len(line.plain) <= natural_width(columns) for line in lines)
    for row, line in enumerate(lines[2:]):
        assert all(str(column.cells[row]) in line.plain for column in columns)


def test_a_column_without_a_value_is_named_apart() -> None:
    name = Column(header="name", cells=("a", "b"), priority=0)
    fitted = fit([name, Column(header="x", cells=("-", "  "), priority=1)], 80)
    assert (fitted.columns, fitted.hidden, fitted.empty) == ((name,), (), ("x",))
