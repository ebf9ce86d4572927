"""The public functions: what the commands do, for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resnet_audit.measure import Subject
from resnet_audit.theory import bound as _bound
from resnet_audit.theory import ensemble as _ensemble
from resnet_audit.theory import gradient as _gradient
from resnet_audit.theory import scaling as _scaling
from resnet_audit.theory import shortcut as _shortcut
from resnet_audit.theory import spectrum as _spectrum

if TYPE_CHECKING:
    from resnet_audit.graph import ResidualGraph
    from resnet_audit.results import (
        BoundResult,
        EnsembleResult,
        GradientResult,
        ScalingResult,
        ShortcutResult,
        SpectrumResult,
    )
    from resnet_audit.settings import Settings


def bound(graph: ResidualGraph, settings: Settings | None = None) -> BoundResult:
    """Covering numbers and the margin bound. Raises NotRunnable, NonFinite, UsageError."""
    return _bound.analyse(Subject(graph, settings))


def spectrum(graph: ResidualGraph, settings: Settings | None = None) -> SpectrumResult:
    """Singular values of every layer. Raises UsageError where the grids are unknown."""
    return _spectrum.analyse(Subject(graph, settings))


def gradient(graph: ResidualGraph, settings: Settings | None = None) -> GradientResult:
    """Gradient-norm ratios of every block. Raises NoBlocks, NotRunnable, NonFinite, UsageError."""
    return _gradient.analyse(Subject(graph, settings))


def ensemble(graph: ResidualGraph, settings: Settings | None = None) -> EnsembleResult:
    """Exact distribution of the gradient over path depth. Raises NotRunnable, NonFinite, NoRule, UsageError."""
    return _ensemble.analyse(Subject(graph, settings))


def shortcut(graph: ResidualGraph, settings: Settings | None = None) -> ShortcutResult:
    """Shortcut depths, the Hessian at the zero point and, with `settings.hessian`, the one at the checkpoint.

    Raises NoBlocks, UsageError; with `settings.hessian` NotRunnable, NonFinite, NoRule, NothingToAnalyse.
    """
    return _shortcut.analyse(Subject(graph, settings))


def scaling(graph: ResidualGraph, settings: Settings | None = None) -> ScalingResult:
    """Branch scales, the kernel that they predict, scales for a new run.

    Raises NoBlocks, NotRunnable, NonFinite, NoRule, UsageError.
    """
    return _scaling.analyse(Subject(graph, settings))
