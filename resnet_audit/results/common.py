"""What several results share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SkipKind = Literal["identity", "projection", "resample", "norm", "concat"]
Evidence = Literal["graph", "module", "named", "shape"]
Placement = Literal["stem", "vine", "between", "head"]
Source = Literal["weights", "module", "export", "torchscript", "onnx"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something a reader must know about a number: a code for programs, a sentence for people."""

    code: str
    message: str
    where: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InputsUsed:
    """The inputs of a measured number and how far they are from the data of the BN statistics.

    bn_mismatch_mean: mean |batch mean - running mean| / running sd; bn_mismatch_logsd: mean |ln(batch / running sd)|.
    """

    kind: str
    n: int
    bn_mismatch_mean: float | None
    bn_mismatch_logsd: float | None
