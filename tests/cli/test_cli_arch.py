"""--arch: the user's own code, by consent."""

from __future__ import annotations

import pytest
import torch
from cli_runner import invoke

CODE = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.one = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.GELU(), nn.Conv2d(8, 8, 3, padding=1))
        self.two = nn.Sequential(nn.LayerNorm([8, 8, 8]), nn.Conv2d(8, 8, 1))
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.one(x)
        x = x + self.two(x)
        return self.head(x.mean((2, 3)))

def broken():
    raise RuntimeError("not today")
"""
SIZE = ("--input-size", "3x8x8", "--samples", "4")


@pytest.fixture
def model(tmp_path, monkeypatch) -> str:
    (tmp_path / "mynets.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    scope: dict[str, object] = {}
    exec(CODE, scope)  # noqa: S102 - our own text
    torch.save(scope["Net"]().state_dict(), tmp_path / "net.pt")
    return "net.pt"


def test_the_users_code_gives_blocks_and_every_measured_number(model) -> None:
    ran = invoke("report", model, "--arch", "mynets:Net", *SIZE, "-f", "json")
    assert ran.code == 0
    (entry,) = ran.json["checkpoints"]
    assert entry["graph"]["source"] == "module"
    assert [block["evidence"] for block in entry["graph"]["blocks"]] == ["graph", "graph"]
    assert entry["ensemble"]["identity_residual"] < 1e-5
    assert entry["gradient"]["norms"]
    assert entry["bound"]["covers"] is None
    assert entry["bound"]["unsupported"]
    assert entry["bound"]["layers"]


@pytest.mark.parametrize("spec", ["mynets:Nothing", "nowhere:Net", "mynets:broken", "mynets", "torchvision:"])
def test_what_cannot_be_built_is_one_line(model, spec) -> None:
    ran = invoke("graph", model, "--arch", spec, *SIZE)
    assert ran.code == 2
    assert len(ran.lines) == 1


def test_the_size_of_the_input_is_asked_for(model) -> None:
    ran = invoke("graph", model, "--arch", "mynets:Net")
    assert ran.code == 2
    assert "--input-size" in ran.lines[0]


def test_tensors_that_do_not_fit_the_users_code_are_named(model, tmp_path) -> None:
    state = torch.load(tmp_path / "net.pt")
    state.pop("head.bias")
    torch.save(state, tmp_path / "other.pt")
    ran = invoke("graph", "other.pt", "--arch", "mynets:Net", *SIZE)
    assert ran.code == 2
    assert "head.bias" in ran.lines[0]
