"""How well the residual tangent kernel tells inputs apart at growing depth, for branch scales from constant to 1/L.

    python benchmarks/claims_kernel.py [--figure FILE.svg] [--write]

arXiv 2403.04545 says: with a constant branch scale the kernel of a deep residual network degenerates, and learns
nothing asymptotically; it can still do so where the scale falls with depth, and does not where it falls fast. The
spread is the largest minus the smallest normalised kernel over 41 angles; one hidden layer has 0.972. In brackets:
the tangent kernel of networks of width 512 by backpropagation, mean of 4 draws; it knows nothing of the recursion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from claims_page import main, number, picture, table
from torch import Tensor

from resnet_audit import rntk
from resnet_audit.measure.rntk import ANGLES, kernel_spread, residual_time

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Scheme = Callable[[int, int], float]
    """The scale of block l = 1..L from (l, L)."""

SCHEMES: dict[str, Scheme] = {
    "1": lambda _, __: 1.0,
    "0.2": lambda _, __: 0.2,
    "L^-1/4": lambda _, depth: depth**-0.25,
    "1/sqrt l": lambda block, _: block**-0.5,
    "1/sqrt L": lambda _, depth: depth**-0.5,
    "1/L": lambda _, depth: 1.0 / depth,
}
DEPTHS = (1, 10, 100, 1000, 10000)
MEASURED = (1, 10, 100)
WIDTH, DRAWS = 512, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One scheme by depth: residual times and spreads of the recursion, and spreads of networks at `MEASURED` depths.

    slope: of ln spread against ln L between the last two depths; far: the kernel of orthogonal inputs at the last.
    """

    scheme: str
    times: tuple[float, ...]
    spreads: tuple[float, ...]
    measured: tuple[float, ...]
    slope: float
    far: float


def alphas(scheme: str, depth: int) -> list[float]:
    """The scales of all blocks."""
    return [SCHEMES[scheme](block, depth) for block in range(1, depth + 1)]


def network_kernel(scales: Sequence[float], cosines: Tensor, width: int, seed: int) -> Tensor:
    """Theta(x, x') of one network of finite `width` at `cosines` between two inputs, and Theta(x, x) first; (1 + n,).

    z_l = z_(l-1) + a V relu(sqrt(2 / m) U z_(l-1)) / sqrt m and f = v . z_L / sqrt m; the gradient is that in all U, V.
    """
    source = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=source, dtype=torch.float64)

    angles = torch.cat([torch.zeros(1, dtype=torch.float64), torch.acos(cosines)])
    z = torch.stack([angles.cos(), angles.sin()], 1) @ normal(2, width)
    passed = []
    for scale in scales:
        up, down = normal(width, width), normal(width, width)
        before = z @ up.T * math.sqrt(2.0 / width)
        hidden = before.relu()
        passed.append((scale, up, down, z, before > 0.0, hidden))
        z = z + scale * hidden @ down.T / math.sqrt(width)
    gradient = normal(width).expand_as(z) / math.sqrt(width)
    kernel = torch.zeros(len(angles), dtype=torch.float64)
    for scale, up, down, at, mask, hidden in reversed(passed):
        inner = scale * (gradient @ down) / math.sqrt(width) * mask * math.sqrt(2.0 / width)
        kernel += scale**2 / width * (gradient @ gradient[0]) * (hidden @ hidden[0]) + (inner @ inner[0]) * (at @ at[0])
        gradient = gradient + inner @ up
    return kernel


def network_spread(scales: Sequence[float], width: int = WIDTH, draws: int = DRAWS) -> float:
    """The spread of the mean kernel of `draws` networks."""
    cosines = torch.from_numpy(ANGLES).cos()
    mean = torch.stack([network_kernel(scales, cosines, width, seed) for seed in range(draws)]).mean(0)
    normalised = mean[1:] / mean[0]
    return float(normalised.max() - normalised.min())


def measure(depths: Sequence[int] = DEPTHS, measured: Sequence[int] = MEASURED) -> list[Row]:
    """A row a scheme."""
    return [_row(scheme, depths, measured) for scheme in SCHEMES]


def _row(scheme: str, depths: Sequence[int], measured: Sequence[int]) -> Row:
    spreads = [kernel_spread(alphas(scheme, depth)) or math.nan for depth in depths]
    far = rntk(alphas(scheme, depths[-1]), [0.0]).normalised
    return Row(
        scheme=scheme,
        times=tuple(residual_time(alphas(scheme, depth)) for depth in depths),
        spreads=tuple(spreads),
        measured=tuple(network_spread(alphas(scheme, depth)) for depth in measured),
        slope=math.log(spreads[-1] / spreads[-2]) / math.log(depths[-1] / depths[-2]),
        far=math.nan if far is None else float(far[0]),
    )


def tell(rows: Sequence[Row]) -> str:
    """The table: spread, and in brackets that of networks."""
    header = ["alpha", *(f"L = {depth}" for depth in DEPTHS), "S at the last", "slope", "orthogonal inputs"]
    lines = []
    for row in rows:
        cells = [number(spread) for spread in row.spreads]
        for place, depth in enumerate(MEASURED):
            cells[DEPTHS.index(depth)] += f" ({number(row.measured[place])})"
        lines.append(
            [row.scheme, *cells, number(row.times[-1]), f"{round(row.slope, 2) + 0.0:.2f}", number(row.far, 4)]
        )
    return table(header, lines)


def draw(rows: Sequence[Row], path: str) -> None:
    """Spread against depth, and against residual time."""
    with picture(path, 2) as (left, right):
        for row in rows:
            (line,) = left.plot(DEPTHS, row.spreads, "-", label=row.scheme)
            left.plot(MEASURED, row.measured, "o", color=line.get_color())
            right.plot(row.times, row.spreads, "o", color=line.get_color())
        left.set(xscale="log", yscale="log", xlabel="blocks L", ylabel="kernel spread")
        left.set_title("line: infinite width, point: networks")
        right.set(xscale="log", yscale="log", xlabel="residual time S", title="all schemes, one curve")
        for axes in (left, right):
            axes.minorticks_off()
        left.figure.legend(*left.get_legend_handles_labels(), loc="outside right center", title="alpha")


if __name__ == "__main__":
    main("kernel", __doc__ or "", measure, tell, draw)
