"""Whole-process times of `bound` and `report` beside what nobody can do without: importing torch, one training step.

    python benchmarks/walltime.py resnet56.th [--runs 7]

Every round runs all commands in turn, so that a drift of the machine hits all of them; figures are medians and the
medians of the ratios of one round. `step` is one forward and backward pass of 32 images of 3x32x32 through a residual
network of the same 56 layers, written with torch.nn here, in a process that has torch already.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

STEP = """
import time, torch
from torch import nn
class Block(nn.Module):
    def __init__(self, i, o, s):
        super().__init__()
        self.s, self.p = s, (o - i) // 2
        self.f = nn.Sequential(nn.Conv2d(i, o, 3, s, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU(),
                               nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o))
    def forward(self, x):
        return torch.relu(self.f(x) + nn.functional.pad(x[:, :, ::self.s, ::self.s], (0, 0, 0, 0, self.p, self.p)))
widths = [16] * 9 + [32] * 9 + [64] * 9
blocks = [Block(i, o, 1 + (i != o)) for i, o in zip([16, *widths], widths)]
net = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), *blocks,
                    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
x = torch.randn(32, 3, 32, 32)
times = []
for _ in range(4):
    begun = time.perf_counter()
    net(x).sum().backward()
    times.append(time.perf_counter() - begun)
print(sorted(times[1:])[1])
"""


def wall(command: list[str]) -> float:
    """Seconds of a whole process."""
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def main() -> None:
    """Run the rounds and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--runs", type=int, default=7)
    given = parser.parse_args()
    audit = [sys.executable, "-m", "resnet_audit"]
    rounds = []
    for _ in range(given.runs):
        step = subprocess.run([sys.executable, "-c", STEP], check=True, capture_output=True, text=True)
        rounds.append(
            {
                "import torch": wall([sys.executable, "-c", "import torch"]),
                "bound": wall([*audit, "bound", given.checkpoint]),
                "report": wall([*audit, "report", given.checkpoint]),
                "step": float(step.stdout),
            }
        )
    for name in rounds[0]:
        values = sorted(r[name] for r in rounds)
        print(f"{name:14s} median {statistics.median(values):7.3f} s   ({values[0]:.3f} to {values[-1]:.3f})")
    bound = statistics.median(r["bound"] / r["import torch"] for r in rounds)
    report = statistics.median(r["report"] / (40 * r["step"] + r["import torch"]) for r in rounds)
    steps = statistics.median((r["report"] - r["import torch"]) / r["step"] for r in rounds)
    print(f"bound / import torch                       {bound:.2f}   (goal: at most 3)")
    print(f"report / (40 steps + import torch)         {report:.2f}   (goal: at most 1)")
    print(f"report without the import, in steps        {steps:.1f}   (goal: at most 40)")


if __name__ == "__main__":
    main()
