"""What an analysis is made of on paper: tables and lines, as data. Nothing here knows a terminal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rich.text import Text

from . import words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resnet_audit.results import InputsUsed

    from .fit import Column

MISMATCH_WARNING = 0.3
"""Mean |batch mean - running mean| / sd above which inputs are unlike the training data (natural images: 0.14)."""

OBJECTIVES = {
    "logit": "sum of the predicted-class logits",
    "ce": "cross-entropy",
    "random": "random cotangent",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Columns and what the caption says about the rows."""

    columns: tuple[Column, ...]
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """A sentence, wrapped by words; later lines are indented by `hang`."""

    text: str
    level: Literal["plain", "strong", "dim", "warning"] = "plain"
    hang: int = 2


Part = Table | Line


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What the glyphs may be, and the globs of `--blocks` that chose the rows."""

    ascii_only: bool
    blocks: tuple[str, ...] = ()

    @property
    def filter(self) -> str:
        """The caption's words for a filter of the rows; the totals are those of the whole network."""
        return f"rows: --blocks {' '.join(self.blocks)}; totals are of the whole network" if self.blocks else ""


def bar(text: str, style: str = "cyan") -> Text:
    """A bar in its colour: a cell that is never cleaned, so it must not hold a name."""
    return Text(text, style=style)


def inputs_lines(objective: str, inputs: InputsUsed) -> list[Line]:
    """What was measured on what, and a warning if that is unlike what the network was trained on."""
    mean, logsd = inputs.bn_mismatch_mean, inputs.bn_mismatch_logsd
    mismatch = f"mean {words.number(mean, 3)}, log sd {words.number(logsd, 3)}"
    lines = [
        Line(f"objective: {OBJECTIVES.get(objective, objective)}"),
        Line(f"inputs: {inputs.kind}, {words.count(inputs.n, 'sample')}; BN mismatch {mismatch}"),
    ]
    if mean is not None and mean > MISMATCH_WARNING:
        text = (
            f"warning: BN mismatch {words.number(mean, 3)} is above {MISMATCH_WARNING}: these inputs are unlike the "
            "training data, so take the numbers as rough; --data gives real inputs"
        )
        lines.append(Line(text, "warning"))
    return lines


def optional(pairs: Sequence[tuple[str, str]], separator: str = "; ") -> str:
    """`label value` for every value that is defined, joined."""
    return separator.join(f"{label} {value}" for label, value in pairs if value != words.UNDEFINED)
