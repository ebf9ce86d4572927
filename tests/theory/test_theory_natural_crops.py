"""Figures of the theory note `gradient-ensemble`, C, on inputs made as it says: crops of two photographs.

32 crops of 64 to 400 pixels of the photographs that scikit-learn ships, resized to 32 x 32 and normalised as CIFAR-10
is by most training scripts. Which crops is not on record, so depths and ratios are compared within what another draw
changes. c_hat is the median of few ratios and moves most: here are 40 draws by code of its own, torch's autograd on a
network written out, and the note's four figures each lie among them. Its "0.21 to 0.25" is the span of those four
figures, not of the quantity: of 100 draws of each net 91, 48, 57 and 55 lie outside, the extremes 0.14 and 0.37.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch.nn import functional as F

from resnet_audit import Settings, discover, ensemble, gradient, load

if TYPE_CHECKING:
    from pathlib import Path

MEAN, SD = np.array([0.4914, 0.4822, 0.4465]), np.array([0.2023, 0.1994, 0.2010])
NOTE = {
    # name: mean depth, geometric mean of ratios, median |ratio - 1|, c_hat; of blocks that are no transition
    "resnet20": (4.95, 1.517, 0.080, 0.250),
    "resnet32": (5.88, 1.312, 0.055, 0.241),
    "resnet44": (5.90, 1.178, 0.037, 0.207),
    "resnet56": (6.37, 1.131, 0.035, 0.239),
}
DRAWS = 40


@cache
def crops(seed: int) -> np.ndarray:
    """32 normalised crops, (32, 3, 32, 32)."""
    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    random = np.random.default_rng(seed)
    found = []
    for _ in range(32):
        photograph = photographs[random.integers(2)]
        side = int(random.integers(64, 401))
        left, top = (int(random.integers(0, extent - side + 1)) for extent in photograph.size)
        small = photograph.crop((left, top, left + side, top + side)).resize((32, 32), Image.Resampling.BILINEAR)
        found.append(((np.asarray(small) / 255 - MEAN) / SD).transpose(2, 0, 1))
    return np.stack(found).astype(np.float32)


def ratios_by_autograd(stored: dict[str, Tensor], x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Gradient-norm ratios of all blocks for the cross entropy of the predicted class, and which are transitions."""

    def normalised(h: Tensor, name: str) -> Tensor:
        of = [stored[f"module.{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(h, *of)

    def convolved(h: Tensor, name: str, stride: int = 1) -> Tensor:
        return F.conv2d(h, stored[f"module.{name}.weight"], stride=stride, padding=1)

    values = [F.relu(normalised(convolved(x, "conv1"), "bn1")).detach().requires_grad_()]
    strides = []
    for name in dict.fromkeys(key.rsplit(".", 2)[0][7:] for key in stored if ".layer" in key):
        h = values[-1]
        stride = 2 if name.endswith(".0") and not name.startswith("layer1") else 1
        branch = F.relu(normalised(convolved(h, f"{name}.conv1", stride), f"{name}.bn1"))
        branch = normalised(convolved(branch, f"{name}.conv2"), f"{name}.bn2")
        missing = (branch.shape[1] - h.shape[1]) // 2
        shortcut = F.pad(h[:, :, ::stride, ::stride], (0, 0, 0, 0, missing, missing))
        values.append(F.relu(branch + shortcut))
        strides.append(stride)
    logits = F.linear(values[-1].mean((2, 3)), stored["module.linear.weight"], stored["module.linear.bias"])
    loss = F.cross_entropy(logits, logits.argmax(1), reduction="sum")
    norms = np.array([float(part.norm()) for part in torch.autograd.grad(loss, values)])
    return norms[:-1] / norms[1:], np.array(strides) > 1


def c_hat(ratios: np.ndarray, transition: np.ndarray) -> float:
    depth = len(ratios)
    return float(np.median(np.abs(ratios[~transition] - 1))) * depth / math.log(2 * depth)


def stored_in(checkpoints: Path, name: str) -> dict[str, Tensor]:
    found: dict[str, Tensor] = torch.load(checkpoints / f"{name}.th", map_location="cpu", weights_only=True)
    return found["state_dict"]


@pytest.mark.parametrize("name", NOTE)
def test_depths_and_ratios_are_those_of_the_note(checkpoints: Path, tmp_path: Path, name: str) -> None:
    depth, mean, _, _ = NOTE[name]
    np.savez(tmp_path / "crops.npz", inputs=crops(0))
    settings = Settings(data=str(tmp_path / "crops.npz"), objective="ce", threads=1)
    graph = discover(load(checkpoints / f"{name}.th"))
    found, depths = gradient(graph, settings), ensemble(graph, settings)
    assert depths.depth_mean == pytest.approx(depth, abs=0.3)
    kept = [block.ratio for block in found.blocks if block.kind == "block" and not block.transition]
    assert math.exp(np.mean(np.log(kept))) == pytest.approx(mean, rel=0.04)
    assert found.inputs.bn_mismatch_mean == pytest.approx(0.14, abs=0.05)
    assert all(0.8 < block.ratio < 1.0 for block in found.blocks if block.transition)
    ratios, transition = ratios_by_autograd(stored_in(checkpoints, name), torch.from_numpy(crops(0)))
    assert [block.ratio for block in found.blocks if block.kind == "block"] == pytest.approx(ratios, rel=1e-4)
    assert found.c_hat == pytest.approx(c_hat(ratios, transition), rel=1e-3)


@pytest.mark.parametrize("name", NOTE)
def test_c_hat_and_the_medians_of_the_note_lie_among_those_of_other_crops(checkpoints: Path, name: str) -> None:
    _, _, deviation, noted = NOTE[name]
    stored = stored_in(checkpoints, name)
    drawn = np.array(
        [c_hat(*ratios_by_autograd(stored, torch.from_numpy(crops(seed)))) for seed in range(DRAWS)], dtype=float
    )
    low, high = np.percentile(drawn, [2.5, 97.5])
    assert low < noted < high
    blocks = sum(key.endswith("conv1.weight") for key in stored) - 1
    assert low < deviation * blocks / math.log(2 * blocks) < high
    assert np.median(drawn) == pytest.approx(noted, rel=0.2)
