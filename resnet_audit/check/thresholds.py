"""Thresholds as they are written, on the command line and in the configuration: `PATH=NUMBER`, `PATH=NUMBER%`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from resnet_audit.check.paths import resolve
from resnet_audit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from resnet_audit.results import Op

ThresholdRule = Literal["max", "min", "max-increase", "max-decrease"]
RULES: tuple[ThresholdRule, ...] = ("max", "min", "max-increase", "max-decrease")
NUMBER = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)(%?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """A limit on every number of a metric.

    amount: the limit itself for max and min; for max-increase and max-decrease how far from the baseline it lies, in
    percent of the baseline's size if `percent`.
    """

    rule: ThresholdRule
    metric: str
    amount: float
    percent: bool = False

    @property
    def op(self) -> Op:
        """Which side of the limit holds."""
        return "le" if self.rule in {"max", "max-increase"} else "ge"

    @property
    def is_relative(self) -> bool:
        """Whether the limit lies at a distance from the baseline."""
        return self.rule in {"max-increase", "max-decrease"}

    def limit(self, baseline: float | None) -> float | None:
        """The limit, for a number whose baseline is this; None where only a baseline could tell."""
        if not self.is_relative:
            return self.amount
        if baseline is None:
            return None
        distance = abs(baseline) * self.amount / 100 if self.percent else self.amount
        return baseline + distance if self.op == "le" else baseline - distance


def threshold(rule: ThresholdRule, path: str, amount: str | float) -> Threshold:
    """The threshold on a path as written. Raises UsageError for a path or a number that is none."""
    found = NUMBER.fullmatch(str(amount).strip())
    if found is None or isinstance(amount, bool) or not math.isfinite(float(found[1])):
        raise UsageError(f"{path}={amount}: {amount} is no finite number; write PATH=NUMBER such as {path}=4")
    value, percent = float(found[1]), bool(found[2])
    relative = rule in {"max-increase", "max-decrease"}
    if percent and not relative:
        change = "max-increase" if rule == "max" else "max-decrease"
        raise UsageError(f"{path}={amount}: a percentage is of a baseline; leave the % out, or use {change}")
    if relative and value < 0:
        raise UsageError(f"{path}={amount}: a distance from the baseline is not negative; leave the sign out")
    return Threshold(rule=rule, metric=resolve(path), amount=value, percent=percent)


def thresholds(given: Mapping[ThresholdRule, Iterable[str]]) -> tuple[Threshold, ...]:
    """The thresholds of the flags. Raises UsageError, which names the flag, for what is none or contradicts another."""
    found: dict[tuple[ThresholdRule, str], Threshold] = {}
    for rule in RULES:
        for text in given.get(rule, ()):
            path, equals, amount = text.rpartition("=")
            if not equals or not path:
                raise UsageError(f"--{rule} {text}: no threshold; write PATH=NUMBER such as spectrum.sigma_max=4")
            try:
                one = threshold(rule, path, amount)
            except UsageError as error:
                raise UsageError(f"--{rule} {error}") from None
            if found.setdefault((rule, one.metric), one) != one:
                raise UsageError(f"--{rule} {text}: {one.metric} has another limit already; give one of them")
    return tuple(found.values())


def overridden(given: Iterable[Threshold], configured: Iterable[Threshold]) -> tuple[Threshold, ...]:
    """What to judge by: the thresholds of the command line, and those of the configuration that they do not replace."""
    first = tuple(given)
    replaced = {(one.rule, one.metric) for one in first}
    return (*first, *(one for one in configured if (one.rule, one.metric) not in replaced))
