"""The comparison as a picture: one small panel a metric, and the depth of paths as a map. Needs the extra `plot`."""

from __future__ import annotations

import io
import itertools
import math
from importlib.util import find_spec
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from resnet_audit.errors import AuditError, UsageError

from . import words
from .names import short_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resnet_audit.results import CheckpointEntry, Comparison, ComparisonRow, Document

FORMATS = {".svg": "svg", ".pdf": "pdf", ".png": "png"}
METADATA: dict[str, dict[str, None]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}
"""What says when a file was made, left out: the same document gives the same bytes."""

OWN_STYLE: Any = {
    "svg.hashsalt": "resnet-audit",
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
}

PANELS = (
    (
        "spectral complexity, log10",
        {"log10_spectral_complexity": "operator", "log10_spectral_complexity_patch": "patch"},
    ),
    ("Lipschitz constant, log10", {"log10_lipschitz": ""}),
    ("path norm, log10", {"log10_path_norm_l1": ""}),
    ("largest singular value", {"sigma_max": ""}),
    ("gradient ratio, median", {"ratio_median": ""}),
    ("gradient ratio, worst factor", {"ratio_worst": ""}),
    ("effective depth, blocks", {"depth_mean": "norm", "projection_mean": "projection"}),
    ("cancellation", {"cancellation": ""}),
    ("mean |gamma| of the last norm", {"branch_gamma": ""}),
)
"""Panels with their metrics and what sets these apart; one in which no row has a value is left out."""

ALONG = {"epoch": "epoch", "number": "number in the name", "blocks": "blocks", "position": "place in the order"}
COLUMNS = 3
PANEL, MAP, WIDTH = 1.9, 2.9, 9.0
"""Inches: height of a row of panels and of the map, width of all."""
LEAST_SHARE = 0.0005
LONGEST_NAME, LONGEST_TURNED = 12, 32
"""Letters of a name that fit below its column as it is, and turned; longer ones give way to the place in the order."""
MOST_NAMES = 30


def require_figure(path: str) -> None:
    """Raises UsageError unless a figure can be written in the format that the suffix of `path` names."""
    if PurePath(path).suffix not in FORMATS:
        raise UsageError(f"--figure {path}: the suffix is none of {', '.join(FORMATS)}; name the format by one of them")
    if find_spec("matplotlib") is None:
        raise UsageError(f"--figure {path}: matplotlib is not installed; pip install 'resnet-audit[plot]' brings it")


def figure(document: Document, path: str) -> bytes:
    """The figure of a document's comparison in the format of the suffix of `path`. Raises AuditError without rows."""
    comparison = document.get("comparison")
    if comparison is None or not comparison.rows:
        raise AuditError(f"{path}: no checkpoint could be compared; there is nothing to draw; see the lines above")
    from matplotlib import rc_context, style  # noqa: PLC0415 - an extra, and slow to import

    kind = FORMATS[PurePath(path).suffix]
    target = io.BytesIO()
    with style.context("default", after_reset=True), rc_context(OWN_STYLE):
        drawn = _drawn(comparison, document["checkpoints"])
        drawn.savefig(target, format=kind, dpi=150, metadata=METADATA[kind])
    return target.getvalue()


def _drawn(comparison: Comparison, entries: Sequence[CheckpointEntry]) -> Any:  # noqa: ANN401 - matplotlib has no types
    """A figure with all panels and, if any row has a distribution over depth, the map below them."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - as above

    rows = comparison.rows
    panels = [panel for panel in PANELS if any(getattr(row, name) is not None for row in rows for name in panel[1])]
    lines = -(-len(panels) // COLUMNS)
    by_path = {entry["path"]: entry for entry in entries}
    there = [by_path[row.path] for row in rows]
    shares = [_shares(entry) for entry in there]
    heights = [PANEL] * lines + ([MAP] if any(shares) else [])
    whole = Figure(figsize=(WIDTH, sum(heights) + 0.3), layout="constrained")
    grid = whole.add_gridspec(len(heights), COLUMNS, height_ratios=heights)
    for index, (title, metrics) in enumerate(panels):
        axes = whole.add_subplot(grid[index // COLUMNS, index % COLUMNS])
        _panel(axes, title, metrics, rows)
        if index + COLUMNS >= len(panels):
            axes.set_xlabel(ALONG[comparison.trend_of])
    if any(shares):
        _map(whole, whole.add_subplot(grid[lines, :]), rows, shares, _measured(there))
    _settle(whole)
    return whole


def _settle(whole: Any) -> None:  # noqa: ANN401 - matplotlib has no types
    """Lay the panels out, then keep their places rounded: the solver's last digits differ from run to run."""
    whole.draw_without_rendering()
    whole.set_layout_engine("none")
    for axes in whole.axes:
        axes.set_position([round(edge, 5) for edge in axes.get_position(original=True).bounds])


def _panel(axes: Any, title: str, metrics: dict[str, str], rows: Sequence[ComparisonRow]) -> None:  # noqa: ANN401 - as above
    """One metric, or two of one kind, along x; a missing value is a gap."""
    xs = [row.x for row in rows]
    ordered = all(a < b for a, b in itertools.pairwise(xs))
    for name, label in metrics.items():
        values = [math.nan if (value := getattr(row, name)) is None else value for row in rows]
        axes.plot(xs, values, "o-" if ordered else "o", markersize=3, linewidth=1, label=label)
    room = 0.05 * (max(xs) - min(xs)) or 0.5
    axes.set_xlim(min(xs) - room, max(xs) + room)
    axes.set_title(title, loc="left")
    axes.locator_params(axis="y", nbins=5)
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.grid(axis="y", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    if all(float(x).is_integer() for x in xs):
        axes.locator_params(axis="x", integer=True, nbins=6)
    if len(metrics) > 1:
        axes.legend(frameon=False, fontsize=7)


def _shares(entry: CheckpointEntry) -> tuple[float, ...]:
    """Norm shares by depth; nothing where they are unknown."""
    ensemble = entry.get("ensemble")
    return ensemble.distribution.norm if ensemble and ensemble.distribution else ()


def _measured(entries: Sequence[CheckpointEntry]) -> str:
    """The inputs of the depths: they depend on them."""
    inputs = [ensemble.inputs for entry in entries if (ensemble := entry.get("ensemble"))]
    kinds = dict.fromkeys(f"{one.kind}, {words.count(one.n, 'sample')}" for one in inputs)
    return f"inputs: {' or '.join(kinds)}"


def _map(
    whole: Any,  # noqa: ANN401 - matplotlib has no types
    axes: Any,  # noqa: ANN401 - as above
    rows: Sequence[ComparisonRow],
    shares: Sequence[tuple[float, ...]],
    measured: str,
) -> None:
    """Depth upwards, a column a checkpoint, darker the larger its share of the gradient; mean depths as points."""
    large = [depth for column in shares for depth, share in enumerate(column) if share >= LEAST_SHARE]
    depths = range(min(large), max(large) + 1)
    cells = [[column[d] if d < len(column) else math.nan for column in shares] for d in depths]
    image = axes.imshow(
        cells,
        origin="lower",
        aspect="auto",
        cmap="Blues",
        vmin=0.0,
        interpolation="nearest",
        extent=(-0.5, len(rows) - 0.5, depths[0] - 0.5, depths[-1] + 0.5),
    )
    means = [math.nan if row.depth_mean is None else row.depth_mean for row in rows]
    axes.plot(range(len(rows)), means, "o", color="tab:orange", markersize=4, label="mean")
    axes.set_title(f"share of the gradient norm by path depth ({measured})", loc="left")
    axes.set_ylabel("depth, blocks")
    axes.locator_params(axis="y", integer=True)
    axes.legend(frameon=False, fontsize=7, loc="upper right")
    whole.colorbar(image, ax=axes, label="share", pad=0.01)
    _names(axes, [row.path for row in rows])


def _names(axes: Any, paths: Sequence[str]) -> None:  # noqa: ANN401 - matplotlib has no types
    """Names below the columns, as text and never as formulas; every so many of them where all would not fit.

    Letters that no font at hand may have are escaped.
    """
    names = [words.clean(name, "latin-1") for name in short_names(paths)[1]]
    if max(map(len, names)) > LONGEST_TURNED:
        names = [str(place) for place in range(len(names))]
        axes.set_xlabel(ALONG["position"])
    every = -(-len(names) // MOST_NAMES)
    long = max(map(len, names)) > LONGEST_NAME or len(names) > 10
    turn = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if long else {}
    axes.set_xticks(range(0, len(names), every), names[::every], parse_math=False, **turn)
