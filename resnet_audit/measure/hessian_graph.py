"""The same network in a form whose second derivatives are cheap.

Source   derived: y = K * x is bilinear, and so are its adjoints; their derivatives are convolutions of the same sizes.
Formula  dx = K^T g,  dK = x^T g,  and along (cx, cK, cb):  dg = K * cx + cK * x + cb,  dx = cK^T g,  dK = cx^T g
         a normalisation behind a convolution:  a (K * x + c) + b = (a K) * x + (a c + b)
Symbols  K  kernel; g  cotangent of y; K^T g, x^T g  the adjoints in x and in K; a, b  scale and shift by channel
Notes    Torch's own second derivative finds x^T g as a convolution with a kernel as large as the map: a third of a
         product on resnet20. a K is a function of K and gamma, so derivatives by both are as before. Values are those
         of the two operations apart: rounded otherwise, a unit near 0 may change sides of its kink.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from resnet_audit.graph.execute import apply, like, norm_affine
from resnet_audit.graph.ir import Conv, Node, Norm, Opaque, consumers_of

if TYPE_CHECKING:
    from torch import Tensor


def cheap_twice(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    """Nodes with the same values, one for a convolution and the normalisation that alone reads it.

    It has the name of the normalisation. The parameters stay what derivatives are taken by.
    """
    by_name, readers = {node.name: node for node in nodes}, consumers_of(nodes)
    before: dict[str, Node] = {}
    for node in nodes:
        source = by_name.get(node.inputs[0]) if isinstance(node.op, Norm) else None
        if source is not None and isinstance(source.op, Conv) and len(readers[source.name]) == 1:
            before[node.name] = source
    gone = {source.name for source in before.values()}
    return tuple(_cheap(node, before.get(node.name)) for node in nodes if node.name not in gone)


def _cheap(node: Node, source: Node | None) -> Node:
    """The node, or with a `source` what the two do together."""
    op = node.op if source is None else source.op
    if not isinstance(op, Conv):
        return node
    norm = node.op if source is not None and isinstance(node.op, Norm) else None
    inputs = node.inputs if source is None else source.inputs
    return replace(node, op=Opaque(name="convolution", function=partial(_convolve, op, norm)), inputs=inputs)


def _convolve(op: Conv, norm: Norm | None, x: Tensor) -> Tensor:
    weight, bias = like(op.weight, x), None if op.bias is None else like(op.bias, x)
    if norm is not None:
        scale, shift = (vector.flatten() for vector in norm_affine(norm, x))
        weight = weight * scale.view(-1, 1, 1, 1)
        bias = shift if bias is None else torch.addcmul(shift, bias, scale)
    value: Tensor = _Convolution.apply(x, weight, bias, _Together(op, norm))  # type: ignore[no-untyped-call]  # torch has no types for it
    return value


@dataclass(frozen=True, slots=True)
class _Together:
    """A convolution, and the normalisation behind it if there is one; `weight` is that of both."""

    op: Conv
    norm: Norm | None

    def value(self, x: Tensor) -> Tensor:
        value = apply(self.op, [x])
        return value if self.norm is None else apply(self.norm, [value])

    def product(self, weight: Tensor, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """K * x + c."""
        return F.conv2d(x, weight, bias, self.op.stride, self.op.padding, self.op.dilation, self.op.groups)

    def adjoints(
        self, g: Tensor, x: Tensor, weight: Tensor, *, wanted: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """K^T g and x^T g, each if it is wanted; of the tensor that is not needed only the shape is read."""
        if not any(wanted):
            return None, None
        op = self.op
        found = torch.ops.aten.convolution_backward(
            g,
            x,
            weight,
            None,
            op.stride,
            op.padding,
            op.dilation,
            transposed=False,
            output_padding=(0, 0),
            groups=op.groups,
            output_mask=(*wanted, False),
        )
        return found[0], found[1]


class _Convolution(torch.autograd.Function):
    """The value of the two, a function of x, of the weight and of the bias of both together."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, _bias: Tensor | None, both: _Together) -> Tensor:  # noqa: ANN401 - torch's own
        ctx.save_for_backward(x, weight)
        ctx.both = both
        return both.value(x)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401 - torch's own
        return (*_Adjoint.apply(cotangents[0], *ctx.saved_tensors, ctx.needs_input_grad[:3], ctx.both), None)  # type: ignore[no-untyped-call]  # torch has no types for it


class _Adjoint(torch.autograd.Function):
    """(K^T g, x^T g, sum of g by channel), each if it is needed, else None."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch's own
        g: Tensor,
        x: Tensor,
        weight: Tensor,
        needed: tuple[bool, bool, bool],
        both: _Together,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        ctx.save_for_backward(g, x, weight)
        ctx.both = both
        ctx.set_materialize_grads(False)
        to_x, to_weight = both.adjoints(g, x, weight, wanted=needed[:2])
        return to_x, to_weight, g.sum((0, 2, 3)) if needed[2] else None

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *along: Tensor | None) -> tuple[Tensor | None, ...]:  # noqa: ANN401 - torch's own
        (g, x, weight), both = ctx.saved_tensors, ctx.both
        along_x, along_weight, along_bias = along
        to_g = to_x = to_weight = None
        if along_x is not None:
            to_g = both.product(weight, along_x, along_bias)
            _, to_weight = both.adjoints(g, along_x, weight, wanted=(False, ctx.needs_input_grad[2]))
        if along_weight is not None:
            more = both.product(along_weight, x, along_bias if to_g is None else None)
            to_g = more if to_g is None else to_g.add_(more)
            to_x, _ = both.adjoints(g, x, along_weight, wanted=(ctx.needs_input_grad[1], False))
        if to_g is None and along_bias is not None:
            to_g = along_bias.view(-1, 1, 1).expand_as(g)
        return to_g, to_x, to_weight, None, None
