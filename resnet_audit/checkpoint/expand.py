"""From the MODEL arguments of a command line to paths: files, folders, patterns, addresses. Imports no torch."""

from __future__ import annotations

import glob
import os
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from resnet_audit.checkpoint.names import listed
from resnet_audit.checkpoint.remote import is_remote, remote_matches
from resnet_audit.checkpoint.sniff import SUPPORTED, Format, record_names, sniff
from resnet_audit.errors import UnreadableCheckpoint, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

_DATA = frozenset({"inputs.npy", "labels.npy"})
"""The records of an .npz file of data, as `--data` reads it."""


def expand(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """(paths, notices): the files that `arguments` name, as they were given, and what a person should know of them.

    Without arguments: the only checkpoint of the current folder; raises UsageError if there is not exactly one. What is
    named is not judged: a file, `-`, a pattern without a match or a folder without a checkpoint is itself a path, and
    `load` says what is wrong with it, so that the others are still audited.
    """
    if not arguments:
        return [_only_checkpoint_here()], []
    paths: list[str] = []
    notices: list[str] = []
    for argument in arguments:
        for path in _matches(argument):
            found, notice = _of_folder(path) if Path(path).is_dir() else ([path], [])
            paths += found
            notices += notice
    return paths, notices


def candidates(path: str) -> tuple[list[str], int]:
    """(checkpoints, others): the checkpoints in the folder `path`, in natural order, and the number of other files.

    Only files in it count, not those below it, and by their content: data beside the checkpoints are none of them.
    Raises UnreadableCheckpoint where it may not be listed.
    """
    sniff(path)  # the sentence for a folder that cannot be listed
    with os.scandir(path) as entries:
        files = sorted((entry.name for entry in entries if not entry.is_dir()), key=natural_key)
    inside = [name if path == os.curdir else os.path.join(path, name) for name in files]  # noqa: PTH118 (a path stays as given)
    found = [file for file in inside if _is_supported(file)]
    return found, len(files) - len(found)


def natural_key(text: str) -> tuple[list[str | int], str]:
    """A sort key that puts epoch2 before epoch10: runs of digits compare as numbers."""
    # Splitting at a group alternates text and digits, so that the same place always compares the same type.
    return [int(part) if i % 2 else part for i, part in enumerate(re.split("([0-9]+)", text))], text


def _matches(argument: str) -> list[str]:
    if is_remote(argument):
        return sorted(remote_matches(argument), key=natural_key) or [argument]
    if not glob.has_magic(argument) or os.path.lexists(argument):
        return [argument]
    found = glob.glob(argument, recursive=True)  # noqa: PTH207 (Path.glob rewrites the path)
    return sorted(found, key=natural_key) or [argument]


def _of_folder(path: str) -> tuple[list[str], list[str]]:
    try:
        if sniff(path) is not Format.FOLDER:
            return [path], []  # one checkpoint in several files: refused, or read, as a whole
        found, others = candidates(path)
    except UnreadableCheckpoint:
        return [path], []
    if not found or not others:
        return found or [path], []
    return found, [
        f"{path}: {others} other {'file was' if others == 1 else 'files were'} passed over: not a checkpoint"
    ]


def _only_checkpoint_here() -> str:
    found, _ = candidates(os.curdir)
    match found:
        case [path]:
            return path
        case []:
            raise UsageError("no MODEL was given and the current folder holds no checkpoint; name a file")
        case _:
            there = f"the current folder holds {len(found)} checkpoints: {listed(found, 10)}"
            raise UsageError(f"no MODEL was given and {there}; name one")


def _is_supported(path: str) -> bool:
    try:
        kind = sniff(path)
        return kind in SUPPORTED and not (kind is Format.NPZ and _DATA.issuperset(record_names(path)))
    except (UnreadableCheckpoint, OSError, zipfile.BadZipFile):  # the last two: it went away in between
        return False
