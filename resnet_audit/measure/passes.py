"""One recorded forward pass, and what the analyses of gradients take from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from resnet_audit.errors import UsageError
from resnet_audit.graph.adjoint import Saved, save
from resnet_audit.graph.execute import run
from resnet_audit.graph.ir import Node, Norm
from resnet_audit.results import InputsUsed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from resnet_audit.graph import ResidualGraph
    from resnet_audit.measure.inputs import Inputs
    from resnet_audit.settings import Objective


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """What one forward pass leaves: the value at `start`, the logits, what the adjoints need, and the BN mismatch."""

    start: str
    value: Tensor
    logits: Tensor
    saved: Mapping[str, Saved]
    inputs: InputsUsed


def record(graph: ResidualGraph, inputs: Inputs) -> Recording:
    """The recording of the network on `inputs`; `start` is the input of the first block (without blocks, the input)."""
    start = graph.blocks[0].fork if graph.blocks else graph.nodes[0].name
    saved: dict[str, Saved] = {}
    # Channels innermost: convolutions of many small maps are then up to seven times faster (measured).
    values = inputs.values.to(memory_format=torch.channels_last) if inputs.values.ndim == 4 else inputs.values
    at_start = {graph.nodes[0].name: values}
    found: list[tuple[Tensor, Tensor]] = []

    def visit(node: Node, read: list[Tensor], value: Tensor) -> None:
        kept = save(node.op, read)
        if kept:
            saved[node.name] = kept
        if node.name == start:
            at_start[start] = value
        if isinstance(node.op, Norm):
            found.append(mismatch(node.op, read[0]))

    with torch.no_grad():
        logits = run(graph.nodes, {graph.nodes[0].name: values}, graph.output, visit)
    means, spreads = (torch.cat(column) for column in zip(*found, strict=True)) if found else (None, None)
    used = InputsUsed(
        kind=inputs.kind,
        n=len(inputs.values),
        bn_mismatch_mean=None if means is None else float(means.mean()),
        bn_mismatch_logsd=None if spreads is None else float(spreads.mean()),
    )
    return Recording(start=start, value=at_start[start], logits=logits, saved=saved, inputs=used)


def mismatch(op: Norm, x: Tensor) -> tuple[Tensor, Tensor]:
    """Per channel |batch mean - running mean| / running sd and |ln(batch sd / running sd)|, dead channels by eps.

    In float64, and differentiable with respect to `x`, the batch that reaches the normalisation.
    """
    axes = [axis for axis in range(x.ndim) if axis != 1]
    var, mean = torch.var_mean(x.double(), dim=axes, correction=0)
    running = op.var.double() + op.eps
    return (mean - op.mean.double()).abs() / running.sqrt(), ((var + op.eps) / running).log().abs() / 2


def cotangent_at_logits(logits: Tensor, objective: Objective, labels: Tensor | None, seed: int) -> Tensor:
    """The gradient of the summed objective with respect to the logits (N, ..., classes).

    logit: of the predicted class; ce: cross-entropy to the labels, else to the prediction; random: standard normal.
    """
    if objective == "random":
        generator = torch.Generator().manual_seed(seed + 1)
        return torch.randn(logits.shape, generator=generator, dtype=torch.float64).to(logits.dtype)
    classes = logits.shape[-1]
    predicted = logits.argmax(-1)
    if objective == "logit":
        return F.one_hot(predicted, classes).to(logits.dtype)
    target = predicted if labels is None else labels
    if target.shape != predicted.shape or int(target.min()) < 0 or int(target.max()) >= classes:
        raise UsageError(f"a label lies outside the {classes} classes of the network; give it its own labels")
    return logits.softmax(-1) - F.one_hot(target, classes).to(logits.dtype)


def autograd_gradient(graph: ResidualGraph, recording: Recording, cotangent: Tensor) -> Tensor:
    """The gradient at `recording.start` by torch's autograd: the reference that the exact decomposition must sum to."""
    leaf = recording.value.detach().requires_grad_()
    # A scalar: torch imports its symbolic shapes for a cotangent of any other shape, which takes half a second.
    objective = (run(graph.nodes, {recording.start: leaf}, graph.output) * cotangent).sum()
    (gradient,) = torch.autograd.grad(objective, leaf)
    return gradient
