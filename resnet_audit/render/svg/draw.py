"""Elements of SVG as text, and axes: what every chart of the page is put together from.

Colours and fonts are classes of the page's style sheet, so that a chart follows the theme; there is no style here.
"""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

from resnet_audit.render import words

if TYPE_CHECKING:
    from collections.abc import Iterable

WIDTH = 340
"""Units of a chart's width: at this size its letters are readable on a phone, and it fits one."""
LETTER = 6.1
"""Units of one letter of a label in the font of the page."""

Value = str | float | None


def number(value: float) -> str:
    """A coordinate with at most two decimals, the same on every machine."""
    return f"{round(value, 2) + 0.0:.2f}".rstrip("0").rstrip(".")


def tag(name: str, *inside: str, **attributes: Value) -> str:
    """One element. `inside` is markup already; attributes are text, a trailing `_` of their name is dropped."""
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{number(value) if isinstance(value, (int, float)) else safe(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{told}>{''.join(inside)}</{name}>"


def safe(text: str) -> str:
    """Text as markup: escaped, and without characters that move or turn what is around them."""
    return escape(words.clean(text, "utf-8"))


def text(x: float, y: float, content: str, class_: str = "t", *, anchor: str | None = None, room: float = 0) -> str:
    """A label; wider than `room` units (0: any) it is squeezed into them, never cut."""
    shown = words.clean(content, "utf-8")
    squeezed = room > 0 and len(shown) * LETTER > room
    return tag(
        "text",
        escape(shown),
        x=x,
        y=y,
        class_=class_,
        text_anchor=anchor,
        textLength=room if squeezed else None,
        lengthAdjust="spacingAndGlyphs" if squeezed else None,
    )


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    """A straight line."""
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def rect(x: float, y: float, width: float, height: float, class_: str) -> str:
    """A rectangle; what has a value can be seen."""
    return tag("rect", x=x, y=y, width=max(width, 0.5), height=height, class_=class_)


def hint(content: str) -> str:
    """What a pointer that rests on the element is told."""
    return tag("title", safe(content))


def path(points: Iterable[tuple[float, float] | None], class_: str) -> str:
    """A line through points; None is a gap."""
    told, pen = [], "M"
    for point in points:
        if point is None:
            pen = "M"
            continue
        told.append(f"{pen}{number(point[0])} {number(point[1])}")
        pen = "L"
    return tag("path", d=" ".join(told), class_=class_)


def picture(width: float, height: float, label: str, parts: Iterable[str], class_: str = "chart") -> str:
    """The whole chart; it takes the width that the page gives it."""
    box = f"0 0 {number(width)} {number(height)}"
    return tag("svg", *parts, viewBox=box, class_=class_, role="img", aria_label=label)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers from `low` to `high`, at most `most` + 1 of them, in steps of 1, 2 or 5 times a power of ten."""
    span = high - low
    # Below the smallest normal number a step would round to nothing.
    if not span > 1e-300 or not math.isfinite(span):
        return [low]
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(power * factor for factor in (1, 2, 5, 10, 20) if span / (power * factor) <= most)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def tick_label(value: float) -> str:
    """A round number as short as it is exact."""
    return f"{value + 0.0:.12g}" if 1e-4 <= abs(value) < 1e6 or value == 0 else f"{value:.0e}"
