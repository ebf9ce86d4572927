"""The command line: parse, call, show, exit. torch is imported by the first command that needs it, never by --help."""

from __future__ import annotations

import sys
import traceback
from dataclasses import replace
from importlib.metadata import version
from typing import Annotated

import typer
from typer.exceptions import TyperException

from resnet_audit import flags  # noqa: TC001 - typer reads the annotations when it builds the commands
from resnet_audit.answer import answering, show, tell
from resnet_audit.errors import AuditError
from resnet_audit.options import Common, Models, with_common

app = typer.Typer(
    help="Audit a trained residual network from its checkpoint alone. Nothing in a checkpoint is ever executed.",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

LATER = ("--workers", "--dask", "--resume")
LATER_COMMANDS = ("check",)
"""Promised flags and commands that this version does not have: it says so instead of guessing at a typing error."""


def _print_version(asked: bool) -> None:  # noqa: FBT001 - how typer calls it
    if asked:
        typer.echo(f"resnet-audit {version('resnet-audit')}")
        raise typer.Exit


VERSION = Annotated[bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")]


@app.callback()
def root(*, show_version: VERSION = False) -> None:
    """Audit a trained residual network from its checkpoint alone. Nothing in a checkpoint is ever executed."""


@app.command()
@with_common
def graph(*, models: Models = None, shared: Common) -> None:
    """Residual blocks, shortcuts, and what had to be assumed."""
    show("graph", models, [], shared)


@app.command()
@with_common
def bound(  # noqa: PLR0913 - one parameter a flag
    *,
    models: Models = None,
    n_train: flags.N_TRAIN = None,
    x_rms: flags.X_RMS = None,
    margin: flags.MARGIN = 1.0,
    epsilon: flags.EPSILON = None,
    delta: flags.DELTA = 0.01,
    preset: flags.PRESET = "paper",
    reference: flags.REFERENCE = None,
    shared: Common,
) -> None:
    """Covering numbers, the margin bound, Lipschitz constant and path norm."""
    settings = replace(
        shared.settings,
        n_train=n_train,
        x_rms=x_rms,
        margin=margin,
        epsilon=epsilon,
        delta=delta,
        preset=preset,
        reference=reference,
    )
    show("bound", models, ["bound"], shared, settings)


@app.command()
@with_common
def spectrum(*, models: Models = None, fast: flags.FAST = False, shared: Common) -> None:
    """Singular values of every layer, and what every residual block does to a signal."""
    show("spectrum", models, ["spectrum"], shared, replace(shared.settings, fast=fast))


@app.command()
@with_common
def gradient(
    *,
    models: Models = None,
    objective: flags.OBJECTIVE = "logit",
    recalibrate: flags.RECALIBRATE = False,
    shared: Common,
) -> None:
    """Gradient-norm ratio of every residual block."""
    settings = replace(shared.settings, objective=objective, recalibrate=recalibrate)
    show("gradient", models, ["gradient"], shared, settings)


@app.command()
@with_common
def ensemble(  # noqa: PLR0913 - one parameter a flag
    *,
    models: Models = None,
    objective: flags.OBJECTIVE = "logit",
    unit: flags.UNIT = "blocks",
    fast: flags.MEANS_ONLY = False,
    veit: flags.VEIT = False,
    max_depth: flags.MAX_DEPTH = None,
    recalibrate: flags.RECALIBRATE = False,
    shared: Common,
) -> None:
    """Exact distribution of the gradient over path depth."""
    settings = replace(
        shared.settings,
        objective=objective,
        unit=unit,
        fast=fast,
        veit=veit,
        max_depth=max_depth,
        recalibrate=recalibrate,
    )
    show("ensemble", models, ["ensemble"], shared, settings)


@app.command()
@with_common
def shortcut(*, models: Models = None, hessian: flags.HESSIAN = False, shared: Common) -> None:
    """How many layers every shortcut bypasses, and the Hessian where all branches are zero."""
    show("shortcut", models, ["shortcut"], shared, replace(shared.settings, hessian=hessian))


@app.command()
@with_common
def scaling(*, models: Models = None, method: flags.METHOD = "auto", shared: Common) -> None:
    """How strong every branch is, the kernel that this predicts, and scales for a new run."""
    show("scaling", models, ["scaling"], shared, replace(shared.settings, method=method))


@app.command()
@with_common
def report(*, models: Models = None, shared: Common) -> None:
    """All analyses in one document."""
    from resnet_audit.report.registry import ANALYSES  # noqa: PLC0415 - commands import what they need

    show("report", models, list(ANALYSES), shared)


@app.command()
@with_common
def compare(*, models: Models = None, shared: Common) -> None:
    """A row a checkpoint in natural order, and how the numbers move along it."""
    show("compare", models, [], shared)


@app.command()
@with_common
def procrustes(
    *,
    models: Models = None,
    output: flags.MODEL_OUT,
    target: flags.TARGET = "auto",
    iterations: flags.ITERATIONS = 30,
    shared: Common,
) -> None:
    """Make transition layers norm-preserving and write the model; --blocks chooses other blocks."""
    from resnet_audit.report.procrustes import Remedy, target_of  # noqa: PLC0415 - commands import what they need

    remedy = Remedy(output=output, target=target_of(target), iterations=iterations)
    show("procrustes", models, ["procrustes"], shared, remedy=remedy)


@app.command()
def schema() -> None:
    """The JSON Schema of what every command prints with --format json."""
    from resnet_audit.report.schema import schema_text  # noqa: PLC0415 - commands import what they need

    typer.echo(schema_text(), nl=False)


@app.command()
def explain(metric: flags.METRIC = None) -> None:
    """What a number means: formula, unit, source, how to read it. Without METRIC: the list of all."""
    from resnet_audit.explain import chapters, find  # noqa: PLC0415 - commands import what they need
    from resnet_audit.render import console  # noqa: PLC0415 - as above
    from resnet_audit.render.explain import render_found, render_list  # noqa: PLC0415 - as above

    with answering():
        if metric is None:
            render_list(chapters(), console(sys.stdout))
        else:
            render_found(find(metric), console(sys.stdout))


def main() -> None:
    """Run the command line. Exit codes: 0 done, 2 it could not be done, 130 interrupted; 1 is left to `check`."""
    try:
        # typer answers an interrupt with the code 130.
        code = app(standalone_mode=False) or 0
    except TyperException as error:
        code = _refuse(error.format_message())
    except AuditError as error:
        code = _refuse(str(error))
    except (typer.Abort, KeyboardInterrupt):
        code = 130
    except SystemExit as stop:
        # typer exits with 1 when the reader of a help text has gone away.
        gone = isinstance(stop.__context__, BrokenPipeError)
        code = 0 if gone or not stop.code else 2
    except BaseException as error:  # noqa: BLE001 - no defect of ours may look like a verdict of `check`
        if "--debug" in sys.argv:
            traceback.print_exc()
        code = _refuse(f"internal error ({type(error).__name__}: {error}); this is a defect; --debug shows where")
    if code == 130:
        typer.echo("interrupted", err=True)
    sys.exit(code)


def _refuse(message: str) -> int:
    """One line on stderr; the exit code of everything that could not be done."""
    asked = [word.partition("=")[0] for word in sys.argv[1:]]
    for later in LATER:
        if later in asked and message.startswith("No such option"):
            message = f"{later} is not in this version of resnet-audit; --help lists what is"
    if message.startswith("No such command") and asked and asked[0] in LATER_COMMANDS:
        message = f"the command {asked[0]} is not in this version of resnet-audit; --help lists what is"
    tell([message] if message else [])
    return 2
