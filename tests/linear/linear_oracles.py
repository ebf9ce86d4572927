"""Dense operators, slow and obvious, and random geometries: what the tests of `linear` compare with."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A convolution. weight: (c_out, c_in / groups, kh, kw)."""

    weight: Tensor
    size: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    @property
    def extent(self) -> Pair:
        return self.weight.shape[2], self.weight.shape[3]

    @property
    def geometry(self) -> tuple[Pair, Pair, Pair, Pair, Pair]:
        return self.size, self.extent, self.stride, self.padding, self.dilation

    @property
    def keywords(self) -> dict[str, object]:
        return {
            "size": self.size,
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
        }


def kernel(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def dense_zero(case: Case) -> Tensor:
    """(outputs, inputs) of the zero-padded convolution, by running it on every unit image."""
    channels = case.weight.shape[1] * case.groups
    inputs = channels * case.size[0] * case.size[1]
    images = torch.eye(inputs, dtype=torch.float64).reshape(inputs, channels, *case.size)
    outputs = functional.conv2d(images, case.weight, None, case.stride, case.padding, case.dilation, case.groups)
    return outputs.flatten(1).T


def dense_circular(case: Case, size: Pair | None = None) -> Tensor:
    """(outputs, inputs) of the circular convolution, entry by entry: a kernel that overlaps itself adds up."""
    rows, columns = size or case.size
    c_out, c_in = case.weight.shape[:2]
    (s, z), (d, e) = case.stride, case.dilation
    operator = torch.zeros(c_out, rows // s, columns // z, c_in * case.groups, rows, columns, dtype=torch.float64)
    for o, i, j in itertools.product(range(c_out), range(rows // s), range(columns // z)):
        first = o // (c_out // case.groups) * c_in
        for c, a, b in itertools.product(range(c_in), *map(range, case.extent)):
            operator[o, i, j, first + c, (s * i + d * a) % rows, (z * j + e * b) % columns] += case.weight[o, c, a, b]
    return operator.flatten(0, 2).flatten(1)


def pairs(low: int, high: int) -> st.SearchStrategy[Pair]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Convolutions of all kinds whose kernel fits the padded image."""
    groups = draw(st.integers(1, 3))
    extent, padding, dilation = draw(pairs(1, 4)), draw(pairs(0, 3)), draw(pairs(1, 3))
    smallest = [max(1, d * (k - 1) + 1 - 2 * p) for k, p, d in zip(extent, padding, dilation, strict=True)]
    size = (smallest[0] + draw(st.integers(0, 4)), smallest[1] + draw(st.integers(0, 4)))
    shape = (groups * draw(st.integers(1, 3)), draw(st.integers(1, 3)), *extent)
    return Case(
        weight=kernel(*shape, seed=draw(st.integers(0, 2**16))),
        size=size,
        stride=draw(pairs(1, 3)),
        padding=padding,
        dilation=dilation,
        groups=groups,
    )


@st.composite
def circular_cases(draw: st.DrawFn) -> Case:
    """Circular convolutions: the stride divides the size, and the kernel may be larger than the grid."""
    groups, stride, grid = draw(st.integers(1, 3)), draw(pairs(1, 3)), draw(pairs(1, 4))
    shape = (groups * draw(st.integers(1, 3)), draw(st.integers(1, 3)), *draw(pairs(1, 4)))
    return Case(
        weight=kernel(*shape, seed=draw(st.integers(0, 2**16))),
        size=(grid[0] * stride[0], grid[1] * stride[1]),
        stride=stride,
        dilation=draw(pairs(1, 3)),
        groups=groups,
    )
