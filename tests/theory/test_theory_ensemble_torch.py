"""Depth distributions of trained networks, and of networks in the user's code, against plain torch with hooks.

The inputs are seeded Gaussian: torch.randn(4, 3, 32, 32) in float64 of a generator with seed 2026.
"""

from __future__ import annotations

import math
import re
import statistics
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from ensemble_nets import DenseNet, ExciteNet, ListedDenseNet, Transformer, start
from gradient_oracles import cifar_forward, cifar_weights, pooled
from hook_oracles import CifarResNet, Factor, cifar_resnet, fourier_parts, gradient_at
from torch import nn
from torch.nn import functional as F

from resnet_audit.checkpoint import load
from resnet_audit.graph import discover
from resnet_audit.graph.backward import propagate, times_z
from resnet_audit.measure import Subject
from resnet_audit.measure.decomposition import counted_groups
from resnet_audit.measure.inputs import Inputs
from resnet_audit.settings import Settings
from resnet_audit.theory import ensemble, gradient

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

    from resnet_audit.graph import ResidualGraph

REAL = ("resnet20", "resnet32", "resnet44", "resnet56")
each_real = pytest.mark.parametrize("name", REAL)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def gaussian(samples: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(2026)
    return torch.randn(samples, 3, 32, 32, generator=generator, dtype=torch.float64)


def subject_on(folder: Path, name: str, images: Tensor, **settings: object) -> Subject:
    chosen = Settings(**{"threads": 1, "dtype": "float64", "samples": len(images), **settings})
    subject = Subject(discover(load(str(folder / f"{name}.th")), chosen), chosen)
    subject.inputs = Inputs(kind="gaussian", values=images.to(getattr(torch, chosen.dtype)))
    return subject


def torch_net(folder: Path, name: str) -> tuple[CifarResNet, Factor]:
    return cifar_resnet(cifar_weights(folder / f"{name}.th", torch.float64))


def logit_cotangent(net: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        logits = net(images)
    return F.one_hot(logits.argmax(-1), logits.shape[-1]).double()


def parts_of(subject: Subject) -> Tensor:
    """The coefficients c_k, k = 0, 1, ..., of the package, each (N, ...)."""
    marks = times_z(edge for group in counted_groups(subject) for edge in group)
    seed = (subject.graph.output, subject.cotangent)
    found = propagate(subject.folded, subject.recording.saved, seed, stop=subject.start, marks=marks)
    return torch.cat([found.coefficients.new_zeros((found.low, *found.coefficients.shape[1:])), found.coefficients])


def shares_of(parts: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Norm, energy and projection shares and the cancellation, from the parts."""
    whole = parts.sum(0)
    squares = parts.square().flatten(1).sum(1).numpy()
    norms = np.sqrt(squares)
    products = (parts * whole).flatten(1).sum(1).numpy()
    return norms / norms.sum(), squares / squares.sum(), products / products.sum(), float(whole.norm()) / norms.sum()


@pytest.mark.parametrize(("dtype", "limit"), [("float64", 1e-9), ("float32", 1e-5)])
@each_real
def test_shares_of_a_trained_network_are_those_of_a_fourier_transform_by_hooks(
    name: str, dtype: str, limit: float, checkpoints: Path
) -> None:
    images = gaussian()
    net, factor = torch_net(checkpoints, name)
    parts = fourier_parts(net, factor, images, logit_cotangent(net, images), len(net.blocks))
    norm, energy, projection, cancellation = shares_of(parts)
    result = ensemble.analyse(subject_on(checkpoints, name, images, dtype=dtype))
    found = result.distribution
    assert found is not None
    for mine, theirs in ((found.norm, norm), (found.energy, energy), (found.projection, projection)):
        assert list(mine) == pytest.approx(theirs.tolist(), abs=limit)
    depths = np.arange(len(norm))
    assert result.depth_mean == pytest.approx(float(depths @ norm), rel=limit)
    assert result.depth_mode == int(norm.argmax())
    assert result.projection_mean == pytest.approx(float(depths @ projection), rel=limit)
    assert result.cancellation == pytest.approx(cancellation, rel=limit)


@pytest.mark.parametrize("z", [0.0, 0.5, -1.0, 1.0, 2.0])
def test_resnet20_at_z_is_the_backward_with_branches_scaled_by_hooks(z: float, checkpoints: Path) -> None:
    """Values and masks stay: only gradients through the branches are multiplied."""
    images = gaussian(2)
    net, factor = torch_net(checkpoints, "resnet20")
    cotangent = logit_cotangent(net, images)
    subject = subject_on(checkpoints, "resnet20", images)
    parts = parts_of(subject)
    evaluated = sum(z**depth * part for depth, part in enumerate(parts))
    scaled = gradient_at(net, factor, images, cotangent, z)
    torch.testing.assert_close(evaluated, scaled, rtol=0.0, atol=1e-12 * float(scaled.abs().max()))


@each_real
def test_ratios_medians_and_c_hat_of_a_trained_network_are_those_of_autograd(name: str, checkpoints: Path) -> None:
    images = gaussian()
    logits, tape = cifar_forward(cifar_weights(checkpoints / f"{name}.th", torch.float64), images.clone())
    logits.max(dim=1).values.sum().backward()
    crossings = tape.crossings()
    ratios = [pooled(crossing.fork) / pooled(crossing.output) for crossing in crossings]
    result = gradient.analyse(subject_on(checkpoints, name, images))
    assert [row.ratio for row in result.blocks] == pytest.approx(ratios, rel=1e-9)
    third = len(ratios) // 3
    kept = [ratio for index, ratio in enumerate(ratios) if index not in {third, 2 * third}]
    deviation = statistics.median(abs(ratio - 1.0) for ratio in kept)
    assert result.ratio_median == pytest.approx(statistics.median(kept), rel=1e-9)
    assert result.c_hat == pytest.approx(deviation * len(ratios) / math.log(2 * len(ratios)), rel=1e-9)


# photographs --------------------------------------------------------------------------------------------------------

NATURAL = {"resnet20": (4.95, 2, 8, 5), "resnet32": (5.73, 2, 9, 6), "resnet44": (6.00, 2, 10, 6)}
NATURAL |= {"resnet56": (6.18, 2, 10, 6)}
"""Mean, 5 % and 95 % and mode on 32 other crops of the same two photographs (theory note, section C)."""


@pytest.fixture(scope="module")
def crops() -> Tensor:
    """16 random squares of 64 to 400 pixels of two photographs, resized to 32 and normalised as CIFAR is."""
    pytest.importorskip("PIL")
    images = pytest.importorskip("sklearn.datasets").load_sample_images().images
    photographs = [torch.tensor(np.array(image)).permute(2, 0, 1).double() / 255.0 for image in images]
    generator = torch.Generator().manual_seed(0)

    def below(limit: int) -> int:
        return int(torch.randint(limit, (1,), generator=generator))

    found = []
    for index in range(16):
        photograph, side = photographs[index % 2], 64 + below(337)
        top, left = below(photograph.shape[1] - side + 1), below(photograph.shape[2] - side + 1)
        cut = photograph[None, :, top : top + side, left : left + side]
        found.append(F.interpolate(cut, size=(32, 32), mode="bilinear", antialias=True)[0])
    mean, deviation = (torch.tensor(c).view(3, 1, 1) for c in ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)))
    return (torch.stack(found) - mean) / deviation


@each_real
def test_depth_and_ratios_on_photographs_lie_where_an_independent_implementation_saw_them(
    name: str, crops: Tensor, checkpoints: Path
) -> None:
    subject = subject_on(checkpoints, name, crops, dtype="float32")
    result = ensemble.analyse(subject)
    mean, p05, p95, mode = NATURAL[name]
    assert result.depth_mean == pytest.approx(mean, abs=0.35)
    assert (result.depth_p05, result.depth_mode) == (p05, mode)
    assert abs((result.depth_p95 or 0) - p95) <= 1
    assert (result.inputs.bn_mismatch_mean or 1.0) < 0.25
    ratios = gradient.analyse(subject_on(checkpoints, name, crops, dtype="float32", objective="ce"))
    # 0.21 to 0.25 on the crops of the note; of other crops of the same photographs 0.19 to 0.33 were seen.
    assert ratios.c_hat is not None
    assert 0.1 < ratios.c_hat < 0.45
    kept = [row.ratio for row in ratios.blocks if not row.transition]
    assert abs(statistics.median(kept) - 1.0) < 0.2
    assert all(0.8 < row.ratio < 1.0 for row in ratios.blocks if row.transition)


# the user's own code ------------------------------------------------------------------------------------------------

USERS = {
    # class: ends of its branches, the module whose output the first block reads, blocks, layers on the longest path
    "DenseNet": (DenseNet, None, "stem", 5, 7),
    "ListedDenseNet": (ListedDenseNet, None, "stem", 4, 5),
    "ExciteNet": (ExciteNet, r"blocks\.\d+\.end", "stem", 4, 17),
    "Transformer": (Transformer, r"layers\.\d+\.(attention|mlp)", "embedded", 12, 25),
}


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ResidualGraph]:
    found = {}
    for name, (network, *_) in USERS.items():
        file = tmp_path_factory.mktemp("users") / f"{name}.pt"
        torch.save(start(network(), seed=3).state_dict(), file)
        found[name] = discover(load(str(file)), Settings(arch=f"ensemble_nets:{name}", input_size=(3, 8, 8)))
    return found


def users_subject(graph: ResidualGraph, **settings: object) -> Subject:
    return Subject(graph, Settings(**{"samples": 4, "inputs": "gaussian", "threads": 1, **settings}))


@pytest.mark.parametrize("unit", ["blocks", "layers"])
@pytest.mark.parametrize("name", USERS)
def test_parts_sum_to_the_gradient_through_code_of_the_user(
    name: str, unit: str, graphs: dict[str, ResidualGraph]
) -> None:
    subject = users_subject(graphs[name], unit=unit)
    result = ensemble.analyse(subject)
    assert result.identity_residual <= 1e-5
    assert result.distribution is not None
    _, _, _, blocks, layers = USERS[name]
    assert len(subject.blocks) == blocks
    assert len(result.distribution.norm) == 1 + (blocks if unit == "blocks" else layers)
    fast = users_subject(graphs[name], unit=unit, fast=True)
    assert ensemble.analyse(fast).projection_mean == pytest.approx(result.projection_mean, rel=1e-4)


@pytest.mark.parametrize("unit", ["blocks", "layers"])
@pytest.mark.parametrize("name", USERS)
def test_parts_through_code_of_the_user_are_those_of_a_fourier_transform_by_hooks(
    name: str, unit: str, graphs: dict[str, ResidualGraph]
) -> None:
    _, ends, first, blocks, layers = USERS[name]
    if unit == "blocks" and ends is None:
        pytest.skip("concatenations have no module at the end of their branch")
    subject = users_subject(graphs[name], unit=unit, dtype="float64")
    net, factor, images = start(USERS[name][0](), seed=3).double(), Factor(), subject.inputs.values
    cotangent = logit_cotangent(net, images)
    if unit == "blocks":
        factor.multiply(module for path, module in net.named_modules() if re.fullmatch(ends, path))
    else:
        factor.multiply(module for module in net.modules() if isinstance(module, nn.Conv2d | nn.Linear))
    factor.watch(net.get_submodule(first))
    expected = fourier_parts(net, factor, images, cotangent, blocks if unit == "blocks" else layers)
    found = parts_of(subject)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-11 * float(expected.abs().max()))


def test_a_gate_and_its_layers_make_the_branch_four_layers_deep(graphs: dict[str, ResidualGraph]) -> None:
    subject = users_subject(graphs["ExciteNet"])
    assert [block.weight_layers for block in subject.blocks] == [4] * 4
    assert len(subject.blocks[0].layers) == 4


def test_concatenations_are_blocks_whose_shortcut_hands_on_what_was_there(graphs: dict[str, ResidualGraph]) -> None:
    """The theory note calls dense networks degenerate in blocks, which counts sums alone; here both units work."""
    in_blocks, in_layers = (
        ensemble.analyse(users_subject(graphs["DenseNet"], unit=unit, dtype="float64")) for unit in ("blocks", "layers")
    )
    assert in_blocks.distribution is not None
    assert in_layers.distribution is not None
    # One layer a branch, and the transition and the head on every path.
    assert list(in_layers.distribution.norm[2:]) == pytest.approx(list(in_blocks.distribution.norm), abs=1e-12)
    assert set(in_layers.distribution.norm[:2]) == {0.0}


@pytest.mark.parametrize("name", ["ExciteNet", "Transformer", "ListedDenseNet"])
def test_what_has_no_rule_is_null_with_one_note_and_never_guessed(name: str, graphs: dict[str, ResidualGraph]) -> None:
    result = ensemble.analyse(users_subject(graphs[name], veit=True))
    assert result.predicted.energy is result.predicted.amplitude is None
    assert result.predicted.distribution.energy is None
    assert result.spin_glass.mode is result.spin_glass.mean is result.spin_glass.theta is None
    codes = [note.code for note in result.notes]
    assert set(codes) == {"no_rule"}
    assert len(codes) <= 2
    # In the listed form a path can pass by a concatenation, and is no choice at each of them.
    passes_by = name == "ListedDenseNet"
    assert (result.veit is None) == passes_by
    assert (result.predicted.binomial is None) == passes_by
    assert result.incoherent is not None
