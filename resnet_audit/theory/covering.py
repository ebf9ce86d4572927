"""The covering number of a residual network: how many networks of these norms can be told apart at resolution eps.

Source   after He, Liu, Tao 2019 (arXiv 1904.01367) and Bartlett, Foster, Telgarsky 2017 (arXiv 1706.08498, Lemma 3.2,
         Theorem 3.3); the form for graphs with sums and concatenations, the patch cover, the bias columns are derived.
Formula  ln N(eps) <= R / eps^2,   R = (sum_v (a_v g_v)^(2/3))^3,   a_v = b_v B_v sqrt(kappa_v)
Symbols  v        a weight node: a convolution or linear layer with the norm behind it folded in, or a norm left alone
         B_v      bound on the Frobenius norm of all N inputs as the cover of v sees them
         b_v      (2,1) norm: of the whole operator (cover `operator`) or of the kernel alone (cover `patch`)
         g_v      how much an error made at v can grow until the output
         kappa_v  ln(2 W^2), W the largest width of a layer; for patches ln(2 * number of kernel entries)
         C        sqrt(R) / ||X||_F, the spectral complexity: needs no data
Reads    a shortcut without weights is no factor; it only makes magnitudes and errors grow by 1 + S instead of S.
Status   certified for the norms taken as fixed in advance; evaluation mode, norms folded; no ceilings, as published.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from resnet_audit.errors import NoRule
from resnet_audit.graph.fold import gains
from resnet_audit.graph.ir import Add, Concat, Conv, Input, Linear, Node, Norm
from resnet_audit.linear import kernel_norm_sum, row_norm_sum, windows
from resnet_audit.measure.lipschitz import log, log_constant

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from numpy.typing import NDArray


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Covering:
    """ln C of one cover, and each weight node's share of R^(1/3) (they sum to 1)."""

    log_complexity: float
    share: Mapping[str, float]


def covering(
    nodes: tuple[Node, ...],
    factors: Mapping[str, Factor],
    variant: Variant,
    *,
    log_bias_unit: float = -math.inf,
    drop: frozenset[tuple[str, int]] = frozenset(),
) -> Covering:
    """C and the shares of a folded graph with optimally allocated resolutions, all magnitudes relative to ||X||_F.

    log_bias_unit: ln(sqrt(N) / ||X||_F), the size of a bias of norm 1 in one output position (with biases only).
    drop: inputs (reader, position) to leave out, which turns a residual network into its chain.
    Raises NoRule for an operation that the recursion does not cover.
    """
    order = [node.name for node in nodes if node.name in factors]
    log_width = math.log(max(factors[name].width for name in order))
    magnitude: dict[str, float] = {}
    growth: dict[str, NDArray[np.float64]] = {}
    log_a = np.full(len(order), -np.inf)
    shapes = {node.name: node.shape or () for node in nodes}
    for node in nodes:
        kept = [name for position, name in enumerate(node.inputs) if (node.name, position) not in drop]
        size, error = _entering(node, [magnitude[name] for name in kept], [growth[name] for name in kept], len(order))
        if node.name in factors:
            factor, index = factors[node.name], order.index(node.name)
            log_a[index] = _log_a(factor, variant, size, log_bias_unit, log_width)
            size, error = size + log(factor.sigma), error + log(factor.sigma)
            if variant.biases:
                size = _logadd(size, log(factor.bias_norm) + 0.5 * math.log(factor.positions) + log_bias_unit)
            error[index] = np.logaddexp(error[index], 0.0)
        elif not isinstance(node.op, Input | Add | Concat):
            constant = log_constant(node, [shapes[name] for name in node.inputs])
            size, error = size + constant, error + constant
        magnitude[node.name], growth[node.name] = size, error
    t = (log_a + growth[nodes[-1].name]) * (2.0 / 3.0)
    total = np.logaddexp.reduce(t)
    share = np.exp(t - total) if total > -np.inf else np.zeros(len(order))
    return Covering(log_complexity=1.5 * float(total), share=dict(zip(order, share.tolist(), strict=True)))


def _entering(
    node: Node, sizes: list[float], errors: list[NDArray[np.float64]], width: int
) -> tuple[float, NDArray[np.float64]]:
    """ln of the magnitude and of the errors' growth as they enter a node: sums add, concatenations add squares."""
    if not sizes:
        return 0.0, np.full(width, -np.inf)
    power = 2.0 if isinstance(node.op, Concat) else 1.0
    size = float(np.logaddexp.reduce([power * value for value in sizes])) / power
    stacked: NDArray[np.float64] = np.logaddexp.reduce([power * value for value in errors], axis=0) / power
    return size, stacked


def _log_a(factor: Factor, variant: Variant, size: float, log_bias_unit: float, log_width: float) -> float:
    """ln a_v = ln(b_v B_v sqrt(kappa_v))."""
    if variant.cover == "operator":
        seen, kappa, copies = size, math.log(2.0) + 2.0 * log_width, 1
    else:
        seen, kappa, copies = (
            size + 0.5 * math.log(factor.windows),
            factor.patch_kappa[variant.biases],
            factor.positions,
        )
    if variant.biases:
        # The bias is one more input entry, equal to 1 in every row that the cover sees.
        seen = 0.5 * _logadd(2.0 * seen, math.log(copies) + 2.0 * log_bias_unit)
    return log(factor.b[variant]) + seen + 0.5 * math.log(kappa)


def factors_of(nodes: tuple[Node, ...], norms: Mapping[str, float]) -> dict[str, Factor]:
    """The factor of every weight node of a folded graph, whose certified norms are `norms`."""
    shapes = {node.name: node.shape or () for node in nodes}
    return {node.name: _factor(node, shapes[node.inputs[0]], norms[node.name]) for node in nodes if is_factor(node)}


def is_factor(node: Node) -> bool:
    """Whether the node has a cover of its own."""
    return isinstance(node.op, Conv | Linear | Norm)


def _factor(node: Node, given: tuple[int, ...], sigma: float) -> Factor:
    shape = node.shape or ()
    # A linear layer acts on the last axis, once for every token; a map has its channels first.
    positions = math.prod(shape[:-1] if isinstance(node.op, Linear) else shape[1:])
    op, reach, entries = node.op, 1, 0
    match op:
        case Conv():
            size, extent = (given[1], given[2]), (op.weight.shape[2], op.weight.shape[3])
            bias, entries, outputs = op.bias, op.weight.numel(), op.weight.shape[0]
            reach = windows(size, extent, op.stride, op.padding, op.dilation)
            along = partial(
                row_norm_sum,
                op.weight,
                size=size,
                stride=op.stride,
                padding=op.padding,
                dilation=op.dilation,
                groups=op.groups,
            )
            rows = {False: along(), True: along(bias=bias)}
            patches = {False: kernel_norm_sum(op.weight), True: kernel_norm_sum(op.weight, bias=bias)}
        case Linear():
            bias, entries, outputs = op.bias, op.weight.numel(), op.weight.shape[0]
            patches = {False: kernel_norm_sum(op.weight), True: kernel_norm_sum(op.weight, bias=bias)}
            rows = {biases: value * positions for biases, value in patches.items()}
        case Norm():
            scale, bias = gains(op)
            entries = outputs = len(scale)
            patches = {False: float(scale.abs().sum()), True: float((scale**2 + bias**2).sqrt().sum())}
            rows = {biases: value * positions for biases, value in patches.items()}
        case _:
            raise NoRule(op, "a cover")
    return Factor(
        sigma=sigma,
        b={Variant(cover="operator", biases=b): rows[b] for b in (False, True)}
        | {Variant(cover="patch", biases=b): patches[b] for b in (False, True)},
        patch_kappa={False: math.log(2 * entries), True: math.log(2 * (entries + outputs))},
        windows=reach,
        positions=positions,
        width=max(math.prod(shape), math.prod(given)),
        bias_norm=_norm(bias),
    )


def _norm(bias: torch.Tensor | None) -> float:
    return 0.0 if bias is None else float(bias.double().norm())


def _logadd(a: float, b: float) -> float:
    return float(np.logaddexp(a, b))
