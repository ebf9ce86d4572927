"""Networks from the user's own code: what loads, and the one line where it does not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from resnet_audit.errors import UsageError
from resnet_audit.graph.arch import load_architecture

CODE = """
import torch
from torch import nn

def net():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))

class Zoo:
    @staticmethod
    def inner():
        return nn.ModuleDict({"net": net()})

def tied():
    found = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False))
    found[1].weight = found[0].weight
    return found

def word():
    return "net"

def broken():
    raise ValueError("first line\\nsecond line")

def leaves():
    raise SystemExit(0)

built = net()
"""


@pytest.fixture
def zoo(tmp_path, monkeypatch) -> str:
    name = f"zoo_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    return name


def state() -> dict[str, Tensor]:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    return {name: torch.randn_like(tensor) if tensor.ndim else tensor for name, tensor in net.state_dict().items()}


@pytest.mark.parametrize("factory", ["net", "built", "Zoo.inner"])
def test_the_module_holds_the_tensors_of_the_checkpoint(zoo, factory) -> None:
    tensors = state()
    module = load_architecture(f"{zoo}:{factory}", tensors)
    assert not module.training
    found = {name.removeprefix("net."): tensor for name, tensor in module.state_dict().items()}
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_two_checkpoints_in_one_module_share_no_tensors(zoo) -> None:
    first = state()
    one = load_architecture(f"{zoo}:built", first)
    load_architecture(f"{zoo}:built", state())
    assert all(torch.equal(tensor, first[name]) for name, tensor in one.state_dict().items())


def test_a_counter_and_the_copy_of_a_tied_weight_may_be_missing(zoo) -> None:
    tensors = state()
    del tensors["1.num_batches_tracked"]
    load_architecture(f"{zoo}:net", tensors)
    weight = torch.randn(5, 3)
    module = load_architecture(f"{zoo}:tied", {"0.weight": weight})
    assert torch.equal(module[1].weight, weight)


def without(name: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in state().items() if not key.startswith(name)}


@pytest.mark.parametrize(
    ("spec", "tensors", "words"),
    [
        ("net", without("2."), ["the checkpoint has no 2.weight, 2.bias"]),
        ("net", without("1."), ["1.weight, 1.bias, 1.running_mean and 1 more"]),
        ("net", {**state(), "other": torch.ones(1)}, ["the network has no other"]),
        ("net", {**state(), "0.weight": torch.ones(7, 3)}, ["0.weight (7x3 in the checkpoint, 4x3 in the network)"]),
        ("missing", {}, ["missing cannot be built", "AttributeError"]),
        ("word", {}, ["gave a str", "torch.nn.Module"]),
        ("broken", {}, ["ValueError: first line"]),
        ("leaves", {}, ["SystemExit"]),
    ],
)
def test_what_does_not_fit_is_one_line(zoo, spec, tensors, words) -> None:
    with pytest.raises(UsageError) as caught:
        load_architecture(f"{zoo}:{spec}", tensors)
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)
    assert "second" not in str(caught.value)


def test_a_package_that_is_not_there_says_what_to_install() -> None:
    with pytest.raises(UsageError, match="there is no module no_such_zoo; install it"):
        load_architecture("no_such_zoo.models:net", {})
    with pytest.raises(UsageError, match=r"PACKAGE\.MODULE:FACTORY"):
        load_architecture("net", {})
