"""The measured Hessian of a CIFAR ResNet beside PyHessian's, on one batch in one run, against a converged reference.

    python benchmarks/hessian.py resnet20.th --peer /path/to/python [--samples 16] [--runs 3]

`--peer` is an interpreter that has torch and PyHessian (from PyPI); without it, or if it has none, only our own figures
are printed, and a sentence that says so. Both are asked for the largest three eigenvalues, the least, the trace and the
density, each in a process of its own on one thread; seconds are CPU time of these alone, without imports and loading.
PyHessian runs with its defaults: `eigenvalues(top_n=3)`, maxIter 100 and tol 1e-3; `trace()`, maxIter 100 and tol 1e-3;
`density()`, 100 steps and one start. A second ratio is over its time with no more density steps than ours took. It has
no call for the least eigenvalue, so that of its density is taken. PyHessian 0.1 calls `torch.eig`, which torch no
longer has: here `torch.linalg.eigh` stands in for it.

The reference is another program once more, which takes minutes: a model written with torch here, in float64; scipy's
ARPACK for the eigenvalues; and for the trace no estimate. Where every unit is a ReLU, the logits are linear in each
single parameter around almost every point, so that only the curvature of the cross-entropy is left (derived):
tr H = mean over inputs of sum_c p_c |d ln p_c / d theta|^2, one gradient for every input and class.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

OUTSIDE = 1e-2
KNOWN = 32
"""Eigenvalues, of largest size, that the reference knows: enough for all beyond OUTSIDE."""


# the network, for the peer and for the reference ----------------------------------------------------------------------


class Block(nn.Module):
    """relu(shortcut(x) + bn2(conv2(relu(bn1(conv1(x)))))); where it widens, the shortcut subsamples and pads."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.stride, self.extra = 1 + (c_in != c_out), (c_out - c_in) // 2
        self.conv1, self.bn1 = nn.Conv2d(c_in, c_out, 3, self.stride, 1, bias=False), nn.BatchNorm2d(c_out)
        self.conv2, self.bn2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False), nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, H, W)."""
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(
            y + functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, *2 * (self.extra,)))
        )


class Net(nn.Module):
    """Three stages of so many blocks, 16, 32, 64 channels, with the weights of a state dict."""

    def __init__(self, path: str) -> None:
        super().__init__()
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = {name.removeprefix("module."): value for name, value in state.get("state_dict", state).items()}
        count = len({name.split(".")[1] for name in state if name.startswith("layer1.")})
        self.conv1, self.bn1, self.linear = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.Linear(64, 10)
        for stage, (c_in, c_out) in enumerate(((16, 16), (16, 32), (32, 64)), start=1):
            blocks = [Block(c_in if index == 0 else c_out, c_out) for index in range(count)]
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.load_state_dict(state)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 10)."""
        x = functional.relu(self.bn1(self.conv1(x)))
        for stage in (1, 2, 3):
            x = getattr(self, f"layer{stage}")(x)
        return self.linear(x.mean((2, 3)))


def batch(path: str) -> tuple[Tensor, Tensor]:
    """Inputs and labels of a .npz file."""
    with np.load(path) as arrays:
        return torch.from_numpy(arrays["inputs"]), torch.from_numpy(arrays["labels"])


# three workers, each in a process of its own -------------------------------------------------------------------------


def ours(checkpoint: str, data: str, samples: int) -> dict[str, Any]:
    """What `resnet-audit shortcut --hessian` measures."""
    from resnet_audit import Settings, discover, load  # noqa: PLC0415 - the peer's interpreter has no resnet_audit
    from resnet_audit.measure import Subject  # noqa: PLC0415 - as above
    from resnet_audit.theory.shortcut_hessian import measured_hessian  # noqa: PLC0415 - as above

    settings = Settings(data=data, samples=samples, threads=1, input_size=(3, 32, 32))
    subject = Subject(discover(load(checkpoint), settings), settings)
    labels = subject.inputs.labels
    import scipy.linalg  # noqa: F401, PLC0415 - so that its import is not in the time

    begun = time.process_time()
    found = measured_hessian(subject, labels, [])
    seconds = time.process_time() - begun
    return {
        "seconds": seconds,
        "products": found.matvecs,
        "top": found.top,
        "least": found.lambda_min,
        "residual": max(*found.residuals, found.lambda_min_residual),
        "trace": found.trace,
        "trace_error": found.trace_se,
        "outside": found.density.above + found.density.below,
        "steps": len(found.density.nodes),
    }


def peer(checkpoint: str, data: str, steps: int, seed: int) -> dict[str, Any]:
    """The same from PyHessian."""
    from pyhessian import hessian  # noqa: PLC0415 - only the peer's interpreter has it

    def eig(matrix: Tensor, *, eigenvectors: bool) -> tuple[Tensor, Tensor]:
        del eigenvectors
        values, vectors = torch.linalg.eigh(matrix)
        return torch.stack([values, torch.zeros_like(values)], dim=1), vectors

    torch.eig = eig
    torch.manual_seed(seed)
    net, (inputs, labels) = Net(checkpoint), batch(data)
    spent = [time.process_time()]
    found = hessian(net, nn.CrossEntropyLoss(), data=(inputs, labels), cuda=False)
    top, vectors = found.eigenvalues(top_n=3)
    spent.append(time.process_time())
    trace = found.trace()
    spent.append(time.process_time())
    (values,), (weights,) = found.density()
    spent.append(time.process_time())
    found.density(iter=steps)
    spent.append(time.process_time())
    residuals = []
    for value, vector in zip(top, vectors, strict=True):
        image = torch.autograd.grad(found.gradsH, found.params, grad_outputs=vector, retain_graph=True)
        gaps = [(i - value * v).square().sum() for i, v in zip(image, vector, strict=True)]
        residuals.append(float(torch.stack(gaps).sum().sqrt()) / max(map(abs, top)))
    beyond = OUTSIDE * max(map(abs, values))
    return {
        "seconds": spent[3] - spent[0],
        "seconds_short": spent[2] - spent[0] + spent[4] - spent[3],
        "parts": [after - before for before, after in itertools.pairwise(spent)],
        "top": top,
        "least": float(min(values)),
        "residual": max(residuals),
        "trace": float(np.mean(trace)),
        "trace_error": float(np.std(trace, ddof=1) / len(trace) ** 0.5),
        "trace_probes": len(trace),
        "outside": float(sum(w for v, w in zip(values, weights, strict=True) if abs(v) > beyond)),
    }


def reference(checkpoint: str, data: str) -> dict[str, Any]:
    """Converged: ARPACK in float64 on products of our own here; the trace from the gradients of all ln p."""
    from scipy.sparse.linalg import LinearOperator, eigsh  # noqa: PLC0415 - the peer's interpreter may have none

    net, (inputs, labels) = Net(checkpoint).double(), batch(data)
    parameters = list(net.parameters())
    loss = functional.cross_entropy(net(inputs.double()), labels)
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters, create_graph=True)])
    size = len(gradient)

    def product(vector: np.ndarray) -> np.ndarray:
        along = torch.from_numpy(np.ascontiguousarray(vector.reshape(-1)))
        image = torch.autograd.grad(gradient, parameters, along, retain_graph=True)
        return torch.cat([part.flatten() for part in image]).numpy()

    operator = LinearOperator((size, size), matvec=product, dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(size)
    values = eigsh(operator, KNOWN, which="LM", v0=start, ncv=80, tol=1e-6, return_eigenvectors=False)
    least = float(eigsh(operator, 1, which="SA", v0=start, ncv=40, tol=1e-7)[0][0])
    largest = float(np.abs(values).max())
    return {
        "top": sorted(map(float, values), reverse=True)[:3],
        "least": least,
        "trace": exact_trace(net, inputs.double()),
        "trace_error": 0.0,
        "outside": float((np.abs(values) > OUTSIDE * largest).sum()) / size,
        "known": float(np.abs(values).min()) / largest,
    }


def exact_trace(net: Net, inputs: Tensor) -> float:
    """The trace of the Hessian of a network of ReLUs, whatever the labels."""
    total = 0.0
    for image in inputs:
        logs = functional.log_softmax(net(image[None])[0], dim=0)
        for log in logs:
            gradient = torch.autograd.grad(log, list(net.parameters()), retain_graph=True)
            total += float(log.detach().exp() * torch.stack([part.square().sum() for part in gradient]).sum())
    return total / len(inputs)


WORKERS = {"ours": ours, "peer": peer, "reference": reference}


# the run --------------------------------------------------------------------------------------------------------------


def ask(interpreter: str, worker: str, *arguments: object) -> dict[str, Any]:
    """What a worker answers in a process of its own; exits with what it said if it failed."""
    command = [interpreter, "-W", "ignore", __file__, "--worker", worker, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def write_batch(checkpoint: str, samples: int, path: Path) -> None:
    """The pink inputs that the command would use without --data, with the predictions of the network as labels."""
    from resnet_audit import Settings  # noqa: PLC0415 - the peer's interpreter has no resnet_audit
    from resnet_audit.measure.inputs import make_inputs  # noqa: PLC0415 - as above

    inputs = make_inputs((3, 32, 32), Settings(samples=samples)).values
    with torch.no_grad():
        labels = Net(checkpoint)(inputs).argmax(1)
    np.savez(path, inputs=inputs.numpy(), labels=labels.numpy())


def show(name: str, found: dict[str, Any], truth: dict[str, Any]) -> None:
    """One line for a run: values and, in brackets, errors over the largest eigenvalue or the trace."""
    largest = truth["top"][0]
    values = [*found["top"], found["least"]]
    errors = [abs(value - true) / largest for value, true in zip(values, [*truth["top"], truth["least"]], strict=True)]
    told = "  ".join(f"{value:.3f} ({error:.0e})" for value, error in zip(values, errors, strict=True))
    off = abs(found["trace"] - truth["trace"]) / abs(truth["trace"])
    print(f"{name}: {told}")
    print(
        f"    trace {found['trace']:.0f} +- {found['trace_error']:.0f} (off {off:.1%}), share outside "
        f"{found['outside']:.2e}, worst residual {found.get('residual', 0.0):.0e}, {found.get('seconds', 0.0):.2f} s"
    )


def main() -> None:
    """Run everything in turn and print values, errors and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--peer", metavar="PYTHON")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    there = given.peer and not subprocess.run([given.peer, "-c", "import torch, pyhessian"], check=False).returncode
    with tempfile.TemporaryDirectory() as folder:
        data = str(Path(folder) / "batch.npz")
        write_batch(given.checkpoint, given.samples, Path(data))
        truth = ask(sys.executable, "reference", given.checkpoint, data)
        print("largest, second, third, least (error over the largest); density: share beyond 1 % of the largest")
        show("reference", truth, truth)
        if truth["known"] > OUTSIDE:
            print("the reference does not know all eigenvalues beyond: its share is a lower bound")
        ratios: dict[str, list[float]] = {"seconds": [], "seconds_short": []}
        for run in range(given.runs):
            mine = ask(sys.executable, "ours", given.checkpoint, data, given.samples)
            show(f"resnet-audit, {mine['products']} products", mine, truth)
            if there:
                other = ask(given.peer, "peer", given.checkpoint, data, mine["steps"], run)
                parts = "top {:.2f} s, trace {:.2f} s, density {:.2f} s, of {} steps {:.2f} s"
                told = parts.format(*other["parts"][:3], mine["steps"], other["parts"][3])
                show(f"PyHessian ({told}; {other['trace_probes']} trace probes)", other, truth)
                for name, found in ratios.items():
                    found.append(other[name] / mine["seconds"])
    if not there:
        print("no interpreter with PyHessian was given (--peer): there is nothing to compare with")
        return
    for name, what in (("seconds", "by its defaults"), ("seconds_short", "with our number of density steps")):
        every = ", ".join(f"{ratio:.2f}" for ratio in ratios[name])
        goal = "   (goal: at least 4)" if name == "seconds" else ""
        median = statistics.median(ratios[name])
        print(f"PyHessian {what} / resnet-audit, CPU seconds: median {median:.2f} of {every}{goal}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        torch.set_num_threads(1)
        print(json.dumps(WORKERS[sys.argv[2]](*json.loads(sys.argv[3]))))
    else:
        main()
