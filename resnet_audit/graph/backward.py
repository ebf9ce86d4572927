"""Backward through a graph with cotangents that are polynomials in z.

Source   derived (exact depth decomposition; the recursion G'_k = S H_k + B H_{k-1}, H_k = D G_k).
Idea     Multiply by z on chosen edges. Then the coefficient of z^k at a node is the part of the gradient that came
         along paths with exactly k of these edges, and the coefficients sum to the gradient.
Cost     One adjoint per node on (degree + 1) * N cotangents at once; masks were recorded once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from resnet_audit.graph.adjoint import Saved, adjoint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from resnet_audit.graph.ir import Node

    Edge = tuple[str, int]
    Visit = Callable[[str, "Polynomial", Sequence["Part"]], None]


@dataclass(frozen=True, slots=True)
class Polynomial:
    """sum_k coefficients[k] z^(low + k); coefficients: (K, N, ...). `low` spares the zeros below it."""

    low: int
    coefficients: Tensor

    def shifted(self, by: int) -> Polynomial:
        """The product with z^by."""
        return Polynomial(self.low + by, self.coefficients)

    def at_one(self) -> Tensor:
        """The sum of the coefficients, (N, ...): the ordinary cotangent."""
        return self.coefficients.sum(0)


@dataclass(frozen=True, slots=True)
class Part:
    """The share of a node's cotangent that came back from one reader, through that reader's input `position`."""

    reader: str
    position: int
    cotangent: Polynomial


def propagate(
    nodes: Sequence[Node],
    saved: Mapping[str, Saved],
    seed: tuple[str, Tensor],
    *,
    stop: str,
    times_z: frozenset[Edge] = frozenset(),
    visit: Visit | None = None,
) -> Polynomial:
    """The cotangent at node `stop` for the cotangent `seed` = (node, (N, ...)).

    times_z: the edges (reader, position of the input) that multiply by z. `visit(name, cotangent, parts)` sees every
    node from the seed back to `stop` once its cotangent is complete. Raises NoRule for an operation without an adjoint.
    """
    shapes = {node.name: node.shape or () for node in nodes}
    reach = _downstream(nodes, stop)
    if seed[0] not in reach:
        raise ValueError(f"{seed[0]} does not depend on {stop}")
    pending: dict[str, list[Part]] = {seed[0]: [Part("", 0, Polynomial(0, seed[1].unsqueeze(0)))]}
    for node in reversed(nodes):
        parts = pending.pop(node.name, None)
        if parts is None:
            continue
        total = add([part.cotangent for part in parts])
        if visit is not None:
            visit(node.name, total, parts)
        if node.name == stop:
            return total
        del parts
        cotangents = adjoint(node, saved.get(node.name, ()), total.coefficients, [shapes[name] for name in node.inputs])
        for position, (name, cotangent) in enumerate(zip(node.inputs, cotangents, strict=True)):
            if name in reach:
                shift = (node.name, position) in times_z
                part = Part(node.name, position, Polynomial(total.low + shift, cotangent))
                pending.setdefault(name, []).append(part)
    raise ValueError(f"{stop} is not among the nodes")


def add(terms: Sequence[Polynomial]) -> Polynomial:
    """The sum. Its coefficients are new unless there is one term: they must not be written to."""
    if len(terms) == 1:
        return terms[0]
    low = min(term.low for term in terms)
    degree = max(term.low + len(term.coefficients) for term in terms)
    total = _zeros(degree - low, terms[0].coefficients)
    for term in terms:
        total[term.low - low : term.low - low + len(term.coefficients)] += term.coefficients
    return Polynomial(low, total)


def _zeros(count: int, like: Tensor) -> Tensor:
    """`count` zeros of the shape of a coefficient of `like`; of maps, with the channels innermost, as in `passes`."""
    if like.ndim != 5:
        return like.new_zeros((count, *like.shape[1:]))
    _, samples, channels, height, width = like.shape
    return like.new_zeros((count, samples, height, width, channels)).permute(0, 1, 4, 2, 3)


def _downstream(nodes: Sequence[Node], start: str) -> set[str]:
    """`start` and everything that depends on it."""
    reach = {start}
    for node in nodes:
        if not reach.isdisjoint(node.inputs):
            reach.add(node.name)
    return reach
