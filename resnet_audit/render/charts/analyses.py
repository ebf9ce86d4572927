"""One function per analysis, from its result to its charts: the numbers of the result as they are, none computed."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from resnet_audit.render import glyphs, words
from resnet_audit.results import (
    BoundResult,
    EnsembleResult,
    GradientResult,
    GraphResult,
    ProcrustesResult,
    ScalingResult,
    ShortcutResult,
    SpectrumResult,
)

from .kinds import Bars, Chart, Curve, Curves, Densities, Flow, Marks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from resnet_audit.results import Result

LEAST_SHARE = 0.0005


def charts_of(result: Result) -> tuple[Chart, ...]:
    """What there is to draw of one result; nothing where it has no value to show."""
    match result:
        case GraphResult():
            return tuple(_graph(result))
        case BoundResult():
            return tuple(_bound(result))
        case SpectrumResult():
            return tuple(_spectrum(result))
        case GradientResult():
            return tuple(_gradient(result))
        case EnsembleResult():
            return tuple(_ensemble(result))
        case ShortcutResult():
            return tuple(_shortcut(result))
        case ScalingResult():
            return tuple(_scaling(result))
        case ProcrustesResult():
            return ()


def _graph(result: GraphResult) -> Iterable[Chart]:
    if result.blocks:
        stages = (tuple(group) for _, group in itertools.groupby(result.blocks, key=lambda block: block.stage))
        yield Flow(
            title="residual blocks in the order of the data",
            note="below: the shortcut; above: the branch, a box a weight layer on its longest path; "
            "higher boxes: more channels; filled circle: the block changes shape",
            stages=tuple(stages),
        )


def _bound(result: BoundResult) -> Iterable[Chart]:
    patch = tuple(layer.share.patch if layer.share else None for layer in result.layers)
    operator = tuple(layer.share.operator if layer.share else None for layer in result.layers)
    if any(value is not None for value in (*patch, *operator)):
        yield Bars(
            title="shares of the covering number by layer",
            note="of R^(1/3), which adds up over the layers; certified covers",
            names=tuple(layer.name for layer in result.layers),
            series=(("patch cover", patch), ("operator cover", operator)),
            unit="share",
        )


def _spectrum(result: SpectrumResult) -> Iterable[Chart]:
    if any(layer.histogram for layer in result.layers):
        yield Densities(
            title="singular values by layer",
            note="density over log10 sigma, raw kernels, each row to its own peak; outliers in the ends; exact",
            names=tuple(layer.name for layer in result.layers),
            rows=tuple(layer.histogram for layer in result.layers),
        )
    if any(block.near_one is not None for block in result.blocks):
        yield Bars(
            title="share of singular values in 0.9 to 1.1 by block",
            note="of the block up to its sum, at the inputs; an estimate",
            names=tuple(block.name for block in result.blocks),
            series=(("near 1", tuple(block.near_one for block in result.blocks)),),
            unit="share",
        )


def _gradient(result: GradientResult) -> Iterable[Chart]:
    blocks = result.blocks
    if any(block.ratio for block in blocks):
        yield Marks(
            title="gradient-norm ratio by block",
            note="norm at the input over norm at the output; line: 5 to 95 % of the inputs; hollow: changes shape; "
            "exact on these inputs",
            names=tuple(block.name for block in blocks),
            values=tuple(block.ratio for block in blocks),
            low=tuple(block.p05 for block in blocks),
            high=tuple(block.p95 for block in blocks),
            hollow=tuple(block.transition or block.kind != "block" for block in blocks),
            what="ratio",
        )


def _ensemble(result: EnsembleResult) -> Iterable[Chart]:
    shares = result.distribution
    if shares is None:
        return
    predicted = result.predicted.distribution
    curves = [
        Curve(label="norm", values=shares.norm, look="bars"),
        Curve(label="energy", values=shares.energy, look="line"),
        Curve(label="projection", values=shares.projection, look="line"),
        Curve(label="predicted, energies", values=predicted.energy or (), look="dashed"),
        Curve(label="number of paths (binomial)", values=predicted.binomial or (), look="dashed"),
    ]
    depths = glyphs.rows_to_show(shares.norm, LEAST_SHARE)
    yield Curves(
        title="which depths of paths carry the gradient",
        note=f"shares by depth in {result.unit}; solid: exact on these inputs; dashed: predictions and counts",
        x=f"depth, {result.unit}",
        start=depths.start,
        curves=tuple(
            Curve(label=c.label, values=c.values[depths.start : depths.stop], look=c.look) for c in curves if c.values
        ),
    )


def _shortcut(result: ShortcutResult) -> Iterable[Chart]:
    if any(block.scale is not None for block in result.blocks):
        yield Bars(
            title="scale of every branch",
            note="mean |gamma|, |factor| or geometric mean norm of the layers; at 0 the branch is 0",
            names=tuple(block.name for block in result.blocks),
            series=(("scale", tuple(block.scale for block in result.blocks)),),
        )
    if result.zero_hessian:
        yield Bars(
            title="largest singular value of B by stage",
            note="the Hessian where every branch is zero; exact on these inputs",
            names=tuple(f"stage {stage.stage}: {stage.block}" for stage in result.zero_hessian),
            series=(("sigma max", tuple(stage.sigma_max for stage in result.zero_hessian)),),
        )
    if result.hessian is not None:
        top = result.hessian.top
        names = tuple(f"largest {place}" if place > 1 else "largest" for place in range(1, len(top) + 1))
        yield Bars(
            title="eigenvalues of the Hessian at the checkpoint",
            note=f"over {words.count(result.hessian.parameters, 'parameter')}; estimates with small residuals",
            names=(*names, "least"),
            series=(("lambda", (*top, result.hessian.lambda_min)),),
        )


def _scaling(result: ScalingResult) -> Iterable[Chart]:
    blocks = result.blocks
    if any(block.alpha for block in blocks):
        weights = tuple(block.alpha_weights for block in blocks)
        both = result.method == "measured" and any(value is not None for value in weights)
        yield Marks(
            title="branch over shortcut at every sum",
            note="alpha: "
            + ("exact on these inputs; cross: predicted from the weights" if both else f"from the {result.method}"),
            names=tuple(block.name for block in blocks),
            values=tuple(block.alpha for block in blocks),
            what="alpha",
            also=("from the weights", weights) if both else None,
        )
