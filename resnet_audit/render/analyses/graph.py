"""The graph: its blocks as rows, then where every other tensor is and what was assumed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resnet_audit.render import words
from resnet_audit.render.fit import Column
from resnet_audit.render.parts import Line, Look, Part, Table

if TYPE_CHECKING:
    from resnet_audit.results import GraphResult

EVIDENCE = "evidence shape: a guess from repeated shapes, neither seen in a graph nor told by the names"


def graph_parts(result: GraphResult, look: Look) -> list[Part]:
    """The blocks, the places of the weights outside blocks, and the assumptions."""
    parts: list[Part] = []
    if result.blocks:
        parts.append(_blocks(result, look))
    else:
        parts.append(Line("no residual block was found; bound and spectrum need none"))
    parts += _places(result)
    if any(block.evidence == "shape" for block in result.blocks):
        parts.append(Line(EVIDENCE, "dim"))
    if result.assumptions:
        parts.append(Line("assumptions:"))
        parts += [Line(f"  - {text}", hang=4) for text in result.assumptions]
    else:
        parts.append(Line("assumptions: none"))
    return parts


def _blocks(result: GraphResult, look: Look) -> Table:
    blocks = result.blocks
    columns = (
        Column(header="block", cells=tuple(b.name for b in blocks), priority=0, align="left"),
        Column(header="skip", cells=tuple(b.skip for b in blocks), priority=1, align="left"),
        Column(header="weights", cells=tuple(str(b.weight_layers) for b in blocks), priority=2),
        Column(header="in", cells=tuple(words.shape(b.input_shape) for b in blocks), priority=3, align="left"),
        Column(header="out", cells=tuple(words.shape(b.output_shape) for b in blocks), priority=4, align="left"),
        Column(header="evidence", cells=tuple(b.evidence for b in blocks), priority=3, align="left"),
        Column(
            header="transition",
            cells=tuple("yes" if b.transition else "no" for b in blocks),
            priority=6,
            align="left",
        ),
        Column(header="stage", cells=tuple(str(b.stage) for b in blocks), priority=5),
        Column(header="branch", cells=tuple(_inside(b.name, b.layers) for b in blocks), priority=7, align="left"),
        Column(
            header="shortcut", cells=tuple(_inside(b.name, b.skip_layers) for b in blocks), priority=8, align="left"
        ),
    )
    caption = "weights: weight layers on the longest path of the branch"
    if look.filter:
        caption = f"{caption}; {len(blocks)} of {result.block_count} blocks, {look.filter}"
    return Table(columns=columns, caption=caption)


def _inside(block: str, layers: tuple[str, ...]) -> str:
    """The layers of a block without the name of the block."""
    return " ".join(name.removeprefix(f"{block}.") for name in layers) or words.UNDEFINED


def _places(result: GraphResult) -> list[Part]:
    source = f"source: {result.source}; family: {result.family or 'not recognised'}"
    runs = "yes" if result.runnable else f"no, {result.runnable_reason or 'the reason is not known'}"
    parts: list[Part] = [
        Line(source),
        Line(f"runnable: {runs}", "plain" if result.runnable else "warning"),
        Line(f"stem: {words.listed(result.stem)}"),
        Line(f"between blocks: {words.listed(result.between)}"),
        Line(f"head: {words.listed(result.head)}"),
        Line(
            f"unplaced: {words.listed(result.unplaced)}",
            "warning" if result.unplaced_count else "plain",
        ),
    ]
    if result.nonfinite_count:
        parts.append(Line(f"warning: {words.count(result.nonfinite_count, 'weight')} not finite", "warning"))
    if result.dangerous_globals_count:
        found = words.listed(result.dangerous_globals)
        parts.append(Line(f"warning: the pickle names dangerous globals (nothing was run): {found}", "warning"))
    return parts
