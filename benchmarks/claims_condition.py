"""Condition number of the Hessian at the zero point against depth, for shortcuts over one, two and three layers.

    python benchmarks/claims_condition.py [--figure FILE.svg] [--write]

Li, Jiao, Han, Weissman 2016 (arXiv 1611.01186) say: with shortcuts over two layers the condition number at the zero
initial point does not depend on depth, with or without nonlinearities; over one layer it grows without limit; over
three and more the point is flat. Every number here is that of a dense Hessian from autograd, in float64, of

    z_r = z_(r-1) + W_(r,n) phi(... phi(W_(r,1) z_(r-1))),  r = 1 .. R,   loss = sum ||y - z_R||^2 / 2m

with 3 inputs of unequal variance, hidden layers of 3 and m = 200. `predicted`: the closed forms of linear networks.
ReLU has no Hessian where all weights are zero; there it is taken 1e-7 away, in seeded directions.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from claims_page import main, number, picture, table
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Phi = Callable[[Tensor], Tensor]

WIDTH, SAMPLES = 3, 200
BLOCKS = (1, 2, 4, 8, 16, 32)
NEAR = 1e-7
DRAWS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """x, y: (samples, d). Without phi the Hessian at zero knows them by Sxx and E = Sxx - Syx alone, (d, d)."""

    x: Tensor
    y: Tensor

    @property
    def sxx(self) -> Tensor:
        """E x x^T."""
        return self.x.T @ self.x / len(self.x)

    @property
    def error(self) -> Tensor:
        """E (x - y) x^T: the gradient that every block sees."""
        return (self.x - self.y).T @ self.x / len(self.x)


def data(seed: int = 0) -> Data:
    """Inputs of unequal variance and targets that a random map makes of them."""
    source = torch.Generator().manual_seed(seed)
    scales = torch.tensor([1.5, 1.0, 0.5], dtype=torch.float64)
    x = torch.randn(SAMPLES, WIDTH, generator=source, dtype=torch.float64) * scales
    return Data(x=x, y=x @ torch.randn(WIDTH, WIDTH, generator=source, dtype=torch.float64).T)


# the network and its dense Hessian ------------------------------------------------------------------------------------


def linear(x: Tensor) -> Tensor:
    """No activation."""
    return x


def loss(weights: Tensor, given: Data, layers: int, phi: Phi) -> Tensor:
    """That of the network with all its weights in one vector, block by block and layer by layer.

    phi follows all layers of a branch but the last, or the only one.
    """
    z = given.x
    for block in weights.reshape(-1, layers, WIDTH, WIDTH):
        branch = z @ block[0].T
        for matrix in block[1:]:
            branch = phi(branch) @ matrix.T
        z = z + (phi(branch) if layers == 1 else branch)
    return ((given.y - z) ** 2).sum() / (2 * len(z))


def hessian(given: Data, layers: int, blocks: int, phi: Phi = linear, at: Tensor | None = None) -> Tensor:
    """The dense Hessian of all weights, (p, p), at zero or at the vector `at`."""
    point = torch.zeros(parameters(layers, blocks), dtype=torch.float64) if at is None else at
    found: Any = torch.autograd.functional.hessian(
        partial(loss, given=given, layers=layers, phi=phi), point, vectorize=True
    )
    return found


def parameters(layers: int, blocks: int) -> int:
    """How many weights there are."""
    return layers * blocks * WIDTH**2


def condition(matrix: Tensor) -> float:
    """Largest over smallest |eigenvalue|; not a number where the matrix is 0."""
    sizes = torch.linalg.eigvalsh(matrix).abs()
    return float(sizes.max() / sizes.min()) if float(sizes.max()) > 0.0 else math.nan


# closed forms of linear networks --------------------------------------------------------------------------------------


def one_layer_hessian(given: Data, blocks: int) -> Tensor:
    """The Hessian at zero for n = 1, (R d^2, R d^2), by hand.

    loss = const + <sum W_r, E> + <sum W_r, sum W_r Sxx> / 2 + sum_(r > s) <W_r W_s, E> + O(W^3)
    """
    eye, d = torch.eye(WIDTH, dtype=torch.float64), WIDTH
    same = torch.einsum("ik,jl->ijkl", eye, given.sxx).reshape(d * d, d * d)
    later = torch.einsum("il,jk->ijkl", given.error, eye).reshape(d * d, d * d)
    rows = [
        [same + (later if r > s else later.T if r < s else torch.zeros_like(same)) for s in range(blocks)]
        for r in range(blocks)
    ]
    return torch.cat([torch.cat(row, 1) for row in rows])


def two_layer_condition(given: Data) -> float:
    """s_max(E) / s_min(E): for n = 2 at any depth."""
    values = torch.linalg.svdvals(given.error)
    return float(values[0] / values[-1])


# measuring ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Condition numbers of R blocks; for ReLU medians over draws. n = 3: the largest |eigenvalue|, linear and ReLU."""

    blocks: int
    one: float
    one_predicted: float
    one_relu: float
    two: float
    two_predicted: float
    two_tanh: float
    two_relu: float
    three: float
    three_relu: float


def measure(depths: Sequence[int] = BLOCKS, draws: int = DRAWS) -> list[Row]:
    """A row a depth."""
    given = data()
    return [_row(given, blocks, draws) for blocks in depths]


def _row(given: Data, blocks: int, draws: int) -> Row:
    relu = {n: [hessian(given, n, blocks, torch.relu, _near(n, blocks, seed)) for seed in range(draws)] for n in (1, 2)}
    three = hessian(given, 3, blocks, torch.relu, _near(3, blocks, 0))
    return Row(
        blocks=blocks,
        one=condition(hessian(given, 1, blocks)),
        one_predicted=condition(one_layer_hessian(given, blocks)),
        one_relu=statistics.median(map(condition, relu[1])),
        two=condition(hessian(given, 2, blocks)),
        two_predicted=two_layer_condition(given),
        two_tanh=condition(hessian(given, 2, blocks, torch.tanh)),
        two_relu=statistics.median(map(condition, relu[2])),
        three=float(torch.linalg.matrix_norm(hessian(given, 3, blocks), 2)),
        three_relu=float(torch.linalg.matrix_norm(three, 2)),
    )


def _near(layers: int, blocks: int, seed: int) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return NEAR * torch.randn(parameters(layers, blocks), generator=source, dtype=torch.float64)


# telling --------------------------------------------------------------------------------------------------------------


def tell(rows: Sequence[Row]) -> str:
    """The table."""
    header = ["blocks R", "n = 1", "predicted", "n = 1, ReLU", "n = 2", "predicted", "n = 2, tanh", "n = 2, ReLU"]
    return table(
        [*header, "n = 3, largest", "n = 3, ReLU, largest"],
        [
            [
                str(row.blocks),
                *(number(v, 5) for v in (row.one, row.one_predicted)),
                number(row.one_relu),
                *(number(v, 5) for v in (row.two, row.two_predicted, row.two_tanh)),
                number(row.two_relu),
                *(number(v, 2) for v in (row.three, row.three_relu)),
            ]
            for row in rows
        ],
    )


def draw(rows: Sequence[Row], path: str) -> None:
    """Linear and smooth networks on the left, ReLU on the right."""
    depths = [row.blocks for row in rows]
    with picture(path, 2) as (left, right):
        left.plot(depths, [row.one for row in rows], "o-", label="n = 1")
        left.plot(depths, [row.one_predicted for row in rows], "k:", label="closed form")
        left.plot(depths, [row.two for row in rows], "s-", label="n = 2")
        left.plot(depths, [row.two_tanh for row in rows], "x", color="tab:red", label="n = 2, tanh")
        left.plot(depths, [row.two_predicted for row in rows], "k:")
        right.plot(depths, [row.one_relu for row in rows], "o-", label="n = 1")
        right.plot(depths, [row.two_relu for row in rows], "s-", label="n = 2")
        for axes, title in ((left, "linear and tanh, at zero"), (right, "ReLU, 1e-7 from zero")):
            axes.set(xscale="log", yscale="log", xlabel="blocks R", title=title)
            axes.set_xticks(depths, [str(depth) for depth in depths])
            axes.minorticks_off()
            axes.legend()
        left.set_ylabel("condition number")


if __name__ == "__main__":
    main("condition", __doc__ or "", measure, tell, draw)
