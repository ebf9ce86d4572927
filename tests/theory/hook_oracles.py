"""Depth distributions without graphs: hooks multiply gradients by roots of unity, a Fourier transform gives the parts.

Plain torch modules and autograd; nothing here comes from the package. The forward pass sees every input twice, so that
one half carries the real and one the imaginary part of a complex gradient.
"""

from __future__ import annotations

import cmath
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass
class Factor:
    """Hooks that leave values alone and multiply the gradient of what the hooked modules return by `z`."""

    z: complex = 1.0
    start: Tensor = field(init=False)

    def multiply(self, modules: Iterable[nn.Module]) -> None:
        for module in modules:
            module.register_forward_hook(self._output)

    def watch(self, module: nn.Module) -> None:
        """The gradient is wanted at the output of this module."""

        def keep(_module: nn.Module, _inputs: object, value: Tensor) -> Tensor:
            self.start = value.clone()
            return self.start

        module.register_forward_hook(keep)

    def _output(self, _module: nn.Module, _inputs: object, value: Tensor) -> Tensor:
        # A copy: what is added to in place would change the value that the hook belongs to.
        value = value.clone()
        if value.requires_grad:
            value.register_hook(self._turned)
        return value

    def _turned(self, gradient: Tensor) -> Tensor:
        if self.z.imag == 0.0:
            return gradient * self.z.real
        real, imaginary = gradient.chunk(2)
        return torch.cat(
            [self.z.real * real - self.z.imag * imaginary, self.z.imag * real + self.z.real * imaginary],
        )


def fourier_parts(net: nn.Module, factor: Factor, images: Tensor, cotangent: Tensor, degree: int) -> Tensor:
    """The parts c_0 ... c_degree at the watched module, each (N, ...), from evaluations at roots of unity."""
    n = degree + 1
    logits = net(torch.cat([images, images]))
    values = []
    for index in range(n // 2 + 1):
        factor.z = cmath.exp(-2j * cmath.pi * index / n)
        seed = torch.cat([cotangent, torch.zeros_like(cotangent)])
        (gradient,) = torch.autograd.grad(logits, factor.start, seed, retain_graph=True)
        values.append(torch.complex(*gradient.chunk(2)))
    # n is given: without it an odd number of values would be taken for an even one.
    return torch.fft.irfft(torch.stack(values), n=n, dim=0)


def gradient_at(net: nn.Module, factor: Factor, images: Tensor, cotangent: Tensor, z: float) -> Tensor:
    """The gradient at the watched module with hooked gradients multiplied by a real z; values are untouched."""
    factor.z = complex(z)
    (gradient,) = torch.autograd.grad(net(images), factor.start, cotangent)
    return gradient


class CifarBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.missing = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        half = self.missing // 2
        out += F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, half))
        return F.relu(out)


class CifarResNet(nn.Module):
    """The CIFAR ResNet with parameter-free shortcuts, with the names of its published checkpoints."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        inputs = 16
        for stage in (1, 2, 3):
            width = 16 << (stage - 1)
            members = []
            for index in range(blocks):
                members.append(CifarBlock(inputs, width, 2 if stage > 1 and index == 0 else 1))
                inputs = width
            setattr(self, f"layer{stage}", nn.Sequential(*members))
        self.linear = nn.Linear(64, 10)

    @property
    def blocks(self) -> list[CifarBlock]:
        return [block for stage in (self.layer1, self.layer2, self.layer3) for block in stage]

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def cifar_resnet(weights: Mapping[str, Tensor]) -> tuple[CifarResNet, Factor]:
    """The network with these weights, in float64, its branches hooked, its gradient kept at the first block's input."""
    blocks = sum(name.endswith("conv1.weight") for name in weights) // 3
    net = CifarResNet(blocks).double().eval()
    missing, unexpected = net.load_state_dict(dict(weights), strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    factor = Factor()
    factor.multiply(block.bn2 for block in net.blocks)
    factor.watch(net.relu)
    return net, factor
