"""A pickled module tree as named tensors, and as the class and the plain hyper-parameters of every module in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from resnet_audit.checkpoint.inert import BrokenPickle, Global, Stub
from resnet_audit.checkpoint.names import quoted, safe
from resnet_audit.checkpoint.rebuild import Quantised

if TYPE_CHECKING:
    from collections.abc import Mapping

MODULES_MAX = 50_000
"""Of one tree. A module that is shared counts at every place, and a few that hold each other are at very many."""

_DEPTH_MAX = 100
_WORK_MAX = 3_000_000  # entries gone through, those with long paths counted several times
_TUPLE_MAX = 64
_SCRIPT = "__torch__."

Plain = int | float | bool | str | tuple["Plain", ...]


@dataclass(frozen=True, slots=True)
class Module:
    """One module as the file describes it. attributes: its plain hyper-parameters, as kernel_size, stride, groups."""

    class_name: str
    attributes: Mapping[str, Plain]


@dataclass(frozen=True, slots=True)
class _Parts:
    tensors: dict[str, object]
    children: dict[str, Stub]


def is_module(value: object) -> bool:
    """Whether an object of a file is a module: a torch.nn.Module by its attributes, or one of a TorchScript program."""
    if not isinstance(value, Stub):
        return False
    return value.name.startswith(_SCRIPT) or all(
        isinstance(value.attribute(group), dict) for group in ("_parameters", "_modules")
    )


def flattened(root: Stub) -> tuple[dict[str, object], dict[str, Module]]:
    """(entries, modules): the state dict of the tree below `root`, and its modules by dotted path, the root as "".

    Raises BrokenPickle for a tree without an end.
    """
    entries: dict[str, object] = {}
    modules: dict[str, Module] = {}
    work = 0
    left: list[tuple[str, int, Stub]] = [("", 0, root)]
    while left:
        path, depth, stub = left.pop()
        start = f"{path}." if path else ""
        work += _size(stub) * (1 + len(start) // 64)
        if len(modules) >= MODULES_MAX or depth > _DEPTH_MAX or work > _WORK_MAX:
            raise BrokenPickle("a tree of modules that has no end")
        parts = _parts(stub)
        modules[path] = Module(class_name=quoted(stub.name.rpartition(".")[2]), attributes=_plain_attributes(stub))
        entries |= {start + name: value for name, value in parts.tensors.items()}
        left += reversed([(start + name, depth + 1, child) for name, child in parts.children.items()])
    return entries, modules


def _size(stub: Stub) -> int:
    """How many entries one visit goes through: a huge module can be shared by very many others."""
    inner = [stub.attribute(name) for name in ("_parameters", "_buffers", "_modules")]
    return len(stub.attributes) + sum(len(group) for group in inner if isinstance(group, dict))


def _parts(stub: Stub) -> _Parts:
    attributes = stub.attributes
    if stub.name.startswith(_SCRIPT):
        return _Parts(_tensors(attributes), _modules(attributes))
    transient = attributes.get("_non_persistent_buffers_set")
    left_out = {name for name in transient if isinstance(name, str)} if isinstance(transient, list) else set()
    buffers = {name: value for name, value in _tensors(attributes.get("_buffers")).items() if name not in left_out}
    return _Parts(_tensors(attributes["_parameters"]) | buffers, _modules(attributes["_modules"]))


def _tensors(group: object) -> dict[str, object]:
    entries = group if isinstance(group, dict) else {}
    return {k: v for k, v in entries.items() if isinstance(k, str) and isinstance(v, Tensor | Quantised)}


def _modules(group: object) -> dict[str, Stub]:
    entries = group if isinstance(group, dict) else {}
    return {k: v for k, v in entries.items() if isinstance(k, str) and isinstance(v, Stub) and is_module(v)}


def _plain_attributes(stub: Stub) -> dict[str, Plain]:
    found: dict[str, Plain] = {}
    for name, value in stub.attributes.items():
        if isinstance(name, str) and not name.startswith("_"):
            plain = _plain(value)
            if plain is not None:
                found[safe(name)] = plain
    return found


def _plain(value: object) -> Plain | None:
    """`value` if it is a plain hyper-parameter; a name of a function or dtype as text; None for anything else."""
    match value:
        case bool() | float():
            return value
        case int() if abs(value) < 2**60:
            return value
        case str():
            return quoted(value)
        case Global(name):
            return quoted(name)
        case tuple() | list() if len(value) <= _TUPLE_MAX and all(isinstance(v, int | float | str) for v in value):
            items = [_plain(item) for item in value]
            return tuple(item for item in items if item is not None)
    return None
