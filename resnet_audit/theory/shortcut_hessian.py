"""The Hessian of the mean loss at a checkpoint: both ends of its spectrum, trace and density, from one Lanczos run.

Source   derived (theory note `shortcut-scaling`, A5); the quantities are those of Yao, Gholami, Keutzer, Mahoney 2020.
Formula  H = d^2 L / d theta^2,   H v_i = lambda_i v_i + residual_i max |lambda|
Symbols  L  mean cross-entropy; theta  parameters, batch normalisation in evaluation mode
Status   estimates, each with its residual or standard error; exact products, for these inputs.
"""

from __future__ import annotations

import math
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING

from resnet_audit.errors import NonFinite, NothingToAnalyse, UsageError
from resnet_audit.graph.ir import Opaque, is_weight
from resnet_audit.linear import one_library_thread
from resnet_audit.measure.hessian import MEMORY, LossHessian
from resnet_audit.measure.hessian_spectrum import (
    Ends,
    Krylov,
    Until,
    ends,
    lanczos,
    on_sphere,
    restarted_ends,
    share,
    trace,
)
from resnet_audit.results import MeasuredHessian, Note, SpectralDensity

if TYPE_CHECKING:
    from torch import Tensor

    from resnet_audit.graph.blocks import Block
    from resnet_audit.measure import Subject

TOP = 3
"""How many of the largest eigenvalues are given."""

TOLERANCE = 1e-5
"""Residual, over the largest |lambda|, at which an end of the spectrum counts as found."""

STEPS = 100
"""Lanczos steps at most; CIFAR ResNets need 30 to 50."""

PROBES = 8
"""Random signs for what the Krylov basis leaves of the trace."""

BASIS = 2 << 30
"""Bytes for vectors of the length of all parameters; beyond, the ends are found by restarts with fewer of them."""

OUTSIDE = 1e-2
"""Eigenvalues count as outside 0 above this share of the largest |lambda|: nearer to 0 their sign is arbitrary.

Of resnet20, shares beyond 1e-3 still double between 30 and 80 steps, those beyond 1e-2 are the same from 30 to 240.
"""


@one_library_thread()
def measured_hessian(subject: Subject, targets: Tensor, notes: list[Note], basis_bytes: int = BASIS) -> MeasuredHessian:
    """The Hessian over all parameters, or over those of the blocks of `--blocks`. What to know of it joins `notes`.

    Raises NothingToAnalyse if nothing can be varied, NoRule without second derivatives, NonFinite, UsageError.
    """
    chosen = _chosen(subject)
    only = {name for block in chosen for name in (*block.branch, *block.skip)} if chosen else None
    # A graph that runs on one number of samples alone cannot be cut.
    memory, threads = (MEMORY, subject.settings.thread_count) if subject.graph.batch is None else (math.inf, 1)
    product = LossHessian(
        subject.graph.nodes, subject.inputs.values, targets, only=only, memory=memory, threads=threads
    )
    if not product.size:
        raise NothingToAnalyse("no parameter that the Hessian is over can be varied; choose other blocks by --blocks")
    notes += _held_fixed(subject, only)
    try:
        return _spectrum(subject, product, tuple(block.name for block in chosen), notes, basis_bytes)
    except FloatingPointError as reason:
        raise NonFinite(f"{reason}; --dtype float64 reaches further") from None


def _chosen(subject: Subject) -> list[Block]:
    globs, blocks = subject.settings.blocks, subject.graph.blocks
    chosen = [block for block in blocks if any(fnmatchcase(block.name, glob) for glob in globs)]
    if globs and not chosen:
        raise UsageError(f"--blocks {' '.join(globs)} matches no block")
    return chosen


def _held_fixed(subject: Subject, only: set[str] | None) -> list[Note]:
    held = [
        node.name
        for node in subject.graph.nodes
        if isinstance(node.op, Opaque) and is_weight(node) and (only is None or node.name in only)
    ]
    message = f"the Hessian holds {len(held)} layers fixed, the first is {', '.join(held[:1])}: they are not understood"
    return [Note(code="held_fixed", message=message, where="hessian")] if held else []


def _spectrum(
    subject: Subject, product: LossHessian, blocks: tuple[str, ...], notes: list[Note], basis_bytes: int
) -> MeasuredHessian:
    size, seed, progress = product.size, subject.settings.seed, subject.progress
    start = on_sphere(size, seed, product.dtype)
    room = basis_bytes // (size * product.dtype.itemsize)
    keep = room >= min(STEPS, size)
    until = Until(steps=STEPS, top=TOP, tolerance=TOLERANCE)
    krylov = lanczos(product, start, until, keep=keep, progress=progress)
    if keep:
        found = ends(krylov, TOP)
    else:
        found = restarted_ends(product, start, top=TOP, tolerance=TOLERANCE, vectors=max(2 * TOP + 2, min(20, room)))
    value, error = trace(product, found.basis, found.within, probes=PROBES, seed=seed + 1)
    worst = max(*found.residuals, found.lowest_residual)
    if worst > TOLERANCE:
        message = f"the ends of the spectrum have residuals up to {worst:.1e} after {product.products} products"
        notes.append(Note(code="not_converged", message=message, where="hessian"))
    return MeasuredHessian(
        blocks=blocks,
        parameters=size,
        method="lanczos" if keep else "restarted",
        lambda_max=found.top[0],
        lambda_min=found.lowest,
        lambda_min_residual=found.lowest_residual,
        top=found.top,
        residuals=found.residuals,
        trace=value,
        trace_se=error,
        matvecs=product.products,
        density=_density(krylov, found, size),
    )


def _density(krylov: Krylov, found: Ends, size: int) -> SpectralDensity:
    values, _, weights = krylov.decomposed()
    tolerance = OUTSIDE * max(abs(found.top[0]), abs(found.lowest))
    outside = partial(share, krylov, size)
    above, above_error = outside(math.nextafter(tolerance, math.inf), math.inf)
    below, below_error = outside(-math.inf, -math.nextafter(tolerance, math.inf))
    return SpectralDensity(
        tolerance=tolerance,
        above=above,
        above_error=above_error,
        below=below,
        below_error=below_error,
        nodes=tuple(values.tolist()),
        weights=tuple(weights.tolist()),
    )
