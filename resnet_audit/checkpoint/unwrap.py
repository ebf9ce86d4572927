"""From whatever a file holds to one flat state dict: the wrapper undone, rivals named, everything else counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from resnet_audit.checkpoint.names import common_prefix, listed, quoted, safe, safe_names
from resnet_audit.errors import UnreadableCheckpoint
from resnet_audit.results import Note

_TOP = "(top)"
_DEPTH_MAX = 32  # of containers; wrappers in the wild are two or three deep


@dataclass(frozen=True, slots=True, kw_only=True)
class Unwrapped:
    """One state dict by clean names. wrapper: dotted path of keys to it (None at the top); prefix: what was removed."""

    wrapper: str | None
    prefix: str
    tensors: dict[str, Tensor]
    notes: tuple[Note, ...]


@dataclass(frozen=True, slots=True)
class _Candidate:
    place: str  # dotted path of keys, "" at the top
    entries: Mapping[object, object]
    names: tuple[str, ...]  # the keys of its tensors


def unwrap(path: str, content: object, key: str | None) -> Unwrapped:
    """The state dict in `content` that has most tensors, or the one at `key`.

    Raises UnreadableCheckpoint without any tensor, for an unknown key, for rivals with the same names without a key,
    and for tensors that are not plain weights (sparse, quantised, without data, larger than their storage).
    """
    found = _candidates(content)
    if not found:
        what = "a single tensor" if isinstance(content, Tensor) else "a checkpoint without any named tensor"
        raise UnreadableCheckpoint(path, what, "there is nothing to analyse", "name a file that holds a state_dict")
    chosen = _chosen(path, found, key)
    prefix, extra = common_prefix(chosen.names)
    kept = [name for name in chosen.names if name != extra]
    clean = safe_names(name.removeprefix(prefix) for name in kept)
    tensors = {clean[name.removeprefix(prefix)]: chosen.entries[name] for name in kept}
    renamed = sum(old != new for old, new in clean.items())
    notes = (
        *_wrapper_notes(chosen, found),
        *_prefix_notes(prefix, extra),
        *_ignored_notes(chosen),
        *([_renamed_note(renamed)] if renamed else []),
    )
    plain = {name: _plain(path, name, value) for name, value in tensors.items() if isinstance(value, Tensor)}
    return Unwrapped(wrapper=chosen.place or None, prefix=safe(prefix), tensors=plain, notes=notes)


def _candidates(content: object) -> list[_Candidate]:
    """Every mapping with a tensor under a string key, in the order of the file, never below a key of an optimiser."""
    found: list[_Candidate] = []
    seen: set[int] = set()  # containers can hold one another in circles, and share parts
    left: list[tuple[tuple[str, ...], object]] = [((), content)]
    while left:
        place, value = left.pop()
        if id(value) in seen or len(place) > _DEPTH_MAX:
            continue
        seen.add(id(value))
        inner: Iterable[tuple[object, object]]
        if isinstance(value, Mapping):
            names = tuple(k for k, v in value.items() if isinstance(k, str) and isinstance(v, Tensor))
            if names:
                found.append(_Candidate(".".join(place), value, names))
            inner = value.items()
        elif isinstance(value, list | tuple):
            inner = enumerate(value)
        else:
            continue
        below = [((*place, _label(k)), v) for k, v in inner if isinstance(v, Mapping | list | tuple)]
        left += reversed([(at, v) for at, v in below if "optim" not in at[-1].lower()])
    return found


def _label(key: object) -> str:
    """One key of a dotted path. Only strings and small numbers have a text that is sure to be short work."""
    if isinstance(key, str):
        return safe(key)
    return str(key) if isinstance(key, int) and key.bit_length() < 64 else f"({type(key).__name__})"


def _chosen(path: str, found: list[_Candidate], key: str | None) -> _Candidate:
    if key is not None:
        for candidate in found:
            if key == (candidate.place or _TOP):
                return candidate
        places = [candidate.place for candidate in found if candidate.place]
        there = f"it has {listed(places, 10)}" if places else "its state dict is not under a key"
        todo = "name one of those" if places else "leave out --key"
        raise UnreadableCheckpoint(path, f"a checkpoint without the key {quoted(key)}", there, todo)
    largest = max(found, key=lambda candidate: len(candidate.names))
    names = _stripped(largest)
    rivals = [candidate.place or _TOP for candidate in found if candidate is largest or _stripped(candidate) == names]
    if len(rivals) > 1:
        raise UnreadableCheckpoint(
            path,
            f"a checkpoint with {len(rivals)} state dicts of the same names",
            f"it does not say which one to audit: {listed(rivals, 10)}",
            f"choose one with --key NAME, as in --key {quoted(next(r for r in rivals if r != _TOP))}",
        )
    return largest


def _stripped(candidate: _Candidate) -> frozenset[str]:
    prefix, extra = common_prefix(candidate.names)
    return frozenset(name.removeprefix(prefix) for name in candidate.names if name != extra)


def _plain(path: str, name: str, value: Tensor) -> Tensor:
    """`value` as a bare tensor. Raises UnreadableCheckpoint where it is no dense array of stored numbers."""
    tensor = torch.Tensor.detach(value)  # drops Parameter and whatever attributes the file hung on the tensor
    shown = quoted(name)
    if tensor.is_quantized:
        raise UnreadableCheckpoint(
            path,
            f"a quantised checkpoint ({shown} is {_dtype(tensor)})",
            "this version does not read quantised weights",
            "dequantise them and save the state_dict again",
        )
    if tensor.layout is not torch.strided or tensor.is_nested:
        raise UnreadableCheckpoint(
            path,
            f"a checkpoint with sparse or nested tensors ({shown})",
            "this version reads dense weights only",
            "save it again with to_dense()",
        )
    if tensor.device.type != "cpu":
        raise UnreadableCheckpoint(
            path,
            f"a checkpoint without data ({shown} is on the {tensor.device.type} device)",
            "it stores shapes and no weights",
            "save it again from a model whose weights are loaded",
        )
    needed, held = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
    if needed > held:
        raise UnreadableCheckpoint(
            path,
            f"a checkpoint whose tensor {shown} claims {needed:,} bytes and stores {held:,}",
            "repeated numbers are no trained weights and could fill the memory",
            "distrust it; if it is yours, call contiguous() on that tensor and save again",
        )
    return tensor


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _wrapper_notes(chosen: _Candidate, found: list[_Candidate]) -> list[Note]:
    others = [f"{c.place or _TOP} ({len(c.names)})" for c in found if c is not chosen]
    beside = f"; not read (number of tensors): {listed(others)}" if others else ""
    if chosen.place:
        message = f"the state dict is under the key {quoted(chosen.place)}{beside}"
    elif others:
        message = f"the state dict is at the top of the file{beside}"
    else:
        return []
    return [Note(code="wrapper", message=message, where=chosen.place or None)]


def _prefix_notes(prefix: str, extra: str | None) -> list[Note]:
    notes = []
    if prefix:
        notes.append(Note(code="prefix", message=f"{prefix} was removed from the front of every name"))
    if extra is not None:
        notes.append(Note(code="averaged", message="averaged weights; the counter n_averaged was left out"))
    return notes


def _ignored_notes(chosen: _Candidate) -> list[Note]:
    ignored = len(chosen.entries) - len(chosen.names)
    if not ignored:
        return []
    odd = sum(not isinstance(key, str) for key in chosen.entries)
    counts = [f"{odd} without a name", f"{ignored - odd} that are not tensors"]
    what = " and ".join(text for text in counts if not text.startswith("0 "))
    return [Note(code="ignored", message=f"entries of the state dict that were ignored: {what}")]


def _renamed_note(count: int) -> Note:
    what = "1 name holds" if count == 1 else f"{count} names hold"
    return Note(code="unsafe_names", message=f"{what} control characters, shown as U+FFFD")
