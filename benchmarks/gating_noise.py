"""How much each number that one might gate on moves when the model does not: over seeds, inputs and their count.

    python benchmarks/gating_noise.py [--checkpoints FOLDER] [--write]

Audits a sample with seeded 1/f noise from five seeds, 32 and 128 images, and with five disjoint parts of 32 held-out
digits; beside them two epochs of the same run, which is what a real change looks like, and, where FOLDER has them, two
CIFAR ResNets with noise from five seeds. Spread is the standard deviation over the mean, in percent; of a logarithm the
change is in decades. `--write` puts the table between the markers of docs/gating.md. Some minutes on one core.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from resnet_audit import Settings, bound, discover, ensemble, gradient, load, scaling, shortcut, spectrum

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from resnet_audit import ResidualGraph

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "gating.md"
BEGIN, END = "<!-- noise: begin -->", "<!-- noise: end -->"
SAMPLES = ROOT / "sample_checkpoints"
SEEDS = range(5)
PART = 32

Values = dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One way to audit again what has not changed: a column of the table."""

    name: str
    runs: tuple[Values, ...]


METRICS: Mapping[str, Callable[[ResidualGraph, Settings], Values]] = {
    "spectrum": lambda graph, settings: {"sigma_max": spectrum(graph, settings).sigma_max or 0.0},
    "bound": lambda graph, settings: {
        "covers.operator.log10_spectral_complexity": (
            found := bound(graph, settings)
        ).covers.operator.log10_spectral_complexity,
        "log10_lipschitz": found.log10_lipschitz,
    },
    "gradient": lambda graph, settings: {
        "ratio_median": (found := gradient(graph, settings)).ratio_median or 0.0,
        "ratio_worst": found.ratio_worst,
        "ratio_product": found.ratio_product,
        "c_hat": found.c_hat or 0.0,
    },
    "ensemble": lambda graph, settings: {
        "depth_mean": (found := ensemble(graph, settings)).depth_mean,
        "projection_mean": found.projection_mean,
        "cancellation": found.cancellation,
        "identity_residual": found.identity_residual,
    },
    "shortcut": lambda graph, settings: {
        "zero_hessian.sigma_max": max(one.sigma_max for one in shortcut(graph, settings).zero_hessian)
    },
    "scaling": lambda graph, settings: {
        "residual_time": (found := scaling(graph, settings)).residual_time,
        "spread_relative": found.spread_relative or 0.0,
    },
}


def measured(graph: ResidualGraph, settings: Settings) -> Values:
    """All candidates of one audit, by metric path."""
    return {f"{name}.{leaf}": value for name, of in METRICS.items() for leaf, value in of(graph, settings).items()}


def graph_of(path: Path, size: tuple[int, ...]) -> ResidualGraph:
    """The graph of a checkpoint at an input size."""
    return discover(load(str(path)), Settings(input_size=size))


def over_seeds(path: Path, size: tuple[int, ...], samples: int = PART) -> Case:
    """The same checkpoint on 1/f noise from five seeds."""
    graph = graph_of(path, size)
    runs = tuple(measured(graph, Settings(seed=seed, samples=samples, threads=1)) for seed in SEEDS)
    return Case(name=f"{path.stem}: {samples} noise images, five seeds", runs=runs)


def over_parts(path: Path) -> Case:
    """The same checkpoint on five disjoint parts of the held-out digits."""
    graph = graph_of(path, (1, 8, 8))
    with np.load(SAMPLES / "digits.npz", allow_pickle=False) as data, tempfile.TemporaryDirectory() as folder:
        inputs, labels = data["inputs"], data["labels"]

        def runs() -> Iterator[Values]:
            for part in SEEDS:
                rows = slice(part * PART, (part + 1) * PART)
                file = Path(folder, f"{part}.npz")
                np.savez(file, inputs=inputs[rows], labels=labels[rows])
                yield measured(graph, Settings(data=str(file), samples=PART, threads=1))

        return Case(name=f"{path.stem}: five parts of {PART} digits", runs=tuple(runs()))


def over_epochs() -> Case:
    """Two epochs of one run on the same digits: a change that is real."""
    settings = Settings(data=str(SAMPLES / "digits.npz"), samples=PART, threads=1)
    paths = [SAMPLES / "digits_resnet" / f"epoch{epoch}.pt" for epoch in (16, 24)]
    return Case(
        name="epoch16 to epoch24, same 32 digits",
        runs=tuple(measured(graph_of(path, (1, 8, 8)), settings) for path in paths),
    )


def spread(case: Case, metric: str) -> str:
    """Standard deviation over mean in percent; of two epochs the change in percent."""
    values = [run[metric] for run in case.runs]
    mean = statistics.fmean(values)
    if metric.endswith("identity_residual"):
        return f"{max(values):.0e} at most"
    if max(values) == min(values):
        return "0"
    if len(values) == 2 and "log10_" in metric:
        return f"{values[1] - values[0]:+.2g} decades"
    if len(values) == 2:
        return f"{100 * (values[1] - values[0]) / abs(values[0]):+.2g} %"
    return f"{100 * statistics.stdev(values) / abs(mean):.2g} %"


def table(cases: list[Case]) -> str:
    """The table of the page: a row a metric, a column a case."""
    head = ["metric", "value", *(case.name for case in cases)]
    rows = [
        [f"`{metric}`", f"{value:.3g}", *(spread(case, metric) for case in cases)]
        for metric, value in cases[0].runs[0].items()
    ]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Measure, print the table, and write it if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoints", type=Path, help="folder with resnet20.th and resnet56.th")
    parser.add_argument("--write", action="store_true", help="put the table into docs/gating.md")
    given = parser.parse_args()
    sample = SAMPLES / "digits_resnet" / "epoch24.pt"
    cases = [over_seeds(sample, (1, 8, 8)), over_seeds(sample, (1, 8, 8), 4 * PART), over_parts(sample), over_epochs()]
    if given.checkpoints:
        cases.extend(over_seeds(given.checkpoints / f"{name}.th", (3, 32, 32)) for name in ("resnet20", "resnet56"))
    made = table(cases)
    print(made)
    if given.write:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{made}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
