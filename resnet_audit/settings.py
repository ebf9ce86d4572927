"""What the user may choose, as one frozen value. Defaults are those of the command line."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Progress = Callable[[str, int, int], None]
"""Called as progress(stage, done, total); a long computation reports through it and never prints."""

InputKind = Literal["auto", "gaussian", "pink", "matched"]
Objective = Literal["logit", "ce", "random"]
Unit = Literal["blocks", "layers"]
Preset = Literal["paper", "strict"]
Precision = Literal["float32", "float64"]
ScaleMethod = Literal["auto", "weights", "measured"]


def no_progress(stage: str, done: int, total: int) -> None:
    """The progress callback of a caller who does not want to know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of one audit. `input_size` is (C, H, W); sizes count elements, `delta` is a probability."""

    # The graph.
    input_size: tuple[int, ...] | None = None
    key: str | None = None
    assume: bool = False
    arch: str | None = None
    patterns: str | None = None
    blocks: tuple[str, ...] = ()
    # Passes through the network.
    data: str | None = None
    inputs: InputKind = "auto"
    samples: int = 32
    seed: int = 0
    dtype: Precision = "float32"
    device: str = "cpu"
    threads: int | None = None
    objective: Objective = "logit"
    recalibrate: bool = False
    unit: Unit = "blocks"
    fast: bool = False
    veit: bool = False
    max_depth: int | None = None
    hessian: bool = False
    # Branch scales.
    method: ScaleMethod = "auto"
    # The margin bound.
    n_train: int | None = None
    x_rms: float | None = None
    margin: float = 1.0
    epsilon: float | None = None
    delta: float = 0.01
    preset: Preset = "paper"
    reference: str | None = None

    def complaint(self) -> str | None:
        """Why these settings define nothing, or not in this version; None if they do."""
        for name, value in (("x-rms", self.x_rms), ("margin", self.margin), ("epsilon", self.epsilon)):
            if value is not None and not 0.0 < value < math.inf:
                return f"--{name} {value} is not a positive number"
        if self.recalibrate and self.data is None:
            return "--recalibrate measures batch statistics on data; give it --data"
        if self.max_depth is not None and (self.fast or self.max_depth < 0):
            return f"--max-depth {self.max_depth} cuts nothing: it is negative, or --fast leaves it no parts to keep"
        return None if 0.0 < self.delta < 1.0 else f"--delta {self.delta} does not lie between 0 and 1"

    @property
    def thread_count(self) -> int:
        """Threads to compute with: as asked for, else every processor that this process may use."""
        return self.threads or len(os.sched_getaffinity(0))
