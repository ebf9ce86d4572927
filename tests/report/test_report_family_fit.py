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
from resnet_audit.report.family_fit import FamilyPoint, family_fit, why_no_family_fit
from resnet_audit.settings import Settings
from resnet_audit.theory import scaling

if TYPE_CHECKING:
    from pathlib import Path

BLOCKS = (9, 15, 21, 27)
T_TWO = 4.302652729749464
"""97.5 % point of Student's t with 2 degrees of freedom, from tables."""


def points(values, method="weights", blocks=BLOCKS):
    return [
        FamilyPoint(blocks=count, rms_alpha=value, method=method) for count, value in zip(blocks, values, strict=True)
    ]


def test_family_of_four_trained_networks_has_the_printed_fit(checkpoints: Path) -> None:
    found = []
    for depth in (20, 32, 44, 56):
        settings = Settings(method="weights", threads=1)
        graph = discover(load(str(checkpoints / f"resnet{depth}.th")), settings)
        result = scaling.analyse(Subject(graph, settings))
        found.append(FamilyPoint(blocks=len(result.blocks), rms_alpha=result.rms_alpha, method=result.method))
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
        ([], "different depths, and there are 0"),
        (points((1.0, 0.5), blocks=(9, 15)), "different depths, and there are 2"),
        (points((1.0, 0.5, 0.6, 0.7), blocks=(9, 15, 9, 15)), "different depths, and there are 2"),
        ([*points((1.0, 0.5), blocks=(9, 15)), *points((0.4,), "measured", (21,))], "some from weights"),
        (points((1.0, 0.0, 0.3, 0.2)), "branches are 0"),
    ],
)
def test_no_fit_has_a_reason(given, reason) -> None:
    assert family_fit(given) is None
    assert reason in why_no_family_fit(given)


def test_three_depths_are_enough() -> None:
    given = points((1.0, 0.6, 0.5), blocks=(9, 15, 21))
    assert why_no_family_fit(given) is None
    assert family_fit(given).n == 3
