"""The result of `check`: what was held against which limit, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["fail", "held", "pass"]
Op = Literal["le", "ge"]
Rule = Literal["max", "min", "max-increase", "max-decrease", "baseline"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One number of one checkpoint against one limit: it holds where `value` `op` `limit`.

    where: the name of the element of a list, or its index; None for a metric that is in no list. rule: the threshold
    behind it; `baseline` where the baseline alone judges. baseline: the number there, None without one.
    held: beyond the limit, and no worse than the baseline. checkpoint: its path in the document.
    """

    metric: str
    where: str | None
    value: float
    limit: float
    op: Op
    rule: Rule
    baseline: float | None
    status: Status
    checkpoint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Findings by status, and one line for everything that could not be judged (none: the verdict is complete)."""

    failed: int
    held: int
    passed: int
    problems: tuple[str, ...]
