"""The covering number of a residual network: how many networks of these norms can be told apart at resolution eps.

Source   after He, Liu, Tao 2019 (arXiv 1904.01367) and Bartlett, Foster, Telgarsky 2017 (arXiv 1706.08498, Lemma 3.2,
         Theorem 3.3); the form for graphs with sums and concatenations, the patch cover, the bias columns are derived.
Formula  ln N(eps) <= R / eps^2,   R = T^3,   T = sum_v (a_v g_v)^(2/3),   a_v = b_v B_v sqrt(kappa_v)
         eps_v = eps (a_v g_v)^(2/3) / (g_v T), the optimal allocation; share of v in T: (a_v g_v)^(2/3) / T
Symbols  v        a weight node: a convolution or linear layer with the norm behind it folded in, or a norm left alone
         B_v      bound on the Frobenius norm of all N inputs as the cover of v sees them
         b_v      (2,1) norm: of the whole operator (cover `operator`) or of the kernel alone (cover `patch`)
         g_v      how much an error made at v can grow until the output
         kappa_v  ln(2 W^2), W the largest width of a layer; for patches ln(2 * number of kernel entries)
         C        sqrt(R) / ||X||_F, the spectral complexity: needs no data
Reads    a shortcut without weights is no factor; it only makes magnitudes and errors grow by 1 + S instead of S.
Status   certified for the norms taken as fixed in advance; evaluation mode, norms folded. R has no ceilings, as
         published; `log_cardinality` pays them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from resnet_audit.graph.ir import Add, Concat, Input, Node
from resnet_audit.measure.lipschitz import at_zero, log, log_constant
from resnet_audit.theory.factors import VARIANTS, Factor, Variant

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

FLOOR = -1e30
"""Stands for ln 0 inside the recursion: two true infinities would make a gradient NaN, and 1e30 drowns every norm."""


LARGEST_CEILED = 53.0 * math.log(2.0)
"""ln of the number above which every float64 is whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Covering:
    """ln C of one cover and, for every weight node v, what it comes from; logarithms are natural.

    share: of T; they sum to 1, or are all 0 if R is. log_entering: of the magnitude at its input relative to ||X||_F.
    log_growth: of g_v. log_resolution: of eps_v / eps; inf where an error at v cannot reach the output. kappa: kappa_v.
    sensitivity: d ln sqrt(R) / d ln c as sigma_v and b_v are scaled by c together; None if not asked for or R = 0.
    """

    log_complexity: float
    share: Mapping[str, float]
    log_entering: Mapping[str, float]
    log_growth: Mapping[str, float]
    log_resolution: Mapping[str, float]
    kappa: Mapping[str, float]
    sensitivity: Mapping[str, float] | None


def covering(
    nodes: tuple[Node, ...],
    factors: Mapping[str, Factor],
    variant: Variant,
    *,
    log_bias_unit: float = -math.inf,
    drop: frozenset[tuple[str, int]] = frozenset(),
    sensitivities: bool = False,
) -> Covering:
    """One of `coverings`."""
    return coverings(nodes, factors, (variant,), log_bias_unit=log_bias_unit, drop=drop, sensitivities=sensitivities)[
        variant
    ]


def coverings(
    nodes: tuple[Node, ...],
    factors: Mapping[str, Factor],
    variants: Iterable[Variant] = VARIANTS,
    *,
    log_bias_unit: float = -math.inf,
    drop: frozenset[tuple[str, int]] = frozenset(),
    sensitivities: bool = False,
) -> dict[Variant, Covering]:
    """C, shares and what they come from, for a folded graph with optimally allocated resolutions.

    All magnitudes are relative to ||X||_F. log_bias_unit: ln(sqrt(N) / ||X||_F), the size of a number that is 1 in
    every example: of a bias in one position (variants with biases), of an activation's value at 0 (all variants).
    drop: inputs (reader, position) to leave out, which turns a residual network into its chain.
    sensitivities: whether to differentiate (variants without biases: a bias does not grow with its layer).
    Raises NoRule for an operation that the recursion does not cover.
    """
    order = [node.name for node in nodes if node.name in factors]
    ordered = [factors[name] for name in order]
    log_scale = torch.zeros(len(order), dtype=torch.float64, requires_grad=sensitivities)
    entering, growth = _flow(nodes, order, ordered, log_scale, log_bias_unit, drop)
    found = {}
    for variant in variants:
        kappa = _kappa(ordered, variant)
        log_bare = _log_seen(ordered, variant, entering[:, int(variant.biases)], log_bias_unit) + log_scale
        t = (log_bare + 0.5 * kappa.log() + growth) * (2.0 / 3.0)
        slopes = _slopes(t, log_scale) if sensitivities and not variant.biases else None
        found[variant] = _allocated(order, t.detach(), entering[:, int(variant.biases)], growth, kappa, slopes)
    return found


def log_cardinality(covering: Covering, log_radius: float) -> float:
    """ln of ln N(eps) with every ceiling paid; at most ln(2 R / eps^2). log_radius: ln(||X||_F / eps).

    Node v needs ceil(x_v) kappa_v with x_v kappa_v = a_v^2 / eps_v^2, and nothing where one centre will do: x_v <= 1.
    """
    logs = []
    for name, share in covering.share.items():
        kappa = covering.kappa[name]
        x = log(share) + 2.0 * (covering.log_complexity + log_radius) - math.log(kappa) if share > 0 else -math.inf
        if x > 0:
            logs.append(math.log(kappa) + (math.log(math.ceil(math.exp(x))) if x < LARGEST_CEILED else x))
    return float(torch.logsumexp(torch.tensor(logs, dtype=torch.float64), dim=0))


def _flow(
    nodes: tuple[Node, ...],
    order: list[str],
    factors: list[Factor],
    log_scale: Tensor,
    log_bias_unit: float,
    drop: frozenset[tuple[str, int]],
) -> tuple[Tensor, Tensor]:
    """ln of the magnitudes that enter the weight nodes, (L, 2): without and with biases; ln of their g_v, (L,).

    Every node has one state, (2 + L,): ln of its magnitudes and of its errors for an error of size 1 made at each
    weight node. An operation multiplies the whole state and may add to some of it: a bias, an offset, a new error.
    """
    shapes = {node.name: node.shape or () for node in nodes}
    index = {name: position for position, name in enumerate(order)}
    log_sigma = (_floored([log(factor.sigma) for factor in factors]) + log_scale).unbind()
    made = _made(factors, log_bias_unit)
    source = torch.full((2 + len(order),), FLOOR, dtype=torch.float64)
    source[:2] = 0.0
    states: dict[str, Tensor] = {}
    entering: list[Tensor] = []
    for node in nodes:
        kept = [name for position, name in enumerate(node.inputs) if (node.name, position) not in drop]
        state = _joined(node, [states[name] for name in kept]) if kept else source
        if node.name in index:
            entering.append(state[:2])
            state = torch.logaddexp(state + log_sigma[index[node.name]], made[index[node.name]])
        elif not isinstance(node.op, Input | Add | Concat):
            state = state + max(log_constant(node, [shapes[name] for name in node.inputs]), FLOOR)
            if (offset := at_zero(node.op)) > 0:
                size = log(offset) + 0.5 * math.log(math.prod(shapes[node.name])) + log_bias_unit
                state = torch.logaddexp(state, source + max(size, FLOOR))
        states[node.name] = state
    return torch.stack(entering) if entering else source[:2].expand(0, 2), states[nodes[-1].name][2:]


def _made(factors: list[Factor], log_bias_unit: float) -> Tensor:
    """(L, 2 + L): ln of what each weight node adds to the state: its bias, in the second entry, and its own error."""
    count = len(factors)
    biases = [log(factor.bias_norm) + 0.5 * math.log(factor.positions) + log_bias_unit for factor in factors]
    made = torch.full((count, 2 + count), FLOOR, dtype=torch.float64)
    made[:, 1] = _floored(biases)
    made[:, 2:].fill_diagonal_(0.0)
    return made


def _joined(node: Node, states: list[Tensor]) -> Tensor:
    """The state that enters a node: sums add, concatenations add squares."""
    if len(states) == 1:
        return states[0]
    power = 2.0 if isinstance(node.op, Concat) else 1.0
    return torch.logsumexp(power * torch.stack(states), dim=0) / power


def _log_seen(factors: list[Factor], variant: Variant, entering: Tensor, log_bias_unit: float) -> Tensor:
    """(L,): ln(b_v B_v)."""
    patches = variant.cover == "patch"
    seen = entering + 0.5 * _floored([math.log(factor.windows) if patches else 0.0 for factor in factors])
    if variant.biases:
        # The bias is one more input entry, equal to 1 in every row that the cover sees.
        ones = [(math.log(factor.positions) if patches else 0.0) + 2.0 * log_bias_unit for factor in factors]
        seen = 0.5 * torch.logaddexp(2.0 * seen, _floored(ones))
    return _floored([log(factor.b[variant]) for factor in factors]) + seen


def _kappa(factors: list[Factor], variant: Variant) -> Tensor:
    """(L,): kappa_v."""
    if variant.cover == "patch":
        return torch.tensor([factor.patch_kappa[variant.biases] for factor in factors], dtype=torch.float64)
    width = max((factor.width for factor in factors), default=1)
    return torch.full((len(factors),), math.log(2.0) + 2.0 * math.log(width), dtype=torch.float64)


def _slopes(t: Tensor, log_scale: Tensor) -> list[float]:
    """d ln sqrt(R) / d ln c of every weight node."""
    (slopes,) = torch.autograd.grad(1.5 * torch.logsumexp(t, dim=0), log_scale, retain_graph=True)
    found: list[float] = slopes.tolist()
    return found


def _allocated(
    order: list[str], t: Tensor, entering: Tensor, growth: Tensor, kappa: Tensor, slopes: list[float] | None
) -> Covering:
    """The covering whose ln (a_v g_v)^(2/3) are `t`."""
    total = _natural(float(torch.logsumexp(t, dim=0)))
    logs, grown = [_natural(value) for value in t.tolist()], [_natural(value) for value in growth.tolist()]
    share = [math.exp(value - total) if value > -math.inf else 0.0 for value in logs]
    resolution = [
        math.inf if g == -math.inf else value if value == -math.inf else value - g - total
        for value, g in zip(logs, grown, strict=True)
    ]
    return Covering(
        log_complexity=1.5 * total,
        share=dict(zip(order, share, strict=True)),
        log_entering=dict(zip(order, map(_natural, entering.tolist()), strict=True)),
        log_growth=dict(zip(order, grown, strict=True)),
        log_resolution=dict(zip(order, resolution, strict=True)),
        kappa=dict(zip(order, kappa.tolist(), strict=True)),
        sensitivity=None if slopes is None or total == -math.inf else dict(zip(order, slopes, strict=True)),
    )


def _floored(logs: list[float]) -> Tensor:
    return torch.tensor(logs, dtype=torch.float64).clamp(min=FLOOR)


def _natural(value: float) -> float:
    """A logarithm of the recursion as it is: -inf for what stands for it."""
    return -math.inf if value < FLOOR / 10.0 else value
