"""What the user may choose, as one frozen value. Defaults are those of the command line."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

Progress = Callable[[str, int, int], None]
"""Called as progress(stage, done, total); a long computation reports through it and never prints."""

InputKind = Literal["auto", "gaussian", "pink", "matched"]
Objective = Literal["logit", "ce", "random"]
Unit = Literal["blocks", "layers"]
Preset = Literal["paper", "strict"]
Precision = Literal["float32", "float64"]
ScaleMethod = Literal["auto", "weights", "measured"]

CHOICES = {
    "inputs": InputKind,
    "objective": Objective,
    "unit": Unit,
    "preset": Preset,
    "dtype": Precision,
    "method": ScaleMethod,
}
LEAST = {"samples": 1, "seed": 0, "threads": 1, "n_train": 1}
"""The smallest value of a setting that counts."""


def no_progress(stage: str, done: int, total: int) -> None:
    """The progress callback of a caller who does not want to know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of one audit, with the defaults of the command line; each is named after its flag.

    `input_size` is (C, H, W), or (T,) for tokens; sizes count elements; `margin` and `epsilon` are in units of the
    outputs, `x_rms` in those of one input entry; `delta` is a probability. Nothing is checked here: an analysis raises
    UsageError with the words of `complaint`.

    >>> settings = Settings(input_size=(1, 8, 8), samples=4)
    >>> settings.seed, settings.dtype
    (0, 'float32')
    >>> Settings(device="cuda").complaint()
    'device cuda: this version computes on the CPU only; leave it out'
    """

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
        return self._impossible() or self._undefined()

    def _impossible(self) -> str | None:
        """What the command line refuses as it parses; a program can still ask for it."""
        if self.device != "cpu":
            return f"device {self.device}: this version computes on the CPU only; leave it out"
        for name, kind in CHOICES.items():
            if (value := getattr(self, name)) not in get_args(kind):
                return f"--{name} {value} is none of {', '.join(get_args(kind))}"
        for name, least in LEAST.items():
            if (number := getattr(self, name)) is not None and number < least:
                return f"--{name.replace('_', '-')} {number} is less than {least}"
        return None

    def _undefined(self) -> str | None:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Many:
    """How many files are gone through: `workers` processes, or a dask cluster; `resume`: where results are kept."""

    workers: int = 1
    dask: str | None = None
    resume: str | None = None
