"""Inputs matched to what the batch normalisations of a network remember of its training data.

Source   derived, theory note `gradient-ensemble`, A3; the idea of images drawn from running statistics is known as
         data-free distillation.
Formula  minimise over the pixels  sum_n mean_c ((mu - mu_run) / sd_run)^2 + ln(sd / sd_run)^2
Symbols  n  batch normalisations, c their channels;  mu, sd  mean and standard deviation of the batch that reaches them
         mu_run, sd_run  the running ones, eps inside the square root
Reads    The mismatch that is left is reported as for all inputs. A small one says that the statistics agree, not that
         the images look like the training data.
Status   80 steps of Adam from the seeded 1/f noise; the same bytes for the same seed, machine and threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from resnet_audit.errors import UsageError
from resnet_audit.graph.execute import run
from resnet_audit.graph.ir import Input, Node, Norm
from resnet_audit.measure.inputs import Inputs
from resnet_audit.measure.passes import mismatch
from resnet_audit.settings import no_progress

if TYPE_CHECKING:
    from torch import Tensor

    from resnet_audit.graph import ResidualGraph
    from resnet_audit.settings import Progress

STEPS = 80
RATE = 0.1
"""Adam's step, in standard deviations of a pixel."""

DECAY = (0.9, 0.999)
"""Adam's memory of gradients and of their squares."""


def matched(graph: ResidualGraph, start: Inputs, progress: Progress = no_progress) -> Inputs:
    """Inputs of the shape and dtype of `start`, moved from there until the statistics fit as well as they will.

    All samples move together, because a mean and a variance are those of the batch. Raises UsageError for a network
    without batch normalisation, and for one that reads tokens, NotRunnable, NoRule.
    """
    require_matchable(graph)
    pixels = start.values.detach().clone()
    mean, square = torch.zeros_like(pixels), torch.zeros_like(pixels)
    for step in range(1, STEPS + 1):
        leaf = pixels.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(discrepancy(graph, leaf), leaf)
        # torch's own Adam imports its compiler, which takes seconds.
        mean = DECAY[0] * mean + (1.0 - DECAY[0]) * gradient
        square = DECAY[1] * square + (1.0 - DECAY[1]) * gradient**2
        root = (square / (1.0 - DECAY[1] ** step)).sqrt() + 1e-8
        pixels = pixels - RATE * (mean / (1.0 - DECAY[0] ** step)) / root
        progress("matched inputs", step, STEPS)
    return Inputs(kind="matched", values=pixels)


def require_matchable(graph: ResidualGraph) -> None:
    """Raise UsageError unless there are pixels to move and statistics to match, NotRunnable unless it runs."""
    graph.require_runnable()
    source = graph.nodes[0].op
    if isinstance(source, Input) and source.vocabulary is not None:
        raise UsageError("--inputs matched moves pixels, and this network reads tokens; leave it out")
    if not any(isinstance(node.op, Norm) for node in graph.nodes):
        raise UsageError(
            "--inputs matched needs batch normalisation, whose statistics it matches, and there is none; "
            "use --inputs pink or --data"
        )


def discrepancy(graph: ResidualGraph, values: Tensor) -> Tensor:
    """What is minimised, a differentiable scalar of dimension 1, for a batch (N, C, H, W)."""
    terms: list[Tensor] = []

    def visit(node: Node, read: list[Tensor], _: Tensor) -> None:
        if isinstance(node.op, Norm):
            means, spreads = mismatch(node.op, read[0])
            terms.append((means.square() + spreads.square()).mean())

    run(graph.nodes, {graph.nodes[0].name: values}, graph.output, visit)
    return torch.stack(terms).sum()
