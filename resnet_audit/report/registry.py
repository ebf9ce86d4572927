"""The analyses by name. Import strings, so that reading a finished report needs no torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from resnet_audit.measure import Subject
    from resnet_audit.results import Result

ANALYSES = {
    "bound": "resnet_audit.theory.bound:analyse",
    "spectrum": "resnet_audit.theory.spectrum:analyse",
    "gradient": "resnet_audit.theory.gradient:analyse",
    "ensemble": "resnet_audit.theory.ensemble:analyse",
    "shortcut": "resnet_audit.theory.shortcut:analyse",
    "scaling": "resnet_audit.theory.scaling:analyse",
}
"""What `report` runs, in this order; each is `analyse(subject) -> result`."""


def analysis(name: str) -> Callable[[Subject], Result]:
    """The function behind an analysis. Raises KeyError for a name that is none."""
    module, _, function = ANALYSES[name].partition(":")
    return cast("Callable[[Subject], Result]", getattr(importlib.import_module(module), function))
