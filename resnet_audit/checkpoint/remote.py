"""Checkpoints that are no local files: standard input, and addresses such as `s3://bucket/net.pt`.

Both are copied to a temporary file, read like any other, and the file is gone afterwards. fsspec knows the protocols;
it is imported when the first address is met, and the package of a protocol is the user's to install. Imports no torch.
"""

from __future__ import annotations

import glob
import os
import re
import shutil
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_audit.checkpoint.content import first_line
from resnet_audit.errors import UnreadableCheckpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

STANDARD_INPUT = "-"
_ADDRESS = re.compile("([A-Za-z][A-Za-z0-9+.-]*)://")
_WEB = frozenset({"http", "https"})
_WHAT = "a remote file"


def is_remote(path: str) -> bool:
    """Whether the path is an address, `PROTOCOL://...`, and no local file has that name."""
    return _ADDRESS.match(path) is not None and not os.path.lexists(path)


def is_spooled(path: str) -> bool:
    """Whether `spooled` makes a copy of what the path names."""
    return path == STANDARD_INPUT or is_remote(path)


def is_of_this_process(path: str) -> bool:
    """Whether another process would find something else there, or nothing: standard input, and `memory://`."""
    return path == STANDARD_INPUT or (is_remote(path) and path.startswith("memory://"))


def remote_matches(pattern: str) -> list[str]:
    """The addresses that a remote pattern matches; none where it is no pattern or the place cannot be listed.

    What the reason is, `spooled` says of the pattern itself, so that other paths are still audited.
    """
    # In the address of a web page a question mark begins the query.
    text = pattern.replace("?", "") if pattern.partition("://")[0] in _WEB else pattern
    if not glob.has_magic(text):
        return []
    try:
        system, path = _system(pattern)
        return [str(system.unstrip_protocol(found)) for found in system.glob(path)]
    except Exception:  # noqa: BLE001 (every protocol has exceptions of its own)
        return []


@contextmanager
def spooled(path: str) -> Iterator[str]:
    """The path of a local file with the bytes of `path`: a temporary one for what is no local file, else `path` itself.

    Raises UnreadableCheckpoint where they cannot be had. One that is raised inside is renamed: the temporary file is
    nobody's concern.
    """
    if not is_spooled(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "checkpoint"
        if path == STANDARD_INPUT:
            _drain(file)
        else:
            _fetch(path, file)
        try:
            yield str(file)
        except UnreadableCheckpoint as error:
            if error.path != str(file):
                raise
            raise UnreadableCheckpoint(path, error.what, error.why, error.todo) from None


def _drain(file: Path) -> None:
    """Copy standard input."""
    try:
        with file.open("wb") as spool:
            shutil.copyfileobj(sys.stdin.buffer, spool)
    except (OSError, AttributeError, ValueError):  # closed, or not made of bytes
        raise UnreadableCheckpoint(
            STANDARD_INPUT, "standard input", "it could not be read or spooled to disk", "save it to a file"
        ) from None


def _fetch(path: str, file: Path) -> None:
    """Copy the remote file piece by piece."""
    protocol = path.partition("://")[0]
    try:
        system, name = _system(path)
        system.get_file(name, str(file))
    except ImportError as error:
        lacking = (getattr(error.__cause__, "name", None) or error.name or protocol).partition(".")[0]
        why = f"{protocol}:// needs the package {lacking}, which is not installed"
        raise UnreadableCheckpoint(path, _WHAT, why, f"install it (pip install {lacking}), or fetch the file") from None
    except FileNotFoundError:
        what = "no file matches this pattern" if glob.has_magic(path) else "no such remote file"
        raise UnreadableCheckpoint(path, what, "there is nothing to read", "check the address") from None
    except Exception as error:  # noqa: BLE001 (every protocol has exceptions of its own)
        why = f"fetching it failed: {first_line(error)}"
        raise UnreadableCheckpoint(path, _WHAT, why, "check the address, the network and the disk") from None
    if not file.is_file():
        raise UnreadableCheckpoint(
            path, "a remote folder", "only single files are fetched", "name its files, or a pattern such as /*.pt"
        )


def _system(path: str) -> tuple[Any, str]:
    """The file system of an address, and the name in it. Raises ImportError, ValueError and what its package raises."""
    from fsspec.core import url_to_fs  # noqa: PLC0415 (slow to import, and only addresses need it)

    found: tuple[Any, str] = url_to_fs(path)
    return found
