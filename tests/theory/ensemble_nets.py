"""Networks in a user's own code, as `--arch` builds them: dense, squeeze-excite, and a pre-norm transformer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def start(net: nn.Module, seed: int) -> nn.Module:
    """The network in evaluation mode with seeded weights and statistics of its norms that are not those of a start."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in net.state_dict().items():
        if name.endswith("running_var"):
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
        elif name.endswith("running_mean"):
            tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
        elif tensor.ndim > 1:
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * (2.0 / tensor[0].numel()) ** 0.5)
        elif tensor.is_floating_point():
            tensor.copy_(float(name.endswith("weight")) + 0.3 * torch.randn(tensor.shape, generator=generator))
    return net.eval()


class DenseLayer(nn.Module):
    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(F.relu(self.norm(x)))], 1)


class DenseNet(nn.Module):
    """Five dense layers with a transition; there is no addition anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.first = nn.Sequential(*(DenseLayer(8 + 4 * index, 4) for index in range(3)))
        self.transition = nn.Conv2d(20, 10, 1, bias=False)
        self.second = nn.Sequential(*(DenseLayer(10 + 4 * index, 4) for index in range(2)))
        self.head = nn.Linear(18, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(self.transition(self.first(self.stem(x))), 2)
        return self.head(F.relu(self.second(x)).mean((2, 3)))


class ListedDenseNet(nn.Module):
    """The same idea as torchvision writes it: every layer reads all features so far, from a list."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.layers = nn.ModuleList(nn.Conv2d(8 + 4 * index, 4, 3, padding=1, bias=False) for index in range(4))
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for layer in self.layers:
            features.append(layer(F.relu(torch.cat(features, 1))))
        return self.head(torch.cat(features, 1).mean((2, 3)))


class ExciteBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.down = nn.Linear(width, width // 2)
        self.up = nn.Linear(width // 2, width)
        self.end = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        gate = torch.sigmoid(self.up(F.relu(self.down(out.mean((2, 3))))))
        return F.relu(x + self.end(out * gate[:, :, None, None]))


class ExciteNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.blocks = nn.Sequential(*(ExciteBlock(8) for _ in range(4)))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape

        def split(value: Tensor) -> Tensor:
            return value.view(n, tokens, self.heads, width // self.heads).transpose(1, 2)

        q, k, v = split(self.q(x)), split(self.k(x)), split(self.v(x))
        weights = torch.softmax(q @ k.transpose(-1, -2) / (width // self.heads) ** 0.5, -1)
        return self.out((weights @ v).transpose(1, 2).reshape(n, tokens, width))


class Layer(nn.Module):
    """Pre-norm: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """Patches of an 8x8 image, six pre-norm layers, the mean over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 2, 2)
        self.position = nn.Parameter(torch.zeros(1, 16, 16))
        self.embedded = nn.Identity()
        self.layers = nn.Sequential(*(Layer(16, 2) for _ in range(6)))
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.layers(self.embedded(tokens))).mean(1))
