"""Spectra of whole networks against numpy's FFT and SVD, and what is said where there is none."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path  # noqa: TC003 - the signature of a cached function
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from bound_oracles import bound_of, dense_norm, one_thread, preact_state, resnet_state, subject_of, tensor
from spectrum_oracles import dense_values, folded_weight, fourier_values, histogram, quantiles, statistics

from resnet_audit.checkpoint import load
from resnet_audit.errors import UsageError
from resnet_audit.graph.execute import run
from resnet_audit.graph.from_weights import discover
from resnet_audit.graph.ir import Conv
from resnet_audit.linear import conv_singular_values
from resnet_audit.measure.subject import Subject
from resnet_audit.settings import Settings
from resnet_audit.theory.spectrum import analyse

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from resnet_audit.results import SpectrumLayer, SpectrumNumbers, SpectrumResult

_one_thread = pytest.fixture(scope="module", autouse=True)(one_thread)

RESNET20 = ("conv1", *(f"layer{s}.{b}.conv{c}" for s in (1, 2, 3) for b in range(3) for c in (1, 2)), "linear")


@cache
def trained(folder: Path) -> tuple[SpectrumResult, dict[str, torch.Tensor]]:
    checkpoint = load(str(folder / "resnet20.th"))
    graph = discover(checkpoint, Settings())
    return analyse(Subject(graph, Settings(threads=1))), dict(checkpoint.tensors)


def layer_of(result: SpectrumResult, name: str) -> SpectrumLayer:
    return next(layer for layer in result.layers if layer.name == name)


def assert_says(
    found: SpectrumLayer | SpectrumNumbers | None, values: NDArray[np.float64], block: tuple[int, int]
) -> None:
    """The statistics of `values`, to 1e-10 of the largest."""
    assert found is not None
    assert found.quantiles is not None
    assert found.histogram is not None
    tolerance = 1e-10 * float(values.max())
    for name, expected in statistics(values, block).items():
        if name == "condition" and expected is not None:
            assert found.condition == pytest.approx(expected, rel=1e-6)
        else:
            assert getattr(found, name) == (None if expected is None else pytest.approx(expected, abs=tolerance)), name
    for name, expected in quantiles(values).items():
        assert getattr(found.quantiles, name) == pytest.approx(expected, abs=tolerance)
    assert list(found.histogram.share) == pytest.approx(histogram(values), abs=1e-12)


# a trained net ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RESNET20)
def test_layers_of_resnet20_have_the_statistics_of_numpys_singular_values(checkpoints: Path, name: str) -> None:
    result, tensors = trained(checkpoints)
    weight, layer = tensors[f"{name}.weight"], layer_of(result, name)
    if name == "linear":
        assert_says(layer, np.linalg.svd(weight.double().numpy(), compute_uv=False), (10, 64))
        assert layer.grid == layer.stride == ()
        assert layer.folded is None
        return
    stride = 2 if name in {"layer2.0.conv1", "layer3.0.conv1"} else 1
    side = {"layer2": 16, "layer3": 8}.get(name[:6], 32) * stride
    block = (weight.shape[0], stride**2 * weight.shape[1])
    assert (layer.stride, layer.grid, layer.shape) == ((stride, stride), (side, side), tuple(weight.shape))
    assert_says(layer, fourier_values(weight, (side, side), (stride, stride)), block)
    norm = name.replace("conv", "bn")
    folded = folded_weight(weight, tensors[f"{norm}.weight"], tensors[f"{norm}.running_var"])
    assert_says(layer.folded, fourier_values(folded, (side, side), (stride, stride)), block)


def test_the_largest_of_resnet20_is_named(checkpoints: Path) -> None:
    result, _ = trained(checkpoints)
    tops = {layer.name: layer.sigma_max or 0.0 for layer in result.layers}
    assert result.sigma_max == max(tops.values())
    assert result.sigma_max_where == max(tops, key=lambda name: tops[name])
    assert tuple(tops) == RESNET20


def test_certificates_of_resnet20_are_those_of_the_bound(checkpoints: Path) -> None:
    result, _ = trained(checkpoints)
    graph = discover(load(str(checkpoints / "resnet20.th")), Settings())
    for layer in bound_of(graph, None).layers:
        found = layer_of(result, layer.name)
        upper = found.sigma_upper if found.folded is None else found.folded.sigma_upper
        assert upper == pytest.approx(layer.sigma_upper, rel=1e-12)
    sigmas = {layer.name: layer.folded.sigma_upper for layer in result.layers if layer.folded}
    for block in result.blocks:
        branch = sigmas[f"{block.name}.conv1"] * sigmas[f"{block.name}.conv2"]
        assert block.branch_upper == pytest.approx(branch, rel=1e-12)
        low = 0.0 if block.name in {"layer2.0", "layer3.0"} else max(0.0, 1 - branch)
        assert block.interval == pytest.approx((low, 1 + branch), rel=1e-12)


def test_every_singular_value_of_resnet56_is_numpys(checkpoints: Path) -> None:
    graph = discover(load(str(checkpoints / "resnet56.th")), Settings())
    shapes = {node.name: node.shape or () for node in graph.nodes}
    count, strided = 0, 0
    for node in graph.weight_nodes:
        if not isinstance(node.op, Conv):
            continue
        _, height, width = shapes[node.inputs[0]]
        got = conv_singular_values(node.op.weight, (height, width), node.op.stride).numpy()
        expected = fourier_values(node.op.weight, (height, width), node.op.stride)
        assert got.shape == expected.shape
        assert np.abs(got - expected).max() <= 1e-10 * expected[0], node.name
        count += got.size
        strided += node.op.stride == (2, 2)
    assert (count, strided) == (32 * 32 * (3 + 18 * 16) + 16 * 16 * (18 * 32) + 8 * 8 * (18 * 64), 2)


# small nets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grid", "stride", "groups"), [((4, 6), (2, 2), 1), ((6, 3), (2, 1), 1), ((3, 4), (1, 1), 2), ((4, 4), (2, 2), 3)]
)
def test_the_oracles_agree(grid: tuple[int, int], stride: tuple[int, int], groups: int) -> None:
    weight = tensor(np.random.default_rng(3), 2 * groups, 2, 3, 3)
    dense = dense_values(weight, grid, stride, groups)
    assert fourier_values(weight, grid, stride, groups) == pytest.approx(dense, abs=1e-12 * dense[0])


def test_a_random_net_has_the_spectra_of_its_dense_operators() -> None:
    state = resnet_state(5, widths=(2, 3), depth=1, projections=True)
    result = analyse(subject_of(state, (3, 4, 4)))
    assert len(result.layers) == 7
    for layer in result.layers:
        weight = state[f"{layer.name}.weight"]
        if layer.kind == "linear":
            assert_says(layer, np.linalg.svd(weight.numpy(), compute_uv=False), (5, 3))
            continue
        stride = (2, 2) if layer.name in {"layer2.0.conv1", "layer2.0.downsample.0"} else (1, 1)
        grid = (2, 2) if layer.name == "layer2.0.conv2" else (4, 4)
        assert (layer.stride, layer.grid) == (stride, grid)
        block = (weight.shape[0], math.prod(stride) * weight.shape[1])
        assert_says(layer, dense_values(weight, grid, stride), block)
        norm = layer.name.replace("conv", "bn").replace("sample.0", "sample.1")
        folded = folded_weight(weight, state[f"{norm}.weight"], state[f"{norm}.running_var"])
        assert_says(layer.folded, dense_values(folded, grid, stride), block)
        padding = (weight.shape[2] // 2, weight.shape[3] // 2)
        op = Conv(weight=weight, bias=None, stride=stride, padding=padding)
        assert layer.sigma_upper is not None
        assert layer.sigma_upper >= dense_norm(op, (weight.shape[1], *grid))
    tops = {layer.name: layer.sigma_max for layer in result.layers}
    assert tops[str(result.sigma_max_where)] == result.sigma_max == max(value for value in tops.values() if value)


def test_a_grid_that_the_stride_does_not_divide_is_rounded_up_and_said_to_be() -> None:
    state = resnet_state(5, widths=(2, 4), depth=1)
    result = analyse(subject_of(state, (3, 7, 5)))
    layer = layer_of(result, "layer2.0.conv1")
    assert layer.grid == (8, 6)
    assert_says(layer, dense_values(state["layer2.0.conv1.weight"], (8, 6), (2, 2)), (4, 8))
    assert layer_of(result, "layer1.0.conv1").grid == (7, 5)
    assert layer_of(result, "layer2.0.conv2").grid == (4, 3)
    assert [note.where for note in result.notes if note.code == "grid_rounded"] == ["layer2.0.conv1"]


def test_a_grid_that_the_stride_divides_is_not_said_to_be_rounded() -> None:
    result = analyse(subject_of(resnet_state(5, widths=(2, 4), depth=1), (3, 8, 4)))
    assert "grid_rounded" not in {note.code for note in result.notes}


def test_a_norm_before_its_layer_is_not_folded_into_it() -> None:
    result = analyse(subject_of(preact_state(), (3, 4, 4)))
    folded = {layer.name for layer in result.layers if layer.folded is not None}
    assert folded == {"layer1.0.conv1", "layer1.1.conv1"}  # bn2 follows conv1; conv1 is read by the shortcut too


def test_a_small_branch_leaves_an_identity_block_near_one_and_a_subsampling_block_only_below() -> None:
    state = resnet_state(5, widths=(2, 4), depth=1)
    for block in ("layer1.0", "layer2.0"):
        state[f"{block}.bn2.weight"] = state[f"{block}.bn2.weight"] / 1000
    subject = subject_of(state, (3, 4, 4))
    identity, subsampling = analyse(subject).blocks
    for block in (identity, subsampling):
        assert block.branch_upper is not None
        assert 0 < block.branch_upper < 1
        low = 1 - block.branch_upper if block is identity else 0.0
        assert block.interval == pytest.approx((low, 1 + block.branch_upper), rel=1e-12)
    fork = tensor(np.random.default_rng(1), 2, 4, 4)
    for block, found in zip(subject.graph.blocks, (identity, subsampling), strict=True):
        jacobian = torch.autograd.functional.jacobian(
            lambda x, block=block: run(subject.graph.nodes, {block.fork: x[None]}, block.join), fork
        )
        values = torch.linalg.svdvals(jacobian.reshape(-1, fork.numel()))
        assert found.interval is not None
        assert found.interval[0] <= float(values.min()) <= float(values.max()) <= found.interval[1]


def test_fast_gives_no_blocks_and_says_so() -> None:
    result = analyse(subject_of(resnet_state(5, widths=(2, 4), depth=1), (3, 4, 4), fast=True))
    assert result.blocks == ()
    assert result.inputs is None
    assert ["no blocks" in note.message for note in result.notes if note.code == "fast"] == [True]


@pytest.mark.parametrize("seed", range(3))
def test_what_fast_gives_is_exact_for_convolutions_and_close_from_below_for_matrices(seed: int) -> None:
    state = resnet_state(seed, widths=(4, 6), depth=1)
    whole, fast = (analyse(subject_of(state, (3, 8, 8), fast=fast)) for fast in (False, True))
    for slow, quick in zip(whole.layers, fast.layers, strict=True):
        assert (quick.name, quick.count) == (slow.name, slow.count)
        assert quick.sigma_max is not None
        assert slow.sigma_max is not None
        assert slow.sigma_upper is not None
        assert quick.sigma_upper is not None
        assert quick.rms == pytest.approx(slow.rms, rel=1e-12)
        if slow.kind == "conv":
            assert quick.sigma_max == pytest.approx(slow.sigma_max, rel=1e-12)
            assert quick.sigma_upper == pytest.approx(slow.sigma_upper, rel=1e-12)
        else:
            assert 0.99 * slow.sigma_max <= quick.sigma_max <= slow.sigma_max * (1 + 1e-12)
            assert slow.sigma_max <= quick.sigma_upper
            assert "estimate from below" in quick.method


# what has no spectrum -----------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_layer_that_is_no_numbers_leaves_the_others(value: float) -> None:
    state = resnet_state(5, widths=(2, 4), depth=1)
    whole = analyse(subject_of(state, (3, 4, 4)))
    broken = dict(state)
    broken["layer1.0.conv2.weight"] = state["layer1.0.conv2.weight"].clone()
    broken["layer1.0.conv2.weight"][0, 0, 0, 0] = value
    result = analyse(subject_of(broken, (3, 4, 4)))
    assert [(note.code, note.where) for note in result.notes if note.code == "nonfinite"] == [
        ("nonfinite", "layer1.0.conv2")
    ]
    for before, after in zip(whole.layers, result.layers, strict=True):
        if after.name == "layer1.0.conv2":
            assert after.sigma_max is after.count is after.sigma_upper is after.quantiles is after.folded is None
            assert after.grid == (4, 4)
        else:
            assert after == before
    assert result.blocks == ()
    others = {layer.name: layer.sigma_max for layer in result.layers if layer.sigma_max is not None}
    assert others[str(result.sigma_max_where)] == result.sigma_max == max(others.values())


@pytest.mark.parametrize(
    ("name", "value"), [("bn1.running_var", math.nan), ("bn1.running_var", -1.0), ("bn1.bias", math.nan)]
)
def test_a_norm_that_is_no_numbers_leaves_the_raw_spectra(name: str, value: float) -> None:
    state = resnet_state(5, widths=(2, 4), depth=1)
    whole = analyse(subject_of(state, (3, 4, 4)))
    broken = {**state, name: state[name].clone()}
    broken[name][0] = value
    result = analyse(subject_of(broken, (3, 4, 4)))
    assert [layer.sigma_max for layer in result.layers] == [layer.sigma_max for layer in whole.layers]
    assert layer_of(result, "conv1").folded is None
    assert result.blocks == ()
    assert "nonfinite" in {note.code for note in result.notes}


def test_a_net_of_nothing_but_broken_layers_has_no_largest() -> None:
    state = {
        name: value * (math.nan if "conv" in name or "linear" in name else 1) for name, value in resnet_state().items()
    }
    result = analyse(subject_of(state))
    assert result.sigma_max is result.sigma_max_where is None
    assert len([note for note in result.notes if note.code == "nonfinite"]) == len(result.layers) == 10


def test_a_layer_of_zeros_has_no_ranks() -> None:
    state = resnet_state(5, widths=(2, 4), depth=1)
    state["layer1.0.conv1.weight"] = torch.zeros_like(state["layer1.0.conv1.weight"])
    layer = layer_of(analyse(subject_of(state, (3, 4, 4))), "layer1.0.conv1")
    assert (layer.sigma_max, layer.sigma_min, layer.rank, layer.rms, layer.sigma_upper) == (0, 0, 0, 0, 0)
    assert layer.condition is layer.stable_rank is layer.effective_rank is None


UNKNOWN = {
    "encoder.weight": tensor(np.random.default_rng(2), 4, 3, 3, 3),
    "scale.factors": torch.ones(3, dtype=torch.float64),
    "decoder.weight": tensor(np.random.default_rng(4), 5, 4),
}


def test_an_unknown_structure_needs_a_size() -> None:
    with pytest.raises(UsageError, match=r"encoder.*--input-size"):
        analyse(subject_of(UNKNOWN, None))


def test_an_unknown_structure_has_the_spectra_of_the_size_given_and_says_so() -> None:
    result = analyse(subject_of(UNKNOWN, (3, 6, 5)))
    encoder, decoder = result.layers
    assert (encoder.grid, encoder.stride) == ((6, 5), (1, 1))
    assert_says(encoder, dense_values(UNKNOWN["encoder.weight"], (6, 5)), (4, 3))
    assert_says(decoder, np.linalg.svd(UNKNOWN["decoder.weight"].numpy(), compute_uv=False), (5, 4))
    assert encoder.folded is decoder.folded is None
    assert result.blocks == ()
    assert [note.code for note in result.notes] == ["assumed_grid"]


def test_an_unknown_structure_of_matrices_needs_no_size() -> None:
    matrices = {name: value for name, value in UNKNOWN.items() if name != "encoder.weight"}
    (layer,) = analyse(subject_of(matrices, None)).layers
    assert layer.method == "SVD of the matrix"
    assert layer.count == 4
