"""The plan of a recognised residual network: which layer of a state dict plays which part."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

BOOKKEEPING = re.compile(r"(^|\.)(num_batches_tracked|total_ops|total_params|n_averaged)$")
"""Entries of a state dict that no forward pass reads."""


STATISTICS = frozenset({"running_mean", "running_var"})
MEMBERS = {
    "conv": frozenset({"weight", "bias"}),
    "linear": frozenset({"weight", "bias"}),
    "norm": frozenset({"weight", "bias"}) | STATISTICS,
    "other": frozenset[str](),
}
"""What a layer of each kind may hold; every vector is as long as its output is wide."""


class NotThisFamily(Exception):
    """Why the layers do not make a network of a known family, in words."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One leaf module of a state dict: its tensors by member name (`weight`, `running_mean`, ...)."""

    name: str
    members: Mapping[str, Tensor]

    @property
    def weight(self) -> Tensor:
        """The weight, of any rank."""
        return self.members["weight"]

    @property
    def kind(self) -> str:
        """`conv`, `linear`, `norm` or `other`."""
        if "weight" not in self.members or not self.weight.is_floating_point():
            return "norm" if "running_var" in self.members else "other"
        if not self.weight.numel():
            return "other"
        return {4: "conv", 2: "linear", 1: "norm"}.get(self.weight.ndim, "other")

    def strangers(self) -> list[str]:
        """Keys of the tensors that a layer of this kind does not have, or not of that length."""
        known = MEMBERS[self.kind]
        width = next((len(tensor) for name, tensor in self.members.items() if name in known), 0)
        return [
            f"{self.name}.{member}".lstrip(".")
            for member, tensor in self.members.items()
            if member not in known or (member != "weight" and tuple(tensor.shape) != (width,))
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockPlan:
    """The layers of one block in the order in which they are applied; `stage` counts from 0, `gate` ends the branch."""

    name: str
    stage: int
    first_of_stage: bool
    convs: tuple[Layer, ...]
    norms: tuple[Layer, ...]
    shortcut: Layer | None
    shortcut_norm: Layer | None
    gate: tuple[Layer, Layer] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A recognised network: which layer plays which part. `guess` is what the user must allow before it is run."""

    family: str
    preactivation: bool
    stem: Layer
    stem_norm: Layer | None
    blocks: tuple[BlockPlan, ...]
    final_norm: Layer | None
    head: Layer
    chain: tuple[tuple[Layer, Layer], ...] = ()
    assumptions: tuple[str, ...] = ()
    guess: str | None = None

    def layers(self) -> list[Layer]:
        """Every layer that plays a part."""
        own = [self.stem, self.stem_norm, self.final_norm, self.head, *(layer for pair in self.chain for layer in pair)]
        for block in self.blocks:
            own += [*block.convs, *block.norms, block.shortcut, block.shortcut_norm, *(block.gate or ())]
        return [layer for layer in own if layer is not None]


def layers_of(tensors: Mapping[str, Tensor]) -> dict[str, Layer]:
    """The leaf modules of a state dict by name, in the order of the file."""
    members: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if not BOOKKEEPING.search(key):
            module, _, member = key.rpartition(".")
            members.setdefault(module, {})[member] = tensor
    return {name: Layer(name, found) for name, found in members.items()}
