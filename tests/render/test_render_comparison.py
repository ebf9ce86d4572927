"""The comparison on a terminal and as a picture."""

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
from hypothesis import given, settings
from hypothesis import strategies as st
from render_factory import (
    RATIOS,
    bound,
    document,
    ensemble,
    gradient,
    graph,
    matches_golden,
    printed,
    scaling,
    spectrum,
)
from rich.cells import cell_len

from resnet_audit.errors import AuditError, UsageError
from resnet_audit.render import figure as module
from resnet_audit.render import glyphs, words
from resnet_audit.render.charts.comparison import PANELS
from resnet_audit.render.figure import figure, require_figure
from resnet_audit.render.names import short_names
from resnet_audit.report.compare import compared
from resnet_audit.report.family_fit import FamilyPoint
from resnet_audit.results import Note

EPOCHS = (0, 1, 2, 4, 8, 16)


def compare(*entries: Any, members: Any = ()) -> Any:
    """A document of `compare` over finished entries."""
    whole = document("graph")
    return {**whole, "command": "compare", "checkpoints": list(entries), "comparison": compared(entries, members)}


def one(path: str, step: float = 0.0, blocks: int = 9, **changes: Any) -> Any:
    """An entry with all that a row needs, moved from a trained network by `step`, along no straight line."""
    step += step**2 / 2
    (entry,) = document("report", path=path)["checkpoints"]
    names = tuple(f"layer{1 + index // 9}.{index % 9}" for index in range(blocks))
    ratios = [RATIOS[index % 9] ** (1 - step / 2) for index in range(blocks)]
    rows = tuple(replace(gradient().blocks[0], name=name, ratio=r) for name, r in zip(names, ratios, strict=True))
    covers = bound().covers
    assert covers is not None
    operator = replace(covers.operator, log10_spectral_complexity=16.29 - 3 * step + blocks / 3)
    depth = replace(ensemble(blocks, 0.55 - step / 4), cancellation=0.4 + step / 3)
    scales = replace(scaling(), residual_time=5.3 - 2 * step)
    return {
        **entry,
        "parameters": 29969 * blocks,
        "graph": replace(graph(names), branch_gamma=1.0 - step / 10),
        "bound": replace(bound(), covers=replace(covers, operator=operator), log10_lipschitz=10.4 - 2 * step),
        "spectrum": replace(spectrum(), sigma_max=3.1 + 5 * step),
        "gradient": replace(gradient(), blocks=rows, ratio_median=1.25 - step / 20, ratio_worst=max(ratios)),
        "ensemble": depth,
        "scaling": scales,
        **changes,
    }


def series() -> Any:
    return compare(*(one(f"runs/first/epoch{e:02}.pt", math.log2(1 + e) / 5) for e in EPOCHS))


SCALES = {9: (1.323, 1.030), 15: (0.929, 0.636), 21: (0.817, 0.486), 27: (0.653, 0.379)}
"""RMS of the branch scales by blocks, from weights and measured: theory note `shortcut-scaling`, B4."""


def members(scales: dict[int, tuple[float | None, float | None]]) -> list[Any]:
    return [
        {
            method: FamilyPoint(blocks=blocks, rms_alpha=alpha, method=method, kinds=frozenset())
            for method, alpha in zip(("weights", "measured"), both, strict=True)
        }
        for blocks, both in scales.items()
    ]


def family(scales: Any = SCALES) -> Any:
    entries = (one(f"resnet{6 * b // 3 + 2}.th", b / 60, b) for b in (9, 15, 21, 27))
    return compare(*entries, members=members(scales))


def missing() -> Any:
    """Three rows of which one has no gradient, one no bound and one a block without a ratio."""
    reason = Note(code="no_blocks", message="no residual block was found", where="gradient")
    first = one("a1.pt", 0.1)
    (dead, *others) = first["gradient"].blocks
    first["gradient"] = replace(first["gradient"], blocks=(replace(dead, ratio=None), *others))
    return compare(first, one("a2.pt", 0.2, gradient=None, notes=(reason,)), one("a3.pt", 0.3, bound=None))


# tables -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize(("name", "shown"), [("series", series), ("family", family), ("missing", missing)])
def test_a_comparison_looks_as_it_did(name, shown, width) -> None:
    assert matches_golden(f"render_compare_{name}_{width}.txt", printed(shown(), width=width))


def test_a_comparison_as_plain_ascii_looks_as_it_did() -> None:
    text = printed(series(), encoding="ascii")
    assert text.isascii()
    assert matches_golden("render_compare_series_ascii.txt", text)


@settings(max_examples=30, deadline=None)
@given(st.integers(60, 160), st.sampled_from([series, family, missing]), st.sampled_from(["utf-8", "ascii"]))
def test_nothing_is_cut_and_no_line_is_too_long(width, shown, encoding) -> None:
    lines = printed(shown(), width=width, encoding=encoding).splitlines()
    assert not any("…" in line or "..." in line.replace("../", "") for line in lines)
    assert all(line == line.rstrip() for line in lines)
    assert width < 76 or all(cell_len(line) <= width for line in lines)


def test_what_all_rows_share_stands_in_the_title_and_has_no_column() -> None:
    text = printed(series(), wide=True)
    assert text.startswith("6 checkpoints in runs/first, each of 9 blocks and 269,721 parameters\n")
    assert " parameters" not in text.splitlines()[2]
    varied = printed(family(), wide=True)
    assert varied.startswith("4 checkpoints\n")
    assert varied.splitlines()[2].split()[:3] == ["checkpoint", "blocks", "parameters"]


def test_a_row_has_a_glyph_for_each_block_and_a_dot_where_there_is_no_ratio() -> None:
    rows = {line.split()[0]: line for line in printed(missing(), wide=True).splitlines() if line[:1] == "a"}
    expected = glyphs.ratio_spark([None, *(block.ratio for block in one("x", 0.1)["gradient"].blocks[1:])])
    assert expected.startswith("·")
    assert len(expected) == 9
    assert expected in rows["a1"]
    assert rows["a2"].split()[3] == "-"


def test_many_blocks_share_glyphs_and_the_legend_says_so() -> None:
    text = printed(compare(one("a.pt", 0, 100), one("b.pt", 0.1, 27)), wide=True)
    assert "the one farthest from 1 of 3 blocks each" in " ".join(text.split())
    assert "blocks each" not in " ".join(printed(family(), wide=True).split())


def test_the_trend_is_along_what_the_rows_say() -> None:
    assert "per epoch" in printed(series())
    assert "per block" in printed(family())
    assert "along the number of blocks" in " ".join(printed(family()).split())
    assert "per row" in printed(compare(one("a.pt"), one("b.pt", 0.1), one("last.pt", 0.5)))


def test_a_family_shows_both_fits_with_interval_and_verdict() -> None:
    text = " ".join(printed(family()).split())
    assert "alphas from weights, 4 networks: gamma 0.62 ± 0.23, inconclusive: the interval holds 1/2" in text
    assert "alphas measured, 4 networks: gamma 0.901 ± 0.093, fast: S stays bounded" in text
    plain = " ".join(printed(family(), encoding="ascii").split())
    assert "gamma 0.62 +- 0.23, inconclusive" in plain


def test_different_depths_without_a_fit_say_why_and_a_series_is_silent() -> None:
    text = " ".join(printed(family({9: (1.0, 0.5), 15: (0.5, 0.3)})).split())
    assert text.count("note: no family fit: a fit over depths needs networks of 3 depths or more, not 2") == 1
    assert "family fit: rms" not in text
    half = " ".join(printed(family({blocks: (None, both[1]) for blocks, both in SCALES.items()})).split())
    assert "alphas measured, 4 networks" in half
    assert "note: no family fit: a block has no scale from weights" in half
    assert "family fit" not in printed(series())


def test_two_rows_show_no_trends_and_say_why() -> None:
    text = printed(compare(one("a.pt"), one("b.pt", 0.1)))
    assert "course" not in text
    assert "note: a trend needs 3 checkpoints or more" in text


def test_a_note_of_all_stands_once_and_a_note_of_some_names_them() -> None:
    text = printed(missing())
    assert text.count("note: the prefix module.") == 0
    assert "note: a1, a3: the prefix module. was removed" in text
    assert "note: a2: gradient: no residual block was found" in text
    assert printed(series()).count("the prefix module. was removed") == 1


def test_unlike_inputs_are_a_warning_and_flags_of_others_are_not_spoken_of() -> None:
    other = Note(code="needs_n_train", message="give --n-train")
    text = printed(compare(one("a.pt", notes=(other,)), one("b.pt", 0.1, notes=(other,))))
    assert "warning: BN mismatch 0.360 is above 0.3" in text
    assert "--n-train" not in text


def test_a_filter_of_rows_is_in_the_caption() -> None:
    shown = series()
    shown["settings"] = {**shown["settings"], "blocks": ("layer3.*",)}
    assert "rows: --blocks layer3.*" in printed(shown)


def test_without_rows_there_is_a_sentence() -> None:
    broken = {**one("a.pt"), "graph": None, "error": "a.pt: broken"}
    assert printed(compare(broken, broken)) == "no checkpoint could be compared\n"


@settings(max_examples=25, deadline=None)
@given(st.text(alphabet="ab[]/\\\x1b\n\u202e層\udc80 $", min_size=1, max_size=60))
def test_a_hostile_path_is_printed_harmless(path) -> None:
    for encoding in ("utf-8", "ascii"):
        text = printed(compare(one(path), one(f"{path}b", 0.2)), encoding=encoding)
        text.encode(encoding)
        assert not set(text) & set("\x1b\u202e\udc80")


# names ------------------------------------------------------------------------------------------------------

PATHS = st.lists(st.text(alphabet="ab/.1", min_size=1, max_size=9), min_size=2, max_size=5, unique=True)


@given(PATHS)
def test_short_names_differ_where_paths_do_and_are_parts_of_them(paths) -> None:
    folder, names = short_names(paths)
    assert len(set(names)) == len(paths)
    assert all(name in path and path.startswith(folder) for name, path in zip(names, paths, strict=True))


@pytest.mark.parametrize(
    ("paths", "folder", "names"),
    [
        (["r/epoch1.pt", "r/epoch2.pt"], "r", ["epoch1", "epoch2"]),
        (["r/1/model.pt", "r/2/model.pt"], "r", ["1", "2"]),
        (["r/1/a.pt", "s/1/a.pt"], "", ["r", "s"]),
        (["a.pt", "a.th"], "", ["a.pt", "a.th"]),
        (["/x/a.pt", "/y/b.pt"], "/", ["x/a", "y/b"]),
        (["a.1", "a.2"], "", ["a.1", "a.2"]),
        (["only/one.pt"], "only", ["one"]),
        ([".pt", "a.pt"], "", [".pt", "a.pt"]),
    ],
)
def test_what_all_paths_share_is_left_out(paths, folder, names) -> None:
    assert short_names(paths) == (folder, names)


# glyphs and words -------------------------------------------------------------------------------------------

MAYBE = st.lists(st.none() | st.floats(-1e6, 1e6), min_size=1, max_size=20)


@given(MAYBE, st.booleans())
def test_a_course_keeps_the_order_of_its_values(values, plain) -> None:
    ramp = glyphs.ASCII_LEVELS if plain else glyphs.LEVELS
    drawn = glyphs.course_spark(values, ascii_only=plain)
    assert len(drawn) == len(values)
    known = sorted((value, ramp.index(glyph)) for value, glyph in zip(values, drawn, strict=True) if value is not None)
    assert [level for _, level in known] == sorted(level for _, level in known)
    assert all((glyph == ramp[0]) == (value is None) for value, glyph in zip(values, drawn, strict=True))
    if known and known[0][0] < known[-1][0]:
        assert (known[0][1], known[-1][1]) == (1, 7)


def test_a_merged_course_is_that_of_the_means() -> None:
    assert glyphs.course_spark([1, 3, None, 6, None, None, 10], merge=2) == glyphs.course_spark([2, 6, None, 10])


@given(st.floats(1e-6, 1e6), st.booleans())
def test_a_ratio_and_its_inverse_are_as_far_from_the_middle(ratio, plain) -> None:
    ramp = glyphs.ASCII_LEVELS if plain else glyphs.LEVELS
    up, down = (ramp.index(glyphs.ratio_spark([value], ascii_only=plain)) - 4 for value in (ratio, 1 / ratio))
    assert up == -down
    assert up == max(-3, min(3, round(3 * math.log2(ratio)))) or math.isclose(abs(3 * math.log2(ratio)) % 1, 0.5)


def test_ratios_have_the_levels_of_the_legend() -> None:
    assert glyphs.ratio_spark([0.0, 0.5, 1.0, 2.0, math.inf, None, math.nan]) == "▁▁▄▇▇··"
    assert glyphs.ratio_marks() == ("▁", "▄", "▇", "·")
    assert glyphs.ratio_marks(ascii_only=True) == ("_", "=", "#", "blank")
    assert glyphs.ratio_spark([1.1, 0.4, 1.0, 3.0, None, 1.0], merge=3) == "▁▇"


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.7874, 0.1621, "0.79 ± 0.16"),
        (-0.01543, 0.00996, "-0.0154 ± 0.0100"),
        (123.4, 45.6, "123 ± 46"),
        (1.0, 0.0, "1.00 ± 0"),
        (1.0, 1e-16, "1.00 ± 0"),
        (1e-9, 2e-9, "1.0e-09 ± 2.0e-09"),
        (3e9, 1e8, "3.0e+09 ± 1.0e+08"),
    ],
)
def test_a_slope_has_the_digits_that_its_error_leaves(value, error, text) -> None:
    assert words.with_error(value, error, "±") == text


# the figure -------------------------------------------------------------------------------------------------


def drawn(shown: Any, path: str = "x.svg") -> bytes:
    pytest.importorskip("matplotlib")
    return figure(shown, path)


@pytest.mark.parametrize(
    ("shown", "suffix"), [(series, "svg"), (family, "svg"), (missing, "svg"), (missing, "pdf"), (missing, "png")]
)
def test_a_figure_is_the_same_bytes_every_time(shown, suffix) -> None:
    first = drawn(shown(), f"x.{suffix}")
    assert first == drawn(shown(), f"x.{suffix}")
    assert first.startswith({"svg": b"<?xml", "pdf": b"%PDF", "png": b"\x89PNG"}[suffix])


def test_a_figure_is_the_same_in_another_process() -> None:
    here = drawn(series())
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from test_render_comparison import series, figure; "
        "sys.stdout.buffer.write(figure(series(), 'x.svg'))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(Path(__file__).parent)], capture_output=True, check=True)
    assert done.stdout == here


def test_a_figure_has_no_date_and_is_well_formed() -> None:
    text = drawn(series()).decode()
    ET.fromstring(text)  # noqa: S314 - our own text
    assert not re.search(r"<dc:date>|20\d\d-\d\d-\d\d", text)


def drawn_whole(shown: Any) -> Any:
    """The figure itself, before it is saved."""
    pytest.importorskip("matplotlib")
    from resnet_audit.render.figures import comparison_figure  # noqa: PLC0415 - it imports matplotlib

    return comparison_figure(shown["comparison"], shown["checkpoints"])


def panels(shown: Any) -> list[str]:
    """The titles of all panels, read from the figure itself."""
    whole = drawn_whole(shown)
    return [axes.get_title(loc="left") for axes in whole.axes if axes.get_title(loc="left")]


def test_every_metric_with_values_has_a_panel_and_one_without_has_none() -> None:
    assert len(panels(series())) == len(PANELS) + 1
    bare = compare(one("a.pt", bound=None, ensemble=None), one("b.pt", 0.1, bound=None, ensemble=None))
    found = panels(bare)
    assert "largest singular value" in found
    assert not any("complexity" in title or "path depth" in title for title in found)


def test_the_points_of_a_panel_are_the_numbers_of_the_rows() -> None:
    shown = series()
    rows = shown["comparison"].rows
    whole = drawn_whole(shown)
    (axes,) = [axes for axes in whole.axes if axes.get_title(loc="left").startswith("effective depth")]
    norm, projection = axes.get_lines()
    assert list(norm.get_xdata()) == [row.x for row in rows]
    assert list(norm.get_ydata()) == [row.depth_mean for row in rows]
    assert list(projection.get_ydata()) == [row.projection_mean for row in rows]


def test_the_map_has_the_shares_of_every_checkpoint_in_its_column() -> None:
    shown = family()
    whole = drawn_whole(shown)
    (image,) = [image for axes in whole.axes for image in axes.get_images()]
    left, right, bottom, top = image.get_extent()
    low = math.ceil(bottom)
    cells = image.get_array().filled(math.nan)
    assert (left, right, bottom, top) == (-0.5, 3.5, low - 0.5, low + len(cells) - 0.5)
    for column, entry in enumerate(shown["checkpoints"]):
        for row, value in enumerate(cells[:, column]):
            shares = entry["ensemble"].distribution.norm
            expected = shares[low + row] if low + row < len(shares) else math.nan
            assert value == expected or (math.isnan(value) and math.isnan(expected))


@pytest.mark.parametrize("name", ["$x_", "$\\frac$", "a\x1bb", "<b>&", "層", "\udc80", "x" * 90])
def test_a_hostile_name_is_drawn_as_text(name) -> None:
    ET.fromstring(drawn(compare(one(f"{name}1.pt"), one(f"{name}2.pt", 0.2))))  # noqa: S314 - our own text


def test_panels_share_their_axis_where_values_are_missing() -> None:
    shown = missing()
    whole = drawn_whole(shown)
    limits = {axes.get_xlim() for axes in whole.axes if axes.get_lines() and not axes.get_images()}
    assert len(limits) == 1
    ((low, high),) = limits
    assert low < 1
    assert high > 3


@pytest.mark.parametrize(("length", "shown"), [(3, "aaa1"), (25, "a" * 25 + "1"), (40, "0")])
def test_names_that_do_not_fit_below_the_map_give_way_to_places(length, shown) -> None:
    paths = [f"{'a' * length}{place}.pt" for place in (1, 2)]
    whole = drawn_whole(compare(*map(one, paths)))
    (axes,) = [axes for axes in whole.axes if axes.get_images()]
    assert axes.get_xticklabels()[0].get_text() == shown


def test_many_checkpoints_are_drawn() -> None:
    assert drawn(compare(*(one(f"epoch{e}.pt", e / 100) for e in range(45))), "x.png")


@pytest.mark.parametrize("path", ["x", "x.jpg", "x.svgz", "svg", ".svg", "x.SVG"])
def test_a_suffix_that_is_no_format_is_refused(path) -> None:
    with pytest.raises(UsageError, match=r"the suffix is none of \.svg, \.pdf, \.png"):
        require_figure(path, "compare")


def test_without_matplotlib_the_line_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _name: None)
    with pytest.raises(UsageError, match=re.escape("pip install 'resnet-audit[plot]'")):
        require_figure("x.svg", "compare")


def test_without_rows_there_is_nothing_to_draw() -> None:
    with pytest.raises(AuditError, match="nothing to draw"):
        figure(compare(), "x.svg")
