"""Data that cannot be a training set: each is refused in one line that names the file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from measure_oracles import conv, nodes_of, one_thread
from passes_oracles import SIZE, images, sample, write_npz

from resnet_audit.errors import AuditError, NonFinite, NotRunnable, UnreadableCheckpoint, UsageError
from resnet_audit.graph import ResidualGraph
from resnet_audit.graph.ir import Flatten, Input, Linear, Node
from resnet_audit.measure import training_data as module
from resnet_audit.measure.training_data import read_training_data
from resnet_audit.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

one_library_thread = pytest.fixture(autouse=True, scope="module")(one_thread)

RESNET = "digits_resnet/epoch24.pt"


def graph_of(nodes: tuple[Node, ...]) -> ResidualGraph:
    return ResidualGraph(source="weights", family=None, nodes=nodes, blocks=())


def written(folder: Path, x: np.ndarray, labels: np.ndarray | None = None) -> str:
    arrays = {"inputs": x} if labels is None else {"inputs": x, "labels": labels}
    return write_npz(folder / "data.npz", **arrays)


def refused(graph: ResidualGraph, path: str, expected: type[AuditError], match: str) -> None:
    with pytest.raises(expected, match=match) as caught:
        read_training_data(graph, Settings(data=path))
    assert "\n" not in str(caught.value)
    assert path in str(caught.value)


@pytest.mark.parametrize("label", [-1, 10, 2**40])
def test_a_label_outside_the_classes_is_refused(label, samples, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(ResidualGraph, "forward", None)
    path = written(tmp_path, images(6), np.array([0, 1, 2, 3, 4, label]))
    refused(sample(samples, RESNET).graph, path, UsageError, "a label lies outside the 10 classes of the network; give")


def test_every_row_must_be_finite(samples, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 20_000)
    for number in (np.nan, np.inf, -np.inf):
        values = images(40)
        values[39, 0, 7, 7] = number
        refused(sample(samples, RESNET).graph, written(tmp_path, values), UsageError, "some inputs are not finite")


def test_inputs_of_nothing_and_inputs_too_large_to_square_are_refused(samples, tmp_path) -> None:
    graph = sample(samples, RESNET).graph
    refused(graph, written(tmp_path, np.zeros((3, *SIZE))), UsageError, "inputs that are all 0; .*; save those")
    refused(graph, written(tmp_path, np.full((3, *SIZE), 1e200)), UsageError, "inputs whose squares overflow; ")


def test_what_are_not_images_of_the_network_is_refused_in_the_words_of_the_measurements(samples, tmp_path) -> None:
    graph = sample(samples, RESNET).graph
    refused(graph, written(tmp_path, np.zeros((6, *SIZE), np.uint8)), UsageError, "not normalised images of 1x8x8;")
    refused(graph, written(tmp_path, images(6)[:, :, :5]), UsageError, "not normalised images of 1x8x8;")
    refused(graph, written(tmp_path, images(6), np.arange(5)), UsageError, "one integer for each of the 6 inputs")
    refused(graph, str(tmp_path / "none.npz"), UnreadableCheckpoint, "no such file")


OUTPUTS = {
    "one logit": (("flat", Flatten(), "input"), ("fc", Linear(weight=torch.ones(1, 64), bias=None), "flat")),
    "a map": (("conv", conv(torch.ones(10, 1, 3, 3)), "input"),),
}


@pytest.mark.parametrize("nodes", OUTPUTS.values(), ids=OUTPUTS)
def test_labels_for_an_output_without_classes_are_refused_and_the_norms_are_not(nodes, tmp_path) -> None:
    graph = graph_of(nodes_of(SIZE, *nodes))
    refused(graph, written(tmp_path, images(3), np.zeros(3, int)), UsageError, "labels for a network whose output is")
    assert read_training_data(graph, Settings(data=written(tmp_path, images(3)))).count == 3


def test_a_pass_that_overflows_is_reported_as_undefined(tmp_path) -> None:
    weight = torch.full((3, 64), 1e308, dtype=torch.float64)
    graph = graph_of(nodes_of(SIZE, ("flat", Flatten(), "input"), ("fc", Linear(weight=weight, bias=None), "flat")))
    with pytest.raises(NonFinite, match="overflows float64"):
        read_training_data(graph, Settings(data=written(tmp_path, np.ones((2, *SIZE)), np.zeros(2, int))))


def test_token_models_unrunnable_graphs_and_no_data_are_refused(samples, tmp_path) -> None:
    source = Node(name="input", op=Input(vocabulary=50), shape=(8,))
    path = written(tmp_path, images(3))
    with pytest.raises(UsageError, match="--data holds images; token models"):
        read_training_data(graph_of((source,)), Settings(data=path))
    broken = ResidualGraph(source="weights", family=None, nodes=(), blocks=(), runnable_reason="no stem")
    with pytest.raises(NotRunnable, match="no stem"):
        read_training_data(broken, Settings(data=path))
    with pytest.raises(UsageError, match="without --data"):
        read_training_data(sample(samples, RESNET).graph, Settings())
