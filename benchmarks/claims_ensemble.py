"""Path depth of the gradient by epoch: whether it grows in training, and whether the branches' scale drives it.

    python benchmarks/claims_ensemble.py [--only NAME ...] [--write]

Trains eight small residual networks on the digits of scikit-learn, from seeds, on one thread of a CPU. At some epochs
the batch normalisation is measured anew on all training images, and `ensemble` decomposes the gradient on 64 held-out
digits: mean depth in blocks, norm shares, for the predicted-class logits and for a random cotangent. The claims are
those of Littwin and Wolf 2016 (arXiv 1611.02525): shallow at the start, deeper and deeper in training, driven by the
scale of the normalised branches (|gamma| of the last normalisation inside a branch, mean over channels and blocks).
The last column moves nothing but that scale: the weights of the start with the gamma of the end.
`--write` puts the tables between the markers of docs/claims.md. All of it takes some minutes.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR

from resnet_audit import Settings, ensemble
from resnet_audit.graph.from_export import from_module

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CLAIMS = Path(__file__).resolve().parent.parent / "docs" / "claims.md"
BEGIN, END = "<!-- claims: begin -->", "<!-- claims: end -->"
BLOCKS, WIDTH, CLASSES = 16, 16, 10
BATCH, MOMENTUM = 64, 0.9
MEASURED = 64
LOOKS = (0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24)
"""Epochs at which a network is measured; the last one of its training always is."""


# the networks ---------------------------------------------------------------------------------------------------------


def conv(c_in: int, c_out: int) -> nn.Conv2d:
    """A 3x3 convolution without bias that keeps the size of the map, drawn by He's rule."""
    layer = nn.Conv2d(c_in, c_out, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


class PostBlock(nn.Module):
    """relu(x + scale(conv2(relu(bn1(conv1(x))))))."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(WIDTH, WIDTH), nn.BatchNorm2d(WIDTH)
        self.conv2, self.scale = conv(WIDTH, WIDTH), nn.BatchNorm2d(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """The block's output for maps (N, C, H, W)."""
        return torch.relu(x + self.scale(self.conv2(torch.relu(self.bn1(self.conv1(x))))))


class PreBlock(nn.Module):
    """x + conv2(relu(scale(conv1(relu(bn1(x))))))."""

    def __init__(self) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(WIDTH), conv(WIDTH, WIDTH)
        self.scale, self.conv2 = nn.BatchNorm2d(WIDTH), conv(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """The block's output for maps (N, C, H, W)."""
        branch: Tensor = self.conv2(torch.relu(self.scale(self.conv1(torch.relu(self.bn1(x))))))
        return x + branch


class PaperBlock(nn.Module):
    """x + scale(relu(conv(x))): eq. 20 of the paper, lambda / sigma R(W x) + x, whose lambda is the scale's gamma."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.scale = conv(WIDTH, WIDTH), nn.BatchNorm2d(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """The block's output for maps (N, C, H, W)."""
        branch: Tensor = self.scale(torch.relu(self.conv(x)))
        return x + branch


class Net(nn.Module):
    """A stem, 16 blocks of one kind and 16 channels, the mean over the map, a linear head."""

    def __init__(self, block: type[nn.Module], *, zero_gamma: bool) -> None:
        super().__init__()
        post, pre = block is PostBlock, block is PreBlock
        self.stem = nn.Sequential(conv(1, WIDTH), *([nn.BatchNorm2d(WIDTH), nn.ReLU()] if post else []))
        self.blocks = nn.Sequential(*(block() for _ in range(BLOCKS)))
        self.last = nn.Sequential(*([nn.BatchNorm2d(WIDTH), nn.ReLU()] if pre else []))
        self.head = nn.Linear(WIDTH, CLASSES)
        if zero_gamma:
            for scale in self.scales():
                nn.init.zeros_(scale.weight)

    def scales(self) -> list[nn.BatchNorm2d]:
        """The last normalisation inside each branch."""
        return [block.get_submodule("scale") for block in self.blocks]  # type: ignore[misc]  # each is a BatchNorm2d

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 10) of digits (N, 1, 8, 8)."""
        logits: Tensor = self.head(self.last(self.blocks(self.stem(x))).mean((2, 3)))
        return logits


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One training run."""

    name: str
    block: type[nn.Module]
    epochs: int
    weight_decay: float
    lr: float
    seed: int
    zero_gamma: bool = False


RECIPES = (
    Recipe(name="post, decay 5e-4", block=PostBlock, epochs=24, weight_decay=5e-4, lr=0.1, seed=0),
    Recipe(name="post, no decay", block=PostBlock, epochs=14, weight_decay=0.0, lr=0.1, seed=1),
    Recipe(name="pre, decay 5e-4", block=PreBlock, epochs=24, weight_decay=5e-4, lr=0.1, seed=0),
    Recipe(name="eq. 20, no decay", block=PaperBlock, epochs=16, weight_decay=0.0, lr=0.1, seed=0),
    Recipe(name="eq. 20, second seed", block=PaperBlock, epochs=16, weight_decay=0.0, lr=0.1, seed=1),
    Recipe(name="post, slow", block=PostBlock, epochs=14, weight_decay=0.0, lr=0.02, seed=1),
    Recipe(name="eq. 20, slow", block=PaperBlock, epochs=16, weight_decay=0.0, lr=0.02, seed=1),
    Recipe(
        name="post, gamma from 0, no decay",
        block=PostBlock,
        epochs=12,
        weight_decay=0.0,
        lr=0.1,
        seed=0,
        zero_gamma=True,
    ),
)


# training -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Digits:
    """1297 digits to train on and 500 held out, (n, 1, 8, 8) of mean 0 and variance 1, with labels (n,)."""

    train_inputs: Tensor
    train_labels: Tensor
    inputs: Tensor
    labels: Tensor


def digits() -> Digits:
    """The digits of scikit-learn in a stratified split of seed 0."""
    images, labels = load_digits(return_X_y=True)
    train, test, train_labels, test_labels = train_test_split(
        images, labels, test_size=500, stratify=labels, random_state=0
    )
    mean, std = train.mean(), train.std()

    def normalised(x: np.ndarray) -> Tensor:
        return torch.from_numpy((x - mean) / std).float().reshape(-1, 1, 8, 8)

    return Digits(
        train_inputs=normalised(train),
        train_labels=torch.from_numpy(train_labels).long(),
        inputs=normalised(test),
        labels=torch.from_numpy(test_labels).long(),
    )


def training(recipe: Recipe, data: Digits) -> Iterator[tuple[int, Net]]:
    """Epochs done and the network: 0 before the first step, then after each pass over the training images."""
    torch.manual_seed(recipe.seed)
    net = Net(recipe.block, zero_gamma=recipe.zero_gamma)
    order = torch.Generator().manual_seed(recipe.seed)
    optimizer = SGD(net.parameters(), lr=recipe.lr, momentum=MOMENTUM, weight_decay=recipe.weight_decay, nesterov=True)
    steps = recipe.epochs * -(-len(data.train_labels) // BATCH)
    schedule = OneCycleLR(optimizer, max_lr=recipe.lr, total_steps=steps, cycle_momentum=False)
    yield 0, net
    for epoch in range(1, recipe.epochs + 1):
        net.train()
        for batch in torch.randperm(len(data.train_labels), generator=order).split(BATCH):
            loss = functional.cross_entropy(net(data.train_inputs[batch]), data.train_labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        yield epoch, net


@torch.no_grad()
def recalibrated(net: Net, inputs: Tensor) -> Net:
    """A copy in evaluation mode whose running statistics are those of `inputs` as one batch."""
    net = copy.deepcopy(net).train()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # a cumulative average
    net(inputs)
    return net.eval()


# measuring ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What was seen at one epoch: mean depths in blocks, |gamma|, accuracy on the 500 held-out digits."""

    epoch: int
    logit: float
    random: float
    gamma: float
    accuracy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """All looks at one training, and the logit depth of the start's weights with the gamma of the end."""

    recipe: Recipe
    looks: tuple[Look, ...]
    gamma_alone: float


def depth(net: Net, path: str, objective: str) -> float:
    """Mean path depth of the gradient at the first block's input, in blocks, by norm shares."""
    settings = Settings(data=path, samples=MEASURED, objective=objective, threads=1)
    graph = replace(from_module(net, torch.zeros(MEASURED, 1, 8, 8)), batch=MEASURED)
    found = ensemble(graph, settings).depth_mean
    if found is None:
        raise SystemExit("a gradient of zero has no depth")
    return found


def look(epoch: int, net: Net, data: Digits, path: str) -> Look:
    """The network as it stands, recalibrated."""
    with torch.no_grad():
        gamma = float(torch.stack([scale.weight.abs().mean() for scale in net.scales()]).mean())
    calibrated = recalibrated(net, data.train_inputs)
    with torch.no_grad():
        accuracy = float((calibrated(data.inputs).argmax(1) == data.labels).double().mean())
    depths = [depth(calibrated, path, objective) for objective in ("logit", "random")]
    return Look(epoch=epoch, logit=depths[0], random=depths[1], gamma=gamma, accuracy=accuracy)


def run(recipe: Recipe, data: Digits, path: str) -> Run:
    """Train by the recipe and look."""
    looks: list[Look] = []
    begun = time.perf_counter()
    start = end = None
    for epoch, net in training(recipe, data):
        if epoch == 0:
            start = copy.deepcopy(net)
        if epoch in LOOKS or epoch == recipe.epochs:
            looks.append(look(epoch, net, data, path))
            one = looks[-1]
            print(
                f"{recipe.name}: epoch {epoch} depth {one.logit:.2f}/{one.random:.2f} |gamma| {one.gamma:.3f} "
                f"accuracy {one.accuracy:.3f}, {time.perf_counter() - begun:.0f} s",
                flush=True,
            )
        end = net
    if start is None or end is None:
        raise SystemExit("a recipe needs an epoch")
    with torch.no_grad():
        for first, last in zip(start.scales(), end.scales(), strict=True):
            first.weight.copy_(last.weight)
    alone = depth(recalibrated(start, data.train_inputs), path, "logit")
    return Run(recipe=recipe, looks=tuple(looks), gamma_alone=alone)


# telling --------------------------------------------------------------------------------------------------------------


def summary(runs: Sequence[Run]) -> str:
    """A row a run: start, minimum, end, gamma, and what gamma does alone."""
    lines = [
        "| run | rate | accuracy | depth at the start | minimum (epoch) | depth at the end | gamma | gamma alone |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in runs:
        first, last = one.looks[0], one.looks[-1]
        low = min(one.looks, key=lambda seen: seen.logit)
        lines.append(
            f"| {one.recipe.name} | {one.recipe.lr} | {last.accuracy:.3f} | "
            f"{first.logit:.2f} / {first.random:.2f} | {low.logit:.2f} ({low.epoch}) | "
            f"{last.logit:.2f} / {last.random:.2f} | {first.gamma:.3f} -> {last.gamma:.3f} | {one.gamma_alone:.2f} |"
        )
    return "\n".join(lines)


def dynamics(runs: Sequence[Run]) -> str:
    """A row an epoch, a column a run."""
    epochs = sorted({seen.epoch for one in runs for seen in one.looks})
    lines = ["| epoch | " + " | ".join(one.recipe.name for one in runs) + " |", "|---" * (len(runs) + 1) + "|"]
    for epoch in epochs:
        cells = []
        for one in runs:
            seen = next((seen for seen in one.looks if seen.epoch == epoch), None)
            cells.append("" if seen is None else f"{seen.logit:.2f} / {seen.random:.2f}, {seen.gamma:.3f}")
        lines.append(f"| {epoch} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write(text: str) -> None:
    """Put the tables between the markers of docs/claims.md."""
    page = CLAIMS.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    CLAIMS.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def main() -> None:
    """Train, measure, print, and write where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", help="names of runs; all without it")
    parser.add_argument("--write", action="store_true", help="write docs/claims.md")
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = digits()
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "digits.npz")
        np.savez(path, inputs=data.inputs[:MEASURED].numpy(), labels=data.labels[:MEASURED].numpy())
        runs = [run(recipe, data, path) for recipe in RECIPES if not given.only or recipe.name in given.only]
    text = f"{summary(runs)}\n\nBy epoch: depth for logits / for a random cotangent, and |gamma|.\n\n{dynamics(runs)}"
    print(text)
    if given.write:
        write(text)


if __name__ == "__main__":
    main()
