"""ResNet-18 and ResNet-50 for 3x224x224 with seeded random weights, and the convolutions of any checkpoint.

The names are those of the usual state dicts; only shapes and the sizes of the images matter here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from resnet_audit import discover, load
from resnet_audit.graph.ir import Conv

if TYPE_CHECKING:
    from pathlib import Path

Pair = tuple[int, int]
BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}


@dataclass(frozen=True, slots=True)
class Layer:
    """A convolution without groups and dilation. weight: (c_out, c_in, k, k), float64; size: of the image it reads."""

    name: str
    weight: Tensor
    size: Pair
    stride: Pair
    padding: Pair


def random_net(name: str, seed: int = 0) -> dict[str, Tensor]:
    """The state dict of `resnet18` or `resnet50`: He initialisation, normalisations as they start."""
    torch.manual_seed(seed)
    bottleneck = name == "resnet50"
    expansion = 4 if bottleneck else 1
    net = nn.ModuleDict({"conv1": nn.Conv2d(3, 64, 7, bias=False), "bn1": nn.BatchNorm2d(64)})
    channels = 64
    for stage, count in enumerate(BLOCKS[name]):
        width, blocks = 64 << stage, []
        for index in range(count):
            shapes = [(channels, width, 1), (width, width, 3), (width, 4 * width, 1)] if bottleneck else None
            shapes = shapes or [(channels, width, 3), (width, width, 3)]
            block = nn.ModuleDict()
            for number, (i, o, k) in enumerate(shapes, 1):
                block[f"conv{number}"], block[f"bn{number}"] = nn.Conv2d(i, o, k, bias=False), nn.BatchNorm2d(o)
            out = expansion * width
            if index == 0 and (stage > 0 or channels != out):
                block["downsample"] = nn.Sequential(nn.Conv2d(channels, out, 1, bias=False), nn.BatchNorm2d(out))
            blocks.append(block)
            channels = out
        net[f"layer{stage + 1}"] = nn.Sequential(*blocks)
    net["fc"] = nn.Linear(channels, 1000)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net.state_dict()


def convolutions(path: str | Path) -> list[Layer]:
    """All convolutions of a checkpoint, with the image that each reads as the audit finds it."""
    graph = discover(load(str(path)))
    shapes = {node.name: node.shape for node in graph.nodes}
    layers = []
    for node in graph.weight_nodes:
        op = node.op
        if isinstance(op, Conv):
            _, height, width = shapes[node.inputs[0]] or (0, 0, 0)
            layers.append(Layer(node.name, op.weight.double(), (height, width), op.stride, op.padding))
    return layers
