"""The containers of a state dict: which layers and norms each holds, by names and shapes alone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from resnet_audit.graph.families import natural

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from resnet_audit.graph.patterns import Patterns


@dataclass(frozen=True, slots=True)
class Leaf:
    """A weight layer: its name, the channels it gives and reads (of one group), and the size of its window."""

    name: str
    outputs: int
    inputs: int
    taps: int
    depthwise: bool

    @property
    def width(self) -> int:
        """The channels that it reads, as far as its shape tells."""
        return self.outputs if self.depthwise else self.inputs


def leaves_of(tensors: Mapping[str, Tensor]) -> tuple[Leaf, ...]:
    """The weight layers of a state dict by natural order: convolutions of any rank, matrices, packed projections."""
    found = []
    for key, tensor in tensors.items():
        module, _, member = key.rpartition(".")
        if not tensor.is_floating_point() or tensor.ndim < 2 or not tensor.numel():
            continue
        if tuple(tensor.shape[:3]) == (1, 1, 1):
            continue  # factors for channels, not a window
        if member == "weight" or (member == "in_proj_weight" and tensor.ndim == 2):
            taps = tensor[0, 0].numel()
            depthwise = tensor.ndim > 2 and tensor.shape[1] == 1 < tensor.shape[0]
            name = module if member == "weight" else key
            found.append(Leaf(name, tensor.shape[0], tensor.shape[1], taps, depthwise))
    return tuple(sorted(found, key=lambda leaf: natural(leaf.name)))


class Containers:
    """The containers of a state dict by name; `under` lists the weight layers of each in natural order."""

    def __init__(self, tensors: Mapping[str, Tensor], patterns: Patterns) -> None:
        self.tensors = tensors
        self.patterns = patterns
        self.under: dict[str, list[Leaf]] = {}
        for leaf in leaves_of(tensors):
            for prefix in prefixes(leaf.name):
                self.under.setdefault(prefix, []).append(leaf)
        self.deepest_first = sorted(self.under, key=lambda name: (-name.count("."), natural(name)))

    @cached_property
    def vectors(self) -> dict[str, set[str]]:
        """By container, the members that are no weight layer and hold vectors or less, as relative names."""
        found: dict[str, set[str]] = {}
        for key, tensor in self.tensors.items():
            if tensor.ndim < 2 or max(tensor.shape) == tensor.numel():
                for prefix in prefixes(key):
                    found.setdefault(prefix, set()).add(key[len(prefix) + 1 :])
        return found

    def norms(self, name: str) -> int:
        """How many norms stand directly in a container, or in lists that it holds."""
        names = {
            member.rpartition(".")[0]
            for member in self.vectors.get(name, ())
            if member.endswith(".weight") and f"{name}.{member}" in self.tensors
        }
        return sum(
            all(self.patterns.tells("transparent", part) for part in norm.split(".")[:-1])
            and not self.patterns.tells("scale", norm.split(".")[-1])
            for norm in names
        )

    def norms_inside(self, name: str) -> int:
        """How many norms a container holds at any depth."""
        return sum(member.endswith(".weight") for member in self.vectors.get(name, ()))

    def children(self, name: str) -> dict[str, list[Leaf]]:
        """Layers of a container by the member that holds them, looking through lists; the member's own name last."""
        found: dict[str, list[Leaf]] = {}
        for leaf in self.under[name]:
            parts = leaf.name[len(name) + 1 :].split(".")
            end = 1
            while end < len(parts) and self.patterns.tells("transparent", parts[end - 1]):
                end += 1
            found.setdefault(".".join(parts[:end]), []).append(leaf)
        return found

    def scaled(self, name: str) -> bool:
        """Whether a learned factor on a branch stands in the container."""
        return any(
            self.patterns.tells("scale", part)
            for member in self.vectors.get(name, ())
            for part in member.split(".")[:2]
            if f"{member.rpartition('.')[0]}.beta".lstrip(".") not in self.vectors[name]
        )

    def gated(self, name: str, leaf: Leaf) -> bool:
        """Whether a layer of the container belongs to a gate: by name, or a narrow pair of pointwise layers."""
        parts = leaf.name[len(name) + 1 :].split(".")[:-1]
        if any(self.patterns.tells("gate", part) for part in parts):
            return True
        holders = [".".join((name, *parts[:end])) for end in range(1, len(parts) + 1)]
        return any(self._narrow_pair(holder) and len(self.under[name]) > 2 for holder in holders)

    def _narrow_pair(self, name: str) -> bool:
        pair = self.under[name]
        return (
            len(pair) == 2
            and all(leaf.taps == 1 and not leaf.depthwise for leaf in pair)
            and pair[0].inputs == pair[1].outputs > pair[0].outputs == pair[1].inputs
        )

    def split(self, name: str) -> tuple[list[Leaf], list[Leaf], list[Leaf]]:
        """Layers of a container: branch, shortcut, gates."""
        branch, shortcut, gates = [], [], []
        for leaf in self.under[name]:
            member = leaf.name[len(name) + 1 :].split(".")[0]
            if self.patterns.tells("shortcut", member):
                shortcut.append(leaf)
            elif self.gated(name, leaf):
                gates.append(leaf)
            else:
                branch.append(leaf)
        return branch, shortcut, gates

    def signature(self, name: str) -> frozenset[str]:
        """The relative names of the layers of the branch."""
        branch, _, _ = self.split(name)
        return frozenset(leaf.name[len(name) + 1 :] for leaf in branch)

    def plain_signature(self, name: str) -> frozenset[str]:
        """The same without numbers."""
        return frozenset(map(plain, self.signature(name)))

    def chain(self, name: str) -> tuple[int, int] | None:
        """Channels read and given by the layers of a container if they form a chain of two or more, not a gate."""
        branch, shortcut, _ = self.split(name)
        dense = [leaf for leaf in branch if not leaf.depthwise]
        if shortcut or self._narrow_gate(name) or len(dense) < 2:
            return None
        if any(self.patterns.tells("parallel", part) for leaf in branch for part in leaf.name[len(name) :].split(".")):
            return None
        widths = [dense[0].inputs, *(leaf.outputs for leaf in dense)]
        if any(leaf.inputs > before or before % leaf.inputs for leaf, before in zip(dense, widths, strict=False)):
            return None
        grouped = [leaf for leaf, before in zip(dense, widths, strict=False) if leaf.inputs != before]
        if any(leaf.taps == 1 for leaf in grouped) or any(leaf.outputs not in widths for leaf in branch):
            return None
        return None if self._gathered(name, len(dense) * widths[-1]) else (widths[0], widths[-1])

    def _gathered(self, name: str, width: int) -> bool:
        """Whether a named layer beside the container reads more channels than that: all outputs, concatenated."""
        parent = name.rpartition(".")[0]
        beside = [leaf for leaf in self.under.get(parent, ()) if not leaf.name.startswith(f"{name}.")]
        return any(
            leaf.inputs > width and not re.match(r"\d", leaf.name[len(parent) + 1 :]) for leaf in beside if parent
        )

    def _narrow_gate(self, name: str) -> bool:
        parent = name.rpartition(".")[0]
        named = any(self.patterns.tells("gate", part) for part in name.split("."))
        return named or (self._narrow_pair(name) and len(self.under.get(parent, ())) > 2)

    def outer_widths(self, name: str) -> tuple[int, int]:
        """The channels that the first layer reads and the last one gives."""
        layers = self.under[name]
        return layers[0].width, layers[-1].outputs


def prefixes(name: str) -> list[str]:
    """The containers of a name, outermost first, the whole network left out."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def plain(name: str) -> str:
    """A name with its numbers taken out, so that those of a repeated container agree."""
    return re.sub(r"\d+", "#", name)
