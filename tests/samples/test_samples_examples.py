"""The example of training: it finds the layers, and the hook keeps them near an isometry."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The script as a module, with one epoch instead of all; what it imports by name is forgotten after."""
    monkeypatch.syspath_prepend(str(ROOT / "sample_checkpoints"))
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import make  # noqa: PLC0415 - found by the paths above
    import norm_preserving_training  # noqa: PLC0415 - as above

    monkeypatch.setattr(make, "EPOCHS", 1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield norm_preserving_training
    torch.set_num_threads(threads)
    for name in ("make", "models", "norm_preserving_training"):
        sys.modules.pop(name)


def test_the_layers_are_those_with_a_stride_and_what_they_read(example: ModuleType) -> None:
    net = example.ResNet()
    found = example.transitions(net, torch.zeros(1, 1, 8, 8))
    assert [layer.conv for layer in found] == [net.layer2[0].conv1, net.layer3[0].conv1]
    assert [layer.size for layer in found] == [(8, 8), (4, 4)]


def test_training_with_the_hook_ends_near_an_isometry_and_without_it_does_not(example: ModuleType) -> None:
    data = example.digits()
    plain, projected = (example.trained(data, 1, every, 5) for every in (0, 7))
    again = example.trained(data, 1, 0, 5)
    assert plain == again
    assert projected[1] < 0.1 < plain[1]
    assert all(0.1 < accuracy <= 1 for accuracy, _ in (plain, projected))


def test_it_prints_both_accuracies_of_every_seed(example: ModuleType, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["norm_preserving_training.py", "--seeds", "2", "--iterations", "1"])
    example.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["seed", "1", "2", "mean", "difference"]
    assert all(len(line.split()) == 5 for line in lines[1:3])
