"""The document that every command prints with `-f json`."""

from __future__ import annotations

from typing import NotRequired

from typing_extensions import TypedDict

from resnet_audit.results.bound import BoundResult
from resnet_audit.results.check import Finding, Summary
from resnet_audit.results.common import Note
from resnet_audit.results.comparison import Comparison
from resnet_audit.results.ensemble import EnsembleResult
from resnet_audit.results.gradient import GradientResult
from resnet_audit.results.graph import GraphResult
from resnet_audit.results.procrustes import ProcrustesResult
from resnet_audit.results.scaling import ScalingResult
from resnet_audit.results.shortcut import ShortcutResult
from resnet_audit.results.spectrum import SpectrumResult

SCHEMA_VERSION = "1.0"

Result = (
    GraphResult
    | BoundResult
    | SpectrumResult
    | GradientResult
    | EnsembleResult
    | ShortcutResult
    | ScalingResult
    | ProcrustesResult
)


class Tool(TypedDict):
    """What computed the numbers: two documents differ for a reason that can be seen."""

    name: str
    version: str
    torch: str
    threads: int


class SettingsUsed(TypedDict):
    """The settings that change numbers or rows, as the user gave them."""

    seed: int
    samples: int
    input_size: tuple[int, ...] | None
    inputs: str
    dtype: str
    device: str
    blocks: tuple[str, ...]


class CheckpointEntry(TypedDict):
    """One checkpoint. An analysis that was not asked for has no key; one that has no answer is null with a note."""

    path: str
    sha256: str | None
    format: str | None
    parameters: int | None
    error: str | None
    graph: NotRequired[GraphResult | None]
    bound: NotRequired[BoundResult | None]
    spectrum: NotRequired[SpectrumResult | None]
    gradient: NotRequired[GradientResult | None]
    ensemble: NotRequired[EnsembleResult | None]
    shortcut: NotRequired[ShortcutResult | None]
    scaling: NotRequired[ScalingResult | None]
    procrustes: NotRequired[ProcrustesResult | None]
    notes: tuple[Note, ...]


class Document(TypedDict):
    """What every command prints with `-f json`; `comparison` of `compare` alone, `findings`, `summary` of `check`."""

    schema_version: str
    tool: Tool
    command: str
    settings: SettingsUsed
    checkpoints: list[CheckpointEntry]
    comparison: NotRequired[Comparison | None]
    findings: NotRequired[list[Finding]]
    summary: NotRequired[Summary]
