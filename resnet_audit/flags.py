"""The flags that belong to single commands, declared once: what typer parses and what --help says."""

from __future__ import annotations

from typing import Annotated

import typer

from resnet_audit.settings import Objective, Preset, ScaleMethod, Unit

N_TRAIN = Annotated[int | None, typer.Option("--n-train", min=1, help="Number of training examples.")]
X_RMS = Annotated[
    float | None, typer.Option("--x-rms", help="Root mean square of one input entry; default: that of --data, else 1.")
]
MARGIN = Annotated[float, typer.Option("--margin", help="Margin of the bound.")]
EPSILON = Annotated[float | None, typer.Option("--epsilon", help="Resolution of the cover; default sqrt(N).")]
DELTA = Annotated[float, typer.Option("--delta", help="Probability that the bound may fail.")]
PRESET = Annotated[Preset, typer.Option("--preset", help="paper: constants as published; strict: every step proved.")]
REFERENCE = Annotated[
    str | None, typer.Option("--reference", metavar="FILE", help="Measure norms from these weights, such as the start.")
]
OBJECTIVE = Annotated[Objective, typer.Option("--objective", help="What the gradient is of.")]
RECALIBRATE = Annotated[
    bool, typer.Option("--recalibrate", help="Measure the batch statistics anew, on all of --data.")
]
FAST = Annotated[bool, typer.Option("--fast", help="Extremes and norms only; of matrices an estimate from below.")]
UNIT = Annotated[Unit, typer.Option("--unit", help="What depth counts.")]
MEANS_ONLY = Annotated[
    bool, typer.Option("--fast", help="Mean and spread of the projections alone: three cotangents whatever the depth.")
]
VEIT = Annotated[bool, typer.Option("--veit", help="Beside it the sampled statistics: Veit's paths, random signs.")]
MAX_DEPTH = Annotated[
    int | None, typer.Option("--max-depth", min=0, help="Cut there; missing_mass says what is left out.")
]
METHOD = Annotated[ScaleMethod, typer.Option("--method", help="auto: measured where the network runs, else weights.")]
HESSIAN = Annotated[
    bool, typer.Option("--hessian", help="Measure it at the checkpoint too; of the blocks of --blocks, if given.")
]
MODEL_OUT = Annotated[
    str, typer.Option("-o", "--output", metavar="OUT", help="The model to write (.safetensors, .pt, .pth, .th, ...).")
]
TARGET = Annotated[
    str, typer.Option("--target", metavar="auto|rms|NUMBER", help="Singular value; auto keeps the norm of gradients.")
]
ITERATIONS = Annotated[int, typer.Option("--iterations", min=1, help="Alternations of isometry and kernel support.")]
METRIC = Annotated[
    str | None, typer.Argument(metavar="METRIC", help="Its path in the JSON, such as bound.tail, or an analysis.")
]

LIMITS = "Limits"
MAX = Annotated[
    list[str] | None,
    typer.Option("--max", metavar="PATH=NUM", help="Every number there is at most this.", rich_help_panel=LIMITS),
]
MIN = Annotated[
    list[str] | None,
    typer.Option("--min", metavar="PATH=NUM", help="Every number there is at least this.", rich_help_panel=LIMITS),
]
MAX_INCREASE = Annotated[
    list[str] | None,
    typer.Option(
        "--max-increase", metavar="PATH=NUM[%]", help="At most this above the baseline.", rich_help_panel=LIMITS
    ),
]
MAX_DECREASE = Annotated[
    list[str] | None,
    typer.Option(
        "--max-decrease", metavar="PATH=NUM[%]", help="At most this below the baseline.", rich_help_panel=LIMITS
    ),
]
IGNORE = Annotated[
    list[str] | None,
    typer.Option("--ignore", metavar="PATH[NAME]", help="Not judged, at names that match.", rich_help_panel=LIMITS),
]
BASELINE = Annotated[
    str | None,
    typer.Option("--baseline", metavar="FILE", help="Numbers of an earlier run, as JSON.", rich_help_panel=LIMITS),
]
UPDATE_BASELINE = Annotated[
    bool,
    typer.Option("--update-baseline", help="Record what is new and what got better there.", rich_help_panel=LIMITS),
]
FORCE = Annotated[bool, typer.Option("--force", help="With it: record what got worse too.", rich_help_panel=LIMITS)]
NAME = Annotated[
    str | None,
    typer.Option(
        "--name", metavar="NAME", help="Of the checkpoint in the baseline; default: its stem.", rich_help_panel=LIMITS
    ),
]
