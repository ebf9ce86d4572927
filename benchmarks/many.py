"""200 checkpoints by one process, by two, and by a dask cluster of two: the same bytes, and how much faster.

    python benchmarks/many.py [--files 200] [--runs 3] [--command report]

The files are the sample checkpoints with every weight moved by up to a thousandth of itself, written to a temporary
folder: no two are alike. All runs compute with one thread a process. A round runs all in turn, so that a drift of the
machine hits all of them; figures are medians, ratios medians of the ratios of one round. `user` is the processor time
of a run with all its processes (those of the cluster, which is started before, apart): what the second one costs.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import torch

SAMPLES = Path(__file__).resolve().parent.parent / "sample_checkpoints" / "digits_resnet"
FLAGS = ["--input-size", "1x8x8", "--samples", "4", "--threads", "1", "-f", "jsonl", "-q"]


def write_files(folder: Path, count: int) -> None:
    """`count` checkpoints that differ from the samples and from each other."""
    sources = [torch.load(path, weights_only=True) for path in sorted(SAMPLES.iterdir())]
    generator = torch.Generator().manual_seed(0)
    for number in range(count):
        source = sources[number % len(sources)]
        moved = {
            name: tensor * (1 + 1e-3 * (2 * torch.rand(tensor.shape, generator=generator) - 1))
            if name.endswith(("conv1.weight", "conv2.weight", "fc.weight"))
            else tensor
            for name, tensor in source.items()
        }
        torch.save(moved, folder / f"net{number:03}.pt")


def run(command: str, folder: Path, *more: str) -> tuple[bytes, float, float]:
    """(what was printed, seconds, seconds of processors in user mode) of one run over the folder."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    begun = time.perf_counter()
    arguments = [sys.executable, "-m", "resnet_audit", command, str(folder), *FLAGS, *more]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, start_new_session=True) as process:
        printed, _ = process.communicate()
        seconds = time.perf_counter() - begun
    wait_for_the_rest(process.pid)
    return printed, seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before


def wait_for_the_rest(group: int) -> None:
    """Workers outlive their run by a moment; their time counts once they have been waited for."""
    while True:
        try:
            os.waitpid(-group, 0)
        except ChildProcessError:
            return


def adopt() -> None:
    """Become the parent of processes whose own has ended, where the system knows that."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def cluster() -> object:
    """Two worker processes and their scheduler, or nothing where distributed is not installed."""
    try:
        from distributed import LocalCluster  # noqa: PLC0415 - an extra
    except ImportError:
        print("distributed is not installed: no figures of a cluster")
        return nullcontext()
    return LocalCluster(processes=True, n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50)


def main() -> None:
    """Write the files, run the rounds, print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--command", default="report", choices=["report", "compare"])
    given = parser.parse_args()
    adopt()
    with tempfile.TemporaryDirectory() as name, cluster() as started:
        write_files(Path(name), given.files)
        ways = {"serial": [], "--workers 2": ["--workers", "2"]}
        if started is not None:
            ways["--dask"] = ["--dask", started.scheduler_address]
        rounds = [{way: run(given.command, Path(name), *more) for way, more in ways.items()} for _ in range(given.runs)]
    alike = len({text for one in rounds for text, _, _ in one.values()}) == 1
    print(f"{given.files} files, {given.command}, {os.cpu_count()} processors, the same bytes: {alike}")
    for way in ways:
        seconds = statistics.median(one[way][1] for one in rounds)
        user = statistics.median(one[way][2] for one in rounds)
        ratio = statistics.median(one["serial"][1] / one[way][1] for one in rounds)
        note = "   (goal: at least 1.7)" if way != "serial" else ""
        print(f"{way:12s} {seconds:8.1f} s   user {user:7.1f} s   {ratio:5.2f} times as fast{note}")
    if not alike:
        sys.exit(1)


if __name__ == "__main__":
    main()
