"""A terminal without wishes, and the same number of threads after every test as before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from cli_runner import TRAINED, VARIABLES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session", autouse=True)
def _plain_terminal() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in VARIABLES:
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def trained() -> dict[str, torch.Tensor]:
    """The weights of the trained sample, by name; a test copies before it changes them."""
    return torch.load(TRAINED, weights_only=True)


@pytest.fixture
def nan(trained: dict[str, torch.Tensor], tmp_path: Path) -> str:
    """The trained sample with one NaN in a kernel of block layer2.1."""
    broken = {name: value.clone() for name, value in trained.items()}
    broken["layer2.1.conv1.weight"][0, 0, 0, 0] = float("nan")
    torch.save(broken, tmp_path / "nan.pt")
    return str(tmp_path / "nan.pt")
