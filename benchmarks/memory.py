"""Anonymous memory of `graph` and `spectrum --fast` on a large sharded checkpoint, above what the import takes.

    python benchmarks/memory.py [--gib 2]

Builds a folder of safetensors shards with an index in a temporary place (matrices of 4096x4096 in float32), runs the
commands, and samples RssAnon of the process every 5 ms. The pages of the mapped files are not anonymous: they belong to
the file cache and can be dropped at any time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

SIDE = 4096
MIB = 1 << 20


def build(folder: Path, gib: float) -> None:
    """Shards of four matrices each, and their index."""
    matrices = round(gib * 1024 * MIB / (SIDE * SIDE * 4))
    places = {}
    for shard in range(-(-matrices // 4)):
        name = f"model-{shard:05d}.safetensors"
        numbers = range(4 * shard, min(matrices, 4 * shard + 4))
        tensors = {f"layers.{number}.proj.weight": torch.randn(SIDE, SIDE) for number in numbers}
        save_file(tensors, folder / name)
        places |= dict.fromkeys(tensors, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def peak(command: list[str]) -> tuple[float, float]:
    """(largest RssAnon in MiB, seconds) of a process."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    status, largest = Path(f"/proc/{process.pid}/status"), 0
    while process.poll() is None:
        try:
            lines = status.read_text().splitlines()
        except OSError:
            break
        largest = max(largest, *(int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0)
        time.sleep(0.005)
    if process.wait() != 0:
        sys.exit(f"{command} failed")
    return largest / 1024, time.perf_counter() - begun


def main() -> None:
    """Build, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=2.0)
    given = parser.parse_args()
    modules = "torch, resnet_audit.cli, resnet_audit.api, resnet_audit.report, resnet_audit.render"
    floor, _ = peak([sys.executable, "-c", f"import {modules}"])
    largest = SIDE * SIDE * 4 / MIB
    print(f"import                    {floor:7.0f} MiB")
    with tempfile.TemporaryDirectory() as name:
        build(Path(name), given.gib)
        for own in (["graph"], ["spectrum", "--fast"]):
            found, seconds = peak([sys.executable, "-m", "resnet_audit", *own, name])
            above = found - floor
            beside = max(0.0, above - largest)
            print(f"{' '.join(own):24s}  {found:7.0f} MiB in {seconds:.0f} s, {above:.0f} above the import")
            print(f"    {beside:.0f} MiB beside the largest tensor of {largest:.0f}   (goal: at most 400)")


if __name__ == "__main__":
    main()
