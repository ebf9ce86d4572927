"""The remedy: every projected layer before and after, and what the network makes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resnet_audit.render import words
from resnet_audit.render.fit import Column
from resnet_audit.render.parts import Line, Part, Table, inputs_lines

if TYPE_CHECKING:
    from resnet_audit.results import IsometryNumbers, ProcrustesBlock, ProcrustesLayer, ProcrustesResult

RULES = {
    "auto": "auto, sqrt(c_o / rank): a random gradient keeps its norm on average",
    "rms": "rms, the root mean square of the layer's own singular values",
}


def procrustes_parts(result: ProcrustesResult) -> list[Part]:
    """A row a layer, a row a block whose gradient was measured, the accuracy, and what was written where."""
    target = result.target
    rule = RULES[target] if isinstance(target, str) else words.number(target)
    steps = words.count(result.iterations, "iteration")
    parts: list[Part] = [
        Table(columns=_layers(result.layers)),
        Line(f"target: {rule}; {steps} at most; raw kernels, circular grid"),
    ]
    if result.blocks:
        parts.append(Table(columns=_blocks(result.blocks)))
    if result.objective is not None and result.inputs is not None:
        parts += inputs_lines(result.objective, result.inputs)
    if result.accuracy is not None:
        before, after = words.share(result.accuracy.before), words.share(result.accuracy.after)
        inputs = words.count(result.accuracy.n, "labelled input")
        parts.append(Line(f"accuracy {before} before, {after} after, on {inputs}", "strong"))
    parts.append(Line(f"written: {result.output}", "strong"))
    parts.append(
        Line(
            "sigma: smallest and largest singular value; off: mean of |sigma / target - 1|; change: of the kernel, "
            "relative to its norm; gain: of the norm of a random gradient; random: ratio with a random cotangent",
            "dim",
        )
    )
    return parts


def _layers(layers: tuple[ProcrustesLayer, ...]) -> tuple[Column, ...]:
    before, after = [layer.before for layer in layers], [layer.after for layer in layers]
    return (
        Column(header="layer", cells=tuple(layer.name for layer in layers), priority=0, align="left"),
        Column(header="kernel", cells=tuple(words.shape(layer.shape) for layer in layers), priority=7, align="left"),
        Column(header="grid", cells=tuple(words.shape(layer.grid) for layer in layers), priority=9, align="left"),
        Column(header="target", cells=words.numbers([layer.target for layer in layers]), priority=4),
        Column(header="sigma before", cells=tuple(map(_range, before)), priority=2),
        Column(header="sigma after", cells=tuple(map(_range, after)), priority=2),
        Column(header="off before", cells=words.numbers([n.mean_deviation for n in before]), priority=1),
        Column(header="off after", cells=words.numbers([n.mean_deviation for n in after]), priority=1),
        Column(header="change", cells=words.numbers([layer.kernel_change for layer in layers]), priority=3),
        Column(header="gain before", cells=words.numbers([n.gain for n in before]), priority=6),
        Column(header="gain after", cells=words.numbers([n.gain for n in after]), priority=6),
        Column(header="within 10 %", cells=tuple(words.share(n.near_target) for n in after), priority=8),
    )


def _blocks(blocks: tuple[ProcrustesBlock, ...]) -> tuple[Column, ...]:
    return (
        Column(header="block", cells=tuple(block.name for block in blocks), priority=0, align="left"),
        Column(header="gradient ratio before", cells=words.numbers([b.before.ratio for b in blocks]), priority=1),
        Column(header="after", cells=words.numbers([b.after.ratio for b in blocks]), priority=1),
        Column(header="random before", cells=words.numbers([b.before.ratio_rms for b in blocks]), priority=2),
        Column(header="random after", cells=words.numbers([b.after.ratio_rms for b in blocks]), priority=2),
    )


def _range(numbers: IsometryNumbers) -> str:
    return f"{words.number(numbers.sigma_min, 3)} .. {words.number(numbers.sigma_max, 3)}"
