"""The public functions: what the commands do, for programs.

Each takes a graph, which `discover` finds in a checkpoint, and the settings that the command has as flags. Each raises
UsageError for settings that define nothing, and returns plain frozen data whose fields `resnet-audit explain` tells of.
"""

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
    """Covering numbers and the margin bound. Raises NotRunnable, NonFinite, UsageError.

    >>> from resnet_audit import Settings, bound, discover, load
    >>> graph = discover(load("sample_checkpoints/digits_resnet/epoch24.pt"), Settings(input_size=(1, 8, 8)))
    >>> found = bound(graph, Settings(n_train=1297))
    >>> f"{found.covers.patch.log10_spectral_complexity:.2f}", found.vacuous
    ('10.67', True)
    """
    return _bound.analyse(Subject(graph, settings))


def spectrum(graph: ResidualGraph, settings: Settings | None = None) -> SpectrumResult:
    """Singular values of every layer. Raises UsageError where the grids are unknown.

    >>> from resnet_audit import Settings, discover, load, spectrum
    >>> graph = discover(load("sample_checkpoints/digits_resnet/epoch24.pt"), Settings(input_size=(1, 8, 8)))
    >>> found = spectrum(graph)
    >>> found.sigma_max_where, f"{found.sigma_max:.3f}"
    ('conv1', '4.844')
    """
    return _spectrum.analyse(Subject(graph, settings))


def gradient(graph: ResidualGraph, settings: Settings | None = None) -> GradientResult:
    """Gradient-norm ratios of every block. Raises NoBlocks, NotRunnable, NonFinite, UsageError.

    >>> from resnet_audit import Settings, discover, gradient, load
    >>> graph = discover(load("sample_checkpoints/digits_resnet/epoch24.pt"), Settings(input_size=(1, 8, 8)))
    >>> found = gradient(graph, Settings(data="sample_checkpoints/digits.npz"))
    >>> [f"{block.ratio:.1f}" for block in found.blocks[:3]], f"{found.ratio_worst:.2f}"
    (['1.6', '1.4', '1.1'], '1.56')
    """
    return _gradient.analyse(Subject(graph, settings))


def ensemble(graph: ResidualGraph, settings: Settings | None = None) -> EnsembleResult:
    """Exact distribution of the gradient over path depth. Raises NotRunnable, NonFinite, NoRule, UsageError.

    >>> from resnet_audit import Settings, discover, ensemble, load
    >>> graph = discover(load("sample_checkpoints/digits_resnet/epoch24.pt"), Settings(input_size=(1, 8, 8)))
    >>> found = ensemble(graph, Settings(data="sample_checkpoints/digits.npz"))
    >>> f"{found.depth_mean:.2f} of {len(found.blocks)} blocks", found.identity_residual < 1e-5
    ('3.13 of 9 blocks', True)
    """
    return _ensemble.analyse(Subject(graph, settings))


def shortcut(graph: ResidualGraph, settings: Settings | None = None) -> ShortcutResult:
    """Shortcut depths, the Hessian at the zero point and, with `settings.hessian`, the one at the checkpoint.

    Raises NoBlocks, UsageError; with `settings.hessian` NotRunnable, NonFinite, NoRule, NothingToAnalyse.

    >>> from resnet_audit import Settings, discover, load, shortcut
    >>> graph = discover(load("sample_checkpoints/digits_resnet/epoch24.pt"), Settings(input_size=(1, 8, 8)))
    >>> shortcut(graph).depths
    {'2': 9}
    """
    return _shortcut.analyse(Subject(graph, settings))


def scaling(graph: ResidualGraph, settings: Settings | None = None) -> ScalingResult:
    """Branch scales, the kernel that they predict, scales for a new run.

    Raises NoBlocks, NotRunnable, NonFinite, NoRule, UsageError.

    >>> from resnet_audit import Settings, discover, load, scaling
    >>> graph = discover(load("sample_checkpoints/digits_resnet/epoch24.pt"), Settings(input_size=(1, 8, 8)))
    >>> found = scaling(graph, Settings(data="sample_checkpoints/digits.npz"))
    >>> f"{found.residual_time:.2f}", found.level
    ('2.40', 'mild')
    """
    return _scaling.analyse(Subject(graph, settings))
