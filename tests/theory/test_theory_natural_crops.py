"""Figures of the theory note `gradient-ensemble`, C, on inputs made as it says: crops of two photographs.

32 crops of 64 to 400 pixels of the photographs that scikit-learn ships, resized to 32 x 32 and normalised as CIFAR;
which crops is not on record. Over eight seeds here depths lie within 0.2 of the note's and means of ratios within 3 %;
c_hat, a median of few ratios, moves from .19 to .36, around the note's .21 to .25.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from resnet_audit import Settings, discover, ensemble, gradient, load

if TYPE_CHECKING:
    from pathlib import Path

MEAN, SD = np.array([0.4914, 0.4822, 0.4465]), np.array([0.2470, 0.2435, 0.2616])


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> str:
    """32 normalised crops in a file."""
    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    random = np.random.default_rng(0)
    found = []
    for _ in range(32):
        photograph = photographs[random.integers(2)]
        side = int(random.integers(64, 401))
        left, top = (int(random.integers(0, extent - side + 1)) for extent in photograph.size)
        small = photograph.crop((left, top, left + side, top + side)).resize((32, 32), Image.Resampling.BILINEAR)
        found.append(((np.asarray(small) / 255 - MEAN) / SD).transpose(2, 0, 1))
    path = tmp_path_factory.mktemp("crops") / "crops.npz"
    np.savez(path, inputs=np.stack(found).astype(np.float32))
    return str(path)


@pytest.mark.parametrize(
    ("name", "depth", "mean", "deviation"),
    [
        ("resnet20", 4.95, 1.517, 0.080),
        ("resnet32", 5.88, 1.312, 0.055),
        ("resnet44", 5.90, 1.178, 0.037),
        ("resnet56", 6.37, 1.131, 0.035),
    ],
)
def test_depths_and_ratios_are_those_of_the_note(
    checkpoints: Path, crops: str, name: str, depth: float, mean: float, deviation: float
) -> None:
    settings = Settings(data=crops, objective="ce", threads=1)
    graph = discover(load(checkpoints / f"{name}.th"))
    ratios, depths = gradient(graph, settings), ensemble(graph, settings)
    assert depths.depth_mean == pytest.approx(depth, abs=0.3)
    kept = [block.ratio for block in ratios.blocks if block.kind == "block" and not block.transition]
    assert math.exp(np.mean(np.log(kept))) == pytest.approx(mean, rel=0.04)
    assert np.median(np.abs(np.array(kept) - 1)) == pytest.approx(deviation, rel=0.5)
    assert ratios.c_hat is not None
    assert 0.18 < ratios.c_hat < 0.37
    assert ratios.inputs.bn_mismatch_mean == pytest.approx(0.14, abs=0.05)
    assert all(0.8 < block.ratio < 1.0 for block in ratios.blocks if block.transition)
