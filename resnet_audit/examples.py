"""What to type first: two or three command lines for every command, printed below its --help. A test runs each of them.

net.pt is a checkpoint, data.npz its normalised inputs with labels, init.pt the start of its training, epochs/ a folder
of checkpoints of one run, audit.json a finished report.
"""

from __future__ import annotations

from dataclasses import dataclass

WIDTH = 76
"""Columns that a line may take, so that none is wrapped at 80."""


@dataclass(frozen=True, slots=True)
class Example:
    """A command line without `resnet-audit`, and what it does. foreign: it needs a package or a file of others."""

    line: str
    does: str
    foreign: bool = False


EXAMPLES: dict[str, tuple[Example, ...]] = {
    "graph": (
        Example("graph net.pt", "which blocks were found, and what had to be assumed"),
        Example("graph net.pt --input-size 3x64x64 --wide", "at another input size; every column"),
        Example(
            "graph vit.safetensors --arch timm:vit_tiny_patch16_224 \\\n  --input-size 3x224x224",
            "a network that its names do not tell: built by its own code",
            foreign=True,
        ),
    ),
    "bound": (
        Example("bound net.pt", "covering numbers and the layers that they come from"),
        Example("bound net.pt --data data.npz --n-train 1297", "with the margin bound, on measured margins"),
        Example(
            "bound net.pt --reference init.pt --preset strict --n-train 1297",
            "distances from the start of training; every step proved",
        ),
    ),
    "spectrum": (
        Example("spectrum net.pt", "all singular values of every layer and block"),
        Example("spectrum net.pt --blocks '*.0' --wide", "the rows of some blocks, with every column"),
        Example("spectrum net.pt --fast -f json", "the largest values and norms alone, as JSON"),
    ),
    "gradient": (
        Example("gradient net.pt --data data.npz", "on inputs normalised as in training"),
        Example("gradient net.pt --inputs pink --samples 64 --seed 1", "without data: on seeded 1/f noise"),
        Example("gradient net.pt --data data.npz --objective ce", "of the cross-entropy to the labels"),
    ),
    "ensemble": (
        Example("ensemble net.pt --data data.npz", "how deep the gradient goes, exactly, on these inputs"),
        Example("ensemble net.pt --unit layers", "depth in weight layers instead of blocks"),
        Example("ensemble net.pt --data data.npz --veit", "beside it the sampled statistics of Veit et al."),
    ),
    "shortcut": (
        Example("shortcut net.pt", "what every shortcut jumps over, and the Hessian at zero"),
        Example("shortcut net.pt --data data.npz --samples 8 --hessian", "the Hessian at the checkpoint too"),
    ),
    "scaling": (
        Example("scaling net.pt --data data.npz", "branch scales, measured on these inputs"),
        Example("scaling net.pt --method weights", "from the weights alone: nothing is run"),
    ),
    "report": (
        Example("report net.pt --data data.npz", "everything, as tables"),
        Example("report 'epochs/*.pt' --data data.npz -o audit.json", "many checkpoints in one JSON document"),
        Example(
            "report epochs --data data.npz --resume done.jsonl -f jsonl", "results are kept: it can be interrupted"
        ),
    ),
    "compare": (
        Example("compare epochs --data data.npz", "a row an epoch, and how each number moves"),
        Example("compare init.pt net.pt --data data.npz", "two checkpoints on the same inputs"),
        Example("compare epochs --data data.npz --figure training.svg", "the same as a drawing (extra `plot`)"),
    ),
    "check": (
        Example("check net.pt --max spectrum.sigma_max=12", "one limit; the exit code is the verdict"),
        Example(
            "check net.pt --max-increase gradient.ratio_worst=10% \\\n  --baseline baseline.json --update-baseline",
            "no more than a tenth above the baseline, which is made or tightened",
        ),
        Example("check audit.json --max graph.nonfinite_count=0 -f github", "a finished report, as annotations"),
    ),
    "procrustes": (
        Example("procrustes net.pt -o out.pt", "make the transition layers norm-preserving"),
        Example(
            "procrustes net.pt -o out.safetensors --blocks '*.1' \\\n  --data data.npz",
            "other blocks; the accuracy before and after",
        ),
    ),
    "schema": (Example("schema", "to validate documents, or to generate types from"),),
    "explain": (
        Example("explain", "every metric in one line"),
        Example("explain bound.covers.patch.log10_spectral_complexity", "one of them in full"),
        Example("explain ensemble", "the metrics of one analysis"),
    ),
}


EXIT = "Exit codes: 0 done, 2 it could not be done (one line on stderr says why)."
EXIT_OF = {"check": "Exit codes: 0 every limit holds, 1 one is broken, 2 it could not be judged."}


def epilog(command: str) -> str:
    """The examples of a command, and its exit codes, as the text below its --help."""
    found = EXAMPLES.get(command, ())
    lines = [f"  resnet-audit {_indented(one.line)}\n      {one.does}" for one in found]
    return "\n".join(["Examples:", *lines, "", EXIT_OF.get(command, EXIT)])


def flowing(text: str) -> str:
    """A docstring whose paragraphs are one line each, for a terminal of any width to break."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def _indented(line: str) -> str:
    return line.replace("\n", "\n    ")
