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

from resnet_audit.linear.frequencies import Frequencies, frequencies_of, in_parts

if TYPE_CHECKING:
    from resnet_audit.linear.conv import Pair


@dataclass(frozen=True, slots=True, kw_only=True)
class Symbol:
    """Frequencies, and what gives the block at each.

    taps: by non-empty phase, its kernels (taps, groups, c_out / groups, c_in / groups) and their lags (taps, 2);
    absent: zero singular values per group and frequency from empty phases.
    """

    taps: tuple[tuple[Tensor, Tensor], ...]
    frequencies: Frequencies
    absent: int

    @property
    def sides(self) -> Pair:
        """The grid of distinct frequencies."""
        return self.frequencies.sides

    @property
    def points(self) -> Tensor:
        """The kept half of the frequencies, (F, 2)."""
        return self.frequencies.points

    @property
    def counts(self) -> Tensor:
        """How often each of `points` occurs, (F,)."""
        return self.frequencies.counts

    @property
    def groups(self) -> int:
        """Number of groups."""
        return self.taps[0][0].shape[1]

    @property
    def rows(self) -> int:
        """Rows of a block, c_out / groups."""
        return self.taps[0][0].shape[2]

    @property
    def smaller(self) -> int:
        """The smaller side of a block: the number of singular values that it can have."""
        return min(self.rows, sum(kernels.shape[3] for kernels, _ in self.taps))

    @property
    def square(self) -> bool:
        """Whether a block has as many columns as rows."""
        return self.rows == sum(kernels.shape[3] for kernels, _ in self.taps)

    def blocks(self, points: Tensor) -> Tensor:
        """The blocks at `points`, (F, groups, c_out / groups, phases c_in / groups): complex128.

        float64 if there is only the frequency zero.
        """
        if self.frequencies.single:
            sums = [kernels if len(kernels) == 1 else kernels.sum(0, keepdim=True) for kernels, _ in self.taps]
            return torch.cat(sums, dim=-1) if len(sums) > 1 else sums[0]
        rows = []
        for kernels, lags in self.taps:
            angle = self.frequencies.angle(points, lags)
            flat = kernels.flatten(1)
            whole = torch.complex(angle.cos() @ flat, angle.sin() @ flat)
            rows.append(whole.reshape(len(points), *kernels.shape[1:]))
        return torch.cat(rows, dim=-1) if len(rows) > 1 else rows[0]

    def parts(self, points: Tensor) -> list[Tensor]:
        """`points` in parts whose blocks fit the memory budget."""
        return in_parts(points, sum(kernels[0].numel() for kernels, _ in self.taps))


def symbol_of(kernel: Tensor, size: Pair, stride: Pair, groups: int, dilation: Pair, scale: float = 1.0) -> Symbol:
    """The symbol of `kernel` / `scale` on the torus `size`, a multiple of the stride.

    kernel: (c_out, c_in / groups, kh, kw), float64.
    """
    axes = [_axis(kernel.shape[2 + i], size[i], stride[i], dilation[i]) for i in (0, 1)]
    (rows, row_lags, row_period), (columns, column_lags, column_period) = axes
    grouped = kernel.reshape(groups, -1, *kernel.shape[1:]).permute(3, 4, 0, 1, 2)
    taps = []
    for r in sorted(set(rows)):
        for c in sorted(set(columns)):
            where = [(i, j) for i, p in enumerate(rows) if p == r for j, q in enumerate(columns) if q == c]
            i, j = torch.tensor(where).T
            taps.append((grouped[i, j].div_(scale), torch.tensor([(row_lags[a], column_lags[b]) for a, b in where])))
    grid = (size[0] // stride[0], size[1] // stride[1])
    sides = (grid[0] // row_period, grid[1] // column_period)
    c_out, c_in = grouped.shape[3:]
    return Symbol(
        taps=tuple(taps),
        frequencies=frequencies_of(sides, row_period * column_period),
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
