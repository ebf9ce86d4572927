"""The factors of a covering number: what the cover of each weight node needs to know of it.

Source   after Bartlett, Foster, Telgarsky 2017 (arXiv 1706.08498, Lemma 3.2, whose norms are those of the transposed
         matrix); the closed forms for convolutions, the patch cover and the columns with biases are derived.
Formula  b_operator = sum over output units of the l2 norm of their row,   b_patch = sum over o of ||k_o - m_o||_2,
         with a bias as one more entry c_o - m'_o of every row and of every kernel
Symbols  k_o, c_o    kernel and bias of output channel o, the norm behind the layer folded in
         m_o, m'_o   those of a reference network that was fixed before the data were seen; 0 without one
         a norm that stands alone is diagonal: k_o is its scale
Status   exact, but for sigma, which is certified from above. sigma and the bias norm are those of the layer itself: a
         reference makes the covered set smaller and not the values that pass through it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch

from resnet_audit.errors import NoRule
from resnet_audit.graph.fold import gains
from resnet_audit.graph.ir import Conv, Linear, Node, Norm, Op
from resnet_audit.linear import kernel_norm_sum, row_norm_sum, windows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


class Variant(NamedTuple):
    """Which cover, and whether biases belong to the class."""

    cover: Literal["operator", "patch"]
    biases: bool


OPERATOR = Variant(cover="operator", biases=False)
PATCH = Variant(cover="patch", biases=False)
OPERATOR_BIASES = Variant(cover="operator", biases=True)
PATCH_BIASES = Variant(cover="patch", biases=True)
VARIANTS = (OPERATOR, PATCH, OPERATOR_BIASES, PATCH_BIASES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Factor:
    """What the cover of one weight node needs, in l2: sigma certified; b by variant; kappa for the patch cover.

    windows: the most windows that cover an input entry; positions: output entries per output channel;
    width: the larger of its input and output dimension; bias_norm: l2 norm of its bias.
    """

    sigma: float
    b: Mapping[Variant, float]
    patch_kappa: Mapping[bool, float]
    windows: int
    positions: int
    width: int
    bias_norm: float


def is_factor(node: Node) -> bool:
    """Whether the node has a cover of its own."""
    return isinstance(node.op, Conv | Linear | Norm)


def factors_of(
    nodes: tuple[Node, ...], norms: Mapping[str, float], reference: Mapping[str, Node] | None = None
) -> dict[str, Factor]:
    """The factor of every weight node of a folded graph, whose certified norms are `norms`.

    reference: by name, folded nodes of the same shapes; a node that it does not hold is measured from zero.
    """
    shapes = {node.name: node.shape or () for node in nodes}
    start = reference or {}
    return {
        node.name: _factor(node, shapes[node.inputs[0]], norms[node.name], start.get(node.name))
        for node in nodes
        if is_factor(node)
    }


def frobenius(op: Op) -> float:
    """The l2 norm of all entries of a kernel or a matrix, or of the scales of a norm; without its bias."""
    return float(torch.linalg.vector_norm(_kernel(op)[0]))


def _factor(node: Node, given: tuple[int, ...], sigma: float, reference: Node | None) -> Factor:
    op, shape = node.op, node.shape or ()
    # A linear layer acts on the last axis, once for every token; a map has its channels first.
    positions = math.prod(shape[:-1] if isinstance(op, Linear) else shape[1:])
    kernel, bias = _kernel(op)
    moved, shift = kernel, bias
    if reference is not None:
        start, start_bias = _kernel(reference.op)
        moved, shift = kernel - start, bias - start_bias
    patches = {False: kernel_norm_sum(moved), True: kernel_norm_sum(moved, bias=shift)}
    if isinstance(op, Conv):
        rows = {False: _rows(op, moved, given, None), True: _rows(op, moved, given, shift)}
        reach = windows((given[1], given[2]), (kernel.shape[2], kernel.shape[3]), op.stride, op.padding, op.dilation)
    else:
        rows, reach = {biases: value * positions for biases, value in patches.items()}, 1
    return Factor(
        sigma=sigma,
        b={Variant(cover="operator", biases=b): rows[b] for b in (False, True)}
        | {Variant(cover="patch", biases=b): patches[b] for b in (False, True)},
        patch_kappa={False: math.log(2 * kernel.numel()), True: math.log(2 * (kernel.numel() + len(kernel)))},
        windows=reach,
        positions=positions,
        width=max(math.prod(shape), math.prod(given)),
        bias_norm=float(torch.linalg.vector_norm(bias)),
    )


def _kernel(op: Op) -> tuple[Tensor, Tensor]:
    """Kernels (c_out, ...) and bias (c_out,) in float64; zeros for no bias."""
    match op:
        case Conv(weight=weight, bias=bias) | Linear(weight=weight, bias=bias):
            kernel = weight.detach().double()
            return kernel, kernel.new_zeros(len(kernel)) if bias is None else bias.detach().double()
        case Norm():
            scale, shift = gains(op)
            return scale.detach()[:, None], shift.detach()
    raise NoRule(op, "a cover")


def _rows(op: Conv, kernel: Tensor, given: tuple[int, ...], bias: Tensor | None) -> float:
    return row_norm_sum(
        kernel,
        size=(given[1], given[2]),
        stride=op.stride,
        padding=op.padding,
        dilation=op.dilation,
        groups=op.groups,
        bias=bias,
    )
