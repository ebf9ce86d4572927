"""The scale of a residual branch from the weights alone: nothing is run.

Source   derived (theory note `shortcut-scaling`, B3).
Formula  alpha = (E branch^2 / E shortcut^2)^(1/2), both at the sum, averaged over channels
         statistics  both known from batch normalisations (`channel_moments.py`)
         he          the same through a weight layer or a pooling behind the last normalisation
         gates       no normalisation knows them:  alpha^2 = rho^r prod_k ||W_k||_F^2 / c_k over that of the shortcut
Symbols  r, rho = 1/2  ReLUs of the branch and the share of their units that is active;  W_k, c_k  weights and outputs
Status   prediction. It takes branch and shortcut as independent, and for four CIFAR ResNets lies above what natural
         images measure, most in the last stage. `worst` is certified, and loose.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from resnet_audit.errors import NonFinite, NoRule
from resnet_audit.graph.ir import Add, Conv, Linear, Norm
from resnet_audit.measure.channel_moments import channel_moments
from resnet_audit.measure.weight_gains import block_gains

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resnet_audit.graph import ResidualGraph
    from resnet_audit.graph.blocks import Block
    from resnet_audit.measure.channel_moments import Moments
    from resnet_audit.measure.subject import Subject
    from resnet_audit.results import WeightsRule


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightScale:
    """alpha (dimensionless, None where the shortcut is 0) and the rule that gave it; worst: only of `gates`."""

    alpha: float | None
    rule: WeightsRule
    worst: float | None = None


def weight_scales(subject: Subject, blocks: Sequence[Block]) -> list[WeightScale | NoRule]:
    """The scale of each of `blocks` of the subject's graph; where no rule reaches, why.

    Raises NonFinite for NaN or infinite weights, NotRunnable where the rule of the gates needs a complete graph.
    """
    moments = channel_moments(subject.graph.nodes)
    return [_scale(subject, block, moments) for block in blocks]


def _scale(subject: Subject, block: Block, moments: dict[str, Moments]) -> WeightScale | NoRule:
    by_name = subject.graph.by_name
    ends = [by_name[reader].inputs[position] for reader, position in (block.skip_edge, *block.branch_edges)]
    if not all(end in moments for end in ends):
        return _from_gains(subject, block)
    skip, *branches = (moments[end] for end in ends)
    # Branches add up as independent terms: their means and their variances do.
    mean, variance = (sum(column) for column in zip(*((one.mean, one.variance) for one in branches), strict=True))
    branch = float((mean**2 + variance).mean())
    rough = any(one.rough for one in (skip, *branches))
    return WeightScale(
        alpha=_root(block, branch, skip.mean_square),
        rule="he" if rough else "statistics",
    )


def _root(block: Block, branch: float, skip: float) -> float | None:
    if not (math.isfinite(branch) and math.isfinite(skip)):
        raise NonFinite(f"{block.name} holds NaN or infinite numbers, so its branch has no scale")
    return math.sqrt(branch / skip) if skip > 0 else None


def _from_gains(subject: Subject, block: Block) -> WeightScale | NoRule:
    """By the gains of random vectors, which are those of their cotangents: ||J||_F^2 over the number of outputs."""
    folded = next(one for one in subject.blocks if one.join == subject.fold.name(block.join))
    try:
        log_alpha = block_gains(subject, folded).log_beta
    except NoRule as reason:
        return reason
    certificate = subject.certificate(folded) if block.skip_kind == "identity" else None
    return WeightScale(
        alpha=None if log_alpha is None else math.exp(log_alpha),
        rule="gates",
        worst=None if certificate is None else certificate.branch,
    )


def parameters_at_the_end(graph: ResidualGraph, block: Block) -> tuple[str, ...]:
    """Names of the parameters that, multiplied by c, multiply the branch by c; empty where no last layer does."""
    found: list[str] = []
    for reader, position in block.branch_edges:
        node = graph.by_name[graph.by_name[reader].inputs[position]]
        if not isinstance(node.op, Norm | Conv | Linear) or node.op.weight is None:
            return ()
        found += [f"{node.name}.weight", *([] if node.op.bias is None else [f"{node.name}.bias"])]
    return tuple(found)


def chain(graph: ResidualGraph) -> list[Block]:
    """The blocks that follow each other and end in a sum: none inside another one's branch or shortcut."""
    inside = {name for block in graph.blocks for name in (*block.branch, *block.skip)}
    return [
        block
        for block in graph.blocks
        if block.join in graph.by_name and block.join not in inside and isinstance(graph.by_name[block.join].op, Add)
    ]
