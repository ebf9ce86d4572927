"""Every result as plain frozen data: the JSON document is these types and nothing else.

Field names, units and meanings are the contract of the JSON (schema 1.0). `None` is an undefined number or one that was
not asked for, and a note says which. Bounds and norms that can overflow are log10. No tensors, no torch.
`notes` of a result are gathered into `CheckpointEntry["notes"]` when the document is put together.
"""

from __future__ import annotations

from resnet_audit.results.bound import BoundLayer, BoundResult, Cover, Covers, PerCover, Unsupported
from resnet_audit.results.common import Evidence, InputsUsed, Note, Placement, SkipKind, Source
from resnet_audit.results.document import SCHEMA_VERSION, CheckpointEntry, Document, Result, SettingsUsed, Tool
from resnet_audit.results.ensemble import Distribution, EnsembleBlock, EnsembleResult
from resnet_audit.results.gradient import GradientBlock, GradientResult
from resnet_audit.results.graph import BlockEntry, GraphResult
from resnet_audit.results.spectrum import (
    Histogram,
    Quantiles,
    SpectrumBlock,
    SpectrumLayer,
    SpectrumNumbers,
    SpectrumResult,
)

__all__ = [
    "SCHEMA_VERSION",
    "BlockEntry",
    "BoundLayer",
    "BoundResult",
    "CheckpointEntry",
    "Cover",
    "Covers",
    "Distribution",
    "Document",
    "EnsembleBlock",
    "EnsembleResult",
    "Evidence",
    "GradientBlock",
    "GradientResult",
    "GraphResult",
    "Histogram",
    "InputsUsed",
    "Note",
    "PerCover",
    "Placement",
    "Quantiles",
    "Result",
    "SettingsUsed",
    "SkipKind",
    "Source",
    "SpectrumBlock",
    "SpectrumLayer",
    "SpectrumNumbers",
    "SpectrumResult",
    "Tool",
    "Unsupported",
]
