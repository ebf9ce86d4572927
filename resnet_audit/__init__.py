"""Audit a trained residual network from its checkpoint alone.

    from resnet_audit import bound, discover, load

    graph = discover(load("resnet20.th"))
    print(bound(graph).covers.operator.log10_spectral_complexity)

Every function returns plain frozen data (`resnet_audit.results`). Nothing in a checkpoint is ever executed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from resnet_audit.errors import AuditError
from resnet_audit.settings import Settings

if TYPE_CHECKING:
    from resnet_audit.api import bound, ensemble, gradient, scaling, shortcut, spectrum
    from resnet_audit.checkpoint import Checkpoint, load
    from resnet_audit.graph import ResidualGraph, discover
    from resnet_audit.linear import conv_norm_upper, conv_singular_values, procrustes
    from resnet_audit.measure.rntk import rntk

__all__ = [
    "AuditError",
    "Checkpoint",
    "ResidualGraph",
    "Settings",
    "bound",
    "conv_norm_upper",
    "conv_singular_values",
    "discover",
    "ensemble",
    "gradient",
    "load",
    "procrustes",
    "rntk",
    "scaling",
    "shortcut",
    "spectrum",
]

_HOMES = {
    "Checkpoint": "checkpoint",
    "load": "checkpoint",
    "ResidualGraph": "graph",
    "discover": "graph",
    "conv_norm_upper": "linear",
    "conv_singular_values": "linear",
    "procrustes": "linear",
    "rntk": "measure.rntk",
}


def __getattr__(name: str) -> object:
    """The public names that need torch, imported on first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"resnet_audit.{_HOMES.get(name, 'api')}"), name)
