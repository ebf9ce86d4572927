"""The residual graph of a checkpoint: nodes, blocks, shapes, values and adjoints."""

from resnet_audit.graph.discover import discover
from resnet_audit.graph.residual import ResidualGraph

__all__ = ["ResidualGraph", "discover"]
