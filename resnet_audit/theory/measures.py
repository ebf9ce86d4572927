"""The named measures of generalization studies, as they are defined there, on the folded weights.

Source   Jiang et al. 2020 (arXiv 1912.02178) and Dziugaite et al. 2020 (arXiv 2010.11924), by their names; without the
         PAC-Bayes and magnitude families, which need data and a search.
Formula  value = (v - ln n) / 2 for names that start with LOG_, else sqrt(v / n), with v of the table:

         L2, L2_DIST                 ||w||, ||w - w0||
         PARAMS                      number of weights
         INVERSE_MARGIN              1 / g^2
         LOG_PROD_OF_SPEC            sum ln s_i^2
         ..._OVER_MARGIN             that - 2 ln g
         LOG_SPEC_INIT_MAIN          LOG_PROD_OF_SPEC_OVER_MARGIN + ln sum ||W_i - W0_i||_F^2 / s_i^2
         FRO_OVER_SPEC               sum ||W_i||_F^2 / s_i^2
         LOG_SPEC_ORIG_MAIN          LOG_PROD_OF_SPEC_OVER_MARGIN + ln FRO_OVER_SPEC
         LOG_SUM_OF_SPEC             ln d + LOG_PROD_OF_SPEC / d;  _OVER_MARGIN: ln d + (LOG_PROD_OF_SPEC - 2 ln g) / d
         LOG_PROD_OF_FRO, LOG_SUM_OF_FRO and their _OVER_MARGIN: the same with ||W_i||_F^2 for s_i^2
         FRO_DIST, PARAM_NORM        sum ||W_i - W0_i||_F^2, sum ||W_i||_F^2
         DIST_SPEC_INIT              sum s(W_i - W0_i)^2
         PATH_NORM, _OVER_MARGIN     sum of the outputs for the input of ones and squared weights and biases; that / g^2
         ..._FFT                     the same with s_i^2 of the circular convolution

Symbols  W_i, d  kernels and matrices without biases, (out, rest), and their number; w  all their entries; 0: at the
                 start of training
         s_i     largest singular value of W_i as a matrix; in the _FFT twins of the circular convolution on a grid of
                 the size of the network's input for every layer, its stride ignored
         n, g    training examples; absolute value of the margin that a tenth of them stay below
Reads    numbers to rank models of one shape by. The s_i of W_i as a matrix is no operator norm: nothing is certified.
Status   exact. A norm that stands alone is a diagonal W_i (the sources have none). PATH_NORM keeps pools as they are
         and v has no root: it is not the L2 path norm, nor its square. The reference code leaves 1 / sqrt(1 + 1e-5)
         where a norm was folded, so that its PATH_NORM is smaller, v by 5e-5 for a trained ResNet of 20 layers. Grouped
         and dilated kernels count as the operators that they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from resnet_audit.errors import NoRule
from resnet_audit.graph.fold import gains
from resnet_audit.graph.ir import Conv, Linear, Node, Norm, Opaque, is_weight
from resnet_audit.linear import map_layers, matrix_norm_upper
from resnet_audit.linear.norm import conv_norm_circular
from resnet_audit.measure.lipschitz import log
from resnet_audit.measure.pathnorm import path_norm

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from resnet_audit.graph.ir import Op

    Measures = dict[str, float | None]


LARGEST_CIRCULAR_WORK = 1e11
"""Frequencies times cubes of channels up to which the _FFT twins are computed: about ten seconds on one thread."""

_SPECTRAL = (
    "LOG_PROD_OF_SPEC",
    "LOG_PROD_OF_SPEC_OVER_MARGIN",
    "LOG_SPEC_INIT_MAIN",
    "FRO_OVER_SPEC",
    "LOG_SPEC_ORIG_MAIN",
    "LOG_SUM_OF_SPEC_OVER_MARGIN",
    "LOG_SUM_OF_SPEC",
    "DIST_SPEC_INIT",
)

NAMES = (
    "L2",
    "L2_DIST",
    "PARAMS",
    "INVERSE_MARGIN",
    *_SPECTRAL,
    "LOG_PROD_OF_FRO",
    "LOG_PROD_OF_FRO_OVER_MARGIN",
    "LOG_SUM_OF_FRO_OVER_MARGIN",
    "LOG_SUM_OF_FRO",
    "FRO_DIST",
    "PARAM_NORM",
    "PATH_NORM",
    "PATH_NORM_OVER_MARGIN",
    *(f"{name}_FFT" for name in _SPECTRAL),
)
"""All the measures, in the order in which they are given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Norms:
    """Squared norms of one weight matrix, or of its difference from the start: Frobenius, spectral, circular."""

    frobenius: float
    spectral: float
    circular: float


_UNDEFINED = _Norms(frobenius=math.nan, spectral=math.nan, circular=math.nan)


def measures(
    folded: Sequence[Node],
    *,
    input_size: tuple[int, ...],
    n_train: int | None,
    margin: float | None = None,
    reference: Mapping[str, Node] | None = None,
    threads: int = 1,
) -> Measures:
    """Every measure of `NAMES`, None where it is undefined or overflows.

    folded: first the input, last the output. input_size: (C, H, W). margin: the value below which a tenth of the
    training margins lie; without it the measures that divide by it are None. reference: by name, the folded weight
    nodes at the start, of the same shapes; a node that it does not hold started at zero; without it the measures of a
    distance are None. Without n_train all are None. The _FFT twins are None where `circular_work` is above
    LARGEST_CIRCULAR_WORK, PATH_NORM where an operation has no rule for paths. All are None where a weight layer is
    known by its function alone.
    """
    if n_train is None or any(isinstance(node.op, Opaque) and is_weight(node) for node in folded):
        return dict.fromkeys(NAMES)
    layers = [node for node in folded if isinstance(node.op, Conv | Linear | Norm)]
    possible = len(input_size) == 3 and circular_work(folded, input_size) <= LARGEST_CIRCULAR_WORK
    grid = input_size[1:] if possible else None
    norms = map_layers(lambda node: _norms(node.op, _kernel(node), grid), layers, threads)
    moved = [_UNDEFINED for _ in layers]
    if reference is not None:
        moved = map_layers(lambda node: _norms(node.op, _since(node, reference), grid), layers, threads)
    log_margin = math.nan if margin is None else log(abs(margin))
    half_path = 0.5 * (_log_path(folded) - math.log(n_train))
    values = _values(norms, moved, log_margin) | {"PARAMS": float(sum(_kernel(node).numel() for node in layers))}
    found = {name: _adjusted(name, value, n_train) for name, value in values.items()}
    found |= {"PATH_NORM": _exp(half_path), "PATH_NORM_OVER_MARGIN": _exp(half_path - log_margin)}
    return {name: found[name] if math.isfinite(found[name]) else None for name in NAMES}


def circular_work(folded: Sequence[Node], input_size: tuple[int, ...]) -> float:
    """What the _FFT twins cost: the sum over convolutions of frequencies times cubes of channels."""
    work = 0.0
    for node in folded:
        if isinstance(node.op, Conv):
            weight, groups = node.op.weight, node.op.groups
            points = 1 if weight[0, 0].numel() == 1 else math.prod(input_size[-2:]) // 2 + 1
            work += float(points) * groups * min(weight.shape[0] // groups, weight.shape[1]) ** 3
    return work


def _values(norms: Sequence[_Norms], moved: Sequence[_Norms], log_margin: float) -> dict[str, float]:
    """v of the measures of norms and of the margin; NaN or infinite where it is undefined."""
    frobenius, distance = [norm.frobenius for norm in norms], sum(norm.frobenius for norm in moved)
    return {
        "L2": math.sqrt(sum(frobenius)),
        "L2_DIST": math.sqrt(distance),
        "INVERSE_MARGIN": _exp(-2.0 * log_margin),
        **_spectral(norms, moved, [norm.spectral for norm in norms], log_margin),
        "DIST_SPEC_INIT": sum(norm.spectral for norm in moved),
        **_products("FRO", frobenius, log_margin),
        "FRO_DIST": distance,
        "PARAM_NORM": sum(frobenius),
        **{
            f"{name}_FFT": value
            for name, value in _spectral(norms, moved, [norm.circular for norm in norms], log_margin).items()
        },
        "DIST_SPEC_INIT_FFT": sum(norm.circular for norm in moved),
    }


def _spectral(
    norms: Sequence[_Norms], moved: Sequence[_Norms], squares: Sequence[float], log_margin: float
) -> dict[str, float]:
    """The measures of s_i^2, which are `squares`."""
    ratio = sum(_ratio(norm.frobenius, square) for norm, square in zip(norms, squares, strict=True))
    moved_ratio = sum(_ratio(norm.frobenius, square) for norm, square in zip(moved, squares, strict=True))
    products = _products("SPEC", squares, log_margin)
    over = products["LOG_PROD_OF_SPEC_OVER_MARGIN"]
    return {
        **products,
        "FRO_OVER_SPEC": ratio,
        "LOG_SPEC_INIT_MAIN": over + log(moved_ratio),
        "LOG_SPEC_ORIG_MAIN": over + log(ratio),
    }


def _products(kind: str, squares: Sequence[float], log_margin: float) -> dict[str, float]:
    """The product of the squared norms and what the sources call their sum, without and with the margin."""
    product, d = sum(map(log, squares)), len(squares)
    return {
        f"LOG_PROD_OF_{kind}": product,
        f"LOG_PROD_OF_{kind}_OVER_MARGIN": product - 2.0 * log_margin,
        f"LOG_SUM_OF_{kind}_OVER_MARGIN": log(d) + _ratio(product - 2.0 * log_margin, d),
        f"LOG_SUM_OF_{kind}": log(d) + _ratio(product, d),
    }


def _norms(op: Op, kernel: Tensor, grid: tuple[int, ...] | None) -> _Norms:
    """The squared norms of a kernel, of the operation that it is of."""
    if isinstance(op, Norm):
        top = float(kernel.abs().max())
        circular = top
    else:
        top = matrix_norm_upper(kernel.flatten(1))
        circular = top if isinstance(op, Linear) else _circular(op, kernel, grid)
    return _Norms(
        frobenius=float(kernel.square().sum()),
        spectral=top * top,
        circular=circular * circular,
    )


def _circular(op: Op, kernel: Tensor, grid: tuple[int, ...] | None) -> float:
    if grid is None or not isinstance(op, Conv):
        return math.nan
    height, width = grid
    return conv_norm_circular(kernel, (height, width), (1, 1), op.groups, op.dilation)


def _kernel(node: Node) -> Tensor:
    """The weights without the bias, in float64; the scales of a norm."""
    if isinstance(node.op, Conv | Linear):
        return node.op.weight.detach().double()
    if isinstance(node.op, Norm):
        return gains(node.op)[0].detach()
    raise NoRule(node.op, "a weight matrix")


def _since(node: Node, reference: Mapping[str, Node]) -> Tensor:
    """How far the weights have moved from the start."""
    start = reference.get(node.name)
    return _kernel(node) if start is None else _kernel(node) - _kernel(start)


def _log_path(folded: Sequence[Node]) -> float:
    """ln of the sum of the outputs for ones and squared parameters; NaN without a rule."""
    try:
        return 2.0 * path_norm(folded, 2.0, keep_pools=True).log_sum
    except NoRule:
        return math.nan


def _adjusted(name: str, value: float, n_train: int) -> float:
    """The value with the number of examples in it, as the sources give it."""
    return 0.5 * (value - math.log(n_train)) if name.startswith("LOG_") else math.sqrt(value / n_train)


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator > 0.0 else math.nan


def _exp(value: float) -> float:
    """exp; infinite where it overflows or is undefined."""
    return math.exp(value) if value < 709.0 else math.inf
