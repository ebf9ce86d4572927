"""The exact distribution of the gradient over path depth.

Source   derived; the question is that of Veit et al. 2016 (arXiv 1605.06431) and Littwin, Wolf 2016 (arXiv 1611.02525).
Formula  g = sum_k c_k,   c_k = [z^k] (S_1 + z B_1) D_1 ... (S_L + z B_L) D_L g_out
Symbols  c_k  the part of the gradient at the first block's input that passed exactly k branches (unit `blocks`) or k
              weight layers (unit `layers`)
Shares   norm ||c_k|| / sum ||c_j||,  energy ||c_k||^2 / sum ||c_j||^2,  projection <c_k, g> / ||g||^2 (additive,
         signed); all pooled over samples by sums of squares
Reads    depth_mean is the effective depth; cancellation ||g|| / sum ||c_k|| is 1 where paths do not interfere.
Status   exact; identity_residual ||sum c_k - g|| / ||g|| compares with the gradient of torch's autograd.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from resnet_audit.errors import NonFinite
from resnet_audit.graph.backward import propagate
from resnet_audit.graph.ir import is_weight
from resnet_audit.measure.passes import autograd_gradient
from resnet_audit.results import Distribution, EnsembleBlock, EnsembleResult, Note

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from resnet_audit.measure import Subject

CHUNK_BYTES = 16 << 20
"""Size of the largest cotangent held at once, about what caches hold; samples are independent, so any split will do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Sums over samples, in float64, of the parts c_k: ||c_k||^2, <c_k, sum_j c_j>, and of the whole."""

    squares: NDArray[np.float64]
    products: NDArray[np.float64]
    total_square: float
    residual_square: float
    reference_square: float


def analyse(subject: Subject) -> EnsembleResult:
    """The depth distribution in the subject's unit. Raises NotRunnable, NonFinite, NoRule."""
    subject.graph.require_runnable()
    moments = decompose(subject)
    norms = np.sqrt(moments.squares)
    shares = _shares(moments)
    depths = np.arange(len(norms))
    notes = () if shares else (Note(code="no_gradient", message="the gradient is zero, so it has no distribution"),)
    total = float(np.sqrt(moments.total_square))
    return EnsembleResult(
        unit=subject.settings.unit,
        objective=subject.settings.objective,
        inputs=subject.recording.inputs,
        identity_residual=float(np.sqrt(moments.residual_square / moments.reference_square)) if shares else 0.0,
        distribution=shares,
        depth_mean=float(depths @ shares.norm) if shares else None,
        depth_mode=int(np.argmax(shares.norm)) if shares else None,
        depth_p05=_quantile(shares.norm, 0.05) if shares else None,
        depth_p95=_quantile(shares.norm, 0.95) if shares else None,
        projection_mean=float(depths @ shares.projection) if shares else None,
        cancellation=total / float(norms.sum()) if shares else None,
        blocks=tuple(_gains(subject)),
        notes=notes,
    )


def decompose(subject: Subject) -> Moments:
    """The exact parts of the gradient at the first block's input, as moments: one polynomial backward pass."""
    graph, recording = subject.graph, subject.recording
    reference = autograd_gradient(graph, recording, subject.cotangent)
    edges = _counted_edges(subject)
    found: Moments | None = None
    for rows in _chunks(subject, len(edges) + 1):
        saved = recording.saved
        if graph.batch is None:
            saved = {name: tuple(part[rows] for part in kept) for name, kept in saved.items()}
        seed = (graph.output, subject.cotangent[rows])
        parts = propagate(subject.folded, saved, seed, stop=subject.start, times_z=edges)
        moments = _moments(parts.coefficients, parts.low, reference[rows])
        found = moments if found is None else _plus(found, moments)
        subject.progress("path depths", rows.stop, recording.inputs.n)
    if found is None:
        raise ValueError("no samples to measure on")
    if not np.isfinite([*found.squares, found.total_square, found.reference_square]).all():
        raise NonFinite(f"the gradient overflows {subject.settings.dtype}; --dtype float64 reaches further")
    return found


def _counted_edges(subject: Subject) -> frozenset[tuple[str, int]]:
    """The edges that multiply by z: into a join from its branch, or out of a weight layer."""
    if subject.settings.unit == "layers":
        return frozenset((node.name, 0) for node in subject.folded if is_weight(node))
    return frozenset(edge for block in subject.blocks for edge in block.branch_edges)


def _chunks(subject: Subject, terms: int) -> Iterator[slice]:
    """Slices of the samples, small enough for the largest map to be held `terms` times."""
    largest = max(int(np.prod(shape)) for shape in subject.shapes.values())
    size = max(1, CHUNK_BYTES // (terms * largest * subject.recording.value.element_size()))
    n = subject.recording.inputs.n
    if subject.graph.batch is not None:
        size = n  # a graph of a fixed batch may fold samples into other axes: only the whole batch passes
    for start in range(0, n, size):
        yield slice(start, min(n, start + size))


def _moments(coefficients: Tensor, low: int, reference: Tensor) -> Moments:
    total = torch.zeros_like(reference, dtype=torch.float64)
    for part in coefficients:
        total += part
    squares = [0.0] * low + [float(part.double().square().sum()) for part in coefficients]
    products = [0.0] * low + [float((part.double() * total).sum()) for part in coefficients]
    return Moments(
        squares=np.array(squares),
        products=np.array(products),
        total_square=float(total.square().sum()),
        residual_square=float((total - reference.double()).square().sum()),
        reference_square=float(reference.double().square().sum()),
    )


def _plus(a: Moments, b: Moments) -> Moments:
    return Moments(
        squares=a.squares + b.squares,
        products=a.products + b.products,
        total_square=a.total_square + b.total_square,
        residual_square=a.residual_square + b.residual_square,
        reference_square=a.reference_square + b.reference_square,
    )


def _shares(moments: Moments) -> Distribution | None:
    norms = np.sqrt(moments.squares)
    if not norms.sum() > 0.0 or not moments.total_square > 0.0:
        return None
    return Distribution(
        norm=tuple((norms / norms.sum()).tolist()),
        energy=tuple((moments.squares / moments.squares.sum()).tolist()),
        projection=tuple((moments.products / moments.total_square).tolist()),
    )


def _quantile(shares: tuple[float, ...], level: float) -> int:
    """The smallest depth up to which at least `level` of the shares lie."""
    return int(np.argmax(np.cumsum(shares) >= level - 1e-12))


def _gains(subject: Subject) -> Iterator[EnsembleBlock]:
    """Norm of the branch's and the shortcut's share over that of the cotangent at the sum, on the true gradient."""
    for block, passage in zip(subject.blocks, subject.passages, strict=True):
        at_join = float(passage.join.double().norm())
        branch, skip = (float(part.double().norm()) for part in (passage.branch, passage.skip))
        yield EnsembleBlock(
            name=block.name,
            branch_gain=branch / at_join if at_join > 0.0 else None,
            skip_gain=skip / at_join if at_join > 0.0 else None,
        )
