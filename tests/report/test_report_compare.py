"""Comparing: the order of paths, what x is, rows from finished results, and trends against a formula of their own."""

from __future__ import annotations

import math
from functools import cmp_to_key
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from resnet_audit.errors import UsageError
from resnet_audit.report import Outcome, compare_all
from resnet_audit.report.compare import COMPARED, METRICS, compared, for_a_row, in_order, trend
from resnet_audit.report.family_fit import FamilyPoint
from resnet_audit.results import Comparison, ComparisonRow
from resnet_audit.settings import Settings

QUANTILES = {1: 12.706205, 2: 4.302653, 3: 3.182446, 4: 2.776445, 5: 2.570582, 8: 2.306004, 10: 2.228139}
"""Student's t at 0.975 by degrees of freedom, from a printed table."""

SMALL = Settings(input_size=(1, 8, 8), samples=4)


# order ------------------------------------------------------------------------------------------------------


def _before(left: str, right: str) -> int:
    """The order as a person would write it down: folder by folder, runs of digits as numbers, then plain text."""
    for a, b in zip(left.split("/"), right.split("/"), strict=False):
        i = j = 0
        while i < len(a) and j < len(b):
            run_a, run_b = _digits(a, i), _digits(b, j)
            if run_a and run_b:
                if int(run_a) != int(run_b):
                    return -1 if int(run_a) < int(run_b) else 1
                i, j = i + len(run_a), j + len(run_b)
            elif run_a or run_b:
                return -1 if run_a else 1  # a number begins where text goes on: the shorter text comes first
            elif a[i] != b[j]:
                return -1 if a[i] < b[j] else 1
            else:
                i, j = i + 1, j + 1
        if len(a) - i != len(b) - j:
            return -1 if len(a) - i < len(b) - j else 1
        if a != b:
            return -1 if a < b else 1
    return len(left.split("/")) - len(right.split("/"))


def _digits(text: str, at: int) -> str:
    end = at
    while end < len(text) and text[end] in "0123456789":
        end += 1
    return text[at:end]


@given(st.lists(st.text(alphabet="ab/129-", min_size=1, max_size=8), min_size=2, max_size=6, unique=True))
def test_the_order_is_that_of_folders_and_numbers(paths) -> None:
    ordered, notices = in_order(paths)
    assert ordered == sorted(paths, key=cmp_to_key(_before))
    assert notices == []


@pytest.mark.parametrize(
    "ordered",
    [
        ["epoch1.pt", "epoch2.pt", "epoch10.pt"],
        ["resnet20.th", "resnet56.th", "resnet110.th"],
        ["run/epoch9.pt", "run/epoch10.pt", "run-b/epoch1.pt"],
        ["run2/last.pt", "run10/last.pt"],
    ],
)
def test_numbers_are_numbers_and_a_folder_stays_together(ordered) -> None:
    assert in_order(ordered[::-1])[0] == ordered


@pytest.mark.parametrize("paths", [[], ["a.pt"], ["a.pt", "a.pt"]])
def test_fewer_than_two_checkpoints_are_refused(paths) -> None:
    with pytest.raises(UsageError, match="compare needs two checkpoints or more"):
        in_order(paths)


def test_a_path_named_twice_is_compared_once_and_said() -> None:
    paths, notices = in_order(["b.pt", "a.pt", "b.pt"])
    assert paths == ["a.pt", "b.pt"]
    assert notices == ["b.pt: named more than once, compared once"]


# rows -------------------------------------------------------------------------------------------------------


def entry(path: str, blocks: int = 9, **results: Any) -> Any:
    """A finished entry of which only what a row reads is there."""
    graph = SimpleNamespace(block_count=blocks, branch_gamma=results.pop("branch_gamma", None))
    return {"path": path, "parameters": 5, "error": None, "notes": (), "graph": graph, **results}


def along(paths: list[str], blocks: list[int] | None = None) -> tuple[str, list[float]]:
    counts = blocks or [9] * len(paths)
    found = compared([entry(path, count) for path, count in zip(paths, counts, strict=True)])
    return found.trend_of, [row.x for row in found.rows]


@pytest.mark.parametrize(
    ("paths", "kind", "places"),
    [
        (["epoch00.pt", "epoch01.pt", "epoch16.pt"], "epoch", [0, 1, 16]),
        (["runs/ep_3/model.pt", "runs/ep_20/model.pt"], "epoch", [3, 20]),
        (["epoch=9-step=100.ckpt", "epoch=10-step=111.ckpt"], "epoch", [9, 10]),
        (["n5_e1.pt", "n5_e2.pt"], "epoch", [1, 2]),
        (["lr0.05.pt", "lr0.1.pt"], "number", [0.05, 0.1]),
        (["step100.pt", "step2000.pt"], "number", [100, 2000]),
        (["scale5.pt", "scale7.pt"], "number", [5, 7]),
        (["a1b1.pt", "a2b2.pt"], "position", [0, 1]),
        (["epoch1.pt", "last.pt"], "position", [0, 1]),
        (["a/x.pt", "b/x.pt"], "position", [0, 1]),
        (["a1", "a" + "9" * 400], "position", [0, 1]),
        (["a1", "a" + "9" * 200], "position", [0, 1]),
    ],
)
def test_what_rows_are_compared_along_is_read_from_the_paths(paths, kind, places) -> None:
    assert along(paths) == (kind, places)


def test_the_number_of_blocks_beats_a_number_in_the_paths() -> None:
    assert along(["resnet20.th", "resnet32.th", "resnet32b.th"], [9, 15, 15]) == ("blocks", [9, 15, 15])


def test_a_row_without_analyses_is_null_and_a_file_without_a_graph_has_none() -> None:
    broken = {"path": "c.pt", "parameters": None, "error": "c.pt: gone", "notes": ()}
    found = compared([entry("a.pt", gradient=None, bound=None), broken, entry("b.pt")])
    assert [row.path for row in found.rows] == ["a.pt", "b.pt"]
    for row in found.rows:
        assert all(getattr(row, metric) is None for metric in METRICS)
        assert (row.block_count, row.parameters) == (9, 5)
    assert all((one.slope, one.direction, one.n) == (None, None, 0) for one in found.trends)


def test_what_is_not_finite_is_null() -> None:
    gradient = SimpleNamespace(ratio_median=math.inf, ratio_worst=math.nan, c_hat=0.5)
    (row, _) = compared([entry("a", gradient=gradient), entry("b")]).rows
    assert (row.ratio_median, row.ratio_worst, row.c_hat) == (None, None, 0.5)


def test_a_metric_takes_only_the_rows_that_have_it() -> None:
    gammas = [1.0, None, 3.0, 4.0, 5.5]
    found = compared([entry(f"epoch{x}", branch_gamma=y) for x, y in enumerate(gammas)])
    (line,) = [one for one in found.trends if one.metric == "branch_gamma"]
    assert line.n == 4
    assert line == trend("branch_gamma", [0, 2, 3, 4], [1.0, 3.0, 4.0, 5.5])


def test_two_rows_have_no_trend_and_a_note_says_why() -> None:
    two, three = (compared([entry(f"epoch{i}", branch_gamma=float(i)) for i in range(n)]) for n in (2, 3))
    assert all(one.slope is None for one in two.trends)
    assert "too_few_rows" in {note.code for note in two.notes}
    assert "too_few_rows" not in {note.code for note in three.notes}
    assert [one.slope for one in three.trends if one.metric == "branch_gamma"] == pytest.approx([1.0])


def test_rows_of_two_methods_are_named_as_not_comparable() -> None:
    def scaled(method: str) -> Any:
        return SimpleNamespace(residual_time=2.5, method=method)

    mixed = compared([entry("a", scaling=scaled("weights")), entry("b", scaling=scaled("measured"))])
    alike = compared([entry("a", scaling=scaled("weights")), entry("b", scaling=scaled("weights"))])
    assert [row.residual_time for row in mixed.rows] == [2.5, 2.5]
    assert [note.where for note in mixed.notes if note.code == "mixed_scales"] == ["residual_time"]
    assert "mixed_scales" not in {note.code for note in alike.notes}


def member(blocks: int, weights: float | None, measured: float | None) -> Any:
    scales: dict[Any, float | None] = {"weights": weights, "measured": measured}
    return {
        method: FamilyPoint(blocks=blocks, rms_alpha=alpha, method=method, kinds=frozenset())
        for method, alpha in scales.items()
    }


def test_a_family_is_fitted_by_either_method_on_its_own() -> None:
    counts = (9, 15, 21)
    entries = [entry(f"r{count}", count) for count in counts]
    found = compared(entries, [member(count, 2 * count**-0.3, 5 * count**-0.8) for count in counts])
    assert found.family_fit is not None
    assert found.family_fit_measured is not None
    assert (found.family_fit.gamma, found.family_fit.verdict) == (pytest.approx(0.3), "slow")
    assert (found.family_fit_measured.gamma, found.family_fit_measured.verdict) == (pytest.approx(0.8), "fast")
    assert (found.family_fit.method, found.family_fit_measured.method) == ("weights", "measured")
    assert "no_family_fit" not in {note.code for note in found.notes}


def test_where_there_is_no_fit_a_note_says_why() -> None:
    found = compared([entry("a"), entry("b")])
    assert (found.family_fit, found.family_fit_measured) == (None, None)
    notes = {note.where: note.message for note in found.notes if note.code == "no_family_fit"}
    assert notes.keys() == {"family_fit", "family_fit_measured"}
    assert "3 depths or more, not 0" in notes["family_fit"]
    half = compared([entry("a")], [member(count, None, count**-0.6) for count in (9, 15, 21)])
    assert half.family_fit_measured is not None
    assert [note.message for note in half.notes if note.where == "family_fit"] == [
        "no family fit: a block has no scale from weights"
    ]


def test_every_metric_with_a_trend_is_a_field_of_a_row() -> None:
    assert set(METRICS) <= set(ComparisonRow.__annotations__)
    assert [one.metric for one in compared([entry("a"), entry("b")]).trends] == list(METRICS)


# trends -----------------------------------------------------------------------------------------------------


@given(st.data())
def test_a_trend_is_the_least_squares_line_with_students_interval(data) -> None:
    count = 2 + data.draw(st.sampled_from(sorted(QUANTILES)))
    numbers = st.floats(-100, 100).map(lambda value: round(value, 3))
    xs = data.draw(st.lists(numbers, min_size=count, max_size=count))
    ys = data.draw(st.lists(numbers, min_size=count, max_size=count))
    assume(max(xs) - min(xs) > 0.1)
    assume(max(ys) - min(ys) > 0.1)
    slope, intercept = np.polyfit(xs, ys, 1)
    residuals = np.array(ys) - slope * np.array(xs) - intercept
    spread = float(((np.array(xs) - np.mean(xs)) ** 2).sum())
    half = QUANTILES[count - 2] * math.sqrt(float(residuals @ residuals) / (count - 2) / spread)
    found = trend("depth_mean", xs, ys)
    scale = max(abs(y) for y in ys) / math.sqrt(spread)
    assert found.n == count
    assert found.slope == pytest.approx(slope, rel=1e-6, abs=1e-6 * scale)
    assert found.high - found.slope == pytest.approx(half, rel=1e-5, abs=1e-5 * scale)
    assert found.slope - found.low == pytest.approx(half, rel=1e-5, abs=1e-5 * scale)


@pytest.mark.parametrize(
    ("ys", "direction"),
    [
        ([1.0, 2.0, 3.1, 4.0], "rises"),
        ([4.0, 3.1, 2.0, 1.0], "falls"),
        ([1.0, 3.0, 0.5, 2.0], "no clear trend"),
        ([2.0, 2.0, 2.0, 2.0], "no clear trend"),
        ([0.0, 0.0, 0.0, 0.0], "no clear trend"),
        ([1.0, 1.0 + 1e-13, 1.0 + 2e-13, 1.0 + 3e-13], "no clear trend"),
    ],
)
def test_a_direction_is_said_only_where_the_interval_leaves_zero_out(ys, direction) -> None:
    found = trend("c_hat", [0, 1, 2, 3], ys)
    assert found.direction == direction
    assert (found.low > 0 or found.high < 0) == (direction != "no clear trend")


def test_there_is_no_trend_below_three_points_or_at_one_place() -> None:
    for xs in ([0, 1], [2, 2, 2], []):
        found = trend("c_hat", xs, [float(x) for x in range(len(xs))])
        assert (found.slope, found.low, found.high, found.direction, found.n) == (None, None, None, None, len(xs))


def test_a_line_that_fits_has_next_to_no_interval() -> None:
    found = trend("c_hat", [0, 1, 2, 4, 7], [1.1 + 0.3 * x for x in (0, 1, 2, 4, 7)])
    assert found.slope == pytest.approx(0.3, rel=1e-12)
    assert found.high - found.low < 1e-13
    assert found.direction == "rises"


def test_a_trend_of_huge_numbers_does_not_overflow() -> None:
    found = trend("ratio_worst", [0, 1, 2], [1e200, 2e200, 3.1e200])
    assert found.slope == pytest.approx(1.05e200)
    assert math.isfinite(found.low)


# whole ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def series() -> tuple[Outcome, list[str]]:
    """Three epochs of the sample series."""
    folder = Path(__file__).resolve().parents[2] / "sample_checkpoints" / "digits_resnet"
    paths = [str(folder / f"epoch{epoch}.pt") for epoch in ("00", "08", "24")]
    return compare_all(paths, SMALL), paths


def test_a_whole_comparison_has_its_rows_in_order(series) -> None:
    outcome, paths = series
    found = outcome.document["comparison"]
    assert outcome.failures == ()
    assert isinstance(found, Comparison)
    assert [row.path for row in found.rows] == paths
    assert (found.trend_of, [row.x for row in found.rows]) == ("epoch", [0.0, 8.0, 24.0])
    assert all(getattr(row, name) is not None for row in found.rows for name in METRICS)
    assert all(a.depth_mean != b.depth_mean for a, b in pairwise(found.rows))


def test_every_analysis_of_a_row_is_in_the_document(series) -> None:
    for one in series[0].document["checkpoints"]:
        assert all(one[name] is not None for name in COMPARED)


def test_a_broken_file_leaves_the_others_compared(samples, tmp_path) -> None:
    (tmp_path / "x.pt").write_text("no checkpoint")
    good = str(samples / "digits_resnet" / "epoch24.pt")
    outcome = compare_all([str(tmp_path / "x.pt"), good, str(samples / "digits_resnet" / "epoch16.pt")], SMALL)
    assert len(outcome.failures) == 1
    assert len(outcome.document["checkpoints"]) == 3
    assert len(outcome.document["comparison"].rows) == 2


def test_only_the_spectrum_is_quick(monkeypatch) -> None:
    seen = {}
    monkeypatch.setattr(
        "resnet_audit.report.compare.registered",
        lambda name, subject, _checkpoint: seen.update({name: subject.settings.fast}),
    )
    subject = SimpleNamespace(settings=SMALL)
    for name in COMPARED:
        for_a_row(name, subject, None)
    assert seen == {name: name == "spectrum" for name in COMPARED}
    assert subject.settings.fast is False
