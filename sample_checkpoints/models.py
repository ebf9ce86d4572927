"""The four networks of the sample checkpoints, written out plainly: input (n, 1, 8, 8), output (n, 10) logits.

The names of the modules are the names in the files. `resnet_audit` never imports this module: it reads the files
alone, and the tests use these classes as a forward pass that owes it nothing.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

WIDTHS = (8, 16, 32)
CLASSES = 10
EXPANSION = 4


def conv(c_in: int, c_out: int, *, size: int, stride: int = 1) -> nn.Conv2d:
    """Convolution without bias that keeps the image size, up to its stride."""
    return nn.Conv2d(c_in, c_out, size, stride=stride, padding=size // 2, bias=False)


def pool(x: Tensor) -> Tensor:
    """Mean over the image of each channel, (n, c)."""
    return x.mean(dim=(2, 3))


def he_init(net: nn.Module) -> None:
    """Draw every convolution of `net` from He's normal distribution (fan out) with torch's global generator."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class BasicBlock(nn.Module):
    """relu(x + bn2(conv2(relu(bn1(conv1(x)))))), with a shortcut that has no parameters."""

    def __init__(self, c_in: int, planes: int) -> None:
        """Take `c_in` channels to `planes`; a change of width comes with stride 2 and zero channels."""
        super().__init__()
        self.stride = 1 if c_in == planes else 2
        self.new_channels = 0 if c_in == planes else planes // 4
        self.conv1 = conv(c_in, planes, size=3, stride=self.stride)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = conv(planes, planes, size=3)
        self.bn2 = nn.BatchNorm2d(planes)

    def shortcut(self, x: Tensor) -> Tensor:
        """`x` subsampled by the stride, with zero channels on both sides."""
        kept = x[:, :, :: self.stride, :: self.stride]
        return functional.pad(kept, (0, 0, 0, 0, self.new_channels, self.new_channels))

    @override
    def forward(self, x: Tensor) -> Tensor:
        branch = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(self.shortcut(x) + branch)


class ResNet(nn.Module):
    """A post-activation residual network: 9 basic blocks, 20 weight layers."""

    def __init__(self) -> None:
        """Three layers of three blocks, 8, 16 and 32 channels wide."""
        super().__init__()
        self.conv1 = conv(1, WIDTHS[0], size=3)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(BasicBlock(c_in, c), BasicBlock(c, c), BasicBlock(c, c))
            for c_in, c in pairwise((WIDTHS[0], *WIDTHS))
        )
        self.linear = nn.Linear(WIDTHS[-1], CLASSES)
        he_init(self)

    @override
    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        logits: Tensor = self.linear(pool(self.layer3(self.layer2(self.layer1(x)))))
        return logits


class Plain(nn.Module):
    """The layers of `ResNet` in one chain: no shortcut, a ReLU after each normalisation, and flat names."""

    def __init__(self) -> None:
        """`conv1`, `bn1`, ... `conv19`, `bn19`, `linear`; the stride is 2 where the width changes."""
        super().__init__()
        widths = [WIDTHS[0], *(c for c in WIDTHS for _ in range(6))]
        self.add_module("conv1", conv(1, WIDTHS[0], size=3))
        self.add_module("bn1", nn.BatchNorm2d(WIDTHS[0]))
        for i, (c_in, c) in enumerate(pairwise(widths), start=2):
            self.add_module(f"conv{i}", conv(c_in, c, size=3, stride=1 if c_in == c else 2))
            self.add_module(f"bn{i}", nn.BatchNorm2d(c))
        self.linear = nn.Linear(WIDTHS[-1], CLASSES)
        self.depth = len(widths)
        he_init(self)

    @override
    def forward(self, x: Tensor) -> Tensor:
        for i in range(1, self.depth + 1):
            x = torch.relu(self.get_submodule(f"bn{i}")(self.get_submodule(f"conv{i}")(x)))
        logits: Tensor = self.linear(pool(x))
        return logits


class PreactBlock(nn.Module):
    """x + conv2(relu(bn2(conv1(relu(bn1(x)))))); a change of width projects the raw x by a 1x1 convolution."""

    def __init__(self, c_in: int, planes: int) -> None:
        """Take `c_in` channels to `planes`; a change of width comes with stride 2."""
        super().__init__()
        stride = 1 if c_in == planes else 2
        self.bn1 = nn.BatchNorm2d(c_in)
        self.conv1 = conv(c_in, planes, size=3, stride=stride)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = conv(planes, planes, size=3)
        self.downsample = None if stride == 1 else nn.Sequential(conv(c_in, planes, size=1, stride=stride))

    @override
    def forward(self, x: Tensor) -> Tensor:
        branch: Tensor = self.conv2(torch.relu(self.bn2(self.conv1(torch.relu(self.bn1(x))))))
        return branch + (x if self.downsample is None else self.downsample(x))


class PreactNet(nn.Module):
    """A pre-activation residual network: 9 blocks, then one normalisation and ReLU before the pooling."""

    def __init__(self) -> None:
        """Three layers of three blocks, 8, 16 and 32 channels wide."""
        super().__init__()
        self.conv1 = conv(1, WIDTHS[0], size=3)
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(PreactBlock(c_in, c), PreactBlock(c, c), PreactBlock(c, c))
            for c_in, c in pairwise((WIDTHS[0], *WIDTHS))
        )
        self.bn = nn.BatchNorm2d(WIDTHS[-1])
        self.fc = nn.Linear(WIDTHS[-1], CLASSES)
        he_init(self)

    @override
    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        logits: Tensor = self.fc(pool(torch.relu(self.bn(x))))
        return logits


class Bottleneck(nn.Module):
    """relu(shortcut + branch): the branch is 1x1, 3x3 (with the stride), 1x1, each normalised."""

    def __init__(self, c_in: int, planes: int, *, stride: int = 1) -> None:
        """Take `c_in` channels to 4 planes; a change of width projects the shortcut by a normalised 1x1 convolution."""
        super().__init__()
        c_out = planes * EXPANSION
        self.conv1 = conv(c_in, planes, size=1)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = conv(planes, planes, size=3, stride=stride)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = conv(planes, c_out, size=1)
        self.bn3 = nn.BatchNorm2d(c_out)
        self.downsample = (
            None if c_in == c_out else nn.Sequential(conv(c_in, c_out, size=1, stride=stride), nn.BatchNorm2d(c_out))
        )

    @override
    def forward(self, x: Tensor) -> Tensor:
        branch = torch.relu(self.bn1(self.conv1(x)))
        branch = torch.relu(self.bn2(self.conv2(branch)))
        branch = self.bn3(self.conv3(branch))
        return torch.relu(branch + (x if self.downsample is None else self.downsample(x)))


class BottleneckNet(nn.Module):
    """A post-activation residual network of 6 bottleneck blocks, 20 weight layers on its longest path."""

    def __init__(self) -> None:
        """Three layers of two blocks, 32, 64 and 128 channels wide between the blocks."""
        super().__init__()
        self.conv1 = conv(1, WIDTHS[0], size=3)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        between = (WIDTHS[0], *(c * EXPANSION for c in WIDTHS))
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(Bottleneck(c_in, c, stride=stride), Bottleneck(c * EXPANSION, c))
            for c_in, c, stride in zip(between[:-1], WIDTHS, (1, 2, 2), strict=True)
        )
        self.fc = nn.Linear(between[-1], CLASSES)
        he_init(self)

    @override
    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        logits: Tensor = self.fc(pool(self.layer3(self.layer2(self.layer1(x)))))
        return logits
