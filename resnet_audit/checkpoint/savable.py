"""What of a file that was read can be written again: tensors, numbers, text and the containers around them.

An object that the reader described and nobody made (an optimizer, parsed arguments) cannot: to make it would be to run
what the file names. It is left out, and its place is named; so torch's safe loader reads all that is kept. Sets come
back as lists and ordered dicts as dicts, which is how they were read.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from torch import Tensor

from resnet_audit.checkpoint.inert import BrokenPickle, Global, Stub
from resnet_audit.checkpoint.names import quoted
from resnet_audit.checkpoint.rebuild import dtype_of

DEPTH_MAX = 64  # of containers; wrappers in the wild are two or three deep
_MISSING = object()
_PLAIN = bool | int | float | complex | str | bytes | None


def savable(value: object) -> tuple[object, tuple[str, ...]]:
    """(kept, lost): `value` without what cannot be written, and the dotted paths of that, "" for `value` itself.

    Parts that are shared stay shared, tensors that share their memory included. A list keeps the places of its entries.
    """
    keeper = _Keeper()
    kept = keeper.kept(value, ())
    return (None if kept is _MISSING else kept), tuple(keeper.lost)


class _Keeper:
    """One pass over nested containers, each gone through once however often it is referred to."""

    def __init__(self) -> None:
        self.lost: list[str] = []
        self._known: dict[int, object] = {}

    def kept(self, value: object, place: tuple[str, ...]) -> object:
        if isinstance(value, _PLAIN) and value != b"":
            return value
        if isinstance(value, Tensor):
            return Tensor.detach(value)
        if id(value) not in self._known:
            # Until it is done, what refers back to it finds nothing: a circle cannot be written.
            self._known[id(value)] = _MISSING
            self._known[id(value)] = self._container(value, place) if len(place) < DEPTH_MAX else _MISSING
        found = self._known[id(value)]
        if found is _MISSING:
            self.lost.append(".".join(place))
        return found

    def _container(self, value: object, place: tuple[str, ...]) -> object:
        match value:
            case Mapping():
                return self._mapping(value, place)
            case list() | tuple():
                every = [self.kept(part, (*place, str(index))) for index, part in enumerate(value)]
                parts = [None if part is _MISSING else part for part in every]
                return tuple(parts) if isinstance(value, tuple) else parts
            case Global():
                return _dtype(value)
            case Stub():
                return _bytes(value)
        return _MISSING

    def _mapping(self, value: Mapping[object, object], place: tuple[str, ...]) -> object:
        found = {}
        for key, part in value.items():
            label = quoted(key) if isinstance(key, str) else str(key) if isinstance(key, int) else "?"
            if not isinstance(key, str | int | bytes | None):
                self.lost.append(".".join((*place, label)))
            elif (kept := self.kept(part, (*place, label))) is not _MISSING:
                found[key] = kept
        return found


def _dtype(name: Global) -> object:
    try:
        return dtype_of(name)
    except BrokenPickle:
        return _MISSING


def _bytes(stub: Stub) -> object:
    """Bytes as torch's pickles write them. Empty ones are another call, which torch's safe loader refuses."""
    match stub.name, stub.args:
        case "_codecs.encode", (str(text), "latin1"):
            with suppress(UnicodeEncodeError):
                return text.encode("latin1") or _MISSING
    return _MISSING
