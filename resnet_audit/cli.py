"""The command line: parse, call, show, exit. torch is imported by the first command that needs it, never by --help."""

from __future__ import annotations

import io
import os
import sys
import traceback
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated

import typer
from typer.exceptions import TyperException

from resnet_audit.errors import AuditError, UsageError
from resnet_audit.options import Common, Models, with_common
from resnet_audit.settings import Objective, Preset, Unit

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from resnet_audit.report import Outcome
    from resnet_audit.results import Document
    from resnet_audit.settings import Settings

app = typer.Typer(
    help="Audit a trained residual network from its checkpoint alone. Nothing in a checkpoint is ever executed.",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

LATER = ("--figure", "--workers", "--dask", "--resume", "--recalibrate", "--veit", "--reference")
LATER_COMMANDS = ("shortcut", "scaling", "compare", "check", "procrustes", "explain")
"""Promised flags and commands that this version does not have: it says so instead of guessing at a typing error."""

N_TRAIN = Annotated[int | None, typer.Option("--n-train", min=1, help="Number of training examples.")]
X_RMS = Annotated[float, typer.Option("--x-rms", help="Root mean square of one input entry.")]
MARGIN = Annotated[float, typer.Option("--margin", help="Margin of the bound.")]
EPSILON = Annotated[float | None, typer.Option("--epsilon", help="Resolution of the cover; default sqrt(N).")]
DELTA = Annotated[float, typer.Option("--delta", help="Probability that the bound may fail.")]
PRESET = Annotated[Preset, typer.Option("--preset", help="paper: constants as published.")]
OBJECTIVE = Annotated[Objective, typer.Option("--objective", help="What the gradient is of.")]
FAST = Annotated[bool, typer.Option("--fast", help="Extremes and norms only; of matrices an estimate from below.")]
UNIT = Annotated[Unit, typer.Option("--unit", help="What depth counts.")]


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
    _show("graph", models, [], shared)


@app.command()
@with_common
def bound(  # noqa: PLR0913 - one parameter a flag
    *,
    models: Models = None,
    n_train: N_TRAIN = None,
    x_rms: X_RMS = 1.0,
    margin: MARGIN = 1.0,
    epsilon: EPSILON = None,
    delta: DELTA = 0.01,
    preset: PRESET = "paper",
    shared: Common,
) -> None:
    """Covering numbers, the margin bound, Lipschitz constant and path norm."""
    settings = replace(
        shared.settings, n_train=n_train, x_rms=x_rms, margin=margin, epsilon=epsilon, delta=delta, preset=preset
    )
    _show("bound", models, ["bound"], shared, settings)


@app.command()
@with_common
def spectrum(*, models: Models = None, fast: FAST = False, shared: Common) -> None:
    """Singular values of every layer, and certified bounds of every residual block."""
    _show("spectrum", models, ["spectrum"], shared, replace(shared.settings, fast=fast))


@app.command()
@with_common
def gradient(*, models: Models = None, objective: OBJECTIVE = "logit", shared: Common) -> None:
    """Gradient-norm ratio of every residual block."""
    _show("gradient", models, ["gradient"], shared, replace(shared.settings, objective=objective))


@app.command()
@with_common
def ensemble(*, models: Models = None, objective: OBJECTIVE = "logit", unit: UNIT = "blocks", shared: Common) -> None:
    """Exact distribution of the gradient over path depth."""
    _show("ensemble", models, ["ensemble"], shared, replace(shared.settings, objective=objective, unit=unit))


@app.command()
@with_common
def report(*, models: Models = None, shared: Common) -> None:
    """All analyses in one document."""
    from resnet_audit.report.registry import ANALYSES  # noqa: PLC0415 - commands import what they need

    _show("report", models, list(ANALYSES), shared)


@app.command()
def schema() -> None:
    """The JSON Schema of what every command prints with --format json."""
    from resnet_audit.report.schema import schema_text  # noqa: PLC0415 - commands import what they need

    typer.echo(schema_text(), nl=False)


def _show(
    command: str, models: Sequence[str] | None, analyses: list[str], shared: Common, settings: Settings | None = None
) -> None:
    """Audit, print the document, print the failures, exit with 0 or 2."""
    from resnet_audit.checkpoint import expand  # noqa: PLC0415 - commands import what they need
    from resnet_audit.report import empty  # noqa: PLC0415 - as above

    settings = settings or shared.settings
    try:
        if (complaint := settings.complaint()) is not None:
            raise UsageError(complaint)
        paths, notices = expand(list(models or ()))
    except AuditError:
        if shared.format == "json":
            _write(empty(command, settings), shared)
        raise
    if not shared.quiet:
        _tell(notices)
    outcome = _audit(paths, command, analyses, shared, settings)
    _write(outcome.document, shared)
    if shared.debug:
        typer.echo("".join(outcome.tracebacks), err=True, nl=False)
    _tell(outcome.failures)
    if outcome.failures:
        raise typer.Exit(2)


def _audit(paths: list[str], command: str, analyses: list[str], shared: Common, settings: Settings) -> Outcome:
    from resnet_audit.render import console  # noqa: PLC0415 - commands import what they need
    from resnet_audit.render.progress import reporting  # noqa: PLC0415 - as above
    from resnet_audit.report import audit  # noqa: PLC0415 - as above

    with reporting(console(sys.stderr), quiet=shared.quiet, verbose=shared.verbose) as progress:
        return audit(paths, command, analyses, settings, progress=progress)


def _write(document: Document, shared: Common) -> None:
    """Print the document, or write it whole to the output file."""
    from resnet_audit.render import console, render, to_json, write_whole  # noqa: PLC0415 - commands import what they need

    if shared.output is not None:
        text = io.StringIO()
        if shared.format == "table":
            render(document, console(text, wide=shared.wide))
        write_whole(shared.output, to_json(document) if shared.format == "json" else text.getvalue())
        return
    try:
        if shared.format == "json":
            # JSON is UTF-8 whatever the terminal speaks.
            if isinstance(sys.stdout, io.TextIOWrapper):
                sys.stdout.reconfigure(encoding="utf-8")
            sys.stdout.write(to_json(document))
        else:
            render(document, console(sys.stdout, wide=shared.wide))
        sys.stdout.flush()
    except BrokenPipeError:
        _close_stdout()
    except OSError as error:
        _close_stdout()
        reason = (error.strerror or "unwritable").lower()
        raise AuditError(f"standard output: {reason}; the answer is incomplete; write it elsewhere with -o") from None


def _close_stdout() -> None:
    """Send what is left to nowhere: the interpreter must not flush into a closed pipe or a full disk again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _tell(lines: Iterable[str]) -> None:
    """Print lines on stderr, one each: a path or a name in them cannot break the line or move the cursor."""
    from resnet_audit.render import clean  # noqa: PLC0415 - commands import what they need

    for line in lines:
        typer.echo(clean(" ".join(line.split()), sys.stderr.encoding or "utf-8"), err=True)


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
    _tell([message] if message else [])
    return 2
