"""All the data as a training set: norms by numpy, margins by the sample networks as torch modules."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from measure_oracles import conv, forward, nodes_of, one_thread, small_resnet
from passes_oracles import NETS, SIZE, Sample, images, sample, write_npz
from torch import nn

from resnet_audit.errors import NonFinite, UnreadableCheckpoint
from resnet_audit.graph import ResidualGraph
from resnet_audit.graph.from_export import from_module
from resnet_audit.graph.ir import Flatten, Linear, Node
from resnet_audit.measure import Subject
from resnet_audit.measure import inputs as inputs_module
from resnet_audit.measure import training_data as module
from resnet_audit.measure.training_data import TrainingData, margins, read_training_data, rows_at_once
from resnet_audit.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

one_library_thread = pytest.fixture(autouse=True, scope="module")(one_thread)

RESNET = "digits_resnet/epoch24.pt"
files_once = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def digits(samples) -> tuple[np.ndarray, np.ndarray]:
    with np.load(samples / "digits.npz") as arrays:
        return arrays["inputs"].astype(np.float64), arrays["labels"]


def margins_by_hand(logits: np.ndarray, labels: Sequence[int]) -> list[float]:
    """The largest of the other logits is looked for with Python's own max."""
    return [
        row[label] - max(value for index, value in enumerate(row) if index != label)
        for row, label in zip(logits.tolist(), labels, strict=True)
    ]


def logits_of(found: Sample, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return found.module(torch.from_numpy(x)).numpy()


def graph_of(nodes: tuple[Node, ...], batch: int | None = None) -> ResidualGraph:
    return ResidualGraph(source="weights", family=None, nodes=nodes, blocks=(), batch=batch)


def written(folder: Path, x: np.ndarray, labels: np.ndarray | None = None) -> str:
    arrays = {"inputs": x} if labels is None else {"inputs": x, "labels": labels}
    return write_npz(folder / "data.npz", **arrays)


# against networks and norms written elsewhere -----------------------------------------------------------------------


@pytest.mark.parametrize("name", NETS)
def test_margins_are_those_of_the_torch_module_on_every_row(name, samples, digits) -> None:
    x, labels = digits
    found = sample(samples, name)
    data = read_training_data(found.graph, Settings(data=str(samples / "digits.npz"), samples=3))
    expected = margins_by_hand(logits_of(found, x), labels)
    assert data.margins is not None
    assert data.margins.dtype == torch.float64
    assert data.margins.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-11)
    wrong = int((logits_of(found, x).argmax(1) != labels).sum())
    assert data.error == wrong / 500


def test_norms_are_those_of_numpy_over_every_row(samples, digits) -> None:
    x, _ = digits
    data = read_training_data(sample(samples, RESNET).graph, Settings(data=str(samples / "digits.npz"), samples=3))
    assert (data.count, data.dimension) == (500, 64)
    assert math.sqrt(data.squares) == pytest.approx(np.linalg.norm(x), rel=1e-14)
    assert data.x_rms == pytest.approx(np.sqrt(np.mean(x**2)), rel=1e-14)
    assert data.largest_norm == pytest.approx(np.linalg.norm(x.reshape(500, -1), axis=1).max(), rel=1e-14)
    assert data.largest_entry == np.abs(x).max()


def test_the_largest_entry_may_be_negative(samples, tmp_path) -> None:
    values = images(5)
    values[2, 0, 3, 3] = -7.0
    assert (
        read_training_data(sample(samples, RESNET).graph, Settings(data=written(tmp_path, values))).largest_entry == 7
    )


def test_the_precision_of_passes_does_not_touch_margins(samples) -> None:
    graph, path = sample(samples, RESNET).graph, str(samples / "digits.npz")
    wide, narrow = (read_training_data(graph, Settings(data=path, dtype=dtype)) for dtype in ("float64", "float32"))
    assert_same(wide, narrow)


def assert_same(one: TrainingData, other: TrainingData) -> None:
    assert replace(one, margins=None) == replace(other, margins=None)
    assert one.margins is not None
    assert other.margins is not None
    assert torch.equal(one.margins, other.margins)


# properties ---------------------------------------------------------------------------------------------------------


@given(st.integers(2, 6), st.lists(st.tuples(*[st.integers(-3, 3)] * 6, st.integers(0, 5)), min_size=1, max_size=9))
def test_a_margin_is_the_logit_of_the_label_less_the_largest_other(classes, rows) -> None:
    logits = np.array([row[:classes] for row in rows], dtype=np.float64)
    labels = np.array([row[6] % classes for row in rows])
    found = margins(torch.from_numpy(logits), torch.from_numpy(labels))
    assert found.tolist() == margins_by_hand(logits, labels)


@files_once
@given(chunk=st.integers(1, 60_000), seed=st.integers(0, 5), count=st.integers(1, 40))
def test_the_size_of_a_chunk_changes_nothing(chunk, seed, count, tmp_path) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, 2, 6, 6))
    graph = graph_of(small_resnet(seed))
    path = written(tmp_path, x, rng.integers(0, 3, count))
    whole = read_training_data(graph, Settings(data=path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", chunk)
        parts = read_training_data(graph, Settings(data=path))
    assert (parts.count, parts.largest_entry) == (whole.count, whole.largest_entry)
    assert parts.squares == pytest.approx(whole.squares, rel=1e-14)
    assert parts.largest_norm == pytest.approx(whole.largest_norm, rel=1e-14)
    assert parts.margins is not None
    assert whole.margins is not None
    assert torch.allclose(parts.margins, whole.margins, rtol=1e-10, atol=1e-12)


@files_once
@given(seed=st.integers(0, 5), order=st.permutations(range(23)))
def test_margins_follow_their_rows_and_norms_do_not_see_the_order(seed, order, tmp_path) -> None:
    rng = np.random.default_rng(seed)
    x, labels = rng.standard_normal((23, 2, 6, 6)), rng.integers(0, 3, 23)
    graph = graph_of(small_resnet(seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", 5 * rows_at_once_of(graph))
        one = read_training_data(graph, Settings(data=written(tmp_path, x, labels)))
        other = read_training_data(graph, Settings(data=written(tmp_path, x[order], labels[order])))
    assert replace(one, margins=None) == replace(other, margins=None)
    assert one.margins is not None
    assert other.margins is not None
    assert torch.allclose(one.margins[order], other.margins, rtol=1e-10, atol=1e-12)


def rows_at_once_of(graph: ResidualGraph) -> int:
    """The numbers that one row takes."""
    return module.CHUNK // rows_at_once(graph)


@files_once
@given(seed=st.integers(0, 5), factor=st.sampled_from([0.25, 2.0, 1024.0]))
def test_inputs_made_larger_scale_the_norms_and_the_margins_of_a_net_without_biases(seed, factor, tmp_path) -> None:
    rng = np.random.default_rng(seed)
    x, labels = rng.standard_normal((9, 2, 6, 6)), rng.integers(0, 3, 9)
    graph = graph_of(small_resnet(seed, biases=False))
    one = read_training_data(graph, Settings(data=written(tmp_path, x, labels)))
    large = read_training_data(graph, Settings(data=written(tmp_path, factor * x, labels)))
    assert large.squares == factor**2 * one.squares
    assert (large.largest_norm, large.largest_entry) == (factor * one.largest_norm, factor * one.largest_entry)
    assert large.x_rms == pytest.approx(factor * one.x_rms, rel=1e-15)
    assert one.margins is not None
    assert large.margins is not None
    assert torch.allclose(large.margins, factor * one.margins, rtol=1e-10)
    assert large.error == one.error


def test_two_logits_are_enough(tmp_path) -> None:
    weight = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 64)))
    graph = graph_of(nodes_of(SIZE, ("flat", Flatten(), "input"), ("fc", Linear(weight=weight, bias=None), "flat")))
    labels = np.array([0, 1, 1])
    data = read_training_data(graph, Settings(data=written(tmp_path, images(3), labels)))
    logits = forward(graph.nodes, torch.from_numpy(images(3)).double())["fc"]
    assert data.margins is not None
    assert data.margins.tolist() == pytest.approx(margins_by_hand(logits.numpy(), labels), rel=1e-12)


def test_an_equal_other_logit_is_an_error(tmp_path) -> None:
    head = Linear(weight=torch.ones(3, 4, dtype=torch.float64), bias=None)
    graph = graph_of(nodes_of((1, 2, 2), ("flat", Flatten(), "input"), ("fc", head, "flat")))
    x = np.random.default_rng(0).standard_normal((5, 1, 2, 2))
    data = read_training_data(graph, Settings(data=written(tmp_path, x, np.arange(5) % 3)))
    assert data.margins is not None
    assert data.margins.tolist() == [0.0] * 5
    assert data.error == 1.0


# chunks, threads, batches -------------------------------------------------------------------------------------------


@pytest.fixture
def seen(monkeypatch) -> list[tuple[int, torch.dtype]]:
    """The number of rows and the dtype of every pass."""
    passes: list[tuple[int, torch.dtype]] = []
    own = ResidualGraph.forward

    def watched(self: ResidualGraph, x: Tensor) -> Tensor:
        passes.append((len(x), x.dtype))
        return own(self, x)

    monkeypatch.setattr(ResidualGraph, "forward", watched)
    return passes


def test_a_pass_works_on_no_more_rows_than_fit(samples, seen, monkeypatch) -> None:
    """Widest of the digits net: 8 channels of 8x8, three times, and 72 taps at 64 places."""
    graph = sample(samples, RESNET).graph
    per_row = 3 * 8 * 64 + 72 * 64
    monkeypatch.setattr(module, "CHUNK", 40 * per_row)
    read_training_data(graph, Settings(data=str(samples / "digits.npz"), threads=1))
    assert seen == [(40, torch.float64)] * 12 + [(20, torch.float64)]


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_patches_of_all_groups_are_counted(groups, monkeypatch) -> None:
    """4 channels of 8x8, three times, and 4 * 9 taps at 64 places, however the channels are grouped."""
    op = replace(conv(torch.ones(4, 4 // groups, 3, 3)), groups=groups)
    graph = graph_of(nodes_of((4, 8, 8), ("conv", op, "input")))
    monkeypatch.setattr(module, "CHUNK", 7 * (3 * 4 * 64 + 36 * 64))
    assert rows_at_once(graph) == 7


def test_weights_that_want_gradients_leave_none_in_the_margins(tmp_path) -> None:
    head = Linear(weight=torch.ones(3, 64).requires_grad_(), bias=None)
    graph = graph_of(nodes_of(SIZE, ("flat", Flatten(), "input"), ("fc", head, "flat")))
    data = read_training_data(graph, Settings(data=written(tmp_path, images(3), np.arange(3)), threads=2))
    assert data.margins is not None
    assert not data.margins.requires_grad


def test_one_row_is_always_worked_on(samples, monkeypatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 1)
    assert rows_at_once(sample(samples, RESNET).graph) == 1


def test_the_number_of_threads_changes_no_bit(samples, monkeypatch) -> None:
    graph, path = sample(samples, RESNET).graph, str(samples / "digits.npz")
    monkeypatch.setattr(module, "CHUNK", 200_000)
    one, *others = (read_training_data(graph, Settings(data=path, threads=threads)) for threads in (1, 2, 5))
    for other in others:
        assert_same(one, other)


@pytest.mark.parametrize("count", [1, 3, 7, 9])
def test_a_network_of_one_batch_gets_that_batch_and_its_filling_is_not_counted(count, tmp_path, seen) -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 3)
            self.fc = nn.Linear(36 * 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(torch.relu(self.conv(x)).reshape(3, -1))

    net = Small().eval()
    graph = replace(from_module(net, torch.zeros(3, *SIZE)), batch=3)
    x, labels = images(count), np.arange(count) % 3
    data = read_training_data(graph, Settings(data=written(tmp_path, x, labels), threads=1))
    assert {rows for rows, _ in seen} == {3}
    assert (data.count, data.squares) == (count, pytest.approx(float((x.astype(np.float64) ** 2).sum()), rel=1e-13))
    full = torch.from_numpy(np.resize(x, (9, *SIZE))).double()
    with torch.no_grad():
        logits = torch.cat([net.double()(part) for part in full.split(3)])[:count]
    assert data.margins is not None
    assert data.margins.tolist() == pytest.approx(margins_by_hand(logits.numpy(), labels), abs=1e-12)


def test_progress_counts_every_chunk_once(samples, monkeypatch) -> None:
    graph = sample(samples, RESNET).graph
    monkeypatch.setattr(module, "CHUNK", 500_000)
    told: list[tuple[str, int, int]] = []
    read_training_data(graph, Settings(data=str(samples / "digits.npz")), lambda *step: told.append(step))
    total = -(-500 // rows_at_once(graph))
    assert total > 3
    assert sorted(told) == [("training data", done, total) for done in range(1, total + 1)]


def test_without_labels_nothing_is_run(samples, tmp_path, seen) -> None:
    data = read_training_data(sample(samples, RESNET).graph, Settings(data=written(tmp_path, images(7))))
    assert (data.count, data.margins, data.error, seen) == (7, None, None, [])


# what is mapped -----------------------------------------------------------------------------------------------------


def test_a_single_array_is_mapped_and_stays_as_it_is(samples, tmp_path, monkeypatch) -> None:
    path, values = tmp_path / "images.npy", images(9)
    np.save(path, values)
    before = path.read_bytes()
    monkeypatch.setattr(inputs_module, "LARGEST_DATA", 100)
    data = read_training_data(sample(samples, RESNET).graph, Settings(data=str(path)))
    assert data.squares == pytest.approx(float((values.astype(np.float64) ** 2).sum()), rel=1e-13)
    inputs_module.read_data(str(path))["inputs"].zero_()
    assert path.read_bytes() == before


def test_an_array_that_must_be_copied_may_not_be_too_large(tmp_path, monkeypatch) -> None:
    path = tmp_path / "images.npy"
    np.save(path, images(9).astype(">f4"))
    assert torch.equal(inputs_module.read_data(str(path))["inputs"], torch.from_numpy(images(9)))
    monkeypatch.setattr(inputs_module, "LARGEST_DATA", 100)
    with pytest.raises(UnreadableCheckpoint, match="numpy file"):
        inputs_module.read_data(str(path))


# as a fact of the subject -------------------------------------------------------------------------------------------


def test_a_subject_reads_its_data_once_and_has_none_without(samples, seen) -> None:
    graph = sample(samples, RESNET).graph
    assert Subject(graph).training_data is None
    told: list[str] = []
    subject = Subject(graph, Settings(data=str(samples / "digits.npz")), lambda stage, *_: told.append(stage))
    assert subject.training_data is subject.training_data
    assert sum(rows for rows, _ in seen) == 500
    assert set(told) == {"training data"}


def test_weights_that_are_not_finite_have_no_margins(samples) -> None:
    graph = sample(samples, RESNET).graph
    next(node.op for node in graph.nodes if node.name == "linear").weight[0, 0] = math.nan
    with pytest.raises(NonFinite, match="linear holds NaN"):
        _ = Subject(graph, Settings(data=str(samples / "digits.npz"))).training_data
