"""The command line: parse, call, show, exit. torch is imported by the first command that needs it, never by --help."""

from __future__ import annotations

import atexit
import gc
import sys
import traceback
from dataclasses import replace
from importlib.metadata import version
from typing import Annotated

import typer
from typer.exceptions import TyperException

from resnet_audit import flags  # noqa: TC001 - typer reads the annotations when it builds the commands
from resnet_audit.answer import answering, show, tell
from resnet_audit.configured import configure, told
from resnet_audit.errors import AuditError
from resnet_audit.examples import epilog, flowing
from resnet_audit.options import Common, Models, with_common, with_many

app = typer.Typer(
    help="Audit a trained residual network from its checkpoint alone. Nothing in a checkpoint is ever executed.",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(asked: bool) -> None:  # noqa: FBT001 - how typer calls it
    if asked:
        typer.echo(f"resnet-audit {version('resnet-audit')}")
        raise typer.Exit


VERSION = Annotated[bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")]


@app.callback()
def root(context: typer.Context, *, show_version: VERSION = False) -> None:  # noqa: ARG001 - its callback acts
    """Audit a trained residual network from its checkpoint alone. Nothing in a checkpoint is ever executed."""
    configure(context)


@app.command()
@with_common
def graph(*, models: Models = None, shared: Common) -> None:
    """Residual blocks, shortcuts, and what had to be assumed.

    Every weight layer is in exactly one place: stem, a block's branch or shortcut, between blocks, head or unplaced. A
    checkpoint of weights holds no strides, pooling or activations: each such fact that was inferred is listed. Nothing
    is run.
    """
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
    """Covering numbers, the margin bound, Lipschitz constant and path norm.

    The covering number needs no data. --n-train and --data add the margin bound on the error, which is vacuous for
    every trained network seen so far: use it to compare models of one input shape. Beside it: where weight decay acts,
    and the measures of other studies.
    """
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
    """Singular values of every layer, and what every residual block does to a signal.

    Layers: all values of the convolution on its real grid, exact for circular padding, raw and with batch normalisation
    folded in; `at most` is certified for zero padding. Blocks: the Jacobian at a few inputs, measured.
    """
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
    """Gradient-norm ratio of every residual block.

    1 is norm preservation. Exact on the inputs used; `at most` is certified for every input, and loose. Without --data
    the inputs are 1/f noise.
    """
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
    """Exact distribution of the gradient over path depth.

    The parts of all depths add up to the gradient, which is checked against torch's own. Exact on the inputs used; what
    the weights alone predict stands beside it. Without --data the inputs are 1/f noise.
    """
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
    """How many layers every shortcut bypasses, and the Hessian where all branches are zero.

    Depths are counts; the Hessian is a closed form on the inputs used. --hessian measures the one at the checkpoint by
    Lanczos, which takes minutes on large networks.
    """
    show("shortcut", models, ["shortcut"], shared, replace(shared.settings, hessian=hessian))


@app.command()
@with_common
def scaling(*, models: Models = None, method: flags.METHOD = "auto", shared: Common) -> None:
    """How strong every branch is, the kernel that this predicts, and scales for a new run.

    Scales are exact on the inputs used, or come from the weights alone (--method weights); the kernel is a prediction
    for infinite width. The advice is for a new training run, it repairs no trained network.
    """
    show("scaling", models, ["scaling"], shared, replace(shared.settings, method=method))


@app.command()
@with_many
def report(*, models: Models = None, shared: Common) -> None:
    """All analyses in one document.

    What an analysis cannot do for a model is null with a note that says why, and the others are still given. --hessian
    is not among them.
    """
    from resnet_audit.report.registry import ANALYSES  # noqa: PLC0415 - commands import what they need

    show("report", models, list(ANALYSES), shared)


@app.command()
@with_many
def compare(*, models: Models = None, shared: Common) -> None:
    """A row a checkpoint in natural order, and how the numbers move along it.

    The order is that of epochs or depths in the names. A trend is a straight line with a 95 % interval, and checkpoints
    of one run are not independent: look at the course.
    """
    show("compare", models, [], shared)


@app.command()
@with_many
def check(  # noqa: PLR0913 - one parameter a flag
    *,
    context: typer.Context,
    models: Models = None,
    max: flags.MAX = None,  # noqa: A002 - the flag's name
    min: flags.MIN = None,  # noqa: A002 - the flag's name
    max_increase: flags.MAX_INCREASE = None,
    max_decrease: flags.MAX_DECREASE = None,
    ignore: flags.IGNORE = None,
    baseline: flags.BASELINE = None,
    update_baseline: flags.UPDATE_BASELINE = False,
    force: flags.FORCE = False,
    name: flags.NAME = None,
    shared: Common,
) -> None:
    """Hold numbers against limits and against a baseline: the only command that judges.

    A limit is on a path of the JSON, and on every element of the lists on the way. MODEL may be a finished report, or -
    for one on standard input: then nothing is computed. Only the analyses that the limits name are run.
    """
    from resnet_audit.judging import Asked, check_models  # noqa: PLC0415 - commands import what they need

    asked = Asked(
        limits={
            "max": max or (),
            "min": min or (),
            "max-increase": max_increase or (),
            "max-decrease": max_decrease or (),
        },
        ignored=ignore or (),
        baseline=baseline,
        update=update_baseline,
        force=force,
        name=name,
    )
    check_models(models, asked, context.obj, shared)


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
    """Make transition layers norm-preserving and write the model; --blocks chooses other blocks.

    All other tensors, their names and the wrapper stay as they are. The change is printed: singular values, the
    gradient ratio of the blocks and, with labelled --data, the accuracy. Exact on the circular grid.
    """
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
    """What a number means: formula, unit, source, how to read it. Without METRIC: the list of all.

    Every number of a document has a text, by its path in the JSON. certified: a proved bound; exact: up to rounding;
    estimate: sampled or one-sided; prediction: of a theory under its assumptions; assumed: what was put in.
    """
    from resnet_audit.explain import chapters, find  # noqa: PLC0415 - commands import what they need
    from resnet_audit.render import console  # noqa: PLC0415 - as above
    from resnet_audit.render.explain import render_found, render_list  # noqa: PLC0415 - as above

    with answering():
        if metric is None:
            render_list(chapters(), console(sys.stdout))
        else:
            render_found(find(metric), console(sys.stdout))


for _command in app.registered_commands:
    if _command.callback is not None:
        _command.help = flowing(_command.callback.__doc__ or "")
        _command.epilog = epilog(_command.callback.__name__)


def main() -> None:
    """Run the command line. Exit codes: 0 done, 2 it could not be done, 130 interrupted; 1 only of `check`."""
    # A last look for garbage among all objects of torch is a third of the time of a short command.
    atexit.register(gc.freeze)
    try:
        # typer answers an interrupt with the code 130.
        code = app(standalone_mode=False) or 0
    except TyperException as error:
        code = _refuse(told(error))
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
    tell([message] if message else [])
    return 2
