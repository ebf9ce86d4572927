"""The Hessian of the loss where every residual branch is zero, in closed form, for branches of two weight layers.

Source   derived (theory note `shortcut-scaling`, A1, A3); the setting is that of Li, Jiao, Han, Weissman 2016.
Formula  loss = loss_0 + sum_l <W_l2 W_l1, B_l> + O(|W|^4)
         B_l[(i, a), (k, b)] = sum_{n, r} delta_{n, i}(q: r = stride_2 q + a) x_{n, k}(stride_1 r + b)
         the spectrum of the Hessian of block l is that of +-B_l, once for every hidden channel, and zeros
Symbols  x  what the first layer reads, delta  the gradient of the mean loss at the sum; both with all branches zero
         a, b  kernel offsets of the second and the first layer; r  a pixel between them, inside the map; n  samples
Status   exact for a branch of two bare layers. Norms and activations between and behind them are left out: a smooth
         activation with phi(0) = 0 multiplies the spectrum by phi'(0), for ReLU there is no Hessian at 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from resnet_audit.graph.execute import run
from resnet_audit.graph.ir import Activation, Add, Conv, Linear, Node, Norm, Op, Scale, is_norm, is_weight
from resnet_audit.graph.shapes import windows_along
from resnet_audit.linear import map_layers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch import Tensor

    from resnet_audit.graph import ResidualGraph
    from resnet_audit.graph.blocks import Block

TOLERANCE = 1e-10
"""Singular values below this share of the largest count as zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The two weight layers of a block whose branch has no other: `first` is read at the fork's side."""

    block: Block
    first: Node
    second: Node


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroSpectrum:
    """Singular values of B, descending, without those of rows and columns of zeros; (rows, columns) of all of B."""

    block: Block
    rows: int
    columns: int
    values: Tensor

    @property
    def tolerance(self) -> float:
        """What a singular value has to exceed to count: 1e-10 of the largest, or the rounding if that is more."""
        if not len(self.values):
            return 0.0
        rounding = max(self.rows, self.columns) * torch.finfo(self.values.dtype).eps
        return max(TOLERANCE, rounding) * float(self.values[0])


def pair_of(graph: ResidualGraph, block: Block) -> Pair | None:
    """The layers of a branch of two with nothing but norms, activations and scales around; None for any other."""
    if len(block.layers) != 2 or len(block.branch_edges) != 1:
        return None
    first, second = (graph.by_name[name] for name in block.layers)
    if not _plain(first.op, second.op) or not isinstance(graph.by_name[block.join].op, Add):
        return None
    reader, position = block.branch_edges[0]
    line = _line(graph, graph.by_name[reader].inputs[position], block.fork)
    chain = [node.name for node in line if is_weight(node)] == [second.name, first.name]
    plain = all(is_weight(node) or _keeps_place(node) for node in line)
    return Pair(block=block, first=first, second=second) if chain and plain else None


def _plain(first: Op, second: Op) -> bool:
    match first, second:
        case Conv(groups=1), Conv(groups=1):
            return True
        case _:
            return isinstance(first, Linear) and isinstance(second, Linear)


def _keeps_place(node: Node) -> bool:
    return isinstance(node.op, Norm | Activation | Scale) or is_norm(node)


def _line(graph: ResidualGraph, name: str, fork: str) -> list[Node]:
    """The nodes from `name` back to the fork (left out), along a path without branching; empty if there is none."""
    line = []
    while name != fork:
        node = graph.by_name[name]
        if len(node.inputs) != 1:
            return []
        line.append(node)
        (name,) = node.inputs
    return line


def zero_spectra(
    graph: ResidualGraph, pairs: Sequence[Pair], inputs: Tensor, targets: Tensor, threads: int = 1
) -> list[ZeroSpectrum]:
    """The spectra of the blocks of `pairs`, from one pass in the dtype of `inputs` with every branch at zero.

    inputs: (N, ...); targets: classes of the mean cross-entropy. All joins are sums. Raises NoRule.
    """
    read, deltas = _at_zero(graph, pairs, inputs, targets)

    def spectrum(pair: Pair) -> ZeroSpectrum:
        left, right = factors(pair, read[pair.block.name], deltas[pair.block.name])
        return ZeroSpectrum(
            block=pair.block, rows=left.shape[1], columns=right.shape[1], values=singular_values(left, right)
        )

    return map_layers(spectrum, pairs, threads)


def _at_zero(
    graph: ResidualGraph, pairs: Sequence[Pair], inputs: Tensor, targets: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What the first layer of each pair reads, and the gradient of the mean loss at its sum; both by block."""
    taps = {pair.block.name: f"{pair.block.join} branch" for pair in pairs}
    leaves = {
        tap: inputs.new_zeros(len(inputs), *(graph.by_name[pair.block.join].shape or ()), dtype=_real(inputs))
        for pair, tap in zip(pairs, taps.values(), strict=True)
    }
    nodes = without_branches(graph.nodes, graph.blocks, {pair.block.join: taps[pair.block.name] for pair in pairs})
    forks = {pair.block.fork: inputs for pair in pairs if pair.block.fork == graph.nodes[0].name}
    wanted = {pair.block.fork for pair in pairs}

    def visit(node: Node, _: list[Tensor], value: Tensor) -> None:
        if node.name in wanted:
            forks[node.name] = value.detach()

    with torch.enable_grad():
        for leaf in leaves.values():
            leaf.requires_grad_()
        logits = run(nodes, {graph.nodes[0].name: inputs, **leaves}, graph.output, visit)
        loss = F.cross_entropy(logits.flatten(0, -2), targets.flatten())
        found = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
    with torch.no_grad():
        read = {p.block.name: run(graph.nodes, {p.block.fork: forks[p.block.fork]}, p.first.inputs[0]) for p in pairs}
    return read, dict(zip(taps, found, strict=True))


def _real(inputs: Tensor) -> torch.dtype:
    return inputs.dtype if inputs.is_floating_point() else torch.float32


def without_branches(nodes: Sequence[Node], blocks: Iterable[Block], taps: Mapping[str, str]) -> tuple[Node, ...]:
    """The nodes with no branch at any sum; a sum in `taps` reads the value of that name in its branch's place."""
    cut = {edge for block in blocks for edge in block.branch_edges}
    empty: set[str] = set()
    kept = []
    for node in nodes:
        if not isinstance(node.op, Add):
            kept.append(node)
            continue
        left = tuple(
            name for position, name in enumerate(node.inputs) if (node.name, position) not in cut and name not in empty
        )
        left += (taps[node.name],) if node.name in taps else ()
        if left:
            kept.append(replace(node, inputs=left))
        else:
            empty.add(node.name)
    return tuple(kept)


def factors(pair: Pair, read: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """D (N, rows, M) and X (N, columns, M) with B = sum_n D_n X_n^T, M places between the two layers."""
    first, second = pair.first.op, pair.second.op
    if not isinstance(first, Conv) or not isinstance(second, Conv):
        return _tokens(delta), _tokens(read)
    kernel = tuple(first.weight.shape[2:])
    right = F.unfold(read, kernel, first.dilation, first.padding, first.stride)
    size = [
        windows_along(read.shape[2 + axis], kernel[axis], first.stride[axis], first.padding[axis], first.dilation[axis])
        for axis in (0, 1)
    ]
    return _spread(second, delta, size), right


def _tokens(x: Tensor) -> Tensor:
    """(N, ..., F) as (N, F, M)."""
    return x.reshape(len(x), -1, x.shape[-1]).transpose(1, 2)


def _spread(op: Conv, delta: Tensor, size: Sequence[int]) -> Tensor:
    """delta (N, c_out, ...) at every pixel (of `size`) that the second layer reads, by kernel offset."""
    rows, columns = ((delta.shape[2 + axis] - 1) * op.stride[axis] + 1 for axis in (0, 1))
    stuffed = delta.new_zeros(*delta.shape[:2], rows, columns)
    stuffed[:, :, :: op.stride[0], :: op.stride[1]] = delta
    kernel = tuple(op.weight.shape[2:])
    margins = []
    for axis, length in ((1, columns), (0, rows)):
        reach = op.dilation[axis] * (kernel[axis] - 1)
        before = reach - op.padding[axis]
        margins += [before, size[axis] + reach - before - length]
    # The windows run against the kernel's offsets: rows of B in another order, which no singular value sees.
    return F.unfold(F.pad(stuffed, margins), kernel, op.dilation)


def singular_values(left: Tensor, right: Tensor) -> Tensor:
    """Singular values, descending, of sum_n left_n right_n^T for (N, rows, M) and (N, columns, M).

    Rows and columns of zeros are left out. Where there are fewer places than rows and columns, the values come from
    two small triangular factors instead.
    """
    left, right = (x[:, x.abs().amax((0, 2)) > 0] for x in (left, right))
    places = left.shape[0] * left.shape[2]
    if 0 in (left.shape[1], right.shape[1]):
        return left.new_zeros(0)
    if places < min(left.shape[1], right.shape[1]):
        small = [torch.linalg.qr(x.transpose(0, 1).reshape(x.shape[1], -1), mode="r").R for x in (left, right)]
        total = small[0] @ small[1].T
    else:
        total = _summed(left, right)
    values: Tensor = torch.linalg.svdvals(total)
    return values


def _summed(left: Tensor, right: Tensor) -> Tensor:
    total = left.new_zeros(left.shape[1], right.shape[1])
    for one, other in zip(left, right, strict=True):
        total.addmm_(one, other.T)
    return total
