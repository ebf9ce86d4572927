"""Analyses that another process can import: they count their calls, take their time, or kill their process."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from resnet_audit.report import registered

if TYPE_CHECKING:
    from resnet_audit.checkpoint import Checkpoint
    from resnet_audit.measure import Subject
    from resnet_audit.results import Result


def counted(name: str, subject: Subject, checkpoint: Checkpoint, *, folder: str) -> Result:
    """The registry's result; a file in the folder tells each call."""
    _tell(folder, checkpoint)
    return registered(name, subject, checkpoint)


def deadly(name: str, subject: Subject, checkpoint: Checkpoint, *, folder: str, victim: str, deaths: int) -> Result:
    """The same, but the process dies in the first calls with the checkpoint `victim`."""
    _tell(folder, checkpoint)
    if Path(checkpoint.path).name == victim and calls(folder, victim) <= deaths:
        os.kill(os.getpid(), signal.SIGKILL)
    return registered(name, subject, checkpoint)


def slow(name: str, subject: Subject, checkpoint: Checkpoint, *, folder: str, first: str, others: int) -> Result:
    """The same, but the checkpoint `first` waits until so many others have been here."""
    _tell(folder, checkpoint)
    until = time.monotonic() + 60
    while Path(checkpoint.path).name == first and len(list(Path(folder).iterdir())) <= others:
        assert time.monotonic() < until
        time.sleep(0.01)
    return registered(name, subject, checkpoint)


def _tell(folder: str, checkpoint: Checkpoint) -> None:
    name = f"{Path(checkpoint.path).name}.{os.getpid()}.{time.monotonic_ns()}"
    (Path(folder) / name).touch()


def calls(folder: str | Path, name: str = "") -> int:
    """How many calls there were so far, of one checkpoint or of all."""
    return sum(file.name.startswith(name) for file in Path(folder).iterdir())
