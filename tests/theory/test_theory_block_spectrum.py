"""Measured spectra of blocks against torch's Jacobians decomposed whole, and what is said where there is none."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from bound_oracles import conv, graph_of, one_thread, preact_state, resnet_state, subject_of, tensor
from torch.nn import functional

from resnet_audit.checkpoint import load
from resnet_audit.graph.execute import run
from resnet_audit.graph.from_weights import discover
from resnet_audit.graph.ir import Activation, Add, Concat, Opaque
from resnet_audit.measure.subject import Subject
from resnet_audit.settings import Settings
from resnet_audit.theory import block_spectrum
from resnet_audit.theory.block_spectrum import measure_blocks
from resnet_audit.theory.spectrum import analyse

if TYPE_CHECKING:
    from pathlib import Path

    from resnet_audit.graph import ResidualGraph
    from resnet_audit.graph.blocks import Block
    from resnet_audit.results import SpectrumBlock

_one_thread = pytest.fixture(scope="module", autouse=True)(one_thread)

RELU = Activation(kind="relu")
NETS = {
    "padded transitions": (resnet_state(5, widths=(2, 4), depth=2), (3, 7, 8)),
    "projections": (resnet_state(6, widths=(2, 3), depth=1, projections=True), (3, 6, 6)),
    "norms first": (preact_state(2), (3, 5, 6)),
}


def concatenating(seed: int = 0) -> ResidualGraph:
    rng = np.random.default_rng(seed)
    kernels = [conv(tensor(rng, c_out, c_in, 3, 3) / 2) for c_out, c_in in ((3, 2), (2, 3), (2, 5))]
    stem, one, two = kernels
    return graph_of(
        (2, 5, 5),
        ("stem", stem, "input"),
        ("a", RELU, "stem"),
        ("one", one, "a"),
        ("first", Concat(), "stem", "one"),
        ("b", RELU, "first"),
        ("two", two, "b"),
        ("second", Concat(), "first", "two"),
        ("head", conv(tensor(rng, 2, 7, 1, 1)), "second"),
    )


def jacobians(subject: Subject, block: Block) -> list[torch.Tensor]:
    """Torch's Jacobian of the block, join over fork, at each input: by the graph as found, norms not folded."""
    nodes = subject.graph.nodes
    found = []
    for x in subject.inputs.values[: block_spectrum.MOST_SAMPLES]:
        fork = run(nodes, {nodes[0].name: x[None]}, block.fork)[0]
        jacobian = torch.autograd.functional.jacobian(lambda v: run(nodes, {block.fork: v[None]}, block.join)[0], fork)
        found.append(jacobian.reshape(-1, fork.numel()))
    return found


def shortcut(subject: Subject, block: Block) -> torch.Tensor:
    """The shortcut's Jacobian, which is the same everywhere: it is linear in these nets."""
    nodes, by_name = subject.graph.nodes, subject.graph.by_name
    reader, position = block.skip_edge
    end = by_name[reader].inputs[position]
    shape = by_name[block.fork].shape or ()
    fork = torch.zeros(shape, dtype=torch.float64)
    if end == block.fork:
        return torch.eye(fork.numel(), dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda v: run(nodes, {block.fork: v[None]}, end)[0], fork)
    return jacobian.reshape(-1, fork.numel())


def subject(name: str, **settings: float | str | None) -> Subject:
    chosen = {"dtype": "float64", **settings}
    if name == "concatenations":
        return subject_of(concatenating(), (2, 5, 5), **chosen)
    state, size = NETS[name]
    return subject_of(state, size, **chosen)


def block_rows(found: Subject) -> dict[str, SpectrumBlock]:
    return {row.name: row for row in analyse(found).blocks}


def mean(values: list[torch.Tensor], function: object) -> float:
    return sum(float(function(v).double().mean()) for v in values) / len(values)  # type: ignore[operator]  # a lambda


def near(values: torch.Tensor) -> torch.Tensor:
    return (values >= 0.9) & (values <= 1.1)


def distance(values: torch.Tensor) -> torch.Tensor:
    return (values - 1).abs()


# exact and estimated ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*NETS, "concatenations"])
def test_small_blocks_have_the_singular_values_of_torchs_jacobians(name: str) -> None:
    found = subject(name)
    rows = block_rows(found)
    assert rows
    for block in found.graph.blocks:
        row, values = rows[block.name], [torch.linalg.svdvals(j) for j in jacobians(found, block)]
        assert (row.method, row.samples, row.count) == ("SVD of the Jacobian", 3, len(values[0]))
        assert row.block_sigma_max == pytest.approx(max(float(v[0]) for v in values), rel=1e-10)
        assert row.near_one == pytest.approx(mean(values, near), abs=1e-12)
        assert row.mean_deviation == pytest.approx(mean(values, distance), rel=1e-10)
        assert row.branch_residual == row.block_residual == 0.0


@pytest.mark.parametrize("name", NETS)
def test_the_branch_is_the_block_without_its_shortcut(name: str) -> None:
    found = subject(name)
    rows = block_rows(found)
    for block in found.graph.blocks:
        skip = shortcut(found, block)
        tops = [float(torch.linalg.matrix_norm(j - skip, 2)) for j in jacobians(found, block)]
        assert rows[block.name].branch_sigma_max == pytest.approx(max(tops), rel=1e-10)


def test_a_concatenation_keeps_its_input_beside_its_branch() -> None:
    for row in block_rows(subject("concatenations")).values():
        assert row.branch_sigma_max is not None
        assert row.block_sigma_max == pytest.approx(math.hypot(1.0, row.branch_sigma_max), rel=1e-12)
        assert row.interval_measured is None


@pytest.mark.parametrize("name", [*NETS, "concatenations"])
def test_estimates_are_below_the_exact_value_which_is_below_the_certified(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = block_rows(subject(name))
    monkeypatch.setattr(block_spectrum, "DENSE", 0)
    for name_of_block, row in block_rows(subject(name)).items():
        true = exact[name_of_block]
        assert row.method is not None
        assert row.method.startswith("Lanczos, ")
        for key, upper in (("branch", row.branch_upper), ("block", row.interval and row.interval[1])):
            value, top = getattr(row, f"{key}_sigma_max"), getattr(true, f"{key}_sigma_max")
            assert 0.995 * top <= value <= top * (1 + 1e-12)
            assert upper is None or top <= upper
        assert row.near_one_error is not None
        assert row.near_one == pytest.approx(true.near_one, abs=3 * row.near_one_error + 0.02)
        assert row.mean_deviation_error is not None
        assert row.mean_deviation == pytest.approx(true.mean_deviation, abs=4 * row.mean_deviation_error + 1e-12)


def test_a_density_of_a_larger_block_is_within_its_error() -> None:
    found = subject_of(resnet_state(3, widths=(8,), depth=2), (3, 10, 10), dtype="float64")
    for block, row in zip(found.graph.blocks, analyse(found).blocks, strict=True):
        assert row.method is not None
        assert row.method.startswith("Lanczos")
        values = [torch.linalg.svdvals(j) for j in jacobians(found, block)]
        assert row.block_sigma_max == pytest.approx(max(float(v[0]) for v in values), rel=1e-3)
        assert row.near_one_error is not None
        assert row.mean_deviation_error is not None
        assert abs((row.near_one or 0) - mean(values, near)) <= row.near_one_error
        assert abs((row.mean_deviation or 0) - mean(values, distance)) <= 3 * row.mean_deviation_error


def test_standard_errors_cover_the_truth_as_often_as_they_should() -> None:
    off: dict[str, list[float]] = {"near_one": [], "mean_deviation": []}
    for seed in range(8):
        found = subject_of(resnet_state(seed, widths=(4,), depth=2), (3, 9, 9), dtype="float64", seed=seed)
        for block, row in zip(found.graph.blocks, analyse(found).blocks, strict=True):
            values = [torch.linalg.svdvals(j) for j in jacobians(found, block)]
            for key, function in (("near_one", near), ("mean_deviation", distance)):
                off[key].append(abs(getattr(row, key) - mean(values, function)) / getattr(row, f"{key}_error"))
    # Here the spectra are wide, and the share's error is a bound for what lies between two Ritz values.
    assert max(off["near_one"]) <= 1
    assert sum(z <= 2 for z in off["mean_deviation"]) >= 15
    assert sum(z > 0.25 for z in off["mean_deviation"]) >= 8  # nor are they far too large


# Weyl -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 1e-2])
@pytest.mark.parametrize("name", NETS)
def test_every_singular_value_of_an_identity_block_lies_in_weyls_interval(name: str, scale: float) -> None:
    state, size = NETS[name]
    small = {key: value * (scale if ".conv2." in key else 1.0) for key, value in state.items()}
    found = subject_of(small, size, dtype="float64")
    for block, row in zip(found.graph.blocks, analyse(found).blocks, strict=True):
        if block.skip_kind != "identity":
            assert row.interval_measured is None
            continue
        assert row.interval_measured is not None
        assert row.branch_sigma_max is not None
        low, high = row.interval_measured
        assert (low, high) == (max(0.0, 1 - row.branch_sigma_max), 1 + row.branch_sigma_max)
        for jacobian in jacobians(found, block):
            values = torch.linalg.svdvals(jacobian)
            assert low - 1e-12 <= float(values.min())
            assert float(values.max()) <= high + 1e-12
        assert row.interval is not None
        assert row.interval[0] <= low
        assert high <= row.interval[1]


def test_a_block_whose_branch_is_dead_is_the_identity() -> None:
    state, size = NETS["padded transitions"]
    dead = {key: value * (0.0 if key.startswith("layer1.0.bn2.weight") else 1.0) for key, value in state.items()}
    row = block_rows(subject_of(dead, size, dtype="float64"))["layer1.0"]
    assert (row.branch_sigma_max, row.near_one, row.near_one_error) == (0.0, 1.0, 0.0)
    assert row.block_sigma_max == pytest.approx(1.0)
    assert row.interval_measured == (1.0, 1.0)


# inputs, samples, threads -----------------------------------------------------------------------------


def test_a_wide_network_is_measured_at_fewer_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    state, size = NETS["norms first"]
    pixels, kernel = 30, 4 * 4 * 9
    monkeypatch.setattr(block_spectrum, "MULTIPLICATIONS", 2.5 * 4 * kernel * pixels)  # of four layers
    result = analyse(subject_of(state, size))
    assert {row.samples for row in result.blocks} == {2}
    assert result.inputs is not None
    assert result.inputs.n == 2
    monkeypatch.setattr(block_spectrum, "MULTIPLICATIONS", 1.0)
    assert {row.samples for row in analyse(subject_of(state, size)).blocks} == {1}
    assert {row.samples for row in analyse(subject_of(state, size, samples=3)).blocks} == {1}


def test_a_graph_that_takes_a_fixed_number_of_inputs_is_measured_at_all_of_them() -> None:
    found = subject("norms first")
    fixed = Subject(replace(found.graph, batch=7), found.settings)
    assert {row.samples for row in analyse(fixed).blocks} == {7}


def test_the_inputs_are_the_subjects_and_the_result_says_which_and_how_many() -> None:
    found = subject("norms first", samples=2, inputs="gaussian")
    result = analyse(found)
    assert result.inputs is not None
    assert (result.inputs.kind, result.inputs.n) == ("gaussian", 2)
    assert result.notes == ()


@pytest.mark.parametrize("dense", [0, 256])
def test_the_numbers_are_the_same_on_any_number_of_threads(dense: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_spectrum, "DENSE", dense)
    one, two = (
        measure_blocks(s, s.blocks)
        for n in (1, 2)
        for f in [_net()]
        for s in [Subject(f.graph, replace(f.settings, threads=n))]
    )
    assert one == two


@cache
def _net() -> Subject:
    return subject("padded transitions")


# what cannot be measured ------------------------------------------------------------------------------


def attention(x: torch.Tensor) -> torch.Tensor:
    return functional.scaled_dot_product_attention(x, x, x)


def flash(x: torch.Tensor) -> torch.Tensor:
    value, _ = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(x, x, x)
    return value


def attending(function: object) -> ResidualGraph:
    """Two blocks of one convolution each; the second is followed by an operation known only as a function."""
    rng = np.random.default_rng(1)
    first, second = (conv(tensor(rng, 2, 2, 1, 1)) for _ in range(2))
    graph = graph_of(
        (2, 4, 5),
        ("stem", conv(tensor(rng, 2, 2, 3, 3)), "input"),
        ("a", first, "stem"),
        ("one", Add(), "a", "stem"),
        ("b", second, "one"),
        ("c", RELU, "b"),
        ("two", Add(), "c", "one"),
    )
    op = Opaque(name="attention", function=function)  # type: ignore[arg-type]  # of a test
    nodes = tuple(replace(node, op=op) if node.name == "c" else node for node in graph.nodes)
    return replace(graph, nodes=nodes)


def test_attention_has_a_measured_jacobian() -> None:
    found = subject_of(attending(attention), (2, 4, 5), dtype="float64", samples=3)
    for block, row in zip(found.graph.blocks, analyse(found).blocks, strict=True):
        tops = [float(torch.linalg.matrix_norm(j, 2)) for j in jacobians(found, block)]
        assert row.block_sigma_max == pytest.approx(max(tops), rel=1e-10)


def test_a_block_without_a_tangent_is_null_with_a_note_and_the_others_are_measured() -> None:
    result = analyse(subject_of(attending(flash), (2, 4, 5), dtype="float64"))
    one, two = result.blocks
    assert one.block_sigma_max is not None
    assert two.block_sigma_max is two.branch_sigma_max is two.near_one is two.samples is two.method is None
    (note,) = [note for note in result.notes if note.where == two.name]
    assert note.code == "no_rule"
    assert "the tangent of Opaque" in note.message


def test_a_pass_that_overflows_leaves_the_certificates_and_says_what_reaches_further() -> None:
    state, size = NETS["norms first"]
    huge = {key: value * (1e20 if key.endswith("conv1.weight") else 1.0) for key, value in state.items()}
    result = analyse(subject_of(huge, size, dtype="float32"))
    assert all(row.block_sigma_max is None for row in result.blocks)
    assert all(row.branch_upper is not None for row in result.blocks)
    (note,) = [note for note in result.notes if note.code == "nonfinite"]
    assert "--dtype float64" in note.message
    assert all(row.block_sigma_max is not None for row in analyse(subject_of(huge, size, dtype="float64")).blocks)


# a trained net ----------------------------------------------------------------------------------------


@cache
def resnet56(folder: Path, inputs: str) -> dict[str, SpectrumBlock]:
    graph = discover(load(str(folder / "resnet56.th")), Settings())
    found = Subject(graph, Settings(threads=2, inputs=inputs))  # type: ignore[arg-type]  # one of the literals
    measured, _, _ = measure_blocks(found, found.blocks)
    return measured  # type: ignore[return-value]  # the same names


@pytest.mark.parametrize(
    ("name", "branch", "block"),
    [
        ("layer1.4", 1.721, 1.843),
        ("layer2.4", 1.518, 1.962),
        ("layer3.4", 3.638, 3.935),
        ("layer3.8", 5.279, 6.011),
    ],
)
def test_blocks_of_resnet56_on_gaussian_noise_are_of_the_size_in_the_theory_note(
    checkpoints: Path, name: str, branch: float, block: float
) -> None:
    # Section 4 of the note: one input of unknown noise; here the largest over three.
    row = resnet56(checkpoints, "gaussian")[name]
    assert row.branch_sigma_max == pytest.approx(branch, rel=0.25)
    assert row.block_sigma_max == pytest.approx(block, rel=0.15)


def test_most_singular_values_of_a_trained_block_are_near_one(checkpoints: Path) -> None:
    # Section 4: 72 % in [0.9, 1.1] and mean |sigma - 1| 0.106 for the dense Jacobian of layer3.4 at one input.
    row = resnet56(checkpoints, "gaussian")["layer3.4"]
    assert row.near_one == pytest.approx(0.72, abs=0.08)
    assert row.mean_deviation == pytest.approx(0.106, abs=0.02)


def test_estimates_of_resnet20_are_below_their_certificates(checkpoints: Path) -> None:
    graph = discover(load(str(checkpoints / "resnet20.th")), Settings())
    for row in analyse(Subject(graph, Settings(threads=2))).blocks:
        assert row.branch_sigma_max is not None
        assert row.block_sigma_max is not None
        assert row.branch_upper is not None
        assert row.interval is not None
        assert row.branch_sigma_max <= row.branch_upper
        assert row.block_sigma_max <= row.interval[1]
        assert row.block_residual is not None
        assert row.block_residual <= 2e-3 * row.block_sigma_max


@pytest.mark.long
def test_the_density_of_a_trained_block_is_that_of_its_dense_jacobian(checkpoints: Path) -> None:
    graph = discover(load(str(checkpoints / "resnet56.th")), Settings())
    found = Subject(graph, Settings(threads=2, samples=1, dtype="float64"))
    measured, _, _ = measure_blocks(found, found.blocks)
    for block in graph.blocks:
        if block.name in {"layer3.1", "layer3.4", "layer3.8"}:
            (jacobian,) = jacobians(found, block)
            values, row = torch.linalg.svdvals(jacobian), measured[block.name]
            assert row.block_sigma_max == pytest.approx(float(values[0]), rel=1e-6)
            assert row.near_one == pytest.approx(float(near(values).double().mean()), abs=2 * row.near_one_error)
            assert row.mean_deviation == pytest.approx(float(distance(values).mean()), abs=3 * row.mean_deviation_error)
