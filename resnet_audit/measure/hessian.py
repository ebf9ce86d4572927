"""Products of a vector with the Hessian of the mean loss, at the parameters of a checkpoint.

Source   Pearlmutter 1994; reverse over reverse.
Formula  H v = d <g, v> / d theta,   g = d L / d theta,   L the mean cross-entropy
Symbols  theta  weights and biases of convolutions, linear layers and batch normalisations, one vector
Notes    Batch normalisation is an affine map (evaluation mode). Every thread has samples of its own. The graph of g is
         built once and kept where it fits into memory, else rebuilt for every product, some samples at a time.
         Parameters inside opaque operations, and factors and slopes, are held fixed.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from resnet_audit.errors import NoRule
from resnet_audit.graph.execute import run
from resnet_audit.graph.ir import Conv, Linear, Node, Norm, Opaque
from resnet_audit.linear import map_layers
from resnet_audit.measure.hessian_graph import cheap_twice

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from torch import Tensor

MEMORY = 4 << 30
"""Bytes that the kept graph of a gradient may take."""

KEPT = 3
"""Bytes kept for every byte of all values, with those of one product (measured on residual networks: 1.3 to 2.1)."""


class LossHessian:
    """The symmetric map v -> H v over the parameters of some nodes; `products` counts how often it was applied.

    nodes: a graph as found, not folded. inputs: (N, ...), in the dtype of all that follows; targets: the classes (N,),
    or (N, T) for logits (N, T, classes). only: the names of nodes whose parameters vary (all by default). memory:
    bytes for what is kept; with infinite memory and one thread all samples pass together. Tied weights are one
    parameter. Raises NoRule where an operation has no second derivative.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        inputs: Tensor,
        targets: Tensor,
        *,
        only: Collection[str] | None = None,
        memory: float = MEMORY,
        threads: int = 1,
    ) -> None:
        self.dtype = inputs.dtype if inputs.is_floating_point() else torch.float32
        self._opaque = next((node for node in nodes if isinstance(node.op, Opaque)), None)
        varied, self.leaves = with_leaves(nodes, self.dtype, only)
        self.nodes = cheap_twice(varied)
        self.sizes = [leaf.numel() for leaf in self.leaves]
        self.products = 0
        self._count = targets.numel()
        each = KEPT * self.dtype.itemsize * sum(math.prod(node.shape or ()) for node in self.nodes)
        self._threads = min(threads, len(inputs))
        room = min(len(inputs), memory / max(each, 1))
        # Convolutions are faster in this layout; a program may count on the other.
        if inputs.dim() == 4 and self._opaque is None:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        samples = max(1, math.ceil(room / self._threads) if room == len(inputs) else int(room / self._threads))
        self._parts = list(zip(torch.split(inputs, samples), torch.split(targets, samples), strict=True))
        keep = room == len(inputs) and bool(self.leaves)
        self._kept = map_layers(self._gradient, self._parts, self._threads) if keep else None

    @property
    def size(self) -> int:
        """The number of parameters."""
        return sum(self.sizes)

    @property
    def kept(self) -> bool:
        """Whether the graph of the gradient is kept between products."""
        return self._kept is not None

    def __call__(self, vector: Tensor) -> Tensor:
        """H v for a vector (size,)."""
        self.products += 1
        if self._kept is not None:
            if len(self._kept) == 1:  # a thread of a pool would begin without what torch keeps for each thread
                return self._derivative(self._kept[0], vector)
            shares = map_layers(lambda gradient: self._derivative(gradient, vector), self._kept, self._threads)
        else:
            shares = map_layers(lambda part: self._afresh(part, vector), self._parts, self._threads)
        return sum(shares[1:], shares[0])

    def _afresh(self, part: tuple[Tensor, Tensor], vector: Tensor) -> Tensor:
        return self._derivative(self._gradient(part), vector, keep=False)

    def _gradient(self, part: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """The share of these samples in the gradient, as functions of the leaves."""
        inputs, targets = part
        with torch.enable_grad(), self._differentiable():
            logits = run(self.nodes, {self.nodes[0].name: inputs}, self.nodes[-1].name)
            loss = F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="sum") / self._count
            return torch.autograd.grad(loss, self.leaves, create_graph=True, materialize_grads=True)

    def _derivative(self, gradient: tuple[Tensor, ...], vector: Tensor, *, keep: bool = True) -> Tensor:
        along = [v.view_as(leaf) for v, leaf in zip(torch.split(vector, self.sizes), self.leaves, strict=True)]
        # What does not depend on any leaf has no graph, and its derivative is zero.
        pairs = [(g, v) for g, v in zip(gradient, along, strict=True) if g.requires_grad]
        if not pairs:
            return torch.zeros_like(vector)
        outputs, vectors = zip(*pairs, strict=True)
        with self._differentiable():
            found = torch.autograd.grad(outputs, self.leaves, vectors, retain_graph=keep, materialize_grads=True)
        return torch.cat([part.reshape(-1) for part in found])

    def _differentiable(self) -> AbstractContextManager[object]:
        """Inside, operations from elsewhere take the forms that can be differentiated twice."""
        return nullcontext() if self._opaque is None else _twice(self._opaque)


class _twice(AbstractContextManager[None]):  # noqa: N801 - used as a function
    """Torch's plain attention, and NoRule for what has no second derivative."""

    def __init__(self, node: Node) -> None:
        # Imported here: a good part of a second, which only such operations need.
        from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: PLC0415 - as above

        self._node, self._plain = node, sdpa_kernel(SDPBackend.MATH)

    def __enter__(self) -> None:
        self._plain.__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._plain.__exit__(None, None, None)
        if isinstance(error, RuntimeError) and "not implemented" in str(error):
            raise NoRule(self._node.op, "the second derivative") from None


def with_leaves(
    nodes: Sequence[Node], dtype: torch.dtype, only: Collection[str] | None = None
) -> tuple[tuple[Node, ...], list[Tensor]]:
    """The nodes with new parameters that autograd follows, and these; of all nodes or of those in `only`."""
    leaves: dict[tuple[object, ...], Tensor] = {}

    def leaf(tensor: Tensor) -> Tensor:
        place = (tensor.data_ptr(), tensor.shape, tensor.stride())
        if place not in leaves:
            leaves[place] = tensor.detach().to(dtype, copy=True).requires_grad_()
        return leaves[place]

    def varied(node: Node) -> Node:
        op = node.op
        if not isinstance(op, Conv | Linear | Norm) or (only is not None and node.name not in only):
            return node
        weight = None if op.weight is None else leaf(op.weight)
        return replace(node, op=replace(op, weight=weight, bias=None if op.bias is None else leaf(op.bias)))  # type: ignore[arg-type]  # of the three only a norm may have no weight

    return tuple(map(varied, nodes)), list(leaves.values())
