"""Writing an answer to a file: whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from resnet_audit.errors import AuditError

PERMISSIONS = 0o666


def write_whole(path: str, content: str | bytes) -> None:
    """Put `content` where `path` leads, text as UTF-8. A file that is there is replaced at once or stays as it is.

    Raises AuditError with a line that names the path; nothing is left behind then.
    """
    target = Path(os.path.realpath(path))
    data = content.encode() if isinstance(content, str) else content
    try:
        if target.exists() and not target.is_file():
            target.write_bytes(data)  # a device or a pipe; a folder refuses
        else:
            _replace(target, data)
    except OSError as error:
        reason = (error.strerror or "unwritable").lower()
        raise AuditError(f"{path}: {reason}; nothing was written; name a file in a folder that is there") from None


def append_whole(path: str, text: str, *, new: bool) -> None:
    """Put a text at the end of a file, which is made, or emptied, if `new`. Of what fails no part is left there.

    Raises AuditError with a line that names the path.
    """
    try:
        with Path(path).open("wb" if new else "ab", buffering=0) as file:
            before = file.tell() if file.seekable() else None
            try:
                rest = memoryview(text.encode())
                while rest:
                    rest = rest[file.write(rest) :]
            except BaseException:
                if before is not None:
                    file.truncate(before)
                raise
    except OSError as error:
        reason = (error.strerror or "unwritable").lower()
        raise AuditError(f"{path}: {reason}; the answer is incomplete; make room or name another file") from None


def _replace(target: Path, data: bytes) -> None:
    """Write beside the target, then move there, with the permissions that a new file would have."""
    umask = os.umask(0)
    os.umask(umask)
    descriptor, name = tempfile.mkstemp(dir=target.parent)
    beside = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        beside.chmod(target.stat().st_mode if target.exists() else PERMISSIONS & ~umask)
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)
