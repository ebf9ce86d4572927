"""From what the flags say to an answer: audit, print or write the document, say what could not be done."""

from __future__ import annotations

import io
import os
import sys
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import typer

from resnet_audit.errors import AuditError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from resnet_audit.options import Common
    from resnet_audit.report import Outcome
    from resnet_audit.report.procrustes import Remedy
    from resnet_audit.report.report import One
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

    shared = shared if settings is None else replace(shared, settings=settings)
    lines = _Lines(command, shared)
    try:
        if (complaint := shared.settings.complaint()) is not None:
            raise UsageError(complaint)
        if shared.figure is not None:
            from resnet_audit.render.figure import require_figure  # noqa: PLC0415 - as above

            require_figure(shared.figure, command)
        paths, notices = expand(list(models or ()))
        if remedy is not None:
            remedy.require(paths, shared.settings)
        if command == "compare":
            paths, notices = _ready_to_compare(paths, notices)
        if not shared.quiet:
            tell(notices)
        outcome = audited(paths, command, analyses, shared, remedy, lines.add)
    except AuditError:
        if shared.format == "jsonl":
            lines.end(empty(command, shared.settings))
        elif shared.format == "json":
            write(empty(command, shared.settings), shared)
        raise
    if shared.format == "jsonl":
        lines.end(outcome.document)
    else:
        write(outcome.document, shared)
    trace(outcome, shared)
    tell(outcome.failures)
    if shared.figure is not None:
        _draw(outcome.document, shared.figure)
    if outcome.failures:
        raise typer.Exit(2)


def audited(
    paths: list[str],
    command: str,
    analyses: list[str],
    shared: Common,
    remedy: Remedy | None = None,
    done: Callable[[One], None] | None = None,
) -> Outcome:
    """What the command finds at the paths, with progress on stderr; `done` gets each result in their order."""
    from resnet_audit.render import console  # noqa: PLC0415 - commands import what they need
    from resnet_audit.render.json import to_jsonl  # noqa: PLC0415 - as above
    from resnet_audit.render.progress import reporting  # noqa: PLC0415 - as above
    from resnet_audit.report import Watch, Work, audit_all, compare_all, nobody, registered  # noqa: PLC0415 - as above

    with reporting(console(sys.stderr), quiet=shared.quiet, verbose=shared.verbose) as progress:
        watch = Watch(progress=progress, done=done or nobody, line=to_jsonl)
        if command == "compare":
            return compare_all(paths, shared.settings, many=shared.many, watch=watch)
        work = Work(analyses=tuple(analyses), settings=shared.settings, analyse=remedy or registered)
        return audit_all(paths, command, work, many=shared.many, watch=watch)


class _Lines:
    """The answer in the format jsonl, each line as soon as it is there: an interrupted run leaves whole ones."""

    def __init__(self, command: str, shared: Common) -> None:
        from resnet_audit.report import empty  # noqa: PLC0415 - commands import what they need

        self.shared, self.shell = shared, empty(command, shared.settings)
        self.begun = False
        self.failures: list[str] = []

    def add(self, one: One) -> None:
        """Print the line of a result, in this format only."""
        self.failures += [one.failure] if one.failure is not None else []
        if self.shared.format == "jsonl":
            self._put({**self.shell, "checkpoints": [one.entry]})

    def end(self, document: Document) -> None:
        """Print what is beside the checkpoints, or that there are none."""
        from resnet_audit.render.json import BESIDE  # noqa: PLC0415 - commands import what they need

        if not document["checkpoints"] or any(key in document for key in BESIDE):
            self._put({**document, "checkpoints": []})

    def _put(self, document: Document) -> None:
        from resnet_audit.render import text_of  # noqa: PLC0415 - commands import what they need
        from resnet_audit.render.files import append_whole  # noqa: PLC0415 - as above

        text = text_of(document, "jsonl")
        if self.shared.output is not None:
            append_whole(self.shared.output, text, new=not self.begun)
        elif not _said(text):
            # Nobody reads what is still to come.
            tell(self.failures)
            raise typer.Exit(2 if self.failures else 0)
        self.begun = True


def _ready_to_compare(paths: list[str], notices: list[str]) -> tuple[list[str], list[str]]:
    """The paths in order with all notices. Raises UsageError for too few."""
    from resnet_audit.report.compare import in_order  # noqa: PLC0415 - commands import what they need

    ordered, more = in_order(paths)
    return ordered, notices + more


def _draw(document: Document, path: str) -> None:
    """Write the figure of the document whole."""
    from resnet_audit.render import write_whole  # noqa: PLC0415 - commands import what they need
    from resnet_audit.render.figure import figure  # noqa: PLC0415 - as above

    write_whole(path, figure(document, path))


def write(document: Document, shared: Common) -> None:
    """Print the document, or write it whole to the output file."""
    from resnet_audit.render import console, render, text_of, write_whole  # noqa: PLC0415 - commands import what they need

    if shared.output is not None:
        write_whole(shared.output, text_of(document, shared.format, wide=shared.wide))
        return
    if shared.format != "table":
        _said(text_of(document, shared.format))
        return
    with answering():
        render(document, console(sys.stdout, wide=shared.wide))


def _said(text: str) -> bool:
    """Whether a reader was there for it. Every format but the table is UTF-8, whatever the terminal speaks."""
    try:
        with _writing():
            if isinstance(sys.stdout, io.TextIOWrapper):
                sys.stdout.reconfigure(encoding="utf-8")
            sys.stdout.write(text)
    except BrokenPipeError:
        _close_stdout()
        return False
    return True


def trace(outcome: Outcome, shared: Common) -> None:
    """Print where each file failed, for whoever asked with `--debug`."""
    if shared.debug:
        typer.echo("".join(outcome.tracebacks), err=True, nl=False)


@contextmanager
def answering() -> Iterator[None]:
    """Whatever is printed inside is the answer: a reader that leaves is no error, a full disk is one."""
    try:
        with _writing():
            yield
    except BrokenPipeError:
        _close_stdout()


@contextmanager
def _writing() -> Iterator[None]:
    """Raises BrokenPipeError where the reader has left, AuditError where the answer cannot be written."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        raise
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
