"""What the user may choose, as one frozen value. Defaults are those of the command line."""

from __future__ import annotations

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


def no_progress(stage: str, done: int, total: int) -> None:
    """The progress callback of a caller who does not want to know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of one audit. `input_size` is (C, H, W); sizes count elements, `delta` is a probability."""

    # The graph.
    input_size: tuple[int, ...] | None = None
    key: str | None = None
    assume: bool = False
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
    unit: Unit = "blocks"
    # The margin bound.
    n_train: int | None = None
    x_rms: float = 1.0
    margin: float = 1.0
    epsilon: float | None = None
    delta: float = 0.01
    preset: Preset = "paper"
