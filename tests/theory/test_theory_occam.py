"""Counting bits, against zlib over one whole buffer, the formula by hand, and the figures of the trained nets."""

from __future__ import annotations

import math
import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from bound_oracles import RELU, conv, graph_of, linear, preact_state, resnet_state, scalar, subject_of, tensor
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_audit.checkpoint import load
from resnet_audit.errors import NoRule
from resnet_audit.graph.from_weights import discover
from resnet_audit.graph.ir import Activation, Conv, Flatten, Multiply, Norm, Opaque, Scale
from resnet_audit.measure.subject import Subject
from resnet_audit.settings import Settings
from resnet_audit.theory.occam import occam

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

N, DELTA = 50_000, 0.01


def added(bits: float, n_train: int = N, delta: float = DELTA) -> float:
    return math.sqrt((bits * math.log(2) + math.log(1 / delta)) / (2 * n_train))


def packed(values: Sequence[float]) -> bytes:
    """Little-endian half precision, each number packed by itself."""
    return b"".join(struct.pack("<e", value) for value in values)


@given(seed=st.integers(0, 2**16), n_train=st.integers(1, 10**7), delta=st.floats(1e-6, 0.5))
@settings(max_examples=20, deadline=None)
def test_the_bits_are_those_of_the_folded_numbers_in_order(seed: int, n_train: int, delta: float) -> None:
    folded = subject_of(resnet_state(seed)).folded
    numbers = [
        value
        for node in folded
        if hasattr(node.op, "weight")
        for part in (node.op.weight, node.op.bias)
        for value in part.flatten().tolist()
    ]
    found = occam(folded, n_train=n_train, delta=delta)
    assert found.fp32 == pytest.approx(added(32 * len(numbers), n_train, delta), rel=1e-12)
    assert found.fp16 == pytest.approx(added(16 * len(numbers), n_train, delta), rel=1e-12)
    compressed = len(zlib.compress(packed(numbers), 9))
    # A stream that is fed in parts may end in other blocks: some bytes, not more.
    assert found.zlib_fp16 == pytest.approx(added(8 * compressed, n_train, delta), rel=2e-3)


def test_weights_that_repeat_compress() -> None:
    nodes = graph_of((4, 8, 8), ("conv", conv(torch.full((64, 4, 3, 3), 0.5).double()), "input")).nodes
    found = occam(nodes, n_train=N, delta=DELTA)
    assert found.zlib_fp16 is not None
    assert found.fp16 is not None
    assert found.zlib_fp16 < found.fp16 / 4


def test_the_weight_comes_before_the_bias() -> None:
    rng = np.random.default_rng(0)
    # Deflate looks back 32 KiB: a bias that repeats the end of its weight is free, one before it would not be.
    weight = tensor(rng, 200, 100, 1, 1)
    bias = weight.flatten()[-200:].clone()
    nodes = graph_of(
        (100, 2, 2), ("conv", Conv(weight=weight, bias=bias, stride=(1, 1), padding=(0, 0)), "input")
    ).nodes
    found = occam(nodes, n_train=N, delta=DELTA).zlib_fp16
    halves = [packed(part.flatten().tolist()) for part in (weight, bias)]
    right, wrong = (added(8 * len(zlib.compress(b"".join(order), 9))) for order in (halves, halves[::-1]))
    assert found == pytest.approx(right, rel=1e-5)
    assert wrong > right * (1 + 1e-3)


def test_a_norm_left_alone_is_two_numbers_a_channel() -> None:
    folded = subject_of(preact_state(width=4)).folded
    assert sum(isinstance(node.op, Norm) for node in folded) == 3  # the first of each block, and the last
    stem, layers, biases, head = 4 * 3 * 9, 4 * (4 * 4 * 9), 2 * 4, 5 * 4
    numbers = stem + layers + biases + head + 3 * 2 * 4
    assert occam(folded, n_train=N, delta=DELTA).fp32 == pytest.approx(added(32 * numbers), rel=1e-12)


def test_constants_that_may_have_been_learned_are_counted() -> None:
    nodes = graph_of(
        (1, 1, 1),
        ("conv", scalar(2.0, 1.0), "input"),
        ("gain", Scale(factor=torch.ones(1, 3, 1, 1)), "conv"),
        ("half", Scale(factor=0.5), "gain"),
        ("leaky", Activation(kind="leaky_relu", slope=0.1), "half"),
        ("prelu", Activation(kind="prelu", slopes=torch.tensor([0.1, 0.2, 0.3])), "leaky"),
        ("relu", RELU, "prelu"),
    ).nodes
    assert occam(nodes, n_train=N, delta=DELTA).fp16 == pytest.approx(added(16 * 10), rel=1e-12)


@pytest.mark.parametrize(
    ("weight", "halves", "singles"), [(65504.0, True, True), (65536.0, False, True), (1e39, False, False)]
)
def test_a_number_that_the_format_cannot_hold_leaves_no_bound(weight: float, *, halves: bool, singles: bool) -> None:
    found = occam(graph_of((1, 1, 1), ("conv", scalar(weight), "input")).nodes, n_train=N, delta=DELTA)
    assert (found.fp16 is not None) == (found.zlib_fp16 is not None) == halves
    assert (found.fp32 is not None) == singles


def test_a_gate_has_nothing_to_store_and_an_unknown_operation_may_have() -> None:
    gated = graph_of((1, 2, 2), ("conv", scalar(2), "input"), ("gate", Multiply(), "conv", "input")).nodes
    assert occam(gated, n_train=N, delta=DELTA).fp32 == pytest.approx(added(32), rel=1e-12)
    hidden = Opaque(name="embedding", weights=(torch.ones(3),))
    nodes = graph_of((2, 1, 1), ("flat", Flatten(), "input"), ("fc", linear((1, 2)), "flat")).nodes
    unknown = (*nodes, type(nodes[0])(name="unknown", op=hidden, inputs=("fc",), shape=(1,)))
    with pytest.raises(NoRule, match="parameters"):
        occam(unknown, n_train=N, delta=DELTA)


@pytest.mark.parametrize(
    ("depth", "count", "note", "packed_here"),
    [
        (20, 269_034, (7.73, 5.46, 5.29), 5.266),
        (32, 463_018, (10.13, 7.17, 6.95), 6.920),
        (44, 657_002, (12.07, 8.54, 8.27), 8.243),
        (56, 850_986, (13.74, 9.72, 9.42), 9.390),
    ],
)
def test_trained_nets_have_the_bits_of_the_theory_note(
    checkpoints: Path, depth: int, count: int, note: tuple[float, float, float], packed_here: float
) -> None:
    """Theory note `bound`, 5. Its zlib column is of all float tensors of the file, unfolded, running statistics too."""
    chosen = Settings(threads=1)
    checkpoint = load(str(checkpoints / f"resnet{depth}.th"))
    found = occam(Subject(discover(checkpoint, chosen), chosen).folded, n_train=N, delta=DELTA)
    assert found.fp32 == pytest.approx(added(32 * count), rel=1e-12)
    assert (found.fp32, found.fp16) == pytest.approx(note[:2], abs=6e-3)
    assert found.zlib_fp16 == pytest.approx(packed_here, abs=2e-3)
    floats = [tensor for tensor in checkpoint.tensors.values() if tensor.is_floating_point()]
    unfolded = b"".join(tensor.half().numpy().astype("<f2").tobytes() for tensor in floats)
    assert added(8 * len(zlib.compress(unfolded, 9))) == pytest.approx(note[2], abs=6e-3)
