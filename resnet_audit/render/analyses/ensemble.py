"""The ensemble: which depths of paths carry the gradient, as a histogram."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from resnet_audit.render import glyphs, words
from resnet_audit.render.fit import Column
from resnet_audit.render.parts import Line, Look, Part, Table, bar, inputs_lines, optional

if TYPE_CHECKING:
    from collections.abc import Iterator

    from resnet_audit.results import Distribution, EnsembleResult, SpinGlass

BAR = 40
LEAST_SHARE = 0.0005
"""Shares below this print as 0.0 %; depths outside the others are not worth a row."""
MISSING_WARNING = 0.05
"""Missing mass from which a truncated distribution says too little."""


def ensemble_parts(result: EnsembleResult, look: Look) -> list[Part]:
    """The histogram of norm shares, its location, what others would say, the inputs, and the gains of the blocks."""
    parts: list[Part] = []
    if result.distribution is None and result.projection_mean is None:
        parts.append(Line("no distribution over depth: the notes say why", "warning"))
    elif result.distribution is not None:
        parts.append(_histogram(result.distribution, look))
    parts += _summary(result)
    parts += inputs_lines(result.objective, result.inputs)
    others = tuple(_others(result))
    if others:
        parts.append(_comparison(others))
    parts += _spin_glass(result.spin_glass)
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
    depths = len(result.distribution.norm) - 1 if result.distribution else 0
    truncated = result.missing_mass is not None and result.projection_mean is None
    total = "" if truncated else f" of {depths}"
    which = f"mean of depths up to {depths}" if truncated else "mean"
    if result.depth_mean is not None:
        window = optional(
            [("mode", words.number(result.depth_mode))]
            + (
                [("5-95 % on depths", f"{result.depth_p05}-{result.depth_p95}")] if result.depth_p95 is not None else []
            ),
            ", ",
        )
        text = f"effective depth {words.number(result.depth_mean, 3)}{total} {result.unit} ({which})"
        parts.append(Line(f"{text}, {window}" if window else text, "strong"))
    parts.append(
        Line(
            "exact on these inputs: the parts of all depths add up to the gradient within "
            f"{result.identity_residual:.1e} (identity residual); an estimate for other inputs"
        )
    )
    if result.missing_mass is not None:
        text = f"missing mass {result.missing_mass:.1e}: what lies deeper, by norm, relative to the gradient"
        parts.append(Line(text, "warning" if result.missing_mass > MISSING_WARNING else "plain"))
    level: Literal["plain", "strong"] = "plain" if result.distribution else "strong"
    pairs = [
        ("projection mean", words.number(result.projection_mean, 3)),
        ("sd", words.number(result.projection_sd, 3)),
        ("cancellation", words.number(result.cancellation, 3)),
    ]
    more = optional(pairs)
    if more:
        told = f"{more} (1: depths add up, 0: they cancel)" if result.cancellation is not None else more
        parts.append(Line(told, level))
    return parts


def _others(result: EnsembleResult) -> Iterator[tuple[str, float, str]]:
    """Mean depths by other accounts: whose, the number, and what it is."""
    if result.veit is not None:
        name = "paths x mean norm (Veit)" if result.unit == "blocks" else "paths x norm (Veit), blocks"
        error = words.number(result.veit.standard_error, 2)
        yield name, result.veit.mean, f"estimate, +- {error}, {result.veit.paths} paths a depth"
    if result.incoherent is not None:
        status = f"estimate, +- {words.number(result.incoherent.standard_error, 2)}, {result.incoherent.draws} draws"
        yield "without interference", result.incoherent.mean, status
    predicted = result.predicted
    for name, mean in (("energies", predicted.energy), ("amplitudes", predicted.amplitude)):
        if mean is not None:
            yield f"{name} of random cotangents", mean, "prediction from the weights"
    if predicted.binomial is not None:
        yield "number of paths (binomial)", predicted.binomial, "count"


def _comparison(rows: tuple[tuple[str, float, str], ...]) -> Table:
    names, means, status = zip(*rows, strict=True)
    columns = (
        Column(header="depth by other accounts", cells=names, priority=0, align="left"),
        Column(header="mean", cells=words.numbers(means, 3), priority=0),
        Column(header="what it is", cells=status, priority=1, align="left"),
    )
    return Table(columns=columns)


def _spin_glass(model: SpinGlass) -> list[Part]:
    if model.mode is None:
        return []
    numbers = [("mode", words.number(model.mode)), ("mean", words.number(model.mean, 3))]
    text = f"spin glass with these gains (a model): {optional(numbers, ', ')} of {len(model.beta) + 1} layers"
    return [Line(f"{text}; {optional([('complexity theta', words.number(model.theta, 3))])}".removesuffix("; "))]


def _gains(result: EnsembleResult, look: Look) -> Table:
    blocks = result.blocks
    columns = (
        Column(header="block", cells=tuple(b.name for b in blocks), priority=0, align="left"),
        Column(header="branch gain", cells=words.numbers([b.branch_gain for b in blocks]), priority=1),
        Column(header="skip gain", cells=words.numbers([b.skip_gain for b in blocks]), priority=2),
    )
    return Table(columns=columns, caption=look.filter)
