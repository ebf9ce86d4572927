"""The drawings of the page: places and sizes are those of the numbers, read back from the markup."""

from __future__ import annotations

import itertools
import math
import operator
import re
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from render_factory import bound, ensemble, gradient, graph, shortcut, spectrum
from test_render_comparison import family, series

from resnet_audit.render import charts, words
from resnet_audit.render.charts import Bars, Curve, Curves, Densities, Marks, charts_of, courses, depth_map
from resnet_audit.render.svg import svg_of
from resnet_audit.render.svg.draw import WIDTH, ticks

FINITE = st.floats(1e-9, 1e9)


def drawn(chart: charts.Chart) -> ET.Element:
    return ET.fromstring(svg_of(chart))  # noqa: S314 - our own text


def of(root: ET.Element, tag: str, class_: str) -> list[ET.Element]:
    return [e for e in root.iter(tag) if class_ in e.get("class", "").split()]


def number(element: ET.Element, name: str) -> float:
    return float(element.get(name, "nan"))


def centre(root: ET.Element) -> float:
    """Where the rule of the axis stands."""
    (rule,) = of(root, "line", "one")
    return number(rule, "x1")


@settings(max_examples=60, deadline=None)
@given(st.lists(FINITE, min_size=2, max_size=12))
def test_a_mark_is_as_far_from_the_rule_as_its_logarithm(ratios) -> None:
    names = tuple(f"b{i}" for i in range(len(ratios)))
    root = drawn(Marks(title="t", note="", names=names, values=tuple(ratios)))
    rule, dots = centre(root), of(root, "circle", "dot")
    offsets = [number(dot, "cx") - rule for dot in dots]
    logs = [math.log2(ratio) for ratio in ratios]
    scale = next((offset / log for offset, log in zip(offsets, logs, strict=True) if abs(log) > 0.5), None)
    if scale is not None:
        assert scale > 0
        assert offsets == pytest.approx([scale * log for log in logs], abs=0.02 + 0.03 * abs(max(logs, key=abs)))
    assert all(0 <= number(dot, "cx") <= WIDTH for dot in dots)


def test_a_ratio_that_is_no_number_has_no_mark_and_zero_ends_at_the_edge() -> None:
    root = drawn(Marks(title="t", note="", names=("a", "b", "c"), values=(None, 0.0, 4.0)))
    zero, four = of(root, "circle", "dot")
    assert number(zero, "cx") < centre(root) < number(four, "cx")


def test_a_transition_is_hollow_and_its_interval_holds_the_mark() -> None:
    (chart,) = charts_of(gradient())
    root = drawn(chart)
    dots, spans = of(root, "circle", "dot"), of(root, "line", "span")
    assert [i for i, dot in enumerate(dots) if "hollow" in dot.get("class", "")] == [3, 6]
    for dot, span in zip(dots, spans, strict=True):
        assert number(span, "x1") <= number(dot, "cx") <= number(span, "x2")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.none() | st.just(0.0) | FINITE | FINITE.map(operator.neg), min_size=1, max_size=10))
def test_a_bar_is_as_long_as_its_number_and_starts_at_zero(values) -> None:
    names = tuple(f"row{i}" for i in range(len(values)))
    root = drawn(Bars(title="t", note="", names=names, series=(("x", tuple(values)),)))
    known = [value for value in values if value is not None]
    bars = of(root, "rect", "bar1")
    assert len(bars) == len(known)
    top = max(map(abs, known), default=0.0)
    if top == 0:
        return
    widths = [number(bar, "width") for bar in bars]
    scale = max(widths) / top
    assert widths == pytest.approx([max(0.5, scale * abs(value)) for value in known], abs=0.6)
    zero = next(number(b, "x") for b, v in zip(bars, known, strict=True) if v == max(known, key=abs)) + (
        0 if max(known, key=abs) > 0 else max(widths)
    )
    for bar, value in zip(bars, known, strict=True):
        if abs(value) * scale > 1:
            edge = number(bar, "x") + (0 if value > 0 else number(bar, "width"))
            assert edge == pytest.approx(zero, abs=0.05)


def test_shares_of_layers_are_written_beside_their_bars() -> None:
    (chart,) = charts_of(bound())
    assert isinstance(chart, Bars)
    assert chart.series[0][1] == tuple(layer.share.patch for layer in bound().layers if layer.share)
    told = [e.text for e in of(drawn(chart), "text", "v")]
    assert told == [words.share(layer.share.patch if layer.share else None) for layer in bound().layers]


def test_a_density_is_highest_where_its_share_is() -> None:
    chart = next(c for c in charts_of(spectrum()) if isinstance(c, Densities))
    for area, row in zip(of(drawn(chart), "path", "area"), chart.rows, strict=True):
        assert row is not None
        points = [tuple(map(float, pair)) for pair in re.findall(r"([-\d.]+) ([-\d.]+)", area.get("d", ""))]
        base, steps = points[0][1], points[1:-1]
        heights = [base - y for _, y in steps[::2]]
        top = max(row.share)
        assert heights == pytest.approx([11 * share / top for share in row.share], abs=0.011)
        lefts = [x for x, _ in steps[::2]]
        gaps = [b - a for a, b in itertools.pairwise(lefts)]
        assert gaps == pytest.approx([gaps[0]] * len(gaps), abs=0.011)


def test_the_depths_of_the_chart_are_the_shares_of_the_result() -> None:
    (chart,) = charts_of(ensemble())
    assert isinstance(chart, Curves)
    shares = ensemble().distribution
    assert shares is not None
    norm = chart.curves[0]
    assert norm.values == shares.norm[chart.start : chart.start + len(norm.values)]
    left_out = shares.norm[: chart.start] + shares.norm[chart.start + len(norm.values) :]
    assert max(left_out) < 0.0005
    heights = [number(bar, "height") for bar in of(drawn(chart), "rect", "bar1")]
    bars = [height for height in heights if height != 8]  # 8: the key
    assert bars == pytest.approx([max(bars) / max(norm.values) * v for v in norm.values], abs=0.02)


def test_a_prediction_is_dashed_and_what_is_measured_is_not() -> None:
    curves = (
        Curve(label="norm", values=(0.5, 0.5), look="bars"),
        Curve(label="energy", values=(0.4, 0.6), look="line"),
        Curve(label="predicted", values=(0.3, -0.1), look="dashed"),
    )
    root = drawn(Curves(title="t", note="", x="depth", start=0, curves=curves))
    assert len(of(root, "path", "line")) == 2
    (dashed,) = of(root, "path", "dashed")
    assert "line2" in dashed.get("class", "")


@pytest.mark.parametrize("count", [1, 9, 27, 100])
def test_every_block_is_drawn_with_the_kind_of_its_shortcut(count) -> None:
    first = graph().blocks[0]
    kinds = ("identity", "projection", "resample", "norm", "concat")
    blocks = tuple(
        replace(first, name=f"b{i}", skip=kinds[i % 5], weight_layers=1 + i % 6, stage=1 + 4 * i // count)
        for i in range(count)
    )
    (chart,) = charts_of(replace(graph(), blocks=blocks))
    root = ET.fromstring(f"<div>{svg_of(chart)}</div>")  # noqa: S314 - our own text
    cells = [svg for svg in root.iter("svg") if svg.get("class") == "block"]
    assert len(cells) == count
    for cell, block in zip(cells, blocks, strict=True):
        assert len(of(cell, "line", f"skip-{block.skip}")) == 1
        boxes = of(cell, "rect", "box")
        assert len(boxes) == (block.weight_layers if block.weight_layers <= 4 else 1)
        assert ("5" in "".join(cell.itertext())) == (block.weight_layers == 5)
    samples = [svg.get("aria-label") for svg in root.iter("svg") if svg.get("class") == "sample"]
    assert sorted(samples) == sorted({block.skip for block in blocks})


def test_wider_layers_have_higher_boxes() -> None:
    (chart,) = charts_of(graph())
    root = ET.fromstring(f"<div>{svg_of(chart)}</div>")  # noqa: S314 - our own text
    heights = [number(of(c, "rect", "box")[0], "height") for c in root.iter("svg") if c.get("class") == "block"]
    assert heights == sorted(heights)
    assert heights[0] < heights[3] < heights[6]


def test_a_course_has_a_point_for_every_value_and_a_gap_for_none() -> None:
    for chart in courses(series()["comparison"]):
        known = sum(value is not None for _, values in chart.series for value in values)
        key = sum(bool(label) for label, _ in chart.series)
        assert len(list(drawn(chart).iter("circle"))) == known + key


def test_the_darkest_depth_of_a_row_is_its_largest_share() -> None:
    shown = family()
    chart = depth_map(shown["comparison"], shown["checkpoints"])
    assert chart is not None
    root = drawn(chart)
    rows: dict[float, list[tuple[float, float]]] = {}
    for cell in of(root, "rect", "cell"):
        rows.setdefault(number(cell, "y"), []).append((number(cell, "fill-opacity"), number(cell, "x")))
    assert len(rows) == len(chart.columns)
    for cells, column in zip(rows.values(), chart.columns, strict=True):
        width = min(b[1] - a[1] for a, b in itertools.pairwise(cells))
        left = min(x for _, x in cells)
        shown_first = next(d for d in chart.depths if column[d] / max(map(max, chart.columns)) >= 0.01)
        darkest = max(cells)[1]
        assert shown_first + round((darkest - left) / width) == column.index(max(column))


def test_eigenvalues_below_zero_lie_left_of_the_rule() -> None:
    chart = charts_of(shortcut())[-1]
    root = drawn(chart)
    *_, least = of(root, "rect", "bar1")
    assert number(least, "x") + number(least, "width") <= centre(root) + 0.5


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9), st.integers(2, 9))
def test_ticks_are_few_round_and_inside(low, span, most) -> None:
    high = low + span
    found = ticks(low, high, most)
    if not high - low > 1e-9 * abs(low):
        return
    assert len(found) <= most + 1
    assert all(low - 1e-6 * span <= tick <= high + 1e-6 * span for tick in found)


@pytest.mark.parametrize("span", [0.0, 5e-324, 1e-300, 1e-12, math.inf, math.nan])
def test_ticks_of_odd_axes_are_finite(span) -> None:
    assert all(math.isfinite(tick) for tick in ticks(1.0, 1.0 + span))
    assert all(math.isfinite(tick) for tick in ticks(0.0, span))


@pytest.mark.parametrize("length", [3, 20, 40, 120])
def test_a_long_name_stands_whole_above_its_row_and_within_the_chart(length) -> None:
    name = "n" * length
    root = drawn(Marks(title="t", note="", names=(name,), values=(1.5,)))
    (label,) = [e for e in root.iter("text") if e.text == name]
    room = float(label.get("textLength") or length * 6.1)
    start = number(label, "x") - (room if label.get("text-anchor") == "end" else 0)
    assert start >= -0.1
    assert start + room <= WIDTH + 0.1


def test_a_power_of_two_stands_on_the_line_with_its_name() -> None:
    names = ("1/4", "1/2", "1", "2", "4", "8")
    values = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
    root = drawn(Marks(title="t", note="", names=tuple("abcdef"), values=values))
    ticks_ = {e.text: number(e, "x") for e in of(root, "text", "s")}
    lines = sorted(number(e, "x1") for e in of(root, "line", "rule"))
    assert [number(dot, "cx") for dot in of(root, "circle", "dot")] == [ticks_[name] for name in names] == lines
    assert max(lines) == WIDTH - 46
