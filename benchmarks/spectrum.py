"""All singular values of the convolutions larger than 1x1: the published method, half of its grid, ours, WeightWatcher.

    python benchmarks/spectrum.py resnet56.th [--sample 64] [--rounds 5] [--watcher PYTHON] [--only resnet50]

On the checkpoint, and on a ResNet-18 and a ResNet-50 with seeded random weights for 3x224x224, with two threads each:
- naive: numpy's FFT on the whole grid and the SVD of every frequency (`naive.py`), in full: minutes, and 2 GiB. With
  --sample only so many frequencies a layer are decomposed and the time is scaled: then the table says so;
- half: the same without one of each two conjugate frequencies;
- ours: `conv_singular_values`, layers in parallel as the command takes them; every value is compared with the naive
  ones of the same run (of a sample: with the nearest of ours).
Then where the time goes on one thread, and how far that is from the measured peak of complex matrix products.
WeightWatcher, by an interpreter that has it (--watcher), looks at other numbers: singular values of the slices of the
kernel, or in its Fourier mode of a 32x32 grid for every layer; and it fits power laws to them. Its analyze() is timed
alone, and its whole process beside `resnet-audit spectrum` on the checkpoint, in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from naive import naive_values
from nets import Layer, convolutions, random_net

from resnet_audit.linear import circular_grid, conv_singular_values, map_layers, one_library_thread
from resnet_audit.linear.gram import eigenvalues, gram_of
from resnet_audit.linear.symbol import symbol_of

if TYPE_CHECKING:
    from collections.abc import Callable

THREADS = 2
TOLERANCE = 1e-10
WATCHER = Path(__file__).with_name("weightwatcher_run.py")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--sample", type=int, default=None, help="frequencies a layer of naive and half (all)")
    parser.add_argument("--rounds", type=int, default=5, help="of the whole processes")
    parser.add_argument("--watcher", metavar="PYTHON", help="an interpreter with weightwatcher")
    parser.add_argument("--only", choices=("checkpoint", "resnet18", "resnet50"), help="one network")
    given = parser.parse_args()
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as folder:
        for name in ("checkpoint", "resnet18", "resnet50"):
            if given.only in {None, name}:
                path = Path(given.checkpoint) if name == "checkpoint" else Path(folder) / f"{name}.pt"
                if name != "checkpoint":
                    torch.save(random_net(name), path)
                network(path, given.sample)
                if given.watcher:
                    watch(given.watcher, path, fourier=name == "checkpoint")
    if not given.watcher:
        print("WeightWatcher was not measured: name an interpreter that has it with --watcher")
    elif given.only in {None, "checkpoint"}:
        processes(given.checkpoint, given.watcher, given.rounds)


def network(path: Path, sample: int | None) -> None:
    """Times of the three methods on one network, their agreement, and the profile of ours."""
    layers = [layer for layer in convolutions(path) if layer.weight.shape[-1] > 1]
    begun = time.perf_counter()
    ours = map_layers(own_values, layers, THREADS)
    own = time.perf_counter() - begun
    naive = half = worst = 0.0
    for layer, values in zip(layers, ours, strict=True):
        grid = circular_grid(layer.size, layer.stride)
        found = naive_values(layer.weight.numpy(), grid, layer.stride, threads=THREADS, sample=sample)
        naive += found.seconds
        worst = max(worst, apart(values.numpy(), found.values))
        half += naive_values(
            layer.weight.numpy(), grid, layer.stride, threads=THREADS, sample=sample, half=True
        ).seconds
    begun = time.perf_counter()  # once more after the others: the machine may have changed
    map_layers(own_values, layers, THREADS)
    own = statistics.mean((own, time.perf_counter() - begun))
    how = "in full" if sample is None else f"SAMPLED, {sample} frequencies a layer, scaled"
    count = sum(values.numel() for values in ours)
    print(f"\n{path.name}: {len(layers)} convolutions larger than 1x1, {count} singular values, {THREADS} threads")
    print(f"  naive, {how:45s} {naive:9.2f} s   {naive / own:6.1f} times ours   (goal on ResNet-50: 10, at least 5)")
    print(f"  half of the grid, {how:34s} {half:9.2f} s   {half / own:6.1f} times ours")
    print(f"  ours, mean of two runs {'':29s} {own:9.2f} s")
    print(
        f"  largest difference from the naive values {worst:.1e} of the largest of the layer   (asked for: {TOLERANCE})"
    )
    if worst > TOLERANCE:
        sys.exit("the values differ: the times compare nothing")
    profile(layers)


def own_values(layer: Layer) -> torch.Tensor:
    """All singular values of one layer."""
    return conv_singular_values(layer.weight, circular_grid(layer.size, layer.stride), layer.stride)


def apart(ours: np.ndarray, naive: np.ndarray) -> float:
    """The largest difference, relative to the largest value; of a sample each from the nearest of ours."""
    ours, naive = np.sort(ours), np.sort(naive.ravel())
    nearest = ours
    if len(naive) < len(ours):
        place = np.searchsorted(ours, naive).clip(1, len(ours) - 1)
        nearest = np.where(naive - ours[place - 1] < ours[place] - naive, ours[place - 1], ours[place])
    return float(np.abs(nearest - naive).max() / ours[-1])


@one_library_thread()
def profile(layers: list[Layer]) -> None:
    """Where the time of ours goes on one thread, and its rate beside the peak of complex products."""
    spent: Counter[str] = Counter()
    work = 0.0

    def timed(what: str, call: Callable[[], torch.Tensor]) -> torch.Tensor:
        begun = time.perf_counter()
        found = call()
        spent[what] += time.perf_counter() - begun
        return found

    for layer in layers:
        kernel, grid = layer.weight, circular_grid(layer.size, layer.stride)
        begun = time.perf_counter()
        symbol = symbol_of(kernel, grid, layer.stride, 1, (1, 1))
        gram = gram_of(symbol)
        spent["products of the taps"] += time.perf_counter() - begun
        for points in gram.parts(symbol.points):
            at = timed("Gram matrices at the frequencies", lambda: gram.at(points))  # noqa: B023 - called at once
            timed("eigenvalues", lambda: eigenvalues(at))  # noqa: B023 - called at once
        begun = time.perf_counter()
        map_layers(own_values, [layer], 1)
        spent["whole"] += time.perf_counter() - begun
        work += 16 / 3 * symbol.smaller**3 * len(symbol.points)
    whole = spent.pop("whole")
    rest = whole - sum(spent.values())
    print(
        "  one thread: "
        + ", ".join(f"{what} {seconds:.2f} s" for what, seconds in spent.items())
        + f", what the guard finds again and sorting {rest:.2f} s"
    )
    rate, one, two = work / spent["eigenvalues"] / 1e9, peak(1), peak(THREADS)
    print(f"  eigenvalues: {work / 1e9:.0f} GFlop (16/3 p^3 a frequency) at {rate:.1f} GFlop/s. Complex products reach")
    print(f"  {one:.0f} on one thread, {two:.0f} on {THREADS}: at that speed {work / two / 1e9:.2f} s on {THREADS}")


def peak(threads: int, side: int = 512, times: int = 6) -> float:
    """GFlop/s of products of complex128 matrices, one on each thread."""
    matrix = np.random.default_rng(0).standard_normal((side, 2 * side)).view(np.complex128)
    with ThreadPoolExecutor(threads) as pool:
        best = 0.0
        for _ in range(3):
            begun = time.perf_counter()
            list(pool.map(lambda _: [matrix @ matrix for _ in range(times)], range(threads)))
            best = max(best, 8 * side**3 * times * threads / (time.perf_counter() - begun) / 1e9)
    return best


def watch(python: str, path: Path, *, fourier: bool) -> None:
    """analyze() alone, by default and, on small networks, in its Fourier mode (hours on an ImageNet network)."""
    for mode in ([], ["--fft"]) if fourier else ([],):
        found = json.loads(whole([python, str(WATCHER), str(path), *mode])[2])
        name = "in its Fourier mode" if mode else "as it comes"
        rows = f"{found['rows']} rows, {found['values']} values"
        print(f"  WeightWatcher {name}: analyze() {found['seconds']:.2f} s, {rows}")


def processes(checkpoint: str, python: str, rounds: int) -> None:
    """Whole processes in turn: our command and WeightWatcher's analyze(), both on two threads."""
    ours = [sys.executable, "-m", "resnet_audit", "spectrum", checkpoint, "--threads", str(THREADS), "-q"]
    found = [(whole(ours), whole([python, str(WATCHER), checkpoint])) for _ in range(rounds)]
    for number, name in enumerate(("resnet-audit spectrum", "WeightWatcher analyze()")):
        wall, cpu = ([pair[number][unit] for pair in found] for unit in (0, 1))
        print(f"{name:24s} whole process, median {statistics.median(wall):6.2f} s, {statistics.median(cpu):6.2f} CPU s")
    ratio = statistics.median(own[0] / watcher[0] for own, watcher in found)
    print(f"ours / WeightWatcher, median of {rounds} rounds {ratio:.2f}   (goal: at most 1)")


def whole(command: list[str]) -> tuple[float, float, str]:
    """(seconds, CPU seconds, output) of a whole process on THREADS threads."""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": str(THREADS), "OMP_NUM_THREADS": str(THREADS)}
    begun = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.DEVNULL, env=environment)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - begun
        output.seek(0)
        if status:
            sys.exit(f"{command} failed")
        return seconds, usage.ru_utime + usage.ru_stime, output.read()


if __name__ == "__main__":
    main()
