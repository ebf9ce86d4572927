"""The fit of branch scale against depth: printed figures, a made family, and when there is none."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_audit.checkpoint import load
from resnet_audit.graph import discover
from resnet_audit.measure import Subject
from resnet_audit.measure.block_kinds import block_kinds
from resnet_audit.report.family_fit import FamilyPoint, family_fit, family_points, why_no_family_fit
from resnet_audit.settings import Settings
from resnet_audit.theory import scaling

if TYPE_CHECKING:
    from pathlib import Path

BLOCKS = (9, 15, 21, 27)
T_TWO = 4.302652729749464
"""97.5 % point of Student's t with 2 degrees of freedom, from tables."""


KINDS = frozenset({"a block"})


def points(values, method="weights", blocks=BLOCKS, kinds=KINDS):
    return [
        FamilyPoint(blocks=count, rms_alpha=value, method=method, kinds=kinds)
        for count, value in zip(blocks, values, strict=True)
    ]


def of_file(path: Path, method: str = "weights") -> dict[str, FamilyPoint]:
    settings = Settings(method=method, threads=1, samples=2, input_size=None if path.suffix == ".th" else (1, 8, 8))
    graph = discover(load(str(path)), settings)
    return family_points(scaling.analyse(Subject(graph, settings)).blocks, block_kinds(graph))


def test_family_of_four_trained_networks_has_the_printed_fit(checkpoints: Path) -> None:
    found = [of_file(checkpoints / f"resnet{depth}.th")["weights"] for depth in (20, 32, 44, 56)]
    assert [point.blocks for point in found] == list(BLOCKS)
    fit = family_fit(found)
    assert fit.gamma == pytest.approx(0.617, abs=5e-4)
    assert (fit.high - fit.low) / 2 == pytest.approx(0.228, abs=5e-4)
    assert fit.prefactor == pytest.approx(5.1, abs=0.05)
    assert (fit.n, fit.method, fit.verdict, fit.boundary) == (4, "weights", "inconclusive", False)


def test_printed_scales_on_natural_images_give_the_printed_fit() -> None:
    """Theory note `shortcut-scaling`, B4; the scales have three digits."""
    fit = family_fit(points((1.030, 0.636, 0.486, 0.379), "measured"))
    assert fit.gamma == pytest.approx(0.900, abs=1e-3)
    # A half width hangs on small residuals: the rounding of the scales moves it by 0.002.
    assert (fit.high - fit.low) / 2 == pytest.approx(0.095, abs=2.5e-3)
    assert fit.prefactor == pytest.approx(7.4, abs=0.05)
    assert fit.verdict == "fast"


def test_printed_scales_of_one_over_the_root_of_the_place_give_the_printed_slope() -> None:
    values = [math.sqrt(sum(1 / place for place in range(1, count + 1)) / count) for count in BLOCKS]
    fit = family_fit(points(values))
    assert fit.gamma == pytest.approx(0.354, abs=5e-4)
    assert fit.verdict == "slow"


@given(st.lists(st.floats(-2.0, 2.0), min_size=4, max_size=4))
def test_fit_is_the_textbook_one(noise) -> None:
    x = np.log(BLOCKS)
    y = 0.3 - 0.6 * x + np.array(noise)
    fit = family_fit(points(np.exp(y)))
    slope, intercept = np.linalg.lstsq(np.stack([x, np.ones(4)], 1), y, rcond=None)[0]
    left = y - slope * x - intercept
    half = T_TWO * math.sqrt(float(left @ left) / 2 / float(((x - x.mean()) ** 2).sum()))
    assert fit.gamma == pytest.approx(-slope, abs=1e-9)
    assert (fit.low, fit.high) == pytest.approx((-slope - half, -slope + half), abs=1e-6)
    expected = "fast" if -slope - half > 0.5 else "slow" if -slope + half < 0.5 else "inconclusive"
    assert fit.verdict == expected


def test_a_made_family_gives_its_exponent_back() -> None:
    fit = family_fit(points([3 * count**-0.7 for count in BLOCKS]))
    assert (fit.gamma, fit.low, fit.high, fit.prefactor) == pytest.approx((0.7, 0.7, 0.7, 3.0), abs=1e-6)
    assert family_fit(points([3 * count**-0.5 for count in BLOCKS])).boundary
    assert not family_fit(points([3 * count**-0.56 for count in BLOCKS])).boundary
    assert family_fit(points([3 * count**-0.45001 for count in BLOCKS])).boundary


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ([], "3 depths or more, not 0"),
        (points((1.0, 0.5), blocks=(9, 15)), "3 depths or more, not 2"),
        (points((1.0, 0.5, 0.6, 0.7), blocks=(9, 15, 9, 15)), "3 depths or more, not 2"),
        ([*points((1.0, 0.5), blocks=(9, 15)), *points((0.4,), "measured", (21,))], "some from weights"),
        (points((1.0, 0.0, 0.3, 0.2)), "branches are 0"),
        (points((1.0, math.inf, 0.3, 0.2)), "branches are 0"),
        (points((1.0, None, 0.3, 0.2)), "no scale from weights"),
        (points((1.0, None, 0.3, 0.2), "measured"), "no scale that was measured"),
        ([*points((1.0, 0.5), blocks=(9, 15)), *points((0.4,), blocks=(21,), kinds=frozenset())], "the same blocks"),
    ],
)
def test_no_fit_has_a_reason(given, reason) -> None:
    assert family_fit(given) is None
    assert reason in why_no_family_fit(given)


def test_three_depths_are_enough() -> None:
    given = points((1.0, 0.6, 0.5), blocks=(9, 15, 21))
    assert why_no_family_fit(given) is None
    assert family_fit(given).n == 3


def test_a_point_holds_the_root_mean_square_of_either_method(samples: Path) -> None:
    path = samples / "digits_resnet" / "epoch24.pt"
    settings = Settings(threads=1, samples=2, input_size=(1, 8, 8))
    graph = discover(load(str(path)), settings)
    rows = scaling.analyse(Subject(graph, settings)).blocks
    found = family_points(rows, block_kinds(graph))
    for method in ("weights", "measured"):
        alphas = np.array([getattr(row, f"alpha_{method}") for row in rows])
        assert found[method].rms_alpha == pytest.approx(math.sqrt(float((alphas**2).mean())), rel=1e-12)
        assert (found[method].blocks, found[method].method) == (9, method)
    assert of_file(path)["measured"].rms_alpha is None


def test_networks_of_one_family_have_the_same_kinds_of_block_and_others_do_not(
    checkpoints: Path, samples: Path
) -> None:
    kinds = [of_file(checkpoints / f"resnet{depth}.th")["weights"].kinds for depth in (20, 56)]
    others = [
        of_file(samples / name)["weights"].kinds for name in ("digits_resnet/epoch24.pt", "digits_preact.safetensors")
    ]
    assert kinds[0] == kinds[1]
    assert len({*kinds, *others}) == 3
    # Three stages: two kinds of block each, but the first, which has no transition.
    assert len(kinds[0]) == 5
