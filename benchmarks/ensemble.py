"""What `ensemble` costs, in passes of the same network in plain torch, and what sampling paths would cost instead.

    python benchmarks/ensemble.py [resnet56.th] [--runs 5] [--threads 2]

The passes that are counted are those of the network as a user writes it: plain torch modules in evaluation mode in
torch's own memory layout, on a batch of 16, with as many threads, and with gradients of the weights as in a step of
training. A backward pass is `objective.backward()` alone, without the forward pass before it.

1. The exact decomposition (with the recorded forward pass, and with autograd's gradient to compare with) against one
   forward and backward pass.
2. Peak memory of both, each in a process of its own.
3. Branch products that random paths need for 10 % error in the part of depth 12, from the scatter of single paths:
   N = 100 cv^2 with 1 + cv^2 = C(L, k) / coherence_k, and k products for every path; exactly L (L + 1) / 2.
4. Fast mode on a network of 200 blocks with random weights against a backward pass: the pass with dual numbers alone,
   and the whole analysis, which is all that happens once the file is read and the norms are folded into the weights.

Every round times both sides, so that a drift of the machine hits both. Figures are medians of ratios over the rounds,
of wall time and, in brackets, of the processor time of all threads, which other programs disturb less. Without a
checkpoint the first three are of a ResNet-56 with random weights.
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnet_audit.checkpoint import load
from resnet_audit.graph import discover
from resnet_audit.measure import Subject
from resnet_audit.measure.decomposition import decompose
from resnet_audit.measure.dual import dual_moments
from resnet_audit.measure.random_signs import incoherent_energies
from resnet_audit.settings import Settings
from resnet_audit.theory import ensemble

if TYPE_CHECKING:
    from collections.abc import Callable

BATCH, DEPTH, ERROR = 16, 12, 0.1


class Block(nn.Module):
    """A basic block of a CIFAR ResNet."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.half = stride, (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        skip = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.half, self.half))
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + skip)


class Net(nn.Module):
    """A CIFAR ResNet with so many blocks in each stage."""

    def __init__(self, counts: tuple[int, int, int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        inputs = 16
        for stage, count in enumerate(counts, start=1):
            width, members = 8 << stage, []
            for index in range(count):
                members.append(Block(inputs, width, 2 if stage > 1 and index == 0 else 1))
                inputs = width
            setattr(self, f"layer{stage}", nn.Sequential(*members))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """The logits."""
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean((2, 3)))


Ratio = tuple[float, float]
"""A quotient of wall times, and of processor times."""


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of one call by the clock, and of the processor in all threads."""
    begun = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - begun[0], time.process_time() - begun[1]


def quotient(ours: tuple[float, float], theirs: tuple[float, float]) -> Ratio:
    """How many of their passes ours takes."""
    return ours[0] / theirs[0], ours[1] / theirs[1]


def medians(ratios: list[Ratio]) -> str:
    """The medians without the first round, which warms up."""
    wall, processor = (statistics.median(column) for column in zip(*ratios[1:], strict=True))
    return f"{wall:5.2f} ({processor:.2f})"


def plain(path: str) -> tuple[Net, Tensor]:
    """The checkpoint's network in plain torch, and a batch."""
    tensors = {name.removeprefix("module."): value for name, value in load(path).tensors.items()}
    blocks = sum(name.endswith("conv1.weight") for name in tensors) // 3
    net = Net((blocks, blocks, blocks))
    net.load_state_dict(tensors, strict=False)
    return net.eval(), torch.randn(BATCH, 3, 32, 32)


def step(net: Net, images: Tensor) -> None:
    """One forward and backward pass with all gradients."""
    net(images).max(1).values.sum().backward()


def subject_of(path: str, **settings: object) -> Subject:
    """A subject whose graph is known and folded: what is timed are passes."""
    chosen = Settings(inputs="gaussian", samples=BATCH, **settings)
    subject = Subject(discover(load(path), chosen), chosen)
    _ = (subject.fold, subject.inputs)
    return subject


def measure_exact(path: str, runs: int) -> None:
    """Time of the exact decomposition."""
    net, images = plain(path)
    ratios = []
    for _ in range(runs + 1):
        subject = subject_of(path)
        one = timed(partial(step, net, images))
        ratios.append(quotient(timed(partial(decompose, subject)), one))
    print(f"exact decomposition   {medians(ratios)} forward and backward passes (goal: 4, at most 6)")
    walls = [wall for wall, _ in ratios[1:]]
    print(f"                      {min(walls):5.2f} to {max(walls):.2f} in {runs} rounds")


def measure_memory(path: str) -> None:
    """Peak resident memory of processes that pass forward and backward, without and with the decomposition."""
    peaks = {}
    for what in ("step", "exact"):
        command = [sys.executable, __file__, path, "--only", what]
        peaks[what] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    above = peaks["exact"] - peaks["step"]
    print(f"peak memory           {above:5.0f} MiB above one plain backward pass (goal: at most 300)")


def peak(path: str, what: str) -> float:
    """MiB of this process at most, once it has passed forward and backward, and with `exact` decomposed."""
    net, images = plain(path)
    step(net, images)
    if what == "exact":
        decompose(subject_of(path))
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def measure_sampling(path: str) -> None:
    """Branch products of sampling against the exact ones."""
    subject = subject_of(path)
    length = len(subject.blocks)
    exact = decompose(subject).squares[DEPTH]
    single = incoherent_energies(subject).mean(0)[DEPTH]
    spread = math.comb(length, DEPTH) * single / exact - 1.0
    products = spread / ERROR**2 * DEPTH
    ours = length * (length + 1) / 2
    print(f"cv of a path          {math.sqrt(spread):5.0f} of the part of depth {DEPTH}, all its paths in one estimate")
    print(f"sampled paths         {products:.1e} branch products for {ERROR:.0%} error there, {ours:.0f} exactly")
    print(f"                      {products / ours:.1e} times as many")


def deep(blocks: tuple[int, int, int]) -> tuple[Net, Tensor]:
    """A network with random weights, its statistics those of one batch, and that batch."""
    torch.manual_seed(0)
    net, images = Net(blocks), torch.randn(BATCH, 3, 32, 32)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over batches instead of a running one
    with torch.no_grad():
        net(images)
    return net.eval(), images


def saved(net: Net, path: Path) -> str:
    """The path of a file with the network's weights."""
    torch.save(net.state_dict(), path)
    return str(path)


def measure_fast(runs: int) -> None:
    """Fast mode on 200 blocks with random weights."""
    net, images = deep((67, 67, 66))
    alone, whole = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = saved(net, Path(folder) / "net.pt")
        for _ in range(runs + 1):
            objective = net(images).max(1).values.sum()
            one = timed(objective.backward)
            subject = subject_of(path, fast=True)
            whole.append(quotient(timed(partial(ensemble.analyse, subject)), one))
            # The recording and the gradient to compare with are there by now.
            alone.append(quotient(timed(partial(dual_moments, subject)), one))
    print(f"fast, 200 blocks      {medians(whole)} backward passes for the whole analysis (goal: at most 3)")
    print(f"                      {medians(alone)} for the pass with dual numbers")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of torch; its own number without")
    parser.add_argument("--only", choices=("step", "exact"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    if given.only:
        print(peak(given.checkpoint, given.only))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = given.checkpoint or saved(deep((9, 9, 9))[0], Path(folder) / "resnet56.pt")
        measure_exact(path, given.runs)
        measure_memory(path)
        measure_sampling(path)
    measure_fast(given.runs)


if __name__ == "__main__":
    main()
