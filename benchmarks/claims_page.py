"""What the scripts of docs/claims.md share: arguments, tables as markdown, pictures, their place on the page."""

from __future__ import annotations

import argparse
import contextlib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

CLAIMS = Path(__file__).resolve().parent.parent / "docs" / "claims.md"
STYLE: Any = {
    "svg.hashsalt": "resnet-audit",
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
}
SIZE = (8.0, 3.3)
"""Inches: the width of a README at a readable size of letters."""


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float, digits: int = 3) -> str:
    """`digits` figures that count; 0 as 0."""
    if value == 0.0 or not math.isfinite(value):
        return f"{value:g}"
    places = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{value:.{digits - 1}e}" if not -2 <= places <= digits + 3 else f"{value:.{max(0, places)}f}"


@contextlib.contextmanager
def picture(path: str, panels: int) -> Iterator[list[Any]]:
    """Axes side by side; at the end the figure is in `path`, without a date: the same run gives the same bytes."""
    from matplotlib import rc_context, style  # noqa: PLC0415 - only where a picture is asked for
    from matplotlib.figure import Figure  # noqa: PLC0415 - as above

    with style.context("default", after_reset=True), rc_context(STYLE):
        whole = Figure(figsize=SIZE, layout="constrained")
        axes = list(whole.subplots(1, panels, squeeze=False)[0])
        yield axes
        whole.draw_without_rendering()
        # The solver's last digits differ from run to run.
        whole.set_layout_engine("none")
        for one in axes:
            one.set_position([round(edge, 5) for edge in one.get_position(original=True).bounds])
        whole.savefig(path, metadata={"Date": None})


def write(name: str, text: str) -> None:
    """Put `text` between the markers of `name` in docs/claims.md."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    page = CLAIMS.read_text(encoding="utf-8")
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise SystemExit(f"{CLAIMS}: no {begin} with its end; nothing was written")
    CLAIMS.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def main(
    name: str, about: str, measure: Callable[[], Any], tell: Callable[[Any], str], draw: Callable[..., None]
) -> None:
    """Measure on one thread, print the table, draw and write where asked to."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--figure", metavar="FILE.svg", help="draw the picture")
    parser.add_argument(
        "--write", action="store_true", help="write the table into docs/claims.md and the picture beside it"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = measure()
    text = tell(found)
    print(text)
    if given.figure:
        draw(found, given.figure)
    if given.write:
        write(name, text)
        draw(found, str(CLAIMS.parent / f"claims_{name}.svg"))
