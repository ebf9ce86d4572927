"""Pictures of single documents: the numbers on the axes, the same bytes every time, and what is refused."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from render_factory import bound, document, ensemble, gradient, graph, hostile, scaling, spectrum
from test_render_html import SCRIPTS

from resnet_audit.errors import AuditError, UsageError
from resnet_audit.render import figure as module
from resnet_audit.render.charts import Bars, Curves, Densities, Flow, Marks, charts_of
from resnet_audit.render.figure import COMMANDS, figure, require_figure

pytest.importorskip("matplotlib", reason="the extra `plot` is not installed")

SINGLE = tuple(command for command in COMMANDS if command != "compare")
MAGIC = {"svg": b"<?xml", "pdf": b"%PDF", "png": b"\x89PNG"}


def sheets(shown: Any, path: str = "x.svg") -> Any:
    """The figures of a document before they are saved."""
    return module._drawn(shown, path)


def panel(result: Any, kind: type) -> tuple[Any, Any]:
    """The first chart of a kind with the axes that it is drawn on."""
    from resnet_audit.render.figures import sheet_figures  # noqa: PLC0415 - it imports matplotlib

    chart = next(chart for chart in charts_of(result) if isinstance(chart, kind))
    (whole,) = sheet_figures([("net.pt", (chart,))], together=True)
    (axes,) = whole.axes
    return chart, axes


@pytest.mark.parametrize("command", SINGLE)
def test_every_command_has_a_picture_and_the_same_bytes_every_time(command) -> None:
    first = figure(document(command), "x.svg")
    assert first == figure(document(command), "x.svg")
    text = first.decode()
    ET.fromstring(text)  # noqa: S314 - our own text
    assert not re.search(r"<dc:date>|20\d\d-\d\d-\d\d", text)


@pytest.mark.parametrize("suffix", MAGIC)
def test_a_format_has_its_first_bytes_and_no_date(suffix) -> None:
    drawn = figure(document("gradient"), f"x.{suffix}")
    assert drawn.startswith(MAGIC[suffix])
    assert drawn == figure(document("gradient"), f"x.{suffix}")
    assert b"CreationDate" not in drawn


def test_a_picture_is_the_same_in_another_process() -> None:
    here = figure(document("report"), "x.svg")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from test_render_figure import document, figure; "
        "sys.stdout.buffer.write(figure(document('report'), 'x.svg'))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(Path(__file__).parent)], capture_output=True, check=True)
    assert done.stdout == here


def test_ratios_stand_at_their_values_on_a_logarithmic_axis() -> None:
    chart, axes = panel(gradient(), Marks)
    assert axes.get_xscale() == "log"
    points = {line.get_ydata()[0]: line.get_xdata()[0] for line in axes.get_lines() if line.get_marker() == "o"}
    assert points == dict(enumerate(chart.values))
    spans = {tuple(line.get_ydata()): tuple(line.get_xdata()) for line in axes.get_lines() if line.get_alpha() == 0.5}
    assert spans == {(i, i): (b.p05, b.p95) for i, b in enumerate(gradient().blocks)}
    assert [label.get_text() for label in axes.get_yticklabels()] == list(chart.names)
    low, high = axes.get_xlim()
    assert low <= 0.5
    assert high >= max(block.p95 for block in gradient().blocks if block.p95)


def test_bars_are_as_long_as_the_shares_and_every_layer_has_its_name() -> None:
    chart, axes = panel(bound(), Bars)
    for container, (label, values) in zip(axes.containers, chart.series, strict=True):
        assert container.get_label() == label
        assert [patch.get_width() for patch in container] == list(values)
    assert [label.get_text() for label in axes.get_yticklabels()] == list(chart.names)


def test_densities_have_the_shares_of_the_histograms() -> None:
    chart, axes = panel(spectrum(), Densities)
    for place, (patch, row) in enumerate(zip(axes.patches, chart.rows, strict=True)):
        values, edges, baseline = patch.get_data()
        assert list(edges) == list(row.log10_edges)
        assert [(baseline - v) / 0.85 * max(row.share) for v in values] == pytest.approx(list(row.share), abs=1e-12)
        assert baseline == place + 0.35


def test_depths_have_the_shares_of_the_distribution() -> None:
    chart, axes = panel(ensemble(), Curves)
    norm = ensemble().distribution
    assert norm is not None
    (bars,) = axes.containers
    for patch in bars:
        depth = round(patch.get_x() + patch.get_width() / 2)
        assert patch.get_height() == norm.norm[depth]
    energy = next(line for line in axes.get_lines() if line.get_label() == "energy")
    assert list(energy.get_ydata()) == list(norm.energy[chart.start : chart.start + len(bars)])


def test_measured_scales_are_marks_and_those_of_the_weights_crosses() -> None:
    _, axes = panel(scaling(), Marks)
    (crosses,) = [line for line in axes.get_lines() if line.get_marker() == "x"]
    expected = [(b.alpha_weights, i) for i, b in enumerate(scaling().blocks) if b.alpha_weights is not None]
    assert list(zip(crosses.get_xdata(), crosses.get_ydata(), strict=True)) == expected


@pytest.mark.parametrize("count", [1, 27, 100])
def test_every_block_is_drawn_within_the_sheet(count) -> None:
    first = graph().blocks[0]
    blocks = tuple(replace(first, name=f"block.{i}", stage=1 + 3 * i // count) for i in range(count))
    _, axes = panel(replace(graph(), blocks=blocks), Flow)
    joins = [patch for patch in axes.patches if type(patch).__name__ == "Circle"]
    assert len(joins) == count
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    assert all(left < join.center[0] < right and top < join.center[1] < bottom for join in joins)
    assert len({join.center for join in joins}) == count


def boxes(whole: Any) -> list[tuple[Any, Any]]:
    """Every text and every pair of axes of a figure with its place in pixels."""
    whole.draw_without_rendering()
    texts = [(text.get_text(), text.get_window_extent()) for text in whole.texts]
    axes = [("axes", one.get_tightbbox()) for one in whole.axes]
    return texts + axes


@pytest.mark.parametrize("command", SINGLE)
def test_nothing_leaves_the_sheet_and_no_panel_lies_on_another(command) -> None:
    (whole,) = sheets(document(command))
    found = boxes(whole)
    width, height = whole.get_size_inches() * whole.dpi
    for name, box in found:
        assert -1 <= box.x0 <= box.x1 <= width + 1, name
        assert -1 <= box.y0 <= box.y1 <= height + 1, name
    for index, (name, box) in enumerate(found):
        for other_name, other in found[index + 1 :]:
            apart = box.x1 <= other.x0 + 1 or other.x1 <= box.x0 + 1 or box.y1 <= other.y0 + 1 or other.y1 <= box.y0 + 1
            assert apart, (name, other_name)


def test_a_pdf_has_a_page_a_checkpoint_and_other_formats_have_all_below_each_other() -> None:
    one = document("gradient")
    entries = [{**one["checkpoints"][0], "path": f"net{i}.pt"} for i in range(3)]
    three: Any = {**one, "checkpoints": entries}
    assert len(sheets(three, "x.pdf")) == 3
    (tall,) = sheets(three, "x.png")
    (single,) = sheets(one, "x.png")
    assert tall.get_figheight() > 2.5 * single.get_figheight()
    assert len(re.findall(rb"/Type /Page\b", figure(three, "x.pdf"))) == 3
    names = [text.get_text() for text in tall.texts]
    assert names[:3] == ["net0.pt", "net1.pt", "net2.pt"]


def test_more_than_a_picture_can_hold_is_refused_in_one_line(monkeypatch) -> None:
    monkeypatch.setattr(module, "TALLEST", 3.0)
    with pytest.raises(AuditError, match=r"^x\.png: too tall for one picture; .*; name a \.pdf or fewer checkpoints$"):
        figure(document("report"), "x.png")


def test_what_has_no_answer_is_left_out_and_nothing_at_all_is_refused() -> None:
    (whole,) = sheets(document(gradient=None, bound=None))
    titles = [text.get_text() for text in whole.texts]
    assert "gradient-norm ratio by block" not in titles
    assert "which depths of paths carry the gradient" in titles
    with pytest.raises(AuditError, match=r"^x\.svg: no checkpoint has anything to draw; .*; leave --figure out$"):
        figure(document("gradient", gradient=None), "x.svg")


@pytest.mark.parametrize("name", ["$x_", "$\\frac$", "a\x1bb", "層", "\udc80", "x" * 200, *SCRIPTS])
def test_a_hostile_name_is_drawn_as_text(name) -> None:
    ET.fromstring(figure({**hostile(name)}, "x.svg"))  # noqa: S314 - our own text
    figure(document("graph", path=name, graph=graph((name,))), "x.png")


def test_names_that_all_share_much_are_drawn_without_that_or_give_way_to_places() -> None:
    from resnet_audit.render.figures.panels import labels  # noqa: PLC0415 - it imports matplotlib

    long = [f"model.language_model.layers.{i}.self_attention.query_key_value_projection" for i in range(3)]
    assert labels(long) == ["0", "1", "2"]
    assert labels(long, alone=True) == ["0", "1", "2"]
    assert labels([*long, "head"]) == ["row 1", "row 2", "row 3", "row 4"]
    assert labels(["a", "b.c"]) == ["a", "b.c"]
    assert labels(["x" * 40]) == ["row 1"]
    assert labels(["x" * 40], alone=True) == ["x" * 40]


@pytest.mark.parametrize("value", [0.0, math.inf, None, 1e-30, 1e30])
def test_odd_numbers_are_drawn_or_left_out(value) -> None:
    first, *others = gradient().blocks
    odd = replace(gradient(), blocks=(replace(first, ratio=value, p05=value, p95=value), *others))
    assert figure(document("gradient", gradient=odd), "x.png").startswith(MAGIC["png"])


@pytest.mark.parametrize("command", ["procrustes", "check", "schema", "explain"])
def test_a_command_without_a_picture_says_which_have_one(command) -> None:
    with pytest.raises(
        UsageError, match=f"^--figure x.svg: {command} has no figure; leave the flag out, or draw graph"
    ):
        require_figure("x.svg", command)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_with_a_picture_takes_every_format(command) -> None:
    for suffix in MAGIC:
        require_figure(f"x.{suffix}", command)
