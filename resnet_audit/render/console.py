"""The console of the answer: plain text at a known width, the same bytes on every machine.

Left to itself Rich ignores an explicit width under TERM=dumb unless the height is given too, and under NO_COLOR it
still writes bold. So both sizes are always given, and NO_COLOR means no escape at all.
"""

from __future__ import annotations

import codecs
import os
from typing import IO

from rich.console import Console

WIDTH = 80
HEIGHT = 25
UNLIMITED = 100_000


class _Console(Console):
    """A console that leaves a closed pipe to the command line, which knows what it means."""

    def on_broken_pipe(self) -> None:
        """Raise again what Rich would turn into exit code 1."""
        raise BrokenPipeError


def console(stream: IO[str], *, wide: bool = False, width: int | None = None) -> Console:
    """A console on `stream` that takes text, never markup. `wide`: as wide as the table; `width` beats the terminal."""
    columns = UNLIMITED if wide else width or _columns(stream)
    return _Console(
        file=stream,
        width=columns,
        height=HEIGHT,
        color_system=None if os.environ.get("NO_COLOR") else "auto",
        force_jupyter=False,
        legacy_windows=False,
        markup=False,
        emoji=False,
        highlight=False,
        soft_wrap=False,
    )


def _columns(stream: IO[str]) -> int:
    """COLUMNS if it is a positive number, else the width of the terminal, else 80."""
    asked = os.environ.get("COLUMNS", "")
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    try:
        # A pseudo-terminal may say 0.
        return os.get_terminal_size(stream.fileno()).columns or WIDTH
    except (OSError, ValueError, AttributeError):
        return WIDTH


def encoding(target: Console) -> str:
    """The canonical name of the encoding of a console's stream; a stream without one takes any text."""
    try:
        return codecs.lookup(target.encoding).name
    except LookupError:
        return "ascii"


def ascii_only(target: Console) -> bool:
    """Whether the stream cannot take the glyphs of bars and rules."""
    return not encoding(target).startswith("utf")
