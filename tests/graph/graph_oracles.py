"""Random, awkward state dicts, and their layers as torch's own functions. Nothing here comes from the package.

A forward pass asks an `Oracle` for each layer and for each sum of branch and shortcut, so that a test can change how
gradients pass there without touching values.
"""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Mapping

Pair = tuple[int, int]
State = dict[str, Tensor]
CLASSES = 5


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


class Writer:
    """Writes a state dict: He-scaled kernels, norms with gains of both signs and statistics far from 0 and 1."""

    def __init__(self, seed: int = 0, *, affine: bool = True, dtype: torch.dtype = torch.float32) -> None:
        self.random = np.random.default_rng(seed)
        self.affine = affine
        self.dtype = dtype
        self.state: State = {}

    def put(self, name: str, values: np.ndarray) -> None:
        self.state[name] = torch.from_numpy(np.asarray(values)).to(self.dtype)

    def conv(self, name: str, outputs: int, inputs: int, size: int | Pair, *, bias: bool = False) -> None:
        height, width = (size, size) if isinstance(size, int) else size
        spread = np.sqrt(2 / (inputs * height * width))
        self.put(f"{name}.weight", self.random.standard_normal((outputs, inputs, height, width)) * spread)
        if bias:
            self.put(f"{name}.bias", self.random.standard_normal(outputs) * 0.3)

    def norm(self, name: str, channels: int) -> None:
        if self.affine:
            signs = self.random.choice([-1.0, 1.0, 1.0], channels)
            self.put(f"{name}.weight", self.random.uniform(0.5, 1.5, channels) * signs)
            self.put(f"{name}.bias", self.random.standard_normal(channels) * 0.4)
        self.put(f"{name}.running_mean", self.random.standard_normal(channels) * 0.4)
        self.put(f"{name}.running_var", self.random.uniform(0.3, 3.0, channels))
        self.state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def linear(self, name: str, outputs: int, inputs: int) -> None:
        self.put(f"{name}.weight", self.random.standard_normal((outputs, inputs)) / np.sqrt(inputs))
        self.put(f"{name}.bias", self.random.standard_normal(outputs))


class Oracle:
    """The layers of a state dict as functions, in the dtype of their input; it counts the sums that it has made."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.state = state
        self.joins = 0

    def get(self, name: str, x: Tensor) -> Tensor | None:
        found = self.state.get(name)
        return None if found is None else found.to(x.dtype)

    def has(self, name: str) -> bool:
        return f"{name}.weight" in self.state or f"{name}.running_var" in self.state

    def conv(self, name: str, x: Tensor, stride: int = 1, padding: int = 0, groups: int = 1) -> Tensor:
        weight, bias = self.get(f"{name}.weight", x), self.get(f"{name}.bias", x)
        return functional.conv2d(x, weight, bias, stride=stride, padding=padding, groups=groups)

    def norm(self, name: str, x: Tensor) -> Tensor:
        mean, var = self.get(f"{name}.running_mean", x), self.get(f"{name}.running_var", x)
        weight, bias = self.get(f"{name}.weight", x), self.get(f"{name}.bias", x)
        return functional.batch_norm(x, mean, var, weight, bias, training=False, eps=1e-5)

    def linear(self, name: str, x: Tensor) -> Tensor:
        return functional.linear(x, self.get(f"{name}.weight", x), self.get(f"{name}.bias", x))

    def join(self, _index: int, branch: Tensor, skip: Tensor) -> Tensor:
        """The sum of a block, by its index in the network; only gradients may be changed here."""
        return branch + skip

    def sum(self, branch: Tensor, skip: Tensor) -> Tensor:
        self.joins += 1
        return self.join(self.joins - 1, branch, skip)

    def blocks(self, stage: str) -> list[str]:
        """Names of the blocks of a stage in order."""
        found = {m[0]: int(m[1]) for name in self.state if (m := re.match(rf"{re.escape(stage)}\.(\d+)(?=\.)", name))}
        return sorted(found, key=lambda name: found[name])


def pooled(x: Tensor) -> Tensor:
    return functional.adaptive_avg_pool2d(x, 1).flatten(1)


def shuffled(state: Mapping[str, Tensor], seed: int) -> State:
    names = list(state)
    random.Random(seed).shuffle(names)  # noqa: S311 - an order, not a secret
    return {name: state[name] for name in names}
