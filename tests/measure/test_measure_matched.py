"""Inputs matched to batch statistics: what is minimised, that it is, and for which networks it cannot be."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from passes_oracles import NETS, SIZE, sample

from resnet_audit.checkpoint import load
from resnet_audit.errors import NonFinite, UsageError
from resnet_audit.graph import discover
from resnet_audit.graph.ir import Input, Norm
from resnet_audit.measure import Subject
from resnet_audit.measure import matched as module
from resnet_audit.measure.inputs import make_inputs
from resnet_audit.measure.matched import discrepancy, matched
from resnet_audit.measure.passes import record
from resnet_audit.settings import Settings
from resnet_audit.theory import ensemble

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor, nn

RESNET = "digits_resnet/epoch24.pt"
MATCHED = Settings(inputs="matched", samples=8, threads=1)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Small maps on few threads: where other work runs, torch's own threads were seen to take ten times as long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def hooked(net: nn.Module, values: Tensor) -> Tensor:
    """Sum over normalisations of the mean over channels of both squared mismatches, from torch's own modules."""
    terms: list[Tensor] = []

    def look(norm: torch.nn.BatchNorm2d, read: tuple[Tensor, ...], _: Tensor) -> None:
        columns = read[0].transpose(0, 1).flatten(1)
        mean, var = columns.mean(1), columns.var(1, unbiased=False)
        scale = (norm.running_var + norm.eps).sqrt()
        means = (mean - norm.running_mean) / scale
        spreads = torch.log((var + norm.eps).sqrt() / scale)
        terms.append((means**2).mean() + (spreads**2).mean())

    handles = [m.register_forward_hook(look) for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    net(values)
    for handle in handles:
        handle.remove()
    return torch.stack(terms).sum()


@pytest.mark.parametrize("name", NETS)
def test_what_is_minimised_and_its_gradient_are_those_of_torchs_own_modules(name: str, samples: Path) -> None:
    net = sample(samples, name)
    values = make_inputs(SIZE, Settings(samples=5, dtype="float64")).values
    ours, theirs = (values.clone().requires_grad_() for _ in range(2))
    found, expected = discrepancy(net.graph, ours), hooked(net.module, theirs)
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    (moved,) = torch.autograd.grad(found, ours)
    (wanted,) = torch.autograd.grad(expected, theirs)
    assert torch.allclose(moved, wanted, rtol=1e-9, atol=1e-12 * float(wanted.abs().max()))


def test_the_gradient_is_the_finite_difference(samples: Path) -> None:
    net = sample(samples, RESNET)
    values = make_inputs(SIZE, Settings(samples=3, dtype="float64")).values.requires_grad_()
    (gradient,) = torch.autograd.grad(discrepancy(net.graph, values), values)
    direction = torch.randn(values.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    step = 1e-6
    with torch.no_grad():
        ahead, behind = (float(discrepancy(net.graph, values + sign * step * direction)) for sign in (1, -1))
    assert (ahead - behind) / (2 * step) == pytest.approx(float((gradient * direction).sum()), rel=1e-5)


def test_the_steps_are_those_of_torchs_adam(samples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = sample(samples, RESNET).graph
    start = make_inputs(SIZE, Settings(samples=3, dtype="float64"))
    monkeypatch.setattr(module, "STEPS", 7)
    pixels = start.values.clone().requires_grad_()
    adam = torch.optim.Adam([pixels], lr=module.RATE)
    for _ in range(7):
        adam.zero_grad()
        discrepancy(graph, pixels).backward()
        adam.step()
    assert torch.allclose(matched(graph, start).values, pixels.detach(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NETS)
def test_matched_inputs_fit_far_better_than_the_noise_that_they_begin_with(name: str, samples: Path) -> None:
    graph = sample(samples, name).graph
    before = record(graph, make_inputs(SIZE, MATCHED)).inputs
    after = Subject(graph, MATCHED).recording.inputs
    assert (after.kind, after.n) == ("matched", 8)
    for field in ("bn_mismatch_mean", "bn_mismatch_logsd"):
        assert getattr(after, field) < 0.25 * getattr(before, field)


def test_the_noise_is_pink_seeded_and_left_as_it_is(samples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = sample(samples, RESNET).graph
    monkeypatch.setattr(module, "STEPS", 0)
    pink = make_inputs(SIZE, replace(MATCHED, inputs="pink", seed=3))
    assert torch.equal(Subject(graph, replace(MATCHED, seed=3)).inputs.values, pink.values)
    monkeypatch.setattr(module, "STEPS", 2)
    kept = pink.values.clone()
    moved = matched(graph, pink).values
    assert torch.equal(pink.values, kept)
    assert not torch.equal(moved, kept)
    assert not moved.requires_grad


def test_a_seed_gives_the_same_bytes_and_another_seed_others(samples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = sample(samples, RESNET).graph
    monkeypatch.setattr(module, "STEPS", 5)
    state = torch.get_rng_state()
    first, again, other = (Subject(graph, replace(MATCHED, seed=seed)).inputs.values for seed in (1, 1, 2))
    assert first.numpy().tobytes() == again.numpy().tobytes()
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_matched_inputs_have_the_precision_of_the_settings(
    dtype: str, samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STEPS", 1)
    found = Subject(sample(samples, RESNET).graph, replace(MATCHED, dtype=dtype)).inputs
    assert found.values.dtype == getattr(torch, dtype)


def test_every_step_is_reported(samples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STEPS", 3)
    seen: list[tuple[str, int, int]] = []
    subject = Subject(sample(samples, RESNET).graph, MATCHED, lambda *stage: seen.append(stage))
    assert subject.inputs.kind == "matched"
    assert seen == [("matched inputs", step, 3) for step in (1, 2, 3)]


def test_data_are_never_moved(samples: Path) -> None:
    settings = replace(MATCHED, data=str(samples / "digits.npz"))
    assert Subject(sample(samples, RESNET).graph, settings).inputs.kind == "data"


# what cannot be matched ---------------------------------------------------------------------------------------------


def test_a_network_without_batch_normalisation_is_refused_in_one_line(samples: Path) -> None:
    graph = sample(samples, RESNET).graph
    bare = replace(graph, nodes=Subject(graph, Settings()).folded)
    assert not any(isinstance(node.op, Norm) for node in bare.nodes)
    with pytest.raises(UsageError, match=r"needs batch normalisation.*; use --inputs pink or --data") as caught:
        _ = Subject(bare, MATCHED).inputs
    assert "\n" not in str(caught.value)


def test_a_network_that_reads_tokens_is_refused_in_one_line(samples: Path) -> None:
    graph = sample(samples, RESNET).graph
    source = replace(graph.nodes[0], op=Input(vocabulary=50))
    with pytest.raises(UsageError, match="--inputs matched moves pixels, and this network reads tokens; leave it out"):
        _ = Subject(replace(graph, nodes=(source, *graph.nodes[1:])), MATCHED).inputs


def test_statistics_that_are_not_finite_are_refused_before_any_step(samples: Path) -> None:
    graph = sample(samples, RESNET).graph
    place = next(index for index, node in enumerate(graph.nodes) if isinstance(node.op, Norm))
    node = graph.nodes[place]
    broken = replace(node, op=replace(node.op, mean=node.op.mean * math.nan))
    with pytest.raises(NonFinite, match=node.name):
        _ = Subject(replace(graph, nodes=(*graph.nodes[:place], broken, *graph.nodes[place + 1 :])), MATCHED).recording


# a real network -----------------------------------------------------------------------------------------------------


def test_mismatch_and_mean_depth_of_resnet20_on_matched_inputs(checkpoints: Path) -> None:
    """Theory note `gradient-ensemble`, A3 and C: 0.03 / 0.03 after 80 steps, mean depth 4.75 (another start)."""
    settings = Settings(inputs="matched")
    result = ensemble.analyse(Subject(discover(load(str(checkpoints / "resnet20.th"))), settings))
    assert result.inputs.kind == "matched"
    assert isinstance(result.inputs.bn_mismatch_mean, float)
    assert isinstance(result.inputs.bn_mismatch_logsd, float)
    assert result.inputs.bn_mismatch_mean < 0.08
    assert result.inputs.bn_mismatch_logsd < 0.08
    assert result.depth_mean == pytest.approx(4.75, abs=0.3)
