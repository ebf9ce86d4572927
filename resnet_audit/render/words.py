"""Numbers and names as text: significant digits, hostile names made harmless, lines wrapped by words."""

from __future__ import annotations

import math
import unicodedata
from typing import TYPE_CHECKING

from rich.cells import cell_len

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

UNDEFINED = "-"
HIDDEN_CATEGORIES = {"Cc", "Cf", "Zl", "Zp"}


def clean(text: str, encoding: str) -> str:
    """`text` with everything escaped that would move the cursor, turn the reading order or not encode."""
    seen = "".join(
        char.encode("unicode_escape").decode() if unicodedata.category(char) in HIDDEN_CATEGORIES else char
        for char in text
    )
    return seen.encode(encoding, "backslashreplace").decode(encoding)


def number(value: float | None, digits: int = 4) -> str:
    """One number with `digits` significant digits, `-` if it is undefined."""
    if value is None:
        return UNDEFINED
    if not math.isfinite(value) or value == 0:
        return f"{value + 0.0:g}"
    if isinstance(value, int) and abs(value) < 10**9:
        return f"{value:,}"
    size = math.floor(math.log10(abs(value)))
    if size < -3 or size > digits + 1:
        return f"{value:.{digits - 2}e}"
    return f"{value:,.{max(0, digits - 1 - size)}f}"


def numbers(values: Sequence[float | None], digits: int = 4) -> tuple[str, ...]:
    """A column of numbers with one place for the decimal point, `digits` significant digits in the largest.

    A value that would keep fewer than two digits is written with an exponent instead.
    """
    sizes = [abs(value) for value in values if value is not None and math.isfinite(value) and value != 0]
    ordinary = [size for size in sizes if 1e-2 <= size < 1e5]
    if not ordinary:
        return tuple(UNDEFINED if value is None else _exponent(value) for value in values)
    top = max(ordinary)
    places = min(3 if top >= 0.1 else 4, max(0, digits - 1 - math.floor(math.log10(top))))
    least = 10.0 ** (1 - places)

    def one(value: float | None) -> str:
        if value is None:
            return UNDEFINED
        return f"{value:.{places}f}" if least <= abs(value) < 1e5 else _exponent(value)

    return tuple(one(value) for value in values)


def _exponent(value: float) -> str:
    """`value` with three significant digits and an exponent; zero and what is not finite as they are."""
    return f"{value + 0.0:g}" if value == 0 or not math.isfinite(value) else f"{value:.2e}"


def with_error(value: float, error: float, sign: str) -> str:
    """`value` and its error with two digits of the latter, as `0.79 ± 0.16`."""
    if error <= 1e-9 * abs(value):
        error = 0.0  # rounding
    if not error > 0 or not math.isfinite(value) or not math.isfinite(error):
        return f"{number(value, 3)} {sign} {number(error, 2)}"
    places = 1 - math.floor(math.log10(error))
    if places > 5 or places < -3:
        return f"{value:.1e} {sign} {error:.1e}"
    return f"{value:.{max(0, places)}f} {sign} {error:.{max(0, places)}f}"


def log10(value: float | None) -> str:
    """A log10 with two decimals, `-` if it is undefined."""
    return UNDEFINED if value is None else f"{value:.2f}"


def power(value: float | None) -> str:
    """10^x for a log10 of x, `-` if it is undefined."""
    return UNDEFINED if value is None else f"10^{value:.2f}"


def share(value: float | None) -> str:
    """A share in percent with one decimal, `-` if it is undefined."""
    return UNDEFINED if value is None else f"{100 * value + 0.0:.1f} %"


def interval(pair: tuple[float, float] | None) -> str:
    """An interval as `[low, high]`, `-` if it is undefined."""
    return UNDEFINED if pair is None else f"[{number(pair[0], 3)}, {number(pair[1], 3)}]"


def shape(sizes: Iterable[int] | None) -> str:
    """A shape as 16x32x32, `-` if it is unknown."""
    return UNDEFINED if sizes is None else "x".join(str(size) for size in sizes) or UNDEFINED


def count(amount: int, noun: str) -> str:
    """An amount with its noun, in the plural unless it is one."""
    return f"{amount:,} {noun}" if amount == 1 else f"{amount:,} {noun}s"


def listed(names: Sequence[str], most: int = 12) -> str:
    """The names with commas; past `most`, how many more there are and where they stand."""
    if not names:
        return "none"
    head = ", ".join(names[:most])
    more = len(names) - most
    return head if more <= 0 else f"{head} and {more:,} more (all with --format json)"


def wrap(text: str, width: int, hang: int = 0) -> list[str]:
    """`text` in lines of at most `width` cells, broken between words only; later lines are indented by `hang`."""
    lines: list[str] = []
    line = text[: len(text) - len(text.lstrip(" "))]
    for word in text.split():
        tried = f"{line} {word}" if line.strip() else line + word
        if line.strip() and cell_len(tried) > width:
            lines.append(line)
            line = " " * hang + word
        else:
            line = tried
    return [*lines, line]
