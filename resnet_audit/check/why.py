"""Why a metric could not be judged, as one line that ends with what to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from resnet_audit.check.paths import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resnet_audit.check.paths import Reading
    from resnet_audit.results import CheckpointEntry


def nothing_found(entry: CheckpointEntry, metric: str, *, ignored: bool) -> str:
    """The line for a threshold that matches no number of a checkpoint. ignored: because all of them are."""
    path, analysis = entry["path"], metric.partition(".")[0]
    if ignored:
        return f"{path}: {metric} is ignored at every location; nothing is judged; leave the threshold out"
    if analysis not in entry:
        why = f"the report holds no {analysis}; make it with `resnet-audit {analysis} -f json`"
        return f"{path}: {metric} is not there; {why}"
    keys = _keys(entry, metric.split(".")[:-1])
    if keys is not None:
        near = did_you_mean(metric, [f"{metric.rpartition('.')[0]}.{key}" for key in keys])
        return f"{path}: {metric} is not there; {near or 'nothing has this name; '}the keys are: {', '.join(keys)}"
    return f"{path}: {metric} matches nothing: its list is empty; a threshold on nothing holds nothing; leave it out"


def null_found(entry: CheckpointEntry, metric: str, null: Sequence[Reading], among: int) -> str:
    """The line for a metric that is null, or no finite number, at these of its `among` locations."""
    path, analysis = entry["path"], metric.partition(".")[0]
    if entry.get(analysis) is None:
        reasons = [note.message for note in entry["notes"] if note.where == analysis]
        return f"{path}: {metric} is null; {'; '.join(reasons) or f'{analysis} has no answer'}"
    where = null[0].where
    at = f" at {where}" if where is not None else ""
    more = f" and {len(null) - 1} more of {among} locations" if len(null) > 1 else ""
    reasons = [note.message for note in entry["notes"] if _is_about(note.where, metric, where)]
    why = reasons[0] if reasons else "a number that is not there cannot be judged"
    place = f"[{where}]" if where is not None else ""
    return f"{path}: {metric} is null{at}{more}; {why}; --ignore '{metric}{place}' leaves it out"


def unknown_found(path: str, name: str, metric: str, places: Sequence[str | None]) -> str:
    """The line for numbers of a metric that can only be compared with a baseline, and have none at these locations."""
    at = f" at {places[0]}" if places[0] is not None else ""
    more = f" and {len(places) - 1} more locations" if len(places) > 1 else ""
    what = f"{path}: {metric} has no number in the baseline under {name}{at}{more}"
    return f"{what}; there is nothing to compare it with; --update-baseline records it"


def _is_about(place: str | None, metric: str, where: str | None) -> bool:
    """Whether a note at a place tells of a metric: the note names its location or a part of its path."""
    return place is not None and (place in {where, metric} or metric.startswith(f"{place}."))


def _keys(value: object, steps: Sequence[str]) -> list[str] | None:
    """The keys of the object at `steps` if that has no fixed ones, as the depths of shortcuts; None for all others."""
    for step in steps:
        value = value.get(step) if isinstance(value, Mapping) else getattr(value, step, None)
    return list(map(str, value)) if isinstance(value, Mapping) and len(steps) > 1 else None
