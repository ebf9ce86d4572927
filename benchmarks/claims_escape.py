"""How long gradient descent stays at the zero point, by shortcut depth, number of blocks and size of the start.

    python benchmarks/claims_escape.py [--figure FILE.svg] [--write]

Li, Jiao, Han, Weissman 2016 (arXiv 1611.01186) say that the zero point of shortcuts over three and more layers is a
stationary point of high order; that of two layers has a Hessian to leave by. Here full-batch gradient descent at a
rate of 0.02 fits y = (1 + G) x, G orthogonal, x white, from weights of standard deviation eps, until the loss is half
of what it is at zero. Times are steps times rate, medians of seeded starts. `balanced`: the gradient flow of one block
of one weight a layer, all of size eps (theory note `shortcut-scaling`, A2).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from claims_page import main, number, picture, table
from scipy.integrate import quad
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

INPUTS, HIDDEN, SAMPLES = 4, 8, 32
BLOCKS = (1, 2, 4, 8, 16)
EPSILONS = (0.1, 0.03, 0.01)
NETS = ((1, False), (2, False), (2, True), (3, False), (3, True))
"""Layers in a branch, and whether ReLU stands between them."""
SEEDS, RATE, MOST = 5, 0.02, 20000


@dataclass(frozen=True, slots=True, kw_only=True)
class Escape:
    """Times of all starts, sorted; infinite where `MOST` steps were not enough."""

    layers: int
    relu: bool
    blocks: int
    eps: float
    times: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return self.times[len(self.times) // 2]


def task(seed: int = 0) -> tuple[Tensor, Tensor]:
    """x (d, samples) whose second moment is the identity exactly, and y = (1 + G) x with G orthogonal."""
    source = torch.Generator().manual_seed(seed)
    x = torch.linalg.qr(torch.randn(SAMPLES, INPUTS, generator=source, dtype=torch.float64)).Q.T * math.sqrt(SAMPLES)
    turn = torch.linalg.qr(torch.randn(INPUTS, INPUTS, generator=source, dtype=torch.float64)).Q
    return x, x + turn @ x


def starts(layers: int, blocks: int, eps: Sequence[float], seeds: int) -> list[list[Tensor]]:
    """Weights by block and layer, each (starts, out, in): `seeds` draws for every eps."""
    sizes = [INPUTS] + [HIDDEN] * (layers - 1) + [INPUTS]
    shapes = [[(o, i) for i, o in itertools.pairwise(sizes)] for _ in range(blocks)]
    sources = [torch.Generator().manual_seed(seed) for seed in range(seeds)]
    drawn = [[[torch.randn(s, generator=g, dtype=torch.float64) for s in block] for block in shapes] for g in sources]
    return [
        [torch.stack([size * draw[r][k] for size in eps for draw in drawn]).requires_grad_() for k in range(layers)]
        for r in range(blocks)
    ]


def escapes(
    layers: int, blocks: int, *, relu: bool = False, eps: Sequence[float] = EPSILONS, seeds: int = SEEDS
) -> list[Escape]:
    """Times until the loss has halved, for every eps."""
    x, y = task()
    weights = starts(layers, blocks, eps, seeds)
    flat = [matrix for block in weights for matrix in block]
    count = len(eps) * seeds
    left = torch.full((count,), math.inf, dtype=torch.float64)
    half = float(((y - x) ** 2).sum()) / (4 * SAMPLES)
    for step in range(MOST):
        losses = ((_forward(weights, x, relu=relu) - y) ** 2).sum((1, 2)) / (2 * SAMPLES)
        left[(losses <= half) & left.isinf()] = step * RATE
        if bool(left.isfinite().all()):
            break
        slopes = torch.autograd.grad(losses.sum(), flat)
        with torch.no_grad():
            for matrix, slope in zip(flat, slopes, strict=True):
                matrix.sub_(slope, alpha=RATE)
    return [
        Escape(layers=layers, relu=relu, blocks=blocks, eps=size, times=tuple(sorted(times)))
        for size, times in zip(eps, left.reshape(len(eps), seeds).tolist(), strict=True)
    ]


def _forward(weights: Sequence[Sequence[Tensor]], x: Tensor, *, relu: bool) -> Tensor:
    z = x.expand(len(weights[0][0]), -1, -1)
    for block in weights:
        branch = block[0] @ z
        for matrix in block[1:]:
            branch = matrix @ (branch.relu() if relu else branch)
        z = z + branch
    return z


def balanced(layers: int, eps: float) -> float:
    """Time in which n weights, all w and eps at first, halve (1 - w^n)^2 / 2: dw/dt = (1 - w^n) w^(n - 1)."""
    start, end = eps, (1.0 - (1.0 - eps**layers) / math.sqrt(2.0)) ** (1.0 / layers)
    # In ln w: the integrand has no spike at the start then.
    found: float = quad(lambda u: math.exp(u * (2 - layers)) / -math.expm1(u * layers), math.log(start), math.log(end))[
        0
    ]
    return found


def measure(depths: Sequence[int] = BLOCKS) -> list[Escape]:
    """All nets at all depths."""
    return [one for layers, relu in NETS for blocks in depths for one in escapes(layers, blocks, relu=relu)]


def tell(found: Sequence[Escape]) -> str:
    """A row a net and eps, a column a depth."""
    depths = sorted({one.blocks for one in found})
    by_place = {(one.layers, one.relu, one.eps, one.blocks): one.median for one in found}
    kinds = dict.fromkeys((one.layers, one.relu, one.eps) for one in found)
    rows = [
        [
            f"{layers}{', ReLU' if relu else ''}",
            f"{eps:g}",
            *(_time(by_place[layers, relu, eps, blocks]) for blocks in depths),
            _time(balanced(layers, eps)),
        ]
        for layers, relu, eps in sorted(kinds, key=lambda kind: (kind[0], kind[1], -kind[2]))
    ]
    return table(["n", "eps", *(f"R = {blocks}" for blocks in depths), "balanced"], rows)


def _time(value: float) -> str:
    """To the length of a step, or to three figures."""
    return f"{value:.2f}" if value < 10.0 else number(value)


def draw(found: Sequence[Escape], path: str) -> None:
    """Time against depth at the smallest start, and against the start for one block."""
    smallest = min(one.eps for one in found)
    with picture(path, 2) as (left, right):
        for layers, relu in NETS:
            look = {"linestyle": "--" if relu else "-", "color": f"C{layers - 1}", "marker": "s" if relu else "o"}
            label = f"n = {layers}{', ReLU' if relu else ''}"
            own = [one for one in found if (one.layers, one.relu) == (layers, relu)]
            deep = [one for one in own if one.eps == smallest]
            wide = [one for one in own if one.blocks == 1]
            left.plot([one.blocks for one in deep], [one.median for one in deep], label=label, **look)
            right.plot([one.eps for one in wide], [one.median for one in wide], **look)
        left.set(xscale="log", yscale="log", xlabel="blocks R", ylabel="time to halve the loss")
        left.set_title(f"start of size eps = {smallest:g}")
        left.set_xticks(BLOCKS, [str(blocks) for blocks in BLOCKS])
        right.set(xscale="log", yscale="log", xlabel="eps", title="one block")
        right.set_xticks(EPSILONS, [f"{eps:g}" for eps in EPSILONS])
        right.invert_xaxis()
        for axes in (left, right):
            axes.minorticks_off()
        left.figure.legend(*left.get_legend_handles_labels(), loc="outside right center")


if __name__ == "__main__":
    main("escape", __doc__ or "", measure, tell, draw)
