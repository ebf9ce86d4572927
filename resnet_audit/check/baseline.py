"""The baseline: the numbers of an earlier run, which later ones must not be worse than.

    {"baseline_version": 1, "tool": "resnet-audit",
     "checkpoints": {NAME: {METRIC: {"le" | "ge": {LOCATION: NUMBER}}}}}

NAME is the stem of the checkpoint's file or what `--name` says, so that the next checkpoint of a run is judged by the
last. LOCATION is empty for a metric that is in no list. `le` is the side where smaller is better, `ge` where larger is.
Keys are sorted: the file differs where the numbers do.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from resnet_audit.errors import UnreadableCheckpoint, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from resnet_audit.results import Op

VERSION = 1
TOLERANCE = 1e-5
"""How much worse than the baseline, relative to it, is the rounding of another machine: passes run in float32."""


class Key(NamedTuple):
    """What a number of the baseline is of: a checkpoint's name, a metric, the side that is better, and a location."""

    name: str
    metric: str
    op: Op
    where: str


@dataclass(frozen=True, slots=True)
class Baseline:
    """The numbers by what they are of."""

    values: Mapping[Key, float]

    def number(self, key: Key) -> float | None:
        """The number of the baseline, None if it has none."""
        return self.values.get(key)

    def metrics(self, name: str) -> tuple[tuple[str, Op], ...]:
        """What the baseline holds of a checkpoint, each metric once for each side, in the order of the file."""
        return tuple(dict.fromkeys((key.metric, key.op) for key in sorted(self.values) if key.name == name))

    def updated(self, measured: Mapping[Key, float], *, force: bool) -> Baseline:
        """The baseline with the `measured` numbers: one that is new is recorded, one that is there only gets tighter.

        `le` tightens downward and `ge` upward. A number with both sides has no better value, and stays. With `force`
        each becomes what was measured, and locations that are no longer measured go.
        """
        if force:
            again = {key[:3] for key in measured}
            kept = {key: value for key, value in self.values.items() if key[:3] not in again}
            return Baseline(kept | dict(measured))
        both = {_either(key) for key in {*self.values, *measured} if _other_side(key) in {*self.values, *measured}}
        found = dict(self.values)
        for key, value in measured.items():
            old = found.get(key)
            if old is None:
                found[key] = value
            elif _either(key) not in both:
                found[key] = min(old, value) if key.op == "le" else max(old, value)
        return Baseline(found)

    def to_text(self) -> str:
        """The file's text: the same for the same numbers."""
        tree: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
        for key, value in self.values.items():
            metrics = tree.setdefault(key.name, {})
            metrics.setdefault(key.metric, {}).setdefault(key.op, {})[key.where] = value + 0.0
        whole = {"baseline_version": VERSION, "tool": "resnet-audit", "checkpoints": _sorted(tree)}
        return json.dumps(whole, indent=2, allow_nan=False) + "\n"


def no_worse_than(number: float, op: Op) -> float:
    """The limit of what counts as no worse than a number of the baseline: itself, and the rounding of a machine."""
    slack = TOLERANCE * abs(number)
    return number + slack if op == "le" else number - slack


def names_of(paths: Sequence[str], name: str | None) -> tuple[str, ...]:
    """The names that checkpoints have in a baseline. Raises UsageError where two would share one."""
    if name is not None and len(paths) > 1:
        raise UsageError(f"--name {name}: one name cannot stand for {len(paths)} checkpoints; give one of them")
    names = tuple(name or PurePath(path).stem or path for path in paths)
    for twice, times in Counter(names).items():
        if times > 1:
            there = " and ".join(path for path, one in zip(paths, names, strict=True) if one == twice)
            raise UsageError(f"{there}: the baseline has one name for them, {twice}; check each alone, with --name")
    return names


def read_baseline(text: str, path: str) -> Baseline:
    """The baseline that a file holds. Raises UnreadableCheckpoint, which names `path`, for what is none."""
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        _refuse(path, "no JSON", "a baseline is")
    version = whole.get("baseline_version") if isinstance(whole, dict) else None
    if version is None or whole.get("tool") != "resnet-audit":
        _refuse(path, "JSON, but no baseline of resnet-audit", "it has no `baseline_version`")
    if version != VERSION:
        _refuse(path, f"a baseline of version {version}", f"this version of resnet-audit knows version {VERSION}")
    return Baseline(dict(_numbers(whole.get("checkpoints"), path)))


def _numbers(tree: object, path: str) -> Iterator[tuple[Key, float]]:
    for name, metrics in _members(tree, path, "checkpoints"):
        for metric, sides in _members(metrics, path, name):
            for op, places in _members(sides, path, metric):
                if op not in {"le", "ge"}:
                    _refuse(path, f"a baseline with the side {op!r} of {metric}", "a side is le or ge")
                for where, value in _members(places, path, metric):
                    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                        _refuse(path, f"a baseline with {value!r} for {metric} {where}".rstrip(), "it is no number")
                    yield Key(name, metric, "le" if op == "le" else "ge", where), float(value)


def _members(value: object, path: str, where: str) -> Iterable[tuple[str, object]]:
    if not isinstance(value, dict):
        _refuse(path, f"a baseline whose `{where}` is no object", "numbers are sorted in by checkpoint and metric")
    return value.items()


def _refuse(path: str, what: str, why: str) -> NoReturn:
    raise UnreadableCheckpoint(path, what, why, "name another file, or make it anew with --update-baseline")


def _either(key: Key) -> tuple[str, str, str]:
    """What a number is of, whichever side is the better."""
    return key.name, key.metric, key.where


def _other_side(key: Key) -> Key:
    return key._replace(op="ge" if key.op == "le" else "le")


def _sorted(tree: object) -> object:
    """The same with the keys of every object in order."""
    return {key: _sorted(value) for key, value in sorted(tree.items())} if isinstance(tree, dict) else tree
