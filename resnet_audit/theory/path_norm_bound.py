"""The path-norm term: what the L1 path norm adds to the margin risk, beside the covering bound.

Source   Gonon et al. 2023 (arXiv 2310.01225), first factor, in its sharpened form; depth and windows are read off here.
Formula  term = (4 C B / sqrt(n)) ||Phi||_1 / margin,   C = sqrt(D ln 3 + M ln K + ln((d_in + 1) d_out))
Symbols  ||Phi||_1  L1 path norm over all outputs (`path_norm`), n  training examples
         D  most weight layers, norms left alone and max-pools on one path; M  most max-pools on one path
         K  entries of the largest max-pool window, d_in, d_out  numbers of inputs and outputs
         B  largest absolute input entry, at least 1: the constant input that biases are weights of counts as an entry
Reads    it does not change when layers are rescaled against each other; on trained CIFAR ResNets it is 10^5 to 10^19
         above the patch covering term: a cross-check, not a sharper bound.
Status   no certificate: the Lipschitz constant of the loss in the published theorem was not checked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from resnet_audit.graph.ir import Conv, Linear, Node, Norm, Op, Pool

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Peeling:
    """What the proof peels off layer by layer: D, M and K of the formula, and the numbers of inputs and outputs.

    window is 1 without a max-pool.
    """

    depth: int
    max_pools: int
    window: int
    inputs: int
    outputs: int


def peeling(folded: Sequence[Node]) -> Peeling:
    """The symbols of the formula for a graph whose first node is the input and whose last is the output."""
    depth: dict[str, int] = {}
    pools: dict[str, int] = {}
    window = 1
    for node in folded:
        entries = _window(node.op)
        window, pooled = max(window, entries), entries > 0
        layer = pooled or isinstance(node.op, Conv | Linear | Norm)
        depth[node.name] = layer + max((depth[name] for name in node.inputs), default=0)
        pools[node.name] = pooled + max((pools[name] for name in node.inputs), default=0)
    output = folded[-1]
    return Peeling(
        depth=depth[output.name],
        max_pools=pools[output.name],
        window=window,
        inputs=math.prod(folded[0].shape or ()),
        outputs=math.prod(output.shape or ()),
    )


def _window(op: Op) -> int:
    """The entries of a max-pool's window; 0 for every other operation."""
    match op:
        case Pool(kind="max", kernel=(int(), int()) as kernel):
            return math.prod(kernel)
    return 0


def log_first_factor(found: Peeling, *, largest_entry: float, n_train: int) -> float:
    """ln of 4 C B / sqrt(n). largest_entry: the largest absolute entry of an input."""
    squared = (
        found.depth * math.log(3.0)
        + found.max_pools * math.log(found.window)
        + math.log((found.inputs + 1) * found.outputs)
    )
    return math.log(4.0 * max(largest_entry, 1.0)) + 0.5 * (math.log(squared) - math.log(n_train))


def log_path_norm_term(
    folded: Sequence[Node], *, log_path_norm: float, largest_entry: float, n_train: int, margin: float
) -> float:
    """ln of the term, from ln of the L1 path norm over all outputs (-inf for a network without paths).

    largest_entry: the largest absolute entry of an input; margin: of the ramp, in units of the logits.
    """
    factor = log_first_factor(peeling(folded), largest_entry=largest_entry, n_train=n_train)
    return factor + log_path_norm - math.log(margin)
