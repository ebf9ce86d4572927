"""The symbol of a circular convolution: one small matrix per frequency, whose singular values are the operator's.

Source     Sedghi, Gupta, Long (arXiv 1805.10408) for stride 1; polyphase form for strides (theory note `spectrum`, 2a).
Formula    A(w) = [A_r(w)]_r,   A_r(w) = sum over taps a with d a = r (mod s) of K[:, :, a] exp(i w . (d a div s))
Symbols    s  stride, d  dilation, r  phase (one of s1 s2), w  frequency on the grid m = n / s
           A(w): (c_out / groups, s1 s2 c_in / groups) for every group; the Fourier transform is unitary
Guarantee  exact. Three facts make it cheap, none approximates:
           - A(-w) = conj A(w): one of {w, -w} is kept and counted twice;
           - a phase without taps is a block of zero columns: left out here, its zeros are counted by `absent`;
           - lags of one phase matter up to a common shift (a unit factor on its columns), and if all are multiples of
             g, a divisor of m, the symbol has period m / g: m / g frequencies, each g times. A 1x1 kernel, a patch
             embedding or one axis of a 1x7 kernel has one frequency; dilation 2 on an even grid a quarter of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from resnet_audit.linear.conv import Pair

CHUNK_BYTES = 64 << 20
"""Largest batch of blocks in complex128, so that memory does not grow with the image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Symbol:
    """Frequencies, and what gives the block at each.

    taps: by non-empty phase, its kernels (taps, groups, c_out / groups, c_in / groups) and their lags (taps, 2);
    sides: the grid of distinct frequencies; points: the kept half of it, (F, 2); counts: (F,), how often each occurs
    among the m1 m2 frequencies of the operator; absent: zero singular values per group and frequency from empty phases.
    """

    taps: tuple[tuple[Tensor, Tensor], ...]
    sides: Pair
    points: Tensor
    counts: Tensor
    absent: int

    def blocks(self, points: Tensor, dtype: torch.dtype) -> Tensor:
        """The blocks at `points`, (F, groups, c_out / groups, phases c_in / groups): complex, of real type `dtype`.

        Real if there is only the frequency zero.
        """
        rows = []
        for kernels, lags in self.taps:
            angle = self._angle(points, lags)
            flat = kernels.to(dtype).flatten(1)
            real = angle.cos().to(dtype) @ flat
            whole = real if self.sides == (1, 1) else torch.complex(real, angle.sin().to(dtype) @ flat)
            rows.append(whole.reshape(len(points), *kernels.shape[1:]))
        return torch.cat(rows, dim=-1) if len(rows) > 1 else rows[0]

    def chunks(self, points: Tensor) -> Iterator[slice]:
        """Slices of `points` whose blocks fit the memory budget."""
        entries = sum(kernels[0].numel() for kernels, _ in self.taps)
        step = max(1, CHUNK_BYTES // (16 * entries))
        for start in range(0, len(points), step):
            yield slice(start, start + step)

    def _angle(self, points: Tensor, lags: Tensor) -> Tensor:
        """(F, taps): w . lag. Whole turns are taken off as integers: a large lag costs no digits."""
        turns = torch.zeros(len(points), len(lags), dtype=torch.float64)
        for axis, side in enumerate(self.sides):
            turns += (points[:, axis, None] * lags[:, axis]).remainder(side).double() / side
        return 2 * math.pi * turns


def symbol_of(kernel: Tensor, size: Pair, stride: Pair, groups: int, dilation: Pair) -> Symbol:
    """The symbol on the torus `size`, a multiple of the stride. kernel: (c_out, c_in / groups, kh, kw), float64."""
    axes = [_axis(kernel.shape[2 + i], size[i], stride[i], dilation[i]) for i in (0, 1)]
    (rows, row_lags, row_period), (columns, column_lags, column_period) = axes
    grouped = kernel.reshape(groups, -1, *kernel.shape[1:]).permute(3, 4, 0, 1, 2)
    taps = []
    for r in sorted(set(rows)):
        for c in sorted(set(columns)):
            where = [(i, j) for i, p in enumerate(rows) if p == r for j, q in enumerate(columns) if q == c]
            i, j = torch.tensor(where).T
            taps.append((grouped[i, j], torch.tensor([(row_lags[a], column_lags[b]) for a, b in where])))
    grid = (size[0] // stride[0], size[1] // stride[1])
    sides = (grid[0] // row_period, grid[1] // column_period)
    points, twice = _half_grid(sides)
    c_out, c_in = grouped.shape[3:]
    return Symbol(
        taps=tuple(taps),
        sides=sides,
        points=points,
        counts=twice * row_period * column_period,
        absent=min(c_out, stride[0] * stride[1] * c_in) - min(c_out, len(taps) * c_in),
    )


def _axis(k: int, n: int, stride: int, dilation: int) -> tuple[list[int], list[int], int]:
    """Phase and lag of every tap, and g: the lags are divided by it and the symbol repeats g times."""
    offsets = [dilation * a for a in range(k)]
    phases = [u % stride for u in offsets]
    origin = {phase: u // stride for u, phase in zip(offsets, phases, strict=True)}  # any tap of the phase will do
    lags = [u // stride - origin[phase] for u, phase in zip(offsets, phases, strict=True)]
    period = math.gcd(n // stride, *lags)
    return phases, [lag // period for lag in lags], period


def _half_grid(sides: Pair) -> tuple[Tensor, Tensor]:
    """One of every {w, -w}, as (F, 2), and how many frequencies it stands for (1 where w = -w)."""
    rows, columns = torch.meshgrid(torch.arange(sides[0]), torch.arange(sides[1]), indexing="ij")
    index = rows * sides[1] + columns
    mirror = (-rows % sides[0]) * sides[1] + (-columns % sides[1])
    keep = index <= mirror
    points = torch.stack([rows[keep], columns[keep]], dim=1)
    return points, 1 + (index != mirror)[keep].long()
