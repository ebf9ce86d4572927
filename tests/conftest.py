"""What every test may use: the real checkpoints, and the samples that the project ships."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


LONG = {"long": "takes minutes", "definitions": "exports model definitions of other packages, for minutes"}
"""Tests that run only where they are asked for, as in `pytest -m long`."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for marker, reason in LONG.items():
        if marker not in config.option.markexpr:
            skip = pytest.mark.skip(reason=f"{reason}: ask for it with -m {marker}")
            for item in items:
                if item.get_closest_marker(marker):
                    item.add_marker(skip)


@pytest.fixture(scope="session")
def checkpoints() -> Path:
    """The folder of real checkpoints; absent, the test skips, or fails where they are required."""
    folder = Path(os.environ.get("RESNET_AUDIT_CHECKPOINTS", ROOT.parent / "shared" / "checkpoints"))
    if folder.is_dir():
        return folder
    reason = "the real checkpoints are not here; RESNET_AUDIT_CHECKPOINTS names their folder"
    if os.environ.get("RESNET_AUDIT_REQUIRE_CHECKPOINTS") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def samples() -> Path:
    """The folder of sample checkpoints."""
    return ROOT / "sample_checkpoints"
