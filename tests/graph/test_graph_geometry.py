"""Geometry from a pickled module tree beats what names and shapes suggest."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from resnet_audit.checkpoint import load
from resnet_audit.errors import UsageError
from resnet_audit.graph import discover
from resnet_audit.settings import Settings


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride, dilation=1):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, dilation, dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs, eps=1e-3)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs, eps=1e-3)
        self.shortcut = nn.Sequential()
        if inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + self.shortcut(x))


class Net(nn.Module):
    """Stage 2 keeps its resolution and dilates: no state dict tells."""

    def __init__(self, act=nn.ReLU):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(4, eps=1e-3)
        self.act = act()
        self.layer1 = nn.Sequential(Block(4, 4, 1), Block(4, 4, 1))
        self.layer2 = nn.Sequential(Block(4, 8, 1, 2), Block(8, 8, 1, 2))
        self.layer3 = nn.Sequential(Block(8, 16, 2))
        self.linear = nn.Linear(16, 5)

    def forward(self, x):
        x = self.act(self.bn1(self.conv1(x)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


def trained(act=nn.ReLU):
    torch.manual_seed(0)
    net = Net(act)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.001, 2.0)
    return net.eval()


def test_a_pickled_network_runs_with_its_own_strides_dilation_and_eps(tmp_path):
    net, images = trained(), torch.randn(2, 3, 12, 12)
    torch.save(net, tmp_path / "whole.pt")
    graph = discover(load(str(tmp_path / "whole.pt")), Settings(input_size=(3, 12, 12)))
    torch.testing.assert_close(graph.forward(images), net(images).detach(), rtol=1e-5, atol=1e-5)
    assert {block.evidence for block in graph.blocks} == {"module"}


def test_the_bare_state_dict_of_that_network_computes_something_else(tmp_path):
    net, images = trained(), torch.randn(2, 3, 12, 12)
    torch.save(net.state_dict(), tmp_path / "bare.pt")
    graph = discover(load(str(tmp_path / "bare.pt")), Settings(input_size=(3, 12, 12)))
    assert not torch.allclose(graph.forward(images), net(images), atol=1e-3)
    assert any("stride 2" in text for text in graph.assumptions)


@pytest.mark.parametrize("act", [nn.SiLU, nn.LeakyReLU])
def test_a_pickled_network_with_another_activation_is_not_run(tmp_path, act):
    torch.save(trained(act), tmp_path / "whole.pt")
    graph = discover(load(str(tmp_path / "whole.pt")), Settings(input_size=(3, 12, 12)))
    assert act.__name__ in str(graph.runnable_reason)


def test_a_users_patterns_name_shortcuts_that_the_table_does_not(tmp_path):
    (tmp_path / "more.toml").write_text("shortcut = ['bridge']\n")
    tensors = {}
    for block in range(2):
        tensors |= {
            f"body.{block}.first.weight": torch.randn(8, 8, 3, 3),
            f"body.{block}.bridge.weight": torch.ones(8, 8, 1, 1),
        }
    torch.save(tensors, tmp_path / "net.pt")
    found = [
        discover(load(str(tmp_path / "net.pt")), Settings(patterns=patterns)).blocks
        for patterns in (None, str(tmp_path / "more.toml"))
    ]
    assert [{(block.evidence, block.skip_kind) for block in blocks} for blocks in found] == [
        {("shape", "identity")},
        {("named", "projection")},
    ]


def test_a_patterns_file_that_is_none_is_a_usage_error(tmp_path):
    (tmp_path / "more.toml").write_text("shortcuts = 3")
    torch.save({"a.weight": torch.ones(2, 2)}, tmp_path / "net.pt")
    with pytest.raises(UsageError):
        discover(load(str(tmp_path / "net.pt")), Settings(patterns=str(tmp_path / "more.toml")))
