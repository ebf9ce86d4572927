"""The whole bound on data, against a reference, under `strict`; and what stands beside it, on trained networks.

Golden figures: section 5 of the project's theory note on the bound (ResNet-20/32/44/56 for CIFAR-10, N = 50000, margin
1, delta 0.01, largest input norm 2.5 sqrt(3072)). Its zlib column holds running statistics as well, so it is not used.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from bound_oracles import graph_of

from resnet_audit.checkpoint import load
from resnet_audit.errors import UnreadableCheckpoint
from resnet_audit.graph.fold import gains
from resnet_audit.graph.from_weights import discover
from resnet_audit.graph.ir import Conv, Flatten, Linear
from resnet_audit.measure.subject import Subject
from resnet_audit.settings import Settings
from resnet_audit.theory.bound import analyse

if TYPE_CHECKING:
    from resnet_audit.results import BoundResult
    from resnet_audit.settings import Preset

DEPTHS = (20, 32, 44, 56)
BESIDE = {
    "log10_path_norm_l2": ((1.818, 1.566, 1.521, 1.412), 1e-3),
    "parameter_count_bound": ((10.1, 15.1, 20.1, 24.4), 0.05),
    "occam.fp32": ((7.73, 10.13, 12.07, 13.74), 0.006),
    "occam.fp16": ((5.46, 7.17, 8.54, 9.72), 0.006),
}
STRICT_TAILS = (0.212, 0.275, 0.325, 0.372)
SAMPLES = Path(__file__).parents[2] / "sample_checkpoints"
DIGITS = str(SAMPLES / "digits.npz")
TRAINED = str(SAMPLES / "digits_resnet" / "epoch24.pt")
START = str(SAMPLES / "digits_resnet" / "epoch00.pt")
LN10 = math.log(10.0)


@cache
def result_of(path: str, settings: Settings) -> BoundResult:
    return analyse(Subject(discover(load(path), settings), settings))


def digits(**chosen: object) -> BoundResult:
    return result_of(TRAINED, Settings(input_size=(1, 8, 8), threads=1, **chosen))


@pytest.mark.parametrize("figure", BESIDE)
@pytest.mark.parametrize("column", range(4), ids=[f"resnet{depth}" for depth in DEPTHS])
def test_what_stands_beside_the_bound_has_its_golden_figures(checkpoints: Path, figure: str, column: int) -> None:
    result = result_of(str(checkpoints / f"resnet{DEPTHS[column]}.th"), Settings(n_train=50000, threads=1))
    found: object = result
    for name in figure.split("."):
        found = getattr(found, name)
    values, tolerance = BESIDE[figure]
    assert found == pytest.approx(values[column], abs=tolerance)


@pytest.mark.parametrize("column", range(4), ids=[f"resnet{depth}" for depth in DEPTHS])
def test_strict_pays_for_the_norms_and_for_nothing_else(checkpoints: Path, column: int) -> None:
    path = str(checkpoints / f"resnet{DEPTHS[column]}.th")
    paper = result_of(path, Settings(n_train=50000, threads=1))
    strict = result_of(path, Settings(n_train=50000, threads=1, preset="strict"))
    assert strict.tail == pytest.approx(STRICT_TAILS[column], abs=6e-4)
    assert strict.post_hoc_union
    assert strict.covers is not None
    assert paper.covers is not None
    layers = strict.weight_factors
    for name in ("operator", "patch", "operator_biases", "patch_biases"):
        one, other = getattr(paper.covers, name), getattr(strict.covers, name)
        grown = other.log10_complexity_term - one.log10_complexity_term
        assert 0.0 <= grown <= (layers + 1) * math.log10(1 + 1 / layers) + 1e-9
    assert strict.layers == paper.layers


# data -----------------------------------------------------------------------------------------------------------


def scores() -> tuple[np.ndarray, np.ndarray]:
    """Logits of the trained net by its own module, and the labels."""
    data = np.load(DIGITS)
    graph = discover(load(TRAINED), Settings(input_size=(1, 8, 8)))
    with torch.no_grad():
        return graph.forward(torch.from_numpy(data["inputs"]).float()).double().numpy(), data["labels"]


def test_the_norms_of_the_data_are_measured_and_their_margins_ramped() -> None:
    inputs = np.load(DIGITS)["inputs"].astype(np.float64)
    result = digits(data=DIGITS, n_train=len(inputs), margin=3.0)
    assert result.data is not None
    assert result.x_rms == pytest.approx(math.sqrt((inputs**2).mean()), rel=1e-12)
    assert result.data.largest_norm == pytest.approx(np.linalg.norm(inputs.reshape(len(inputs), -1), axis=1).max())
    logits, labels = scores()
    own = logits[np.arange(len(labels)), labels]
    logits[np.arange(len(labels)), labels] = -np.inf
    margins = own - logits.max(axis=1)
    assert result.data.error == pytest.approx((margins <= 0).mean())
    assert result.empirical_margin_risk == pytest.approx(np.clip(1 - margins / 3.0, 0, 1).mean(), rel=1e-4)
    assert result.measures["INVERSE_MARGIN"] == pytest.approx(
        math.sqrt(1 / np.quantile(margins, 0.1) ** 2 / len(inputs)), rel=1e-3
    )


def test_the_whole_bound_at_a_margin_is_the_sum_of_its_parts() -> None:
    rows = 500
    for preset in ("paper", "strict"):
        result = digits(data=DIGITS, n_train=rows, preset=preset)
        assert result.data is not None
        assert result.covers is not None
        cover = getattr(result.covers, result.bound_cover)
        weights = result.weight_factors
        own = round(math.log(1.0) / math.log(1 + 1 / weights))
        for point in result.data.margins:
            k = round(math.log(point.margin) / math.log(1 + 1 / weights))
            assert point.margin == pytest.approx((1 + 1 / weights) ** k)
            paid = 2 * math.log(abs(k) + 1) + math.log(math.pi**2 / 3)
            if result.union_nats is not None:
                paid += result.union_nats - 2 * math.log(abs(own) + 1) - math.log(math.pi**2 / 3)
            sides = 2 if preset == "strict" else 1
            tail = 3 * math.sqrt((math.log(sides / 0.01) + paid) / (2 * rows))
            term = 10**cover.log10_complexity_term / point.margin
            whole = point.risk + 8 / rows**1.5 + term + tail
            assert point.log10_bound == pytest.approx(math.log10(whole), abs=1e-9)
        best = min(point.log10_bound for point in result.data.margins)
        assert [p.log10_bound for p in result.data.margins if p.margin == result.data.best_margin] == [best]
        assert result.vacuous
        assert result.bound is None


@pytest.mark.parametrize("preset", ["paper", "strict"])
def test_a_bound_that_says_something_is_a_number_below_one(tmp_path: Path, preset: Preset) -> None:
    # One layer of two classes that labels its own inputs, and more examples than anybody has.
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(2, 64, generator=generator, dtype=torch.float64)
    inputs = torch.randn(400, 1, 8, 8, generator=generator, dtype=torch.float64)
    labels = (inputs.flatten(1) @ weight.T).argmax(dim=1)
    np.savez(tmp_path / "data.npz", inputs=inputs.numpy(), labels=labels.numpy())
    graph = graph_of((1, 8, 8), ("flat", Flatten(), "input"), ("fc", Linear(weight=weight, bias=None), "flat"))
    chosen = Settings(data=str(tmp_path / "data.npz"), n_train=10**15, margin=2.0, preset=preset)
    result = analyse(Subject(graph, chosen))
    assert result.data is not None
    assert result.data.error == 0.0
    assert result.vacuous is False
    assert result.bound is not None
    margins = ((inputs.flatten(1) @ weight.T) @ torch.tensor([1.0, -1.0]).double()).abs()
    margin = 2.0 if preset == "paper" else max(p for p in (2.0**k for k in range(-5, 5)) if p <= 2.0)
    assert result.empirical_margin_risk == pytest.approx(float((1 - margins / margin).clamp(0, 1).mean()))
    assert result.empirical_margin_risk < result.bound < 1.0
    assert result.covers is not None
    assert result.tail is not None
    term = 10 ** (result.covers.patch.log10_complexity_term or 0.0)
    if preset == "paper":
        whole = result.empirical_margin_risk + 8 / 10**22.5 + term + result.tail
        assert result.bound == pytest.approx(whole, rel=1e-9)


def test_data_without_a_number_of_examples_says_which_flag_helps() -> None:
    result = digits(data=DIGITS)
    assert result.n_train is result.tail is result.bound is result.vacuous is None
    (note,) = [note for note in result.notes if note.code == "needs_n_train"]
    assert "--n-train, which is 500" in note.message
    assert result.data is not None
    assert result.data.margins == ()
    assert result.empirical_margin_risk is not None


def test_a_sample_of_the_training_set_is_called_one() -> None:
    codes = [note.code for note in digits(data=DIGITS, n_train=1297).notes]
    assert "sample_of_training_set" in codes
    assert "sample_of_training_set" not in [note.code for note in digits(data=DIGITS, n_train=500).notes]


def test_a_root_mean_square_that_is_given_is_believed() -> None:
    result = digits(data=DIGITS, n_train=500, x_rms=2.0)
    assert result.x_rms == 2.0
    assert "x_rms_given" in [note.code for note in result.notes]


# reference ------------------------------------------------------------------------------------------------------


def test_distances_from_the_start_are_those_of_the_folded_kernels() -> None:
    far, near = digits(n_train=500), digits(n_train=500, reference=START)
    one, other = (Subject(discover(load(path), Settings(input_size=(1, 8, 8)))) for path in (TRAINED, START))
    start = {node.name: node for node in other.folded}
    for layer in near.layers:
        node = next(node for node in one.folded if node.name == layer.name)
        assert isinstance(node.op, Conv | Linear)
        before = start[layer.name].op
        assert isinstance(before, Conv | Linear)
        moved = (node.op.weight.double() - before.weight.double()).flatten(1)
        assert layer.b_patch == pytest.approx(float(moved.norm(dim=1).sum()), rel=1e-9)
    assert [layer.sigma_upper for layer in near.layers] == [layer.sigma_upper for layer in far.layers]
    distance = math.sqrt(
        sum(
            float((node.op.weight.double() - start[node.name].op.weight.double()).square().sum())
            for node in one.folded
            if isinstance(node.op, Conv | Linear)
        )
    )
    assert near.measures["FRO_DIST"] == pytest.approx(math.sqrt(distance**2 / 500), rel=1e-9)
    assert far.measures["FRO_DIST"] is None


def test_a_reference_of_its_own_leaves_nothing_to_cover() -> None:
    result = digits(n_train=500, reference=TRAINED)
    assert result.covers is not None
    assert result.covers.operator.log10_R is None
    assert result.covers.patch.log10_complexity_term is None


def test_a_reference_of_another_network_is_refused() -> None:
    with pytest.raises(UnreadableCheckpoint, match=r"digits_bottleneck_training\.pth: .* name a checkpoint"):
        digits(n_train=500, reference=str(SAMPLES / "digits_bottleneck_training.pth"))


# norms left alone -----------------------------------------------------------------------------------------------


def test_norms_left_alone_are_balls_of_scale_and_shift() -> None:
    path = str(SAMPLES / "digits_preact.safetensors")
    chosen = Settings(input_size=(1, 8, 8), n_train=500, threads=1)
    subject = Subject(discover(load(path), chosen), chosen)
    result = analyse(subject)
    alone = [node for node in subject.folded if node.name.count("bn") and node.name in {r.name for r in result.layers}]
    assert alone
    for node in alone:
        row = next(row for row in result.layers if row.name == node.name)
        assert row.frobenius == pytest.approx(float(gains(node.op)[0].norm()), rel=1e-12)
    assert result.parameter_count_bound is not None


# the other columns of the theory note ---------------------------------------------------------------------------------

GAINS = ((4.98, 87.7), (3.94, 40.4), (3.92, 28.0), (3.02, 18.9))
LOG10_PRODUCT = (10.891, 15.126, 19.837, 22.778)
LOG10_LIPSCHITZ_OF_THE_CHAIN = (9.988, 14.223, 18.934, 21.874)
OCCAM_REACHES_ONE = (3.0e6, 5.1e6, 7.3e6, 9.4e6)


@pytest.mark.parametrize("column", range(4), ids=[f"resnet{depth}" for depth in DEPTHS])
def test_products_of_the_certified_norms_have_their_golden_figures(checkpoints: Path, column: int) -> None:
    result = result_of(str(checkpoints / f"resnet{DEPTHS[column]}.th"), Settings(n_train=50000, threads=1))
    sigma = {layer.name: layer.sigma_upper or 0.0 for layer in result.layers}
    blocks = sorted({name.rpartition(".")[0] for name in sigma if "." in name})
    gains = [sigma[f"{block}.conv1"] * sigma[f"{block}.conv2"] for block in blocks]
    assert (min(gains), max(gains)) == pytest.approx(GAINS[column], rel=0.01)
    product = math.fsum(map(math.log10, sigma.values()))
    assert product == pytest.approx(LOG10_PRODUCT[column], abs=0.02)
    # The mean over 8 x 8 positions contracts by 8: the chain's constant is the product over it.
    assert product - math.log10(8) == pytest.approx(LOG10_LIPSCHITZ_OF_THE_CHAIN[column], abs=0.02)


@pytest.mark.parametrize("column", range(4), ids=[f"resnet{depth}" for depth in DEPTHS])
def test_counting_bits_says_something_from_millions_of_examples_on(checkpoints: Path, column: int) -> None:
    path = str(checkpoints / f"resnet{DEPTHS[column]}.th")
    few, many = (
        result_of(path, Settings(n_train=round(factor * OCCAM_REACHES_ONE[column]), threads=1)).occam
        for factor in (0.98, 1.02)
    )
    assert few is not None
    assert many is not None
    assert few.fp32 is not None
    assert many.fp32 is not None
    assert many.fp32 < 1.0 < few.fp32
