"""Every result as plain frozen data: the JSON document is these types and nothing else.

Field names, units and meanings are the contract of the JSON (schema 1.0). `None` is an undefined number or one that was
not asked for, and a note says which. Bounds and norms that can overflow are log10. No tensors, no torch.
`notes` of a result are gathered into `CheckpointEntry["notes"]` when the document is put together.
"""

from __future__ import annotations

from resnet_audit.results.bound import (
    BoundLayer,
    BoundResult,
    Cover,
    Covers,
    DataUsed,
    MarginPoint,
    Occam,
    PerCover,
    Unsupported,
)
from resnet_audit.results.check import Finding, Op, Rule, Status, Summary
from resnet_audit.results.common import Evidence, InputsUsed, Note, Placement, SkipKind, Source
from resnet_audit.results.comparison import Comparison, ComparisonRow, Trend
from resnet_audit.results.document import SCHEMA_VERSION, CheckpointEntry, Document, Result, SettingsUsed, Tool
from resnet_audit.results.ensemble import (
    Distribution,
    EnsembleBlock,
    EnsembleResult,
    Incoherent,
    Predicted,
    PredictedShares,
    SpinGlass,
    Veit,
)
from resnet_audit.results.gradient import GradientBlock, GradientResult
from resnet_audit.results.graph import BlockEntry, GraphResult
from resnet_audit.results.procrustes import (
    Accuracy,
    BlockRatios,
    IsometryNumbers,
    ProcrustesBlock,
    ProcrustesLayer,
    ProcrustesResult,
    TargetRule,
)
from resnet_audit.results.scaling import (
    AlphaMethod,
    FamilyFit,
    FamilyVerdict,
    Recommended,
    ReferenceScheme,
    ScalingBlock,
    ScalingLevel,
    ScalingResult,
    WeightsRule,
)
from resnet_audit.results.shortcut import (
    DepthLevel,
    MeasuredHessian,
    ShortcutBlock,
    ShortcutResult,
    SpectralDensity,
    Target,
    ZeroHessian,
    ZeroPoint,
)
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
    "Accuracy",
    "AlphaMethod",
    "BlockEntry",
    "BlockRatios",
    "BoundLayer",
    "BoundResult",
    "CheckpointEntry",
    "Comparison",
    "ComparisonRow",
    "Cover",
    "Covers",
    "DataUsed",
    "DepthLevel",
    "Distribution",
    "Document",
    "EnsembleBlock",
    "EnsembleResult",
    "Evidence",
    "FamilyFit",
    "FamilyVerdict",
    "Finding",
    "GradientBlock",
    "GradientResult",
    "GraphResult",
    "Histogram",
    "Incoherent",
    "InputsUsed",
    "IsometryNumbers",
    "MarginPoint",
    "MeasuredHessian",
    "Note",
    "Occam",
    "Op",
    "PerCover",
    "Placement",
    "Predicted",
    "PredictedShares",
    "ProcrustesBlock",
    "ProcrustesLayer",
    "ProcrustesResult",
    "Quantiles",
    "Recommended",
    "ReferenceScheme",
    "Result",
    "Rule",
    "ScalingBlock",
    "ScalingLevel",
    "ScalingResult",
    "SettingsUsed",
    "ShortcutBlock",
    "ShortcutResult",
    "SkipKind",
    "Source",
    "SpectralDensity",
    "SpectrumBlock",
    "SpectrumLayer",
    "SpectrumNumbers",
    "SpectrumResult",
    "SpinGlass",
    "Status",
    "Summary",
    "Target",
    "TargetRule",
    "Tool",
    "Trend",
    "Unsupported",
    "Veit",
    "WeightsRule",
    "ZeroHessian",
    "ZeroPoint",
]
