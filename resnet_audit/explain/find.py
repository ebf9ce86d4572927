"""From what a user types to the text: a JSON path, with or without indices, names of rows, or the member of a set."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache

from resnet_audit.errors import UsageError

from .texts import CHAPTERS, Chapter, Explanation, chapters


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a path leads to: the text of a metric, or a whole analysis, and the metrics below it.

    path: as it is in the document. differs: (path, meaning) of what sets it apart from others with the same text.
    """

    path: str
    chapter: Chapter
    entry: Explanation | None
    differs: tuple[tuple[str, str], ...]
    below: tuple[Explanation, ...]


def find(query: str) -> Found:
    """What `query` is about. Raises UsageError, with what it may have meant, where no metric has this path."""
    path = normalised(query)
    known = _known()
    if path not in known:
        raise UsageError(_unknown(query, path))
    chapter, entry = known[path]
    if entry is None:
        return Found(path=path, chapter=chapter, entry=None, differs=(), below=chapter.entries)
    below = tuple(other for other in chapter.entries if other is not entry and _is_below(chapter, other, path))
    return Found(path=path, chapter=chapter, entry=entry, differs=_differs(path, entry), below=below)


def normalised(query: str) -> str:
    """The path of `query` without what stands for one element: indices, `[...]`, a leading `checkpoints`."""
    parts = re.sub(r"\[[^]]*\]", "", query).split(".")
    kept = [part for part in parts if part and part != "*" and not part.isdecimal()]
    return ".".join(kept[1:] if kept[:1] == ["checkpoints"] else kept)


@cache
def _known() -> dict[str, tuple[Chapter, Explanation | None]]:
    """Every path that has a text. A text for a set is also found by the path that leaves the set out."""
    known: dict[str, tuple[Chapter, Explanation | None]] = {}
    for chapter in chapters():
        known[chapter.name] = (chapter, None)
        for entry in chapter.entries:
            for path in (entry.path, *entry.also):
                places = (path, _without_sets(chapter, path), *chapter.concrete(path))
                known |= dict.fromkeys(places, (chapter, entry))
    return known


def metrics() -> frozenset[str]:
    """Every JSON path that has a text of its own or shares one."""
    return frozenset(
        concrete
        for chapter in chapters()
        for entry in chapter.entries
        for path in (entry.path, *entry.also)
        for concrete in chapter.concrete(path)
    )


def _without_sets(chapter: Chapter, path: str) -> str:
    sets = dict(chapter.sets)
    return ".".join(part for part in path.split(".") if part not in sets)


def _is_below(chapter: Chapter, other: Explanation, path: str) -> bool:
    """Whether a metric lies directly below a path, the members of a set taken as one step with it."""
    places = {place for full in (other.path, *other.also) for place in chapter.concrete(full)}
    places |= {_without_sets(chapter, other.path)}
    return any(place.rpartition(".")[0] == path for place in places)


def _differs(path: str, entry: Explanation) -> tuple[tuple[str, str], ...]:
    """The texts of the places on the way to `path` that are not on the way to its entry."""
    parts, own = path.split("."), entry.path.split(".")
    above = [".".join(parts[:end]) for end in range(2, len(parts))]
    usual = {".".join(own[:end]) for end in range(2, len(own) + 1)}
    known = _known()
    found = [(place, known[place][1]) for place in above if place not in usual and place in known]
    return tuple((place, text.meaning) for place, text in found if text is not None and text is not entry)


def _unknown(query: str, path: str) -> str:
    """One line: what is asked for, why it has no text, what to do."""
    todo = "`resnet-audit explain` lists all"
    near = _near(path)
    meant = f"did you mean {' or '.join(near)}? " if near else ""
    return f"{query}: no metric has this name; {meant}{todo}"


def _near(path: str) -> list[str]:
    """Up to three paths that end in the same name, else that are spelled alike; of the same analysis if it has any."""
    candidates = sorted(metrics() | set(CHAPTERS))
    leaves: dict[str, list[str]] = {}
    for one in candidates:
        leaves.setdefault(one.rpartition(".")[2].lower(), []).append(one)
    leaf = path.rpartition(".")[2].lower()
    names = [leaf] if leaf in leaves else get_close_matches(leaf, leaves, n=3)
    alike = [one for name in names for one in leaves[name]]
    within = [one for one in alike if one.partition(".")[0] == path.partition(".")[0]]
    return get_close_matches(path, within or alike, n=3, cutoff=0.0) or get_close_matches(path, candidates, n=3)
