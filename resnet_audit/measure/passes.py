"""One recorded forward pass, and what the analyses of gradients take from it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Tape:
    """A pass as autograd keeps it, from the value at `start` to the logits: good for one backward pass."""

    value: Tensor
    logits: Tensor

    def gradient(self, cotangent: Tensor) -> Tensor:
        """The gradient at `start` by torch's autograd: the reference that the exact decomposition must sum to."""
        # A scalar: torch imports its symbolic shapes for a cotangent of any other shape, which takes half a second.
        (gradient,) = torch.autograd.grad((self.logits * cotangent).sum(), self.value)
        return gradient


@dataclass(frozen=True, slots=True)
class _Kept:
    """What the nodes leave as they are visited, by name: for their adjoints, and the statistics that norms saw."""

    saved: dict[str, Saved] = field(default_factory=dict)
    seen: dict[str, tuple[Norm, Tensor, Tensor]] = field(default_factory=dict)

    def visit(self, node: Node, read: list[Tensor], _: Tensor) -> None:
        """Keep what one node leaves."""
        read = [value.detach() for value in read]
        if kept := save(node.op, read):
            self.saved[node.name] = kept
        if isinstance(node.op, Norm):
            self.seen[node.name] = (node.op, *batch_statistics(read[0]))

    def mismatch(self) -> tuple[float, float] | tuple[None, None]:
        """The means of `mismatch` over all channels of all norms; None without norms."""
        if not self.seen:
            return None, None
        ops, means, variances = zip(*self.seen.values(), strict=True)
        running_mean, running_var = (torch.cat(column) for column in ([op.mean for op in ops], [op.var for op in ops]))
        eps = torch.cat([torch.full_like(op.var, op.eps, dtype=torch.float64) for op in ops])
        first, second = _mismatch(torch.cat(means), torch.cat(variances), running_mean, running_var, eps)
        return float(first.mean()), float(second.mean())


def record(graph: ResidualGraph, inputs: Inputs) -> Recording:
    """The recording of the network on `inputs`; `start` is the input of the first block (without blocks, the input)."""
    recording, _ = _recorded(graph, inputs, tape=False)
    return recording


def record_on_tape(graph: ResidualGraph, inputs: Inputs) -> tuple[Recording, Tape]:
    """The recording, and the same pass for autograd, which keeps the values of all nodes until the tape is dropped."""
    return _recorded(graph, inputs, tape=True)


def _recorded(graph: ResidualGraph, inputs: Inputs, *, tape: bool) -> tuple[Recording, Tape]:
    source, kept = graph.nodes[0].name, _Kept()
    start = graph.blocks[0].fork if graph.blocks else source
    # Channels innermost: convolutions of many small maps are then up to seven times faster (measured).
    values = inputs.values.to(memory_format=torch.channels_last) if inputs.values.ndim == 4 else inputs.values
    with torch.no_grad():
        value = run(graph.nodes, {source: values}, start, kept.visit)
    # Tokens take no gradient.
    leaf = value.detach().requires_grad_(tape and value.is_floating_point())
    with torch.set_grad_enabled(tape):
        logits = run(graph.nodes, {source: values, start: leaf}, graph.output, kept.visit)
    mean, logsd = kept.mismatch()
    used = InputsUsed(kind=inputs.kind, n=len(values), bn_mismatch_mean=mean, bn_mismatch_logsd=logsd)
    recording = Recording(start=start, value=value, logits=logits.detach(), saved=kept.saved, inputs=used)
    return recording, Tape(value=leaf, logits=logits)


def autograd_gradient(graph: ResidualGraph, recording: Recording, cotangent: Tensor) -> Tensor:
    """The gradient at `recording.start` by torch's autograd, from a forward pass of its own."""
    leaf = recording.value.detach().requires_grad_()
    return Tape(value=leaf, logits=run(graph.nodes, {recording.start: leaf}, graph.output)).gradient(cotangent)


def mismatch(op: Norm, x: Tensor) -> tuple[Tensor, Tensor]:
    """Per channel |batch mean - running mean| / running sd and |ln(batch sd / running sd)|, dead channels by eps.

    In float64, and differentiable with respect to `x` (N, C, ...), the batch that reaches the normalisation.
    """
    return _mismatch(*batch_statistics(x), op.mean, op.var, op.eps)


def _mismatch(
    mean: Tensor, var: Tensor, running_mean: Tensor, running_var: Tensor, eps: float | Tensor
) -> tuple[Tensor, Tensor]:
    running = running_var.double() + eps
    return (mean - running_mean.double()).abs() / running.sqrt(), ((var + eps) / running).log().abs() / 2


def batch_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance with 1/n of every channel of a batch (N, C, ...), each (C,) in float64.

    On float32 ten times as fast as in float64 throughout, and as good as float32 values are: sums over one map at a
    time, about the mean of the first sample: that is at most sqrt(N) standard deviations from the mean of the batch, so
    that little cancels.
    """
    rows = x.unsqueeze(-1).flatten(2)
    count = len(rows) * rows.shape[2]
    centre = rows[0].detach().mean(1)
    deviations = rows - centre[:, None]
    first, second = (part.sum(2).double().sum(0) / count for part in (deviations, deviations.square()))
    var = second - first.square()
    if x.dtype != torch.float64 and not math.isfinite(float(var.detach().sum())):
        # Squares leave the range of float32 before values do.
        return batch_statistics(x.double())
    return centre.double() + first, var.clamp(min=0.0)


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
