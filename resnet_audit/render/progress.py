"""Progress on stderr: a bar on a terminal once a computation lasts, plain lines elsewhere when asked for."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from resnet_audit.settings import Progress as Callback

PATIENCE = 1.0
"""Seconds before a bar appears: what is over sooner needs none."""


@contextmanager
def reporting(console: Console, *, quiet: bool, verbose: bool) -> Iterator[Callback]:
    """A progress callback that may be called from any thread; whatever it drew is gone afterwards."""
    bar = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), console=console, transient=True)
    tasks: dict[str, TaskID] = {}
    begun = time.monotonic()
    lock = threading.Lock()
    # A console may be told to colour a pipe; a bar that moves the cursor belongs on a terminal alone.
    drawn = console.file.isatty() and not quiet

    def callback(stage: str, done: int, total: int) -> None:
        with lock:
            if drawn and time.monotonic() - begun > PATIENCE:
                bar.start()
                task = tasks.setdefault(stage, TaskID(-1))
                if task == -1:
                    tasks[stage] = bar.add_task(stage, total=total)
                bar.update(tasks[stage], completed=done, total=total)
            elif verbose and not quiet and done == total:
                console.print(f"{stage}: {done} of {total}")

    try:
        yield callback
    finally:
        if bar.live.is_started:
            bar.stop()
