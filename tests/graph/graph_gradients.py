"""Gradients of the test networks along chosen paths, by torch's autograd with only the backward pass changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from graph_oracles import Oracle
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping


class _Damped(torch.autograd.Function):
    """The value unchanged; the gradient times a factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


def damped(x: Tensor, factor: float) -> Tensor:
    return _Damped.apply(x, factor)


class OnePath(Oracle):
    """Gradients pass block l through its branch only if l is in `through`, else through its shortcut only."""

    def __init__(self, state: Mapping[str, Tensor], through: Iterable[int]) -> None:
        super().__init__(state)
        self.through = frozenset(through)

    def join(self, index: int, branch: Tensor, skip: Tensor) -> Tensor:
        taken = index in self.through
        return (branch if taken else branch.detach()) + (skip.detach() if taken else skip)


class ScaledBranches(Oracle):
    """Gradients are multiplied by z at the end of every branch."""

    def __init__(self, state: Mapping[str, Tensor], z: float) -> None:
        super().__init__(state)
        self.z = z

    def join(self, _index: int, branch: Tensor, skip: Tensor) -> Tensor:
        return damped(branch, self.z) + skip


class ScaledLayers(Oracle):
    """Gradients are multiplied by z at every convolution and linear layer."""

    def __init__(self, state: Mapping[str, Tensor], z: float) -> None:
        super().__init__(state)
        self.z = z

    def conv(self, name: str, x: Tensor, stride: int = 1, padding: int = 0, groups: int = 1) -> Tensor:
        return damped(super().conv(name, x, stride, padding, groups), self.z)

    def linear(self, name: str, x: Tensor) -> Tensor:
        return damped(super().linear(name, x), self.z)


def input_gradient(
    forward: Callable[[Oracle, Tensor], Tensor], net: Oracle, images: Tensor, cotangent: Tensor
) -> Tensor:
    """The gradient of <cotangent, logits> with respect to the images; zero if no path is left."""
    leaf = images.detach().clone().requires_grad_(requires_grad=True)
    logits = forward(net, leaf)
    if not logits.requires_grad:
        return torch.zeros_like(images)
    (gradient,) = torch.autograd.grad(logits, leaf, cotangent)
    return gradient
