"""WeightWatcher on the weights of a checkpoint: to be run by an interpreter that has it; see spectrum.py.

    python benchmarks/weightwatcher_run.py resnet56.th [--fft] [--threads 2]

Prints as JSON the seconds of `analyze()` alone, its rows, and the number of singular values that it looked at. The
layers are bare convolutions and linear layers around the stored weights: it never runs the network.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import time

import torch
import weightwatcher
from torch import nn


def main() -> None:
    """Load, analyse, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--fft", action="store_true", help="its mode of the Fourier transform, conv2d_fft=True")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    logging.disable(logging.CRITICAL)
    stored = torch.load(given.checkpoint, map_location="cpu", weights_only=True)
    layers = []
    for weight in stored.get("state_dict", stored).values():
        if weight.dim() == 4:
            layer: nn.Module = nn.Conv2d(weight.shape[1], weight.shape[0], tuple(weight.shape[2:]), bias=False)
        elif weight.dim() == 2:
            layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        else:
            continue
        layer.weight.data = weight.float()
        layers.append(layer)
    with contextlib.redirect_stdout(io.StringIO()):
        watcher = weightwatcher.WeightWatcher(model=nn.Sequential(*layers), log_level=logging.CRITICAL)
        begun = time.perf_counter()
        details = watcher.analyze(conv2d_fft=given.fft)
        seconds = time.perf_counter() - begun
    print(json.dumps({"seconds": seconds, "rows": len(details), "values": int(details["num_evals"].sum())}))


if __name__ == "__main__":
    main()
