"""What a checkpoint is, as a number: SHA-256 of its bytes, without reading a tensor. Imports no torch."""

from __future__ import annotations

import hashlib
import mmap
from pathlib import Path

from resnet_audit.checkpoint.sniff import Format, sniff


def sha256_of(path: str) -> str:
    """SHA-256 of the bytes of a file; of a folder, of the sorted lines `<sha256>  <name>` of all files in it."""
    if not Path(path).is_dir():
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return _of_files([entry for entry in Path(path).iterdir() if entry.is_file()])


def content_of(path: str) -> str:
    """SHA-256 of all that `load` reads for the checkpoint at `path`: `sha256_of`, and weights outside an ONNX file.

    Raises UnreadableCheckpoint where there is nothing that can be opened.
    """
    if sniff(path) is not Format.ONNX:
        return sha256_of(path)
    return _of_files([Path(path), *_named_beside(Path(path))])


def _of_files(files: list[Path]) -> str:
    lines = sorted(f"{sha256_of(str(file))}  {file.name}\n" for file in files)
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


def _named_beside(file: Path) -> list[Path]:
    """The files of its folder whose names stand anywhere in a file: those it can refer to, and perhaps a few more."""
    beside = [entry for entry in file.parent.iterdir() if entry.is_file() and entry.name != file.name]
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return [entry for entry in beside if content.find(entry.name.encode(errors="surrogateescape")) >= 0]
