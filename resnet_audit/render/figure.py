"""A document as a picture in a file: which commands have one, in which formats. Needs the extra `plot`."""

from __future__ import annotations

import io
from importlib.util import find_spec
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from resnet_audit.errors import AuditError, UsageError

from .charts import charts_of
from .outline import chapter_of
from .parts import Look

if TYPE_CHECKING:
    from collections.abc import Iterator

    from resnet_audit.results import Document

    from .charts import Chart

FORMATS = {".svg": "svg", ".pdf": "pdf", ".png": "png"}
METADATA: dict[str, dict[str, None]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}
"""What says when a file was made, left out: the same document gives the same bytes."""

OWN_STYLE: Any = {
    "svg.hashsalt": "resnet-audit",
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
}

COMMANDS = ("graph", "bound", "spectrum", "gradient", "ensemble", "shortcut", "scaling", "report", "compare")
"""Commands whose documents have a picture."""

DPI = 150
TALLEST = 400.0
"""Inches of the tallest picture in one piece: drawing libraries end at 65,536 pixels."""


def require_figure(path: str, command: str) -> None:
    """Raises UsageError unless a command has a figure and it can be written in the format that `path` names."""
    if command not in COMMANDS:
        raise UsageError(f"--figure {path}: {command} has no figure; leave the flag out, or draw {', '.join(COMMANDS)}")
    if PurePath(path).suffix not in FORMATS:
        raise UsageError(f"--figure {path}: the suffix is none of {', '.join(FORMATS)}; name the format by one of them")
    if find_spec("matplotlib") is None:
        raise UsageError(f"--figure {path}: matplotlib is not installed; pip install 'resnet-audit[plot]' brings it")


def figure(document: Document, path: str) -> bytes:
    """The figure of a document in the format of the suffix of `path`: a sheet a checkpoint, or the comparison.

    A PDF has a page a checkpoint. Raises AuditError where there is nothing to draw, or too much for one picture.
    """
    from matplotlib import rc_context, style  # noqa: PLC0415 - an extra, and slow to import

    with style.context("default", after_reset=True), rc_context(OWN_STYLE):
        return _saved(_drawn(document, path), FORMATS[PurePath(path).suffix])


def _drawn(document: Document, path: str) -> list[Any]:
    from .figures import comparison_figure, sheet_figures  # noqa: PLC0415 - they import matplotlib

    comparison = document.get("comparison")
    if comparison is not None:
        if not comparison.rows:
            raise AuditError(f"{path}: no checkpoint could be compared; there is nothing to draw; see the lines above")
        return [comparison_figure(comparison, document["checkpoints"])]
    sheets = list(_sheets(document))
    if not sheets:
        raise AuditError(f"{path}: no checkpoint has anything to draw; the answer says why; leave --figure out")
    drawn: list[Any] = sheet_figures(sheets, together=not path.endswith(".pdf"))
    if any(one.get_figheight() > TALLEST for one in drawn):
        raise AuditError(f"{path}: too tall for one picture; it could not be saved; name a .pdf or fewer checkpoints")
    return drawn


def _sheets(document: Document) -> Iterator[tuple[str, tuple[Chart, ...]]]:
    """Every checkpoint that has anything to draw; the graph only where it was asked for."""
    look = Look(ascii_only=False, blocks=tuple(document["settings"]["blocks"]))
    for entry in document["checkpoints"]:
        sections = chapter_of(entry, document["command"], look).sections
        charts = tuple(chart for s in sections if s.result is not None for chart in charts_of(s.result))
        if charts:
            yield entry["path"], charts


def _saved(drawn: list[Any], kind: str) -> bytes:
    target = io.BytesIO()
    if kind == "pdf":
        from matplotlib.backends.backend_pdf import PdfPages  # noqa: PLC0415 - as above

        with PdfPages(target, metadata=METADATA[kind]) as pages:
            for one in drawn:
                pages.savefig(one)
    else:
        (one,) = drawn
        one.savefig(target, format=kind, dpi=DPI, metadata=METADATA[kind])
    return target.getvalue()
