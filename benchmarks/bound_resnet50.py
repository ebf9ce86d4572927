"""`bound` on an ImageNet ResNet-50 beside the naive computation of the same certified layer norms, and its memory.

    python benchmarks/bound_resnet50.py [--rounds 3] [--sample 64]

Builds a ResNet-50 with seeded random weights. Every round runs, in turn and with the same number of threads,
- `import torch`, whole process;
- `resnet-audit bound`, whole process: start, file, norms, covering numbers, path norms, report; and its peak memory;
- the naive norms (`naive.py`) of the convolutions on the same tori, without start and import. In full it takes minutes
  and 7 GiB; with --sample only so many frequencies a layer are decomposed and the time is scaled: then it says so.
Both give the largest singular value of a torus that contains the padded image, an upper bound: they are compared.
The naive method knows nothing of 1x1 kernels and decomposes one matrix at every frequency, so the ratio is given for
all layers, and for the kernels larger than 1x1 alone against our whole process for all layers.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from naive import naive_values
from nets import convolutions, random_net

THREADS = 2


def process(command: list[str]) -> tuple[float, float]:
    """(seconds, peak resident MiB) of a whole process."""
    begun = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"{command} failed")
    return time.perf_counter() - begun, usage.ru_maxrss / 1024


def naive_norms(path: str, sample: int | None) -> None:
    """Print (name, kernel size, seconds, norm, share of frequencies) of every convolution as JSON."""
    rows = []
    for layer in convolutions(path):
        torus = tuple(-(-(n + p) // s) * s for n, p, s in zip(layer.size, layer.padding, layer.stride, strict=True))
        found = naive_values(layer.weight.numpy(), torus, layer.stride, threads=THREADS, sample=sample)
        rows.append((layer.name, layer.weight.shape[-1], found.seconds, float(found.values.max()), found.share))
        print(f"  naive {layer.name:24s} {torus} {found.seconds:8.2f} s", file=sys.stderr, flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"rows": rows, "peak": peak}))


def main() -> None:
    """Run the rounds and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sample", type=int, default=None, help="frequencies a layer of the naive method (all)")
    parser.add_argument("--naive-of", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.naive_of:
        naive_norms(given.naive_of, given.sample)
        return
    with tempfile.TemporaryDirectory() as folder:
        path, report = Path(folder) / "resnet50.pt", Path(folder) / "report.json"
        torch.save(random_net("resnet50"), path)
        ours = [sys.executable, "-m", "resnet_audit", "bound", str(path), "--threads", str(THREADS), "-q"]
        again = [sys.executable, __file__, "--naive-of", str(path)]
        again += [] if given.sample is None else ["--sample", str(given.sample)]
        rounds = []
        for number in range(given.rounds):
            floor, audit = process([sys.executable, "-c", "import torch"]), process([*ours, "-o", str(report)])
            naive = json.loads(subprocess.run(again, check=True, stdout=subprocess.PIPE, text=True).stdout)
            rounds.append((floor, audit, naive))
            print(f"round {number + 1}: bound {audit[0]:.1f} s", file=sys.stderr, flush=True)
        layers = json.loads(report.read_text())["checkpoints"][0]["bound"]["layers"]
    show(rounds, {layer["name"]: layer["sigma_upper"] for layer in layers}, sampled=given.sample is not None)


def show(rounds: list, uppers: dict[str, float], *, sampled: bool) -> None:
    """Medians, and medians of the ratios of one round."""
    wall = [audit[0] for _, audit, _ in rounds]
    whole = [sum(row[2] for row in naive["rows"]) for *_, naive in rounds]
    larger = [sum(row[2] for row in naive["rows"] if row[1] > 1) for *_, naive in rounds]
    memory = statistics.median(audit[1] - floor[1] for floor, audit, _ in rounds)
    how = "SAMPLED frequencies, scaled" if sampled else "in full"
    for label, values in (
        ("import torch, whole process", [floor[0] for floor, *_ in rounds]),
        ("resnet-audit bound, whole process", wall),
        (f"naive, all convolutions, {how}", whole),
        (f"naive, kernels larger than 1x1, {how}", larger),
    ):
        print(f"{label:60s} median {statistics.median(values):8.2f} s   ({min(values):.2f} to {max(values):.2f})")
    for label, values in (("all layers", whole), ("naive only for kernels larger than 1x1", larger)):
        ratio = statistics.median(value / own for value, own in zip(values, wall, strict=True))
        print(f"naive / bound, {label:45s} {ratio:8.1f}   (goal: at least 10)")
    # The audit bounds folded kernels; normalisations as they start only divide by sqrt(1 + 1e-5).
    apart = max(abs(uppers[row[0]] * (1 + 1e-5) ** 0.5 / row[3] - 1) for row in rounds[-1][2]["rows"])
    print(f"largest relative difference of the norms {apart:.1e}" + ("  (sampled: the top may be missed)" * sampled))
    print(f"peak memory of bound above import torch {memory:.0f} MiB   (goal: at most 600)")
    print(f"peak memory of the naive process {max(naive['peak'] for *_, naive in rounds):.0f} MiB")


if __name__ == "__main__":
    main()
