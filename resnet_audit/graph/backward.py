"""Backward through a graph with cotangents that are polynomials in z.

Source   derived (exact depth decomposition; the recursion G'_k = S H_k + B H_{k-1}, H_k = D G_k).
Idea     Multiply by z on chosen edges. Then the coefficient of z^k at a node is the part of the gradient that came
         along paths with exactly k of these edges, and the coefficients sum to the gradient.
Marks    A mark is what an edge does to the cotangent that passes it: multiply by z, in a quotient of the polynomials
         too (`truncated`), by a sign, by a gate. Between marks all coefficients pass alike.
Cost     One adjoint per node on (degree + 1) * N cotangents at once; masks were recorded once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

import torch

from resnet_audit.graph.adjoint import Saved, adjoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from torch import Tensor

    from resnet_audit.graph.ir import Node

    Edge = tuple[str, int]
    Mark = Callable[["Polynomial"], "Polynomial"]
    Visit = Callable[[str, "Polynomial", Sequence["Part"]], None]


@dataclass(frozen=True, slots=True)
class Polynomial:
    """sum_k coefficients[k] z^(low + k); coefficients: (K, N, ...). `low` spares the zeros below it."""

    low: int
    coefficients: Tensor

    def shifted(self, by: int) -> Polynomial:
        """The product with z^by."""
        return Polynomial(self.low + by, self.coefficients)

    def times_z(self) -> Polynomial:
        """The product with z."""
        return self.shifted(1)

    def at_one(self) -> Tensor:
        """The sum of the coefficients, (N, ...): the ordinary cotangent."""
        return self.coefficients.sum(0)


def times_z(edges: Iterable[Edge]) -> dict[Edge, Mark]:
    """The marks of edges that multiply by z."""
    return dict.fromkeys(edges, Polynomial.times_z)


def truncated(top: int) -> Mark:
    """Multiplication by z where z^(top + 1) = z^top: coefficients below `top` stay exact, the last gathers the rest."""

    def mark(cotangent: Polynomial) -> Polynomial:
        low, coefficients = cotangent.low + 1, cotangent.coefficients
        kept = max(0, min(len(coefficients), top - low))
        if low + len(coefficients) - 1 <= top:
            return Polynomial(low, coefficients)
        rest = coefficients[kept:].sum(0, keepdim=True)
        return Polynomial(min(low, top), torch.cat([coefficients[:kept], rest]))

    return mark


@dataclass(frozen=True, slots=True)
class Part:
    """The share of a node's cotangent that came back from one reader, through that reader's input `position`."""

    reader: str
    position: int
    cotangent: Polynomial


def propagate(
    nodes: Sequence[Node],
    saved: Mapping[str, Saved],
    seed: tuple[str, Tensor | Polynomial],
    *,
    stop: str,
    marks: Mapping[Edge, Mark] | None = None,
    visit: Visit | None = None,
) -> Polynomial:
    """The cotangent at node `stop` for the cotangent `seed` = (node, (N, ...) or a polynomial).

    marks: what the edges (reader, position of the input) do that count. `visit(name, cotangent, parts)` sees every node
    from the seed back to `stop` once its cotangent is complete. Raises NoRule for an operation without an adjoint.
    """
    acts = marks or {}
    name, start = seed
    first = start if isinstance(start, Polynomial) else Polynomial(0, start.unsqueeze(0))
    shapes = {node.name: node.shape or () for node in nodes}
    reach = _downstream(nodes, stop)
    if name not in reach:
        raise ValueError(f"{name} does not depend on {stop}")
    pending: dict[str, list[Part]] = {name: [Part("", 0, first)]}
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
                passed = Polynomial(total.low, cotangent)
                act = acts.get((node.name, position))
                part = Part(node.name, position, passed if act is None else act(passed))
                pending.setdefault(name, []).append(part)
    raise ValueError(f"{stop} is not among the nodes")


def add(terms: Sequence[Polynomial]) -> Polynomial:
    """The sum. Its coefficients are new unless there is one term: they must not be written to."""
    return reduce(_plus, terms)


def _plus(a: Polynomial, b: Polynomial) -> Polynomial:
    """The sum of two, every coefficient written once: the largest arrays of a backward pass come by here."""
    if b.low < a.low:
        a, b = b, a
    shift, first, second = b.low - a.low, a.coefficients, b.coefficients
    ends = len(first), shift + len(second)
    total = _empty(max(ends), first)
    alone, both = min(shift, ends[0]), min(ends)
    total[:alone] = first[:alone]
    total[ends[0] : shift] = 0.0
    if both > shift:
        torch.add(first[shift:both], second[: both - shift], out=total[shift:both])
    longer, start = (first, 0) if ends[0] > ends[1] else (second, shift)
    rest = max(both, shift)
    total[rest:] = longer[rest - start :]
    return Polynomial(a.low, total)


def _empty(count: int, like: Tensor) -> Tensor:
    """Room for `count` coefficients as those of `like`; of maps, with the channels innermost, as in `passes`."""
    if like.ndim != 5:
        return like.new_empty((count, *like.shape[1:]))
    _, samples, channels, height, width = like.shape
    return like.new_empty((count, samples, height, width, channels)).permute(0, 1, 4, 2, 3)


def _downstream(nodes: Sequence[Node], start: str) -> set[str]:
    """`start` and everything that depends on it."""
    reach = {start}
    for node in nodes:
        if not reach.isdisjoint(node.inputs):
            reach.add(node.name)
    return reach
