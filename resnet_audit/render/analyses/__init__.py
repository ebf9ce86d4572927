"""One function per analysis, from its result to the parts of its page: `parts_of`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resnet_audit.results import (
    BoundResult,
    EnsembleResult,
    GradientResult,
    GraphResult,
    ProcrustesResult,
    ScalingResult,
    ShortcutResult,
    SpectrumResult,
)

from .bound import bound_parts
from .ensemble import ensemble_parts
from .gradient import gradient_parts
from .graph import graph_parts
from .procrustes import procrustes_parts
from .scaling import scaling_parts
from .shortcut import shortcut_parts
from .spectrum import spectrum_parts

if TYPE_CHECKING:
    from resnet_audit.render.parts import Look, Part
    from resnet_audit.results import Result

__all__ = ["parts_of"]


def parts_of(result: Result, look: Look) -> list[Part]:
    """The tables and lines of one result."""
    match result:
        case GraphResult():
            return graph_parts(result, look)
        case BoundResult():
            return bound_parts(result, look)
        case SpectrumResult():
            return spectrum_parts(result, look)
        case GradientResult():
            return gradient_parts(result, look)
        case EnsembleResult():
            return ensemble_parts(result, look)
        case ShortcutResult():
            return shortcut_parts(result, look)
        case ScalingResult():
            return scaling_parts(result, look)
        case ProcrustesResult():
            return procrustes_parts(result)
