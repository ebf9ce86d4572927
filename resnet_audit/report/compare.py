"""Comparing checkpoints: their order, a row of headline numbers each, straight lines through the rows, a family's fit.

Source   ordinary least squares; the interval of a slope is Student's, at 95 %, with n - 2 degrees of freedom.
Reads    everything from finished results, so a row says what the single commands say.
Status   rows as their analyses say; a slope is an estimate. The interval takes rows as independent: the epochs of one
         run are not, so it is too narrow there.
"""

from __future__ import annotations

import hashlib
import importlib
import math
import re
from copy import copy
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from resnet_audit.checkpoint.expand import natural_key
from resnet_audit.errors import UsageError
from resnet_audit.report.family_fit import FamilyPoint, family_fit, family_points, why_no_family_fit
from resnet_audit.report.many import ONE, UNWATCHED, audit_all
from resnet_audit.report.report import Work, registered
from resnet_audit.results import Comparison, ComparisonRow, Note, ScalingResult, Trend

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from resnet_audit.checkpoint import Checkpoint
    from resnet_audit.measure import Subject
    from resnet_audit.report.many import Watch
    from resnet_audit.report.report import One, Outcome
    from resnet_audit.results import AlphaMethod, CheckpointEntry, Result
    from resnet_audit.results.comparison import Direction, TrendOf
    from resnet_audit.settings import Many, Settings

    Member = dict[AlphaMethod, FamilyPoint]
    """One network of a family by each method."""

COMPARED = ("bound", "spectrum", "gradient", "ensemble", "scaling")
"""The analyses that a row is made of."""

METRICS = (
    "log10_spectral_complexity",
    "log10_spectral_complexity_patch",
    "log10_lipschitz",
    "log10_path_norm_l1",
    "sigma_max",
    "ratio_median",
    "ratio_worst",
    "c_hat",
    "depth_mean",
    "projection_mean",
    "cancellation",
    "branch_gamma",
    "residual_time",
)
"""The metrics of a row that have a trend."""

LEVEL = 0.95
FEWEST = 3
ROUNDING = 1e-9
"""Relative spread of a metric up to which its rows are one number, rounded differently."""

NUMBER = re.compile("[0-9]+(?:[.][0-9]+)?")
LARGEST = 2.0**53
"""Numbers past this are no counts, and neighbours among them are one float."""
EPOCH = re.compile("(?:^|[^a-z])(?:epochs?|ep|e)[^a-z]*$", re.IGNORECASE)
"""What stands before the number of an epoch."""


def in_order(paths: Sequence[str]) -> tuple[list[str], list[str]]:
    """(paths, notices): each path once, folders and numbers in them in natural order.

    Raises UsageError where fewer than two are left.
    """
    found = sorted(dict.fromkeys(paths), key=_key)
    if len(found) < 2:
        named = f"MODEL leads to one ({found[0]})" if found else "MODEL leads to none"
        raise UsageError(f"compare needs two checkpoints or more and {named}; name more files, a folder or a pattern")
    twice = [path for path in found if paths.count(path) > 1]
    return found, [f"{path}: named more than once, compared once" for path in twice]


def _key(path: str) -> list[tuple[list[str | int], str]]:
    """Folder by folder: `run/` stands before `run-b/`, and epoch2 before epoch10 at any level."""
    return [natural_key(part) for part in path.split("/")]


def compare_all(paths: Sequence[str], settings: Settings, *, many: Many = ONE, watch: Watch = UNWATCHED) -> Outcome:
    """The document of `compare` over all `paths`, in their order; a file that fails has no row."""
    family: list[Member] = []

    def done(one: One) -> None:
        if one.beside is not None:
            family.append(_member_from(one.beside))
        watch.done(one)

    work = Work(analyses=COMPARED, settings=settings, analyse=for_a_row, beside=as_member)
    outcome = audit_all(paths, "compare", work, many=many, watch=replace(watch, done=done))
    outcome.document["comparison"] = compared(outcome.document["checkpoints"], family)
    return outcome


def as_member(subject: Subject, results: Mapping[str, Result]) -> object:
    """What the network is in a family; None where its branches have no scales.

    Here, since `--blocks` takes rows out of what is finished, and the family is one of whole networks.
    """
    scaling = results.get("scaling")
    if not isinstance(scaling, ScalingResult):
        return None
    kinds = importlib.import_module("resnet_audit.measure.block_kinds").block_kinds(subject.graph)
    # Only whether two networks have the same kinds is ever asked.
    digest = hashlib.sha256(repr(sorted(map(repr, kinds))).encode()).hexdigest()
    points = family_points(scaling.blocks, frozenset({digest}))
    return {method: {**asdict(point), "kinds": digest} for method, point in points.items()}


def _member_from(beside: Any) -> Member:  # noqa: ANN401 - plain JSON data
    return {method: FamilyPoint(**{**point, "kinds": frozenset({point["kinds"]})}) for method, point in beside.items()}


def for_a_row(name: str, subject: Subject, checkpoint: Checkpoint) -> Result:
    """The result of an analysis as far as a row needs it: of spectra the largest values only."""
    if name == "spectrum":
        # The copy shares what has been computed; only its settings differ.
        subject = copy(subject)
        subject.settings = replace(subject.settings, fast=True)
    return registered(name, subject, checkpoint)


def compared(entries: Iterable[CheckpointEntry], family: Sequence[Member] = ()) -> Comparison:
    """Rows and trends of the checkpoints whose graph was found, in the order given, and the fits of the `family`."""
    found = [entry for entry in entries if entry.get("graph") is not None]
    kind, places = _places(found)
    rows = tuple(_row(entry, x) for entry, x in zip(found, places, strict=True))
    trends = tuple(_trend(metric, rows) for metric in METRICS)
    weights, measured = ([member[method] for member in family] for method in ("weights", "measured"))
    return Comparison(
        trend_of=kind,
        rows=rows,
        trends=trends,
        family_fit=family_fit(weights),
        family_fit_measured=family_fit(measured),
        notes=(*_notes(found, rows), *_no_fit("family_fit", weights), *_no_fit("family_fit_measured", measured)),
    )


def _row(entry: CheckpointEntry, x: float) -> ComparisonRow:
    graph, bound, spectrum = entry.get("graph"), entry.get("bound"), entry.get("spectrum")
    gradient, ensemble, scaling = entry.get("gradient"), entry.get("ensemble"), entry.get("scaling")
    covers = bound.covers if bound else None
    return ComparisonRow(
        path=entry["path"],
        x=x,
        block_count=graph.block_count if graph else None,
        parameters=entry["parameters"],
        log10_spectral_complexity=_finite(covers.operator.log10_spectral_complexity if covers else None),
        log10_spectral_complexity_patch=_finite(covers.patch.log10_spectral_complexity if covers else None),
        log10_lipschitz=_finite(bound.log10_lipschitz if bound else None),
        log10_path_norm_l1=_finite(bound.log10_path_norm_l1 if bound else None),
        sigma_max=_finite(spectrum.sigma_max if spectrum else None),
        ratio_median=_finite(gradient.ratio_median if gradient else None),
        ratio_worst=_finite(gradient.ratio_worst if gradient else None),
        c_hat=_finite(gradient.c_hat if gradient else None),
        depth_mean=_finite(ensemble.depth_mean if ensemble else None),
        projection_mean=_finite(ensemble.projection_mean if ensemble else None),
        cancellation=_finite(ensemble.cancellation if ensemble else None),
        branch_gamma=_finite(graph.branch_gamma if graph else None),
        identity_residual=_finite(ensemble.identity_residual if ensemble else None),
        residual_time=_finite(scaling.residual_time if scaling else None),
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _places(entries: Sequence[CheckpointEntry]) -> tuple[TrendOf, list[float]]:
    """What the rows are compared along: the depth of a family, a number in the paths, else their place in the order."""
    counts = [graph.block_count for entry in entries if (graph := entry.get("graph")) is not None]
    if len(set(counts)) > 1:
        return "blocks", [float(count) for count in counts]
    kind, places = _numbers_in([entry["path"] for entry in entries])
    return (kind, places) if places else ("position", [float(place) for place in range(len(entries))])


def _numbers_in(paths: Sequence[str]) -> tuple[TrendOf, list[float]]:
    """The one number that tells the paths apart: that of the epoch, else the only one that varies; nothing without."""
    if len({tuple(NUMBER.split(path)) for path in paths}) != 1:
        return "position", []
    columns = [[float(text) for text in column] for column in zip(*map(NUMBER.findall, paths), strict=True)]
    varying = [place for place, column in enumerate(columns) if len(set(column)) > 1]
    epochs = [place for place in varying if EPOCH.search(NUMBER.split(paths[0])[place])]
    chosen = epochs if len(epochs) == 1 else varying
    if len(chosen) != 1 or max(columns[chosen[0]]) > LARGEST:
        return "position", []
    return "epoch" if epochs else "number", columns[chosen[0]]


def _trend(metric: str, rows: Sequence[ComparisonRow]) -> Trend:
    pairs = [(row.x, value) for row in rows if (value := getattr(row, metric)) is not None]
    return trend(metric, [x for x, _ in pairs], [y for _, y in pairs])


def trend(metric: str, xs: Sequence[float], ys: Sequence[float]) -> Trend:
    """The least-squares slope of `ys` per unit of `xs` with its interval; None below three points or at a single x.

    Values that are all the same have the slope 0, without a width.
    """
    if len(xs) < FEWEST or len(set(xs)) == 1:
        return Trend(metric=metric, slope=None, low=None, high=None, n=len(xs), direction=None)
    # In units of the largest value: squares cannot overflow.
    unit = max(map(abs, ys))
    if max(ys) - min(ys) <= ROUNDING * unit:
        return Trend(metric=metric, slope=0.0, low=0.0, high=0.0, n=len(xs), direction="no clear trend")
    from scipy.stats import linregress, t  # noqa: PLC0415 - slow to import, and only a comparison needs it

    line = linregress(xs, [y / unit for y in ys])
    # From the residuals themselves: 1 - r^2 has no digits left where the line fits well.
    squares = math.fsum((y / unit - line.intercept - line.slope * x) ** 2 for x, y in zip(xs, ys, strict=True))
    mean, free = math.fsum(xs) / len(xs), len(xs) - 2
    error = math.sqrt(squares / free / math.fsum((x - mean) ** 2 for x in xs))
    slope, half = unit * float(line.slope), unit * error * float(t.ppf(0.5 + LEVEL / 2, free))
    direction: Direction = "no clear trend" if abs(slope) <= half else "rises" if slope > 0 else "falls"
    return Trend(metric=metric, slope=slope, low=slope - half, high=slope + half, n=len(xs), direction=direction)


def _notes(entries: Sequence[CheckpointEntry], rows: Sequence[ComparisonRow]) -> Iterator[Note]:
    message = "sigma max of a matrix is an estimate from below; of convolutions exact"
    yield Note(code="fast", message=message, where="sigma_max")
    if len({scaling.method for entry in entries if (scaling := entry.get("scaling"))}) > 1:
        message = "S is measured in some rows and from weights in others; the two cannot be compared"
        yield Note(code="mixed_scales", message=message, where="residual_time")
    if len(rows) < FEWEST:
        message = f"a trend needs {FEWEST} checkpoints or more"
        yield Note(code="too_few_rows", message=message, where="trends")


def _no_fit(where: str, points: Sequence[FamilyPoint]) -> Iterator[Note]:
    reason = why_no_family_fit(points)
    if reason is not None:
        yield Note(code="no_family_fit", message=f"no family fit: {reason}", where=where)
