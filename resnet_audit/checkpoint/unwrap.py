"""From whatever a file holds to one flat state dict: the wrapper undone, rivals named, everything else counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from resnet_audit.checkpoint.content import damaged
from resnet_audit.checkpoint.fold import dequantised, folded, is_weight
from resnet_audit.checkpoint.inert import BrokenPickle, OddKey, Stub
from resnet_audit.checkpoint.modules import Module, flattened, is_module
from resnet_audit.checkpoint.names import common_prefix, listed, quoted, safe, safe_names
from resnet_audit.checkpoint.rebuild import Quantised, is_sparse
from resnet_audit.checkpoint.refusals import refuse_by_names
from resnet_audit.errors import UnreadableCheckpoint
from resnet_audit.results import Note

_TOP = "(top)"
_LABEL_MAX = 200
_RIVALS_COMPARED = 8
_DEPTH_MAX = 32  # of containers; wrappers in the wild are two or three deep


@dataclass(frozen=True, slots=True, kw_only=True)
class Unwrapped:
    """One state dict by clean names. wrapper: dotted path of keys to it (None at the top); prefix: what was removed.

    modules: by dotted path, where the file holds a whole model; empty otherwise.
    """

    wrapper: str | None
    prefix: str
    tensors: dict[str, Tensor]
    modules: dict[str, Module]
    notes: tuple[Note, ...]


@dataclass(frozen=True, slots=True)
class _Candidate:
    place: str  # dotted path of keys, "" at the top
    entries: Mapping[object, object]
    names: tuple[str, ...]  # the keys of its tensors
    modules: Mapping[str, Module]


def unwrap(path: str, content: object, key: str | None) -> Unwrapped:
    """The state dict in `content` that has most tensors, or the one at `key`.

    Raises UnreadableCheckpoint without any tensor, for an unknown key, for rivals with the same names without a key,
    for adapters and packed weights, and for tensors that are not plain weights (sparse, without data, larger than their
    storage).
    """
    try:
        found = _candidates(content)
    except BrokenPickle as error:
        damaged(path, "checkpoint", str(error))
    if not found:
        what = "a single tensor" if isinstance(content, Tensor) else "a checkpoint without any named tensor"
        raise UnreadableCheckpoint(path, what, "there is nothing to analyse", "name a file that holds a state_dict")
    chosen = _chosen(path, found, key)
    refuse_by_names(path, chosen.names)
    _refuse_sparse(path, chosen)
    prefix, extra = common_prefix(chosen.names)
    kept = [name for name in chosen.names if name != extra]
    clean = safe_names(name.removeprefix(prefix) for name in kept)
    entries = {clean[name.removeprefix(prefix)]: chosen.entries[name] for name in kept}
    renamed = sum(old != new for old, new in clean.items())
    plain, quantised_notes = dequantised(path, _checked(path, entries))
    tensors, folded_notes = folded(path, plain)
    notes = (
        *_wrapper_notes(chosen, found),
        *_prefix_notes(prefix, extra),
        *_ignored_notes(chosen),
        *([_renamed_note(renamed)] if renamed else []),
        *quantised_notes,
        *folded_notes,
    )
    modules = _without_prefix(chosen.modules, prefix)
    return Unwrapped(wrapper=chosen.place or None, prefix=safe(prefix), tensors=tensors, modules=modules, notes=notes)


def state_dict(path: str, content: object, key: str | None) -> dict[str, object]:
    """The weights of the state dict that `unwrap` chooses, by the names and as the values that the file has.

    Raises UnreadableCheckpoint as `unwrap`.
    """
    chosen = _chosen(path, _candidates(content), key)
    return {name: chosen.entries[name] for name in chosen.names}


def _candidates(content: object) -> list[_Candidate]:
    """Every state dict and every pickled model, in the order of the file, never below a key of an optimiser.

    A state dict is a mapping with a weight under a string key; a model is flattened to one, and not looked into again.
    """
    found: list[_Candidate] = []
    seen: set[int] = set()  # containers can hold one another in circles, and share parts
    left: list[tuple[tuple[str, ...], object]] = [((), content)]
    while left:
        place, value = left.pop()
        if id(value) in seen or len(place) > _DEPTH_MAX or (isinstance(value, Stub) and "optim" in value.name.lower()):
            continue
        seen.add(id(value))
        entries, modules = _entries(value)
        names = tuple(k for k, v in entries.items() if isinstance(k, str) and is_weight(k, v))
        if names:
            found.append(_Candidate(".".join(place), entries, names, modules))
        if not modules:
            below = [
                ((*place, _label(k)), v) for k, v in _inside(value) if isinstance(v, Mapping | list | tuple | Stub)
            ]
            left += reversed([(at, v) for at, v in below if "optim" not in at[-1].lower()])
    return found


def _entries(value: object) -> tuple[Mapping[object, object], Mapping[str, Module]]:
    if isinstance(value, Stub):
        if is_module(value):
            tensors, modules = flattened(value)
            return dict(tensors.items()), modules
        return value.entries, {}
    return (value if isinstance(value, Mapping) else {}), {}


def _inside(value: object) -> Iterable[tuple[object, object]]:
    match value:
        case Stub():
            return [*value.attributes.items(), *value.entries.items(), *enumerate((*value.items, *value.args))]
        case Mapping():
            return value.items()
        case list() | tuple():
            return enumerate(value)
    return ()


def _label(key: object) -> str:
    """One key of a dotted path. Only strings and small numbers have a text that is sure to be short work."""
    if isinstance(key, str):
        return quoted(key[: 2 * _LABEL_MAX], _LABEL_MAX)  # one long key can lead to very many state dicts
    if isinstance(key, int) and key.bit_length() < 64:
        return str(key)
    return f"({type(key.value if isinstance(key, OddKey) else key).__name__})"


def _chosen(path: str, found: list[_Candidate], key: str | None) -> _Candidate:
    if key is not None:
        for candidate in found:
            if key == (candidate.place or _TOP):
                return candidate
        places = [candidate.place for candidate in found if candidate.place]
        there = f"it has {listed(places, 10)}" if places else "its state dict is not under a key"
        todo = "name one of those" if places else "leave out --key"
        raise UnreadableCheckpoint(path, f"a checkpoint without the key {quoted(key)}", there, todo)
    largest = max(found, key=lambda candidate: (len(candidate.names), bool(candidate.modules)))
    names = _stripped(largest)
    others = [c for c in found if c is not largest and _stripped(c) == names]
    if len(others) <= _RIVALS_COMPARED:
        others = [c for c in others if not _same_weights(c, largest)]
    if others:
        rivals = [c.place or _TOP for c in found if c is largest or c in others]
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


def _same_weights(one: _Candidate, other: _Candidate) -> bool:
    """Whether two state dicts of the same names are one: a model beside its own state dict."""
    return all(
        _same(a, b) for a, b in zip(_in_order(one), _in_order(other), strict=True) if not (a is None and b is None)
    )


def _in_order(candidate: _Candidate) -> list[object]:
    prefix, extra = common_prefix(candidate.names)
    names = sorted(name for name in candidate.names if name != extra)
    return [candidate.entries[name] for name in sorted(names, key=lambda name: name.removeprefix(prefix))]


def _same(one: object, other: object) -> bool:
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return one is other
    if (one.shape, one.dtype, one.device) != (other.shape, other.dtype, other.device):
        return False
    if (one.data_ptr(), one.stride()) == (other.data_ptr(), other.stride()):
        return True
    return _stores_all(one) and _stores_all(other) and one.device.type == "cpu" and torch.equal(one, other)


def _stores_all(tensor: Tensor) -> bool:
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _without_prefix(modules: Mapping[str, Module], prefix: str) -> dict[str, Module]:
    """The modules by paths from which `prefix` is removed as from the names of tensors; the wrappers are left out."""
    inner = {
        f"{path}."[len(prefix) :] if path else "": m for path, m in modules.items() if f"{path}.".startswith(prefix)
    }
    clean = safe_names(path.removesuffix(".") for path in inner)
    return {clean[path.removesuffix(".")]: module for path, module in inner.items()}


def _refuse_sparse(path: str, chosen: _Candidate) -> None:
    for name, value in chosen.entries.items():
        if is_sparse(value):
            raise UnreadableCheckpoint(
                path,
                f"a checkpoint with sparse or nested tensors ({quoted(_label(name))})",
                "this version reads dense weights only",
                "save it again with to_dense()",
            )


def _checked(path: str, entries: Mapping[str, object]) -> dict[str, object]:
    """The entries, every tensor in them bare and found to be a dense array of stored numbers."""
    return {name: _plain(path, name, value) for name, value in entries.items()}


def _plain(path: str, name: str, value: object) -> object:
    match value:
        case Quantised():
            _dense(path, name, value.values)
            return value
        case Tensor():
            return _dense(path, name, value)
        case tuple():  # of a quantised layer: weight and bias
            return tuple(_plain(path, name, part) for part in value)
    return value


def _dense(path: str, name: str, value: Tensor) -> Tensor:
    """`value` as a bare tensor. Raises UnreadableCheckpoint where it is no dense array of stored numbers."""
    tensor = torch.Tensor.detach(value)  # drops Parameter and whatever attributes the file hung on the tensor
    shown = quoted(name)
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


def _wrapper_notes(chosen: _Candidate, found: list[_Candidate]) -> list[Note]:
    others = [f"{c.place or _TOP} ({len(c.names)})" for c in found if c is not chosen]
    beside = f"; not read (number of tensors): {listed(others)}" if others else ""
    if chosen.place:
        message = f"the state dict is under the key {quoted(chosen.place)}{beside}"
    elif others:
        message = f"the state dict is at the top of the file{beside}"
    else:
        return []
    return [Note(code="wrapper", message=message)]


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
