"""Trains the digits network with norm-preserving transition layers and without, on the same seeds.

The same network, data, seeds and recipe as sample_checkpoints/make.py, twice a seed. The second time the kernels of the
transition layers (stride 2) are projected towards an isometry after every so many optimizer steps, as in Zaeemzadeh,
Rahnavard, Shah 2020 (arXiv 1805.07477). Prints the accuracy on the held-out digits and how far the singular values of
the transition layers are from 1 in the end. Run it as it is; it needs scikit-learn for the digits.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from resnet_audit import procrustes

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "sample_checkpoints"))

from make import Digits, accuracy, digits, epochs, recalibrated, training
from models import ResNet

if TYPE_CHECKING:
    from torch.optim import Optimizer

LR = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """A convolution that subsamples, with the rows and columns of the image that it reads."""

    conv: nn.Conv2d
    size: tuple[int, int]

    def project(self, iterations: int) -> None:
        """Move the kernel towards the nearest isometry, in place."""
        conv = self.conv
        with torch.no_grad():
            found = procrustes(
                conv.weight, self.size, conv.stride, conv.groups, conv.dilation, target="auto", iterations=iterations
            )
            conv.weight.copy_(found.weight)

    def deviation(self) -> float:
        """Mean |sigma / target - 1| of the operator as it is."""
        conv = self.conv
        return procrustes(
            conv.weight, self.size, conv.stride, conv.groups, conv.dilation, iterations=0
        ).before.mean_deviation


def transitions(net: nn.Module, example: torch.Tensor) -> list[Transition]:
    """The convolutions with a stride, and what they read when `net` sees `example`."""
    found: list[Transition] = []

    def record(conv: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        found.append(Transition(conv=conv, size=tuple(inputs[0].shape[2:])))

    strided = [m for m in net.modules() if isinstance(m, nn.Conv2d) and m.stride != (1, 1)]
    handles = [conv.register_forward_pre_hook(record) for conv in strided]
    with torch.no_grad():
        net.eval()(example)
    for handle in handles:
        handle.remove()
    return found


def trained(data: Digits, seed: int, every: int, iterations: int) -> tuple[float, float]:
    """(accuracy, mean deviation) after a whole training; the kernels are projected every `every` steps, 0 for never."""
    run = training(ResNet, data, lr=LR, seed=seed)
    layers = transitions(run.net, data.inputs[:1])
    steps = 0

    def project(_optimizer: Optimizer, _args: tuple[object, ...], _kwargs: dict[str, object]) -> None:
        nonlocal steps
        steps += 1
        if every and steps % every == 0:
            for layer in layers:
                layer.project(iterations)

    run.optimizer.register_step_post_hook(project)
    for _ in epochs(run, data):
        pass
    deviation = statistics.fmean(layer.deviation() for layer in layers)
    return accuracy(recalibrated(run.net, data.train_inputs), data), deviation


def main() -> None:
    """Train twice a seed and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=6, help="trainings of each kind")
    parser.add_argument("--every", type=int, default=7, help="optimizer steps between two projections")
    parser.add_argument("--iterations", type=int, default=5, help="alternations of one projection")
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = digits()
    began = time.perf_counter()
    print("seed   accuracy: plain  projected   mean |sigma - 1|: plain  projected")
    rows = []
    for seed in range(1, given.seeds + 1):
        plain = trained(data, seed, 0, given.iterations)
        projected = trained(data, seed, given.every, given.iterations)
        rows.append((plain[0], projected[0]))
        print(f"{seed:4}  {plain[0]:16.3f} {projected[0]:10.3f}  {plain[1]:23.3f} {projected[1]:10.3f}", flush=True)
    gains = [projected - plain for plain, projected in rows]
    error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else float("nan")
    means = [statistics.fmean(column) for column in zip(*rows, strict=True)]
    print(f"mean  {means[0]:16.4f} {means[1]:10.4f}")
    print(f"difference {statistics.fmean(gains):+.4f}, standard error {error:.4f}; {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
