"""`[tool.resnet-audit]` of the nearest pyproject.toml upward: the flags' own words, which the command line beats.

    [tool.resnet-audit]
    samples = 64                                  # any flag but those that run code, write files or name one
    models = ["checkpoints/*.pt"]                 # of every command without MODEL
    baseline = "audit-baseline.json"
    ignore = ["spectrum.layers.condition[head]"]
    [tool.resnet-audit.max]                       # likewise min, max-increase, max-decrease
    "spectrum.sigma_max" = 8.5
    [tool.resnet-audit.max-increase]
    "gradient.ratio_worst" = "5%"

A name that is unknown is an error: a threshold that silently matches nothing is the worst that can happen to a check.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_audit.check.ignores import Ignore, ignores
from resnet_audit.check.paths import did_you_mean
from resnet_audit.check.thresholds import RULES, Threshold, threshold
from resnet_audit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

FILE = "pyproject.toml"
OWN = ("models", "baseline", "ignore", *RULES)
PATHS = ("data", "patterns", "reference")
"""Flags whose value is a path, relative to the folder of the configuration."""

CALLED_ONLY = {
    "arch": "it runs code",
    "dask": "it connects to another machine",
    "debug": "it is for one run",
    "figure": "it names what is written",
    "force": "it is for one run",
    "format": "--output beats it by its suffix",
    "name": "it is for one checkpoint",
    "output": "it names what is written",
    "resume": "it names what is written",
    "update-baseline": "it is for one run",
}
"""Flags that only a command line can give, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """What a pyproject.toml says. path: None without one; flags: value by word, such as `input-size`."""

    path: str | None = None
    flags: Mapping[str, object] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    baseline: str | None = None
    ignored: tuple[Ignore, ...] = ()
    thresholds: tuple[Threshold, ...] = ()


def read_configuration(folder: str, known: Collection[str]) -> Configuration:
    """The configuration that holds in `folder`; `known` are the flags that any command has, without their dashes.

    Raises UsageError, which names the file, for what is no TOML, an unknown word or path, or a value of a wrong type.
    """
    home = next(
        (one for one in (Path(folder).resolve(), *Path(folder).resolve().parents) if (one / FILE).is_file()), None
    )
    if home is None:
        return Configuration()
    path = os.path.relpath(home / FILE, folder)
    try:
        table = tomllib.loads((home / FILE).read_text(encoding="utf-8")).get("tool", {}).get("resnet-audit")
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(f"{path}: {' '.join(str(error).split())}; it cannot be read; correct it") from None
    if table is None:
        return Configuration()
    try:
        return _configuration(table, os.path.relpath(home, folder), path, known)
    except UsageError as error:
        raise UsageError(f"{path}, [tool.resnet-audit]: {error}") from None


def _configuration(table: object, home: str, path: str, known: Collection[str]) -> Configuration:
    if not isinstance(table, dict):
        raise UsageError("this is no table; write [tool.resnet-audit] on a line of its own")
    flags = {word: value for word, value in table.items() if word not in OWN}
    for word in flags:
        if word in CALLED_ONLY:
            raise UsageError(f"{word} is given on the command line only: {CALLED_ONLY[word]}; leave it out")
        if word not in known:
            possible = sorted({*OWN, *known} - CALLED_ONLY.keys())
            raise UsageError(f"{word} is no flag; {did_you_mean(word, possible)}--help of a command lists its flags")
    baseline = table.get("baseline")
    if not isinstance(baseline, str | None):
        raise UsageError('baseline is no text; write baseline = "FILE"')
    return Configuration(
        path=path,
        flags={word: _beside(home, value) if word in PATHS else value for word, value in flags.items()},
        models=tuple(_beside(home, model) for model in _texts(table, "models")),
        baseline=None if baseline is None else _beside(home, baseline),
        ignored=ignores(_texts(table, "ignore")),
        thresholds=tuple(one for rule in RULES for one in _thresholds(table, rule)),
    )


def _thresholds(table: Mapping[str, Any], rule: Any) -> list[Threshold]:  # noqa: ANN401 - one of RULES, as its caller says
    limits = table.get(rule, {})
    if not isinstance(limits, dict):
        raise UsageError(f"{rule} is no table; write [tool.resnet-audit.{rule}] and a line for each metric")
    found = []
    for metric, amount in limits.items():
        if isinstance(amount, (dict, list)):
            raise UsageError(f'{rule}.{metric} is no number; put the whole path in quotes: "{metric}.NAME" = NUMBER')
        try:
            found.append(threshold(rule, metric, amount))
        except UsageError as error:
            raise UsageError(f"{rule}: {error}") from None
    return found


def _texts(table: Mapping[str, Any], word: str) -> list[str]:
    values = table.get(word, [])
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise UsageError(f'{word} is no list of texts; write {word} = ["..."]')
    return values


def _beside(home: str, value: Any) -> Any:  # noqa: ANN401 - what is no text is for the flag to refuse
    """A path of the configuration as seen from the current folder."""
    return os.path.normpath(os.path.join(home, value)) if isinstance(value, str) else value  # noqa: PTH118 (a path stays as given)
