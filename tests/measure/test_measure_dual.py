"""Dual numbers: the series they multiply, and what the whole of a fast analysis may cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from passes_oracles import NETS, SIZE
from torch.nn import functional as F

from resnet_audit.checkpoint import load
from resnet_audit.graph import discover
from resnet_audit.graph.backward import Polynomial
from resnet_audit.graph.ir import Conv
from resnet_audit.measure import Subject
from resnet_audit.measure.dual import ORDER, dual_moments, times_one_plus_e
from resnet_audit.settings import Settings
from resnet_audit.theory import ensemble

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


def subject_of(folder: Path, name: str, **settings: object) -> Subject:
    chosen = Settings(**{"input_size": SIZE, "samples": 5, "threads": 1, "dtype": "float64", **settings})
    return Subject(discover(load(str(folder / name)), chosen), chosen)


@pytest.mark.parametrize("terms", range(1, ORDER + 1))
def test_the_series_is_multiplied_as_a_polynomial_and_cut(terms: int) -> None:
    given = torch.randn(terms, 2, 3, 4, 5, generator=torch.Generator().manual_seed(terms), dtype=torch.float64)
    before = given.clone()
    found = times_one_plus_e(Polynomial(0, given))
    columns = [np.polynomial.polynomial.polymul(column, [1.0, 1.0])[:ORDER] for column in given.flatten(1).T.numpy()]
    assert found.low == 0
    assert found.coefficients.flatten(1).T.numpy() == pytest.approx(np.array(columns), rel=1e-15)
    assert torch.equal(given, before)


@pytest.mark.parametrize("net", NETS)
def test_gains_seen_by_the_dual_pass_are_those_of_the_passages(net: str, samples: Path) -> None:
    subject = subject_of(samples, net, objective="random")
    found = np.sqrt(dual_moments(subject).blocks)
    parts = [(passage.join, passage.branch, passage.skip) for passage in subject.passages]
    expected = [[float(part.norm()) for part in row] for row in parts]
    assert len(expected) > 0
    assert found == pytest.approx(np.array(expected), rel=1e-12)


@pytest.mark.parametrize("net", NETS)
def test_a_fast_analysis_passes_every_convolution_once_forward_and_once_back(
    net: str, samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside autograd's backward pass, which these functions do not see; and maps keep their channels innermost."""
    forward: list[int] = []
    back: list[Tensor] = []
    convolve, transpose = F.conv2d, F.conv_transpose2d

    def forth(x: Tensor, *rest: object) -> Tensor:
        forward.append(len(x))
        return convolve(x, *rest)

    def returned(cotangent: Tensor, *rest: object) -> Tensor:
        back.append(cotangent)
        return transpose(cotangent, *rest)

    subject = subject_of(samples, net, fast=True)
    _ = (subject.fold, subject.inputs)
    monkeypatch.setattr(F, "conv2d", forth)
    monkeypatch.setattr(F, "conv_transpose2d", returned)
    ensemble.analyse(subject)
    places = {node.name: place for place, node in enumerate(subject.folded)}
    convolutions = [node.name for node in subject.folded if isinstance(node.op, Conv)]
    behind = [name for name in convolutions if places[name] > places[subject.start]]
    assert forward == [5] * len(convolutions)
    assert len(back) == len(behind)
    assert {len(cotangent) for cotangent in back[-4:]} == {ORDER * 5}
    assert all(cotangent.is_contiguous(memory_format=torch.channels_last) for cotangent in back[-4:])
