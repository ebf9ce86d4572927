"""The parts of the gradient by path depth, as sums over samples of their squares and products.

Source   derived (exact depth decomposition).
Formula  g = sum_k c_k,   c_k = [z^k] (S_1 + z B_1) D_1 ... (S_L + z B_L) D_L g_out
Symbols  c_k  the part of the gradient at the first block's input that passed exactly k of the counted edges: into a sum
              from a branch (unit `blocks`), or out of a weight layer (unit `layers`)
Limit    With a limit K the parts up to K are the same numbers, and one more holds the sum of all deeper ones:
         K * L cotangents pass instead of L^2 / 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from resnet_audit.errors import NonFinite
from resnet_audit.graph.backward import Polynomial, propagate, times_z, truncated
from resnet_audit.graph.ir import is_weight

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from resnet_audit.graph.adjoint import Saved
    from resnet_audit.graph.backward import Edge, Mark, Visit
    from resnet_audit.measure import Subject

CHUNK_BYTES = 16 << 20
"""Size of the largest cotangent held at once, about what caches hold; samples are independent, so any split will do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Some of the samples: which, what the adjoints need of them, and the cotangent at the logits."""

    rows: slice
    saved: Mapping[str, Saved]
    cotangent: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Sums over samples, in float64, of the parts c_k: ||c_k||^2, <c_k, sum_j c_j>, and of the whole.

    With a limit the last part is the sum of all deeper ones. reference_square is that of autograd's gradient,
    residual_square that of its difference from the sum of the parts.
    """

    squares: NDArray[np.float64]
    products: NDArray[np.float64]
    total_square: float
    residual_square: float
    reference_square: float


def decompose(subject: Subject, limit: int | None = None) -> Moments:
    """The exact parts of the gradient at the first block's input, as moments: one polynomial backward pass.

    limit: the last depth with a part of its own. Raises NotRunnable, NonFinite, NoRule.
    """
    reference = subject.torch_gradient
    groups = counted_groups(subject)
    edges = [edge for group in groups for edge in group]
    # `limit` parts and the one of the rest: a larger limit than there are edges truncates nothing.
    terms = len(groups) + 1 if limit is None else min(limit + 2, len(groups) + 1)
    marks = times_z(edges) if limit is None else dict.fromkeys(edges, truncated(limit + 1))
    found: Moments | None = None
    for chunk in chunks(subject, terms, "path depths"):
        parts = backward(subject, chunk, marks)
        moments = _moments(parts.coefficients, parts.low, reference[chunk.rows])
        found = moments if found is None else _plus(found, moments)
    if found is None:
        raise ValueError("no samples to measure on")
    require_finite(subject, [*found.squares, found.total_square, found.reference_square])
    return found


def counted_groups(subject: Subject) -> tuple[frozenset[Edge], ...]:
    """The edges whose passage counts as one step of depth, by what they lead into: a branch, or a weight layer."""
    if subject.settings.unit == "layers":
        return tuple(frozenset({(node.name, 0)}) for node in subject.folded if is_weight(node))
    return tuple(frozenset(block.branch_edges) for block in subject.blocks)


def backward(
    subject: Subject, chunk: Chunk, marks: Mapping[Edge, Mark], copies: int = 1, visit: Visit | None = None
) -> Polynomial:
    """The cotangent of some samples at the first block's input; the seed's coefficient stands there `copies` times."""
    seed = Polynomial(0, chunk.cotangent.expand(copies, *chunk.cotangent.shape))
    start = (subject.graph.output, seed)
    return propagate(subject.folded, chunk.saved, start, stop=subject.start, marks=marks, visit=visit)


def chunks(subject: Subject, terms: int, stage: str) -> Iterator[Chunk]:
    """The samples in parts small enough for the largest map to be held `terms` times, reported as progress of `stage`.

    A graph of a fixed batch may fold samples into other axes: only the whole batch passes.
    """
    graph, recording = subject.graph, subject.recording
    largest = max(int(np.prod(shape)) for shape in subject.shapes.values())
    size = max(1, CHUNK_BYTES // (terms * largest * recording.value.element_size()))
    n = recording.inputs.n
    if graph.batch is not None:
        size = n
    for start in range(0, n, size):
        rows = slice(start, min(n, start + size))
        saved = recording.saved
        if graph.batch is None:
            saved = {name: tuple(part[rows] for part in kept) for name, kept in saved.items()}
        yield Chunk(rows=rows, saved=saved, cotangent=subject.cotangent[rows])
        subject.progress(stage, rows.stop, n)


def require_finite(subject: Subject, values: object) -> None:
    """Raise NonFinite unless all the measured values are finite."""
    if not np.isfinite(np.asarray(values)).all():
        raise NonFinite(f"the gradient overflows {subject.settings.dtype}; --dtype float64 reaches further")


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
