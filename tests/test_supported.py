"""What the README says loads and runs is what loads and runs."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from resnet_audit.graph.families_known import FAMILIES

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """docs/supported.py under a name of its own, which pickle needs to find its classes."""
    spec = importlib.util.spec_from_file_location("supported", ROOT / "docs" / "supported.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["supported"] = module
    sys.path.insert(0, str(ROOT / "docs"))
    spec.loader.exec_module(module)
    sys.path.remove(str(ROOT / "docs"))
    return module


def test_the_tables_of_the_readme_are_what_really_happens(script: ModuleType, tmp_path: Path) -> None:
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name)
    assert README.count(script.BEGIN) == README.count(script.END) == 1
    made = script.supported(tmp_path).strip()
    written = script.parts(README)[1].strip()
    assert written.splitlines() == made.splitlines(), "python docs/supported.py writes README.md anew"


def test_every_family_that_is_known_by_a_sign_has_a_row(script: ModuleType) -> None:
    states = [script.state_of(build()) for build in script.FAMILIES.values()]
    for family in FAMILIES:
        assert any(family.sign.fullmatch(key) for state in states for key in state), family.sign.pattern


def test_a_network_that_does_not_run_is_told_not_to_run(script: ModuleType, tmp_path: Path) -> None:
    """The column is an observation: take one layer away, and it changes."""
    layers = dict(script.FAMILIES["7x7 stem, 1x1 projections"]())
    del layers["layer1.1.bn2"]
    script.torch.save(script.state_of(layers), tmp_path / "less")
    assert script._outcome(script.load(str(tmp_path / "less")))[1] == "no"
