"""What a file is, by its content alone: names and suffixes of checkpoints in the wild say nothing.

Reads the head of the file and, for a zip, its list of records. Imports no torch.
"""

from __future__ import annotations

import glob
import os
import stat
import struct
import zipfile
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from resnet_audit.checkpoint.names import quoted
from resnet_audit.errors import UnreadableCheckpoint

if TYPE_CHECKING:
    from collections.abc import Sequence


class Format(StrEnum):
    """The formats that are told apart. Those in SUPPORTED are read; each of the others is refused in its own words."""

    TORCH_ZIP = "torch-zip"
    TORCH_LEGACY = "torch-legacy"
    SAFETENSORS = "safetensors"
    TORCHSCRIPT = "torchscript"
    PT2 = "pt2"
    NPZ = "npz"
    ZIP_OF_CHECKPOINTS = "zip of checkpoints"
    ZIP = "zip"
    ZIP_BROKEN = "broken zip"
    TAR = "tar"
    GZIP = "gzip"
    PICKLE = "pickle"
    NPY = "npy"
    GGUF = "gguf"
    HDF5 = "hdf5"
    LFS_POINTER = "git-lfs pointer"
    HTML = "html"
    TEXT = "text"
    ONNX = "onnx"
    EMPTY = "empty"
    FOLDER_DCP = "distributed checkpoint"
    FOLDER_SHARDED = "sharded checkpoint"
    FOLDER_MODEL = "model folder"
    FOLDER = "folder"
    UNKNOWN = "unknown"


FOLDERS = frozenset({Format.FOLDER_DCP, Format.FOLDER_SHARDED, Format.FOLDER_MODEL})
"""Folders that are one checkpoint."""

SUPPORTED = FOLDERS | {
    Format.TORCH_ZIP,
    Format.TORCH_LEGACY,
    Format.SAFETENSORS,
    Format.TORCHSCRIPT,
    Format.PT2,
    Format.NPZ,
    Format.ONNX,
}
WEIGHT_SUFFIXES = frozenset({".pth", ".pt", ".th", ".ckpt", ".bin", ".pkl", ".safetensors", ".onnx", ".h5"})

_HEAD = 4096
_SAFETENSORS_HEADER_MAX = 100_000_000  # the limit of the safetensors library itself
_LEGACY_MAGIC = bytes.fromhex("8a0a6cfc9c46f920")  # LONG1 of torch's magic number, behind the pickle's PROTO
_MAGIC = {
    b"\x93NUMPY": Format.NPY,
    b"GGUF": Format.GGUF,
    b"\x1f\x8b": Format.GZIP,
    b"\x89HDF": Format.HDF5,
    b"version https://git-lfs": Format.LFS_POINTER,
} | {bytes([0x80, protocol]): Format.PICKLE for protocol in range(2, 6)}
_ONNX_WIRE_TYPES = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}  # of ModelProto
_ONNX_GRAPH = 7


def sniff(path: str) -> Format:
    """The format of the file or folder at `path`.

    Raises UnreadableCheckpoint where there is nothing that can be opened. The path `-` is standard input.
    """
    if path == "-":
        raise UnreadableCheckpoint(
            path, "standard input", "it can be read once and has no format before", "load it, or save it to a file"
        )
    try:
        mode = Path(path).stat().st_mode
        if stat.S_ISDIR(mode):
            return _folder_kind([entry.name for entry in Path(path).iterdir()])
        if not stat.S_ISREG(mode):  # opening a pipe would wait for a writer
            raise UnreadableCheckpoint(
                path, "not a regular file", "a checkpoint is read at several places", "copy it to a file and name that"
            )
        with Path(path).open("rb") as file:
            head = file.read(_HEAD)
            size = os.fstat(file.fileno()).st_size
    except (OSError, ValueError) as error:
        raise _unopened(path, error) from None
    if head.startswith((b"PK\3\4", b"PK\5\6")):
        return _zip_kind(path)
    return _kind(head, size)


def _unopened(path: str, error: OSError | ValueError) -> UnreadableCheckpoint:
    file = Path(path)
    match error:
        case FileNotFoundError() if file.is_symlink():
            target = quoted(str(file.readlink()))
            return UnreadableCheckpoint(
                path, "a broken link", f"its target {target} does not exist", "restore the target or name another file"
            )
        case FileNotFoundError() | NotADirectoryError():
            what = "no file matches this pattern" if glob.has_magic(path) else "no such file"
            return UnreadableCheckpoint(path, what, "there is nothing to read", "check the path")
        case PermissionError():
            return UnreadableCheckpoint(
                path, "a path that may not be read", "permission is denied", "change its permissions or copy it"
            )
        case _:
            reason = quoted(getattr(error, "strerror", None) or str(error)).lower()
            return UnreadableCheckpoint(path, "a path that cannot be opened", reason, "check the path and the disk")


def _kind(head: bytes, size: int) -> Format:
    # The order matters: torch's own files are pickles too, and the first bytes of safetensors are any length at all.
    if not head:
        kind = Format.EMPTY
    elif head[0] == 0x80 and _LEGACY_MAGIC in head[:32]:
        kind = Format.TORCH_LEGACY
    elif head[257:262] == b"ustar":
        kind = Format.TAR
    elif head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= _SAFETENSORS_HEADER_MAX:
        kind = Format.SAFETENSORS
    elif magic := next((magic for magic in _MAGIC if head.startswith(magic)), None):
        kind = _MAGIC[magic]
    elif _looks_like_onnx(head, size):
        kind = Format.ONNX
    else:
        kind = _text_kind(head)
    return kind


def _text_kind(head: bytes) -> Format:
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<"):
        return Format.HTML
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if len(head) < _HEAD or error.start < len(head) - 3:  # else the head was cut within a character
            return Format.UNKNOWN
        text = head[: error.start].decode("utf-8")
    return Format.TEXT if all(c.isprintable() or c in "\t\r\n\f\ufeff" for c in text) else Format.UNKNOWN


def _looks_like_onnx(head: bytes, size: int) -> bool:
    """Whether the bytes read as the fields of an ONNX ModelProto, as far as the head of the file shows."""
    at, seen = 0, set[int]()
    if head[:1] != b"\x08":
        return False
    while at < len(head):
        tag, at = _varint(head, at)
        field, wire = tag >> 3, tag & 7
        value, at = _varint(head, at)
        if _ONNX_WIRE_TYPES.get(field) != wire or at < 0:
            return False
        at += value if wire else 0
        if at > size:
            return False
        seen.add(field)
    return _ONNX_GRAPH in seen or (size > len(head) and len(seen) > 1)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """(value, position behind it) of a protobuf varint; position -1 where there is none."""
    value = 0
    for shift in range(0, 70, 7):
        if not 0 <= at < len(data):
            break
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
    return 0, -1


def _zip_kind(path: str) -> Format:
    try:
        names = record_names(path)
    except (zipfile.BadZipFile, OSError, ValueError, struct.error, NotImplementedError, OverflowError):
        return Format.ZIP_BROKEN
    inner = [PurePosixPath(*PurePosixPath(name).parts[1:]) for name in names]
    places = {str(place) for place in inner}
    kind = Format.ZIP
    if "constants.pkl" in places or any(place.parts[:1] == ("code",) for place in inner):
        kind = Format.TORCHSCRIPT
    elif {"archive_format", "serialized_exported_program.json"} & {*names, *places} or any(
        place.match("models/*.json") for place in inner
    ):
        kind = Format.PT2
    elif "data.pkl" in places and len({name.partition("/")[0] for name in names}) == 1:
        # One folder only: torch takes that of whatever record comes first, and could read another pickle than we check.
        kind = Format.TORCH_ZIP
    elif names and all(name.endswith(".npy") for name in names):
        kind = Format.NPZ
    elif checkpoints_among(names):
        kind = Format.ZIP_OF_CHECKPOINTS
    return kind


def record_names(path: str) -> list[str]:
    """The names of the records of a zip file, as its central directory gives them. Raises zipfile.BadZipFile."""
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def checkpoints_among(names: Sequence[str]) -> list[str]:
    """Those of the record `names` that a person would take for checkpoints."""
    return [name for name in names if PurePosixPath(name).suffix.lower() in WEIGHT_SUFFIXES]


def _folder_kind(names: Sequence[str]) -> Format:
    if ".metadata" in names:
        return Format.FOLDER_DCP
    if any(name.endswith(".index.json") for name in names):
        return Format.FOLDER_SHARDED
    if "config.json" in names:
        return Format.FOLDER_MODEL
    return Format.FOLDER
