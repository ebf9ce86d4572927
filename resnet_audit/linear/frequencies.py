"""The frequencies of a torus that a real kernel needs, and how often each counts.

Source     derived (theory note `spectrum`, 2a.3): the symbol of a real kernel at -w is the conjugate of that at w.
Formula    one of every {w, -w}; m1 m2 / 2 of them, and half of the 1, 2 or 4 frequencies with w = -w more
Guarantee  exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from resnet_audit.linear.conv import Pair

CHUNK_BYTES = 4 << 20
"""Largest batch of blocks in complex128: memory does not grow with the image, and every thread gets a part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frequencies:
    """The kept half of a grid.

    sides: the grid of distinct frequencies; points: the kept ones, (F, 2); counts: (F,), how often each occurs among
    all frequencies of the operator.
    """

    sides: Pair
    points: Tensor
    counts: Tensor

    @property
    def single(self) -> bool:
        """Whether there is only the frequency zero, where everything is real."""
        return self.sides == (1, 1)

    def angle(self, points: Tensor, lags: Tensor) -> Tensor:
        """(F, lags): w . lag at `points`. Whole turns are taken off as integers: a large lag costs no digits."""
        turns = torch.zeros(len(points), len(lags), dtype=torch.float64)
        for axis, side in enumerate(self.sides):
            turns += (points[:, axis, None] * lags[:, axis]).remainder(side).double() / side
        return 2 * math.pi * turns


def frequencies_of(sides: Pair, repeats: int) -> Frequencies:
    """The kept half of the grid `sides`, each frequency of which occurs `repeats` times in the operator."""
    rows, columns = torch.meshgrid(torch.arange(sides[0]), torch.arange(sides[1]), indexing="ij")
    index = rows * sides[1] + columns
    mirror = (-rows % sides[0]) * sides[1] + (-columns % sides[1])
    keep = index <= mirror
    points = torch.stack([rows[keep], columns[keep]], dim=1)
    return Frequencies(sides=sides, points=points, counts=repeats * (1 + (index != mirror)[keep].long()))


def in_parts(points: Tensor, entries: int) -> list[Tensor]:
    """`points` in parts whose batches of blocks, of `entries` complex numbers a frequency, fit the memory budget."""
    return list(torch.split(points, max(1, CHUNK_BYTES // (16 * entries))))
