"""Batch statistics measured anew: the oracle is torch in training mode, with all rows as one batch."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from passes_oracles import NETS, Sample, images, sample, write_npz
from torch import nn

from resnet_audit.errors import NotCalibrated, NotRunnable, UsageError
from resnet_audit.graph.ir import Input, Norm
from resnet_audit.measure import Subject
from resnet_audit.measure import recalibrate as module
from resnet_audit.measure.recalibrate import is_calibrated, recalibrated, statistics
from resnet_audit.settings import Settings
from resnet_audit.theory import ensemble, gradient

if TYPE_CHECKING:
    from pathlib import Path

    from resnet_audit.graph import ResidualGraph

RESNET = "digits_resnet/epoch24.pt"


def trained_mode(net: nn.Module, values: torch.Tensor) -> nn.Module:
    """A copy in evaluation mode after one pass in training mode, whose average is over that one batch."""
    net = copy.deepcopy(net).train()
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.reset_running_stats()
            norm.momentum = None
    with torch.no_grad():
        net(values)
    return net.eval()


def norms_of(graph: ResidualGraph) -> dict[str, Norm]:
    return {node.name: node.op for node in graph.nodes if isinstance(node.op, Norm)}


def fresh(graph: ResidualGraph) -> ResidualGraph:
    """The graph with the statistics of a network that has seen no batch."""
    return replace(
        graph,
        nodes=tuple(
            replace(node, op=replace(node.op, mean=torch.zeros_like(node.op.mean), var=torch.ones_like(node.op.var)))
            if isinstance(node.op, Norm)
            else node
            for node in graph.nodes
        ),
    )


@pytest.fixture(params=NETS)
def net(request: pytest.FixtureRequest, samples: Path) -> Sample:
    return sample(samples, request.param)


# the statistics -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "rel"), [("float64", 1e-11), ("float32", 2e-5)])
def test_statistics_are_those_of_torch_in_training_mode(net: Sample, dtype: str, rel: float, tmp_path: Path) -> None:
    values = images(37)
    settings = Settings(data=write_npz(tmp_path / "d.npz", inputs=values), dtype=dtype, threads=1)
    found = recalibrated(fresh(net.graph), settings)
    expected = trained_mode(net.module, torch.from_numpy(values).double())
    assert (found.count, found.left_out) == (37, 0)
    modules = {name: m for name, m in expected.named_modules() if isinstance(m, nn.BatchNorm2d)}
    ours = norms_of(found.graph)
    assert len(ours) == len(modules) > 10
    for name, norm in modules.items():
        scale = float(norm.running_var.sqrt().max())
        assert torch.allclose(ours[name].mean.double(), norm.running_mean, rtol=rel, atol=rel * scale), name
        assert torch.allclose(ours[name].var.double(), norm.running_var, rtol=rel, atol=0), name


def test_the_recalibrated_network_computes_what_torchs_does(net: Sample, tmp_path: Path) -> None:
    values = images(20)
    settings = Settings(data=write_npz(tmp_path / "d.npz", inputs=values), dtype="float64", threads=1)
    found = recalibrated(fresh(net.graph), settings).graph
    tensor = torch.from_numpy(images(6, seed=1)).double()
    with torch.no_grad():
        expected = trained_mode(net.module, torch.from_numpy(values).double())(tensor)
    assert torch.allclose(found.forward(tensor), expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


@pytest.mark.parametrize("name", NETS)
def test_the_training_images_give_back_the_statistics_that_a_sample_was_shipped_with(
    name: str, samples: Path, tmp_path: Path
) -> None:
    """The samples were written after torch had measured them on the whole training split."""
    datasets = pytest.importorskip("sklearn.datasets")
    split = pytest.importorskip("sklearn.model_selection").train_test_split
    pixels, labels = datasets.load_digits(return_X_y=True)
    train, _ = split(pixels, test_size=500, stratify=labels, random_state=0)
    values = ((train - train.mean()) / train.std()).astype(np.float32).reshape(-1, 1, 8, 8)
    graph = sample(samples, name).graph
    settings = Settings(data=write_npz(tmp_path / "d.npz", inputs=values), threads=1)
    found = recalibrated(fresh(graph), settings)
    assert found.count == 1297
    for norm, shipped in norms_of(graph).items():
        scale = float(shipped.var.max()) ** 0.5
        ours = norms_of(found.graph)[norm]
        assert torch.allclose(ours.mean.float(), shipped.mean, rtol=1e-3, atol=1e-4 * scale), norm
        assert torch.allclose(ours.var.float(), shipped.var, rtol=1e-3), norm


@pytest.mark.parametrize("rows", [1, 7, 36, 100])
def test_the_cut_into_chunks_changes_rounding_alone(
    rows: int, net: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(data=write_npz(tmp_path / "d.npz", inputs=images(37)), dtype="float64", threads=1)
    whole = norms_of(recalibrated(net.graph, settings).graph)
    monkeypatch.setattr(module, "rows_at_once", lambda _: rows)
    for name, op in norms_of(recalibrated(net.graph, settings).graph).items():
        assert torch.allclose(op.mean, whole[name].mean, rtol=1e-11, atol=1e-12)
        assert torch.allclose(op.var, whole[name].var, rtol=1e-11)


def test_means_far_from_0_cost_the_variance_no_digits() -> None:
    values = 1e6 + torch.randn(50, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean, biased, unbiased = statistics(values.split(7))
    columns = values.transpose(0, 1).flatten(1)
    assert torch.allclose(mean, columns.mean(1), rtol=1e-14)
    assert torch.allclose(biased, columns.var(1, unbiased=False), rtol=1e-9)
    assert torch.allclose(unbiased, columns.var(1), rtol=1e-9)


def test_all_but_the_statistics_is_as_before(net: Sample, tmp_path: Path) -> None:
    settings = Settings(data=write_npz(tmp_path / "d.npz", inputs=images(5)), threads=1)
    found = recalibrated(net.graph, settings).graph
    assert found.blocks == net.graph.blocks
    for before, after in zip(net.graph.nodes, found.nodes, strict=True):
        assert (before.name, before.inputs, before.shape) == (after.name, after.inputs, after.shape)
        if isinstance(before.op, Norm) and isinstance(after.op, Norm):
            assert after.op.weight is before.op.weight
            assert after.op.bias is before.op.bias
            assert after.op.eps == before.op.eps
        else:
            assert after.op is before.op


def test_a_graph_of_a_fixed_batch_leaves_the_rest_out_and_says_so(samples: Path, tmp_path: Path) -> None:
    net = sample(samples, RESNET)
    path = write_npz(tmp_path / "d.npz", inputs=images(14))
    found = recalibrated(replace(net.graph, batch=4), Settings(data=path, dtype="float64", threads=1))
    assert (found.count, found.left_out) == (12, 2)
    assert "of 12 inputs of" in found.note(path).message
    assert "leaves 2 out" in found.note(path).message
    expected = trained_mode(net.module, torch.from_numpy(images(14)[:12]).double()).get_submodule("bn1")
    assert torch.allclose(norms_of(found.graph)["bn1"].var, expected.running_var, rtol=1e-10)


# refusals -----------------------------------------------------------------------------------------------------------


def test_what_cannot_be_recalibrated_is_refused_in_one_line(samples: Path, tmp_path: Path) -> None:
    graph = sample(samples, RESNET).graph
    path = write_npz(tmp_path / "d.npz", inputs=images(5))
    bare = replace(graph, nodes=Subject(graph, Settings()).folded)
    tokens = replace(graph, nodes=(replace(graph.nodes[0], op=Input(vocabulary=9)), *graph.nodes[1:]))
    for case, data, match in (
        (graph, None, "give it --data"),
        (bare, path, "there is none; leave it out"),
        (tokens, path, "token models"),
        (replace(graph, batch=8), path, "5 inputs; this graph runs on 8 at once"),
        (graph, write_npz(tmp_path / "nan.npz", inputs=images(3) * np.nan), "not finite"),
    ):
        with pytest.raises(UsageError, match=match) as caught:
            recalibrated(case, Settings(data=data, threads=1))
        assert "\n" not in str(caught.value)
    with pytest.raises(NotRunnable):
        recalibrated(replace(graph, runnable_reason="a part is missing"), Settings(data=path))


def test_one_value_a_channel_has_no_variance() -> None:
    with pytest.raises(UsageError, match="one value, which has no variance"):
        statistics([torch.ones(1, 3, 1, 1)])


def test_more_rows_than_fit_are_refused_and_not_dropped(
    samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = sample(samples, RESNET).graph
    settings = Settings(data=write_npz(tmp_path / "d.npz", inputs=images(40)), threads=1)
    # At most three maps of 8 channels live at once: the block's input, what a layer reads and what it writes.
    monkeypatch.setattr(module, "LARGEST_VALUES", 3 * 40 * 8 * 64 * 4)
    assert recalibrated(graph, settings).count == 40
    monkeypatch.setattr(module, "LARGEST_VALUES", 40 * 8 * 64 * 4)
    with pytest.raises(UsageError, match="give --data fewer inputs"):
        recalibrated(graph, settings)


# a network that has seen no batch -----------------------------------------------------------------------------------


def test_only_a_network_whose_every_norm_is_fresh_counts_as_not_calibrated(net: Sample) -> None:
    graph = fresh(net.graph)
    assert is_calibrated(net.graph)
    assert not is_calibrated(graph)
    for field, number in (("mean", 1e-3), ("var", 1.001)):
        nodes = list(graph.nodes)
        place = max(index for index, node in enumerate(nodes) if isinstance(node.op, Norm))
        moved = getattr(nodes[place].op, field).clone()
        moved[-1] = number
        nodes[place] = replace(nodes[place], op=replace(nodes[place].op, **{field: moved}))
        assert is_calibrated(replace(graph, nodes=tuple(nodes)))
    assert is_calibrated(replace(graph, nodes=tuple(node for node in graph.nodes if not isinstance(node.op, Norm))))


@pytest.mark.parametrize("analysis", [gradient, ensemble])
def test_measured_gradients_of_a_fresh_network_are_refused_unless_recalibrated(
    analysis: object, net: Sample, samples: Path
) -> None:
    settings = Settings(data=str(samples / "digits.npz"), threads=1)
    with pytest.raises(NotCalibrated, match="--recalibrate --data"):
        analysis.analyse(Subject(fresh(net.graph), settings))
    result = analysis.analyse(Subject(fresh(net.graph), replace(settings, recalibrate=True)))
    (note,) = [note for note in result.notes if note.code == "recalibrated"]
    assert "of 500 inputs of" in note.message
    # All 500 rows made the statistics, 32 of them are measured on.
    assert (result.inputs.n, result.inputs.kind) == (32, "data")
    assert result.inputs.bn_mismatch_mean < 0.2


def test_everything_measured_and_certified_is_of_the_recalibrated_network(samples: Path) -> None:
    net = sample(samples, RESNET)
    data = str(samples / "digits.npz")
    lazy = Subject(fresh(net.graph), Settings(data=data, recalibrate=True, threads=1))
    ready = Subject(recalibrated(fresh(net.graph), Settings(data=data, threads=1)).graph, Settings(data=data))
    one, other = gradient.analyse(lazy), gradient.analyse(ready)
    assert one.blocks == other.blocks
    assert one.norms == other.norms
    assert lazy.graph is lazy.graph
