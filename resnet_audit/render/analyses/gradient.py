"""The gradient: how much every block multiplies the norm of the gradient, on an axis around one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from resnet_audit.render import glyphs, words
from resnet_audit.render.fit import Column
from resnet_audit.render.parts import Line, Look, Part, Table, bar, inputs_lines, optional

if TYPE_CHECKING:
    from resnet_audit.results import GradientBlock, GradientResult

HALF = 14
FAR = 2.0


def gradient_parts(result: GradientResult, look: Look) -> list[Part]:
    """A row per block, the totals, the inputs, and what kind of number each is."""
    parts: list[Part] = []
    if result.blocks:
        parts.append(Table(columns=_ratios(result.blocks, look) + _causes(result.blocks), caption=look.filter))
    else:
        parts.append(Line(f"no block to show {look.filter}".rstrip()))
    return parts + _summary(result)


def _ratios(blocks: tuple[GradientBlock, ...], look: Look) -> tuple[Column, ...]:
    """Columns of the ratio itself and of its spread over samples."""
    return (
        Column(header="block", cells=tuple(b.name for b in blocks), priority=0, align="left"),
        Column(
            header="kind",
            cells=tuple("transition" if b.transition and b.kind == "block" else b.kind for b in blocks),
            priority=4,
            align="left",
        ),
        Column(header="ratio", cells=words.numbers([b.ratio for b in blocks]), priority=1),
        Column(
            header=glyphs.axis(HALF, ascii_only=look.ascii_only),
            cells=tuple(
                bar(
                    glyphs.diverging_bar(b.ratio, HALF, ascii_only=look.ascii_only),
                    "red" if b.ratio is not None and not 1 / FAR <= b.ratio <= FAR else "cyan",
                )
                for b in blocks
            ),
            priority=2,
            align="left",
        ),
        Column(header="5 %", cells=words.numbers([b.p05 for b in blocks]), priority=3),
        Column(header="50 %", cells=words.numbers([b.p50 for b in blocks]), priority=10),
        Column(header="95 %", cells=words.numbers([b.p95 for b in blocks]), priority=3),
        Column(header="random", cells=words.numbers([b.ratio_rms for b in blocks]), priority=7),
    )


def _causes(blocks: tuple[GradientBlock, ...]) -> tuple[Column, ...]:
    """Columns of the factors of the ratio and of its certificates."""
    return (
        Column(header="branch", cells=words.numbers([b.branch_gain for b in blocks]), priority=5),
        Column(header="skip", cells=words.numbers([b.skip_gain for b in blocks]), priority=5),
        Column(header="cosine", cells=words.numbers([b.cosine for b in blocks], 3), priority=8),
        Column(header="mask", cells=words.numbers([b.mask_factor for b in blocks]), priority=9),
        Column(header="residual", cells=words.numbers([b.residual_factor for b in blocks]), priority=11),
        Column(header="at most", cells=words.numbers([b.upper for b in blocks]), priority=6),
        Column(header="within", cells=tuple(words.interval(b.interval) for b in blocks), priority=8),
    )


def _summary(result: GradientResult) -> list[Part]:
    totals = optional(
        [
            ("median ratio", words.number(result.ratio_median)),
            ("c_hat", words.number(result.c_hat, 3)),
        ],
        ", ",
    )
    parts: list[Part] = []
    if totals:
        parts.append(Line(f"{totals}, over the blocks that are no transition", "strong"))
    others = optional(
        [
            ("product of all rows", words.number(result.ratio_product)),
            (f"worst{_worst(result)}: off 1 by a factor", words.number(result.ratio_worst)),
        ]
    )
    if others:
        parts.append(Line(others))
    if result.telescoping_residual is not None:
        parts.append(
            Line(
                "telescoping: the product gives the norm of torch's own gradient at the first block within "
                f"{result.telescoping_residual:.1e}"
            )
        )
    parts += inputs_lines(result.objective, result.inputs)
    parts.append(
        Line(
            "ratio: gradient norm at the input over that at the output of a block; exact on these inputs, an estimate "
            "for others; at most, within: certified, loose (for every input, from the weights alone); random: with a "
            "random cotangent",
            "dim",
        )
    )
    return parts


def _worst(result: GradientResult) -> str:
    """The name of the block with the worst ratio, with a blank before it; nothing if its row was filtered out."""
    if result.ratio_worst is None:
        return ""
    for block in result.blocks:
        if block.kind == "block" and block.ratio and block.ratio > 0:
            factor = max(block.ratio, 1 / block.ratio)
            if math.isclose(factor, result.ratio_worst, rel_tol=1e-9):
                return f" {block.name}"
    return ""
