"""Bars and sparklines as text: pure functions of numbers, each with an ASCII form.

Per-layer bars are thin, so that the bars of neighbouring rows do not merge; a histogram wants them to merge and uses
full blocks. Every function is monotone in its value and never longer than its width. An undefined number draws no bar.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

EIGHTHS = " ▏▎▍▌▋▊▉█"
LEVELS = "·▁▂▃▄▅▆▇"  # no full block: the peaks of neighbouring rows would merge
ASCII_LEVELS = " _:-=+*#"  # no full stop: a row of them reads as an ellipsis


def _steps(value: float | None, top: float, count: int) -> int:
    """How many of `count` steps `value` fills on the axis 0 to `top`; a positive value fills at least one."""
    if value is None or not value > 0 or not top > 0:
        return 0
    if value >= top:
        return count
    return max(1, round(value / top * count))


def thin_bar(value: float | None, top: float, width: int, *, ascii_only: bool = False) -> str:
    """A thin bar from the left, in half steps, on the axis 0 to `top`."""
    full, half = divmod(_steps(value, top, 2 * width), 2)
    return ("=" * full + "-" * half) if ascii_only else ("━" * full + "╸" * half)


def block_bar(value: float | None, top: float, width: int, *, ascii_only: bool = False) -> str:
    """A solid bar from the left, in eighths (in whole characters as ASCII), on the axis 0 to `top`."""
    if ascii_only:
        return "#" * _steps(value, top, width)
    full, rest = divmod(_steps(value, top, 8 * width), 8)
    return EIGHTHS[8] * full + (EIGHTHS[rest] if rest else "")


def diverging_bar(ratio: float | None, half: int, octaves: float = 2.0, *, ascii_only: bool = False) -> str:
    """A bar of 2 `half` + 1 characters that grows from a centre rule: left below 1, right above 1, log2 axis.

    The axis ends at 2**-octaves and 2**octaves; what lies beyond ends in an arrow.
    """
    rule = "|" if ascii_only else "│"
    value = math.log2(ratio) if ratio is not None and 0 < ratio < math.inf else 0.0
    if ratio is not None and ratio in (0.0, math.inf):
        value = math.copysign(math.inf, ratio - 1.0)
    bar = thin_bar(abs(value), octaves, half, ascii_only=ascii_only)
    beyond = abs(value) > octaves
    if value >= 0:
        arrow = ">" if ascii_only else "▸"
        right = bar[: half - 1] + arrow if beyond else bar
        return " " * half + rule + right.ljust(half)
    arrow = "<" if ascii_only else "◂"
    left = bar[::-1].replace("╸", "╺")
    left = arrow + left[1:] if beyond else left
    return left.rjust(half) + rule + " " * half


def axis(half: int, octaves: int = 2, *, ascii_only: bool = False) -> str:
    """The labels of a diverging bar's axis, a power of two above each of its ticks."""
    fractions = {-1: "½", -2: "¼", -3: "⅛"}
    line = [" "] * (2 * half + 1)
    for power in range(-octaves, octaves + 1):
        label = str(2**power) if power >= 0 else f"1/{2**-power}"
        if power < 0 and not ascii_only:
            label = fractions.get(power, label)
        at = half + round(power / octaves * half)
        at = min(at, len(line) - len(label))
        line[at : at + len(label)] = label
    return "".join(line)


def spark(shares: Sequence[float], *, merge: int = 1, ascii_only: bool = False) -> str:
    """One character for every `merge` shares, its height relative to the largest; exact zeros are a dot (or blank)."""
    ramp = ASCII_LEVELS if ascii_only else LEVELS
    groups = [math.fsum(shares[at : at + merge]) for at in range(0, len(shares), merge)]
    finite = [group for group in groups if math.isfinite(group)]
    top = max(finite, default=0.0)
    return "".join(ramp[_steps(group if math.isfinite(group) else None, top, len(ramp) - 1)] for group in groups)


def course_spark(values: Sequence[float | None], *, merge: int = 1, ascii_only: bool = False) -> str:
    """One character for every `merge` values, their mean: from the lowest of all to the highest; none if all miss.

    Means that are all the same lie in the middle.
    """
    ramp = ASCII_LEVELS if ascii_only else LEVELS
    groups = [_mean(values[at : at + merge]) for at in range(0, len(values), merge)]
    known = [group for group in groups if group is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    top = len(ramp) - 1

    def level(group: float | None) -> int:
        if group is None:
            return 0
        return 1 + round((group - low) / (high - low) * (top - 1)) if high > low else len(ramp) // 2

    return "".join(ramp[level(group)] for group in groups)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return math.fsum(known) / len(known) if known else None


def ratio_spark(ratios: Sequence[float | None], *, merge: int = 1, ascii_only: bool = False) -> str:
    """One character for every `merge` ratios, of the one farthest from 1, on a log2 axis from 1/2 to 2."""
    ramp = ASCII_LEVELS if ascii_only else LEVELS
    middle = len(ramp) // 2

    def octaves(ratio: float | None) -> float:
        if ratio is None or not ratio >= 0:
            return math.nan
        return math.log2(ratio) if 0 < ratio < math.inf else math.copysign(math.inf, ratio - 1.0)

    def level(group: Sequence[float | None]) -> int:
        known = [value for ratio in group if not math.isnan(value := octaves(ratio))]
        if not known:
            return 0
        return middle + round((middle - 1) * max(-1.0, min(1.0, max(known, key=abs))))

    return "".join(ramp[level(ratios[at : at + merge])] for at in range(0, len(ratios), merge))


def ratio_marks(*, ascii_only: bool = False) -> tuple[str, str, str, str]:
    """The characters of `ratio_spark` for 1/2, 1, 2 and no ratio."""
    low, one, high = (ratio_spark([ratio], ascii_only=ascii_only) for ratio in (0.5, 1.0, 2.0))
    return low, one, high, "blank" if ascii_only else ratio_spark([None])


def rows_to_show(shares: Sequence[float], least: float) -> range:
    """The indices from the first to the last share of at least `least`; all of them if none is."""
    large = [index for index, share in enumerate(shares) if share >= least]
    return range(large[0], large[-1] + 1) if large else range(len(shares))
