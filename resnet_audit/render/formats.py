"""A document as the text of a format: one table of who writes which."""

from __future__ import annotations

import importlib
import io
from typing import TYPE_CHECKING, cast

from .console import console
from .tables import render

if TYPE_CHECKING:
    from collections.abc import Callable

    from resnet_audit.results import Document

WRITERS = {
    "json": "resnet_audit.render.json:to_json",
    "jsonl": "resnet_audit.render.json:to_jsonl",
    "markdown": "resnet_audit.render.markdown:to_markdown",
    "html": "resnet_audit.render.html:to_html",
    "sarif": "resnet_audit.render.sarif:to_sarif",
    "junit": "resnet_audit.render.junit:to_junit",
    "github": "resnet_audit.render.github:to_github",
}
"""`writer(document) -> text` of every format but the table; each is imported when it is asked for."""


def text_of(document: Document, form: str, *, wide: bool = False) -> str:
    """The whole text of a document in a format. Raises KeyError for a format that is none."""
    if form == "table":
        text = io.StringIO()
        render(document, console(text, wide=wide))
        return text.getvalue()
    module, _, function = WRITERS[form].partition(":")
    return cast("Callable[[Document], str]", getattr(importlib.import_module(module), function))(document)
