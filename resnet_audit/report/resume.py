"""Finished results in a file, so that a run that was interrupted goes on where it was.

File      a line a result, as of the format jsonl, with one more key: `run` {`key`, `beside`}. A line is written at once
          and to the disk, so a crash can cut off the last one only: that one is taken away and computed again.
Key       SHA-256 of the content of the checkpoint and of everything else that changes numbers: command, analyses, all
          settings, threads, versions, and the content of the files that settings name.
Left out  what failed: it is tried again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NoReturn

from resnet_audit.checkpoint.digest import content_of
from resnet_audit.checkpoint.remote import spooled
from resnet_audit.errors import AuditError, UsageError
from resnet_audit.report.read import read_document
from resnet_audit.report.report import empty

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from resnet_audit.report.report import One, Work
    from resnet_audit.results import Document

    Line = Callable[[Document], str]
    """A document as one line of JSON, its end included; keys that are not of the document come last."""

OPENING = b'{"schema_version": "'
"""How every line begins."""

PACKAGES = ("resnet-audit", "torch", "numpy", "scipy")
"""Whose versions change numbers."""


class Kept:
    """The results in an open file, and the digest of this run. A result of another run stays there, for that one."""

    def __init__(self, path: str, descriptor: int, run: str, shell: Document, line: Line) -> None:
        self.path, self.descriptor, self.run, self.shell, self.line = path, descriptor, run, shell, line
        self._lines = _lines_of(path, descriptor)

    @property
    def keys(self) -> frozenset[str]:
        """The keys of all results in the file."""
        return frozenset(self._lines)

    def settled(self, one: One) -> One:
        """The result, which is in the file from now on, or the one that was there. Failures are not kept.

        Raises UnreadableCheckpoint if the file has no result of ours after all, AuditError where it cannot be written.
        """
        if one.key is None or one.failure is not None:
            return one
        if not one.held:
            self._append({**self.shell, "checkpoints": [one.entry], "run": {"key": one.key, "beside": one.beside}})
            return one
        line = self._lines[one.key]
        (entry,) = read_document(line.decode(), f"--resume {self.path}")["checkpoints"]
        entry["path"] = one.entry["path"]
        return replace(one, entry=entry, beside=json.loads(line)["run"]["beside"])

    def _append(self, document: Any) -> None:  # noqa: ANN401 - a document and one key more
        rest = self.line(document).encode()
        try:
            while rest:
                rest = rest[os.write(self.descriptor, rest) :]
            os.fsync(self.descriptor)
        except OSError as error:
            why = (error.strerror or "unwritable").lower()
            raise AuditError(
                f"--resume {self.path}: {why}; results cannot be kept; make room or name another file"
            ) from None


@contextmanager
def kept(path: str, command: str, work: Work, line: Line) -> Iterator[Kept]:
    """The results in the file at `path`, which is made if it is not there; nobody else may use it meanwhile.

    Raises UsageError for a file that holds something else, that cannot be opened or that another run uses.
    """
    run = run_of(command, work)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    except OSError as error:
        _refuse(path, (error.strerror or "unwritable").lower(), "name a file in a folder that is there")
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _refuse(path, "another run keeps its results there", "wait for it or name another file")
        except OSError:
            pass  # a file system without locks
        yield Kept(path, descriptor, run, empty(command, work.settings), line)
    finally:
        os.close(descriptor)


def run_of(command: str, work: Work) -> str:
    """The digest of everything but the checkpoint that changes its result. Raises UsageError where nobody can tell."""
    settings = work.settings
    if settings.arch is not None:
        raise UsageError(
            "--resume and --arch contradict each other; nothing tells whether its code is still the same; give one"
        )
    said = {
        "command": command,
        "analyses": work.analyses,
        "settings": asdict(settings),
        "threads": settings.thread_count,
        "versions": {package: version(package) for package in PACKAGES},
        "files": [_state_of(path) for path in (settings.data, settings.patterns, settings.reference)],
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _state_of(path: str | None) -> object:
    """What tells one content of the file, or of the folder, from another; None where it cannot be read."""
    if path is None:
        return None
    if os.path.isdir(path):  # noqa: PTH112 - a path stays as given
        with os.scandir(path) as entries:
            return sorted((entry.name, entry.stat().st_size, entry.stat().st_mtime_ns) for entry in entries)
    try:
        with spooled(path) as file:
            return content_of(file)
    except (AuditError, OSError):
        return None


def _lines_of(path: str, descriptor: int) -> dict[str, bytes]:
    """The line of every key; a last line that was cut off is taken away. Raises UsageError for anything else."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        _refuse(path, "no regular file", "name a file")
    with os.fdopen(os.dup(descriptor), "rb") as file:
        lines = file.readlines()
    cut = lines.pop() if lines and not lines[-1].endswith(b"\n") else b""
    found = {_key_of(path, number, line): line for number, line in enumerate(lines, start=1)}
    if not (cut.startswith(OPENING) or OPENING.startswith(cut)):
        _refuse(path, f"line {len(lines) + 1} is no result of --resume", "name another file")
    if cut:
        os.ftruncate(descriptor, sum(map(len, lines)))
    return found


def _key_of(path: str, number: int, line: bytes) -> str:
    try:
        key = json.loads(line)["run"]["key"]
    except (ValueError, LookupError, TypeError, RecursionError):
        key = None
    if isinstance(key, str) and line.startswith(OPENING):
        return key
    return _refuse(path, f"line {number} is no result of --resume", "name another file")


def _refuse(path: str, why: str, todo: str) -> NoReturn:
    raise UsageError(f"--resume {path}: {why}; nothing was written to it; {todo}")
