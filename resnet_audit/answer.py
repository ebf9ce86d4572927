"""From what the flags say to an answer: audit, print or write the document, say what could not be done."""

from __future__ import annotations

import io
import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from resnet_audit.errors import AuditError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from resnet_audit.options import Common
    from resnet_audit.report import Outcome
    from resnet_audit.report.procrustes import Remedy
    from resnet_audit.results import Document
    from resnet_audit.settings import Settings


def show(
    command: str,
    models: Sequence[str] | None,
    analyses: list[str],
    shared: Common,
    settings: Settings | None = None,
    remedy: Remedy | None = None,
) -> None:
    """Audit, print the document, print the failures, exit with 0 or 2."""
    from resnet_audit.checkpoint import expand  # noqa: PLC0415 - commands import what they need
    from resnet_audit.report import empty  # noqa: PLC0415 - as above

    settings = settings or shared.settings
    try:
        if (complaint := settings.complaint()) is not None:
            raise UsageError(complaint)
        paths, notices = expand(list(models or ()))
        if remedy is not None:
            remedy.require(paths, settings)
        if command == "compare":
            paths, notices = _ready_to_compare(paths, notices, shared)
    except AuditError:
        if shared.format in {"json", "jsonl"}:
            _write(empty(command, settings), shared)
        raise
    if not shared.quiet:
        tell(notices)
    outcome = _audit(paths, command, analyses, shared, settings, remedy)
    _write(outcome.document, shared)
    if shared.figure is not None:
        _draw(outcome.document, shared.figure)
    if shared.debug:
        typer.echo("".join(outcome.tracebacks), err=True, nl=False)
    tell(outcome.failures)
    if outcome.failures:
        raise typer.Exit(2)


def _audit(
    paths: list[str],
    command: str,
    analyses: list[str],
    shared: Common,
    settings: Settings,
    remedy: Remedy | None,
) -> Outcome:
    from resnet_audit.render import console  # noqa: PLC0415 - commands import what they need
    from resnet_audit.render.progress import reporting  # noqa: PLC0415 - as above
    from resnet_audit.report import audit, compare_all  # noqa: PLC0415 - as above

    with reporting(console(sys.stderr), quiet=shared.quiet, verbose=shared.verbose) as progress:
        if command == "compare":
            return compare_all(paths, settings, progress=progress)
        return audit(paths, command, analyses, settings, progress=progress, analyse=remedy)


def _ready_to_compare(paths: list[str], notices: list[str], shared: Common) -> tuple[list[str], list[str]]:
    """The paths in order with all notices. Raises UsageError for too few, or a figure that cannot be drawn."""
    from resnet_audit.render.figure import require_figure  # noqa: PLC0415 - commands import what they need
    from resnet_audit.report.compare import in_order  # noqa: PLC0415 - as above

    if shared.figure is not None:
        require_figure(shared.figure)
    ordered, more = in_order(paths)
    return ordered, notices + more


def _draw(document: Document, path: str) -> None:
    """Write the figure of the document whole."""
    from resnet_audit.render import write_whole  # noqa: PLC0415 - commands import what they need
    from resnet_audit.render.figure import figure  # noqa: PLC0415 - as above

    write_whole(path, figure(document, path))


def _write(document: Document, shared: Common) -> None:
    """Print the document, or write it whole to the output file."""
    from resnet_audit.render import console, render, text_of, write_whole  # noqa: PLC0415 - commands import what they need

    if shared.output is not None:
        write_whole(shared.output, text_of(document, shared.format, wide=shared.wide))
        return
    with answering():
        if shared.format == "table":
            render(document, console(sys.stdout, wide=shared.wide))
            return
        # Every format but the table is UTF-8, whatever the terminal speaks.
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")
        sys.stdout.write(text_of(document, shared.format))


@contextmanager
def answering() -> Iterator[None]:
    """Whatever is printed inside is the answer: a reader that leaves is no error, a full disk is one."""
    try:
        yield
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


def tell(lines: Iterable[str]) -> None:
    """Print lines on stderr, one each: a path or a name in them cannot break the line or move the cursor."""
    from resnet_audit.render import clean  # noqa: PLC0415 - commands import what they need

    for line in lines:
        typer.echo(clean(" ".join(line.split()), sys.stderr.encoding or "utf-8"), err=True)
