"""Statistics of shares by depth (index = depth), which are at least 0 and add to 1."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence


def mean(shares: Sequence[float]) -> float:
    """The mean depth."""
    return math.fsum(depth * share for depth, share in enumerate(shares))


def quantile(shares: Sequence[float], level: float) -> int:
    """The smallest depth up to which at least `level` of the shares lie."""
    return int(np.argmax(np.cumsum(shares) >= level - 1e-12))
