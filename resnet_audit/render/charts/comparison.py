"""The comparison as charts: a small panel a metric, and the depth of paths as a map."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from resnet_audit.render import words

from .kinds import Course, Map

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resnet_audit.results import CheckpointEntry, Comparison

PANELS = (
    (
        "spectral complexity, log10",
        {"log10_spectral_complexity": "operator", "log10_spectral_complexity_patch": "patch"},
    ),
    ("Lipschitz constant and path norm, log10", {"log10_lipschitz": "Lipschitz", "log10_path_norm_l1": "path norm"}),
    ("largest singular value", {"sigma_max": ""}),
    ("gradient ratio, median", {"ratio_median": ""}),
    ("gradient ratio, worst factor", {"ratio_worst": ""}),
    ("effective depth, blocks", {"depth_mean": "norm", "projection_mean": "projection"}),
    ("cancellation", {"cancellation": ""}),
    ("mean |gamma| of the last norm", {"branch_gamma": ""}),
    ("residual time of the branches", {"residual_time": ""}),
)
"""Panels with their metrics and what sets these apart; one in which no row has a value is left out."""

ALONG = {"epoch": "epoch", "number": "number in the name", "blocks": "blocks", "position": "place in the order"}
LEAST_SHARE = 0.0005


def courses(comparison: Comparison) -> tuple[Course, ...]:
    """A panel a metric that any row has a value of."""
    rows = comparison.rows
    xs = tuple(row.x for row in rows)
    return tuple(
        Course(
            title=title,
            x=ALONG[comparison.trend_of],
            xs=xs,
            series=tuple((label, tuple(getattr(row, name) for row in rows)) for name, label in metrics.items()),
            ordered=all(a < b for a, b in itertools.pairwise(xs)),
        )
        for title, metrics in PANELS
        if any(getattr(row, name) is not None for row in rows for name in metrics)
    )


def depth_map(comparison: Comparison, entries: Sequence[CheckpointEntry]) -> Map | None:
    """The map of the depths; None where no row has a distribution."""
    by_path = {entry["path"]: entry for entry in entries}
    there = [by_path[row.path] for row in comparison.rows]
    columns = tuple(_shares(entry) for entry in there)
    large = [depth for column in columns for depth, share in enumerate(column) if share >= LEAST_SHARE]
    if not large:
        return None
    return Map(
        title="share of the gradient norm by path depth",
        note=_measured(there),
        paths=tuple(row.path for row in comparison.rows),
        columns=columns,
        means=tuple(row.depth_mean for row in comparison.rows),
        depths=range(min(large), max(large) + 1),
    )


def _shares(entry: CheckpointEntry) -> tuple[float, ...]:
    """Norm shares by depth; nothing where they are unknown."""
    ensemble = entry.get("ensemble")
    return ensemble.distribution.norm if ensemble and ensemble.distribution else ()


def _measured(entries: Sequence[CheckpointEntry]) -> str:
    """The inputs of the depths: they depend on them."""
    inputs = [ensemble.inputs for entry in entries if (ensemble := entry.get("ensemble"))]
    kinds = dict.fromkeys(f"{one.kind}, {words.count(one.n, 'sample')}" for one in inputs)
    return f"inputs: {' or '.join(kinds)}"
