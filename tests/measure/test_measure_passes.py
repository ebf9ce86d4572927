"""One recorded pass against torch modules with hooks, and objectives against autograd of the objective written out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given as drawn
from hypothesis import strategies as st
from passes_oracles import NETS, SIZE, Sample, first_block, sample
from torch import nn
from torch.nn import functional as F

from resnet_audit.checkpoint import load
from resnet_audit.errors import UsageError
from resnet_audit.graph import discover
from resnet_audit.graph.ir import Norm
from resnet_audit.measure import Subject
from resnet_audit.measure.inputs import Inputs, make_inputs
from resnet_audit.measure.passes import (
    Tape,
    autograd_gradient,
    batch_statistics,
    cotangent_at_logits,
    mismatch,
    record,
    record_on_tape,
)
from resnet_audit.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

EXACT = 1e-12

each_net = pytest.mark.parametrize("net", NETS, indirect=True)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def net(request: pytest.FixtureRequest, samples: Path) -> Sample:
    return sample(samples, request.param)


def some_inputs(kind: str = "pink", count: int = 6) -> Inputs:
    return make_inputs(SIZE, Settings(inputs=kind, samples=count, dtype="float64", seed=3))


def digits(folder: Path, count: int = 500) -> Inputs:
    with np.load(folder / "digits.npz") as arrays:
        return Inputs(kind="data", values=torch.from_numpy(arrays["inputs"][:count]).double())


# the recording ------------------------------------------------------------------------------------------------------


@each_net
def test_recorded_logits_are_those_of_the_torch_module(net: Sample) -> None:
    given = some_inputs()
    found = record(net.graph, given)
    with torch.no_grad():
        torch.testing.assert_close(found.logits, net.module(given.values), rtol=1e-10, atol=1e-10)
    assert not found.logits.requires_grad


@each_net
def test_recorded_start_is_the_value_that_enters_the_first_block(net: Sample) -> None:
    given = some_inputs()
    entered: list[Tensor] = []
    hook = first_block(net.module).register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    with torch.no_grad():
        net.module(given.values)
    hook.remove()
    found = record(net.graph, given)
    assert found.start == net.graph.blocks[0].fork
    torch.testing.assert_close(found.value, entered[0], rtol=EXACT, atol=EXACT)


def hooked_mismatch(module: nn.Module, values: Tensor) -> tuple[float, float]:
    """Means over all channels of all norms, from what enters each norm of the torch module."""
    means: list[float] = []
    spreads: list[float] = []

    def look(norm: nn.Module, args: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        for channel in range(norm.num_features):
            seen = args[0][:, channel].flatten().tolist()
            mean = sum(seen) / len(seen)
            var = sum((value - mean) ** 2 for value in seen) / len(seen)
            running = float(norm.running_var[channel]) + norm.eps
            means.append(abs(mean - float(norm.running_mean[channel])) / running**0.5)
            spreads.append(abs(float(np.log(((var + norm.eps) / running) ** 0.5))))

    hooks = [each.register_forward_pre_hook(look) for each in module.modules() if isinstance(each, nn.BatchNorm2d)]
    with torch.no_grad():
        module(values)
    for hook in hooks:
        hook.remove()
    return sum(means) / len(means), sum(spreads) / len(spreads)


@each_net
@pytest.mark.parametrize("kind", ["pink", "gaussian"])
def test_mismatch_of_inputs_is_that_of_hooks_on_every_norm(net: Sample, kind: str) -> None:
    given = some_inputs(kind)
    used = record(net.graph, given).inputs
    mean, spread = hooked_mismatch(net.module, given.values)
    assert used.bn_mismatch_mean == pytest.approx(mean, rel=1e-9)
    assert used.bn_mismatch_logsd == pytest.approx(spread, rel=1e-9)
    assert (used.kind, used.n) == (kind, 6)


SHAPES = ((16, 4, 9, 7), (5, 3), (1, 2, 6, 5), (3, 2, 8), (64, 1, 2, 2))
"""Batches of maps, of rows, one map, sequences, and many small maps."""


@drawn(
    shape=st.sampled_from(SHAPES),
    centre=st.floats(-1e4, 1e4),
    spread=st.floats(1e-6, 1e6),
    first=st.floats(-1e3, 1e3),
    seed=st.integers(0, 99),
    last=st.booleans(),
)
def test_statistics_of_float32_batches_are_those_of_float64(
    shape: tuple[int, ...], centre: float, spread: float, first: float, seed: int, *, last: bool
) -> None:
    """Also where the first sample, about whose mean the sums are taken, lies far from the others."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    x[0] += first
    x = centre + spread * x
    if last and x.ndim == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    exact = x.double().transpose(0, 1).flatten(1)
    expected, var = exact.mean(1), exact.var(1, correction=0)
    found = batch_statistics(x)
    assert [part.dtype for part in found] == [torch.float64] * 2
    deviation = (var.sqrt() + 1e-12 * exact.abs().amax(1)).clamp(min=1e-300)
    assert float(((found[0] - expected).abs() / deviation).max()) < 1e-6 * len(x) ** 0.5
    # Values that differ in their last digits alone have a variance as rough as these digits.
    rounding = (1e-7 * exact.abs().amax(1)) ** 2
    assert bool(((found[1] - var).abs() <= 1e-6 * len(x) * var + rounding).all())


def test_statistics_of_float64_batches_are_the_definition_to_rounding() -> None:
    x = torch.randn(6, 3, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3 + 100
    mean, var = batch_statistics(x)
    torch.testing.assert_close(mean, x.mean((0, 2, 3)), rtol=1e-14, atol=0.0)
    torch.testing.assert_close(var, x.var((0, 2, 3), correction=0), rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("size", [1e25, 1e-25])
def test_squares_beyond_the_range_of_float32_are_no_mismatch_beyond_it(size: float) -> None:
    x = size * torch.randn(6, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    op = Norm(weight=None, bias=None, mean=torch.zeros(3), var=torch.ones(3), eps=1e-5)
    means, spreads = mismatch(op, x)
    exact = x.double()
    assert means.tolist() == pytest.approx((exact.mean((0, 2, 3)).abs() / (1 + 1e-5) ** 0.5).tolist(), rel=1e-6)
    var = exact.var((0, 2, 3), correction=0)
    assert spreads.tolist() == pytest.approx((((var + 1e-5) / (1 + 1e-5)).log().abs() / 2).tolist(), rel=1e-6)


def test_mismatch_has_the_slopes_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 2, 3, 3, generator=generator, dtype=torch.float64).requires_grad_()
    op = Norm(weight=None, bias=None, mean=torch.tensor([0.5, -1.0]), var=torch.tensor([0.3, 4.0]), eps=1e-5)
    assert torch.autograd.gradcheck(lambda batch: mismatch(op, batch), x)


@each_net
def test_mismatch_is_near_zero_on_the_data_that_the_network_was_trained_for(net: Sample, samples: Path) -> None:
    """500 held-out digits: each mean is uncertain by about 1 / sqrt(500), more where pixels of one image agree."""
    used = record(net.graph, digits(samples)).inputs
    noise = record(net.graph, some_inputs("gaussian", 100)).inputs
    assert used.bn_mismatch_mean is not None
    assert used.bn_mismatch_logsd is not None
    assert used.bn_mismatch_mean < 0.02
    assert used.bn_mismatch_logsd < 0.03
    assert noise.bn_mismatch_mean is not None
    assert noise.bn_mismatch_mean > 10 * used.bn_mismatch_mean


def test_a_network_without_norms_has_no_mismatch(samples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = sample(samples, "digits_resnet/epoch24.pt")
    monkeypatch.setattr("resnet_audit.measure.passes.Norm", nn.Identity)
    used = record(found.graph, some_inputs()).inputs
    assert used.bn_mismatch_mean is None
    assert used.bn_mismatch_logsd is None


@each_net
def test_the_recording_of_a_batch_is_that_of_its_samples(net: Sample) -> None:
    given = some_inputs(count=4)
    whole = record(net.graph, given)
    alone = [record(net.graph, Inputs(kind="pink", values=given.values[row : row + 1])) for row in range(4)]
    torch.testing.assert_close(whole.logits, torch.cat([one.logits for one in alone]), rtol=EXACT, atol=EXACT)
    for name, kept in whole.saved.items():
        for part, alone_parts in zip(kept, zip(*(one.saved[name] for one in alone), strict=True), strict=True):
            assert torch.equal(part, torch.cat(alone_parts)), name


@each_net
def test_a_pass_on_tape_records_the_same_and_its_gradient_is_that_of_a_pass_of_its_own(net: Sample) -> None:
    given = some_inputs()
    plain = record(net.graph, given)
    found, tape = record_on_tape(net.graph, given)
    assert (found.start, found.inputs) == (plain.start, plain.inputs)
    kept = [part for parts in found.saved.values() for part in parts]
    assert not any(part.requires_grad for part in (found.value, found.logits, *kept))
    assert torch.equal(found.value, plain.value)
    assert torch.equal(found.logits, plain.logits)
    assert found.saved.keys() == plain.saved.keys()
    for name, parts in plain.saved.items():
        assert all(map(torch.equal, parts, found.saved[name])), name
    cotangent = cotangent_at_logits(found.logits, "random", None, seed=0)
    assert torch.equal(tape.gradient(cotangent), autograd_gradient(net.graph, plain, cotangent))


def test_a_subject_asked_for_its_gradient_first_passes_once(samples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (digits_subject(samples, dtype="float64") for _ in range(2))
    expected = (second.recording, second.torch_gradient)
    cotangents: list[Tensor] = []
    exact = Tape.gradient

    def counted(tape: Tape, cotangent: Tensor) -> Tensor:
        cotangents.append(cotangent)
        return exact(tape, cotangent)

    def refused(*_: object) -> None:
        pytest.fail("a second forward pass")

    monkeypatch.setattr(Tape, "gradient", counted)
    monkeypatch.setattr("resnet_audit.measure.subject.record", refused)
    monkeypatch.setattr("resnet_audit.measure.subject.autograd_gradient", refused)
    found = (first.torch_gradient, first.recording, first.torch_gradient)
    assert torch.equal(found[0], expected[1])
    assert found[0] is found[2]
    assert torch.equal(found[1].logits, expected[0].logits)
    assert found[1].inputs == expected[0].inputs
    assert len(cotangents) == 1


# objectives ---------------------------------------------------------------------------------------------------------

LOGITS = torch.randn(7, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 3
LABELS = torch.tensor([4, 0, 1, 1, 2, 3, 0])


def by_autograd(objective: str, labels: Tensor | None) -> Tensor:
    """The gradient of the objective written out, one sample at a time."""
    logits = LOGITS.clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for row, scores in enumerate(logits):
        best = int(scores.argmax())
        if objective == "logit":
            total = total + scores[best]
        else:
            target = best if labels is None else int(labels[row])
            total = total + scores.exp().sum().log() - scores[target]
    (gradient,) = torch.autograd.grad(total, logits)
    return gradient


@pytest.mark.parametrize("objective", ["logit", "ce"])
@pytest.mark.parametrize("labels", [None, LABELS], ids=["unlabelled", "labelled"])
def test_cotangent_is_the_gradient_of_the_summed_objective(objective: str, labels: Tensor | None) -> None:
    found = cotangent_at_logits(LOGITS, objective, labels, seed=0)
    torch.testing.assert_close(found, by_autograd(objective, labels), rtol=EXACT, atol=EXACT)


def test_labels_change_cross_entropy_and_not_the_predicted_logit() -> None:
    assert not torch.equal(cotangent_at_logits(LOGITS, "ce", LABELS, 0), cotangent_at_logits(LOGITS, "ce", None, 0))
    assert torch.equal(cotangent_at_logits(LOGITS, "logit", LABELS, 0), cotangent_at_logits(LOGITS, "logit", None, 0))


def test_cross_entropy_is_that_of_torch_and_sums_over_samples() -> None:
    logits = LOGITS.clone().requires_grad_()
    F.cross_entropy(logits, LABELS, reduction="sum").backward()
    torch.testing.assert_close(cotangent_at_logits(LOGITS, "ce", LABELS, 0), logits.grad, rtol=EXACT, atol=EXACT)


def test_random_cotangent_is_standard_normal_seeded_and_not_the_noise_of_the_inputs() -> None:
    logits = torch.zeros(400, 64, dtype=torch.float64)
    first, again, other = (cotangent_at_logits(logits, "random", None, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert float(first.mean()) == pytest.approx(0.0, abs=0.03)
    assert float(first.var()) == pytest.approx(1.0, abs=0.05)
    noise = make_inputs(SIZE, Settings(inputs="gaussian", samples=400, dtype="float64", seed=0)).values.flatten(1)
    assert abs(float(torch.corrcoef(torch.stack([noise.flatten(), first.flatten()]))[0, 1])) < 0.03
    assert torch.equal(cotangent_at_logits(logits.float(), "random", None, 0), first.float())


@pytest.mark.parametrize("bad", [-1, 5, 1000])
def test_a_label_outside_the_classes_is_refused_where_it_is_used(bad: int) -> None:
    labels = LABELS.clone()
    labels[3] = bad
    with pytest.raises(UsageError, match=r"a label lies outside the 5 classes of the network; ") as caught:
        cotangent_at_logits(LOGITS, "ce", labels, 0)
    assert "\n" not in str(caught.value)


@each_net
@pytest.mark.parametrize("objective", ["logit", "ce", "random"])
def test_reference_gradient_is_that_of_the_torch_module(net: Sample, objective: str) -> None:
    given = some_inputs()
    found = record(net.graph, given)
    cotangent = cotangent_at_logits(found.logits, objective, None, seed=0)
    entered: list[Tensor] = []

    def keep(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        entered.append(args[0].detach().requires_grad_())
        return (entered[0],)

    hook = first_block(net.module).register_forward_pre_hook(keep)
    (expected,) = torch.autograd.grad(net.module(given.values), entered, cotangent)
    hook.remove()
    reference = autograd_gradient(net.graph, found, cotangent)
    torch.testing.assert_close(reference, expected, rtol=0.0, atol=1e-10 * float(expected.abs().max()))


# the whole way from a file of data -----------------------------------------------------------------------------------


def digits_subject(folder: Path, **settings: object) -> Subject:
    chosen = Settings(**{"input_size": SIZE, "data": str(folder / "digits.npz"), "samples": 40, **settings})
    return Subject(discover(load(str(folder / "digits_resnet/epoch24.pt")), chosen), chosen)


def test_labels_of_the_data_decide_the_cotangent_of_cross_entropy(samples: Path) -> None:
    subject = digits_subject(samples, objective="ce", dtype="float64", samples=500)
    with np.load(samples / "digits.npz") as arrays:
        labels = torch.from_numpy(arrays["labels"])
    logits = subject.recording.logits.clone().requires_grad_()
    F.cross_entropy(logits, labels, reduction="sum").backward()
    torch.testing.assert_close(subject.cotangent, logits.grad, rtol=EXACT, atol=EXACT)
    assert float((logits.argmax(1) == labels).double().mean()) > 0.97


def test_labels_of_other_classes_are_refused_by_cross_entropy_alone(samples: Path, tmp_path: Path) -> None:
    with np.load(samples / "digits.npz") as arrays:
        values = arrays["inputs"][:8]
    path = tmp_path / "data.npz"
    np.savez(path, inputs=values, labels=np.arange(3, 11))
    with pytest.raises(UsageError, match="outside the 10 classes"):
        _ = digits_subject(samples, data=str(path), objective="ce").cotangent
    assert digits_subject(samples, data=str(path), objective="logit").cotangent.shape == (8, 10)
