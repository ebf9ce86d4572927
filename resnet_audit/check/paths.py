"""Metric paths: the JSON path of a number below a checkpoint, lists fanned out.

`spectrum.layers.sigma_max` is one number for each layer. An element's `name`, or its index where it has none, is the
location; a list inside a list adds its index in brackets. Objects need their key. Which paths there are is known from
the result types, so that a misspelled one is an error and not a threshold that never matches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from difflib import SequenceMatcher
from functools import cache
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Literal, Union, get_args, get_origin, get_type_hints

from resnet_audit.errors import UsageError
from resnet_audit.results import CheckpointEntry

if TYPE_CHECKING:
    from collections.abc import Iterator

Kind = Literal["number", "text", "object"]
ANY_KEY = "*"
PREFIXES = ("checkpoints[].", "checkpoints.")
CLOSE = 0.6
SUGGESTED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One number found at a path. where: None if no list is on the way; value: None if it is null, or the object is."""

    where: str | None
    value: float | None


def look_up(entry: Mapping[str, object], path: str) -> tuple[Reading, ...]:
    """Every number that `path` leads to in a checkpoint; none if a key on the way is not there, or a list is empty."""
    return tuple(_read(entry, path.split("."), None))


def resolve(text: str) -> str:
    """The metric path that a user wrote, without `checkpoints`. Raises UsageError for one that leads to no number."""
    path = next((text.removeprefix(prefix) for prefix in PREFIXES if text.startswith(prefix)), text)
    kind = kinds().get(path) or kinds().get(f"{path.rpartition('.')[0]}.{ANY_KEY}")
    if kind == "number":
        return path
    reason = {
        None: "no metric has this path",
        "text": "this is text and a threshold needs a number",
        "object": "this is no number but holds several",
    }[kind]
    raise UsageError(f"{text}: {reason}; {did_you_mean(path, numbers())}`resnet-audit explain` lists all")


def did_you_mean(given: str, known: Sequence[str]) -> str:
    """A question with up to three of the `known` names that are spelled alike, or nothing."""
    near = nearest(given, known)
    return f"did you mean {' or '.join(near)}? " if near else ""


def nearest(given: str, known: Sequence[str]) -> list[str]:
    """Up to three of the `known` names: those below the given one, else with its ending, else spelled like it."""
    leaf = given.rpartition(".")[2]
    below = [name for name in known if name.startswith(f"{given}.")]
    ending = [name for name in known if name.rpartition(".")[2] == leaf]
    alike = [name for name in known if _likeness(given, name) >= CLOSE]
    return sorted(below or ending or alike, key=lambda name: (-_likeness(given, name), name))[:SUGGESTED]


def _likeness(one: str, other: str) -> float:
    return SequenceMatcher(a=one, b=other, autojunk=False).ratio()


@cache
def kinds() -> Mapping[str, Kind]:
    """What every path below a checkpoint is; `*` stands for the keys of an object that has no fixed ones."""
    hints = get_type_hints(CheckpointEntry)
    return dict(found for name, hint in hints.items() if name != "notes" for found in _paths(hint, name))


@cache
def numbers() -> tuple[str, ...]:
    """Every path that leads to a number."""
    return tuple(path for path, kind in kinds().items() if kind == "number")


def _paths(hint: object, path: str) -> Iterator[tuple[str, Kind]]:
    """The path of a type and all below it. A union is what the first of its members can be judged as."""
    members = [one for one in get_args(hint) if one is not NoneType] if _is_union(hint) else [hint]
    of_union = [one for one in members if one in {int, float, bool}] or members
    one = of_union[0]
    if get_origin(one) is tuple:
        yield from _paths(get_args(one)[0], path)
    elif get_origin(one) is Mapping:
        yield path, "object"
        yield from _paths(get_args(one)[1], f"{path}.{ANY_KEY}")
    elif isinstance(one, type) and is_dataclass(one):
        yield path, "object"
        hints = get_type_hints(one)
        for field in fields(one):
            if field.name != "notes":
                yield from _paths(hints[field.name], f"{path}.{field.name}")
    else:
        yield path, "number" if one in {int, float, bool} else "text"


def _is_union(hint: object) -> bool:
    return get_origin(hint) in {Union, UnionType}


def _read(value: object, steps: list[str], where: str | None) -> Iterator[Reading]:
    """The numbers `steps` below a value that stands at `where`."""
    if value is None:
        yield Reading(where=where, value=None)
    elif isinstance(value, (list, tuple)):
        for place, item in _elements(value):
            yield from _read(item, steps, place if where is None else f"{where}[{place}]")
    elif not steps:
        yield Reading(where=where, value=float(value) if isinstance(value, (int, float)) else None)
    elif isinstance(value, Mapping):
        if steps[0] in value:
            yield from _read(value[steps[0]], steps[1:], where)
    elif hasattr(value, steps[0]):
        yield from _read(getattr(value, steps[0]), steps[1:], where)


def _elements(values: Sequence[object]) -> Iterator[tuple[str, object]]:
    """The elements of a list with what tells them apart: a name, `#2` behind its second use, or the index."""
    seen: Counter[str] = Counter()
    for index, value in enumerate(values):
        name = getattr(value, "name", None)
        place = name if isinstance(name, str) else str(index)
        seen[place] += 1
        yield (place if seen[place] == 1 else f"{place}#{seen[place]}"), value
