"""The norm-preserving projection of a convolution: all singular values of its operator made equal, or nearly so.

Source     Zaeemzadeh, Rahnavard, Shah 2020 (arXiv 1805.07477), 1x1 kernels; strides, groups, dilation, the scale and
           the alternation with the kernel's support are derived (theory note `spectrum`, 5).
Formula    A(w) = U S V^H  ->  c U V^H at every frequency, then only the lags of the kernel's taps are kept; repeated
           auto: c^2 = c_o / min(c_o, phi c_i)   rms: c = ||T||_F / sqrt(count): of all c the nearest to the operator
Symbols    T  the strided circular convolution, A(w) its symbol (`symbol.py`), c  the target, c_o, c_i  channels of one
           group, phi  phases of the stride that hold a tap: 4 for 3x3 at stride 2, 1 for 1x1
           gain  sqrt(E ||T^T g||^2 / ||g||^2) = ||T||_F / sqrt(c_o m1 m2): 1 for an isometry with the target `auto`
Reads      co-isometries pass the norm of gradients on average, not of each gradient; zero padding leaves the border out
Guarantee  each half step is the nearest point of its set, so the distance to the isometries never grows; it falls about
           like 1 / iterations. 1x1 kernels and patch embeddings have one frequency: one step is exact.
           A kernel that wraps around its grid keeps what the operator does not see.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from resnet_audit.linear.conv import Pair, checked_kernel
from resnet_audit.linear.frequencies import in_parts
from resnet_audit.linear.parallel import map_parts, one_library_thread
from resnet_audit.linear.spectrum import conv_singular_values
from resnet_audit.linear.symbol import symbol_of
from resnet_audit.results import IsometryNumbers, TargetRule

GRAM_RANGE = 1e-4
"""Smallest over largest eigenvalue of a Gram matrix down to which it gives polar factors within 1e-11."""

SETTLED = 1e-14
"""A step that moves a kernel by less than this part of its norm is rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Projected:
    """A kernel near an isometry, in the dtype and on the device of the one it came from, and how far both are from it.

    target: the singular value aimed at; iterations: steps taken, fewer than asked for once nothing moves; deficient:
    singular values that were zero to rounding, whose directions are any of the nearest; kernel_change: ||K' - K|| /
    ||K||, None for a kernel of zeros.
    """

    weight: Tensor
    target: float
    iterations: int
    deficient: int
    before: IsometryNumbers
    after: IsometryNumbers
    kernel_change: float | None


@one_library_thread()
def procrustes(  # noqa: PLR0913 - the geometry of a convolution
    weight: Tensor,
    size: Pair,
    stride: Pair = (1, 1),
    groups: int = 1,
    dilation: Pair = (1, 1),
    *,
    target: TargetRule | float = "auto",
    iterations: int = 30,
) -> Projected:
    """The projection of `weight` after so many steps, computed in float64; `weight` itself stays as it is.

    weight: (c_out, c_in / groups, kh, kw), floating; size: the circular grid, rows and columns of the input. A training
    loop calls it after an optimizer step, under `torch.no_grad()`: `layer.weight.copy_(procrustes(...).weight)`.
    Raises ValueError if the stride does not divide the size, the weight is not of that shape or not finite, the target
    is neither `auto`, `rms` nor a positive number, or the result does not fit the dtype.

    Of a 1x1 kernel the values 5 and 3 become 1:

    >>> import torch
    >>> kernel = torch.tensor([[3.0, 0.0], [0.0, 5.0]]).reshape(2, 2, 1, 1)
    >>> found = procrustes(kernel, (4, 4))
    >>> found.weight.flatten().tolist(), found.before.sigma_max, found.after.sigma_max
    ([1.0, 0.0, 0.0, 1.0], 5.0, 1.0)
    """
    kernel = checked_kernel(weight, groups)
    if not weight.is_floating_point():
        raise ValueError(f"a weight of {weight.dtype} cannot hold a projection; convert it to a floating type")
    if iterations < 0:
        raise ValueError(f"{iterations} steps cannot be taken")
    values = conv_singular_values(kernel, size, stride, groups, dilation)
    torus = _torus(kernel, size, stride, groups, dilation)
    free = values[: torus.count]
    aim = _aim(target, free, torus.mean_gain)
    moved, steps, settled = kernel, 0, False
    while steps < iterations and not settled:
        previous, moved = moved, torus.step(moved, aim)
        steps, settled = steps + 1, bool((moved - previous).norm() <= SETTLED * moved.norm())
    found = moved.to(dtype=weight.dtype, device=weight.device) if steps else weight.detach().clone()
    stored = found.to(device="cpu", dtype=torch.float64)
    if not bool(stored.isfinite().all()):
        raise ValueError(f"a target of {aim:g} is too large for a weight of {weight.dtype}")
    after = conv_singular_values(stored, size, stride, groups, dilation)[: torus.count]
    floor = max(torus.block) * torch.finfo(torch.float64).eps * values[0]
    norm = float(kernel.norm())
    return Projected(
        weight=found,
        target=aim,
        iterations=steps,
        deficient=int((free <= floor).sum()),
        before=_numbers(free, aim, torus.mean_gain),
        after=_numbers(after, aim, torus.mean_gain),
        kernel_change=float((stored - kernel).norm()) / norm if norm > 0 else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Torus:
    """The map between kernels (c_out, c_in / groups, kh, kw) and symbols, on the kept half of the frequencies.

    shape: that of the kernels; waves: for every phase with taps, exp(i w . lag), (F, taps), real where there is only
    the frequency zero; places: which taps these are, row-major; counts: (F,), how many frequencies each stands for;
    meeting: (kh kw,), how many taps fall where this one does, more than 1 if the kernel wraps around.
    """

    shape: tuple[int, ...]
    groups: int
    waves: tuple[Tensor, ...]
    places: tuple[Tensor, ...]
    counts: Tensor
    meeting: Tensor

    @property
    def block(self) -> Pair:
        """Rows and columns of the symbol at one frequency, of one group, without the phases that hold no tap."""
        return self.shape[0] // self.groups, len(self.waves) * self.shape[1]

    @property
    def count(self) -> int:
        """The singular values of the operator that geometry does not force to be zero."""
        return int(self.counts.sum()) * self.groups * min(self.block)

    @property
    def mean_gain(self) -> float:
        """E ||T^T g||^2 / ||g||^2 of an isometry: the rank of a block over its rows."""
        return min(self.block) / self.block[0]

    def step(self, kernel: Tensor, target: float) -> Tensor:
        """The kernel whose operator is nearest to the isometry that is nearest to the operator of `kernel`."""
        c_out, c_in, *extent = self.shape
        wraps = bool((self.meeting > 1).any())
        taps = kernel.permute(2, 3, 0, 1).reshape(len(self.meeting), -1)

        def back(part: Tensor) -> Tensor:
            blocks = self._blocks(taps, part)
            nearest = _polar(blocks) * target
            columns = torch.split(nearest - blocks if wraps else nearest, c_in, dim=-1)
            share = torch.zeros_like(taps)
            for wave, place, column in zip(self.waves, self.places, columns, strict=True):
                share[place] = ((wave[part] * self.counts[part, None]).mH @ column.flatten(1)).real
            return share

        found = torch.zeros_like(taps)
        for share in map_parts(back, in_parts(torch.arange(len(self.counts)), kernel.numel())):
            found += share
        # Taps that meet share what they lack: of all kernels with that operator the nearest to this one.
        found /= self.meeting[:, None] * self.counts.sum()
        return (found + taps if wraps else found).reshape(*extent, c_out, c_in).permute(2, 3, 0, 1).contiguous()

    def _blocks(self, taps: Tensor, part: Tensor) -> Tensor:
        """(F, groups, rows, columns): the symbol at some frequencies."""
        columns = [
            (wave[part] @ taps[place].to(wave.dtype)).reshape(-1, self.groups, self.block[0], self.shape[1])
            for wave, place in zip(self.waves, self.places, strict=True)
        ]
        return torch.cat(columns, dim=-1)


def _torus(kernel: Tensor, size: Pair, stride: Pair, groups: int, dilation: Pair) -> _Torus:
    """The geometry of `symbol_of`: a kernel of tap numbers that goes through it tells where each tap has gone."""
    numbers = torch.arange(kernel[0, 0].numel(), dtype=torch.float64).reshape(1, 1, *kernel.shape[2:])
    symbol = symbol_of(numbers, size, stride, 1, dilation)
    waves, places = [], []
    for tap_numbers, lags in symbol.taps:
        angle = symbol.frequencies.angle(symbol.points, lags)
        waves.append(
            torch.ones_like(angle) if symbol.frequencies.single else torch.polar(torch.ones_like(angle), angle)
        )
        places.append(tap_numbers.flatten().long())
    rows, columns = (_meeting(kernel.shape[2 + axis], size[axis], dilation[axis]) for axis in (0, 1))
    return _Torus(
        shape=tuple(kernel.shape),
        groups=groups,
        waves=tuple(waves),
        places=tuple(places),
        counts=symbol.counts,
        meeting=torch.outer(rows, columns).flatten(),
    )


def _meeting(k: int, n: int, dilation: int) -> Tensor:
    """(k,): how many taps of one axis read the same pixel of a circle of n."""
    pixels = (dilation * torch.arange(k)).remainder(n)
    return (pixels[:, None] == pixels).sum(dim=1)


def _polar(blocks: Tensor) -> Tensor:
    """The nearest matrices (..., m, n) with all min(m, n) singular values 1.

    The smaller Gram matrix gives them cheaply; where it would lose digits, the singular value decomposition.
    """
    wide = blocks if blocks.shape[-2] <= blocks.shape[-1] else blocks.mH
    # Polar factors do not depend on scale, and squares overflow.
    wide = wide / wide.abs().amax(dim=(-2, -1), keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    squares, basis = torch.linalg.eigh(wide @ wide.mH)
    inverse = squares.clamp(min=torch.finfo(torch.float64).tiny).rsqrt()[..., None, :]
    factors: Tensor = (basis * inverse) @ (basis.mH @ wide)
    unsafe = squares[..., 0] <= GRAM_RANGE * squares[..., -1]
    if bool(unsafe.any()):
        left, _, right = torch.linalg.svd(wide[unsafe], full_matrices=False)
        factors[unsafe] = left @ right
    return factors if blocks.shape[-2] <= blocks.shape[-1] else factors.mH


def _aim(target: TargetRule | float, values: Tensor, mean_gain: float) -> float:
    """The singular value aimed at."""
    if target == "auto":
        return math.sqrt(1.0 / mean_gain)
    aim = _rms(values) if target == "rms" else target
    if not isinstance(aim, (int, float)) or isinstance(aim, bool) or not 0.0 < aim < math.inf:
        what = "the root mean square of the singular values" if target == "rms" else f"the target {target}"
        raise ValueError(f"{what} is not a positive number")
    return float(aim)


def _numbers(values: Tensor, aim: float, mean_gain: float) -> IsometryNumbers:
    """Figures of the free singular values, descending."""
    relative = values / aim
    return IsometryNumbers(
        sigma_max=float(values[0]),
        sigma_min=float(values[-1]),
        mean_deviation=float((relative - 1.0).abs().mean()),
        near_target=float(((relative >= 0.9) & (relative <= 1.1)).double().mean()),
        gain=_rms(values) * math.sqrt(mean_gain),
    )


def _rms(values: Tensor) -> float:
    """Root mean square, without squares that overflow. values: descending."""
    top = float(values[0])
    return top * math.sqrt(float((values / top).square().mean())) if top > 0 else 0.0
