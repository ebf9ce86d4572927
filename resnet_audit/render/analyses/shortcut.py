"""The shortcut: how much each bypasses, how curved the loss is where all branches vanish, and where they are now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resnet_audit.render import words
from resnet_audit.render.fit import Column
from resnet_audit.render.parts import Line, Look, Part, Table, inputs_lines

if TYPE_CHECKING:
    from resnet_audit.results import MeasuredHessian, ShortcutBlock, ShortcutResult, ZeroHessian

TARGETS = {"labels": "to the labels", "prediction": "to the prediction"}


def shortcut_parts(result: ShortcutResult, look: Look) -> list[Part]:
    """A row per block, the depths, a row per stage at the zero point, and the measured Hessian if there is one."""
    parts: list[Part] = []
    if result.blocks:
        parts.append(Table(columns=_blocks(result.blocks), caption=look.filter))
    else:
        parts.append(Line(f"no block to show {look.filter}".rstrip()))
    parts.append(Line(f"shortcut depth: {_depths(result)}", "strong"))
    parts.append(
        Line("scale: mean |gamma|, |factor| or geometric mean norm of the layers; at 0 the branch is 0", "dim")
    )
    if result.zero_hessian:
        parts += [
            Table(
                columns=_stages(result.zero_hessian), caption="the Hessian where every branch is zero, a row a stage"
            ),
            Line(
                "B: gradient at the sum times input of the branch; the Hessian has +-sigma, once a hidden channel; "
                "norms and activations inside the branch are left out; exact on these inputs",
                "dim",
            ),
        ]
    if result.hessian is not None:
        parts += _measured(result.hessian, look)
    if result.inputs is not None:
        objective, *inputs = inputs_lines("ce", result.inputs)
        target = TARGETS.get(result.target or "", "")
        parts += [Line(f"{objective.text} {target}".rstrip()), *inputs]
    return parts


def _depths(result: ShortcutResult) -> str:
    """`2 in 8 of 9 blocks, 3 in 1`."""
    total = sum(result.depths.values())
    first, *others = (f"{depth} in {count}" for depth, count in result.depths.items())
    return ", ".join([f"{first} of {words.count(total, 'block')}", *others])


def _blocks(blocks: tuple[ShortcutBlock, ...]) -> tuple[Column, ...]:
    def text(values: list[str | None]) -> tuple[str, ...]:
        return tuple(words.UNDEFINED if value is None else value for value in values)

    return (
        Column(header="block", cells=tuple(b.name for b in blocks), priority=0, align="left"),
        Column(header="depth", cells=tuple(str(b.depth) for b in blocks), priority=1),
        Column(header="shortest", cells=tuple(words.number(b.depth_min) for b in blocks), priority=5),
        Column(header="skip", cells=tuple(b.skip for b in blocks), priority=3, align="left"),
        Column(header="zero at", cells=text([b.zero_point for b in blocks]), priority=4, align="left"),
        Column(header="scale", cells=words.numbers([b.scale for b in blocks]), priority=2),
        Column(header="level", cells=tuple(b.level for b in blocks), priority=1, align="left"),
    )


def _stages(stages: tuple[ZeroHessian, ...]) -> tuple[Column, ...]:
    return (
        Column(header="stage", cells=tuple(str(s.stage) for s in stages), priority=0),
        Column(header="block", cells=tuple(s.block for s in stages), priority=2, align="left"),
        Column(header="B", cells=tuple(words.shape((s.rows, s.columns)) for s in stages), priority=3),
        Column(header="sigma max", cells=words.numbers([s.sigma_max for s in stages]), priority=1),
        Column(header="rank", cells=tuple(str(s.rank) for s in stages), priority=1),
        Column(header="condition", cells=tuple(words.number(s.condition, 3) for s in stages), priority=1),
        Column(header="tolerance", cells=tuple(words.number(s.tolerance, 3) for s in stages), priority=4),
    )


def _measured(hessian: MeasuredHessian, look: Look) -> list[Part]:
    sign = "+-" if look.ascii_only else "±"
    density = hessian.density
    values = [*hessian.top, hessian.lambda_min]
    names = [f"largest {index}" if index > 1 else "largest" for index in range(1, len(hessian.top) + 1)]
    over = f"blocks {words.listed(hessian.blocks)}" if hessian.blocks else "the whole network"
    ratio = abs(hessian.lambda_min / hessian.lambda_max) if hessian.lambda_max else None
    above, below = (
        f"{glyph} {words.with_error(100 * part, 100 * error, sign)} %"
        for glyph, part, error in (
            ("above", density.above, density.above_error),
            ("below", density.below, density.below_error),
        )
    )
    return [
        Table(
            columns=(
                Column(header="eigenvalue", cells=(*names, "least"), priority=0, align="left"),
                Column(header="lambda", cells=tuple(map(words.number, values)), priority=0),
                Column(
                    header="residual",
                    cells=tuple(words.number(r, 2) for r in (*hessian.residuals, hessian.lambda_min_residual)),
                    priority=1,
                ),
            ),
            caption=f"the Hessian at the checkpoint, over {words.count(hessian.parameters, 'parameter')} of {over}",
        ),
        Line(
            f"trace {words.with_error(hessian.trace, hessian.trace_se, sign)}; "
            f"|least / largest| {words.number(ratio, 3)}; {words.count(hessian.matvecs, 'product')}",
            "strong",
        ),
        Line(f"eigenvalues beyond {words.number(density.tolerance, 3)}: {above}, {below}; the rest is near 0"),
        Line(
            "estimates with residuals (over the largest |lambda|) or errors; there is no condition number "
            "here: the least |lambda| is about 0",
            "dim",
        ),
    ]
