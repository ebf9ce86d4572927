"""Singular values of whole residual blocks, measured at inputs.

Source   theory note `spectrum`, 2b and 4; Weyl's inequality. Lanczos and its quadrature in `linear/lanczos.py`.
Formula  J = S + J_F;  identity shortcut, S = I: every singular value of J lies in [max(0, 1 - s), 1 + s]
Symbols  J, J_F  Jacobians at one input of the block (up to its join, before the activation behind it) and its branch
         S  Jacobian of the shortcut, s  the largest singular value of J_F
Reads    a block keeps norms if most singular values are near 1; s alone does not tell, nor do the layers
Status   largest values: estimates from below, with residuals, the largest over the inputs; near_one and mean_deviation:
         estimates, with standard errors. Blocks of at most 256 dimensions: exact at these inputs.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from resnet_audit.errors import NonFinite, NoRule, NotRunnable
from resnet_audit.graph.ir import Conv, Linear, Opaque
from resnet_audit.linear import golub_kahan, map_layers, one_library_thread
from resnet_audit.measure.block_operator import block_maps, dense
from resnet_audit.measure.passes import record
from resnet_audit.results import InputsUsed, Note

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from resnet_audit.graph.blocks import Block
    from resnet_audit.linear import Bidiagonal
    from resnet_audit.measure import Subject
    from resnet_audit.measure.block_operator import BlockMaps
    from resnet_audit.measure.passes import Recording

MOST_SAMPLES, MULTIPLICATIONS = 3, 1.5e9
"""At least one input, at most three, and no more than fit this many multiplications in a pass through all blocks."""

DENSE = 256
"""The most dimensions of a block whose whole matrix is decomposed."""

STEPS, DENSITY_STEPS, FEWEST_STEPS = 40, 18, 10
"""Of Lanczos: at most (as far as the basis fits `BASIS_BYTES`), at least for a density, and at least."""

BASIS_BYTES = 1 << 29
TOLERANCE = 1e-3
"""Of the residual, as a part of the largest value: the value itself is then far closer."""

LOW, HIGH = 0.9, 1.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One block at the inputs: numbers as in `SpectrumBlock`."""

    branch_sigma_max: float
    block_sigma_max: float
    branch_residual: float
    block_residual: float
    near_one: float
    near_one_error: float
    mean_deviation: float
    mean_deviation_error: float
    count: int
    samples: int
    method: str


@dataclass(frozen=True, slots=True)
class _Exact:
    """All singular values of every map, (N, n), descending; asked like a `Bidiagonal`."""

    values: Tensor

    def largest(self) -> tuple[Tensor, Tensor]:
        return self.values[:, 0], torch.zeros_like(self.values[:, 0])

    def mean(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        return function(self.values).mean(dim=-1)


def measure_blocks(
    subject: Subject, blocks: Sequence[Block]
) -> tuple[dict[str, Measured], InputsUsed | None, list[Note]]:
    """Every one of the blocks that can be measured, by name, the inputs, and a note on each that cannot."""
    if not blocks:
        return {}, None, []
    try:
        recording = _recording(subject)
    except (NoRule, NonFinite, NotRunnable) as error:
        return {}, None, [Note(code=error.code, message=f"blocks are not measured: {error}")]
    done = itertools.count(1)

    def one(block: Block) -> Measured | Note:
        found = _measure(subject, block, recording)
        subject.progress("blocks", next(done), len(blocks))
        return found

    # Tangents of operations known only as functions are not for several threads.
    alone = any(isinstance(node.op, Opaque) for node in subject.folded)
    found = map_layers(one, blocks, 1 if alone else subject.settings.thread_count)
    measured = {block.name: row for block, row in zip(blocks, found, strict=True) if isinstance(row, Measured)}
    return measured, recording.inputs, [row for row in found if isinstance(row, Note)]


def _recording(subject: Subject) -> Recording:
    """A pass on the first of the subject's inputs: as many as the blocks are measured on."""
    subject.fold  # noqa: B018 - raises where the network does not run or holds no numbers
    inputs = subject.inputs
    if subject.graph.batch is None:
        count = min(
            len(inputs.values), MOST_SAMPLES, max(1, int(MULTIPLICATIONS / max(1.0, _multiplications(subject))))
        )
        inputs = replace(inputs, values=inputs.values[:count], labels=None)
    with one_library_thread():  # of so few inputs, where torch's own threads do harm
        recording = record(subject.graph, inputs)
    if not bool(recording.logits.isfinite().all()):
        raise NonFinite(f"the pass overflows {subject.settings.dtype}; --dtype float64 reaches further")
    return recording


def _multiplications(subject: Subject) -> float:
    """Multiplications of the weight layers of all blocks on one input."""
    inside = {name for block in subject.blocks for name in (*block.branch, *block.skip)}
    total = 0.0
    for node in subject.folded:
        if node.name not in inside or node.shape is None:
            continue
        if isinstance(node.op, Conv):
            total += node.op.weight.numel() * math.prod(node.shape[1:])
        elif isinstance(node.op, Linear):
            total += node.op.weight.numel() * math.prod(node.shape[:-1])
    return total


def _measure(subject: Subject, block: Block, recording: Recording) -> Measured | Note:
    dtype, batch = recording.value.dtype, recording.inputs.n
    whole, branch = (
        block_maps(subject.folded, block, recording.saved, batch=batch, dtype=dtype, branch_only=branch_only)
        for branch_only in (False, True)
    )
    try:
        of_block = _decomposed(whole, subject.settings.seed, dtype, least=DENSITY_STEPS)
        of_branch = _decomposed(branch, subject.settings.seed, dtype, least=FEWEST_STEPS)
    except NoRule as error:
        return Note(code=error.code, message=f"not measured: {error}", where=block.name)
    except FloatingPointError:
        message = f"not measured: its Jacobian overflows {subject.settings.dtype}; --dtype float64 reaches further"
        return Note(code="nonfinite", message=message, where=block.name)
    block_top, branch_top = _top(of_block), _top(of_branch)
    near_one, off, square, doubt = _moments(of_block).unbind(dim=1)
    # The share after one number of steps jumps, so it is a mean over many; the other settles.
    share, distance = near_one.mean(dim=0), off[-1]
    count = min(whole.rows, whole.columns)
    start = 0.0 if isinstance(of_block, _Exact) else 2.0 / (count + 2.0)
    return Measured(
        branch_sigma_max=branch_top[0],
        block_sigma_max=block_top[0],
        branch_residual=branch_top[1],
        block_residual=block_top[1],
        near_one=float(share.mean()),
        near_one_error=math.hypot(_error(near_one, share, start * share * (1.0 - share)), float(doubt.mean())),
        mean_deviation=float(distance.mean()),
        mean_deviation_error=_error(off, distance, start * (square[-1] - distance.square())),
        count=count,
        samples=batch,
        method=_method(of_block),
    )


def _decomposed(maps: BlockMaps, seed: int, dtype: torch.dtype, *, least: int) -> Bidiagonal | _Exact:
    """All singular values where there are few, else what Lanczos finds. Raises NoRule, FloatingPointError."""
    if min(maps.rows, maps.columns) <= DENSE:
        matrices = dense(maps, dtype).double()
        if not bool(matrices.isfinite().all()):
            raise FloatingPointError("an entry of a Jacobian is not finite")
        return _Exact(torch.linalg.svdvals(matrices))
    held = BASIS_BYTES // (maps.batch * min(maps.rows, maps.columns) * dtype.itemsize)
    steps = min(STEPS, max(FEWEST_STEPS, held))
    return golub_kahan(maps, steps=steps, least=least, tolerance=TOLERANCE, seed=seed, dtype=dtype)


def _method(found: Bidiagonal | _Exact) -> str:
    if isinstance(found, _Exact):
        return "SVD of the Jacobian"
    return f"Lanczos, {found.steps} steps (estimate from below)"


def _top(found: Bidiagonal | _Exact) -> tuple[float, float]:
    """The largest value over the samples, with its residual."""
    values, residuals = found.largest()
    at = int(values.argmax())
    return float(values[at]), float(residuals[at])


def _moments(found: Bidiagonal | _Exact) -> Tensor:
    """Means over the spectrum after each later step, (steps, 4, N): the share near 1, |sigma - 1|, its square, a doubt.

    doubt: where no Ritz value lies in the band, the shares of those on either side. By Chebyshev, Markov and Stieltjes
    the band holds at most that much: a wide spectrum is not resolved there.
    """

    def moments(values: Tensor) -> Tensor:
        near, off = (values >= LOW) & (values <= HIGH), (values - 1.0).abs()
        above, below = (values > HIGH).cumsum(dim=1), (values < LOW).cumsum(dim=1)
        beside = ((values > HIGH) & (above == above[:, -1:])) | ((values < LOW) & (below == 1))
        doubt = beside & ~near.any(dim=1, keepdim=True)
        return torch.stack([near.to(values.dtype), off, off.square(), doubt.to(values.dtype)])

    if isinstance(found, _Exact):
        exact = found.mean(moments)[None]
        exact[:, 3] = 0.0
        return exact
    half = (found.steps + 1) // 2
    return torch.stack([found.after(step).mean(moments) for step in range(half, found.steps + 1)])


def _error(means: Tensor, of_samples: Tensor, start: Tensor) -> float:
    """A standard error: of the mean of N numbers `of_samples`, and what the number of steps makes out in `means`.

    start: the variance (N,) of each by the random start of Lanczos, 2 Var f / (n + 2) for a mean of f over n values.
    """
    count = len(of_samples)
    among = float(of_samples.var(correction=1)) if count > 1 else 0.0
    over_steps = float(means.std(dim=0, correction=0).mean())
    return math.hypot(math.sqrt(max(among, float(start.mean())) / count), over_steps)
