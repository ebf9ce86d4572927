"""The garbage collector while torch is imported, and afterwards."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest
import torch  # noqa: F401 - it is there in what follows, but for the other process

from resnet_audit.garbage import importing_torch

CODE = """
import gc
from resnet_audit.garbage import importing_torch
try:
    with importing_torch():
        assert not gc.isenabled()
        raise KeyboardInterrupt
except KeyboardInterrupt:
    assert gc.isenabled()
with importing_torch():
    import torch
assert gc.isenabled()
print(gc.get_freeze_count() > 100_000)
"""


def test_it_rests_while_torch_is_imported_and_never_looks_at_what_that_made() -> None:
    done = subprocess.run([sys.executable, "-P", "-c", CODE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


@pytest.mark.parametrize("enabled", [True, False])
def test_nothing_is_touched_where_torch_is_already_there(*, enabled: bool) -> None:
    frozen = gc.get_freeze_count()
    try:
        (gc.enable if enabled else gc.disable)()
        with importing_torch():
            assert gc.isenabled() == enabled
        assert gc.isenabled() == enabled
    finally:
        gc.enable()
    assert gc.get_freeze_count() == frozen
