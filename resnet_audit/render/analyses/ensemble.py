"""The ensemble: which depths of paths carry the gradient, as a histogram."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resnet_audit.render import glyphs, words
from resnet_audit.render.fit import Column
from resnet_audit.render.parts import Line, Look, Part, Table, bar, inputs_lines, optional

if TYPE_CHECKING:
    from resnet_audit.results import Distribution, EnsembleResult

BAR = 40
LEAST_SHARE = 0.0005
"""Shares below this print as 0.0 %; depths outside the others are not worth a row."""


def ensemble_parts(result: EnsembleResult, look: Look) -> list[Part]:
    """The histogram of norm shares, its location, the inputs, and the gains of the blocks."""
    parts: list[Part] = []
    if result.distribution is None:
        parts.append(Line("no distribution over depth: the notes say why", "warning"))
    else:
        parts.append(_histogram(result.distribution, look))
    parts += _summary(result)
    parts += inputs_lines(result.objective, result.inputs)
    if any(b.branch_gain is not None or b.skip_gain is not None for b in result.blocks):
        parts.append(_gains(result, look))
    return parts


def _histogram(distribution: Distribution, look: Look) -> Table:
    shares = distribution.norm
    depths = glyphs.rows_to_show(shares, LEAST_SHARE)
    top = max((shares[depth] for depth in depths), default=0.0)
    bars = [glyphs.block_bar(shares[depth], top, BAR, ascii_only=look.ascii_only) for depth in depths]
    columns = (
        Column(header="depth", cells=tuple(str(depth) for depth in depths), priority=0),
        Column(header="share", cells=tuple(words.share(shares[depth]) for depth in depths), priority=1),
        Column(
            header="of the gradient norm", cells=tuple(bar(text.ljust(BAR)) for text in bars), priority=2, align="left"
        ),
        Column(header="energy", cells=tuple(words.share(_at(distribution.energy, d)) for d in depths), priority=3),
        Column(
            header="projection", cells=tuple(words.share(_at(distribution.projection, d)) for d in depths), priority=4
        ),
    )
    left_out = len(shares) - len(depths)
    caption = f"{words.count(left_out, 'depth')} with a share below 0.05 % at the ends left out" if left_out else ""
    return Table(columns=columns, caption=caption)


def _at(shares: tuple[float, ...], depth: int) -> float | None:
    return shares[depth] if depth < len(shares) else None


def _summary(result: EnsembleResult) -> list[Part]:
    parts: list[Part] = []
    total = f" of {len(result.distribution.norm) - 1}" if result.distribution else ""
    if result.depth_mean is not None:
        window = optional(
            [("mode", words.number(result.depth_mode))]
            + (
                [("5-95 % on depths", f"{result.depth_p05}-{result.depth_p95}")] if result.depth_p95 is not None else []
            ),
            ", ",
        )
        text = f"effective depth {words.number(result.depth_mean, 3)}{total} {result.unit} (mean)"
        parts.append(Line(f"{text}, {window}" if window else text, "strong"))
    parts.append(
        Line(
            "exact on these inputs: the parts of all depths add up to the gradient within "
            f"{result.identity_residual:.1e} (identity residual); an estimate for other inputs"
        )
    )
    more = optional(
        [
            ("projection mean", words.number(result.projection_mean, 3)),
            ("cancellation", words.number(result.cancellation, 3)),
        ]
    )
    if more:
        parts.append(Line(f"{more} (1: depths add up, 0: they cancel)" if result.cancellation is not None else more))
    return parts


def _gains(result: EnsembleResult, look: Look) -> Table:
    blocks = result.blocks
    columns = (
        Column(header="block", cells=tuple(b.name for b in blocks), priority=0, align="left"),
        Column(header="branch gain", cells=words.numbers([b.branch_gain for b in blocks]), priority=1),
        Column(header="skip gain", cells=words.numbers([b.skip_gain for b in blocks]), priority=2),
    )
    return Table(columns=columns, caption=look.filter)
